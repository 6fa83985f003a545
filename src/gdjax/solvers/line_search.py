"""Line searches: the objective along a direction, what a search keeps, the strong Wolfe search.

A line search takes the direction from the optimizer before it in the chain and returns the step. It
evaluates value and gradient together and keeps both at the accepted point, so that the next update
need not compute them again (`value_and_grad_from_state`). Parameters and directions are one real
vector, as in all methods that solve linear systems.

`scale_by_zoom_linesearch` finds the strong Wolfe conditions by cubic interpolation in a bracket:
Nocedal & Wright (2006), "Numerical optimization", Algorithms 3.5 and 3.6; the approximate condition
for values that are all rounding: Hager & Zhang (2005), https://doi.org/10.1137/030601880, (4.1).
Paper -> here: alpha -> t, c_1 -> slope_rtol, c_2 -> curv_rtol, epsilon -> approx_dec_rtol.
Deviations: growing and zooming are one loop; until there is a bracket its upper end is infinite,
and the next point lies where the slope vanishes by the secant, within the bounds of More & Thuente
(1994), https://doi.org/10.1145/192115.192132, section 4.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, State
from gdjax.core.chain import chain, with_extra_args_support
from gdjax.core.checks import (
    ABOVE_ONE,
    NONNEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    WHOLE,
    check_choice,
    checked,
)
from gdjax.core.fits import NEEDS_PARAMS, loss_given
from gdjax.core.lift import treewise
from gdjax.core.numerics import compute_dtype, scalar_dtype
from gdjax.core.protocols import KeepsGradient, states_in
from gdjax.core.types import LossFn, OptState, Pair, Params, PyTree, Scalar, Updates
from gdjax.core.vectors import as_tree, as_vector
from gdjax.transforms.scale import scale_by_learning_rate

# --- the objective along a line -------------------------------------------------------------------


def is_curved(s: Array, y: Array, sy: Array, yy: Array) -> Array:
    """Return whether a step s and y, how the gradient changed, show positive curvature.

    <s, y> > eps |s| |y|, which does not depend on units.
    """
    length = jnp.sqrt(jnp.vdot(s, s)) * jnp.sqrt(yy)
    return jnp.isfinite(yy) & (sy > jnp.finfo(s.dtype).eps * length)


class Point(NamedTuple):
    """A point x + t d on a line."""

    t: Array
    value: Array  # phi(t), the objective there
    slope: Array  # phi'(t), its derivative along d
    grad: Array  # its gradient, a vector


class LineSearch(NamedTuple):
    """The slots of a line search."""

    learning_rate: Array  # the last step size t, 1 at first
    value: Array  # the objective at the new parameters, inf before the first update
    grad: Any  # its gradient there, shaped like the parameters, at least float32
    evals: Array  # evaluations of value and gradient in the last update, int32
    failed: Array  # whether the last update found no better point; it was then 0
    nonfinite: Array  # whether a value was not finite in the last update


class Line(NamedTuple):
    """The line of one update."""

    at: Callable[[Array], Point]  # evaluates value and gradient
    value_at: Callable[[Array], Array]  # evaluates the value alone
    moves: Callable[[Array], Array]  # whether x + t d is not x, rounded
    start: Point  # t = 0
    direction: Array  # d
    descends: Array  # whether d is finite and leads downhill


def fresh(params: Params) -> LineSearch:
    """Return the slots before the first update."""
    no, inf = jnp.zeros((), bool), jnp.full((), jnp.inf, scalar_dtype())
    grad = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=compute_dtype(p)), params)
    return LineSearch(
        jnp.ones((), scalar_dtype()), inf, grad, jnp.zeros((), jnp.int32), no, jnp.array(False)
    )


def line(name: str, updates: Updates, raw_params: Params, extra: dict[str, Any]) -> Line:
    """Return the line from the parameters along the updates.

    Args:
      name: what the user called, for errors.
      updates: the direction, a tree.
      raw_params: the parameters in their own dtype.
      extra: all extra arguments of the update. `value_fn` gets those that it takes by name.
    """
    check_given(name, raw_params, extra)
    value_fn, more = extra["value_fn"], accepted(extra["value_fn"], extra)
    d, x, g = as_vector(updates), as_vector(raw_params), as_vector(extra["grad"])
    if d.size != g.size:
        raise ValueError(
            f"{name}: grad=... has {g.size} elements, the updates have {d.size}. value_fn= takes "
            "all parameters, so a line search cannot be the optimizer of a group: close over what "
            "is kept fixed, and minimize over the rest."
        )
    dtype = jnp.result_type(d, x, g)
    d, x, g = d.astype(dtype), x.astype(dtype), g.astype(dtype)

    def fun(x):
        return jnp.asarray(value_fn(as_tree(x, raw_params), **more)).astype(dtype).reshape(())

    def at(t: Array) -> Point:
        value, grad = jax.value_and_grad(fun)(x + t * d)
        return Point(t, value, jnp.vdot(grad, d), grad)

    value = loss_given(name, extra["value"]).astype(dtype)
    slope = jnp.vdot(g, d)
    start = Point(jnp.zeros((), dtype), value, slope, g)
    return Line(
        at,
        lambda t: fun(x + t * d),
        lambda t: jnp.any(x + t * d != x),
        start,
        d,
        is_finite(start) & (slope < 0),
    )


def check_given(name: str, raw_params: Params, extra: dict[str, Any]) -> None:
    """Raise if an update lacks the parameters, or an extra argument of line searches."""
    if raw_params is None:
        raise ValueError(f"{name} needs {NEEDS_PARAMS}")
    for key in ("value", "grad", "value_fn"):
        if extra.get(key) is None:
            raise TypeError(
                f"{name} needs {key}=...: call update(grads, state, params, value=value, "
                "grad=grads, value_fn=value_fn)."
            )


def accepted(function: Callable, extra: dict[str, Any]) -> dict[str, Any]:
    """Return the extra arguments that a function takes by name, except a line search's own."""
    own = ("value", "grad", "value_fn")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    names = {p.name for p in list(parameters)[1:]}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = set(extra)
    return {k: v for k, v in extra.items() if k in names and k not in own}


