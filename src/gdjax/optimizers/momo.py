"""MoMo: momentum with a Polyak step size from a model of the loss, at most the learning rate.

Schaipp, Ohana, Eickenberg, Defazio & Gower (2023), Algorithms 1 and 2 (`momo_adam`),
https://arxiv.org/abs/2305.07583
Paper -> here: d -> mu, v -> nu, f bar -> loss_mean, gamma -> slope_mean, alpha -> learning_rate,
f_* -> lower_bound, lambda -> weight_decay. Deviations: none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, NONNEGATIVE, UNIT, checked
from gdjax.core.fits import loss_given
from gdjax.core.lift import treewise
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.trees import inner_product, map_leaves, real_zeros_like, total, zero, zeros_like
from gdjax.core.types import Params, Scalar


class MomoSlots(NamedTuple):
    """What MoMo remembers."""

    mu: Params  # d, running mean of the gradient, shaped like the parameters
    loss_mean: Array  # f bar, running mean of the loss; a number, like the next two
    slope_mean: Array  # gamma, running mean of <gradient, parameters>
    lower_bound: Array  # f_*, estimate of the smallest loss, valid after the first update


class MomoAdamSlots(NamedTuple):
    """What MoMo-Adam remembers."""

    mu: Params  # as above
    nu: Params  # v, running mean of the squared gradient, real
    loss_mean: Array
    slope_mean: Array
    lower_bound: Array


def _means(grad, mu, param, b1):
    mu = b1 * mu + (1 - b1) * grad
    return mu, jnp.sum(abs_sq(mu)), inner_product(grad, param), inner_product(mu, param)


def _means_adam(grad, mu, nu, param, b1, b2, bc2, eps):
    mu = b1 * mu + (1 - b1) * grad
    nu = b2 * nu + (1 - b2) * abs_sq(grad)
    direction = safe_divide(mu, safe_sqrt(nu / bc2) + eps)
    slopes = inner_product(grad, param), inner_product(mu, param)
    return mu, nu, direction, inner_product(mu, direction), *slopes


def _step(direction, param, tau, decay):
    return -(tau * direction + decay * param) / (1 + decay)


def _polyak(bound, loss, slope, now, size, rate, shrink, lower_bound, bc1, adapt_lower_bound):
    """Return the step size tau and the next lower bound.

    `now` is <mean gradient, parameters>, `size` the squared norm of the mean gradient.
    """
    height = shrink * (loss - slope) + now
    if adapt_lower_bound:  # a bound above the model's value is too high
        lower = jnp.maximum(height / (2 * bc1 * shrink), lower_bound)
        bound = jnp.where(height < shrink * bc1 * bound, lower, bound)
    polyak = jnp.maximum(height - shrink * bc1 * bound, 0) / jnp.where(size > 0, size, 1)
    tau = jnp.where(size > 0, jnp.minimum(rate / bc1, polyak), 0)
    if adapt_lower_bound:
        bound = jnp.maximum((loss + now - slope - tau * size / 2) / bc1, lower_bound)
    return tau, bound


def _momo(
    grads,
    slots,
    params,
    count,
    *,
    learning_rate,
    beta,
    lower_bound,
    weight_decay,
    adapt_lower_bound,
    value,
):
    value = loss_given("momo", value)
    b1 = jnp.where(count == 1, 0, beta)
    bound = jnp.where(count == 1, lower_bound, slots.lower_bound)
    shrink = 1 + learning_rate * weight_decay
    mu, sizes, slopes, nows = map_leaves(_means, 4, (grads, slots.mu, params), b1)
    loss = b1 * slots.loss_mean + (1 - b1) * value
    slope = b1 * slots.slope_mean + (1 - b1) * total(slopes)
    model = bound, loss, slope, total(nows), total(sizes)
    tau, bound = _polyak(*model, learning_rate, shrink, lower_bound, 1, adapt_lower_bound)
    (updates,) = map_leaves(_step, 1, (mu, params), tau, learning_rate * weight_decay)
    return updates, MomoSlots(mu, loss, slope, bound)


def _momo_adam(
    grads,
    slots,
    params,
    count,
    *,
    learning_rate,
    b1,
    b2,
    eps,
    lower_bound,
    weight_decay,
    adapt_lower_bound,
    value,
):
    value = loss_given("momo_adam", value)
    bound = jnp.where(count == 1, lower_bound, slots.lower_bound)
    shrink = 1 + learning_rate * weight_decay
    bc1, bc2 = bias_correction(b1, count), bias_correction(b2, count)
    mu, nu, directions, sizes, slopes, nows = map_leaves(
        _means_adam, 6, (grads, slots.mu, slots.nu, params), b1, b2, bc2, eps
    )
    loss = b1 * slots.loss_mean + (1 - b1) * value
    slope = b1 * slots.slope_mean + (1 - b1) * total(slopes)
    model = bound, loss, slope, total(nows), total(sizes)
    tau, bound = _polyak(*model, learning_rate, shrink, lower_bound, bc1, adapt_lower_bound)
    (updates,) = map_leaves(_step, 1, (directions, params), tau, learning_rate * weight_decay)
    return updates, MomoAdamSlots(mu, nu, loss, slope, bound)


def _zeros(params: Params) -> MomoSlots:
    return MomoSlots(zeros_like(params), zero(), zero(), zero())


def _zeros_adam(params: Params) -> MomoAdamSlots:
    return MomoAdamSlots(zeros_like(params), real_zeros_like(params), zero(), zero(), zero())


@checked(beta=UNIT, lower_bound=FINITE, weight_decay=NONNEGATIVE)
def momo(
    learning_rate: Scalar = 1.0,
    beta: Scalar = 0.9,
    lower_bound: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    adapt_lower_bound: bool = False,
) -> Optimizer:
    r"""Descend with momentum by a Polyak step: limited by the loss and by learning_rate.

    Good for: SGD with momentum when the smallest loss is roughly known, such as 0.

    Evidence: authors only. Schaipp et al. 2023, arXiv 2305.07583.

    With the loss :math:`f_t` at :math:`x_{t-1}`:

    .. math::

       m_t &= \beta m_{t-1} + (1 - \beta) g_t \\
       \bar f_t &= \beta \bar f_{t-1} + (1 - \beta) f_t \\
       \gamma_t &= \beta \gamma_{t-1} + (1 - \beta) \langle g_t, x_{t-1} \rangle \\
       h_t &= (1 + \eta_t \lambda) (\bar f_t - f_* - \gamma_t) + \langle m_t, x_{t-1} \rangle \\
       \tau_t &= \min(\eta_t, \max(h_t, 0) / \|m_t\|^2) \\
       x_t &= (x_{t-1} - \tau_t m_t) / (1 + \eta_t \lambda)

    At t = 1, :math:`\beta` is 0 in the means; inner product and norm are over all parameters.

    Differences: the step is that of the paper and of momo-opt. optax does not divide
    :math:`\tau_t m_t` by :math:`1 + \eta_t \lambda`.

    Args:
      learning_rate: :math:`\eta_t`, largest step size, >= 0: one number or schedule for the whole
        tree, like all numbers here.
      beta: :math:`\beta`, decay of the means, in [0, 1).
      lower_bound: :math:`f_*`, a lower bound of the loss; the closer to its minimum the better.
      weight_decay: :math:`\lambda`, strength of the decay, >= 0.
      adapt_lower_bound: whether to estimate the bound, starting at `lower_bound` and not below.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `value=`, the loss at them.
      State: 4 bytes per element, :math:`m_t` (`mu`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` lacks parameters or value.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum(x**2)
      >>> opt = gdjax.momo()
      >>> params = jnp.array([1.0, -2.0])
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = opt.update(grads, opt.init(params), params, value=value)
      >>> print(updates)  # Polyak's step, loss / |g|^2 = 1/4
      [-0.5  1. ]

    References:
      Schaipp et al. (2023), "MoMo: momentum models for adaptive learning rates", Algorithm 1.
    """
    numbers = dict(
        learning_rate=learning_rate, beta=beta, lower_bound=lower_bound, weight_decay=weight_decay
    )
    return treewise(_momo, _zeros, numbers, needs_params=True, adapt_lower_bound=adapt_lower_bound)


@checked(lower_bound=FINITE, weight_decay=NONNEGATIVE)
def momo_adam(
    learning_rate: Scalar = 1e-2,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    lower_bound: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    adapt_lower_bound: bool = False,
) -> Optimizer:
    r"""Run Adam with a Polyak step: limited by the loss and by Adam's own step.

    Good for: Adam when the smallest loss is roughly known, such as 0.

    Evidence: authors only. Schaipp et al. 2023, arXiv 2305.07583.

    With the means :math:`m_t`, :math:`\bar f_t` and :math:`\gamma_t` of `momo`, which start at 0
    here, and :math:`v_t` of `adam`:

    .. math::

       D_t &= \sqrt{v_t / (1 - \beta_2^t)} + \epsilon \\
       h_t &= (1 + \eta_t \lambda) (\bar f_t - (1 - \beta_1^t) f_* - \gamma_t)
              + \langle m_t, x_{t-1} \rangle \\
       \tau_t &= \min(\eta_t / (1 - \beta_1^t), \max(h_t, 0) / \langle m_t, m_t / D_t \rangle) \\
       x_t &= (x_{t-1} - \tau_t m_t / D_t) / (1 + \eta_t \lambda)

    Differences: as for `momo`.

    Args:
      learning_rate: :math:`\eta_t`, see `momo`, like all arguments that are not named here.
      b1: :math:`\beta_1`, decay of the means of `momo`, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      eps: :math:`\epsilon`, added to the root, >= 0.
      lower_bound: :math:`f_*`, see `momo`.
      weight_decay: :math:`\lambda` >= 0, see `momo`.
      adapt_lower_bound: see `momo`.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `value=`, the loss at them.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` lacks parameters or value.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum(x**2)
      >>> opt = gdjax.momo_adam(0.1)
      >>> params = jnp.array([1.0, -2.0])
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = opt.update(grads, opt.init(params), params, value=value)
      >>> print(updates)
      [-0.1  0.1]

    References:
      Schaipp et al. (2023), "MoMo: momentum models for adaptive learning rates", Algorithm 2.
    """
    numbers = dict(b1=b1, b2=b2, eps=eps)
    numbers |= dict(learning_rate=learning_rate, lower_bound=lower_bound, weight_decay=weight_decay)
    return treewise(
        _momo_adam, _zeros_adam, numbers, needs_params=True, adapt_lower_bound=adapt_lower_bound
    )
