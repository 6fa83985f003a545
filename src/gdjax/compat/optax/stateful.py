"""optax's stateful schedules: their value depends on a state of their own, not only on the count.

`inject_hyperparams` runs them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import safe_increment
from gdjax.core.types import Number, PyTree, ScheduleFn


class StatefulSchedule(Protocol):
    """A value that depends on a state of its own, which is updated at every step."""

    def init(self) -> PyTree:
        """Return the state before the first step."""
        ...

    def update(self, state: PyTree, **extra_args: Any) -> PyTree:
        """Return the state after a step; `extra_args` are those of the optimizer's `update`."""
        ...

    def __call__(self, state: PyTree, **extra_args: Any) -> Number:
        """Return the value for the next step."""
        ...


class WrappedScheduleState(NamedTuple):
    """The number of steps done so far, int32, at most 2**31 - 1."""

    count: Array


class WrappedSchedule:
    """A schedule of the count as a `StatefulSchedule`.

    Example:
      >>> from gdjax.compat import optax
      >>> wrapped = optax.WrappedSchedule(optax.linear_schedule(1.0, 0.0, 4))
      >>> state = wrapped.update(wrapped.init())
      >>> print(wrapped(state))
      0.75
    """

    def __init__(self, schedule_fn: ScheduleFn):
        self.schedule_fn = schedule_fn

    def init(self) -> WrappedScheduleState:
        """Return a count of 0."""
        return WrappedScheduleState(jnp.zeros((), jnp.int32))

    def update(self, state: WrappedScheduleState, **extra_args: Any) -> WrappedScheduleState:
        """Return the next count."""
        return WrappedScheduleState(safe_increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra_args: Any) -> Number:
        """Return the schedule's value at the count."""
        return self.schedule_fn(state.count)
