"""Operations that run only every few steps, at fixed intervals."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import State
from gdjax.core.placement import replicated_like
from gdjax.core.types import Params, PyTree, T


def as_interval(value: Array, count: Array) -> Array:
    """Return a hyperparameter as a whole number of steps >= 1, in the dtype of the count."""
    return jnp.maximum(jnp.round(value).astype(count.dtype), 1)


def is_due(count: Array, interval: Array, phase: Array | None = None) -> Array:
    """Return whether step `count` = 1, 2, ... is one of 1, 1 + interval, 1 + 2 interval, ...

    A phase in [0, 1) makes all but step 1 that part of an interval later, so that what has
    different phases is not due in the same step.
    """
    interval = as_interval(interval, count)
    if phase is None:
        return (count - 1) % interval == 0
    later = jnp.floor(phase * interval).astype(count.dtype)
    return (count == 1) | ((count - 1 - later) % interval == 0)


def either(condition: Array, yes: Callable[[], T], no: Callable[[], T]) -> T:
    """Return `yes()` if the condition holds, else `no()`, of the same avals; only one of them runs.

    `lax.cond` under jit. Outside of it the condition is known, and a `cond` would recompile.
    The function that returns its input unchanged should be `no`, which is XLA's first branch: then
    XLA does not copy the input (bench/README.md).
    """
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, yes, no)
    return yes() if condition else no()


def when_due(due: Array, function: Callable[..., Any], *operands: PyTree) -> Any:
    """Return `function(*operands)` if due, else the operands."""
    return either(due, lambda: function(*operands), lambda: operands)


def phases(costs: Sequence[float]) -> list[float]:
    """Return a phase in [0, 1] for each piece of work: the share of the work before it.

    Example:
      >>> phases([1.0, 2.0, 1.0])
      [0.0, 0.25, 0.75]
    """
    whole = max(sum(costs), 1)
    return [before / whole for before in itertools.accumulate(costs[:-1], initial=0)]


def init_phases(init: Callable[[Params], State], params: Params) -> State:
    """Return `init(params)` with its phases spread over the interval, so that steps cost the same.

    The state's slots have `phase`, a number or one for each block, and `factors`, matrices
    [..., n, n] whose decompositions, of cost n**3, are to be spread.
    """
    state = init(params)
    old, treedef = jax.tree.flatten(state.slots.phase)
    rows = [jax.tree.leaves(row) for row in treedef.flatten_up_to(state.slots.factors)]
    costs = [sum(f.shape[-1] ** 3 for f in row) for row, x in zip(rows, old) for _ in range(x.size)]
    when = iter(phases(costs))
    new = [np.reshape([next(when) for _ in range(x.size)], x.shape) for x in old]
    phase = treedef.unflatten([jnp.asarray(x, jnp.float32) for x in new])
    phase = replicated_like(phase, params)
    return state._replace(slots=state.slots._replace(phase=phase))


def renew_when(due: Array, function: Callable[..., T], kept: T, *given: PyTree) -> T:
    """Return `function(kept, *given)`, of the avals of `kept`, if due, else `kept`.

    For what is rare and expensive. Under `vmap`, where a `lax.cond` would always run both branches,
    nothing is run as long as no lane is due. The result is a constant for differentiation.

    Args:
      due: whether to run, a scalar.
      function: a function of its arguments alone: it must close over no array.
      kept: what to return otherwise.
      *given: further arguments.
    """
    kept, given = jax.lax.stop_gradient((kept, given))
    return _renewal(function)(due, kept, given)


def _renewal(function: Callable) -> Callable:
    @jax.custom_batching.custom_vmap
    def renew(due, kept, given):
        return jax.lax.cond(due, lambda: function(kept, *given), lambda: kept)

    @renew.def_vmap
    def renew_lanes(size, batched, due, kept, given):
        _, kept_is, given_is = batched
        kept = jax.tree.map(
            lambda x, b: x if b else jnp.broadcast_to(x, (size, *x.shape)), kept, kept_is
        )
        axes = jax.tree.map(lambda b: 0 if b else None, given_is)

        def in_lanes(kept, due, given):
            lane = jax.vmap(lambda k, g: function(k, *g), (0, axes), axis_size=size)
            return jax.tree.map(functools.partial(_where, due), lane(kept, given), kept)

        lanes = jax.tree.map(lambda _: True, kept)
        return _renewal(in_lanes)(jnp.any(due), kept, (due, given)), lanes

    return renew


def _where(due: Array, new: Array, kept: Array) -> Array:
    return jnp.where(due.reshape(due.shape + (1,) * (new.ndim - due.ndim)), new, kept)
