"""Proximal gradient descent, FISTA and projected gradient: f smooth, g with a proximal operator.

Beck & Teboulle (2009), https://doi.org/10.1137/080716542, with the restart of O'Donoghue & Candes
(2015), https://arxiv.org/abs/1204.3982 (gradient scheme), and the step sizes that may grow of
Scheinberg, Goldfarb & Bai (2014), https://doi.org/10.1007/s10208-014-9189-9.
Paper -> here: t_k -> momentum, mu_k or 1 / L -> learning_rate, y_k -> the parameters that are
trained, x_k -> `gdjax.eval_params(state, params)`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import (
    AT_LEAST_ONE,
    OPEN_UNIT,
    POSITIVE,
    WHOLE,
    as_float_leaves,
    checked,
    declared_ranges,
    remember_ranges,
)
from gdjax.core.fits import NEEDS_PARAMS, loss_given
from gdjax.core.hyper import as_array, as_hyper
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like
from gdjax.core.placement import replicated_like
from gdjax.core.remember import register_node, remembered_with_owners
from gdjax.core.trees import copied, inner_product, total, zero
from gdjax.core.types import Hyperparam, Params, PyTree, Scalar


@functools.partial(
    register_node,
    data_fields=["point", "momentum", "learning_rate", "evals", "failed"],
    function_fields=["prox"],
    meta_fields=["parts"],
)
@dataclasses.dataclass(frozen=True)
class Proximal:
    """The slots of proximal gradient methods."""

    point: Any  # x, the last result of the operator, at least float32; None if not accelerated
    momentum: Array  # t, 1 without momentum
    learning_rate: Array  # the step size found by backtracking
    evals: Array  # evaluations of the objective in the last update, int32
    failed: Array  # whether no step size was short enough
    prox: Callable  # static: the operator
    parts: int  # static: how many numbers it takes

    def optimality(self, params: Params, grads: PyTree, hyperparams: dict[str, Any]) -> PyTree:
        """Return x - prox(x - grads), with a step size of 1."""
        ahead = jax.tree.map(lambda x, g: x - g, params, grads)
        near = self.apply(ahead, hyperparams, 1.0)
        return jax.tree.map(lambda x, y: x - y, params, near)

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return x in place of the point at which the next gradient is taken."""
        return params if self.point is None else cast_like(self.point, params)

    def apply(self, x: PyTree, hyperparams: dict[str, Any], scaling: Array | float) -> PyTree:
        """Return prox(x) with the current numbers."""
        names = reg_names(self.parts)
        reg = tuple(hyperparams[name] for name in names)
        return self.prox(x, reg[0] if self.parts == 1 else (reg or None), scaling)


def reg_names(parts: int) -> tuple[str, ...]:
    """Return the names under which the operator's numbers are hyperparameters."""
    return ("reg",) if parts == 1 else tuple(f"reg_{i}" for i in range(parts))


def _dot(a: PyTree, b: PyTree) -> Array:
    return total(jax.tree.map(inner_product, a, b))


def _moved(y: PyTree, grads: PyTree, eta: Array) -> PyTree:
    return jax.tree.map(lambda y, g: y - eta.astype(y.real.dtype) * g, y, grads)


def _minus(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: x - y, a, b)


def _backtracked(slots, grads, y, count, numbers, search, value, value_fn, raw):
    """Return the step size for which the quadratic upper bound of f holds, and how that went."""
    slack = 10 * jnp.finfo(jnp.result_type(*jax.tree.leaves(y), jnp.float32)).eps * jnp.abs(value)
    before = slots.learning_rate
    shrink, grow, most = search

    def attempt(carry):
        eta, tries, _, _ = carry
        eta = jnp.where(tries == 0, eta, eta * shrink)
        d = _minus(slots.apply(_moved(y, grads, eta), numbers, eta), y)
        new = value_fn(cast_like(jax.tree.map(jnp.add, y, d), raw)).astype(value.dtype)
        bound = (_dot(d, d) / (2 * eta)).astype(value.dtype)
        fits = new - value - _dot(grads, d).astype(value.dtype) <= bound
        blind = jnp.isfinite(new) & (bound <= slack)  # the values are all rounding
        return eta, tries + 1, fits | blind, blind & ~fits

    def unfinished(carry):
        return ~carry[2] & (carry[1] < most)

    eta = jnp.where(count == 1, before, before * grow)
    no = jnp.zeros((), bool)
    end = jax.lax.while_loop(unfinished, attempt, (eta, jnp.zeros((), jnp.int32), no, no))
    eta, evals, accepted, blind = end
    return jnp.where(blind, jnp.minimum(before, eta), eta), evals, ~accepted


