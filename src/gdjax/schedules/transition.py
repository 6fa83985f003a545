"""Transitions from one value to another.

REX: Chen, Wolfe & Kyrillidis (2021), section 4, https://arxiv.org/abs/2107.04197
One minus square root: Hägele et al. (2024), section 3.2, https://arxiv.org/abs/2405.18392
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import (
    Leaf,
    blend,
    fraction_done,
    fraction_left,
    line,
    numbers,
    one_minus_sqrt,
    power,
    real,
    rex,
)


@schedule
class Constant(Schedule):
    """Always `value`."""

    lengths: ClassVar[tuple[str, ...]] = ()
    value: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        return real(self.value) * jnp.ones_like(real(count))


@schedule
class Linear(Schedule):
    """A straight line; see `linear_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("transition_steps", "transition_begin")
    init_value: Leaf
    end_value: Leaf
    transition_steps: Leaf
    transition_begin: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        steps, begin = self.transition_steps, self.transition_begin
        return line(self.init_value, _end(self), count, steps, begin)


@schedule
class Polynomial(Schedule):
    """A power of the remaining fraction; see `polynomial_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("transition_steps", "transition_begin")
    init_value: Leaf
    end_value: Leaf
    power: Leaf
    transition_steps: Leaf
    transition_begin: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        left = fraction_left(count, self.transition_steps, self.transition_begin)
        return blend(self.init_value, _end(self), power(left, self.power))


