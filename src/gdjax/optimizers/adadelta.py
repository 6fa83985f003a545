"""Adadelta: RMSProp whose step is in the units of the parameters.

Zeiler (2012), Algorithm 1, https://arxiv.org/abs/1212.5701
Paper -> here: E[g^2] -> e_g, E[dx^2] -> e_x, rho -> rho, epsilon -> eps.
Deviations: a learning rate, which the paper has not (it is 1 there), and weight decay.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import UNIT, checked
from gdjax.core.lift import NEEDS_PARAMS, leafwise, mask_decay
from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.optimizers.adam import zero_moments


class Squares(NamedTuple):
    """What Adadelta remembers of one parameter."""

    e_g: Array  # E[g^2], running mean of |g|^2, real, shaped like the parameter
    e_x: Array  # E[dx^2], running mean of the squared step before the learning rate, likewise


def _adadelta(grad, slots, param, count, *, rho, eps, learning_rate=None, weight_decay=None):
    if weight_decay is not None:
        if param is None:
            raise ValueError(f"adadelta with weight_decay needs {NEEDS_PARAMS}")
        grad = grad + weight_decay * param
    e_g = rho * slots.e_g + (1 - rho) * abs_sq(grad)
    # sqrt(e_x + eps) / sqrt(e_g + eps) * grad; XLA stores a quotient once, but else both roots
    step = grad / (safe_sqrt(e_g + eps) / safe_sqrt(slots.e_x + eps))
    e_x = rho * slots.e_x + (1 - rho) * abs_sq(step)
    return (step if learning_rate is None else -learning_rate * step), Squares(e_g, e_x)


def _zero_squares(param) -> Squares:
    return Squares(zero_moments(param).nu, zero_moments(param).nu)


@checked(rho=UNIT)
def scale_by_adadelta(rho: Any = 0.9, eps: Any = 1e-6) -> Optimizer:
    """Replace the gradient by Adadelta's step, uphill; the arguments are those of `adadelta`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_adadelta(rho=0.75, eps=1.0)
      >>> print(opt.update(jnp.array([4.0]), opt.init(jnp.zeros(1)))[0])
      [1.7889]
    """
    return leafwise(_adadelta, _zero_squares, dict(rho=rho, eps=eps))


@checked(rho=UNIT)
def adadelta(
    learning_rate: Any = 1.0,
    rho: Any = 0.9,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
) -> Optimizer:
    """Descend by steps as large as the steps of late were.

    Good for: problems without a known scale of the learning rate.

    g = g + weight_decay * param;  e_g = rho e_g + (1 - rho) |g|^2;
    dx = sqrt(e_x + eps) / sqrt(e_g + eps) * g;  e_x = rho e_x + (1 - rho) |dx|^2;
    update = -learning_rate * dx

    The steps start at about sqrt(eps) and take a while to grow. optax has None as the default
    learning rate, but cannot run with it.

    Args:
      learning_rate: multiplies the step, >= 0: a number, schedule or prefix tree, like all numbers
        below.
      rho: decay of both means, in [0, 1).
      eps: added under both roots, >= 0; more makes the first steps longer.
      weight_decay: L2 decay >= 0, added to the gradient.
      weight_decay_mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`. State: 8
      bytes per element (e_g, e_x).

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
    return mask_decay(leafwise(_adadelta, _zero_squares, numbers), weight_decay_mask)
