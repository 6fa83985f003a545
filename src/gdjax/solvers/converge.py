"""Update until the gradient is small, in one loop on the device.

How a solver takes part: its slots may hold `value` and `grad`, those at the new parameters, which
are then not computed again unless it is wrapped; `evals`, what the last update evaluated; `failed`,
whether it found no better point; `nonfinite`, whether it met a value that was not finite;
`settled`, whether no step can change the value by more than rounding; and methods `optimality` and
`feasible`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import State, is_state
from gdjax.core.chain import apply_updates
from gdjax.core.checks import NONNEGATIVE, Range, as_float_leaves, check_range
from gdjax.core.numerics import compute_dtype, scalar_dtype
from gdjax.solvers.line import found_in, pick
from gdjax.solvers.optimality import feasible, optimality
from gdjax.solvers.result import Status

STEPS = Range("a whole number from 0 to 2**31 - 1", lambda x: 0 <= x < 2**31 and x == round(x))


class Carry(NamedTuple):
    """What goes from update to update."""

    params: Any
    state: Any
    value: Array
    grad: Any
    grad_norm: Array
    steps: Array
    evaluations: Array
    failures: Array  # updates in a row that found no better point
    status: Array  # -1 while running
    trace: Any


def largest(tree: Any) -> Array:
    """Return the largest magnitude of an element, in the dtype of numbers; 0 of none."""
    sizes = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
    dtype = scalar_dtype()
    return functools.reduce(jnp.maximum, [x.astype(dtype) for x in sizes], jnp.zeros((), dtype))


def start_of(
    name: str, params: Any, args: Any, tol: Any, max_steps: Any
) -> tuple[Any, Array, Array]:
    """Return parameters, tolerance and step limit as arrays, or say what is wrong with them."""
    if not isinstance(args, (tuple, list)):
        kind = type(args).__name__
        raise TypeError(f"{name}(args=...) must be a tuple, as in args=(x,), got {kind}.")
    if params is None:
        raise TypeError(f"{name} needs parameters to start from, got None.")
    leaves, treedef = as_float_leaves(f"{name}: the parameters", params)
    leaves = [jnp.asarray(x) for x in leaves]
    if tol is None:
        tol = float(jnp.finfo(compute_dtype(*leaves)).eps) ** 0.5
    for what, value, allowed in (("tol", tol, NONNEGATIVE), ("max_steps", max_steps, STEPS)):
        check_range(f"{name}({what}=...)", value, allowed)
        if np.ndim(value):
            raise TypeError(
                f"{name}({what}=...) must be one number, got an array of shape {np.shape(value)}. "
                "For several at once use jax.vmap."
            )
    params = treedef.unflatten(leaves)
    return params, jnp.asarray(tol, scalar_dtype()), jnp.asarray(max_steps, jnp.int32)


def slots_in(state: Any) -> list[Any]:
    """Return the slots of every optimizer in a state."""
    found = []
    for node in jax.tree.leaves(state, is_leaf=is_state):
        if isinstance(node, State):
            found += [node.slots, *slots_in(node.slots)]
    return found


def reported(state: Any, name: str) -> Array:
    """Return the sum of what the slots in a state report under a name."""
    values = [getattr(slots, name) for slots in slots_in(state) if hasattr(slots, name)]
    return functools.reduce(jnp.add, [jnp.asarray(v, jnp.int32) for v in values], jnp.int32(0))


def uphill(value_fn: Callable) -> Callable:
    """Return `value_and_grad` of a real function, at least float32, its gradient uphill."""

    def number(params):
        value = value_fn(params)
        if hasattr(value, "dtype") or isinstance(value, (int, float, complex)):
            value = jnp.asarray(value)
            if value.shape == () and jnp.issubdtype(value.dtype, jnp.floating):
                return value
            got = f"{value.dtype}{list(value.shape)}"
        else:
            got = type(value).__name__
        raise TypeError(
            f"minimize(fun=...) must return one real number, got {got}. With has_aux=True it "
            "returns (value, aux)."
        )

    def value_and_grad(params):
        value, grad = jax.value_and_grad(number)(params)
        grad = jax.tree.map(lambda g: jnp.conj(g).astype(compute_dtype(g)), grad)
        return value.astype(compute_dtype(value)), grad

    return value_and_grad


def converge(
    value_and_grad: Callable,
    update: Callable,
    params: Any,
    state: Any,
    tol: Array,
    max_steps: Any,
    extra: dict[str, Any],
    trace: bool = False,
    show: Callable | None = None,
) -> Carry:
    """Update until the gradient is small, in one `while_loop`.

    Args:
      value_and_grad: `value_and_grad(params)`, the gradient pointing uphill.
      update: the optimizer's. It is given `value`, `grad` and what is in `extra`.
      params: where to start.
      state: the optimizer's state there.
      tol: largest magnitude in the gradient that is small.
      max_steps: most updates.
      extra: extra arguments of `update` that do not change, such as `value_fn`.
      trace: whether to record each step; `max_steps` must then be an int.
      show: called with the arrays steps, value and norm after each update.
    """

    def look(params, state, value, grad):
        norm = largest(optimality(state, params, grad))
        fine = jnp.isfinite(value) & jnp.isfinite(norm)
        status = jnp.where(norm <= tol, Status.CONVERGED, -1)
        return norm, jnp.where(fine, status, Status.NONFINITE).astype(jnp.int32)

    def unfinished(c: Carry) -> Array:
        return (c.status < 0) & (c.steps < max_steps)

    def step(c: Carry) -> Carry:
        given = dict(value=c.value, grad=c.grad, **extra)
        updates, state = update(c.grad, c.state, c.params, **given)
        params = feasible(state, apply_updates(c.params, updates))
        kept, evaluations = found_in(state), reported(state, "evals")
        if kept is not None:
            value, grad = kept.value, kept.grad
        else:
            value, grad = value_and_grad(params)
            evaluations += 1
        value = value.astype(c.value.dtype)
        grad = jax.tree.map(lambda g, old: g.astype(old.dtype), grad, c.grad)
        norm, status = look(params, state, value, grad)
        settled = (status < 0) & (reported(state, "settled") > 0)
        status = jnp.where(settled, Status.CONVERGED, status).astype(jnp.int32)
        failures = jnp.where(reported(state, "failed") > 0, c.failures + 1, 0)
        met = (reported(state, "nonfinite") > 0) | ~jnp.isfinite(norm * norm)
        verdict = jnp.where(met, Status.NONFINITE, Status.LINE_SEARCH_FAILED)
        failed = (status < 0) & (failures >= 2)  # after the first, a solver may start afresh
        status = jnp.where(failed, verdict, status).astype(jnp.int32)
        keep = (status == Status.NONFINITE) & ~failed
        new, old = (params, value, grad, norm), (c.params, c.value, c.grad, c.grad_norm)
        params, value, grad, norm = pick(keep, old, new)
        if kept is None:  # a solver's own state is never nonfinite; to select it takes copies
            state = pick(keep, c.state, state)
        steps = c.steps + 1
        record = c.trace
        if trace:
            before = dict(value=c.value, grad_norm=c.grad_norm)
            record = {k: record[k].at[c.steps].set(v) for k, v in before.items()}
        if show is not None:
            show(steps, value, norm)
        evaluations = c.evaluations + evaluations
        return Carry(params, state, value, grad, norm, steps, evaluations, failures, status, record)

    params = feasible(state, params)
    value, grad = value_and_grad(params)
    norm, status = look(params, state, value, grad)
    record = None
    if trace:
        nans = jnp.full(int(max_steps), jnp.nan)
        record = dict(value=nans.astype(value.dtype), grad_norm=nans.astype(norm.dtype))
    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
    start = Carry(params, state, value, grad, norm, zero, one, zero, status, record)
    end = jax.lax.while_loop(unfinished, step, start)
    return end._replace(status=jnp.where(end.status < 0, Status.STEP_LIMIT, end.status))
