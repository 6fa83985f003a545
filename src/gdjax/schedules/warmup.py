"""A linear warm-up: the part that all schedules with a warm-up share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import Leaf, line, numbers
from gdjax.schedules.join import Join


@schedule
class WarmupConstant(Schedule):
    """A line up to the peak; see `warmup_constant_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("warmup_steps",)
    init_value: Leaf
    peak_value: Leaf
    warmup_steps: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        return line(self.init_value, self.peak_value, count, self.warmup_steps)


def after_warmup(s: Any, then: Callable[[Array], Array], count: Number) -> Array:
    """Return the value of the warm-up of `s`, or of `then(count - s.warmup_steps)` after it."""
    rise = WarmupConstant(s.init_value, s.peak_value, s.warmup_steps)
    return Join((rise, then), (s.warmup_steps,))(count)


@checked(init_value=FINITE, peak_value=FINITE, warmup_steps=NONNEGATIVE)
def warmup_constant_schedule(
    init_value: Number, peak_value: Number, warmup_steps: Number
) -> Schedule:
    r"""Rise linearly, then stay constant.

    .. math::

       s(t) = \begin{cases}
       s_0 + (s_1 - s_0)\, t / W & t < W \\
       s_1 & t \ge W \end{cases}

    Args:
      init_value: :math:`s_0`, value at count 0, finite; often 0.
      peak_value: :math:`s_1`, value from `warmup_steps` on, finite.
      warmup_steps: :math:`W` >= 0, length of the warm-up in steps. With 0 the value is always
        `peak_value` (optax: always `init_value`).

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.warmup_constant_schedule(0.0, 1.0, 4)(jnp.arange(6)))
      [0.   0.25 0.5  0.75 1.   1.  ]
    """
    return WarmupConstant(*numbers(init_value, peak_value, warmup_steps))
