"""Prodigy: Adam whose step size is a growing estimate of the distance to a solution.

Mishchenko & Defazio (2023), Algorithm 4, https://arxiv.org/abs/2306.06101
Paper -> here: d -> distance, m -> mu, v -> nu, s -> grad_sum, r -> numerator, gamma ->
learning_rate, x_0 -> start.
Deviations: r and s are without the common factor (1 - beta3) / d_0, and eps is multiplied by the
new d, as in the authors' prodigyopt.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, POSITIVE, UNIT, check_range, checked
from gdjax.core.hyper import leaf_values
from gdjax.core.lift import mask_decay, treewise
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.residual import exact_params, land, no_residual
from gdjax.core.trees import (
    copied,
    inner_product,
    magnitude,
    map_leaves,
    real_zeros_like,
    total,
    zero,
    zeros_like,
)
from gdjax.core.types import Mask, Params, Scalar


class ProdigySlots(NamedTuple):
    """What Prodigy remembers."""

    mu: Params  # m, running mean of d * gradient, shaped like the parameters
    nu: Params  # v, running mean of its square, real
    grad_sum: Params  # s, decaying weighted sum of the gradients
    start: Params  # x_0, the first parameters
    distance: Array  # d, the estimate; a number, valid after the first update
    numerator: Array  # r, decaying weighted sum of <g, x_0 - x>; a number
    residual: Params  # what rounding takes from parameters of less than float32, else None

    iterates = ("start", "residual")


def _means(grad, mu, nu, grad_sum, start, param, d, weight, b1, b2, b3):
    mu = b1 * mu + (1 - b1) * d * grad
    nu = b2 * nu + (1 - b2) * abs_sq(d * grad)
    grad_sum = b3 * grad_sum + weight * grad
    return mu, nu, grad_sum, inner_product(grad, start - param), jnp.sum(magnitude(grad_sum))


def _step(mu, nu, param, weight_decay, rate, eps):
    decay = weight_decay.astype(nu.dtype)
    return -rate * (safe_divide(mu, safe_sqrt(nu) + eps) + decay * param)


def _prodigy(
    grads,
    slots,
    params,
    count,
    *,
    learning_rate,
    b1,
    b2,
    beta3,
    eps,
    estim_lr0,
    estim_lr_coef,
    weight_decay,
    safeguard_warmup,
    correct_bias,
):
    b3 = safe_sqrt(b2) if beta3 is None else beta3
    d = jnp.where(count == 1, estim_lr0, slots.distance)
    rate = d * learning_rate
    if correct_bias:
        rate *= safe_sqrt(bias_correction(b2, count)) / bias_correction(b1, count)
    share = d / estim_lr0
    exact = exact_params(params, slots.residual)  # the first steps are smaller than bfloat16's eps
    trees = grads, slots.mu, slots.nu, slots.grad_sum, slots.start, exact
    weight = share * (d if safeguard_warmup else rate)
    mu, nu, grad_sum, inner_products, sizes = map_leaves(_means, 5, trees, d, weight, b1, b2, b3)
    numerator = b3 * slots.numerator + share * rate * total(inner_products)
    size = total(sizes)  # |s|_1, 0 until a gradient is not 0
    estimate = estim_lr_coef * numerator / jnp.where(size > 0, size, 1)
    distance = jnp.where(size > 0, jnp.maximum(d, estimate), d)
    decays = leaf_values("prodigy(weight_decay=...)", weight_decay, params)
    decays = [zero() if decay is None else decay for decay in decays]
    decays = jax.tree.unflatten(jax.tree.structure(params), decays)
    (updates,) = map_leaves(_step, 1, (mu, nu, exact, decays), rate, distance * eps)
    updates, residual = land(params, exact, updates, slots.residual)
    return updates, ProdigySlots(mu, nu, grad_sum, slots.start, distance, numerator, residual)


def _zeros(params: Params) -> ProdigySlots:
    zeros = zeros_like(params), real_zeros_like(params), zeros_like(params)
    return ProdigySlots(*zeros, copied(params), zero(), zero(), no_residual(params))


@checked(beta3=UNIT, estim_lr0=POSITIVE, estim_lr_coef=POSITIVE, weight_decay=NONNEGATIVE)
def prodigy(
    learning_rate: Scalar = 1.0,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    beta3: Scalar | None = None,
    eps: Scalar = 1e-8,
    estim_lr0: Scalar = 1e-6,
    estim_lr_coef: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    safeguard_warmup: bool = False,
    *,
    correct_bias: bool = True,
    mask: Mask = None,
) -> Optimizer:
    r"""Run Adam with a step size that is estimated during training.

    Good for: training without a learning rate to tune; schedule, decay and moments remain.

    Evidence: mixed. Its loss is slightly above that of tuned AdamW for language models (Semenov et
    al. 2025, arXiv 2509.01440). On AlgoPerf the best methods without a learning rate are slightly
    behind NAdamW, if one configuration of the other numbers is tuned for all workloads, and poor
    with published defaults (Kasimbeg et al. 2025, arXiv 2505.24005).

    With :math:`d_t` the estimate, :math:`d_1 = d_0`, and
    :math:`l_t = \eta_t d_t \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`:

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, d_t g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |d_t g_t|^2 \\
       r_t &= \beta_3 r_{t-1} + (d_t / d_0)\, l_t \langle g_t, x_0 - x_{t-1} \rangle \\
       s_t &= \beta_3 s_{t-1} + (d_t / d_0)\, l_t g_t \\
       d_{t+1} &= \max(d_t,\; c\, r_t / \lVert s_t \rVert_1) \\
       x_t &= x_{t-1} - l_t \left( \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon}
       + \lambda x_{t-1} \right)

    The inner product and the norm are over all parameters.

    Differences: prodigyopt's default has no bias correction in :math:`l_t`, see `correct_bias`. The
    estimate does not change until a gradient is not zero; optax's becomes NaN then.

    Args:
      learning_rate: factor of the estimated step size, usually 1 or a schedule from 1 to 0; one
        number for the whole tree, like all numbers here.
      betas: :math:`(\beta_1, \beta_2)`, decays of the mean and the mean square, in [0, 1); in the
        state `b1`, `b2`.
      beta3: :math:`\beta_3`, decay of the estimate's sums, in [0, 1); None is sqrt(b2).
      eps: :math:`\epsilon` >= 0, added to the root, relative to the estimate.
      estim_lr0: :math:`d_0` > 0, the first estimate, in units of the parameters; it has to be less
        than the distance, as the estimate only grows.
      estim_lr_coef: :math:`c` > 0, factor of the estimate.
      weight_decay: :math:`\lambda` >= 0, strength of the decoupled decay.
      safeguard_warmup: whether :math:`s_t` has :math:`d_t` in place of :math:`l_t`, for long
        warm-ups.
      correct_bias: whether :math:`l_t` has the factor with the decays, as it always has in optax;
        False is :math:`l_t = \eta_t d_t`.
      mask: which leaves decay: a prefix tree of booleans, or a function of the parameters that
        gives one, such as `mask_by_ndim()`. None decays all.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 16 bytes for each element, and 4 more where the parameters are of less than float32.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.prodigy()
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(150):
      ...     updates, state = opt.update(2 * params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(jnp.abs(params).max() < 0.1), bool(state.slots.distance > 0.1))
      True True

    References:
      Mishchenko & Defazio (2023), "Prodigy: an expeditiously adaptive parameter-free learner".
    """
    b1, b2 = betas
    for b in betas:
        check_range("prodigy(betas=...)", b, UNIT)
    numbers = dict(b1=b1, b2=b2, beta3=beta3, eps=eps)
    numbers |= dict(learning_rate=learning_rate, weight_decay=weight_decay)
    numbers |= dict(estim_lr0=estim_lr0, estim_lr_coef=estim_lr_coef)
    optimizer = treewise(
        _prodigy,
        _zeros,
        numbers,
        needs_params=True,
        safeguard_warmup=safeguard_warmup,
        correct_bias=correct_bias,
    )
    return mask_decay(optimizer, mask)