def _proximal_step(
    grads, slots, params, count, *, learning_rate=None, decrease_factor=None, increase_factor=None,
    max_linesearch_steps=None, call, accelerated, value=None, value_fn=None, raw_params, **numbers,
):  # fmt: skip
    if params is None:
        raise ValueError(f"{call} needs {NEEDS_PARAMS}")
    evals, failed = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    if learning_rate is None:
        if value is None or value_fn is None:
            raise TypeError(
                f"{call} with learning_rate=None needs value=... and value_fn=...: call "
                "update(grads, state, params, value=value, value_fn=value_fn)."
            )
        value = loss_given(call, value).astype(zero().dtype)
        search = decrease_factor, increase_factor, max_linesearch_steps
        learning_rate, evals, failed = _backtracked(
            slots, grads, params, count, numbers, search, value, value_fn, raw_params
        )
    x = slots.apply(_moved(params, grads, learning_rate), numbers, learning_rate)
    x = jax.tree.map(lambda x, y: jnp.where(failed, y, x), x, params)
    new = dict(learning_rate=learning_rate, evals=evals, failed=failed)
    if not accelerated:
        return _minus(x, params), dataclasses.replace(slots, **new)
    ratio = slots.learning_rate / jnp.where(learning_rate > 0, learning_rate, 1)
    last = jnp.where(count == 1, 0, slots.momentum)
    momentum = (1 + jnp.sqrt(1 + 4 * ratio * last**2)) / 2
    ahead = _minus(x, slots.point)
    uphill = _dot(_minus(params, x), ahead) > 0
    momentum = jnp.where(uphill, 1, momentum)
    following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
    beta = jnp.where(uphill, 0, (momentum - 1) / following)
    y = jax.tree.map(lambda x, d: x + beta.astype(x.real.dtype) * d, x, ahead)
    new |= dict(point=x, momentum=momentum)
    return _minus(y, params), dataclasses.replace(slots, **new)


def _build(
    call: str,
    prox: Callable,
    learning_rate: Scalar | None,
    reg: Hyperparam | tuple[Hyperparam, ...] | None,
    accelerated: bool,
    init_learning_rate: Scalar = 1.0,
    **search: Scalar,
) -> Optimizer:
    regs = () if reg is None else reg if isinstance(reg, tuple) else (reg,)
    numbers = dict(zip(reg_names(len(regs)), regs, strict=True)) if regs else {}
    numbers |= search if learning_rate is None else {"learning_rate": learning_rate}
    first = 1.0 if learning_rate is not None else init_learning_rate
    ranges = declared_ranges(numbers)
    rule = treewise(_proximal_step, None, numbers, name=call, call=call, accelerated=accelerated)

    def init(params: Params) -> State:
        leaves, treedef = as_float_leaves(f"{call}: the parameters", params)
        params = treedef.unflatten(leaves)
        hyper = {k: as_hyper(f"{call}({k}=...)", v, params) for k, v in numbers.items()}
        slots = Proximal(
            copied(params) if accelerated else None,
            zero() + 1,
            as_array(f"{call}(init_learning_rate=...)", first, scalar=True),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), bool),
            prox,
            len(regs),
        )
        state = replicated_like(State(jnp.zeros((), jnp.int32), hyper, slots), params)
        return remember_ranges(state, ranges)

    return Optimizer(init, rule.update)


def _check_function(what: str, function: Any, form: str) -> None:
    if not callable(function):
        raise TypeError(f"{what} must be a function {form}, got {function!r}.")


@checked(
    init_learning_rate=POSITIVE,
    decrease_factor=OPEN_UNIT,
    increase_factor=AT_LEAST_ONE,
    max_linesearch_steps=WHOLE,
)
def proximal_gradient(
    prox: Callable[..., Any],
    learning_rate: Scalar | None = None,
    reg: Hyperparam | tuple[Hyperparam, ...] | None = None,
    *,
    init_learning_rate: Scalar = 1.0,
    decrease_factor: Scalar = 0.5,
    increase_factor: Scalar = 1.2,
    max_linesearch_steps: Scalar = 50,
) -> Optimizer:
    r"""Minimize f + g by gradient steps on f, each followed by the proximal operator of g (ISTA).

    Good for: penalties with a corner, such as lasso's, where each step must lead downhill.

    Evidence: theory. The error for convex functions falls as 1/k (Beck & Teboulle 2009,
    https://doi.org/10.1137/080716542).

    .. math::

       x_t = \operatorname{prox}_{\eta_t g}(x_{t-1} - \eta_t \nabla f(x_{t-1}))

    Args:
      prox: `prox(x, reg, scaling)`, as in `gdjax.proximal`, for a tree x: a function of a module.
      learning_rate: :math:`\eta_t` > 0, step size, below 2 / L for an L-smooth f: a number or
        schedule. None finds it by backtracking: `update` then needs the extras `value=` and
        `value_fn=` (of f alone).
      reg: the operator's numbers: one number (strength of the penalty), a prefix tree of them, a
        tuple of them for an operator of several (`prox_elastic_net`), or None. They are
        hyperparameters, `reg`, or `reg_0`, `reg_1`, ...
      init_learning_rate: the first step size > 0 that is tried.
      decrease_factor: what a step that is too long is multiplied with, in (0, 1).
      increase_factor: the first step size of an update is this >= 1 times the last one.
      max_linesearch_steps: how many step sizes an update tries at most, >= 1.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: a few numbers. Values are those of f alone, also in the `Result` of `gdjax.minimize`.

    Raises:
      ValueError: if a number is out of range, or a tree of them does not fit the parameters.
      TypeError: if an extra is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.proximal_gradient(gdjax.proximal.prox_lasso, 0.5, reg=1.0)
      >>> params = jnp.array([3.0, 0.5])
      >>> state = opt.init(params)
      >>> for _ in range(20):  # f = 0.5 |x - (2, 0.5)|^2
      ...     updates, state = opt.update(params - jnp.array([2.0, 0.5]), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(4))
      [1. 0.]
    """
    _check_function("proximal_gradient(prox=...)", prox, "prox(x, reg, scaling)")
    return _build(
        "proximal_gradient", prox, learning_rate, reg, False, init_learning_rate,
        decrease_factor=decrease_factor, increase_factor=increase_factor,
        max_linesearch_steps=max_linesearch_steps,
    )  # fmt: skip


