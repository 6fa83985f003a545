"""Numbers in tokens, which hold for every batch size: half-lives, lengths, and rates.

Half-lives: Marek et al. (2025), section 3.3, https://arxiv.org/abs/2507.07101
Square root of the batch size: Malladi et al. (2022), https://arxiv.org/abs/2205.10287; linear:
Goyal et al. (2017), section 2.1, https://arxiv.org/abs/1706.02677

The number of tokens in a step may be a schedule itself, the one that changes the batch size.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, POSITIVE, checked
from gdjax.core.hyper import DecaySchedule, Schedule, schedule
from gdjax.core.numerics import Decay
from gdjax.core.times import Product, as_factor, value_of
from gdjax.core.types import Number, Scalar, ScheduleFn
from gdjax.schedules.curves import Leaf, numbers, real, since
from gdjax.schedules.epochs import check_in_steps, stretched
from gdjax.schedules.join import as_schedule
from gdjax.schedules.piecewise import PiecewiseConstant
from gdjax.schedules.transition import Constant


@schedule
class HalfLife(DecaySchedule):
    """A decay with a half-life in tokens; see `half_life`."""

    lengths: ClassVar[tuple[str, ...]] = ()
    tokens: Leaf
    tokens_per_step: Any

    def decay(self, count: Number) -> Decay:
        """Return the decay of step `count`."""
        half_lives = value_of(self.tokens_per_step, count) / real(self.tokens)
        return Decay.of(-jnp.expm1(-math.log(2) * half_lives))


@schedule
class InTokens(Schedule):
    """A schedule whose lengths are in tokens; see `in_tokens`."""

    unit: ClassVar[str] = "tokens"
    lengths: ClassVar[tuple[str, ...]] = ()
    schedule: Any
    tokens_per_step: Any

    def __call__(self, count: Number) -> Array:
        """Return the value at step `count`."""
        if not isinstance(self.tokens_per_step, Schedule):
            return stretched(self.schedule, 1.0, real(self.tokens_per_step))(count)
        return self.schedule(tokens_before(self.tokens_per_step, count))


@schedule
class BatchScaled(Schedule):
    """A number that follows the batch size; see `scaled_by_batch_size`."""

    lengths: ClassVar[tuple[str, ...]] = ()
    value: Any
    tokens_per_step: Any
    reference: Leaf
    exponent: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value at step `count`."""
        ratio = value_of(self.tokens_per_step, count) / real(self.reference)
        return value_of(self.value, count) * ratio**self.exponent


def tokens_before(per_step: Any, count: Number) -> Array:
    """Return how many tokens the steps before `count` took, where `per_step` is as `in_tokens`."""
    if isinstance(per_step, Product):
        value, factor = per_step.value, per_step.multiplier
        if isinstance(value, Schedule):
            return tokens_before(value, count) * real(factor)
        return tokens_before(factor, count) * real(value)
    if isinstance(per_step, Constant):
        return real(per_step.value) * real(count)
    now, begins = real(per_step.init_value), (0.0, *per_step.boundaries)
    total = jnp.zeros_like(real(count))
    for i, begin in enumerate(begins):
        steps = jnp.maximum(since(count, begin), 0)
        if i + 1 < len(begins):
            steps = jnp.minimum(steps, real(begins[i + 1]) - real(begin))
        total = total + now * steps
        if i < len(per_step.scales):
            now = now * real(per_step.scales[i])
    return total


def _number(x: Any) -> Any:
    """Return a number as schedules keep it, a function as a schedule."""
    return as_factor(x) if callable(x) else next(numbers(x))


def _has_a_sum(per_step: Any) -> bool:
    if isinstance(per_step, Product):
        parts = per_step.value, per_step.multiplier
        inside = [part for part in parts if isinstance(part, Schedule)]
        return len(inside) < 2 and all(map(_has_a_sum, inside))
    return isinstance(per_step, (Constant, PiecewiseConstant))


