"""Gradient descent whose step is the distance of the loss from its minimum, in gradients.

Polyak (1987), "Introduction to optimization"; with a bound on the step, SPS_max of Loizou et al.
(2020), https://arxiv.org/abs/2002.10542; SPS+: Garrigos et al. (2023), https://arxiv.org/abs/2307.14528
Paper -> here: f_i(x) -> value, f_i* -> f_min, gamma_b -> max_learning_rate; c is 1 / scaling.
Deviations: none. In optax the scaling enters the norm of the gradient too, and so divides the step.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, NONNEGATIVE, check_choice, checked
from gdjax.core.numerics import scalar_dtype, sum_sq, times
from gdjax.core.treewise import treewise

VARIANTS = ("sps", "sps+")


def _polyak(
    grads, slots, params, count, *, value, max_learning_rate, f_min, eps, scaling=None, variant
):
    squared = sum_sq(grads) + eps
    gap = jnp.asarray(value, scalar_dtype()) - f_min
    if variant == "sps+":
        gap = jnp.where(gap > 0, gap, 0)
    inside = gap < max_learning_rate * squared  # compared without a division, which could overflow
    step = jnp.where(inside, gap / jnp.where(inside, squared, 1), max_learning_rate)
    step = jnp.where(squared > 0, step, 0)
    return times(grads, step if scaling is None else -scaling * step), slots


_RANGES = dict(f_min=FINITE, max_learning_rate=NONNEGATIVE, scaling=NONNEGATIVE)


@checked(**_RANGES)
def scale_by_polyak(
    f_min: Any = 0.0, max_learning_rate: Any = 1.0, eps: Any = 0.0, variant: str = "sps"
) -> Optimizer:
    """Multiply the gradient by Polyak's step size; `update` needs `value=`, the loss.

    The arguments are those of `polyak_sgd`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_polyak()
      >>> grad = jnp.array([3.0, 4.0])
      >>> print(opt.update(grad, opt.init(grad), value=5.0)[0])
      [0.6 0.8]
    """
    check_choice("scale_by_polyak(variant=...)", variant, VARIANTS)
    numbers = dict(f_min=f_min, max_learning_rate=max_learning_rate, eps=eps)
    return treewise(_polyak, None, numbers, variant=variant)


@checked(**_RANGES)
def polyak_sgd(
    max_learning_rate: Any = 1.0,
    scaling: Any = 1.0,
    f_min: Any = 0.0,
    eps: Any = 0.0,
    variant: str = "sps",
) -> Optimizer:
    """Descend by Polyak's step size, which needs the loss and a bound on its minimum.

    Good for: losses whose smallest value is known, interpolation.

    update = -scaling * min((value - f_min) / (|g|^2 + eps), max_learning_rate) * g, where |g| is
    the norm over the whole tree; 0 for a zero gradient

    Args:
      max_learning_rate: the largest step size, >= 0: a number or a schedule.
      scaling: multiplies the step, >= 0; where the minimum is a guess, less than 1.
      f_min: the smallest value of the loss. On over-parametrized problems 0 is right.
      eps: added to the squared norm, >= 0.
      variant: "sps", or "sps+", which takes value - f_min as 0 where it is negative. Without the
        plus such a step goes uphill.

    Returns:
      An `Optimizer` that remembers nothing of the parameters; call its update with the loss:
      `update(grads, state, params, value=loss)`.

    Raises:
      ValueError: if a concrete number is out of range or the variant unknown.
      TypeError: if `update` is called without `value`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def loss(x):
      ...     return jnp.sum(x**2)
      >>> opt = gdjax.polyak_sgd()
      >>> params = jnp.array([1.0, 2.0])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     value, grads = jax.value_and_grad(loss)(params)
      ...     updates, state = opt.update(grads, state, params, value=value)
      ...     params = gdjax.apply_updates(params, updates)
      ...     print(params)
      [0.5 1. ]
      [0.25 0.5 ]
      [0.125 0.25 ]

    References:
      Loizou et al. (2020), "Stochastic Polyak step-size for SGD".
    """
    check_choice("polyak_sgd(variant=...)", variant, VARIANTS)
    numbers = dict(f_min=f_min, max_learning_rate=max_learning_rate, eps=eps, scaling=scaling)
    return treewise(_polyak, None, numbers, variant=variant)
