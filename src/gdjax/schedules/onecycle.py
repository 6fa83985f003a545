"""One cycle: up to a high peak, down again, and to a much lower value at the end.

Smith & Topin (2017), section 3, https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import CLOSED_UNIT, FINITE, POSITIVE, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import Leaf, check_order, line, numbers, real
from gdjax.schedules.piecewise import interpolate, wave


@schedule
class LinearOneCycle(Schedule):
    """Three lines; see `linear_onecycle_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("transition_steps",)
    transition_steps: Leaf
    peak_value: Leaf
    pct_start: Leaf
    pct_final: Leaf
    div_factor: Leaf
    final_div_factor: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        peak, steps = self.peak_value, real(self.transition_steps)
        low = peak / self.div_factor
        corners = (_whole(self.pct_start, steps), _whole(self.pct_final, steps), steps)
        return interpolate((low, peak, low, low / self.final_div_factor), corners, line, count)


@schedule
class CosineOneCycle(Schedule):
    """Two cosine waves; see `cosine_onecycle_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("transition_steps",)
    transition_steps: Leaf
    peak_value: Leaf
    pct_start: Leaf
    div_factor: Leaf
    final_div_factor: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        peak, steps = self.peak_value, real(self.transition_steps)
        low = peak / self.div_factor
        corners = (_whole(self.pct_start, steps), steps)
        return interpolate((low, peak, low / self.final_div_factor), corners, wave, count)


def _whole(fraction: Number, steps: Array) -> Array:
    """Return `fraction * steps` rounded down; the derivative ignores the rounding."""
    x = real(fraction) * steps
    # 0.53 * 100 is 52.999996 in float32 and means 53; in float64 (optax) 0.29 * 100 is 28.99...
    whole = jnp.floor(x * (1 + 2 * jnp.finfo(x.dtype).eps))
    return x + jax.lax.stop_gradient(whole - x)


@checked(
    transition_steps=POSITIVE,
    peak_value=FINITE,
    pct_start=CLOSED_UNIT,
    pct_final=CLOSED_UNIT,
    div_factor=POSITIVE,
    final_div_factor=POSITIVE,
)
def linear_onecycle_schedule(
    transition_steps: Number,
    peak_value: Number,
    pct_start: Number = 0.3,
    pct_final: Number = 0.85,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
) -> Schedule:
    r"""Rise linearly to the peak, fall back to the first value, then to a much smaller one.

    Three straight lines connect

    .. math::

       s(0) &= s_1 / d \\
       s(p_1 T) &= s_1 \\
       s(p_2 T) &= s_1 / d \\
       s(T) &= s_1 / (d f)

    Differences: the description of optax's phase 3 has :math:`s_1 / f` for the last value; its code
    does as ours.

    Args:
      transition_steps: :math:`T` > 0, length of the schedule in steps; after it the last value is
        kept.
      peak_value: :math:`s_1`, the highest value, finite.
      pct_start: :math:`p_1` in [0, 1], fraction of the steps for the rise; rounded down to a whole
        step.
      pct_final: :math:`p_2` in [pct_start, 1], fraction of the steps until the value is low again;
        rounded down too.
      div_factor: :math:`d` > 0. The first value is `peak_value / div_factor`.
      final_div_factor: :math:`f` > 0. The last value is the first one divided by it.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range, or `pct_start > pct_final`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> schedule = gdjax.linear_onecycle_schedule(10, 1.0, 0.2, 0.8, 10.0, 100.0)
      >>> print(schedule(jnp.array([0, 1, 2, 5, 8, 9, 10])))
      [0.1    0.55   1.     0.55   0.1    0.0505 0.001 ]

    References:
      Smith & Topin (2017), "Super-convergence: very fast training of neural networks using large
      learning rates".
    """
    shares = "pct_start", pct_start, "pct_final", pct_final
    check_order("linear_onecycle_schedule", *shares, "pct_final includes the rise.")
    first = transition_steps, peak_value, pct_start, pct_final
    return LinearOneCycle(*numbers(*first, div_factor, final_div_factor))


@checked(
    transition_steps=POSITIVE,
    peak_value=FINITE,
    pct_start=CLOSED_UNIT,
    div_factor=POSITIVE,
    final_div_factor=POSITIVE,
)
def cosine_onecycle_schedule(
    transition_steps: Number,
    peak_value: Number,
    pct_start: Number = 0.3,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
) -> Schedule:
    r"""Rise on half a cosine wave to the peak, and fall on another.

    Two half cosine waves connect

    .. math::

       s(0) &= s_1 / d \\
       s(p_1 T) &= s_1 \\
       s(T) &= s_1 / (d f)

    Args:
      transition_steps: see `linear_onecycle_schedule`, like all arguments.
      peak_value: see `linear_onecycle_schedule`.
      pct_start: see `linear_onecycle_schedule`.
      div_factor: see `linear_onecycle_schedule`.
      final_div_factor: see `linear_onecycle_schedule`.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> schedule = gdjax.cosine_onecycle_schedule(10, 1.0, 0.2, 10.0, 100.0)
      >>> print(schedule(jnp.array([0, 1, 2, 6, 10])))
      [0.1    0.55   1.     0.5005 0.001 ]
    """
    return CosineOneCycle(
        *numbers(transition_steps, peak_value, pct_start, div_factor, final_div_factor)
    )
