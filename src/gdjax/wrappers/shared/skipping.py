"""Skip a step: zero updates and the old state, and counts of how often that happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.every import either
from gdjax.core.numerics import cast_like, safe_increment, upcast
from gdjax.core.protocols import took_step
from gdjax.core.trees import zero
from gdjax.core.types import OptState, Params, PyTree, T, Updates

# (gradients, step, params, **numbers) -> (whether to skip, what to remember)
ShouldSkip: TypeAlias = Callable[..., tuple[Array, PyTree]]


def unless(
    skip: Array,
    update: Callable[..., tuple[Updates, OptState]],
    grads: Updates,
    state: OptState,
    params: Params,
    extra: dict[str, Any],
) -> tuple[Updates, OptState]:
    """Return the optimizer's updates and state, or zeros and the old state where `skip` holds."""

    def leave():
        return grads, state  # zeros only below: here they would be written to new memory

    def step():
        updates, new = update(grads, state, params, **extra)
        return cast_like(updates, grads), cast_like(new, state)

    updates, state = either(~skip, step, leave)  # in this order: see `either`
    return jax.tree.map(lambda u: jnp.where(skip, jnp.zeros((), u.dtype), u), updates), state


def at_steps(state: OptState, step: Callable[[], T], left: T) -> T:
    """Return what a wrapper does in a step, or `left` if the optimizer inside took none.

    Args:
      state: the new state of the optimizer inside.
      step: returns the wrapper's `(updates, slots)`.
      left: `(updates, slots)` of a call that is no step: the optimizer's updates, and the old slots
        with its new state.
    """
    took = took_step(state)
    if took is None:
        return step()
    return either(took, lambda: cast_like(step(), left), lambda: left)


def tally(skip: Array, skipped: Array, in_a_row: Array) -> tuple[Array, Array]:
    """Return how many steps were skipped in total, and how many in a row."""
    skipped = jnp.where(skip, safe_increment(skipped), skipped)
    return skipped, jnp.where(skip, safe_increment(in_a_row), 0)


def ask(
    should_skip: ShouldSkip, grads: Updates, done: Array, params: Params, **numbers: Any
) -> tuple[Array, PyTree]:
    """Return a test's answer, a bool array, and the rest of what it returns."""
    skip, skip_state = should_skip(grads, done, params, **numbers)
    skip = jnp.asarray(skip)
    if skip.dtype != jnp.bool_ or skip.ndim:
        raise ValueError(
            "a should-skip function must return (a scalar array of dtype bool, what to remember), "
            f"got {skip.dtype}{list(skip.shape)} for the first."
        )
    return skip, jax.tree.map(jnp.asarray, skip_state)


def fresh_skip_state(should_skip: ShouldSkip, params: Params, names: Iterable[str] = ()) -> PyTree:
    """Return zeros shaped like what a test returns in addition to its answer."""

    def remembered(params):
        like = upcast(params)
        return ask(should_skip, like, jnp.int32(0), like, **dict.fromkeys(names, zero()))[1]

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(remembered, params))
