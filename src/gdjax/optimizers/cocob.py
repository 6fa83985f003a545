"""COCOB: every coordinate bets a fraction of its gains so far on its next gradient.

Orabona & Tommasi (2017), Algorithm 2 (COCOB-Backprop), https://arxiv.org/abs/1705.07795
Paper -> here: w_1 -> start, theta -> bets, L -> scale, G -> abs_sum, R -> reward, alpha -> alpha.
Deviations: none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import chain
from gdjax.core.checks import POSITIVE, checked
from gdjax.core.lift import leafwise
from gdjax.core.numerics import compute_dtype, real_dtype
from gdjax.core.trees import copied, magnitude, product
from gdjax.core.types import Hyperparam, Mask
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scale import scale_by_learning_rate


class Cocob(NamedTuple):
    """What COCOB remembers of one parameter; all arrays are shaped like it."""

    start: Array  # w_1, the first parameters
    bets: Array  # theta, minus the sum of the gradients
    scale: Array  # L, largest |gradient| so far, real like the next two
    abs_sum: Array  # G, sum of |gradient|
    reward: Array  # R, the gains so far, at least 0

    iterates = ("start", "bets")


def _cocob(grad, slots, param, count, *, alpha, eps):
    size, moved = magnitude(grad), param - slots.start
    scale = jnp.maximum(jnp.maximum(slots.scale, eps), size)
    abs_sum = slots.abs_sum + size
    reward = jnp.maximum(slots.reward - product(grad, moved), 0)
    bets = slots.bets - grad
    share = bets / (scale * jnp.maximum(abs_sum + scale, alpha * scale))
    update = share * (scale + reward) - moved
    return update, Cocob(slots.start, bets, scale, abs_sum, reward)


def _fresh(param: Array) -> Cocob:
    dtype = compute_dtype(param)
    real = [jnp.zeros_like(param, dtype=real_dtype(dtype)) for _ in range(3)]
    return Cocob(copied(param), jnp.zeros_like(param, dtype=dtype), *real)


@checked(alpha=POSITIVE, eps=POSITIVE)
def scale_by_cocob(alpha: Hyperparam = 100.0, eps: Hyperparam = 1e-8) -> Optimizer:
    r"""Replace the gradient by COCOB's update; arguments and equations as in `cocob`.

    The update points downhill: :math:`x_t - x_{t-1}` for the gradient :math:`\tilde g_t`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_cocob()
      >>> params = jnp.array([3.0, -4.0])
      >>> print(opt.update(params, opt.init(params), params)[0])
      [-0.01  0.01]
    """
    return leafwise(_cocob, _fresh, dict(alpha=alpha, eps=eps), needs_params=True)


@checked(alpha=POSITIVE, eps=POSITIVE)
def cocob(
    learning_rate: Hyperparam = 1.0,
    alpha: Hyperparam = 100.0,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
) -> Optimizer:
    r"""Descend by coin betting, which has no step size.

    Good for: online and convex problems, without a learning rate to tune.

    Evidence: authors only. Orabona & Tommasi 2017, arXiv 1705.07795; convergence is proven for
    convex losses.

    .. math::

       \tilde g_t &= \eta_t (g_t + \lambda x_{t-1}) \\
       L_t &= \max(L_{t-1}, |\tilde g_t|), \quad L_0 = \epsilon \\
       G_t &= G_{t-1} + |\tilde g_t| \\
       R_t &= \max(R_{t-1} - \tilde g_t (x_{t-1} - x_0), 0) \\
       \theta_t &= \theta_{t-1} - \tilde g_t \\
       x_t &= x_0 + \frac{\theta_t}{L_t \max(G_t + L_t, \alpha L_t)} (L_t + R_t)

    Args:
      learning_rate: :math:`\eta_t`, factor of the gradient, >= 0, leave at 1: a number, schedule or
        prefix tree, like all numbers here. A constant factor only changes the effect of `eps`.
      alpha: :math:`\alpha`, how small the first bets are, > 0; an element of the first update is at
        most :math:`1 / \alpha`.
      eps: :math:`\epsilon`, lower bound of the scale of a gradient, > 0.
      weight_decay: :math:`\lambda`, strength of an L2 decay, >= 0.
      mask: which leaves decay, as in `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 20 bytes per element, :math:`x_0` (`start`), :math:`\theta_t` (`bets`), :math:`L_t`
      (``scale``), :math:`G_t` (`abs_sum`) and :math:`R_t` (`reward`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.cocob()
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(60):
      ...     updates, state = opt.update(params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(jnp.abs(params).max() < 0.5))
      True

    References:
      Orabona & Tommasi (2017), "Training deep networks without learning rates through coin
      betting", Algorithm 2.
    """
    scale = scale_by_learning_rate(learning_rate, flip_sign=False)
    return chain(add_decayed_weights(weight_decay, mask), scale, scale_by_cocob(alpha, eps))
