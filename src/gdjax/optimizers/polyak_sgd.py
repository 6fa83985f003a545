"""Gradient descent with Polyak's step size: the loss above its minimum over |gradient|^2.

Polyak (1987), "Introduction to optimization"; with a bound on the step, SPS_max of Loizou et al.
(2020), https://arxiv.org/abs/2002.10542; SPS+: Garrigos et al. (2023), https://arxiv.org/abs/2307.14528
Paper -> here: f_i(x) -> value, f_i* -> f_min, gamma_b -> max_learning_rate; c is 1 / scaling.
Deviations: none. In optax the scaling multiplies the norm of the gradient too, and so divides the
step.
"""

from __future__ import annotations

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, NONNEGATIVE, Range, called, check_choice, checked
from gdjax.core.fits import loss_given
from gdjax.core.lift import treewise
from gdjax.core.trees import sum_sq, times
from gdjax.core.types import Scalar

VARIANTS = ("sps", "sps+")


def _polyak(
    grads, slots, params, count, *, value, max_learning_rate, f_min, eps, scaling=None, variant
):
    squared = sum_sq(grads) + eps
    gap = loss_given("polyak_sgd", value) - f_min
    if variant == "sps+":
        gap = jnp.where(gap > 0, gap, 0)
    inside = gap < max_learning_rate * squared  # without a division, which could overflow
    step = jnp.where(inside, gap / jnp.where(inside, squared, 1), max_learning_rate)
    step = jnp.where(squared > 0, step, 0)
    return times(grads, step if scaling is None else -scaling * step), slots


def _build(variant: str, **numbers: Scalar) -> Optimizer:
    check_choice(f"{called('polyak_sgd')}(variant=...)", variant, VARIANTS)
    return treewise(_polyak, None, numbers, variant=variant)


_LIMIT = Range(">= 0", lambda x: x >= 0)
_RANGES = dict(f_min=FINITE, max_learning_rate=_LIMIT, scaling=NONNEGATIVE)


@checked(**_RANGES)
def scale_by_polyak(
    f_min: Scalar = 0.0, max_learning_rate: Scalar = 1.0, eps: Scalar = 0.0, variant: str = "sps"
) -> Optimizer:
    """Multiply the gradient by Polyak's step size; arguments and equations as in `polyak_sgd`.

    `update` needs `value=`, the loss.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_polyak()
      >>> grad = jnp.array([3.0, 4.0])
      >>> print(opt.update(grad, opt.init(grad), value=5.0)[0])
      [0.6 0.8]
    """
    return _build(variant, f_min=f_min, max_learning_rate=max_learning_rate, eps=eps)


@checked(**_RANGES)
def polyak_sgd(
    max_learning_rate: Scalar = 1.0,
    scaling: Scalar = 1.0,
    f_min: Scalar = 0.0,
    eps: Scalar = 0.0,
    variant: str = "sps",
) -> Optimizer:
    r"""Descend by Polyak's step size, which needs the loss and a lower bound of it.

    Good for: losses whose smallest value is known, networks that interpolate the data.

    Evidence: theory. Its convergence is proven for convex losses, to the minimum if the model
    interpolates the data (Loizou et al. 2020, arXiv 2002.10542).

    .. math::

       x_t = x_{t-1} - s\, \min\left(
       \frac{f(x_{t-1}) - f_{\min}}{\lVert g_t \rVert^2 + \epsilon},\; \eta_{\max} \right) g_t

    The norm is over the whole tree. For a zero gradient the step is 0.

    Differences: in optax the scaling multiplies the gradient before its norm is taken, so
    `polyak_sgd(scaling=s)` there is `polyak_sgd(scaling=1 / s)` here, while the step is below its
    bound.

    Args:
      max_learning_rate: :math:`\eta_{\max}` >= 0, the largest step size: a number or a schedule;
        infinity for no limit.
      scaling: :math:`s` >= 0, multiplies the step; less than 1 if the minimum is uncertain.
      f_min: the smallest value of the loss, 0 for over-parametrized problems.
      eps: added to the squared norm, >= 0.
      variant: "sps", or "sps+", which replaces a negative numerator by 0. With "sps" the step
        then points uphill.

    Returns:
      An `Optimizer` that remembers nothing of the parameters. Call its update with the loss, as
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
    numbers = dict(f_min=f_min, max_learning_rate=max_learning_rate, eps=eps, scaling=scaling)
    return _build(variant, **numbers)
