"""The line search of CG_DESCENT, which finds minima that are lost in the rounding of the values.

Hager & Zhang (2005), https://doi.org/10.1137/030601880, section 4; Hager & Zhang (2006), "Algorithm
851", https://doi.org/10.1145/1132973.1132979.
Paper -> here: c_k -> t, delta -> slope_rtol, sigma -> curv_rtol, epsilon_k -> slack, rho ->
increase_factor, gamma -> shrink; theta as there; a, b -> low, high.
Deviation: after a value that is not finite the step is cut to a tenth.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import (
    ABOVE_ONE,
    NONNEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    WHOLE,
    check_choice,
    checked,
)
from gdjax.core.lift import treewise
from gdjax.core.types import Scalar
from gdjax.core.vectors import as_tree
from gdjax.solvers.line_search import (
    GUESSES,
    Line,
    Point,
    fresh,
    is_finite,
    line,
    pick,
    remember,
)


class Interval(NamedTuple):
    """Satisfies (4.4): at low the objective is no higher and falls, at high it rises or is high."""

    low: Point
    high: Point  # t is inf before there is one
    result: Point  # the last point with one of the Wolfe conditions, or the best so far
    width: Array  # of the interval, when it was last cut
    secants: Array  # secant steps since then
    tries: Array
    done: Array
    nonfinite: Array


def secant(a: Point, b: Point) -> Array:
    """Return where the slopes at two points, interpolated, are zero."""
    return (a.t * b.slope - b.t * a.slope) / (b.slope - a.slope)


def approximate_wolfe_search(
    line: Line, guess: Array, longest: Array, c1: Array, c2: Array, slack: Array, grow: Array,
    theta: Array, shrink: Array, max_tries: Array,
) -> Interval:  # fmt: skip
    """Return the last interval; `result.t` is 0 if nothing better was found."""
    start = line.start
    ceiling = start.value + slack

    def following(i: Interval) -> tuple[Array, Array, Array]:
        """Return the next t, the width to compare with, and the number of secant steps."""
        bisect = i.low.t + theta * (i.high.t - i.low.t)
        s = secant(i.low, i.high)
        inside = (s > i.low.t) & (s < i.high.t) & (i.high.slope >= 0)
        width = i.high.t - i.low.t
        slow = (i.secants >= 2) & (width > shrink * i.width)  # L2
        cut = slow | ~inside
        t = jnp.where(cut, bisect, s)
        t = jnp.where(is_finite(i.high), t, i.low.t + 0.1 * width)
        again = cut | (i.secants >= 2)
        ahead = jnp.minimum(grow * jnp.maximum(i.low.t, guess / grow), longest)  # B3
        first = ~jnp.isfinite(i.high.t)
        t = jnp.where(first, ahead, t)
        return (
            t,
            jnp.where(first, jnp.inf, jnp.where(again, width, i.width)),
            jnp.where(again | first, 0, i.secants + 1),
        )

    def attempt(i: Interval) -> Interval:
        t, width, secants = following(i)
        new = line.at(t)
        fine = is_finite(new)
        wolfe = (new.value - start.value <= c1 * t * start.slope) & (new.slope >= c2 * start.slope)
        blind = (new.value <= ceiling) & (new.slope >= c2 * start.slope)
        blind = blind & (new.slope <= (2 * c1 - 1) * start.slope)
        falls = fine & (new.value <= ceiling) & (new.slope < 0)  # U2
        done = fine & (wolfe | blind | falls & (t >= longest))
        low, high = pick(falls, new, i.low), pick(falls, i.high, new)  # U1, U3
        enough = new.value <= start.value + c1 * t * start.slope
        better = fine & (done | enough & (new.value < i.result.value))
        result = pick(better, new, i.result)
        return Interval(low, high, result, width, secants, i.tries + 1, done, i.nonfinite | ~fine)

    def unfinished(i: Interval) -> Array:
        apart = (i.high.t - i.low.t) > jnp.finfo(guess.dtype).eps * i.low.t
        return ~i.done & apart & (i.tries < max_tries)

    no, count = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    infinite = jnp.full_like(guess, jnp.inf)
    nowhere = start._replace(t=infinite)
    begin = Interval(start, nowhere, start, infinite, count, count, ~line.descends, no)
    return jax.lax.while_loop(unfinished, attempt, begin)


def _hager_zhang_linesearch(
    updates, slots, params, count, *, max_linesearch_steps, max_learning_rate=None, increase_factor,
    slope_rtol, curv_rtol, approx_dec_rtol, theta, shrink, keep_guess, raw_params, **extra,
):  # fmt: skip
    found = line("scale_by_hager_zhang_linesearch", updates, raw_params, extra)
    if not found.direction.size:
        return updates, slots
    dtype = found.direction.dtype
    longest = jnp.asarray(jnp.inf if max_learning_rate is None else max_learning_rate, dtype)
    t = jnp.ones((), dtype)
    if keep_guess:
        t = jnp.where(slots.learning_rate > 0, slots.learning_rate, 1).astype(dtype)
    slack = approx_dec_rtol.astype(dtype) * jnp.abs(found.start.value)
    numbers = (slope_rtol, curv_rtol, slack, increase_factor, theta, shrink)
    c1, c2, slack, grow, theta, shrink = (x.astype(dtype) for x in numbers)
    end = approximate_wolfe_search(
        found, jnp.minimum(t, longest), longest, c1, c2, slack, grow, theta, shrink,
        max_linesearch_steps,
    )  # fmt: skip
    failed = end.result.t == 0
    step, slots = remember(slots, found, end.result, end.tries, failed, end.nonfinite)
    return as_tree(step, updates), slots


@checked(max_linesearch_steps=WHOLE, max_learning_rate=POSITIVE, increase_factor=ABOVE_ONE,
         slope_rtol=OPEN_UNIT, curv_rtol=OPEN_UNIT, approx_dec_rtol=NONNEGATIVE, theta=OPEN_UNIT,
         shrink=OPEN_UNIT)  # fmt: skip
def scale_by_hager_zhang_linesearch(
    max_linesearch_steps: Scalar = 30,
    max_learning_rate: Scalar | None = None,
    increase_factor: Scalar = 5.0,
    slope_rtol: Scalar = 0.1,
    curv_rtol: Scalar = 0.9,
    approx_dec_rtol: Scalar = 1e-6,
    theta: Scalar = 0.5,
    shrink: Scalar = 0.66,
    initial_guess_strategy: str = "one",
) -> Optimizer:
    r"""Scale a direction to a step with the Wolfe or the approximate Wolfe conditions.

    With :math:`\varphi(t) = f(x + t d)`, the Wolfe conditions are

    .. math::

       \varphi(t) &\le \varphi(0) + \delta\, t\, \varphi'(0) \\
       \varphi'(t) &\ge \sigma\, \varphi'(0)

    and the approximate Wolfe conditions, which hold where
    :math:`\varphi(t) \le \varphi(0) + \epsilon\, |\varphi(0)|`, are

    .. math::

       (2 \delta - 1)\, \varphi'(0) \ge \varphi'(t) \ge \sigma\, \varphi'(0)

    The second pair needs no values that show a decrease: near a minimum it reaches the full
    precision of the gradient, where the first reaches its square root. It may go uphill by the
    slack; `scale_by_zoom_linesearch` allows only what is rounding.

    Args:
      max_linesearch_steps: most evaluations in one update, >= 1.
      max_learning_rate: the longest step size t > 0, or None for no limit.
      increase_factor: what t is multiplied with while the objective falls, > 1.
      slope_rtol: :math:`\delta`, in (0, 0.5) for the theory to hold.
      curv_rtol: :math:`\sigma`, in (slope_rtol, 1).
      approx_dec_rtol: :math:`\epsilon` >= 0, the slack relative to the magnitude of f.
      theta: where an interval is cut that has no secant step, in (0, 1).
      shrink: an interval that two secant steps do not shrink by this factor is cut.
      initial_guess_strategy: see `scale_by_zoom_linesearch`.

    Returns:
      As `scale_by_zoom_linesearch`.

    Raises:
      ValueError: if a number is out of range, or the strategy unknown.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def fun(x): return 1e4 + (x - 2) ** 2  # in float32 values are multiples of 1e-3
      >>> opt = gdjax.lbfgs(linesearch=gdjax.scale_by_hager_zhang_linesearch())
      >>> print(gdjax.minimize(fun, jnp.array(0.0), opt).params)
      2.0
    """
    check_choice("scale_by_hager_zhang_linesearch(initial_guess_strategy=...)",
                 initial_guess_strategy, GUESSES)  # fmt: skip
    numbers: dict[str, Scalar] = dict(
        max_linesearch_steps=max_linesearch_steps,
        increase_factor=increase_factor,
        slope_rtol=slope_rtol,
        curv_rtol=curv_rtol,
        approx_dec_rtol=approx_dec_rtol,
        theta=theta,
        shrink=shrink,
    )
    if max_learning_rate is not None:
        numbers["max_learning_rate"] = max_learning_rate
    keep = initial_guess_strategy == "keep"
    name = "scale_by_hager_zhang_linesearch"
    return treewise(_hager_zhang_linesearch, fresh, numbers, name=name, keep_guess=keep)
