"""The objective along a line, and what every line search remembers and reports.

A line search takes the direction from the optimizer before it in the chain, and gives the step. It
evaluates value and gradient at once; those at the accepted point are kept, so that the next update
need not compute them again (`value_and_grad_from_state`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, State, is_state
from gdjax.core.chain import chain, with_extra_args_support
from gdjax.core.lift import NEEDS_PARAMS
from gdjax.core.numerics import compute_dtype, scalar_dtype
from gdjax.core.treewise import treewise
from gdjax.solvers.vector import as_tree, as_vector
from gdjax.transforms.scale import scale_by_learning_rate


class Point(NamedTuple):
    """A point x + t d on a line."""

    t: Array
    value: Array  # phi(t), the objective there
    slope: Array  # phi'(t), its derivative along d
    grad: Array  # its gradient, a vector


class LineSearch(NamedTuple):
    """What a line search remembers."""

    learning_rate: Array  # the last step size t, 1 at first
    value: Array  # the objective at the new parameters, inf before the first update
    grad: Any  # its gradient there, shaped like the parameters, at least float32
    evals: Array  # evaluations of value and gradient in the last update, int32
    failed: Array  # whether the last update found no point to go to; it was then 0
    nonfinite: Array  # whether a value was not finite in the last update


class Line(NamedTuple):
    """The line of one update."""

    at: Callable[[Array], Point]  # evaluates value and gradient
    value_at: Callable[[Array], Array]  # evaluates the value alone
    moves: Callable[[Array], Array]  # whether x + t d is not x, rounded
    start: Point  # t = 0
    direction: Array  # d
    descends: Array  # whether d is finite and leads downhill


def fresh(params: Any) -> LineSearch:
    """Return the memory before the first update."""
    no, inf = jnp.zeros((), bool), jnp.full((), jnp.inf, scalar_dtype())
    grad = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=compute_dtype(p)), params)
    return LineSearch(
        jnp.ones((), scalar_dtype()), inf, grad, jnp.zeros((), jnp.int32), no, jnp.array(False)
    )


def line(name: str, updates: Any, raw_params: Any, extra: dict) -> Line:
    """Return the line from the parameters along the updates; `extra` are all extras of the update.

    Those that `value_fn` takes by name are handed to it.
    """
    if raw_params is None:
        raise ValueError(f"{name} needs {NEEDS_PARAMS}")
    for key in ("value", "grad", "value_fn"):
        if extra.get(key) is None:
            raise TypeError(
                f"{name} needs {key}=...: call update(grads, state, params, value=value, "
                "grad=grads, value_fn=value_fn)."
            )
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

    value = jnp.asarray(extra["value"]).astype(dtype).reshape(())
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


def accepted(function: Callable, extra: dict) -> dict:
    """Return the extras, besides a line search's own, that a function takes by name."""
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


