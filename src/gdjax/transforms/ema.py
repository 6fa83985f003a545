"""Replace the gradient by a running mean of the gradients."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import leafwise
from gdjax.core.numerics import bias_correction, compute_dtype


class Ema(NamedTuple):
    """What the mean remembers of one parameter."""

    ema: Array  # running mean of the gradient, from 0, shaped like the parameter


def _ema(grad, slots, param, count, *, decay, debias):
    mean = decay * slots.ema + (1 - decay) * grad
    return mean / bias_correction(decay, count) if debias else mean, Ema(mean)


def zero_ema(param, accumulator_dtype) -> Ema:
    """Return a zero mean for one parameter, at least float32 unless a dtype is given."""
    return Ema(jnp.zeros_like(param, dtype=accumulator_dtype or compute_dtype(param)))


@checked()
def ema(decay: Any, debias: bool = True, accumulator_dtype: Any = None) -> Optimizer:
    """Replace the gradient by the exponential mean of the gradients so far.

    ema = decay * ema + (1 - decay) * g;  the result is ema / (1 - decay^t) with `debias`

    Args:
      decay: share of the past, in [0, 1): a number, schedule or prefix tree. (With a schedule,
        `debias` goes by the decay in force, as if it had always been that.)
      debias: whether to undo the pull of the zero that the mean starts at.
      accumulator_dtype: dtype of the mean; None is at least float32 (optax: the parameters').

    Returns:
      An `Optimizer`. State: 4 bytes per element.

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
