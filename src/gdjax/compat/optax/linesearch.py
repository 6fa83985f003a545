"""optax's two line searches: the same trial points in the same order, and the same states.

gdjax's own searches (`gdjax.scale_by_zoom_linesearch`) satisfy the same conditions at other points:
they need fewer evaluations, and a search that fails takes no step. Those here take the steps that
code written for optax is tuned to.

Nocedal & Wright (2006), "Numerical optimization", Algorithms 3.5 and 3.6; the approximate condition
for values that are all rounding: Hager & Zhang (2005), https://doi.org/10.1137/030601880, (4.1).
Paper -> here: alpha -> t, c_1 -> slope_rtol, c_2 -> curv_rtol, epsilon -> approx_dec_rtol.
Deviation: growing and zooming are one loop with one evaluation, of which only the choice of the
next t differs.

Differences to optax: all numbers are at least float32; a search that is to continue from the last
step starts at 1 if that was 0, where optax would never move again; `grad=` is the gradient that
leads uphill, also for complex parameters and the backtracking search.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax import tree
from gdjax.compat.optax.base import (
    GradientTransformationExtraArgs,
    NumLike,
    OptState,
    Params,
    Updates,
)
from gdjax.compat.optax.inject import InjectStatefulHyperparamsState
from gdjax.core.checks import check_choice
from gdjax.core.numerics import cast_like, product, real_dtype, safe_increment
from gdjax.solvers.line_search import GUESSES, check_given, pick

# --- the objective along a line -------------------------------------------------------------------


class OnLine(NamedTuple):
    """A point x + t d on a line."""

    t: Array
    value: Array  # phi(t), the objective there
    slope: Array  # phi'(t), its derivative along d


def _numbers_dtype(params: Params) -> Any:
    return real_dtype(jnp.result_type(jnp.float32, *jax.tree.leaves(params)))


def _moved(params: Params, t: Array, updates: Updates) -> Params:
    return jax.tree.map(lambda p, u: (p + t * u).astype(jnp.result_type(p)), params, updates)


def _scaled(t: Array, updates: Updates) -> Updates:
    return jax.tree.map(lambda u: (t * u).astype(jnp.result_type(u)), updates)


def _slope(uphill: Updates, direction: Updates, dtype: Any) -> Array:
    return jnp.real(jnp.asarray(tree.vdot(uphill, direction))).astype(dtype)


def _objective(name: str, value_fn: Callable, extra_args: dict[str, Any]) -> Callable:
    """Return the objective of the parameters alone."""
    (kwargs,), unused = extract_fns_kwargs([value_fn], extra_args)
    if unused:
        raise TypeError(
            f"{name}: Unexpected keyword arguments {', '.join(sorted(unused))}: update hands all "
            "that it does not know to value_fn, which does not take these. Let value_fn take them, "
            "or leave them out."
        )
    return lambda params: jnp.asarray(value_fn(params, **kwargs)).reshape(())


def extract_fns_kwargs(
    fns: Sequence[Callable], kwargs: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return which keyword arguments each function takes, and those that none of them takes.

    Example:
      >>> extract_fns_kwargs([lambda a, b: a, lambda c: c], {"b": 1, "c": 2, "d": 3})
      ([{'b': 1}, {'c': 2}], {'d': 3})
    """
    taken = []
    for fn in fns:
        parameters = inspect.signature(fn).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        taken.append({k: v for k, v in kwargs.items() if takes_all or k in parameters})
    return taken, {k: v for k, v in kwargs.items() if not any(k in part for part in taken)}


def _excess(error: Array) -> Array:
    """Return by how much a condition is missed: 0 if it is met, inf if that is not known."""
    return jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0))


# --- backtracking ---------------------------------------------------------------------------------


