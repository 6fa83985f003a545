"""Fromage: turn each array of weights by an angle, at a constant norm.

Bernstein et al. (2020), Algorithm 1, https://arxiv.org/abs/2002.03432
Paper -> here: W -> param, eta -> learning_rate. Deviations: norms below min_norm count as that, as
in optax, so that arrays of zeros can leave 0.
"""

from __future__ import annotations

from typing import Any

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import leafwise
from gdjax.optimizers.trust_ratio import trust_ratio


def _fromage(grad, slots, param, count, *, learning_rate, min_norm):
    shrink = (1 + learning_rate**2) ** -0.5
    step = learning_rate * trust_ratio(param, grad, min_norm) * grad
    return (shrink - 1) * param - shrink * step, slots


@checked(min_norm=NONNEGATIVE)
def fromage(learning_rate: Any, min_norm: Any = 1e-6) -> Optimizer:
    """Step by a fraction of the norm of each array, then shrink the array by what it grew.

    Good for: networks whose layers differ much in scale, one rate for all.

    param = (param - learning_rate * |param| / |g| * g) / sqrt(1 + learning_rate^2)

    Args:
      learning_rate: the relative size of a step >= 0, often 0.01: a number, schedule or prefix
        tree.
      min_norm: a smaller norm counts as this one, >= 0.

    Returns:
      An `Optimizer` whose `update` needs the parameters; it remembers nothing of them.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([3.0, 4.0])
      >>> opt = gdjax.fromage(0.1)
      >>> updates, _ = opt.update(jnp.array([8.0, -6.0]), opt.init(params), params)
      >>> print(updates, jnp.linalg.norm(params + updates))
      [-0.4129  0.2787] 5.0

    References:
      Bernstein et al. (2020), "On the distance between two neural networks and the stability of
      learning", Algorithm 1.
    """
    numbers = dict(learning_rate=learning_rate, min_norm=min_norm)
    return leafwise(_fromage, None, numbers, needs_params=True)