@checked(
    init_learning_rate=POSITIVE,
    decrease_factor=OPEN_UNIT,
    increase_factor=AT_LEAST_ONE,
    max_linesearch_steps=WHOLE,
)
def fista(
    prox: Callable[..., Any],
    learning_rate: Scalar | None = None,
    reg: Hyperparam | tuple[Hyperparam, ...] | None = None,
    *,
    init_learning_rate: Scalar = 1.0,
    decrease_factor: Scalar = 0.5,
    increase_factor: Scalar = 1.2,
    max_linesearch_steps: Scalar = 50,
) -> Optimizer:
    r"""Minimize f + g by proximal gradient steps with momentum, restarted when it points uphill.

    Good for: penalties with a corner, such as lasso's: exact zeros.

    Evidence: theory. The error for convex functions falls as 1/k^2, the optimal rate (Beck &
    Teboulle 2009, https://doi.org/10.1137/080716542).

    .. math::

       x_t &= \operatorname{prox}_{\eta g}(y_{t-1} - \eta \nabla f(y_{t-1})) \\
       \theta_{t+1} &= \tfrac12 \left( 1 + \sqrt{1 + 4 \theta_t^2} \right) \\
       y_t &= x_t + \frac{\theta_t - 1}{\theta_{t+1}} (x_t - x_{t-1})

    The parameters that are trained are y, at which the gradient is taken. The result is x, which
    for a lasso has exact zeros: `gdjax.eval_params(state, params)`.

    Args:
      prox: see `proximal_gradient`, like all arguments. A fixed rate must be at most 1 / L.
      learning_rate: see `proximal_gradient`.
      reg: see `proximal_gradient`.
      init_learning_rate: see `proximal_gradient`.
      decrease_factor: see `proximal_gradient`.
      increase_factor: see `proximal_gradient`.
      max_linesearch_steps: see `proximal_gradient`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element (x).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.fista(gdjax.proximal.prox_lasso, 0.1, reg=1.0)
      >>> params = jnp.array([3.0, 0.5])
      >>> state = opt.init(params)
      >>> for _ in range(40):
      ...     updates, state = opt.update(params - jnp.array([2.0, 0.5]), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(gdjax.eval_params(state, params).round(3))
      [1. 0.]
    """
    _check_function("fista(prox=...)", prox, "prox(x, reg, scaling)")
    return _build(
        "fista", prox, learning_rate, reg, True, init_learning_rate,
        decrease_factor=decrease_factor, increase_factor=increase_factor,
        max_linesearch_steps=max_linesearch_steps,
    )  # fmt: skip


@checked()
def projected_gradient(
    projection: Callable[..., Any],
    learning_rate: Scalar | None = None,
    numbers: Hyperparam | tuple[Hyperparam, ...] | None = None,
    *,
    accelerated: bool = False,
) -> Optimizer:
    r"""Minimize f over a set by gradient steps, each followed by the projection onto the set.

    .. math::

       x_t = P(x_{t-1} - \eta_t \nabla f(x_{t-1}))

    Evidence: theory. The error for convex functions falls as 1/k, as for `proximal_gradient` (Beck
    & Teboulle 2009, https://doi.org/10.1137/080716542).

    Args:
      projection: a function of a tree, as in `gdjax.projections`: a function of a module.
      learning_rate: see `proximal_gradient`.
      numbers: further arguments of the projection: a number or prefix tree, a tuple of those, or
        None. They are hyperparameters, `reg`, or `reg_0`, `reg_1`, ...
      accelerated: whether to use the momentum of `fista`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.projected_gradient(gdjax.projections.projection_simplex, 0.5)
      >>> params = jnp.array([0.2, 0.8])
      >>> updates, state = opt.update(jnp.array([1.0, 0.0]), opt.init(params), params)
      >>> print(params + updates)
      [0. 1.]
    """
    _check_function("projected_gradient(projection=...)", projection, "of a tree")
    return _build(
        "projected_gradient", _as_prox(projection), learning_rate, numbers, accelerated,
        decrease_factor=0.5, increase_factor=1.2, max_linesearch_steps=50,
    )  # fmt: skip


@remembered_with_owners
def _as_prox(projection: Callable) -> Callable:
    def prox(x, numbers, scaling):
        if numbers is None:
            return projection(x)
        return projection(x, *numbers) if isinstance(numbers, tuple) else projection(x, numbers)

    return prox