@checked(tokens=POSITIVE, tokens_per_step=POSITIVE)
def half_life(tokens: Number, tokens_per_step: Scalar) -> Schedule:
    r"""Give the decay of a running mean by its half-life in tokens, whatever the batch size.

    .. math::

       \beta_t = 2^{-B_t / H}

    so that the weight of a gradient in the mean halves every :math:`H` tokens. Marek et al. train
    language models with batch sizes from 1 to 4096: one half-life of Adam's :math:`\beta_2` serves
    all of them, one :math:`\beta_2` does not; :math:`\beta_1` stays as it is. The half-life of a
    known decay is :math:`H = -B \ln 2 / \ln \beta`: 6.8 million tokens for 0.95 and half a million
    tokens in a step.

    All digits of :math:`1 - \beta_t` are kept, as for a decay that is given as a number. Bias
    correction takes the present decay for all steps so far, :math:`1 - \beta_t^t`. It is exact for
    a constant batch size, and else once a few half-lives have passed.

    Args:
      tokens: :math:`H` > 0, the half-life, in tokens or in any other unit.
      tokens_per_step: :math:`B_t` > 0, in the same unit: a number, which a change of the batch
        size writes into the state, `with_hyperparams(state, **{"b2.tokens_per_step": 4096})`, or a
        schedule.

    Returns:
      A `Schedule` for any decay, such as `b2`, whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax
      >>> for batch in (1, 64, 4096):  # of sequences of 512 tokens
      ...     print(round(float(gdjax.half_life(10e6, 512 * batch)(0)), 6))
      0.999965
      0.997731
      0.864708
      >>> opt = gdjax.adam(1e-3, b2=gdjax.half_life(10e6, tokens_per_step=512))

    References:
      Marek et al. (2025), "Small batch size training for language models: when vanilla SGD works,
      and why gradient accumulation is wasteful".
    """
    return HalfLife(*map(_number, (tokens, tokens_per_step)))


@checked(tokens_per_step=POSITIVE)
def in_tokens(schedule: ScheduleFn, tokens_per_step: Scalar) -> Schedule:
    """Read the lengths of a schedule in tokens.

    `in_tokens(cosine_decay_schedule(1e-3, 1e9), 5e5)` is `cosine_decay_schedule(1e-3, 2000)`, bit
    for bit, also where float32 does not have the number of tokens. Where the batch size changes,
    the schedule is evaluated at the number of tokens seen so far, to the 7 digits of float32.

    Args:
      schedule: any schedule, also joined ones; its lengths in steps are taken as tokens. A
        function is called with the tokens seen so far, a float.
      tokens_per_step: > 0, a number, or the schedule of the batch size: a
        `piecewise_constant_schedule`, or `times` of one and a number.

    Returns:
      A `Schedule`, in which the schedule's own numbers are found under "schedule".

    Raises:
      TypeError: if the schedule cannot be called, or is in epochs or tokens already; if the tokens
        of a step are a schedule of another kind, whose sum is not known.
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> batch = gdjax.piecewise_constant_schedule(100.0, {4: 2.0})  # tokens in a step
      >>> print(gdjax.in_tokens(gdjax.linear_schedule(1.0, 0.0, 1000), batch)(jnp.arange(8)))
      [1.  0.9 0.8 0.7 0.6 0.4 0.2 0. ]
    """
    inside = as_schedule(schedule, "in_tokens(schedule=...) must be a schedule or a function")
    check_in_steps("in_tokens", inside)
    per_step = _number(tokens_per_step)
    if isinstance(per_step, Schedule) and not _has_a_sum(per_step):
        raise TypeError(
            "in_tokens(tokens_per_step=...) must be a number or a piecewise_constant_schedule, "
            f"maybe times a number, got a {type(per_step).__name__}: the number of tokens that it "
            "has seen by a given step is not known."
        )
    return InTokens(inside, per_step)


@checked(tokens_per_step=POSITIVE, reference=POSITIVE, exponent=FINITE)
def scaled_by_batch_size(
    value: Scalar, tokens_per_step: Scalar, reference: Number, exponent: Number = 0.5
) -> Schedule:
    r"""Let a learning rate follow the batch size.

    .. math::

       \eta_t = s(t)\, (B_t / B_0)^p

    The square root is the rule for Adam and other methods that divide by the root of a second
    moment (Malladi et al., by a stochastic differential equation), and for `hyperball` (Ren et al.
    2026). SGD takes :math:`p = 1` (Goyal et al.). Both hold for batches that are small compared to
    the critical batch size; beyond it a larger rate may diverge.

    Args:
      value: :math:`s`, the learning rate that was tuned with the batch size `reference`: a number
        or schedule.
      tokens_per_step: :math:`B_t` > 0, the batch size, in tokens or examples: a number or schedule.
      reference: :math:`B_0` > 0, in the same unit.
      exponent: :math:`p`, finite.

    Returns:
      A `Schedule` whose leaves are the arguments.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> batch = gdjax.piecewise_constant_schedule(64.0, {2: 4.0})
      >>> print(gdjax.scaled_by_batch_size(0.1, batch, reference=64)(jnp.arange(4)))
      [0.1 0.1 0.2 0.2]

    References:
      Malladi et al. (2022), "On the SDEs and scaling rules for adaptive gradient algorithms".
      Goyal et al. (2017), "Accurate, large minibatch SGD".
      Ren et al. (2026), "Rethinking language model scaling under transferable hypersphere
      optimization", https://arxiv.org/abs/2603.28743
    """
    return BatchScaled(*map(_number, (value, tokens_per_step, reference, exponent)))
