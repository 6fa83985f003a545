"""A line search that shortens the step until the objective has fallen enough.

Armijo (1966), https://doi.org/10.2140/pjm.1966.16.1; for stochastic gradients, with steps that grow
again: Vaswani et al. (2019), https://arxiv.org/abs/1905.09997, Algorithm 1.
Paper -> here: eta -> t, c -> slope_rtol, beta -> decrease_factor, gamma -> increase_factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, OPEN_UNIT, WHOLE, Range, checked
from gdjax.core.lift import treewise
from gdjax.core.numerics import scalar_dtype
from gdjax.core.types import Params, Scalar
from gdjax.core.vectors import as_tree
from gdjax.solvers.line_search import LineSearch, fresh, is_finite, line, remember, tell

# Both may be infinite: then each search starts from the longest step, or none is too long.
GROWTH = Range(">= 1", lambda x: x >= 1)
LENGTH = Range("> 0", lambda x: x > 0)


class Backtracking(NamedTuple):
    """The slots of a backtracking search that does not keep the gradient."""

    learning_rate: Array  # the last step size t
    evals: Array  # evaluations of the objective in the last update, int32
    failed: Array  # whether no step size was short enough; the update was then 0
    nonfinite: Array  # whether a value was not finite in the last update


def _first(
    store_grad: bool, max_learning_rate: Scalar
) -> Callable[[Params], LineSearch | Backtracking]:
    def slots(params: Params) -> LineSearch | Backtracking:
        memory = fresh(params)
        limit = jnp.asarray(max_learning_rate, scalar_dtype())
        rate = jnp.where(jnp.isfinite(limit), limit, 1)
        if store_grad:
            return memory._replace(learning_rate=rate)
        return Backtracking(rate, memory.evals, memory.failed, memory.nonfinite)

    return slots


def _backtracking_linesearch(
    updates, slots, params, count, *, max_backtracking_steps, slope_rtol, decrease_factor,
    increase_factor, max_learning_rate, atol, rtol, verbose, raw_params, **extra,
):  # fmt: skip
    found = line("scale_by_backtracking_linesearch", updates, raw_params, extra)
    if not found.direction.size:
        return updates, slots
    dtype, start = found.direction.dtype, found.start
    shrink, c1 = decrease_factor.astype(dtype), slope_rtol.astype(dtype)
    bound = start.value + atol.astype(dtype) + rtol.astype(dtype) * jnp.abs(start.value)
    guess = jnp.minimum(slots.learning_rate * increase_factor, max_learning_rate)
    guess = jnp.where(jnp.isfinite(guess), guess, slots.learning_rate).astype(dtype)
    first = jnp.where(count == 1, slots.learning_rate.astype(dtype), guess)

    def attempt(carry):
        t, tries, _, nonfinite = carry
        t = jnp.where(tries == 0, first, t * shrink)
        value = found.value_at(t)
        enough = value <= bound + c1 * t * start.slope  # false for nan
        return t, tries + 1, enough & jnp.isfinite(value), nonfinite | ~jnp.isfinite(value)

    def unfinished(carry):
        return ~carry[2] & (carry[1] <= max_backtracking_steps)

    no = jnp.zeros((), bool)
    begin = first, jnp.zeros((), jnp.int32), ~found.descends, no
    t, tries, enough, nonfinite = jax.lax.while_loop(unfinished, attempt, begin)
    failed = ~enough | ~found.descends | ~found.moves(t)
    short = failed & found.descends & found.moves(t)  # the next update continues from there
    rate = jnp.where(failed & ~short, slots.learning_rate, t)
    if isinstance(slots, LineSearch):
        end = found.at(t)
        step, slots = remember(slots, found, end, tries + 1, failed, nonfinite)
        slots = slots._replace(learning_rate=rate)
    else:
        step = jnp.where(failed, 0, t * found.direction)
        slots = Backtracking(rate, tries, failed, nonfinite | ~is_finite(start))
    if verbose:
        tell(slots.learning_rate, slots.evals, enough, slots.failed)
    return as_tree(step, updates), slots


@checked(max_backtracking_steps=WHOLE, slope_rtol=OPEN_UNIT, decrease_factor=OPEN_UNIT,
         increase_factor=GROWTH, max_learning_rate=LENGTH, atol=NONNEGATIVE,
         rtol=NONNEGATIVE)  # fmt: skip
def scale_by_backtracking_linesearch(
    max_backtracking_steps: Scalar = 30,
    slope_rtol: Scalar = 1e-4,
    decrease_factor: Scalar = 0.8,
    increase_factor: Scalar = 1.5,
    max_learning_rate: Scalar = 1.0,
    atol: Scalar = 0.0,
    rtol: Scalar = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> Optimizer:
    r"""Shorten a step until the objective falls by a share of what the slope predicts.

    .. math::

       f(x + t d) &\le f(x) + c\, t\, \langle g, d \rangle + r\, |f(x)| + a \\
       t &= t_0,\; t_0 \rho,\; t_0 \rho^2,\; \ldots

    Values that are not finite shorten the step. Where no t is short enough the update is 0 and
    `failed` in the state is true; the next update continues from that t.

    Differences: optax takes the last t whether or not f falls.

    Args:
      max_backtracking_steps: how often t is shortened at most in one update, >= 1.
      slope_rtol: :math:`c` in (0, 1), the share of the decrease predicted by the slope that is
        enough.
      decrease_factor: :math:`\rho` in (0, 1), what t is multiplied with.
      increase_factor: the first t of an update is this >= 1 times the last one.
      max_learning_rate: the longest t > 0, and the first one of all; it may be infinite.
      atol: :math:`a` >= 0, increase of f that is allowed, in units of f.
      rtol: :math:`r` >= 0, likewise, relative to the magnitude of f.
      store_grad: whether to evaluate and keep value and gradient at the new parameters, for
        `value_and_grad_from_state`.
      verbose: whether to print each update's step size and number of evaluations.

    Returns:
      An `Optimizer` to end a chain with, after a direction that leads downhill. `update` needs the
      parameters, `value=`, `grad=` and `value_fn=`; further extra arguments that `value_fn` takes
      by name are passed on. State: a few numbers, and with `store_grad` 4 bytes per element.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum(x ** 4)
      >>> opt = gdjax.chain(gdjax.sgd(1.0), gdjax.scale_by_backtracking_linesearch(20))
      >>> x = jnp.array([1.0, 2.0])
      >>> state = opt.init(x)
      >>> for _ in range(5):
      ...     value, grad = jax.value_and_grad(fun)(x)
      ...     updates, state = opt.update(grad, state, x, value=value, grad=grad, value_fn=fun)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(fun(x).round(3))
      0.007
    """
    numbers: dict[str, Scalar] = dict(
        max_backtracking_steps=max_backtracking_steps,
        slope_rtol=slope_rtol,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        max_learning_rate=max_learning_rate,
        atol=atol,
        rtol=rtol,
    )
    slots = _first(store_grad, max_learning_rate)
    name = "scale_by_backtracking_linesearch"
    return treewise(_backtracking_linesearch, slots, numbers, name=name, verbose=verbose)
