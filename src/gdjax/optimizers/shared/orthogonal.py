"""What Muon and related methods share: a polar factor for matrices, Adam for other parameters.

A method says what it orthogonalizes (by default a momentum) and what it does with the polar factor.
A step has three passes: the first rule over the leaves, the polar kernel over buckets of equal
matrices, the second rule over the leaves. The first two leave other parameters unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.base import Optimizer, State, UpdateFn
from gdjax.core.checks import NONNEGATIVE, POSITIVE, SHARE, UNIT, check_choice
from gdjax.core.compiled import compiled
from gdjax.core.dealing import Dealing, dealing, dealing_here, sharded_like
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.hyper import Schedule, leaf_values, schedule
from gdjax.core.lift import keywords_of, leafwise, mask_decay, rule_name
from gdjax.core.numerics import cast_like, compute_dtype, real_dtype, upcast
from gdjax.core.types import FloatDType, Hyperparam, Number, Rule, Updates
from gdjax.linalg.buckets import map_buckets, map_dealt
from gdjax.linalg.matrices import Axes
from gdjax.linalg.polar import PRECONDITIONINGS, Kernel, ns_table, polar_kernel
from gdjax.optimizers.adam import Moments, adam_rule, corrected_mean
from gdjax.optimizers.shared.slots import matrix_rows, with_slots

Nesterov: TypeAlias = bool | Literal["corrected"]
Scale: TypeAlias = Literal["width", "spectral"]
NESTEROV = (True, False, "corrected")
SCALES = (*get_args(Scale), None)

# the numbers of the methods, of which each has some, and the ranges that are not standard
NUMBERS = (
    *("learning_rate", "beta", "b1", "b2", "eps", "weight_decay", "consistent_rms", "radius"),
    *("adam_learning_rate", "adam_b1", "adam_b2", "adam_eps_root", "adam_weight_decay"),
    *("angular", "shampoo_beta", "precondition_frequency"),
)
RANGES = dict(
    beta=UNIT,
    consistent_rms=POSITIVE._replace(optional=True),
    radius=POSITIVE,
    adam_learning_rate=NONNEGATIVE,
    adam_b1=UNIT,
    adam_b2=UNIT,
    adam_eps_root=NONNEGATIVE,
    adam_weight_decay=NONNEGATIVE._replace(optional=True),
)


class Orthogonal(NamedTuple):
    """What these methods remember of one parameter."""

    mu: Array | None  # momentum of a matrix, Adam's mean of others, shaped like the parameter
    nu: Array | None  # Adam's mean square; of a matrix what the method says, or None
    axes: Axes | None  # which axes make matrices (static, no bytes); None for a parameter of Adam

    def branch(self, hyperparams: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return whether a parameter is a matrix or one of Adam, with the numbers of that."""
        return branch_of(self.axes, self.nu, hyperparams)


