"""ACProp: divide the gradient by the standard deviation of the gradients before it.

Zhuang et al. (2021), Algorithm 2, https://arxiv.org/abs/2110.05454
Paper -> here: m -> mu, s -> nu, t -> count, alpha -> learning_rate.
Deviations: bias correction and a plain gradient step at t = 1, where no deviation is known yet, as
in the authors' code. The deviation is that of g_t from m_t, as in the paper and that code; optax
takes it from m_{t-1}, which makes its steps b1 times as long.
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
    """Replace the gradient by ACProp's direction; arguments as in `acprop`.

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
    """Descend along the gradient over the standard deviation of the gradients before it.

    Good for: noisy gradients, where the newest one should not affect its own divisor.

    update = -learning_rate * (g / (sqrt(nu / (1 - b2^(t-1))) + eps) + weight_decay * param), where
    nu is that of the step before (at t = 1 the root is 1);  then mu = b1 mu + (1 - b1) g;
    nu = b2 nu + (1 - b2) |g - mu|^2 + eps_root

    Args:
      learning_rate: as in `adam`, like all arguments that are not named here. The first step is
        learning_rate * g: not bounded as in Adam.
      b1: decay of the mean from which the deviation is taken, in [0, 1).
      b2: decay of the mean squared deviation, in [0, 1).
      eps: see `adam`.
      eps_root: added to the stored mean squared deviation in every step, >= 0.
      weight_decay: strength of decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      mu_dtype: see `adam`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`. State: 8 bytes
      per element (mu, nu).

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
      methods".
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return descend(_acprop, slots, numbers, learning_rate, weight_decay, mask)
