"""Schedules that come back: triangles, and warm restarts.

Triangles: Smith (2015), sections 3.1 and 3.2, https://arxiv.org/abs/1506.01186
Warm restarts: Loshchilov & Hutter (2016), section 3, https://arxiv.org/abs/1608.03983
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, POSITIVE, Range, check_choice, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.schedules.curves import blend, numbers, real, way_done, way_left
from gdjax.schedules.join import Join
from gdjax.schedules.warmup_decay import warmup_cosine_decay_schedule

MODES = ("triangular", "triangular2", "exp_range")


@schedule
class Cyclic(Schedule):
    """Triangles; see `cyclic_schedule`."""

    init_value: Any
    peak_value: Any
    up_steps: Any
    down_steps: Any  # None: as long as the way up
    gamma: Any  # None: not "exp_range"
    mode: str = dataclasses.field(metadata={"static": True})

    def __call__(self, count: Any) -> Array:
        """Return the value at `count`."""
        up = real(self.up_steps)
        down = up if self.down_steps is None else real(self.down_steps)
        cycle, now = jnp.divmod(real(count), up + down)
        height = jnp.where(now < up, way_done(now, up), way_left(now, down, up))
        if self.mode == "triangular2":
            height *= jnp.exp2(-cycle)
        elif self.mode == "exp_range":
            height *= self.gamma ** real(count)
        return blend(self.peak_value, self.init_value, height)


@checked(
    init_value=FINITE,
    peak_value=FINITE,
    up_steps=POSITIVE,
    down_steps=POSITIVE,
    gamma=Range("in (0, 1]", lambda x: 0 < x <= 1),
)
def cyclic_schedule(
    init_value: Any,
    peak_value: Any,
    up_steps: Any,
    down_steps: Any = None,
    *,
    mode: str = "triangular",
    gamma: Any = None,
) -> Schedule:
    """Go up and down on straight lines, again and again.

    Args:
      init_value: the lowest value, finite, also that at count 0.
      peak_value: the highest value of the first triangle, finite.
      up_steps: steps from the lowest value to the highest, > 0.
      down_steps: steps back, > 0; None is `up_steps`.
      mode: "triangular", all alike; "triangular2", each half as high as the one before it;
        "exp_range", the height above `init_value` is multiplied by `gamma` at each step.
      gamma: factor in (0, 1], for "exp_range" only.

    Returns:
      A `Schedule` whose leaves are the numbers.

    Raises:
      ValueError: if a concrete number is out of range, the mode unknown, or `gamma` is given for
        another mode than "exp_range" or missing for that.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.cyclic_schedule(0.0, 1.0, 2, mode="triangular2")(jnp.arange(9)))
      [0.   0.5  1.   0.5  0.   0.25 0.5  0.25 0.  ]

    References:
      Smith (2015), "Cyclical learning rates for training neural networks".
    """
    check_choice("cyclic_schedule(mode=...)", mode, MODES)
    if (gamma is None) == (mode == "exp_range"):
        raise ValueError(
            f"cyclic_schedule(gamma=...) must be given for mode='exp_range' and for no other, got "
            f"{gamma} with mode={mode!r}."
        )
    return Cyclic(*numbers(init_value, peak_value, up_steps, down_steps, gamma), mode)


@schedule
class Restarts(Schedule):
    """Schedules in turn, each as long as its `decay_steps`; see `sgdr_schedule`.

    Attributes:
      cycles: a tuple of schedules with that field.
    """

    cycles: Any

    def __call__(self, count: Any) -> Array:
        """Return the value at `count`."""
        lengths = [real(cycle.decay_steps) for cycle in self.cycles[:-1]]
        return Join(self.cycles, tuple(itertools.accumulate(lengths)))(count)


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """Run cycles of warm-up and cosine decay one after the other (warm restarts).

    Args:
      cosine_kwargs: for each cycle the arguments of `warmup_cosine_decay_schedule`; a cycle takes
        `decay_steps` steps. The last value of the last one stays.

    Returns:
      A `Schedule` with the leaves `cycles.0.peak_value`, ...

    Raises:
      ValueError: if there is no cycle, or for a number that `warmup_cosine_decay_schedule` refuses.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=1, decay_steps=3)
      >>> print(gdjax.sgdr_schedule([cycle, cycle | {"peak_value": 0.5}])(jnp.arange(8)))
      [0.   1.   0.5  0.   0.5  0.25 0.   0.  ]

    References:
      Loshchilov & Hutter (2016), "SGDR: stochastic gradient descent with warm restarts".
    """
    cycles = tuple(warmup_cosine_decay_schedule(**kwargs) for kwargs in cosine_kwargs)
    if not cycles:
        raise ValueError("sgdr_schedule(cosine_kwargs=...) must have at least one cycle, got none.")
    return Restarts(cycles)