class BacktrackingLinesearchInfo(NamedTuple):
    """How the last search ended.

    Attributes:
      num_linesearch_steps: trials of the last update, int32.
      decrease_error: by how much the condition was missed at the last of them, >= 0.
    """

    num_linesearch_steps: Array
    decrease_error: Array


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """What `scale_by_backtracking_linesearch` remembers.

    Attributes:
      learning_rate: the last t, at first 1; 0 if no value was finite.
      value: the objective at the new parameters, at first inf.
      grad: its gradient there as `jax.grad` returns it, or None.
      info: a `BacktrackingLinesearchInfo`.
    """

    learning_rate: Array
    value: Array
    grad: Updates | None
    info: BacktrackingLinesearchInfo


def scale_by_backtracking_linesearch(
    max_backtracking_steps: NumLike,
    slope_rtol: NumLike = 1e-4,
    decrease_factor: NumLike = 0.8,
    increase_factor: NumLike = 1.5,
    max_learning_rate: NumLike = 1.0,
    atol: NumLike = 0.0,
    rtol: NumLike = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> GradientTransformationExtraArgs:
    """Shorten a step until the objective falls by a share of what the slope predicts.

    f(x + t d) <= (1 + rtol) f(x) + slope_rtol t <g, d> + atol

    is tried for t = t_0, t_0 decrease_factor, t_0 decrease_factor^2, ... until it holds.
    If no t is short enough the last one is taken, as in optax; `gdjax` takes no step then.

    Args:
      max_backtracking_steps: how often t is shortened at most in one update.
      slope_rtol: the share of the decrease predicted by the slope that is enough.
      decrease_factor: what t is multiplied with.
      increase_factor: the first t of an update is this times the last one.
      max_learning_rate: the longest t.
      atol: increase of f that is allowed, in units of f.
      rtol: likewise, relative to f.
      store_grad: whether to keep the gradient at the new parameters too, for
        `value_and_grad_from_state`, which costs one more evaluation of the objective.
      verbose: whether to print why a search has failed.

    Returns:
      A transformation whose `update` needs `value=`, `grad=` and `value_fn=`; all other extra
      arguments are handed to `value_fn`.

    Raises:
      TypeError: in `update`, if an argument is missing, or one is given that `value_fn` lacks.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum(x**2)
      >>> tx = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
      >>> x = jnp.array([1.0, 2.0])
      >>> value, grad = jax.value_and_grad(fun)(x)
      >>> updates, state = tx.update(grad, tx.init(x), x, value=value, grad=grad, value_fn=fun)
      >>> print(fun(optax.apply_updates(x, updates)) < value, state[1].learning_rate)
      True 0.8
    """
    name = "scale_by_backtracking_linesearch"

    def init(params: Params) -> ScaleByBacktrackingLinesearchState:
        dtype = _numbers_dtype(params)
        info = BacktrackingLinesearchInfo(jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, dtype))
        grad = jax.tree.map(jnp.zeros_like, params) if store_grad else None
        rate, value = jnp.ones((), dtype), jnp.full((), jnp.inf, dtype)
        return ScaleByBacktrackingLinesearchState(rate, value, grad, info)

    def update(
        updates, state, params=None, *, value=None, grad=None, value_fn: Any = None, **extra_args
    ):
        check_given(name, params, dict(value=value, grad=grad, value_fn=value_fn))
        objective = _objective(name, value_fn, extra_args)
        dtype = _numbers_dtype(params)
        numbers = (slope_rtol, decrease_factor, increase_factor, max_learning_rate, atol, rtol)
        c1, shrink, grow, longest, slack, rise = (jnp.asarray(x, dtype) for x in numbers)
        start = jnp.asarray(value, dtype).reshape(())
        slope = _slope(grad, updates, dtype)

        def attempt(search):
            t, _, _, tries = search
            t = jnp.where(tries > 0, shrink * t, t)
            new = objective(_moved(params, t, updates)).astype(dtype)
            error = _excess(new - (1 + rise) * start - t * c1 * slope)
            return t, new, error, tries + 1

        def unfinished(search):
            return ~(search[2] <= slack) & (search[3] <= max_backtracking_steps)

        last = state.learning_rate.astype(dtype)
        first = jnp.minimum(jnp.where(last > 0, grow * last, 1), longest)
        begin = first, start, jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
        t, new, error, tries = jax.lax.while_loop(unfinished, attempt, begin)
        nowhere = jnp.isinf(error)
        if verbose:
            jax.debug.callback(_tell_backtracking, start, slope, t, error, slack)
        t = jnp.where(nowhere, 0, t)
        new = jnp.where(nowhere, start, new)
        if store_grad:
            slopes = jax.grad(objective)(_moved(params, t, updates))
            state = state._replace(grad=cast_like(slopes, state.grad))
        info = cast_like(BacktrackingLinesearchInfo(tries, error), state.info)
        numbers = cast_like((t, new), (state.learning_rate, state.value))
        state = state._replace(learning_rate=numbers[0], value=numbers[1], info=info)
        return _scaled(t, updates), state

    return GradientTransformationExtraArgs(init, update)


