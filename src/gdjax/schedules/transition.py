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

    Args:
      value: that value, finite.

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
    """Go from one value to another linearly.

    `init_value` until `transition_begin`, `end_value` from `transition_begin + transition_steps`.

    Args:
      init_value: value at the start, finite.
      end_value: value at the end, finite.
      transition_steps: length of the transition in steps, >= 0; with 0 it is switched off, and the
        value is always `init_value`, as in optax.
      transition_begin: the count >= 0 at which it begins.

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

    end_value + (init_value - end_value) * (1 - done)**power, done = fraction of the steps done

    Args:
      init_value: see `linear_schedule`, like the arguments that are not named here.
      end_value: see `linear_schedule`.
      power: >= 0. 1 is linear, above 1 is steep at the start, below 1 at the end.
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
    """Cool down as one minus a square root: steep at the start, then nearly linear.

    end_value + (init_value - end_value) * (1 - sqrt(done)), done = fraction of the steps done

    The best of the cool-downs that Hägele et al. compare; `wsd_schedule` uses it after a constant.
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
    """Decay by a reflected exponential: slowly at the start, steeply at the end.

    end_value + (init_value - end_value) * (1 - done) / (1/2 + (1 - done)/2)

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
