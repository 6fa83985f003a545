"""Run schedules one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import NONNEGATIVE, check_range, strict
from gdjax.core.hyper import FunctionSchedule, PlainFunction, Schedule, schedule
from gdjax.core.types import Number, ScheduleFn
from gdjax.schedules.curves import Leaf, check_order, numbers, real


@schedule
class Join(Schedule):
    """Schedules one after the other, each counted from its boundary; see `join_schedules`.

    Attributes:
      schedules: a tuple of schedules, or of any functions of the count.
      boundaries: a tuple of counts, one less than the schedules.
    """

    schedules: tuple[Any, ...]
    boundaries: tuple[Any, ...]

    def __call__(self, count: Number) -> Array:
        """Return the value of the schedule in whose range `count` lies."""
        value = real(self.schedules[0](count))
        for begin, part in zip(self.boundaries, self.schedules[1:], strict=True):
            here = real(count) >= real(begin)
            value = jnp.where(here, real(part(_since(count, begin, here, part))), value)
        return value


def _since(count: Number, begin: Leaf, here: Array, part: ScheduleFn) -> Array:
    """Return the count from `begin` on, 0 before."""
    if isinstance(part, FunctionSchedule) and jnp.issubdtype(jnp.result_type(count), jnp.integer):
        # A user's function may index a table with the count: an integer stays an integer.
        begin = jnp.clip(jnp.round(real(begin)), 0, 2**31 - 128).astype(jnp.int32)
        return jnp.where(here, count - begin, 0)
    return jnp.where(here, real(count) - real(begin), 0.0)


@strict()
def join_schedules(schedules: Sequence[ScheduleFn], boundaries: Sequence[Number]) -> Schedule:
    """Use several schedules one after the other, each counted from the step at which it begins.

    Args:
      schedules: one or more schedules, or any functions of the count.
      boundaries: the counts >= 0, in order, at which the second, third, ... schedule begins:
        numbers or traced scalars. They are leaves like the schedules' own numbers.

    Returns:
      A `Schedule`. A plain function in it gets an integer count if the schedule is called with one.

    Raises:
      ValueError: if there is not one boundary less than schedules, or if boundaries are not sorted.
      TypeError: if a schedule cannot be called.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> up, down = gdjax.linear_schedule(0.0, 1.0, 4), gdjax.linear_schedule(1.0, 0.5, 2)
      >>> print(gdjax.join_schedules([up, down], [4])(jnp.arange(8)))
      [0.   0.25 0.5  0.75 1.   0.75 0.5  0.5 ]
    """
    parts, begins = tuple(schedules), tuple(numbers(*boundaries))
    if len(begins) + 1 != len(parts):
        raise ValueError(
            "join_schedules(boundaries=...) must have one entry less than schedules, got "
            f"{len(begins)} for {len(parts)} schedules. It says where all but the first begin."
        )
    for begin in begins:
        what = "join_schedules(boundaries=...)"
        check_range(what, begin, NONNEGATIVE)
    for i in range(1, len(begins)):
        names = f"boundaries[{i - 1}]", begins[i - 1], f"boundaries[{i}]", begins[i]
        check_order("join_schedules", *names, "Sort the schedules by where they begin.")
    return Join(tuple(map(_as_schedule, parts)), begins)


def _as_schedule(part: ScheduleFn) -> Schedule:
    if isinstance(part, Schedule):
        return part
    if not callable(part):
        raise TypeError(
            "join_schedules(schedules=...) must be schedules or functions of the count, got "
            f"{part!r}. For a number use constant_schedule."
        )
    plain = jax.tree_util.all_leaves([part])
    return PlainFunction(part) if plain else FunctionSchedule(part)
