"""A linear warm-up, then a decay.

`decay_steps` is the length of the whole schedule, warm-up included. Without a warm-up (0 steps) the
schedule starts at the peak; with a warm-up of `decay_steps` it gives `end_value` after it (optax
raises an error).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, POSITIVE, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import (
    Leaf,
    blend,
    check_order,
    cosine,
    fraction_left,
    line,
    numbers,
    power,
    real,
)
from gdjax.schedules.decay import ExponentialDecay
from gdjax.schedules.warmup import after_warmup


@schedule
class WarmupLinearDecay(Schedule):
    """A line up and a line down; see `warmup_linear_decay_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("warmup_steps", "decay_steps")
    init_value: Leaf
    peak_value: Leaf
    warmup_steps: Leaf
    decay_steps: Leaf
    end_value: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        steps = real(self.decay_steps) - real(self.warmup_steps)
        return after_warmup(self, lambda n: line(self.peak_value, self.end_value, n, steps), count)


@schedule
class WarmupPolynomialDecay(Schedule):
    """A line up, then a power of the remaining fraction; see `warmup_polynomial_decay_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("warmup_steps", "decay_steps")
    init_value: Leaf
    peak_value: Leaf
    warmup_steps: Leaf
    decay_steps: Leaf
    end_value: Leaf
    power: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        steps = real(self.decay_steps) - real(self.warmup_steps)

        def decay(n):
            return blend(
                self.peak_value, self.end_value, power(fraction_left(n, steps), self.power)
            )

        return after_warmup(self, decay, count)


