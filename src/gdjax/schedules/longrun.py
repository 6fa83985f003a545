"""Schedules for runs whose length is not known at the start.

Warm-up, stable, decay: Hu et al. (2024), equation 1, https://arxiv.org/abs/2404.06395
Cool-down shapes: Hägele et al. (2024), section 3.2, https://arxiv.org/abs/2405.18392; a power of
the remaining fraction ("PowerCool"): Pande and others (2026), records 20, 23 and 25 of
https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization
Inverse square root: Vaswani et al. (2017), equation 3, https://arxiv.org/abs/1706.03762; with a
timescale: Zhai et al. (2021), section 3.5, https://arxiv.org/abs/2106.04560
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, POSITIVE, check_choice, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import (
    Leaf,
    blend,
    cosine,
    fraction_done,
    fraction_left,
    numbers,
    one_minus_sqrt,
    power,
    real,
)
from gdjax.schedules.warmup import after_warmup

SHAPES = {  # of the fractions left and done, and the power
    "linear": lambda left, done, exponent: left,
    "one_minus_sqrt": lambda left, done, exponent: one_minus_sqrt(left, done),
    "cosine": lambda left, done, exponent: cosine(left),
    "power": lambda left, done, exponent: power(left, exponent),
}


@schedule
class WarmupStableDecay(Schedule):
    """A line up, a constant, a cool-down; see `wsd_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("warmup_steps", "stable_steps", "cooldown_steps")
    init_value: Leaf
    peak_value: Leaf
    warmup_steps: Leaf
    stable_steps: Leaf
    cooldown_steps: Leaf
    end_value: Leaf
    power: Leaf | None  # None: another shape than "power"
    cooldown: str = dataclasses.field(metadata={"static": True})

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""

        def decay(n):
            left = fraction_left(n, self.cooldown_steps, self.stable_steps)
            done = fraction_done(n, self.cooldown_steps, self.stable_steps)
            shape = SHAPES[self.cooldown](left, done, self.power)
            return blend(self.peak_value, self.end_value, shape)

        return after_warmup(self, decay, count)


@schedule
class InverseSqrt(Schedule):
    """A line up, then an unbounded decay; see `inverse_sqrt_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("warmup_steps", "timescale")
    init_value: Leaf
    peak_value: Leaf
    warmup_steps: Leaf
    timescale: Leaf | None  # None: the length of the warm-up

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        if self.timescale is None:
            scale = jnp.maximum(real(self.warmup_steps), 1.0)
        else:
            scale = real(self.timescale)
        return after_warmup(self, lambda n: self.peak_value / jnp.sqrt(1 + real(n) / scale), count)


@checked(
    init_value=FINITE,
    peak_value=FINITE,
    warmup_steps=NONNEGATIVE,
    stable_steps=NONNEGATIVE,
    cooldown_steps=NONNEGATIVE,
    end_value=FINITE,
    power=NONNEGATIVE,
)
def wsd_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Number,
    stable_steps: Number,
    cooldown_steps: Number,
    end_value: Number = 0.0,
    *,
    cooldown: Literal["linear", "one_minus_sqrt", "cosine", "power"] = "linear",
    power: Number | None = None,
) -> Schedule:
    r"""Rise linearly, stay constant, then cool down (warm-up, stable, decay).

    .. math::

       s(t) &= \begin{cases}
       s_0 + (s_1 - s_0)\, t / W & t < W \\
       s_1 & W \le t < W + S \\
       s_2 + (s_1 - s_2)\, c(p) & t \ge W + S \end{cases} \\
       p &= \min\left( \frac{t - W - S}{C},\; 1 \right)

    with :math:`c(p) = 1 - p` for "linear", :math:`1 - \sqrt p` for "one_minus_sqrt",
    :math:`(1 + \cos(\pi p)) / 2` for "cosine" and :math:`(1 - p)^q` for "power".

    A run can be extended: write a larger `stable_steps` into the state with `with_hyperparams`, or
    start a cool-down from any checkpoint. Groups of parameters may have phases of their own:
    `by_path({r"embed.*": wsd_schedule(...), r".*": wsd_schedule(...)})`.

    Args:
      init_value: :math:`s_0`, value at count 0, finite; often 0.
      peak_value: :math:`s_1`, value from `warmup_steps` on, finite.
      warmup_steps: :math:`W` >= 0, length of the warm-up in steps.
      stable_steps: :math:`S` >= 0, number of steps at the peak.
      cooldown_steps: :math:`C` >= 0, length of the last phase in steps. The schedule takes
        `warmup_steps + stable_steps + cooldown_steps`.
      end_value: :math:`s_2`, value after that, finite.
      cooldown: shape of the last phase: "linear", "one_minus_sqrt", "cosine" or "power".
      power: :math:`q` >= 0, for "power" only: 1.2, 0.9 and 1.5 in the records of modded-nanogpt
        that introduced it. The last one also has an `end_value` above 0.

    Returns:
      A `Schedule` whose leaves are the numbers.

    Raises:
      ValueError: if a concrete number is out of range or the shape is unknown, or if `power` is
        given for another shape than "power" or missing for that.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.wsd_schedule(0.0, 1.0, 2, 2, 4)(jnp.arange(10)))
      [0.   0.5  1.   1.   1.   0.75 0.5  0.25 0.   0.  ]
      >>> print(gdjax.wsd_schedule(0.0, 1.0, 2, 2, 4, cooldown="power", power=2)(jnp.arange(10)))
      [0.     0.5    1.     1.     1.     0.5625 0.25   0.0625 0.     0.    ]

    References:
      Hu et al. (2024), "MiniCPM". Hägele et al. (2024), "Scaling laws and compute-optimal training
      beyond fixed training durations".
    """
    check_choice("wsd_schedule(cooldown=...)", cooldown, SHAPES)
    if (power is None) == (cooldown == "power"):
        raise ValueError(
            "wsd_schedule(power=...) must be given for cooldown='power' and for no other, got "
            f"{power} with cooldown={cooldown!r}."
        )
    phases = warmup_steps, stable_steps, cooldown_steps
    return WarmupStableDecay(
        *numbers(init_value, peak_value, *phases, end_value, power), cooldown=cooldown
    )


@checked(init_value=FINITE, peak_value=FINITE, warmup_steps=NONNEGATIVE, timescale=POSITIVE)
def inverse_sqrt_schedule(
    init_value: Number, peak_value: Number, warmup_steps: Number, timescale: Number | None = None
) -> Schedule:
    r"""Rise linearly, then decay with the inverse square root of the count.

    .. math::

       s(t) = \begin{cases}
       s_0 + (s_1 - s_0)\, t / W & t < W \\
       s_1 / \sqrt{1 + (t - W) / \tau} & t \ge W \end{cases}

    With the default timescale the second line is :math:`s_1 \sqrt{W / t}`. Vaswani et al. have
    `peak_value = 1 / sqrt(model width * warmup_steps)`.

    Args:
      init_value: :math:`s_0`, value at count 0, finite; often 0.
      peak_value: :math:`s_1`, value at `warmup_steps`, finite.
      warmup_steps: :math:`W` >= 0, length of the warm-up in steps.
      timescale: :math:`\tau` > 0, number of steps after which the value is 71 % of the peak. None
        is `warmup_steps`, or 1 if there is no warm-up.

    Returns:
      A `Schedule` whose leaves are the numbers.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.inverse_sqrt_schedule(0.0, 1.0, 4)(jnp.array([0, 2, 4, 16, 64])))
      [0.   0.5  1.   0.5  0.25]
    """
    return InverseSqrt(*numbers(init_value, peak_value, warmup_steps, timescale))
