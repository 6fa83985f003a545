"""Yogi: Adam whose mean square changes by at most (1 - b2) times the squared gradient.

Zaheer et al. (2018), Algorithm 2, https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization
Paper -> here: m -> mu, v -> nu, eta -> learning_rate. Deviations, all as in optax: bias correction,
and both means start at 1e-6 and not at 0, so the first steps are not 0 even for a zero gradient.
"""

from __future__ import annotations

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adam import Moments, zero_moments


def _yogi(grad, slots, param, count, *, b1, b2, eps, eps_root, initial_accumulator_value):
    mu, nu = (jnp.where(count == 1, initial_accumulator_value, x) for x in slots)
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return yogi_rule(grad, Moments(mu, nu), param, count, **numbers)


def yogi_rule(grad, slots, param, count, *, b1, b2, eps, eps_root):
    """Return Yogi's direction, uphill, and the new moments, of which the first are not 0."""
    squared = abs_sq(grad)
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = slots.nu - (1 - b2) * jnp.sign(slots.nu - squared) * squared
    nu_hat = nu / bias_correction(b2, count)
    direction = safe_divide(mu / bias_correction(b1, count), safe_sqrt(nu_hat + eps_root) + eps)
    return direction, Moments(mu, nu)


@checked(initial_accumulator_value=NONNEGATIVE)
def yogi(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-3,
    eps_root: Hyperparam = 0.0,
    initial_accumulator_value: Hyperparam = 1e-6,
) -> Optimizer:
    r"""Run Adam with a mean square that shrinks slowly.

    Good for: sparse gradients whose scale changes abruptly.

    Evidence: authors only. Zaheer et al. 2018,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization.

    .. math::

       v_t = v_{t-1} - (1 - \beta_2) \operatorname{sign}(v_{t-1} - |g_t|^2)\, |g_t|^2

    The rest is as in `adam`. When gradients become small, Adam's mean square decreases by the
    factor b2 in each step and its steps grow fast; here it decreases by at most
    :math:`(1 - \beta_2)\, |g_t|^2`.

    Differences: the paper has no bias correction. Both means start at `initial_accumulator_value`,
    as in optax, so the first steps are not 0 even for a zero gradient.

    Args:
      learning_rate: as in `adam`, like b1 and b2.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, added to the root; larger than Adam's.
      eps_root: :math:`\bar\epsilon` >= 0, added under the root.
      initial_accumulator_value: :math:`m_0 = v_0` >= 0; only the first update uses it.

    Returns:
      An `Optimizer`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.yogi(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (10.0, 0.1, 0.1):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.0677]
      [-0.053]

    References:
      Zaheer et al. (2018), "Adaptive methods for nonconvex optimization", Algorithm 2.
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    numbers |= dict(initial_accumulator_value=initial_accumulator_value)
    return descend(_yogi, zero_moments, numbers, learning_rate)


@direction_of(yogi)
def scale_by_yogi() -> None:
    """Replace the gradient by Yogi's direction; arguments and equations as in `yogi`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_yogi()
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0].round(2))
      [ 1. -1.]
    """