def pick(condition: Array, yes: Any, no: Any) -> Any:
    """Return one of two trees of numbers or vectors."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def remember(
    slots: LineSearch, line: Line, end: Point, evals: Array, failed: Array, nonfinite: Array
) -> tuple[Any, LineSearch]:
    """Return the step to the end point, as a vector, and the memory of it; no step if it failed."""
    nonfinite = nonfinite | ~is_finite(line.start)  # its slope may overflow
    failed = failed | ~line.moves(end.t)
    end = pick(failed, line.start, end)
    step = jnp.where(failed, 0, end.t * line.direction)
    rate = jnp.where(failed, slots.learning_rate, end.t)
    return step, LineSearch(
        rate, end.value, as_tree(end.grad, slots.grad), evals, failed, nonfinite
    )


def tell(slots: Any, done: Array) -> None:
    """Print how an update went, also from a compiled loop."""
    text = "line search: step size {t}, evaluations {n}, conditions met {done}, failed {failed}"
    jax.debug.print(text, t=slots.learning_rate, n=slots.evals, done=done, failed=slots.failed)


class Searched(NamedTuple):
    """What a direction and a line search remember, in the one state of both."""

    direction: Any
    search: LineSearch

    value = property(lambda self: self.search.value)
    grad = property(lambda self: self.search.grad)
    evals = property(lambda self: self.search.evals)
    failed = property(lambda self: self.search.failed)
    nonfinite = property(lambda self: self.search.nonfinite)


def searched(direction: Optimizer, learning_rate: Any, linesearch: Any) -> Optimizer:
    """Return the chain of an uphill direction, a rate (None is 1), and a line search or None.

    With a line search of this room the chain has one state, with one count and one set of numbers:
    loops written for optax's L-BFGS look for *the* count in it.
    """
    rate = 1.0 if learning_rate is None else learning_rate
    plain = [direction, scale_by_learning_rate(rate)]
    if linesearch is None:
        return chain(*plain)
    linesearch = with_extra_args_support(linesearch)
    example = linesearch.init(jnp.zeros(())), direction.init(jnp.zeros(()))
    ours = all(isinstance(state, State) for state in example)
    if not (ours and isinstance(example[0].slots, LineSearch)):
        return chain(*plain, linesearch)
    theirs, own = (tuple(state.hyperparams) for state in example)
    rule = _in_one(direction.update, linesearch.update, own, theirs)
    joined = treewise(rule, None, {} if learning_rate is None else dict(learning_rate=rate))

    def init(params: Any) -> State:
        state, first, second = (x.init(params) for x in (joined, direction, linesearch))
        numbers = {**first.hyperparams, **second.hyperparams, **state.hyperparams}
        return State(state.count, numbers, Searched(first.slots, second.slots))

    return Optimizer(init, joined.update)


@functools.lru_cache(maxsize=1024)
def _in_one(direction: Callable, search: Callable, own: tuple, theirs: tuple) -> Callable:
    def step(grads, slots, params, count, *, raw_params, learning_rate=None, **rest):
        first = State(count - 1, {k: rest.pop(k) for k in own}, slots.direction)
        second = State(count - 1, {k: rest.pop(k) for k in theirs}, slots.search)
        uphill, first = direction(grads, first, raw_params, **rest)
        factor = -1.0 if learning_rate is None else -learning_rate
        down = jax.tree.map(lambda d: d * jnp.asarray(factor).astype(d.real.dtype), uphill)
        updates, second = search(down, second, raw_params, **rest)
        return updates, Searched(first.slots, second.slots)

    step.__name__ = "_" + direction.__name__.removeprefix("scale_by_")
    return step


def found_in(state: Any) -> Any:
    """Return the slots with value and gradient at the new parameters, or None.

    They hold there if nothing changes the step of a line search or solver: if it is the optimizer
    itself, or ends a chain. What wraps it or follows it may make another step of it.
    """
    while type(state) is tuple and state:
        state = state[-1]
    slots = state.slots if isinstance(state, State) else None
    return slots if _keeps_gradient(slots) else None


def _keeps_gradient(slots: Any) -> bool:
    return hasattr(slots, "value") and hasattr(slots, "grad")


def has_search(state: Any) -> bool:
    """Return whether a line search or solver that keeps its gradient is somewhere in a state."""
    for node in jax.tree.leaves(state, is_leaf=is_state):
        if isinstance(node, State) and (_keeps_gradient(node.slots) or has_search(node.slots)):
            return True
    return False


def value_and_grad_from_state(value_fn: Callable) -> Callable:
    """Return a `jax.value_and_grad` that takes what the last line search computed already.

    Args:
      value_fn: `value_fn(params, *args, **kwargs)`, the objective, a real number.

    Returns:
      `value_and_grad(params, *args, state, **kwargs)`. It evaluates if the state holds no finite
      value, as before the first update, or if something that wraps or follows the line search may
      have made another step of its step.

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

    def value_and_grad(params: Any, *args: Any, state: Any, **kwargs: Any) -> tuple[Array, Any]:
        slots = found_in(state)
        if slots is None:
            if has_search(state):
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
