"""A line search for the strong Wolfe conditions, by cubic interpolation in a bracket.

Nocedal & Wright (2006), "Numerical optimization", Algorithms 3.5 and 3.6; the approximate condition
for values that are all rounding: Hager & Zhang (2005), https://doi.org/10.1137/030601880, (4.1).
Paper -> here: alpha -> t, c_1 -> slope_rtol, c_2 -> curv_rtol, epsilon -> approx_dec_rtol.
Deviations: growing and zooming are one loop; until there is a bracket its upper end is infinite,
and the next point lies where the slope vanishes by the secant, within the bounds of More & Thuente
(1994), https://doi.org/10.1145/192115.192132, section 4.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, POSITIVE, Range, check_choice, checked
from gdjax.core.treewise import treewise
from gdjax.solvers.gauss_newton import INSIDE
from gdjax.solvers.levenberg_marquardt import COUNT
from gdjax.solvers.line import Line, Point, fresh, is_finite, line, pick, remember, tell
from gdjax.solvers.vector import as_tree

GUESSES = ("one", "keep")
ABOVE_ONE = Range("finite and > 1", lambda x: 1 < x < math.inf)


class Bracket(NamedTuple):
    """Between two points lies one with the Wolfe conditions."""

    low: Point  # of those with enough decrease, the one with the least value
    high: Point  # the other end; t is inf before there is one
    t: Array  # the next point to try
    tries: Array
    done: Array  # whether low has the Wolfe conditions
    nonfinite: Array


def cubic_minimum(a: Point, b: Point) -> Array:
    """Return the minimum of the cubic with the values and slopes of two points (N&W 3.59)."""
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    inside = d1 * d1 - a.slope * b.slope
    d2 = jnp.sign(b.t - a.t) * jnp.sqrt(jnp.maximum(inside, 0))
    t = b.t - (b.t - a.t) * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
    return jnp.where(inside >= 0, t, jnp.nan)


def between(low: Point, high: Point) -> Array:
    """Return where to look in a bracket: at the cubic's minimum, kept off the ends."""
    width = high.t - low.t
    near, far = low.t + 0.01 * width, low.t + 0.99 * width
    t = cubic_minimum(low, high)
    t = jnp.clip(t, jnp.minimum(near, far), jnp.maximum(near, far))
    t = jnp.where(jnp.isfinite(t), t, low.t + 0.5 * width)
    return jnp.where(is_finite(high), t, low.t + 0.1 * width)


def beyond(low: Point, new: Point, grow: Array) -> Array:
    """Return where to look past a point at which the slope is too steep: where the secant is 0."""
    step = new.t - low.t
    gain = new.slope - low.slope
    t = jnp.where(gain > 0, -new.slope / jnp.where(gain > 0, gain, 1), jnp.inf) * step
    return new.t + jnp.clip(t, 1.1 * step, grow * step)


def rounding(line: Line, guess: Array, slack: Array) -> Array:
    """Return the increase that counts as rounding: none where a decrease would have to show.

    Without this a wrong gradient would let the search climb by a rounding error an update.
    """
    return jnp.where(-line.start.slope * guess <= 100 * slack, slack, 0)


def wolfe_search(
    line: Line, guess: Array, longest: Array, c1: Array, c2: Array, tol: Array, slack: Array,
    grow: Array, precision: Array, max_tries: Array,
) -> tuple[Bracket, Array]:  # fmt: skip
    """Return the last bracket, whose low end is the result, and whether it is no better than 0."""
    start = line.start
    slack = rounding(line, guess, slack)
    max_tries = jnp.where(slack > 0, jnp.minimum(max_tries, 10), max_tries)

    def attempt(b: Bracket) -> Bracket:
        new = line.at(b.t)
        fine = is_finite(new)
        armijo = new.value <= start.value + c1 * b.t * start.slope + tol
        blind = (
            (slack > 0)
            & (new.value <= start.value + slack)
            & (new.slope <= (2 * c1 - 1) * start.slope)
        )
        lower = fine & ((armijo & (new.value < b.low.value)) | blind)
        flat = jnp.abs(new.slope) <= tol - c2 * start.slope
        done = lower & (flat | (b.t >= longest) & (new.slope < 0))
        passed = new.slope * (b.high.t - b.low.t) >= 0  # the minimum lies on low's side of it
        high = pick(lower, pick(passed, b.low, b.high), new)
        low = pick(lower, new, b.low)
        bracketed = jnp.isfinite(high.t)
        ahead = jnp.minimum(beyond(b.low, new, grow), longest)
        t = jnp.where(bracketed, between(low, high), ahead)
        t = jnp.where(done, b.t, t)
        return Bracket(low, high, t, b.tries + 1, done, b.nonfinite | ~fine)

    def unfinished(b: Bracket) -> Array:
        distinct = (b.t != b.low.t) & (b.t != b.high.t)
        narrow = (b.low.t > 0) & (jnp.abs(b.high.t - b.low.t) <= precision * b.low.t)
        return ~b.done & distinct & ~narrow & (b.tries < max_tries)

    no, inf = jnp.zeros((), bool), jnp.full_like(guess, jnp.inf)
    begin = Bracket(
        start, start._replace(t=inf), guess, jnp.zeros((), jnp.int32), ~line.descends, no
    )
    end = jax.lax.while_loop(unfinished, attempt, begin)
    aimless = (slack > 0) & ~end.done & ~(end.low.value < start.value)
    return end, aimless | (end.low.t == 0)