@schedule
class OneMinusSqrt(Schedule):
    """A cool-down that is steep at the start; see `one_minus_sqrt_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("transition_steps", "transition_begin")
    init_value: Leaf
    end_value: Leaf
    transition_steps: Leaf
    transition_begin: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        left = fraction_left(count, self.transition_steps, self.transition_begin)
        done = fraction_done(count, self.transition_steps, self.transition_begin)
        return blend(self.init_value, _end(self), one_minus_sqrt(left, done))


@schedule
class Rex(Schedule):
    """A decay that is steep at the end; see `rex_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("transition_steps", "transition_begin")
    init_value: Leaf
    end_value: Leaf
    transition_steps: Leaf
    transition_begin: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        left = fraction_left(count, self.transition_steps, self.transition_begin)
        return blend(self.init_value, _end(self), rex(left))


def _end(s: Any) -> Array:
    """Return the last value of a transition, which is the first one if it has no steps."""
    return jnp.where(real(s.transition_steps) > 0, s.end_value, s.init_value)


@checked(value=FINITE)
def constant_schedule(value: Number) -> Schedule:
    """Use the same value at every step.

    .. math::

       s(t) = s_0

    Args:
      value: :math:`s_0`, finite.

    Returns:
      A `Schedule` with the leaf `value`.

    Raises:
      ValueError: if the number is not finite.

    Example:
      >>> import gdjax
      >>> print(gdjax.constant_schedule(0.1)(1000))
      0.1
    """
    return Constant(*numbers(value))


@checked(
    init_value=FINITE, end_value=FINITE, transition_steps=NONNEGATIVE, transition_begin=NONNEGATIVE
)
def linear_schedule(
    init_value: Number, end_value: Number, transition_steps: Number, transition_begin: Number = 0
) -> Schedule:
    r"""Go from one value to another linearly.

    .. math::

       s(t) = \begin{cases}
       s_0 & t < b \\
       s_0 + (s_1 - s_0)\, p & b \le t < b + T \\
       s_1 & t \ge b + T \end{cases}

    with t = 0, 1, ... the count and :math:`p = (t - b) / T` the fraction of the transition that is
    done.

    Args:
      init_value: :math:`s_0`, value at the start, finite.
      end_value: :math:`s_1`, value at the end, finite.
      transition_steps: :math:`T` >= 0, length of the transition in steps; with 0 it is switched
        off, and the value is always `init_value`, as in optax.
      transition_begin: :math:`b` >= 0, the count at which it begins.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.linear_schedule(1.0, 0.2, 4)(jnp.arange(6)))
      [1.  0.8 0.6 0.4 0.2 0.2]
    """
    return Linear(*numbers(init_value, end_value, transition_steps, transition_begin))


@checked(
    init_value=FINITE,
    end_value=FINITE,
    power=NONNEGATIVE,
    transition_steps=NONNEGATIVE,
    transition_begin=NONNEGATIVE,
)
def polynomial_schedule(
    init_value: Number,
    end_value: Number,
    power: Number,
    transition_steps: Number,
    transition_begin: Number = 0,
) -> Schedule:
    """Go from one value to another along a power of the remaining fraction.

    .. math::

       s(t) = s_1 + (s_0 - s_1) (1 - p)^q

    with :math:`p` the fraction of the transition that is done, 0 before it and 1 after it, see
    `linear_schedule`.

    Args:
      init_value: see `linear_schedule`, like the arguments that are not named here.
      end_value: see `linear_schedule`.
      power: :math:`q` >= 0. 1 is linear, above 1 is steep at the start, below 1 at the end.
      transition_steps: see `linear_schedule`.
      transition_begin: see `linear_schedule`.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.polynomial_schedule(1.0, 0.0, 2, 4)(jnp.arange(6)))
      [1.     0.5625 0.25   0.0625 0.     0.    ]
    """
    return Polynomial(*numbers(init_value, end_value, power, transition_steps, transition_begin))


@checked(
    init_value=FINITE, end_value=FINITE, transition_steps=NONNEGATIVE, transition_begin=NONNEGATIVE
)
def one_minus_sqrt_schedule(
    init_value: Number, end_value: Number, transition_steps: Number, transition_begin: Number = 0
) -> Schedule:
    r"""Cool down as one minus a square root: steep at the start, then nearly linear.

    .. math::

       s(t) = s_1 + (s_0 - s_1) (1 - \sqrt p)

    with :math:`p` the fraction of the transition that is done, see `polynomial_schedule`.

    The best of the cool-downs that Hägele et al. compare (2024, section 3.2, arXiv 2405.18392);
    `wsd_schedule` uses it after a constant.
    The derivative with respect to `transition_begin` is infinite at the first step of the
    transition and taken as 0.

    Args:
      init_value: see `linear_schedule`, like all arguments.
      end_value: see `linear_schedule`.
      transition_steps: see `linear_schedule`.
      transition_begin: see `linear_schedule`.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.one_minus_sqrt_schedule(1.0, 0.0, 4)(jnp.arange(6)))
      [1.     0.5    0.2929 0.134  0.     0.    ]

    References:
      Hägele et al. (2024), "Scaling laws and compute-optimal training beyond fixed training
      durations".
    """
    return OneMinusSqrt(*numbers(init_value, end_value, transition_steps, transition_begin))


@checked(
    init_value=FINITE, end_value=FINITE, transition_steps=NONNEGATIVE, transition_begin=NONNEGATIVE
)
def rex_schedule(
    init_value: Number, end_value: Number, transition_steps: Number, transition_begin: Number = 0
) -> Schedule:
    r"""Decay by a reflected exponential: slowly at the start, steeply at the end.

    .. math::

       s(t) = s_1 + (s_0 - s_1) \frac{1 - p}{1/2 + (1 - p) / 2}

    with :math:`p` the fraction of the transition that is done, see `polynomial_schedule`.

    Args:
      init_value: see `linear_schedule`, like all arguments.
      end_value: see `linear_schedule`; 0 in the paper.
      transition_steps: see `linear_schedule`.
      transition_begin: see `linear_schedule`; 0 in the paper.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.rex_schedule(1.0, 0.0, 4)(jnp.arange(6)))
      [1.     0.8571 0.6667 0.4    0.     0.    ]

    References:
      Chen, Wolfe & Kyrillidis (2021), "REX: revisiting budgeted training with an improved
      schedule".
    """
    return Rex(*numbers(init_value, end_value, transition_steps, transition_begin))
