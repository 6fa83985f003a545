"""AdaMax: Adam with a decaying maximum of the gradient in place of its mean square.

Kingma & Ba (2014), Algorithm 2, https://arxiv.org/abs/1412.6980
Paper -> here: m -> mu, u -> nu, t -> count, alpha -> learning_rate.
Deviations: eps, which the paper lacks.
"""

from __future__ import annotations

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import bias_correction, safe_divide
from gdjax.core.types import Hyperparam, Mask
from gdjax.optimizers.adam import Moments, zero_moments


def _adamax(grad, slots, param, count, *, b1, b2, eps):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = jnp.maximum(b2 * slots.nu, jnp.abs(grad) + eps)
    return safe_divide(mu / bias_correction(b1, count), nu), Moments(mu, nu)


@checked()
def adamax(
    learning_rate: Hyperparam, b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-8
) -> Optimizer:
    r"""Descend along a running mean of the gradient over its decaying maximum.

    Good for: embeddings and other sparse, heavy-tailed gradients.

    Evidence: authors only. Kingma & Ba 2014, arXiv 1412.6980.

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       u_t &= \max(\beta_2 u_{t-1}, |g_t| + \epsilon) \\
       \hat m_t &= m_t / (1 - \beta_1^t) \\
       d_t &= \hat m_t / u_t \\
       x_t &= x_{t-1} - \eta_t d_t

    Differences: the paper has no :math:`\epsilon`; torch and optax add it in the same place.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0, about the largest step of an element: a
        number, schedule or prefix tree, like all numbers below.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      b2: :math:`\beta_2`, decay of the maximum, in [0, 1).
      eps: :math:`\epsilon`, added to the size of the gradient, >= 0.

    Returns:
      An `Optimizer`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`u_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adamax(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (4.0, 1.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.0606]

    References:
      Kingma & Ba (2014), "Adam: a method for stochastic optimization", Algorithm 2.
    """
    return descend(_adamax, zero_moments, dict(b1=b1, b2=b2, eps=eps), learning_rate)


@direction_of(adamax)
def scale_by_adamax() -> None:
    """Replace the gradient by AdaMax's direction; arguments and equations as in `adamax`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_adamax()
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 1. -1.]
    """


@checked()
def adamaxw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 1e-4,
    mask: Mask = None,
) -> Optimizer:
    r"""Run AdaMax with decoupled weight decay.

    Good for: the same as `adamax`, with weight decay.

    Evidence: none. No comparison is known to us.

    With the direction :math:`d_t` of `adamax`:

    .. math::

       x_t = x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    Differences: optax is the same. torch's Adamax adds :math:`\lambda x_{t-1}` to the gradient.

    Args:
      learning_rate: :math:`\eta_t` >= 0, see `adamax`.
      b1: :math:`\beta_1` in [0, 1), see `adamax`.
      b2: :math:`\beta_2` in [0, 1), see `adamax`.
      eps: :math:`\epsilon` >= 0, see `adamax`.
      weight_decay: :math:`\lambda` >= 0, see `adamw`.
      mask: see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 8 bytes per element, as in `adamax`.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adamaxw(0.1, weight_decay=0.5)
      >>> print(opt.update(jnp.zeros(1), opt.init(jnp.ones(1)), jnp.ones(1))[0])
      [-0.05]
    """
    numbers = dict(b1=b1, b2=b2, eps=eps)
    return descend(_adamax, zero_moments, numbers, learning_rate, weight_decay, mask)