def _tell_backtracking(value, slope, t, error, slack) -> None:
    if error <= slack:
        return
    print(
        "scale_by_backtracking_linesearch found no step size with enough decrease: "
        f"value {value}, slope {slope}, last step size {t}, missed by {error}."
    )
    if slope >= 0:
        print(FLAG_NOT_A_DESCENT_DIRECTION)
    if error == float("inf"):
        print("No value was finite: the step is 0.")


# --- the strong Wolfe conditions ------------------------------------------------------------------

FLAG_INTERVAL_NOT_FOUND = (
    "The slope is still steep at the longest step: max_learning_rate may be too small."
)
FLAG_INTERVAL_TOO_SMALL = "The bracket has become shorter than stepsize_precision."
FLAG_CURVATURE_COND_NOT_SATISFIED = (
    "The step has enough decrease, but its slope is steeper than curv_rtol allows."
)
FLAG_NO_STEPSIZE_FOUND = "No step size was found with enough decrease."
FLAG_NOT_A_DESCENT_DIRECTION = "The direction does not lead downhill: its slope is not negative."


class ZoomLinesearchInfo(NamedTuple):
    """How the last search ended.

    Attributes:
      num_linesearch_steps: evaluations of the last update, int32.
      decrease_error: by how much the last point missed the decrease, >= 0.
      curvature_error: by how much its slope was too steep, >= 0.
    """

    num_linesearch_steps: Array
    decrease_error: Array
    curvature_error: Array


class ScaleByZoomLinesearchState(NamedTuple):
    """What `scale_by_zoom_linesearch` remembers.

    Attributes:
      learning_rate: the last t, at first 1.
      value: the objective at the new parameters, at first inf.
      grad: its gradient there, as `jax.grad` returns it.
      info: a `ZoomLinesearchInfo`.
    """

    learning_rate: Array
    value: Array
    grad: Updates
    info: ZoomLinesearchInfo


class _Zoom(NamedTuple):
    """A search; until there is a bracket, `low` is the last point and `high` has no meaning."""

    count: Array
    last: OnLine
    grad: Updates  # at the last point
    low: OnLine  # of those with enough decrease, the one with the least value
    high: OnLine  # the other end of the bracket, on either side
    third: OnLine  # an end of the bracket before, through which the cubic goes
    safe: OnLine  # the best point with enough decrease, t = 0 without one
    safe_grad: Updates
    decrease_error: Array
    curvature_error: Array
    bracketed: Array
    done: Array
    failed: Array
    reached: Array  # whether it ended at the longest step
    narrow: Array  # whether it ended with a short bracket


