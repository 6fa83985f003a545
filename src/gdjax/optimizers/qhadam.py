"""QHAdam: Adam whose mean and mean square are each mixed with their newest sample.

Ma & Yarats (2018), section 4, https://arxiv.org/abs/1810.06801
Paper -> here: g -> mu, s -> nu, nu_1 -> q1, nu_2 -> q2 (nu is the second moment here), alpha ->
learning_rate. Deviations: none; `eps_root` and weight decay are additions.
"""

from __future__ import annotations

import functools

from gdjax.core.base import Optimizer
from gdjax.core.checks import CLOSED_UNIT, checked
from gdjax.core.lift import descend
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import Moments, zero_moments


def _qhadam(grad, slots, param, count, *, b1, b2, q1, q2, eps, eps_root):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    mean = q1 * mu / bias_correction(b1, count) + (1 - q1) * grad
    mean_sq = q2 * nu / bias_correction(b2, count) + (1 - q2) * abs_sq(grad)
    return safe_divide(mean, safe_sqrt(mean_sq + eps_root) + eps), Moments(mu, nu)


@checked(q1=CLOSED_UNIT, q2=CLOSED_UNIT)
def qhadam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.995,
    b2: Hyperparam = 0.999,
    q1: Hyperparam = 0.7,
    q2: Hyperparam = 1.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
) -> Optimizer:
    r"""Run Adam with quasi-hyperbolic moments: long means, each averaged with its newest sample.

    Good for: Adam with a long mean that still responds to the newest gradient.

    Evidence: authors only. Ma & Yarats 2018, arXiv 1810.06801.

    With :math:`m_t` and :math:`v_t` the means of `adam`:

    .. math::

       \tilde m_t &= (1 - q_1)\, g_t + q_1 \frac{m_t}{1 - \beta_1^t} \\
       \tilde v_t &= (1 - q_2)\, |g_t|^2 + q_2 \frac{v_t}{1 - \beta_2^t} \\
       x_t &= x_{t-1} - \eta_t \left(
       \frac{\tilde m_t}{\sqrt{\tilde v_t + \bar\epsilon} + \epsilon} + \lambda x_{t-1} \right)

    q1 = q2 = 1 is Adam; q1 = 0 is RMSProp with bias correction; q1 = b1, q2 = 1 comes close to
    NAdam.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`, like all arguments that are not named here.
      b1: see `adam`; larger than there, since q1 adds weight to the newest gradient.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      q1: the paper's :math:`\nu_1`, weight of the mean against the newest gradient, in [0, 1].
      q2: the paper's :math:`\nu_2`, weight of the mean square against the newest square, in [0, 1].
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
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
      >>> opt = gdjax.qhadam(0.1)
      >>> params = jnp.zeros(1)
      >>> state = opt.init(params)
      >>> for grad in (1.0, -1.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state, params)
      ...     print(updates.round(3))
      [-0.1]
      [0.03]

    References:
      Ma & Yarats (2018), "Quasi-hyperbolic momentum and Adam for deep learning".
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, q1=q1, q2=q2, eps=eps, eps_root=eps_root)
    return descend(_qhadam, slots, numbers, learning_rate, weight_decay, mask)
