"""LaProp: Adam in the opposite order: divide the gradient first, then take the running mean.

Ziyin, Wang & Ueda (2020), Algorithm 1, https://arxiv.org/abs/2002.04839
Paper -> here: m -> mu, n -> nu, mu -> b1, nu -> b2, lambda -> learning_rate, c_n, c_m -> bias
correction. Deviations: the learning rate multiplies the mean, not each term of it.
"""

from __future__ import annotations

import functools

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import Moments, zero_moments


def _laprop(grad, slots, param, count, *, b1, b2, eps):
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    root = safe_sqrt(nu / bias_correction(b2, count))
    mu = b1 * slots.mu + (1 - b1) * safe_divide(grad, root + eps)
    return mu / bias_correction(b1, count), Moments(mu, nu)


@checked()
def laprop(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-15,
    mu_dtype: FloatDType = None,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
) -> Optimizer:
    r"""Descend along a running mean of gradients, each divided by the RMS at its own step.

    Good for: high momentum with noisy gradients, reinforcement learning.

    Evidence: authors only. Ziyin et al. 2020, arXiv 2002.04839.

    .. math::

       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t / (\sqrt{\hat v_t} + \epsilon) \\
       \hat m_t &= m_t / (1 - \beta_1^t), \quad \hat v_t = v_t / (1 - \beta_2^t) \\
       x_t &= x_{t-1} - \eta_t (\hat m_t + \lambda x_{t-1})

    Since the mean is over numbers near one, :math:`\beta_1` and :math:`\beta_2` can be chosen
    independently; Adam diverges if :math:`\beta_1` is much larger than :math:`\beta_2`.

    Differences: the authors' code multiplies each term of the mean by the learning rate of its
    step, which differs while a schedule changes the rate.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`; the paper's is 4e-4.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      eps: :math:`\epsilon`, added to the root, >= 0.
      mu_dtype: see `adam`.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> for factory in (gdjax.laprop, gdjax.adamw):  # after a spike the mean forgets its size
      ...     opt = factory(0.1)
      ...     params = jnp.zeros(1)
      ...     state = opt.init(params)
      ...     for grad in (1.0, 100.0, 1.0):
      ...         updates, state = opt.update(jnp.full(1, grad), state, params)
      ...     print(updates.round(3))
      [-0.077]
      [-0.059]

    References:
      Ziyin, Wang & Ueda (2020), "LaProp: separating momentum and adaptivity in Adam", Algorithm 1.
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, eps=eps)
    return descend(_laprop, slots, numbers, learning_rate, weight_decay, mask)