def scale_by_zoom_linesearch(
    max_linesearch_steps: NumLike,
    max_learning_rate: NumLike | None = None,
    tol: NumLike = 0.0,
    increase_factor: NumLike = 2.0,
    slope_rtol: NumLike = 1e-4,
    curv_rtol: NumLike = 0.9,
    approx_dec_rtol: NumLike | None = 1e-6,
    stepsize_precision: NumLike = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> GradientTransformationExtraArgs:
    """Scale a direction to a step that satisfies the strong Wolfe conditions.

    f(x + t d) <= f(x) + slope_rtol t <g, d> + tol,
    |<g(x + t d), d>| <= curv_rtol |<g, d>| + tol.

    Args:
      max_linesearch_steps: most evaluations in one update.
      max_learning_rate: the longest t, or None for no limit.
      tol: how much both conditions may be missed by.
      increase_factor: what t is multiplied with until there is a bracket.
      slope_rtol: the share of the decrease predicted by the slope that is enough.
      curv_rtol: the share of the slope that may be left; inf drops the second condition.
      approx_dec_rtol: where f is higher by at most this, relative to |f|, slopes decide whether
        the decrease is enough; None for values alone.
      stepsize_precision: length of a bracket at which its best point is taken.
      initial_guess_strategy: the first t of an update: "one", right after a Newton-like method, or
        "keep", that of the last update.
      verbose: whether to print why a search has failed.

    Returns:
      A transformation whose `update` needs `value=`, `grad=` and `value_fn=`; all other extra
      arguments are handed to `value_fn`.

    Raises:
      ValueError: if the strategy is unknown.
      TypeError: in `update`, if an argument is missing, or one is given that `value_fn` lacks.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum(x**2)
      >>> tx = optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15))
      >>> x = jnp.array([1.0, 2.0])
      >>> value, grad = jax.value_and_grad(fun)(x)
      >>> updates, state = tx.update(grad, tx.init(x), x, value=value, grad=grad, value_fn=fun)
      >>> print(fun(optax.apply_updates(x, updates)), state[1].learning_rate)
      0.0 0.5
    """
    name = "scale_by_zoom_linesearch"
    check_choice(f"{name}(initial_guess_strategy=...)", initial_guess_strategy, GUESSES)

    def init(params: Params) -> ScaleByZoomLinesearchState:
        dtype = _numbers_dtype(params)
        infinite = jnp.full((), jnp.inf, dtype)
        return ScaleByZoomLinesearchState(
            jnp.ones((), dtype), infinite, jax.tree.map(jnp.zeros_like, params),
            ZoomLinesearchInfo(jnp.zeros((), jnp.int32), *(jnp.copy(infinite) for _ in range(2))),
        )  # fmt: skip

    def update(
        updates, state, params=None, *, value=None, grad=None, value_fn: Any = None, **extra_args
    ):
        check_given(name, params, dict(value=value, grad=grad, value_fn=value_fn))
        objective = _objective(name, value_fn, extra_args)
        dtype = _numbers_dtype(params)
        value_and_slopes = jax.value_and_grad(objective)

        def at(t: Array) -> tuple[OnLine, Updates]:
            value, slopes = value_and_slopes(_moved(params, t, updates))
            slope = _slope(tree.conj(slopes), updates, dtype)
            return OnLine(t, value.astype(dtype), slope), slopes

        numbers = (
            jnp.inf if max_learning_rate is None else max_learning_rate,
            tol, increase_factor, slope_rtol, curv_rtol, stepsize_precision,
        )  # fmt: skip
        numbers = [jnp.asarray(x, dtype) for x in numbers]
        approx = None if approx_dec_rtol is None else jnp.asarray(approx_dec_rtol, dtype)
        guess = jnp.ones((), dtype)
        if initial_guess_strategy == "keep":
            last = state.learning_rate.astype(dtype)
            guess = jnp.where(last > 0, last, 1)
        value = jnp.asarray(value, dtype).reshape(())
        start = OnLine(jnp.zeros((), dtype), value, _slope(grad, updates, dtype))
        slopes = cast_like(tree.conj(grad), params)
        end = _zoom(at, start, slopes, guess, max_linesearch_steps, approx, *numbers)
        take_safe = end.failed & ((end.safe.t > 0) | jnp.isinf(end.decrease_error))
        found, slopes = pick(take_safe, (end.safe, end.safe_grad), (end.last, end.grad))
        if verbose:
            jax.debug.callback(_tell_zoom, end._replace(grad=None, safe_grad=None), start)
        info = ZoomLinesearchInfo(end.count, end.decrease_error, end.curvature_error)
        new = ScaleByZoomLinesearchState(found.t, found.value, slopes, info)
        return _scaled(found.t, updates), cast_like(new, state)

    return GradientTransformationExtraArgs(init, update)


def _zoom(
    at: Callable[[Array], tuple[OnLine, Updates]], start: OnLine, slopes: Updates, guess: Array,
    max_tries: NumLike, approx_rtol: Array | None, longest: Array, tol: Array, grow: Array,
    c1: Array, c2: Array, precision: Array,
) -> _Zoom:  # fmt: skip
    """Search along a line; `slopes` are the gradient at its start as `jax.grad` returns it."""

    def missed(new: OnLine) -> tuple[Array, Array]:
        decrease = new.value - start.value - c1 * new.t * start.slope
        if approx_rtol is not None:
            flat = new.slope - (2 * c1 - 1) * start.slope
            rise = new.value - start.value - approx_rtol * jnp.abs(start.value)
            decrease = jnp.minimum(decrease, jnp.maximum(flat, rise))
        curvature = jnp.abs(new.slope) - product(c2, jnp.abs(start.slope))
        return _excess(decrease), _excess(curvature)

    def attempt(s: _Zoom) -> _Zoom:
        is_first = s.count == 0
        ahead = jnp.where(is_first, guess, grow * s.last.t)
        reached = ~s.bracketed & (ahead >= longest)
        ahead = jnp.minimum(ahead, longest)
        new, grad = at(jnp.where(s.bracketed, _between(s.low, s.high, s.third), ahead))

        decrease, curvature = missed(new)
        fine = jnp.maximum(decrease, curvature) <= tol
        is_safe = (decrease <= tol) & (~s.bracketed | (new.value < s.safe.value))
        safe, safe_grad = pick(is_safe, (new, grad), (s.safe, s.safe_grad))

        # The bracket: a point without enough decrease is its high end, and others its low one. The
        # old low end becomes the high one if the objective falls from the new point towards it.
        bad = (decrease > 0) | ((new.value >= s.low.value) & (s.bracketed | ~is_first))
        turns = ~bad & (new.slope * jnp.where(s.bracketed, s.high.t - s.low.t, 1) >= 0)
        low = pick(bad, s.low, new)
        high = pick(bad, new, pick(turns, s.low, s.high))
        third = pick(s.bracketed, pick(bad | turns, s.high, s.low), low)
        bracketed = s.bracketed | bad | turns | fine

        done = fine | (reached & ~bracketed)
        narrow = s.bracketed & (jnp.abs(s.high.t - s.low.t) <= precision) & (safe.t > 0)
        failed = ((s.count + 1 >= max_tries) | narrow) & ~done
        return _Zoom(
            safe_increment(s.count), new, cast_like(grad, slopes), low, high, third, safe,
            cast_like(safe_grad, slopes), decrease, curvature, bracketed, done, failed,
            reached & ~fine & done, narrow & failed,
        )  # fmt: skip

    no, infinite = jnp.zeros((), bool), jnp.full_like(guess, jnp.inf)
    begin = _Zoom(
        jnp.zeros((), jnp.int32), start, slopes, start, start, start, start, slopes,
        infinite, infinite, no, no, no, no, no,
    )  # fmt: skip
    return jax.lax.while_loop(lambda s: ~(s.done | s.failed), attempt, begin)


def _between(low: OnLine, high: OnLine, third: OnLine) -> Array:
    """Return the minimum of a cubic or else a parabola through a bracket, or else its middle."""
    left, right = jnp.minimum(low.t, high.t), jnp.maximum(low.t, high.t)
    width = right - left

    def inside(t: Array, margin: float) -> Array:  # false for nan
        return (t > left + margin * width) & (t < right - margin * width)

    cubic, parabola = cubic_minimum(low, high, third), parabola_minimum(low, high)
    t = jnp.where(inside(parabola, 0.1), parabola, (low.t + high.t) / 2)
    return jnp.where(inside(cubic, 0.2), cubic, t)


def _second_differences(a: OnLine, b: OnLine) -> Array:
    """Return (f(b) - f(a) - f'(a) h) / h^2."""
    h = b.t - a.t
    return ((b.value - a.value) / h - a.slope) / h


def cubic_minimum(a: OnLine, b: OnLine, c: OnLine) -> Array:
    """Return the minimum of the cubic through three points with the slope at a, or nan."""
    at_b, at_c = _second_differences(a, b), _second_differences(a, c)
    cubed = (at_b - at_c) / (b.t - c.t)
    squared = at_b - cubed * (b.t - a.t)
    return a.t + (-squared + jnp.sqrt(squared**2 - 3 * cubed * a.slope)) / (3 * cubed)


def parabola_minimum(a: OnLine, b: OnLine) -> Array:
    """Return the minimum of the parabola through two points with the slope at a, or nan."""
    return a.t - a.slope / (2 * _second_differences(a, b))


def _tell_zoom(end: _Zoom, start: OnLine) -> None:
    if end.done and not end.reached:
        return
    print(
        f"scale_by_zoom_linesearch: value {start.value}, slope {start.slope}, step size "
        f"{end.last.t}; decrease missed by {end.decrease_error}, curvature by "
        f"{end.curvature_error}, after {end.count} evaluations."
    )
    if end.reached:
        print(FLAG_INTERVAL_NOT_FOUND)
    if end.narrow:
        print(FLAG_INTERVAL_TOO_SMALL)
    if end.reached or end.safe.t > 0:
        print(FLAG_CURVATURE_COND_NOT_SATISFIED, f"Step size {end.safe.t}.")
        return
    print(FLAG_NO_STEPSIZE_FOUND)
    if not start.slope < 0:
        print(FLAG_NOT_A_DESCENT_DIRECTION)
    elif end.decrease_error == float("inf"):
        print("No value was finite: the step is 0.")
    else:
        print("The step is the last one tried. More evaluations or float64 may find a better one.")


# --- what a search keeps --------------------------------------------------------------------------


def value_and_grad_from_state(
    value_fn: Callable[..., Any],
) -> Callable[..., tuple[Array, Updates]]:
    """Return a `jax.value_and_grad` that reuses what the last line search computed.

    Args:
      value_fn: `value_fn(params, *args, **kwargs)`, the objective.

    Returns:
      `value_and_grad(params, *args, state, **kwargs)`. It evaluates the objective if the state has
      no finite value, as before the first update; and, unlike optax, if anything that follows or
      wraps the line search may have changed its step.

    Raises:
      ValueError: if there is no value and gradient in the state.
      KeyError: if there is more than one.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> def fun(x): return jnp.sum(x**2)
      >>> x, tx = jnp.ones(2), optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15))
      >>> value, grad = optax.value_and_grad_from_state(fun)(x, state=tx.init(x))
      >>> print(value, grad)
      2.0 [2. 2.]
    """

    def value_and_grad(
        params: Params, *args: Any, state: OptState, **kwargs: Any
    ) -> tuple[Array, Updates]:
        value, grad = tree.get(state, "value"), tree.get(state, "grad")
        if value is None or grad is None:
            raise ValueError(
                "value_and_grad_from_state needs a state with a value and a gradient. A line "
                "search keeps them; the backtracking one only with store_grad=True."
            )

        def evaluated():
            new = jax.value_and_grad(value_fn)(params, *args, **kwargs)
            return cast_like(new, (value, grad))

        if not _is_last(state, value):
            return evaluated()
        return jax.lax.cond(jnp.isfinite(value), lambda: (value, grad), evaluated)

    return value_and_grad


def _is_last(state: OptState, value: Array) -> bool:
    """Return whether `value` belongs to the last transformation of a chain."""
    while (type(state) is tuple and state) or isinstance(state, InjectStatefulHyperparamsState):
        state = state[-1]
    return getattr(state, "value", None) is value
