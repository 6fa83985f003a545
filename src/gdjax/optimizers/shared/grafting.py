"""Grafting: the direction of one method with the norm of another method's step.

Agarwal et al. (2020), "Disentangling adaptive gradient methods from learning rates",
https://arxiv.org/abs/2002.11803
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt

Graft: TypeAlias = Literal["sgd", "adagrad", "rmsprop", "adam"]
GRAFTS = (None, *get_args(Graft))


def grafted(direction: Array, other: Array) -> Array:
    """Return a direction with the norm of another; zero stays zero.

    Example:
      >>> print(grafted(jnp.array([3.0, 4.0]), jnp.array([0.0, 10.0])))
      [6. 8.]
    """
    norm, wanted = (safe_sqrt(jnp.sum(abs_sq(x))) for x in (direction, other))
    return direction * (wanted / jnp.where(norm > 0, norm, 1))


def graft_direction(
    kind: Graft | None,
    grad: Array,
    mean: Array,
    nu: Array | None,
    count: Array,
    b2: Array,
    eps: Array,
) -> tuple[Array | None, Array]:
    """Return the second moment and the direction of the method that gives the norm.

    Args:
      kind: one of `GRAFTS`; None and "sgd" have no second moment.
      grad: the gradient.
      mean: the mean gradient, which is divided by the root of the second moment.
      nu: the second moment before, or None.
      count: t = 1, 2, ...
      b2: decay of the second moment, for "rmsprop" and "adam".
      eps: added to the root.
    """
    if nu is None:
        return None, mean
    if kind == "adagrad":
        nu = nu + abs_sq(grad)
        return nu, safe_divide(mean, safe_sqrt(nu) + eps)
    nu = b2 * nu + (1 - b2) * abs_sq(grad)
    nu_hat = nu / bias_correction(b2, count) if kind == "adam" else nu
    return nu, safe_divide(mean, safe_sqrt(nu_hat) + eps)