def branch_of(
    axes: Axes | None, nu: Array | None, hyperparams: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return how a parameter with these slots is treated, and the numbers of that."""
    rest = {k: v for k, v in hyperparams.items() if not k.startswith("adam_")}
    if axes is not None:
        return "matrix", rest
    if nu is None:
        return "no matrix", rest
    own = {k[5:]: v for k, v in hyperparams.items() if k.startswith("adam_")}
    if own.get("learning_rate") is None:
        own["learning_rate"] = rest.get("learning_rate")
    return "adam", own | {"eps": rest.get("eps")}


@schedule
class Table(Schedule):
    """An array as a hyperparameter: the same at every count."""

    one_number: ClassVar[bool] = False
    values: ArrayLike

    def __call__(self, count: Number) -> ArrayLike:
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


def accumulated(grad, slots, param, count, **rest):
    """Return the sum of a matrix's momentum and gradient."""
    if slots.axes is None:
        return grad, slots
    mu = slots.mu + grad
    return mu, slots._replace(mu=mu)


def scaled(o: Array, axes: Axes, scale: Scale | None, consistent_rms: Array | None = None) -> Array:
    """Return each matrix times its scale, by name or for a consistent RMS; see `muon`."""

    def one(matrix: Array) -> Array:
        fan_in, fan_out = matrix.shape[-2:]
        if consistent_rms is not None:
            return consistent_rms * max(fan_in, fan_out) ** 0.5 * matrix
        if scale == "width":
            return max(1.0, fan_out / fan_in) ** 0.5 * matrix
        return (fan_out / fan_in) ** 0.5 * matrix if scale == "spectral" else matrix

    return axes.map(one, o)


@functools.lru_cache(maxsize=256)
def or_adam(matrix_rule: Rule) -> Rule:
    """Return the rule that descends along `matrix_rule` for matrices, along Adam for the rest.

    `matrix_rule(o, slots, count, *, <numbers>, <static>)` returns (direction, slots).
    """
    wanted = keywords_of(matrix_rule).names

    @functools.wraps(matrix_rule)  # its signature too: the rule asks for no extras
    def rule(o, slots, param, count, *, learning_rate, weight_decay, eps, **rest):
        numbers = {**rest, "learning_rate": learning_rate, "eps": eps}
        if slots.axes is None:
            return adam_step(rule_name(matrix_rule), o, slots, param, count, **numbers)
        dir_, slots = matrix_rule(o, slots, count, **{k: numbers[k] for k in wanted})
        return -learning_rate * _decayed(rule_name(matrix_rule), dir_, weight_decay, param), slots

    return rule


def adam_step(
    name: str,
    grad: Array,
    slots: Any,
    param: Array | None,
    count: Array,
    *,
    learning_rate: Array,
    adam_learning_rate: Array | None,
    adam_b1: Array,
    adam_b2: Array,
    adam_eps_root: Array,
    adam_weight_decay: Array | None,
    eps: Array,
    nesterov: Nesterov,
    **rest: Any,
) -> tuple[Array, Any]:
    """Return the update of a parameter that is no matrix, and its slots; `name` is for errors."""
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    moments = Moments(slots.mu, slots.nu)
    numbers = dict(b1=adam_b1, b2=adam_b2, eps=eps, eps_root=adam_eps_root)
    dir_, moments = adam_rule(grad, moments, param, count, nesterov=bool(nesterov), **numbers)
    slots = slots._replace(mu=moments.mu, nu=moments.nu)
    return -rate * _decayed(name, dir_, adam_weight_decay, param), slots


def _decayed(name: str, dir_: Array, weight_decay: Array | None, param: Array | None) -> Array:
    if weight_decay is None:
        return dir_
    if param is None:
        raise ValueError(f"{name} with weight_decay needs {NEEDS_PARAMS}")
    return dir_ + weight_decay * param


def only_momentum(
    param: Array,
    axes: Axes | None,
    index: int = 0,
    mu_dtype: FloatDType = None,
    adam: bool = False,
) -> Orthogonal:
    """Return the slots of a method that keeps a momentum of matrices; with Adam's for others."""
    dtype = compute_dtype(param)
    used = adam or axes is not None
    mu = jnp.zeros_like(param, dtype=mu_dtype or dtype) if used else None
    adams = adam and axes is None
    return Orthogonal(mu, jnp.zeros_like(param, dtype=real_dtype(dtype)) if adams else None, axes)


def orthogonalized(
    rule: Rule,
    arguments: dict[str, Any],
    *,
    name: str,
    slots: Callable[..., Any],
    first: Rule = momentum,
    around: Callable[[Kernel], Kernel] | None = None,
    kind: type[Any] = Orthogonal,
    **static: Any,
) -> Optimizer:
    """Return the optimizer of a method that orthogonalizes.

    Args:
      rule: `rule(o, slots, param, count, *, <numbers>, <static>)` returns `(update, slots)` for a
        leaf whose gradient became `o`; with `**rest` for what it does not need.
      arguments: what the factory was called with, its `locals()`; see `muon` for their meaning.
      name: the factory's name, for errors.
      slots: `slots(param, axes, index)` returns the slots of one parameter.
      first: the rule before the kernel, of the same form; what it returns is orthogonalized.
      around: `around(kernel)` returns the kernel to use; cached, so that it is traced once.
      kind: the class of the slots, with `mu`, `nu` and `axes`.
      **static: static arguments of both rules.
    """
    start = arguments["preconditioning"]
    check_choice(f"{name}(preconditioning=...)", start, PRECONDITIONINGS)
    if "nesterov" in static:
        check_choice(f"{name}(nesterov=...)", static["nesterov"], NESTEROV)
    kernel = polar_kernel(start, None, arguments["ns_dtype"])
    kernel = around(kernel) if around else kernel
    numbers = numbers_of(arguments) | {"ns_coeffs": table_of(name, arguments)}
    before, after = (leafwise(r, None, numbers, name=name, **static) for r in (first, rule))
    over = dealing(f"{name}(mesh=...)", arguments["mesh"])
    update = _update(name, before.update, after.update, kernel, over)
    optimizer = Optimizer(before.init, update)
    return on_matrices(optimizer, arguments, name, slots, splits=True, kind=kind)


def table_of(name: str, arguments: dict[str, Any]) -> Table:
    """Return the coefficients of the kernel as a hyperparameter."""
    return Table(ns_table(name, arguments["ns_coeffs"], arguments["ns_steps"]))


def numbers_of(arguments: dict[str, Any]) -> dict[str, Hyperparam | None]:
    """Return the hyperparameters among the arguments of a factory."""
    return {k: arguments[k] for k in NUMBERS if k in arguments}


def on_matrices(
    optimizer: Optimizer,
    arguments: dict[str, Any],
    name: str,
    slots: Callable[..., Any],
    splits: bool = False,
    kind: type[Any] = Orthogonal,
) -> Optimizer:
    """Return a leafwise optimizer with slots that depend on the axes of matrices, and its mask."""
    if "scale" in arguments:
        check_choice(f"{name}(scale=...)", arguments["scale"], SCALES)
    (key,) = (k for k in arguments if k.endswith("weight_dimension_numbers"))
    rows = matrix_rows(f"{name}({key}=...)", arguments[key], slots, splits)
    optimizer = with_slots(optimizer, kind, rows)
    return mask_decay(optimizer, arguments.get("weight_decay_mask"), argument="weight_decay_mask")


def check_share(what: str, value: object) -> None:
    """Raise unless a share that decides shapes is a Python number in (0, 1]."""
    if not isinstance(value, int | float) or not SHARE.holds(value):
        raise ValueError(f"{what} must be a Python number {SHARE.text}, got {value!r}.")


@functools.lru_cache(maxsize=1024)
def _update(
    name: str, before: UpdateFn, after: UpdateFn, kernel: Kernel, over: Dealing | None
) -> UpdateFn:
    def update(grads, state, params=None, **extra):
        grads = jax.tree.map(jnp.asarray, grads)
        x, mid = before(upcast(grads), state, params)
        dealt = dealing_here(over)
        o = _polar_factors(x, state, kernel, dealt)
        if dealt is not None:
            o, mid = stacks_sharded_as_before(o, mid, grads if params is None else params, state)
        updates, new = after(o, mid._replace(count=state.count), params)
        return cast_like(updates, grads), new

    return compiled(update, name)


def _polar_factors(tree: Updates, state: State, kernel: Kernel, over: Dealing | None) -> Updates:
    """Return the tree with the polar factor in place of each matrix."""
    leaves, treedef = jax.tree.flatten(tree)
    axes = treedef.flatten_up_to(state.slots.axes)
    numbers = (state.hyperparams[k] for k in ("ns_coeffs", "eps"))
    columns = [leaf_values("eps=...", v, tree, state.count) for v in numbers]
    shared = list(zip(*columns, strict=True))
    stacks, uses = [], []
    for x, a, more in zip(leaves, axes, shared, strict=True):
        for piece in a.pieces(x) if a else []:
            wide = piece.mT if _is_tall(piece) else piece
            stacks.append(wide.reshape(-1, *wide.shape[-2:]))
            uses.append(more)
    keys = [tuple(map(id, more)) for more in uses]
    if over is None:
        factors = iter(map_buckets(kernel, stacks, keys, uses, stacks=True))
    else:
        factors = iter(map_dealt(kernel, stacks, keys, uses, over))

    def factor(piece: Array) -> Array:
        o = next(factors)
        return (o.mT if _is_tall(piece) else o).reshape(piece.shape)

    return treedef.unflatten(
        [a.map(factor, x) if a else x for x, a in zip(leaves, axes, strict=True)]
    )


def stacks_sharded_as_before(
    o: Updates, mid: State, like: Updates, state: State
) -> tuple[Updates, State]:
    """Return polar factors and momenta of stacks sharded as parameters and momenta were."""
    leaves, treedef = jax.tree.flatten(o)
    flat = treedef.flatten_up_to
    axes, mu = flat(state.slots.axes), list(flat(mid.slots.mu))
    for i, (x, was) in enumerate(zip(flat(like), flat(state.slots.mu), strict=True)):
        if axes[i] and axes[i].batch:
            leaves[i], mu[i] = sharded_like(leaves[i], x), sharded_like(mu[i], was)
    mid = mid._replace(slots=mid.slots._replace(mu=treedef.unflatten(mu)))
    return treedef.unflatten(leaves), mid


def _is_tall(matrix: Array) -> bool:
    return matrix.shape[-2] > matrix.shape[-1]
