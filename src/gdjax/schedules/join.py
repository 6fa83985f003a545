"""Run schedules one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.hyper import FunctionSchedule, PlainFunction, Schedule, schedule
from gdjax.core.types import Number, ScheduleFn
from gdjax.schedules.curves import (
    LARGEST,
    Later,
    Leaf,
    WholeCounts,
    as_integer,
    check_order,
    numbers,
    real,
    since,
)


@schedule
class Join(WholeCounts):
    """Schedules one after the other, each counted from its boundary; see `join_schedules`.

    Attributes:
      schedules: a tuple of schedules, or of any functions of the count.
      boundaries: a tuple of counts, one less than the schedules.
    """

    lengths: ClassVar[tuple[str, ...]] = ("boundaries",)
    schedules: tuple[Any, ...]
    boundaries: tuple[Any, ...]

    def __call__(self, count: Number | Later) -> Array:
        """Return the value of the schedule in whose range `count` lies."""
        first = self.schedules[0]
        value = real(first(_own_count(count, 0.0, first) if isinstance(count, Later) else count))
        for begin, part in zip(self.boundaries, self.schedules[1:], strict=True):
            here = since(count, begin) >= 0
            value = jnp.where(here, real(part(_own_count(count, begin, part))), value)
        return value


def _own_count(count: Number | Later, begin: Leaf | float, part: ScheduleFn) -> Array | Later:
    """Return the count from `begin` on, 0 before, in the form that a part takes."""
    if isinstance(count, Later):
        count, begin = count.count, count.begin + begin
    n, after = as_integer(count), since(count, begin)
    users = isinstance(part, Schedule) and not isinstance(part, WholeCounts)
    if n is None or (users and not isinstance(part, FunctionSchedule)):
        return jnp.where(after >= 0, after, 0.0)
    first = jnp.clip(jnp.round(real(begin)), 0, LARGEST).astype(n.dtype)
    if isinstance(part, FunctionSchedule):  # it may index a table: an integer stays an integer
        return jnp.maximum(n - first, 0)
    return Later(jnp.where(after >= 0, n, first), real(begin))


@checked(boundaries=NONNEGATIVE)
def join_schedules(schedules: Sequence[ScheduleFn], boundaries: Sequence[Number]) -> Schedule:
    r"""Use several schedules one after the other, each counted from the step at which it begins.

    .. math::

       s(t) &= s_i(t - b_i) \quad \text{for } b_i \le t < b_{i+1} \\
       b_1 &= 0

    Args:
      schedules: :math:`s_i`, one or more schedules, or any functions of the count.
      boundaries: :math:`b_2, b_3, \ldots`, the counts >= 0, in order, at which the second, third,
        ... schedule begins: numbers or traced scalars. They are leaves like the schedules' own
        numbers.

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
    for i in range(1, len(begins)):
        names = f"boundaries[{i - 1}]", begins[i - 1], f"boundaries[{i}]", begins[i]
        check_order("join_schedules", *names, "Sort the schedules by where they begin.")
    what = "join_schedules(schedules=...) must be schedules or functions of the count"
    return Join(tuple(as_schedule(part, what) for part in parts), begins)


def as_schedule(part: ScheduleFn, what: str) -> Schedule:
    """Return a schedule or a function as a schedule; `what` says in the error what it must be."""
    if isinstance(part, Schedule):
        return part
    if not callable(part):
        raise TypeError(f"{what}, got {part!r}. For a number use constant_schedule.")
    plain = jax.tree_util.all_leaves([part])
    return PlainFunction(part) if plain else FunctionSchedule(part)
