"""Sum up the gradients with a decay: momentum as a transform of its own."""

from __future__ import annotations

import functools
from typing import Any

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import leafwise
from gdjax.optimizers.sgd import _momentum, momentum_trace


def _trace(grad, slots, param, count, *, decay, nesterov):
    return _momentum(grad, slots, param, count, momentum=decay, nesterov=nesterov)


@checked()
def trace(decay: Any, nesterov: bool = False, accumulator_dtype: Any = None) -> Optimizer:
    """Replace the gradient by the decaying sum of the gradients so far.

    trace = decay * trace + g;  the result is trace or, with `nesterov`, g + decay * trace

    `sgd(lr, momentum)` is `chain(trace(momentum), scale_by_learning_rate(lr))`. A running mean,
    `ema`, is (1 - decay) times this sum.

    Args:
      decay: decay of the sum, in [0, 1): a number, schedule or prefix tree.
      nesterov: whether to look one step ahead.
      accumulator_dtype: dtype of the sum; None is at least float32.

    Returns:
      An `Optimizer`. State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.trace(0.5)
      >>> state = opt.init(jnp.zeros(1))
      >>> for _ in range(3):
      ...     total, state = opt.update(jnp.ones(1), state)
      ...     print(total)
      [1.]
      [1.5]
      [1.75]
    """
    slots = functools.partial(momentum_trace, accumulator_dtype=accumulator_dtype)
    return leafwise(_trace, slots, dict(decay=decay), nesterov=nesterov)
