"""ADOPT: Adam that converges for every b2, since it divides by the previous mean square.

Taniguchi et al. (2024), Algorithm 2 (with clipping), https://arxiv.org/abs/2411.02853
Paper -> here: m -> mu, v -> nu, theta -> param, alpha -> learning_rate, c_t -> clip_value_fn.
Deviations: none; the first step only sets v. Weight decay and `nesterov` are additions.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, leafwise
from gdjax.core.numerics import abs_sq, clip_parts, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam, Mask, ScheduleFn
from gdjax.optimizers.adam import Moments, zero_moments


def quartic_root(count: Array) -> Array:
    """Return count**0.25, the paper's bound on an element; the first step has the count 0."""
    return count**0.25


def _adopt(grad, slots, param, count, *, b1, b2, eps, nesterov, clip_value_fn):
    first = count == 1  # nu = g^2, no step
    scaled = jnp.where(first, 0, safe_divide(grad, jnp.maximum(safe_sqrt(slots.nu), eps)))
    if clip_value_fn is not None:
        scaled = clip_parts(scaled, jnp.asarray(clip_value_fn(count - 1), scaled.real.dtype))
    mu = b1 * slots.mu + (1 - b1) * scaled
    nu = jnp.where(first, 1, 1 - b2) * abs_sq(grad) + b2 * slots.nu
    return (b1 * mu + (1 - b1) * scaled if nesterov else mu), Moments(mu, nu)


@checked()
def scale_by_adopt(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.9999,
    eps: Hyperparam = 1e-6,
    mu_dtype: FloatDType = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: ScheduleFn = quartic_root,
) -> Optimizer:
    """Replace the gradient by ADOPT's direction; arguments and equations as in `adopt`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_adopt()
      >>> state = opt.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...     direction, state = opt.update(jnp.array([4.0, -2.0]), state)
      ...     print(direction.round(3))
      [0. 0.]
      [ 0.1 -0.1]
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    clip = clip_value_fn if use_clipping else None
    numbers = dict(b1=b1, b2=b2, eps=eps)
    return leafwise(_adopt, slots, numbers, nesterov=nesterov, clip_value_fn=clip)


@checked()
def adopt(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.9999,
    eps: Hyperparam = 1e-6,
    mu_dtype: FloatDType = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: ScheduleFn = quartic_root,
    weight_decay: Hyperparam | None = None,
    mask: Mask = None,
) -> Optimizer:
    r"""Descend along a running mean of gradients, each over the root-mean-square before it.

    Good for: problems on which Adam does not converge unless b2 is tuned.

    Evidence: mixed. Its loss is about that of tuned AdamW for language models (Semenov et al. 2025,
    arXiv 2509.01440).

    .. math::

       c_t &= (t - 1)^{1/4} \\
       u_t &= \operatorname{clip}(g_t / \max(\sqrt{v_{t-1}}, \epsilon), -c_t, c_t) \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) u_t \\
       x_t &= x_{t-1} - \eta_t (m_t + \lambda x_{t-1}) \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2, \quad v_1 = |g_1|^2

    The first step only sets :math:`v_1` (and decays), since :math:`u_1 = 0`. There is no bias
    correction.

    Differences: optax is the same: its docstring says that :math:`\epsilon` is added to the root,
    but its code takes the maximum, as the paper does.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      eps: :math:`\epsilon`, lower bound of the root, >= 0.
      mu_dtype: see `adam`.
      nesterov: whether to step along :math:`\beta_1 m_t + (1 - \beta_1) u_t`.
      use_clipping: whether to clip the elements of :math:`u_t`, which shortens the early steps.
      clip_value_fn: :math:`c_t` as a function of t - 1. It is static: pass the same function object
        each time, not a new lambda, or `update` compiles again.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`; None is none, as in optax.
      mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adopt(0.1, b1=0.5)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(2 * params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      ...     print(params.round(3))
      [ 1. -2.]
      [ 0.95 -1.95]
      [ 0.878 -1.876]

    References:
      Taniguchi et al. (2024), "ADOPT: modified Adam can converge with any beta2 with the optimal
      rate", Algorithm 2.
    """
    slots = functools.partial(zero_moments, mu_dtype=mu_dtype)
    clip = clip_value_fn if use_clipping else None
    numbers = dict(b1=b1, b2=b2, eps=eps)
    return descend(
        _adopt,
        slots,
        numbers,
        learning_rate,
        weight_decay,
        mask,
        nesterov=nesterov,
        clip_value_fn=clip,
    )
