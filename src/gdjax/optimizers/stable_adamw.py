"""StableAdamW: AdamW with a shorter step when the newest gradient is unexpectedly large.

Wortsman et al. (2023), Algorithm 2, https://arxiv.org/abs/2304.13013
Paper -> here: v -> mu, u -> nu (both bias-corrected), alpha -> learning_rate, lambda ->
weight_decay. Deviations: none; the paper's debiased decays are equal to Adam's bias correction.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import leafwise, mask_decay
from gdjax.core.numerics import abs_sq, bias_correction, root_mean_sq, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import Moments, zero_moments


def _stable_adamw(grad, slots, param, count, *, learning_rate, b1, b2, eps, weight_decay=None):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    root = safe_sqrt(nu / bias_correction(b2, count))
    rms = root_mean_sq(safe_divide(grad, jnp.maximum(root, eps)))  # RMS_t, about 1 on average
    direction = safe_divide(mu / bias_correction(b1, count), root + eps)
    if weight_decay is not None:
        direction = direction + weight_decay * param
    return -learning_rate / jnp.maximum(1, rms) * direction, Moments(mu, nu)


@checked()
def stable_adamw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.99,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 1e-4,
    mask: Mask = None,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Run AdamW with Adafactor's update clipping, separately for each array.

    Good for: large models whose loss has spikes.

    Evidence: authors only. Wortsman et al. 2023, arXiv 2304.13013.

    With :math:`\hat m_t` and :math:`\hat v_t` the corrected means of `adam`, for each array:

    .. math::

       r_t &= \sqrt{\operatorname{mean}\left( |g_t|^2 / \max(\hat v_t, \epsilon^2) \right)} \\
       x_t &= x_{t-1} - \frac{\eta_t}{\max(1, r_t)} \left(
       \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda x_{t-1} \right)

    It replaces gradient clipping: when the gradients grow, the mean square lags behind and Adam's
    steps become too long, which causes loss spikes.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`, like all arguments that are not named here.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, see `adam`.
      weight_decay: :math:`\lambda` >= 0, see `adamw`; scaled down with the step.
      mask: which leaves decay, see `adamw`.
      mu_dtype: see `adam`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> for factory in (gdjax.adamw, gdjax.stable_adamw):
      ...     opt = factory(0.1, b2=0.99)
      ...     params = jnp.zeros(2)
      ...     state = opt.init(params)
      ...     for size in (1.0, 1.0, 100.0):
      ...         updates, state = opt.update(jnp.array([size, 1.0]), state, params)
      ...     print(updates.round(3))
      [-0.065 -0.1  ]
      [-0.046 -0.071]

    References:
      Wortsman et al. (2023), "Stable and low-precision training for large-scale vision-language
      models", Algorithm 2.
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    numbers = dict(learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)
    if weight_decay is not None:
        numbers["weight_decay"] = weight_decay
    decays = weight_decay is not None
    return mask_decay(leafwise(_stable_adamw, slots, numbers, needs_params=decays), mask)