@schedule
class WarmupCosineDecay(Schedule):
    """A line up, then half a cosine wave; see `warmup_cosine_decay_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("warmup_steps", "decay_steps")
    init_value: Leaf
    peak_value: Leaf
    warmup_steps: Leaf
    decay_steps: Leaf
    end_value: Leaf
    exponent: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        steps = real(self.decay_steps) - real(self.warmup_steps)

        def decay(n):
            left = power(cosine(fraction_left(n, steps)), self.exponent)
            return blend(self.peak_value, self.end_value, left)

        return after_warmup(self, decay, count)


@schedule
class WarmupExponentialDecay(Schedule):
    """A line up, then powers of a rate; see `warmup_exponential_decay_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("warmup_steps", "transition_steps", "transition_begin")
    init_value: Leaf
    peak_value: Leaf
    warmup_steps: Leaf
    transition_steps: Leaf
    decay_rate: Leaf
    transition_begin: Leaf
    staircase: bool = dataclasses.field(metadata={"static": True})
    end_value: Leaf | None  # None: no bound

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`."""
        decay = ExponentialDecay(
            self.peak_value,
            self.transition_steps,
            self.decay_rate,
            self.transition_begin,
            self.staircase,
            self.end_value,
        )
        return after_warmup(self, decay, count)


WARMUP = dict(init_value=FINITE, peak_value=FINITE, warmup_steps=NONNEGATIVE)
TOTAL = WARMUP | dict(decay_steps=NONNEGATIVE, end_value=FINITE)
HINT = "decay_steps includes the warm-up: the decay takes decay_steps - warmup_steps."


@checked(**TOTAL)
def warmup_linear_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Number,
    decay_steps: Number,
    end_value: Number = 0.0,
) -> Schedule:
    r"""Rise linearly, then decay linearly.

    .. math::

       s(t) &= \begin{cases}
       s_0 + (s_1 - s_0)\, t / W & t < W \\
       s_2 + (s_1 - s_2) (1 - p) & t \ge W \end{cases} \\
       p &= \min\left( \frac{t - W}{T - W},\; 1 \right)

    Args:
      init_value: see `warmup_cosine_decay_schedule`, like all arguments.
      peak_value: see `warmup_cosine_decay_schedule`.
      warmup_steps: see `warmup_cosine_decay_schedule`.
      decay_steps: see `warmup_cosine_decay_schedule`.
      end_value: see `warmup_cosine_decay_schedule`.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range, or `warmup_steps > decay_steps`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.warmup_linear_decay_schedule(0.0, 1.0, 2, 6)(jnp.arange(8)))
      [0.   0.5  1.   0.75 0.5  0.25 0.   0.  ]
    """
    steps = "warmup_steps", warmup_steps, "decay_steps", decay_steps
    check_order("warmup_linear_decay_schedule", *steps, HINT)
    return WarmupLinearDecay(*numbers(init_value, peak_value, warmup_steps, decay_steps, end_value))


@checked(**TOTAL, power=NONNEGATIVE)
def warmup_polynomial_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Number,
    decay_steps: Number,
    end_value: Number = 0.0,
    power: Number = 2.0,
) -> Schedule:
    r"""Rise linearly, then decay along a power of the remaining fraction.

    .. math::

       s(t) &= \begin{cases}
       s_0 + (s_1 - s_0)\, t / W & t < W \\
       s_2 + (s_1 - s_2) (1 - p)^q & t \ge W \end{cases} \\
       p &= \min\left( \frac{t - W}{T - W},\; 1 \right)

    Args:
      init_value: see `warmup_cosine_decay_schedule`, like the arguments not named here.
      peak_value: see `warmup_cosine_decay_schedule`.
      warmup_steps: see `warmup_cosine_decay_schedule`.
      decay_steps: see `warmup_cosine_decay_schedule`.
      end_value: see `warmup_cosine_decay_schedule`.
      power: :math:`q` >= 0, as in `polynomial_schedule`. With 1/2 the value stays high for longer.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range, or `warmup_steps > decay_steps`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.warmup_polynomial_decay_schedule(0.0, 1.0, 2, 6)(jnp.arange(8)))
      [0.     0.5    1.     0.5625 0.25   0.0625 0.     0.    ]
    """
    steps = "warmup_steps", warmup_steps, "decay_steps", decay_steps
    check_order("warmup_polynomial_decay_schedule", *steps, HINT)
    return WarmupPolynomialDecay(
        *numbers(init_value, peak_value, warmup_steps, decay_steps, end_value, power)
    )


@checked(**TOTAL, exponent=NONNEGATIVE)
def warmup_cosine_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Number,
    decay_steps: Number,
    end_value: Number = 0.0,
    exponent: Number = 1.0,
) -> Schedule:
    r"""Rise linearly, then decay along half a cosine wave.

    .. math::

       s(t) &= \begin{cases}
       s_0 + (s_1 - s_0)\, t / W & t < W \\
       s_2 + (s_1 - s_2) \left( \frac{1 + \cos(\pi p)}{2} \right)^q & t \ge W \end{cases} \\
       p &= \min\left( \frac{t - W}{T - W},\; 1 \right)

    Args:
      init_value: :math:`s_0`, value at count 0, finite; often 0.
      peak_value: :math:`s_1`, value at `warmup_steps`, finite.
      warmup_steps: :math:`W`, length of the warm-up in steps, from 0 to `decay_steps`.
      decay_steps: :math:`T`, length of the schedule in steps, warm-up included, of any size.
      end_value: :math:`s_2`, value from `decay_steps` on, finite. If `peak_value` is 0, optax
        ignores it.
      exponent: :math:`q` >= 0, as in `cosine_decay_schedule`.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range, or `warmup_steps > decay_steps`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> print(gdjax.warmup_cosine_decay_schedule(0.0, 1.0, 2, 6)(jnp.arange(8)))
      [0.     0.5    1.     0.8536 0.5    0.1464 0.     0.    ]

      Every number may be traced: four peaks in one call.

      >>> peaks = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> value = jax.vmap(lambda p: gdjax.warmup_cosine_decay_schedule(0.0, p, 2, 6)(4))
      >>> print(value(peaks))
      [0.5 1.  1.5 2. ]
    """
    steps = "warmup_steps", warmup_steps, "decay_steps", decay_steps
    check_order("warmup_cosine_decay_schedule", *steps, HINT)
    return WarmupCosineDecay(
        *numbers(init_value, peak_value, warmup_steps, decay_steps, end_value, exponent)
    )


@checked(
    **WARMUP,
    transition_steps=NONNEGATIVE,
    decay_rate=POSITIVE,
    transition_begin=NONNEGATIVE,
    end_value=FINITE,
)
def warmup_exponential_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Number,
    transition_steps: Number,
    decay_rate: Number,
    transition_begin: Number = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    r"""Rise linearly, then decay exponentially.

    .. math::

       s(t) = \begin{cases}
       s_0 + (s_1 - s_0)\, t / W & t < W \\
       s_1 & W \le t < W + b \\
       s_1\, r^{(t - W - b) / T} & t \ge W + b \end{cases}

    Args:
      init_value: :math:`s_0`, value at count 0, finite; often 0.
      peak_value: :math:`s_1`, value at `warmup_steps`, finite.
      warmup_steps: :math:`W` >= 0, length of the warm-up in steps.
      transition_steps: see `exponential_decay`, like the arguments below.
      decay_rate: see `exponential_decay`.
      transition_begin: :math:`b` >= 0, steps from the end of the warm-up to the start of the
        decay.
      staircase: see `exponential_decay`.
      end_value: see `exponential_decay`.

    Returns:
      A `Schedule` whose leaves are the numbers.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.warmup_exponential_decay_schedule(0.0, 1.0, 2, 1, 0.5)(jnp.arange(6)))
      [0.    0.5   1.    0.5   0.25  0.125]
    """
    first = init_value, peak_value, warmup_steps, transition_steps, decay_rate, transition_begin
    *first, end = numbers(*first, end_value)
    return WarmupExponentialDecay(*first, staircase=bool(staircase), end_value=end)
