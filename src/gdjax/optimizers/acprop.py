"""ACProp: divide the gradient by the standard deviation of the gradients before it.

Zhuang et al. (2021), Algorithm 2, https://arxiv.org/abs/2110.05454
Paper -> here: m -> mu, s -> nu, t -> count, alpha -> learning_rate.
Deviations: bias correction and a plain gradient step at t = 1, where no deviation is known yet, as
in the authors' code.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, leafwise
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import Moments, zero_moments


def _acprop(grad, slots, param, count, *, b1, b2, eps, eps_root):
    before = slots.nu / bias_correction(b2, jnp.maximum(count - 1, 1))
    direction = safe_divide(grad, safe_sqrt(jnp.where(count > 1, before, 1)) + eps)
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad - mu) + eps_root
    return direction, Moments(mu, nu)


@checked()
def scale_by_acprop(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-16,
    eps_root: Hyperparam = 1e-16,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    """Replace the gradient by ACProp's direction; arguments and equations as in `acprop`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_acprop()
      >>> state = opt.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     direction, state = opt.update(jnp.full(1, 3.0), state)
      ...     print(direction.round(3))
      [3.]
      [1.111]
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    return leafwise(_acprop, slots, dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root))


@checked()
def acprop(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-16,
    eps_root: Hyperparam = 1e-16,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Descend along the gradient over the standard deviation of the gradients before it.

    Good for: noisy gradients, where the newest one should not affect its own divisor.

    Evidence: authors only. Zhuang et al. 2021, arXiv 2110.05454.

    .. math::

       \hat s_{t-1} &= s_{t-1} / (1 - \beta_2^{t-1}), \quad \hat s_0 = 1 \\
       d_t &= g_t / (\sqrt{\hat s_{t-1}} + \epsilon) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1}) \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       s_t &= \beta_2 s_{t-1} + (1 - \beta_2) |g_t - m_t|^2 + \bar\epsilon

    Differences: the deviation is that of :math:`g_t` from :math:`m_t`, as in the paper and the
    authors' code. optax takes it from :math:`m_{t-1}`, so its steps are :math:`\beta_1` times as
    long.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`. The first step is :math:`\eta_1 g_1`: not
        bounded as in Adam.
      b1: :math:`\beta_1`, decay of the mean from which the deviation is taken, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean squared deviation, in [0, 1).
      eps: :math:`\epsilon`, added to the root, >= 0.
      eps_root: :math:`\bar\epsilon`, added to the stored mean squared deviation in every step,
        >= 0.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      mu_dtype: see `adam`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`s_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.acprop(0.1)
      >>> params = jnp.zeros(1)
      >>> state = opt.init(params)
      >>> for grad in (1.0, 3.0, 2.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state, params)
      ...     print(updates.round(3))
      [-0.1]
      [-0.333]
      [-0.102]

    References:
      Zhuang et al. (2021), "Momentum centering and asynchronous update for adaptive gradient
      methods", Algorithm 2.
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return descend(_acprop, slots, numbers, learning_rate, weight_decay, mask)