def is_finite(point: Point) -> Array:
    """Return whether value and slope are finite."""
    return jnp.isfinite(point.value) & jnp.isfinite(point.slope)


def pick(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """Return one of two trees of arrays, whichever the condition says."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def remember(
    slots: LineSearch, line: Line, end: Point, evals: Array, failed: Array, nonfinite: Array
) -> tuple[Array, LineSearch]:
    """Return the step to the end point, a vector, and the new slots; a step of 0 if it failed."""
    nonfinite = nonfinite | ~is_finite(line.start)  # its slope may overflow
    failed = failed | ~line.moves(end.t)
    end = pick(failed, line.start, end)
    step = jnp.where(failed, 0, end.t * line.direction)
    rate = jnp.where(failed, slots.learning_rate, end.t)
    return step, LineSearch(
        rate, end.value, as_tree(end.grad, slots.grad), evals, failed, nonfinite
    )


def tell(learning_rate: Array, evals: Array, done: Array, failed: Array) -> None:
    """Print the outcome of an update, also from a compiled loop."""
    text = "line search: step size {t}, evaluations {n}, conditions met {done}, failed {failed}"
    jax.debug.print(text, t=learning_rate, n=evals, done=done, failed=failed)


class Searched(NamedTuple):
    """The slots of a direction and of the line search after it, in one state."""

    direction: Any  # slots of the direction
    learning_rate: Array  # as the following, see `LineSearch`
    value: Array
    grad: Any
    evals: Array
    failed: Array
    nonfinite: Array


def searched(
    name: str, direction: Optimizer, learning_rate: Scalar | None, linesearch: Pair | None
) -> Optimizer:
    """Return the chain of an uphill direction, a rate (None is 1), and a line search or None.

    With a line search of this package the chain has one state, with one count and one set of
    numbers: loops written for optax's L-BFGS look for *the* count in it.
    """
    rate = 1.0 if learning_rate is None else learning_rate
    if linesearch is None:
        return chain(direction, scale_by_learning_rate(rate))
    linesearch = with_extra_args_support(linesearch)
    example = linesearch.init(jnp.zeros(()))
    if not (isinstance(example, State) and isinstance(example.slots, LineSearch)):
        return chain(direction, scale_by_learning_rate(rate), linesearch)
    theirs, own = (tuple(s.hyperparams) for s in (example, direction.init(jnp.zeros(()))))
    scaled = {} if learning_rate is None else {"learning_rate": learning_rate}
    joined = treewise(
        _searched, None, {**dict.fromkeys(own + theirs), **scaled}, name=name, caller=name,
        direction_update=direction.update, direction_numbers=own,
        linesearch_update=linesearch.update, linesearch_numbers=theirs,
    )  # fmt: skip

    def init(params: Params) -> State:
        state, first, second = (x.init(params) for x in (joined, direction, linesearch))
        numbers = {**state.hyperparams, **first.hyperparams, **second.hyperparams}
        return State(state.count, numbers, Searched(first.slots, *second.slots))

    return Optimizer(init, joined.update)


def _searched(
    grads, slots, params, count, *, raw_params, caller, direction_update, direction_numbers,
    linesearch_update, linesearch_numbers, learning_rate=None, **rest,
):  # fmt: skip
    check_given(caller, raw_params, rest)
    first = State(count - 1, {k: rest.pop(k) for k in direction_numbers}, slots.direction)
    numbers = {k: rest.pop(k) for k in linesearch_numbers}
    second = State(count - 1, numbers, LineSearch(*slots[1:]))
    uphill, first = direction_update(grads, first, raw_params, **rest)
    factor = -1.0 if learning_rate is None else -learning_rate
    down = jax.tree.map(lambda d: d * jnp.asarray(factor).astype(d.real.dtype), uphill)
    updates, second = linesearch_update(down, second, raw_params, **rest)
    return updates, Searched(first.slots, *second.slots)


def known_gradient(state: OptState) -> KeepsGradient | None:
    """Return the slots with value and gradient at the new parameters, or None.

    They hold there if nothing changes the step of a line search or solver: if it is the optimizer
    itself, or ends a chain. What wraps it or follows it may make another step of it.
    """
    while type(state) is tuple and state:
        state = state[-1]
    slots = state.slots if isinstance(state, State) else None
    return slots if isinstance(slots, KeepsGradient) else None


def value_and_grad_from_state(value_fn: LossFn) -> Callable[..., tuple[Array, PyTree]]:
    """Return a `jax.value_and_grad` that reuses what the last line search computed.

    Args:
      value_fn: `value_fn(params, *args, **kwargs)`, the objective, a real number.

    Returns:
      `value_and_grad(params, *args, state, **kwargs)`. It evaluates `value_fn` if the state holds
      no finite value, as before the first update, or if something that wraps or follows the line
      search may have changed its step.

    Raises:
      ValueError: if there is no value and gradient anywhere in the state.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum((x - 1) ** 4)
      >>> opt = gdjax.lbfgs()
      >>> x, value_and_grad = jnp.zeros(2), gdjax.value_and_grad_from_state(fun)
      >>> state = opt.init(x)
      >>> for _ in range(10):
      ...     value, grad = value_and_grad(x, state=state)
      ...     updates, state = opt.update(grad, state, x, value=value, grad=grad, value_fn=fun)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(bool(value < 1e-4))
      True
    """

    def value_and_grad(
        params: Params, *args: Any, state: OptState, **kwargs: Any
    ) -> tuple[Array, PyTree]:
        slots = known_gradient(state)
        if slots is None:
            if any(isinstance(node.slots, KeepsGradient) for _, node in states_in(state)):
                value, grad = jax.value_and_grad(value_fn)(params, *args, **kwargs)
                return value, jax.tree.map(jnp.conj, grad)
            raise ValueError(
                "value_and_grad_from_state needs a state with one value and gradient, got 0. A "
                "line search keeps them; the backtracking one only with store_grad=True."
            )
        value, grad = slots.value, slots.grad

        def evaluated():
            value_now, grad_now = jax.value_and_grad(value_fn)(params, *args, **kwargs)
            grad_now = jax.tree.map(jnp.conj, grad_now)  # uphill, for complex numbers too
            cast = jax.tree.map(lambda a, b: a.astype(b.dtype), grad_now, grad)
            return value_now.astype(value.dtype), cast

        return jax.lax.cond(jnp.isfinite(value), lambda: (value, grad), evaluated)

    return value_and_grad


# --- the strong Wolfe conditions ------------------------------------------------------------------

GUESSES = ("one", "keep")


class Bracket(NamedTuple):
    """Between two points lies one with the Wolfe conditions."""

    low: Point  # of those with enough decrease, the one with the least value
    high: Point  # the other end; t is inf before there is one
    t: Array  # the next point to try
    tries: Array
    done: Array  # whether low has the Wolfe conditions
    nonfinite: Array


def next_try(
    low: Point, high: Point, last: Point, new: Point, grow: Array, longest: Array
) -> Array:
    """Return the next t: in a bracket by a cubic (N&W 3.59), before there is one by a secant.

    Args:
      low: the new bracket's end with the lower value.
      high: its other end; t is inf before there is one.
      last: the lower end before.
      new: the point tried last.
      grow: the most that the increase of t may be multiplied by.
      longest: the largest t.
    """
    step, gain = new.t - last.t, new.slope - last.slope
    t = jnp.where(gain > 0, -new.slope / jnp.where(gain > 0, gain, 1), jnp.inf) * step
    ahead = jnp.minimum(new.t + jnp.clip(t, 1.1 * step, grow * step), longest)

    d1 = low.slope + high.slope - 3 * (low.value - high.value) / (low.t - high.t)
    inside = d1 * d1 - low.slope * high.slope
    d2 = jnp.sign(high.t - low.t) * jnp.sqrt(jnp.maximum(inside, 0))
    width = high.t - low.t
    t = high.t - width * (high.slope + d2 - d1) / (high.slope - low.slope + 2 * d2)
    t = jnp.where(inside >= 0, t, jnp.nan)
    near, far = low.t + 0.01 * width, low.t + 0.99 * width  # kept away from the ends
    t = jnp.clip(t, jnp.minimum(near, far), jnp.maximum(near, far))
    t = jnp.where(jnp.isfinite(t), t, low.t + 0.5 * width)
    t = jnp.where(is_finite(high), t, low.t + 0.1 * width)
    return jnp.where(jnp.isfinite(high.t), t, ahead)


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
        t = jnp.where(done, b.t, next_try(low, high, b.low, new, grow, longest))
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
        tell(slots.learning_rate, slots.evals, end.done, slots.failed)
    return as_tree(step, updates), slots


@checked(max_linesearch_steps=WHOLE, max_learning_rate=POSITIVE, tol=NONNEGATIVE,
         increase_factor=ABOVE_ONE, slope_rtol=OPEN_UNIT, curv_rtol=OPEN_UNIT,
         approx_dec_rtol=NONNEGATIVE, stepsize_precision=NONNEGATIVE)  # fmt: skip
def scale_by_zoom_linesearch(
    max_linesearch_steps: Scalar = 30,
    max_learning_rate: Scalar | None = None,
    tol: Scalar = 0.0,
    increase_factor: Scalar = 4.0,
    slope_rtol: Scalar = 1e-4,
    curv_rtol: Scalar = 0.9,
    approx_dec_rtol: Scalar | None = None,
    stepsize_precision: Scalar = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> Optimizer:
    r"""Scale a direction to a step that satisfies the strong Wolfe conditions.

    With :math:`\varphi(t) = f(x + t d)`:

    .. math::

       \varphi(t) &\le \varphi(0) + c_1\, t\, \varphi'(0) \\
       |\varphi'(t)| &\le c_2\, |\varphi'(0)|

    Where f cannot show a decrease, because it is all rounding, the slopes alone decide, within 10
    tries. Values that are not finite count as too high. If nothing was found within
    `max_linesearch_steps`, the best point with enough decrease is taken; if there is none, the
    update is 0, and `failed` in the state says so.

    Differences: compared with optax, the state is never NaN, and compiles once; `approx_dec_rtol`
    follows the dtype, as 1e-6 would let float64 go uphill; `stepsize_precision` is relative, since
    steps of 1e-6 may be just right; t grows as the slopes predict, where optax multiplies it by 2.

    Args:
      max_linesearch_steps: most evaluations in one update, >= 1.
      max_learning_rate: the longest step size t > 0, or None for no limit.
      tol: how much both conditions may be missed by, >= 0.
      increase_factor: while the slope is too steep, t grows to where the last slopes predict that
        it vanishes, but by at most this factor times the last increase of t, > 1.
      slope_rtol: :math:`c_1` in (0, 1), the share of the decrease predicted by the slope that is
        enough.
      curv_rtol: :math:`c_2` in (0, 1), the share of the slope that may be left.
      approx_dec_rtol: increase of f, relative to its magnitude, that counts as rounding, >= 0; None
        is ten times the precision of the dtype.
      stepsize_precision: width >= 0 of a bracket, relative to t, at which its better end is taken.
      initial_guess_strategy: the first t of an update: "one", right after a Newton-like method, or
        "keep", that of the last update.
      verbose: whether to print each update's step size and number of evaluations.

    Returns:
      An `Optimizer` to end a chain with, after a direction that leads downhill. `update` needs the
      parameters, `value=`, `grad=` and `value_fn=`; further extra arguments that `value_fn` takes
      by name are passed on. State: 4 bytes per element, the gradient for the next update.

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
    numbers: dict[str, Scalar] = dict(
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
    return treewise(
        _zoom_linesearch, fresh, numbers, name="scale_by_zoom_linesearch",
        guess=initial_guess_strategy, verbose=verbose,
    )  # fmt: skip
