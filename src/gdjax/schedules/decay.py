"""Cosine and exponential decay.

Cosine: Loshchilov & Hutter (2016), equation 5, https://arxiv.org/abs/1608.03983
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, POSITIVE, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import (
    Later,
    Leaf,
    WholeCounts,
    blend,
    cosine,
    fraction_left,
    laps,
    numbers,
    power,
    real,
    since,
)


@schedule
class CosineDecay(Schedule):
    """Half a cosine wave; see `cosine_decay_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("decay_steps",)
    init_value: Leaf
    decay_steps: Leaf
    alpha: Leaf
    exponent: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        left = power(cosine(fraction_left(count, self.decay_steps)), self.exponent)
        return self.init_value * blend(1.0, self.alpha, left)


@schedule
class ExponentialDecay(WholeCounts):
    """Powers of a rate; see `exponential_decay`."""

    lengths: ClassVar[tuple[str, ...]] = ("transition_steps", "transition_begin")
    init_value: Leaf
    transition_steps: Leaf
    decay_rate: Leaf
    transition_begin: Leaf
    staircase: bool = dataclasses.field(metadata={"static": True})
    end_value: Leaf | None  # None: no bound

    def __call__(self, count: Number | Later) -> Array:
        """Return the value at `count`."""
        steps, rate = real(self.transition_steps), real(self.decay_rate)
        decays = steps > 0
        steps, after = jnp.where(decays, steps, 1.0), since(count, self.transition_begin)
        turns = laps(count, steps, self.transition_begin)[0] if self.staircase else after / steps
        exponent = jnp.where(decays & (after > 0), turns, 0.0)
        value = self.init_value * power(rate, jnp.minimum(exponent, _largest_exponent(rate)))
        if self.end_value is None:
            return value
        end = jnp.where(decays, real(self.end_value), value)
        return jnp.where(rate < 1, jnp.maximum(value, end), jnp.minimum(value, end))


def _largest_exponent(rate: Array) -> Array:
    """Return the exponent at which powers of the rate stop growing, far below overflow."""
    growing = rate > 1
    largest = jnp.log(jnp.finfo(rate.dtype).max) / 2
    limit = largest / jnp.log(jnp.where(growing, rate, 2.0))
    return jax.lax.stop_gradient(jnp.where(growing, limit, jnp.inf))


@checked(init_value=FINITE, decay_steps=POSITIVE, alpha=FINITE, exponent=NONNEGATIVE)
def cosine_decay_schedule(
    init_value: Number, decay_steps: Number, alpha: Number = 0.0, exponent: Number = 1.0
) -> Schedule:
    r"""Decay along half a cosine wave.

    .. math::

       s(t) &= s_0 \left( \alpha + (1 - \alpha) \left(
       \frac{1 + \cos(\pi p)}{2} \right)^q \right) \\
       p &= \min(t / T,\; 1)

    Args:
      init_value: :math:`s_0`, value at the start, finite.
      decay_steps: :math:`T` > 0, length of the decay in steps, of any size; after it the value is
        constant.
      alpha: :math:`\alpha`, the last value divided by `init_value`, finite.
      exponent: :math:`q` >= 0. Above 1 the decay is steeper at the start, below 1 at the end.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.cosine_decay_schedule(1.0, 4, alpha=0.1)(jnp.arange(6)))
      [1.     0.8682 0.55   0.2318 0.1    0.1   ]

    References:
      Loshchilov & Hutter (2016), "SGDR: stochastic gradient descent with warm restarts".
    """
    return CosineDecay(*numbers(init_value, decay_steps, alpha, exponent))


@checked(
    init_value=FINITE,
    transition_steps=NONNEGATIVE,
    decay_rate=POSITIVE,
    transition_begin=NONNEGATIVE,
    end_value=FINITE,
)
def exponential_decay(
    init_value: Number,
    transition_steps: Number,
    decay_rate: Number,
    transition_begin: Number = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    r"""Decay exponentially, or in equal factors at equal intervals.

    .. math::

       s(t) = \begin{cases}
       s_0 & t < b \\
       s_0\, r^{(t - b) / T} & t \ge b \end{cases}

    Args:
      init_value: :math:`s_0`, value until `transition_begin`, finite.
      transition_steps: :math:`T` >= 0, number of steps in which the value is multiplied by
        `decay_rate`; 0 switches the decay off.
      decay_rate: :math:`r` > 0. Above 1 the value grows, up to a limit that does not overflow.
      transition_begin: :math:`b` >= 0, the count at which the decay begins.
      staircase: whether to multiply once every `transition_steps` steps, rather than continuously:
        the exponent is rounded down to a whole number.
      end_value: lower bound of the value if `decay_rate < 1`, else upper bound. None is no bound.

    Returns:
      A `Schedule` whose leaves are the numbers.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.exponential_decay(1.0, 2, 0.25, end_value=0.1)(jnp.arange(6)))
      [1.    0.5   0.25  0.125 0.1   0.1  ]
    """
    given = init_value, transition_steps, decay_rate, transition_begin, end_value
    *first, end = numbers(*given)
    return ExponentialDecay(*first, staircase=bool(staircase), end_value=end)
