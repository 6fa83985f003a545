"""D-Adaptation: AdamW whose step size is a growing lower bound of the distance to a solution.

Defazio & Mishchenko (2023), Algorithm 5, https://arxiv.org/abs/2301.07733
Paper -> here: d -> distance, m -> mu, v -> nu, s -> grad_sum, r -> numerator, gamma ->
learning_rate.
Deviations: none from the authors' `dadaptation` with decoupled decay and bias correction.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, POSITIVE, UNIT, check_range, checked
from gdjax.core.lift import treewise
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.trees import (
    inner_product,
    magnitude,
    map_leaves,
    real_zeros_like,
    total,
    zero,
    zeros_like,
)
from gdjax.core.types import Params, Scalar


class DAdaptSlots(NamedTuple):
    """What D-Adaptation remembers."""

    mu: Params  # m, running mean of step size * gradient, shaped like the parameters
    nu: Params  # v, running mean of the squared gradient, real
    grad_sum: Params  # s, slow running mean of step size * gradient
    distance: Array  # d, the estimate; a number, valid after the first update
    numerator: Array  # r, slow running mean of step size^2 * <g, s / A>; a number


def _step(grad, mu, nu, grad_sum, param, rate, b1, b2, q, lost, eps, weight_decay):
    gain = inner_product(grad, safe_divide(grad_sum, safe_sqrt(nu) + eps))
    mu = b1 * mu + (1 - b1) * rate * grad
    nu = b2 * nu + (1 - b2) * abs_sq(grad)
    grad_sum = q * grad_sum + lost * rate * grad
    update = -safe_divide(mu, safe_sqrt(nu) + eps) - rate * weight_decay * param
    return mu, nu, grad_sum, update, gain, jnp.sum(magnitude(grad_sum))


def _dadapt_adamw(
    grads,
    slots,
    params,
    count,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    estim_lr0,
    weight_decay,
    correct_bias,
):
    q = safe_sqrt(b2)
    lost = (1 - b2) / (1 + q)  # 1 - q
    d = jnp.where(count == 1, estim_lr0, slots.distance)
    rate = d * learning_rate
    if correct_bias:
        rate *= safe_sqrt(bias_correction(b2, count)) / bias_correction(b1, count)
    trees = grads, slots.mu, slots.nu, slots.grad_sum, params
    mu, nu, grad_sum, updates, gains, sizes = map_leaves(
        _step, 6, trees, rate, b1, b2, q, lost, eps, weight_decay
    )
    numerator = q * slots.numerator + lost * rate * total(gains)
    size = lost * total(sizes)  # (1 - q) |s|_1, 0 until a gradient is not 0
    estimate = numerator / jnp.where(size > 0, size, 1)
    distance = jnp.where(size > 0, jnp.maximum(d, estimate), d)
    return updates, DAdaptSlots(mu, nu, grad_sum, distance, numerator)


def _zeros(params: Params) -> DAdaptSlots:
    zeros = zeros_like(params), real_zeros_like(params), zeros_like(params)
    return DAdaptSlots(*zeros, zero(), zero())


@checked(estim_lr0=POSITIVE, weight_decay=NONNEGATIVE)
def dadapt_adamw(
    learning_rate: Scalar = 1.0,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    estim_lr0: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    correct_bias: bool = True,
) -> Optimizer:
    r"""Run AdamW with a step size that is estimated during training; `prodigy` grows it faster.

    Good for: AdamW without a learning rate to tune.

    Evidence: mixed. It performs very well on some tasks and is not reliable across them, like other
    methods without a learning rate (Henheik et al. 2025, arXiv 2507.01724); `prodigy` was better in
    the later paper of the same authors (arXiv 2306.06101).

    The estimate is :math:`d_t`. With :math:`q = \sqrt{\beta_2}`, and sums over all parameters in
    the inner product and the norm:

    .. math::

       l_t &= d_{t-1} \eta_t k_t, \quad k_t = \sqrt{1 - \beta_2^t} / (1 - \beta_1^t) \\
       r_t &= q r_{t-1} + (1 - q) l_t \langle g_t, s_{t-1} / (\sqrt{v_{t-1}} + \epsilon) \rangle \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) l_t g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
       s_t &= q s_{t-1} + (1 - q) l_t g_t \\
       d_t &= \max(d_{t-1}, r_t / ((1 - q) \|s_t\|_1)) \\
       x_t &= x_{t-1} - m_t / (\sqrt{v_t} + \epsilon) - l_t \lambda x_{t-1}

    Differences: optax always has :math:`k_t`; the authors' `dadaptation` takes :math:`k_t = 1`
    unless asked for it. While all gradients are zero the estimate stays; optax's becomes NaN.

    Args:
      learning_rate: :math:`\eta_t`, see `prodigy`.
      betas: :math:`(\beta_1, \beta_2)`, both in [0, 1), see `prodigy`.
      eps: :math:`\epsilon`, added to the root, >= 0, in units of the gradient.
      estim_lr0: :math:`d_0` > 0, see `prodigy`.
      weight_decay: :math:`\lambda` >= 0, see `prodigy`.
      correct_bias: whether to use :math:`k_t`; if not, it is 1.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 12 bytes per element, :math:`m_t` (`mu`), :math:`v_t` (`nu`) and :math:`s_t`
      (`grad_sum`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.dadapt_adamw(estim_lr0=1e-3)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(200):
      ...     updates, state = opt.update(2 * params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(jnp.abs(params).max() < 0.1))
      True

    References:
      Defazio & Mishchenko (2023), "Learning-rate-free learning by D-Adaptation", Algorithm 5.
    """
    b1, b2 = betas
    for b in betas:
        check_range("dadapt_adamw(betas=...)", b, UNIT)
    numbers = dict(b1=b1, b2=b2, eps=eps, estim_lr0=estim_lr0)
    numbers |= dict(learning_rate=learning_rate, weight_decay=weight_decay)
    return treewise(_dadapt_adamw, _zeros, numbers, needs_params=True, correct_bias=correct_bias)
