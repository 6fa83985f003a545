"""Adan: Nesterov's look ahead, expressed by the differences of successive gradients.

Xie et al. (2022), Algorithm 1, https://arxiv.org/abs/2208.06677
Paper -> here: m -> mu, v -> delta, n -> nu, beta_i -> 1 - b_i, eta -> learning_rate, lambda ->
weight_decay. Deviations: bias correction, as in the authors' code; weight decay as in `adamw`
unless ``proximal``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, leafwise, mask_decay
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import Hyperparam, Mask
from gdjax.optimizers.adam import zero_moments


class Differences(NamedTuple):
    """What Adan remembers of one parameter."""

    mu: Array  # m, running mean of the gradient, shaped like the parameter
    delta: Array  # v, running mean of its change, likewise
    nu: Array  # n, running mean of the squared look ahead, real
    previous: Array  # the last gradient


def _adan(grad, slots, param, count, *, b1, b2, b3, eps, eps_root):
    change = jnp.where(count == 1, 0, grad - slots.previous)
    mu = b1 * slots.mu + (1 - b1) * grad
    delta = b2 * slots.delta + (1 - b2) * change
    nu = b3 * slots.nu + (1 - b3) * abs_sq(grad + b2 * change)
    ahead = mu / bias_correction(b1, count) + b2 * delta / bias_correction(b2, count)
    root = safe_sqrt(nu / bias_correction(b3, count) + eps_root) + eps
    return safe_divide(ahead, root), Differences(mu, delta, nu, grad)


def _proximal_adan(
    grad, slots, param, count, *, learning_rate, b1, b2, b3, eps, eps_root, weight_decay=None
):
    numbers = dict(b1=b1, b2=b2, b3=b3, eps=eps, eps_root=eps_root)
    direction, slots = _adan(grad, slots, param, count, **numbers)
    if weight_decay is None:  # for this leaf
        return -learning_rate * direction, slots
    update = -learning_rate * (direction + weight_decay * param)
    return update / (1 + learning_rate * weight_decay), slots


def _zero_differences(param: Array) -> Differences:
    mu, nu = zero_moments(param)
    return Differences(mu, jnp.zeros_like(mu), nu, jnp.zeros_like(mu))


@checked()
def scale_by_adan(
    b1: Hyperparam = 0.98,
    b2: Hyperparam = 0.92,
    b3: Hyperparam = 0.99,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
) -> Optimizer:
    """Replace the gradient by Adan's direction; arguments and equations as in `adan`.

    As in optax, the default of eps_root is 0 here and 1e-8 there.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_adan()
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 1. -1.]
    """
    numbers = dict(b1=b1, b2=b2, b3=b3, eps=eps, eps_root=eps_root)
    return leafwise(_adan, _zero_differences, numbers)


@checked()
def adan(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.98,
    b2: Hyperparam = 0.92,
    b3: Hyperparam = 0.99,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    *,
    proximal: bool = False,
) -> Optimizer:
    r"""Descend along a mean of the gradients plus a mean of their changes.

    Good for: vision and language transformers with large batches.

    Evidence: authors only. Xie et al. 2022, arXiv 2208.06677.

    .. math::

       \Delta_t &= g_t - g_{t-1}, \quad \Delta_1 = 0 \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \Delta_t \\
       n_t &= \beta_3 n_{t-1} + (1 - \beta_3) |g_t + \beta_2 \Delta_t|^2 \\
       \hat m_t &= m_t / (1 - \beta_1^t), \quad \hat v_t, \hat n_t \text{ likewise} \\
       d_t &= (\hat m_t + \beta_2 \hat v_t) / (\sqrt{\hat n_t + \bar\epsilon} + \epsilon) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    Differences: :math:`\beta_i` is :math:`1 - \beta_i` of the paper. optax 0.2.8 multiplies
    :math:`\Delta_t` and :math:`\hat v_t` by :math:`1 - \beta_2`, 0.08 by default, in place of
    :math:`\beta_2`.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0, in units of the parameters: a number, schedule
        or prefix tree, like all numbers below.
      b1: :math:`\beta_1`, decay of the mean of the gradient, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean of its change, in [0, 1), and the weight of the change.
      b3: :math:`\beta_3`, decay of the mean square, in [0, 1).
      eps: :math:`\epsilon`, added to the root, >= 0.
      eps_root: :math:`\bar\epsilon`, added under the root, >= 0; 0 in the authors' code.
      weight_decay: :math:`\lambda`, strength of the decay, >= 0.
      mask: which leaves decay, see `adamw`.
      proximal: whether to divide the update by :math:`1 + \eta_t \lambda`, as the paper does.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 16 bytes per element, :math:`m_t` (`mu`), :math:`v_t` (`delta`), :math:`n_t` (`nu`) and
      :math:`g_t` (`previous`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adan(0.1)
      >>> params = jnp.zeros(1)
      >>> state = opt.init(params)
      >>> for grad in (1.0, 2.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state, params)
      ...     print(updates)
      [-0.1]
      [-0.0907]

    References:
      Xie et al. (2022), "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep
      models", Algorithm 1.
    """
    numbers = dict(b1=b1, b2=b2, b3=b3, eps=eps, eps_root=eps_root)
    if not proximal or weight_decay is None:
        return descend(_adan, _zero_differences, numbers, learning_rate, weight_decay, mask)
    numbers |= dict(learning_rate=learning_rate, weight_decay=weight_decay)
    optimizer = leafwise(_proximal_adan, _zero_differences, numbers, needs_params=True)
    return mask_decay(optimizer, mask)