def _zoom_linesearch(
    updates, slots, params, count, *, max_linesearch_steps, max_learning_rate=None, tol,
    increase_factor, slope_rtol, curv_rtol, approx_dec_rtol=None, stepsize_precision, guess,
    verbose, raw_params, **extra,
):  # fmt: skip
    found = line("scale_by_zoom_linesearch", updates, raw_params, extra)
    if not found.direction.size:
        return updates, slots
    dtype = found.direction.dtype
    longest = jnp.inf if max_learning_rate is None else max_learning_rate
    longest = jnp.asarray(longest, dtype)
    t = jnp.ones((), dtype)
    if guess == "keep":
        t = jnp.where(slots.learning_rate > 0, slots.learning_rate, 1).astype(dtype)
    rtol = 10 * jnp.finfo(dtype).eps if approx_dec_rtol is None else approx_dec_rtol.astype(dtype)
    slack = rtol * jnp.abs(found.start.value)
    numbers = (slope_rtol, curv_rtol, tol, slack, increase_factor, stepsize_precision)
    c1, c2, tol, slack, grow, precision = (x.astype(dtype) for x in numbers)
    t = jnp.minimum(t, longest)
    end, failed = wolfe_search(
        found, t, longest, c1, c2, tol, slack, grow, precision, max_linesearch_steps
    )
    step, slots = remember(slots, found, end.low, end.tries, failed, end.nonfinite)
    if verbose:
        tell(slots, end.done)
    return as_tree(step, updates), slots


@checked(max_linesearch_steps=COUNT, max_learning_rate=POSITIVE, tol=NONNEGATIVE,
         increase_factor=ABOVE_ONE, slope_rtol=INSIDE, curv_rtol=INSIDE,
         approx_dec_rtol=NONNEGATIVE, stepsize_precision=NONNEGATIVE)  # fmt: skip
def scale_by_zoom_linesearch(
    max_linesearch_steps: Any = 30,
    max_learning_rate: Any = None,
    tol: Any = 0.0,
    increase_factor: Any = 4.0,
    slope_rtol: Any = 1e-4,
    curv_rtol: Any = 0.9,
    approx_dec_rtol: Any = None,
    stepsize_precision: Any = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> Optimizer:
    """Scale a direction to a step that satisfies the strong Wolfe conditions.

    f(x + t d) <= f(x) + slope_rtol t <g, d>  and  |<g(x + t d), d>| <= curv_rtol |<g, d>|

    Where f cannot show a decrease, because it is all rounding, the slopes alone decide, within 10
    tries. Values that are not finite count as too high. If nothing was found within
    `max_linesearch_steps`, the best point with enough decrease is taken; if there is none, the
    update is 0, and `failed` in the state says so.

    Differences to optax: the state is never NaN, and compiles once; `approx_dec_rtol` follows the
    dtype, as 1e-6 would let float64 go uphill; `stepsize_precision` is relative, since steps of
    1e-6 may be just right; t grows as slopes foretell, where optax multiplies it by 2.

    Args:
      max_linesearch_steps: most evaluations in one update, >= 1.
      max_learning_rate: the longest step size t > 0, or None for no limit.
      tol: how much both conditions may be missed by, >= 0.
      increase_factor: while the slope is too steep, t goes on to where the slopes so far say that
        it vanishes, by at most this many times the last increase of t, > 1.
      slope_rtol: share of the decrease foretold by the slope that is enough, in (0, 1).
      curv_rtol: share of the slope that may be left, in (0, 1).
      approx_dec_rtol: increase of f, relative to |f|, that counts as rounding, >= 0; None is ten
        times the precision of the dtype.
      stepsize_precision: width >= 0 of a bracket, relative to t, at which its better end is taken.
      initial_guess_strategy: the first t of an update: "one", right after a Newton-like method, or
        "keep", that of the last update.
      verbose: whether to print each update's step size and number of evaluations.

    Returns:
      An `Optimizer` to end a chain with, after a direction that leads downhill. `update` needs the
      parameters, `value=`, `grad=` and `value_fn=`; what `value_fn` takes by name besides is passed
      on. State: 4 bytes per element, the gradient for the next update.

    Raises:
      ValueError: if a number is out of range, or the strategy unknown.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum(x ** 4)
      >>> opt = gdjax.chain(gdjax.sgd(1.0), gdjax.scale_by_zoom_linesearch())
      >>> x = jnp.array([1.0, 2.0])
      >>> state = opt.init(x)
      >>> for _ in range(5):
      ...     value, grad = jax.value_and_grad(fun)(x)
      ...     updates, state = opt.update(grad, state, x, value=value, grad=grad, value_fn=fun)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(fun(x).round(3))
      0.063
    """
    check_choice(
        "scale_by_zoom_linesearch(initial_guess_strategy=...)", initial_guess_strategy, GUESSES
    )
    numbers = dict(
        max_linesearch_steps=max_linesearch_steps,
        tol=tol,
        increase_factor=increase_factor,
        slope_rtol=slope_rtol,
        curv_rtol=curv_rtol,
        stepsize_precision=stepsize_precision,
    )
    if max_learning_rate is not None:
        numbers["max_learning_rate"] = max_learning_rate
    if approx_dec_rtol is not None:
        numbers["approx_dec_rtol"] = approx_dec_rtol
    return treewise(_zoom_linesearch, fresh, numbers, guess=initial_guess_strategy, verbose=verbose)
