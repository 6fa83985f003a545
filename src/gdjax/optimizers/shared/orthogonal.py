"""What Muon and its relatives share: matrices go through the polar kernel, the rest to Adam.

A method says what it orthogonalizes (here: a momentum) and what it makes of the polar factor. The
step is three passes: the first rule over the leaves, the kernel over buckets of like matrices, the
second rule over the leaves. Leaves that are no matrices pass the first two as they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import as_float_leaves, check_choice
from gdjax.core.hyper import Schedule, leaf_values, schedule, value_at
from gdjax.core.lift import NEEDS_PARAMS, compiled, init_hyperparams, leafwise, mask_decay
from gdjax.core.numerics import cast_like, compute_dtype, real_dtype, upcast
from gdjax.linalg.buckets import map_buckets
from gdjax.linalg.matrices import Axes, matrix_axes
from gdjax.linalg.polar import PRECONDITIONINGS, ns_table, polar_kernel
from gdjax.optimizers.adam import Moments, adam_rule, corrected_mean

NESTEROV = (True, False, "corrected")
SCALES = ("width", "spectral", None)


class Orthogonal(NamedTuple):
    """What a method of this family remembers of one parameter."""

    mu: Array | None  # momentum of a matrix, Adam's mean of others, shaped like the parameter
    nu: Array | None  # Adam's mean square; of a matrix what the method says, or None
    axes: Axes | None  # which axes make matrices (structure, no bytes); None for Adam's share


@schedule
class Table(Schedule):
    """An array as a hyperparameter: the same at every count."""

    values: Any

    def __call__(self, count: Any) -> Array:
        """Return the array."""
        return self.values


def momentum(grad, slots, param, count, *, beta, nesterov, **rest):
    """Return the running mean of a matrix's gradients, or the mean as the next step would see it.

    beta m + g, the other common form, is proportional to it and so gives the same polar factor.
    """
    if slots.axes is None:
        return grad, slots
    mu = beta * slots.mu + (1 - beta) * grad
    if nesterov is True:
        ahead = beta * mu + (1 - beta) * grad
    else:  # as optax; without Nesterov the correction matters to `eps` only
        ahead = corrected_mean(mu, grad, count, beta, nesterov == "corrected")
    return ahead, slots._replace(mu=mu)


def scaled(o: Array, axes: Axes, scale: str | None, consistent_rms: Any) -> Array:
    """Return each matrix times its scale, by name or for a consistent RMS; see `muon`."""

    def one(matrix):
        fan_in, fan_out = matrix.shape[-2:]
        if consistent_rms is not None:
            return consistent_rms * max(fan_in, fan_out) ** 0.5 * matrix
        if scale == "width":
            return max(1.0, fan_out / fan_in) ** 0.5 * matrix
        return (fan_out / fan_in) ** 0.5 * matrix if scale == "spectral" else matrix

    return axes.map(one, o)


def orthogonalized(
    direction: Callable,
    numbers: dict[str, Any],
    *,
    name: str,
    ns_coeffs: Any,
    ns_steps: int,
    preconditioning: str,
    ns_dtype: Any,
    dimension_numbers: Any,
    mask: Any = None,
    slots: Callable,
    first: Callable = momentum,
    around: Callable | None = None,
    **static: Any,
) -> Optimizer:
    """Lift a method of this family to an optimizer of trees.

    Args:
      direction: `direction(o, slots, param, count, *, <numbers>, <static>)` returns
        `(update, slots)` for a leaf whose gradient became `o`; with `**rest` for the numbers and
        statics that it does not need.
      numbers: the hyperparameters of both rules; "eps" must be among them.
      name: the factory's name, for errors.
      ns_coeffs: see `polar`.
      ns_steps: see `polar`.
      preconditioning: see `polar`.
      ns_dtype: see `polar`.
      dimension_numbers: which leaves are matrices, see `muon`.
      mask: which leaves decay.
      slots: `slots(param, axes, index)` returns an `Orthogonal`.
      first: what is orthogonalized, a rule like `direction`.
      around: kernel -> kernel, remembered: what else to do with one matrix [m, n], m <= n.
      **static: the structure of both rules.
    """
    check_choice(f"{name}(preconditioning=...)", preconditioning, PRECONDITIONINGS)
    if "nesterov" in static:
        check_choice(f"{name}(nesterov=...)", static["nesterov"], NESTEROV)
    if "scale" in static:
        check_choice(f"{name}(scale=...)", static["scale"], SCALES)
    table = Table(ns_table(name, ns_coeffs, ns_steps))
    kernel = polar_kernel(preconditioning, None, ns_dtype)
    kernel = around(kernel) if around else kernel
    passes = [leafwise(rule, **static).update for rule in (first, direction)]
    init = init_with(slots, {**numbers, "ns_coeffs": table}, dimension_numbers, name, splits=True)
    return mask_decay(Optimizer(init, _update(name, *passes, kernel)), mask)


def only_momentum(param, axes, index=0, mu_dtype=None, adam: bool = False) -> Orthogonal:
    """Return the slots of a method that remembers a momentum of matrices; with Adam's of others."""
    dtype = compute_dtype(param)
    used = adam or axes is not None
    mu = jnp.zeros_like(param, dtype=mu_dtype or dtype) if used else None
    adams = adam and axes is None
    return Orthogonal(mu, jnp.zeros_like(param, dtype=real_dtype(dtype)) if adams else None, axes)


