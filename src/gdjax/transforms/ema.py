"""Replace the gradient by a running mean of the gradients."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import leafwise
from gdjax.core.numerics import bias_correction, compute_dtype
from gdjax.core.types import FloatDType, Hyperparam


class Ema(NamedTuple):
    """What is remembered of one parameter."""

    ema: Array  # running mean of the gradient, from 0, shaped like the parameter


def _ema(grad, slots, param, count, *, decay, debias):
    mean = decay * slots.ema + (1 - decay) * grad
    return mean / bias_correction(decay, count) if debias else mean, Ema(mean)


def zero_ema(param: Array, accumulator_dtype: FloatDType) -> Ema:
    """Return a zero mean for one parameter, at least float32 unless a dtype is given."""
    return Ema(jnp.zeros_like(param, dtype=accumulator_dtype or compute_dtype(param)))


@checked()
def ema(decay: Hyperparam, debias: bool = True, accumulator_dtype: FloatDType = None) -> Optimizer:
    r"""Replace the gradient by the exponential moving average of the gradients so far.

    .. math::

       m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
       \hat m_t &= m_t / (1 - \beta^t)

    The result is :math:`\hat m_t` with `debias`, else :math:`m_t`.

    Args:
      decay: :math:`\beta` in [0, 1), weight of the past: a number, schedule or prefix tree. (With a
        schedule, `debias` uses the current value, as if the decay had always been that.)
      debias: whether to correct the bias that is due to the initial value, zero.
      accumulator_dtype: dtype of the mean; None is at least float32 (optax: the parameters').

    Returns:
      An `Optimizer`.
      State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.ema(0.5)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (1.0, 4.0):
      ...     mean, state = opt.update(jnp.full(1, grad), state)
      ...     print(mean)  # 1, then (0.25 * 1 + 0.5 * 4) / 0.75
      [1.]
      [3.]
    """
    slots = functools.partial(zero_ema, accumulator_dtype=accumulator_dtype)
    return leafwise(_ema, slots, dict(decay=decay), debias=debias)
