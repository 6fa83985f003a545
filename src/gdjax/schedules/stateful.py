"""Schedules that remember: what decides is a state of their own, not the count alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import safe_increment


class StatefulSchedule(Protocol):
    """A value that depends on a state of its own, which is updated at every step."""

    def init(self) -> Any:
        """Return the state before the first step."""
        ...

    def update(self, state: Any, **extra_args: Any) -> Any:
        """Return the state after a step; `extra_args` are those of the optimizer's `update`."""
        ...

    def __call__(self, state: Any, **extra_args: Any) -> Any:
        """Return the value for the next step."""
        ...


class WrappedScheduleState(NamedTuple):
    """The number of steps done so far, int32, at most 2**31 - 1."""

    count: Array


class WrappedSchedule:
    """A schedule of the count as a `StatefulSchedule`.

    Example:
      >>> import gdjax
      >>> wrapped = gdjax.WrappedSchedule(gdjax.linear_schedule(1.0, 0.0, 4))
      >>> state = wrapped.update(wrapped.init())
      >>> print(wrapped(state))
      0.75
    """

    def __init__(self, schedule_fn: Callable[[Any], Any]):
        self.schedule_fn = schedule_fn

    def init(self) -> WrappedScheduleState:
        """Return a count of 0."""
        return WrappedScheduleState(jnp.zeros((), jnp.int32))

    def update(self, state: WrappedScheduleState, **extra_args: Any) -> WrappedScheduleState:
        """Return the next count."""
        return WrappedScheduleState(safe_increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra_args: Any) -> Any:
        """Return the schedule's value at the count."""
        return self.schedule_fn(state.count)
