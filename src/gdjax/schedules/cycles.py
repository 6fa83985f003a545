"""Cyclic schedules: triangles, and warm restarts.

Triangles: Smith (2015), sections 3.1 and 3.2, https://arxiv.org/abs/1506.01186
Warm restarts: Loshchilov & Hutter (2016), section 3, https://arxiv.org/abs/1608.03983
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, POSITIVE, SHARE, check_choice, checked, strict
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import (
    Later,
    Leaf,
    WholeCounts,
    blend,
    fraction_done,
    fraction_left,
    laps,
    numbers,
    real,
)
from gdjax.schedules.join import Join
from gdjax.schedules.warmup_decay import warmup_cosine_decay_schedule

MODES = ("triangular", "triangular2", "exp_range")


@schedule
class Cyclic(WholeCounts):
    """Triangles; see `cyclic_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("up_steps", "down_steps")
    init_value: Leaf
    peak_value: Leaf
    up_steps: Leaf
    down_steps: Leaf | None  # None: up_steps
    gamma: Leaf | None  # None: no factor
    mode: str = dataclasses.field(metadata={"static": True})

    def __call__(self, count: Number | Later) -> Array:
        """Return the value at `count`."""
        up = real(self.up_steps)
        down = up if self.down_steps is None else real(self.down_steps)
        cycle, now = laps(count, up + down)
        height = jnp.where(now < up, fraction_done(now, up), fraction_left(now, down, up))
        if self.mode == "triangular2":
            height *= jnp.exp2(-cycle)
        elif self.gamma is not None:
            height *= self.gamma ** real(count)
        return blend(self.peak_value, self.init_value, height)


@checked(
    init_value=FINITE,
    peak_value=FINITE,
    up_steps=POSITIVE,
    down_steps=POSITIVE,
    gamma=SHARE,
)
def cyclic_schedule(
    init_value: Number,
    peak_value: Number,
    up_steps: Number,
    down_steps: Number | None = None,
    *,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Number | None = None,
) -> Schedule:
    r"""Rise and fall linearly, periodically.

    In cycle :math:`c = \lfloor t / (u + d) \rfloor`, of which
    :math:`\tau = t - c (u + d)` steps are done:

    .. math::

       h(t) &= \begin{cases}
       \tau / u & \tau < u \\
       (u + d - \tau) / d & \tau \ge u \end{cases} \\
       s(t) &= s_0 + (s_1 - s_0)\, h(t)\, f(t)

    with :math:`f(t) = 1` for "triangular", :math:`2^{-c}` for "triangular2", and :math:`\gamma^t`
    for "exp_range".

    Args:
      init_value: :math:`s_0`, the lowest value, which is that at count 0, finite.
      peak_value: :math:`s_1`, the highest value of the first triangle, finite.
      up_steps: :math:`u` > 0, steps from the lowest value to the highest.
      down_steps: :math:`d` > 0, steps from the highest value to the lowest; None is `up_steps`.
      mode: "triangular", all equal; "triangular2", each half as high as the previous one;
        "exp_range", the height above `init_value` is multiplied by `gamma` at each step.
      gamma: :math:`\gamma` in (0, 1], for "exp_range" only.

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
    return Cyclic(*numbers(init_value, peak_value, up_steps, down_steps, gamma), mode=mode)


@schedule
class Restarts(WholeCounts):
    """Schedules one after the other, each of `decay_steps` steps; see `sgdr_schedule`.

    Attributes:
      cycles: a tuple of schedules with that field.
    """

    lengths: ClassVar[tuple[str, ...]] = ()
    cycles: tuple[Any, ...]

    def __call__(self, count: Number | Later) -> Array:
        """Return the value at `count`."""
        lengths = [real(cycle.decay_steps) for cycle in self.cycles[:-1]]
        return Join(self.cycles, tuple(itertools.accumulate(lengths)))(count)


@strict()
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    r"""Run cycles of warm-up and cosine decay one after the other (warm restarts).

    .. math::

       s(t) &= s_i(t - b_i) \quad \text{for } b_i \le t < b_{i+1} \\
       b_i &= T_1 + \ldots + T_{i-1}

    with :math:`s_i` the `warmup_cosine_decay_schedule` of cycle i and :math:`T_i` its
    `decay_steps`.

    Args:
      cosine_kwargs: for each cycle the arguments of `warmup_cosine_decay_schedule`; a cycle takes
        `decay_steps` steps. After the last one its last value is kept.

    Returns:
      A `Schedule` with the leaves `cycles.0.peak_value`, ...

    Raises:
      ValueError: if there is no cycle, or for a number that `warmup_cosine_decay_schedule` rejects.

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
