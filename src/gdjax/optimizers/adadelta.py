"""Adadelta: scale the gradient by the RMS of past updates over the RMS of gradients.

Zeiler (2012), Algorithm 1, https://arxiv.org/abs/1212.5701
Paper -> here: E[g^2] -> e_g, E[dx^2] -> e_x, rho -> rho, epsilon -> eps.
Deviations: a learning rate (1 in the paper) and weight decay.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import UNIT, checked
from gdjax.core.lift import leafwise, mask_decay
from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.core.types import Hyperparam, Mask
from gdjax.optimizers.adam import zero_moments


class Squares(NamedTuple):
    """What Adadelta remembers of one parameter."""

    e_g: Array  # E[g^2], running mean of |g|^2, real, shaped like the parameter
    e_x: Array  # E[dx^2], running mean of the squared step before the learning rate, likewise


def _adadelta(grad, slots, param, count, *, rho, eps, learning_rate=None, weight_decay=None):
    if weight_decay is not None:
        grad = grad + weight_decay * param
    e_g = rho * slots.e_g + (1 - rho) * abs_sq(grad)
    # sqrt(e_x + eps) / sqrt(e_g + eps) * grad, written so that XLA stores one array, not both roots
    least = jnp.finfo(e_g.dtype).tiny ** 0.5  # the smallest root that is not 0
    ahead, behind = (jnp.maximum(safe_sqrt(e + eps), least) for e in (slots.e_x, e_g))
    step = grad / (behind / ahead)
    e_x = rho * slots.e_x + (1 - rho) * abs_sq(step)
    return (step if learning_rate is None else -learning_rate * step), Squares(e_g, e_x)


def _zero_squares(param: Array) -> Squares:
    return Squares(zero_moments(param).nu, zero_moments(param).nu)


@checked(rho=UNIT)
def scale_by_adadelta(rho: Hyperparam = 0.9, eps: Hyperparam = 1e-6) -> Optimizer:
    """Replace the gradient by Adadelta's direction; arguments and equations as in `adadelta`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_adadelta(rho=0.75, eps=1.0)
      >>> print(opt.update(jnp.array([4.0]), opt.init(jnp.zeros(1)))[0])
      [1.7889]
    """
    return leafwise(_adadelta, _zero_squares, dict(rho=rho, eps=eps))


@checked(rho=UNIT)
def adadelta(
    learning_rate: Hyperparam = 1.0,
    rho: Hyperparam = 0.9,
    eps: Hyperparam = 1e-6,
    weight_decay: Hyperparam | None = 0.0,
    weight_decay_mask: Mask = None,
) -> Optimizer:
    r"""Scale the step by the RMS of past updates over the RMS of gradients.

    Good for: problems for which the scale of the learning rate is unknown.

    Evidence: mixed. It is one of fifteen tuned optimizers, of which none was consistently better
    than Adam (Schmidt et al. 2021, arXiv 2007.01547).

    .. math::

       \tilde g_t &= g_t + \lambda x_{t-1} \\
       E[g^2]_t &= \rho E[g^2]_{t-1} + (1 - \rho) |\tilde g_t|^2 \\
       d_t &= \frac{\sqrt{E[d^2]_{t-1} + \epsilon}}{\sqrt{E[g^2]_t + \epsilon}} \tilde g_t \\
       E[d^2]_t &= \rho E[d^2]_{t-1} + (1 - \rho) |d_t|^2 \\
       x_t &= x_{t-1} - \eta_t d_t

    The first steps are about :math:`\sqrt{\epsilon / (1 - \rho)}` long and grow slowly.

    Differences: the paper has neither :math:`\eta_t` nor :math:`\lambda`. torch has the same
    equations and defaults. optax's default learning rate is None, with which it cannot run.

    Args:
      learning_rate: :math:`\eta_t`, factor of the step, >= 0: a number, schedule or prefix tree,
        like all numbers below.
      rho: :math:`\rho`, decay of both means, in [0, 1).
      eps: :math:`\epsilon`, added under both roots, >= 0; a larger one makes the first steps
        longer.
      weight_decay: :math:`\lambda`, strength of an L2 decay, >= 0.
      weight_decay_mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 8 bytes per element, :math:`E[g^2]_t` (`e_g`) and :math:`E[d^2]_t` (`e_x`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adadelta(eps=0.01)
      >>> params = jnp.zeros(1)
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(jnp.ones(1), state, params)
      ...     print(updates)
      [-0.3015]
      [-0.309]
      [-0.3141]

    References:
      Zeiler (2012), "ADADELTA: an adaptive learning rate method", Algorithm 1.
    """
    numbers = dict(rho=rho, eps=eps, learning_rate=learning_rate, weight_decay=weight_decay)
    decays = weight_decay is not None
    optimizer = leafwise(_adadelta, _zero_squares, numbers, needs_params=decays)
    return mask_decay(optimizer, weight_decay_mask, argument="weight_decay_mask")