def init_with(
    slots: Callable, numbers: dict, dimension_numbers: Any, name: str, splits: bool = False
) -> Callable:
    """Return the `init` of an optimizer whose slots know which axes make matrices.

    Args:
      slots: `slots(param, axes, index)` returns an `Orthogonal`.
      numbers: the hyperparameters.
      dimension_numbers: see `muon`.
      name: the factory's name, for errors.
      splits: whether cut matrices are allowed.
    """
    return functools.partial(_init, slots, numbers, dimension_numbers, name, splits)


def _init(slots, numbers, spec, name, splits, params) -> State:
    leaves, treedef = as_float_leaves(f"{name}: the parameters", params)
    hyper = init_hyperparams(name, numbers, params)
    axes = matrix_axes(f"{name}(...weight_dimension_numbers=...)", spec, params, splits)
    rows = [slots(x, a, i) for i, (x, a) in enumerate(zip(leaves, axes, strict=True))]
    columns = [treedef.unflatten([row[i] for row in rows]) for i in range(3)]
    return State(jnp.zeros((), jnp.int32), hyper, Orthogonal(*columns))


@functools.lru_cache(maxsize=1024)
def _update(name: str, first: Callable, second: Callable, kernel: Callable) -> Callable:
    def update(grads, state, params=None, **extra):
        wide = upcast(jax.tree.map(jnp.asarray, grads))
        ahead, mid = first(wide, state, params)
        updates, new = second(_polar_leaves(ahead, state, kernel), _after(mid, state), params)
        return cast_like(updates, jax.tree.map(jnp.asarray, grads)), new

    return compiled(update, name)


def _after(mid: State, before: State) -> State:
    return mid._replace(count=before.count)


def _polar_leaves(tree: Any, state: State, kernel: Callable) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    axes = treedef.flatten_up_to(state.slots.axes)
    numbers = [value_at(state.hyperparams[k], state.count) for k in ("ns_coeffs", "eps")]
    shared = list(zip(*(leaf_values("eps", v, tree) for v in numbers), strict=True))
    stacks, uses = [], []
    for x, a, more in zip(leaves, axes, shared, strict=True):
        for piece in a.pieces(x) if a else []:
            wide = piece if piece.shape[-2] <= piece.shape[-1] else piece.mT
            stacks.append(wide.reshape(-1, *wide.shape[-2:]))
            uses.append(more)
    keys = [tuple(map(id, more)) for more in uses]
    out = iter(map_buckets(kernel, stacks, keys, uses, stacks=True))

    def back(piece):
        o = next(out)
        o = o if piece.shape[-2] <= piece.shape[-1] else o.mT
        return o.reshape(piece.shape)

    return treedef.unflatten(
        [a.map(back, x) if a else x for x, a in zip(leaves, axes, strict=True)]
    )


@functools.lru_cache(maxsize=256)
def or_adam(matrix_rule: Callable) -> Callable:
    """Return the rule that descends along `matrix_rule` for matrices, along Adam for the rest.

    `matrix_rule(o, slots, count, *, <numbers>, <static>)` returns (direction, slots).
    """
    wanted = [
        p.name
        for p in inspect.signature(matrix_rule).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]

    @functools.wraps(matrix_rule)
    def rule(
        o,
        slots,
        param,
        count,
        *,
        learning_rate,
        weight_decay,
        adam_learning_rate,
        adam_b1,
        adam_b2,
        adam_eps_root,
        adam_weight_decay,
        eps,
        nesterov,
        **rest,
    ):
        if slots.axes is None:
            rate = learning_rate if adam_learning_rate is None else adam_learning_rate
            moments = Moments(slots.mu, slots.nu)
            numbers = dict(b1=adam_b1, b2=adam_b2, eps=eps, eps_root=adam_eps_root)
            dir_, moments = adam_rule(o, moments, param, count, nesterov=bool(nesterov), **numbers)
            slots = slots._replace(mu=moments.mu, nu=moments.nu)
            weight_decay = adam_weight_decay
        else:
            rate, rest = learning_rate, {**rest, "eps": eps}
            dir_, slots = matrix_rule(o, slots, count, **{k: rest[k] for k in wanted})
        if weight_decay is not None:
            if param is None:
                name = matrix_rule.__name__.strip("_")
                raise ValueError(f"{name} with weight_decay needs {NEEDS_PARAMS}")
            dir_ = dir_ + weight_decay * param
        return -rate * dir_, slots

    return rule
