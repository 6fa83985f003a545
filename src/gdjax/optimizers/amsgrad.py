"""AMSGrad: Adam whose mean square never shrinks, so that the step size of a weight never grows.

Reddi, Kale & Kumar (2018), Algorithm 2, https://arxiv.org/abs/1904.09237
Paper -> here: m -> mu, v -> nu, v-hat -> nu_max, t -> count, alpha -> learning_rate.
Deviations: bias correction, which the paper lacks, on by default as in torch and optax.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam
from gdjax.optimizers.adam import zero_moments


class MaxMoments(NamedTuple):
    """What AMSGrad remembers of one parameter."""

    mu: Array  # m, running mean of the gradient, shaped like the parameter
    nu: Array  # v, running mean of its square, real, shaped like the parameter
    nu_max: Array  # v-hat, the largest nu so far, likewise


def _amsgrad(
    grad,
    slots,
    param,
    count,
    *,
    b1,
    b2,
    eps,
    eps_root,
    bias_correction_mu,
    bias_correction_nu,
    max_corrected,
):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    mu_hat = mu / bias_correction(b1, count) if bias_correction_mu else mu
    weight = bias_correction(b2, count) if bias_correction_nu else 1
    if max_corrected:
        nu_max = nu_hat = jnp.maximum(slots.nu_max, nu / weight)
    else:
        nu_max = jnp.maximum(slots.nu_max, nu)
        nu_hat = nu_max / weight
    return safe_divide(mu_hat, safe_sqrt(nu_hat + eps_root) + eps), MaxMoments(mu, nu, nu_max)


def _zero_moments(param: Array, mu_dtype: FloatDType, nu_dtype: FloatDType) -> MaxMoments:
    mu, nu = zero_moments(param, mu_dtype, nu_dtype)
    return MaxMoments(mu, nu, jnp.zeros_like(nu))


@checked()
def amsgrad(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_corrected: bool = False,
    nu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Descend along a running mean of the gradient over its largest root-mean-square so far.

    Good for: problems on which Adam cycles, since the divisor never shrinks.

    Evidence: negative. It is one of fifteen tuned optimizers, of which none was consistently better
    than Adam (Schmidt et al. 2021, arXiv 2007.01547).

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
       v_t^{\max} &= \max(v_{t-1}^{\max}, v_t) \\
       \hat m_t &= m_t / (1 - \beta_1^t), \quad \hat v_t = v_t^{\max} / (1 - \beta_2^t) \\
       d_t &= \hat m_t / (\sqrt{\hat v_t + \bar\epsilon} + \epsilon) \\
       x_t &= x_{t-1} - \eta_t d_t

    Differences: torch is the same. optax takes the maximum of the corrected means, as with
    `max_corrected=True`; since those start high, its later steps are shorter.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      mu_dtype: see `adam`.
      bias_correction_mu: whether to divide :math:`m_t` by :math:`1 - \beta_1^t`; the paper does
        not.
      bias_correction_nu: whether to divide :math:`v_t^{\max}` by :math:`1 - \beta_2^t`; the paper
        does not.
      max_corrected: whether the maximum is taken after bias correction, not before.
      nu_dtype: see `adam`; also the dtype of the maximum.

    Returns:
      An `Optimizer`.
      State: 12 bytes per element, :math:`m_t` (`mu`), :math:`v_t` (`nu`) and :math:`v_t^{\max}`
      (`nu_max`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.amsgrad(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (10.0, 0.1, 0.1):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.0677]
      [-0.053]

    References:
      Reddi, Kale & Kumar (2018), "On the convergence of Adam and beyond", Algorithm 2.
    """
    slots = functools.partial(_zero_moments, mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    return descend(
        _amsgrad,
        slots,
        dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root),
        learning_rate,
        bias_correction_mu=bias_correction_mu,
        bias_correction_nu=bias_correction_nu,
        max_corrected=max_corrected,
    )


@direction_of(amsgrad)
def scale_by_amsgrad() -> None:
    """Replace the gradient by AMSGrad's direction; arguments and equations as in `amsgrad`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_amsgrad()
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 1. -1.]
    """
