"""Scale the whole gradient to a given norm."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, checked
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_sqrt
from gdjax.core.trees import sum_sq, times
from gdjax.core.types import PyTree, Scalar


def unit_length(tree: PyTree, length: ArrayLike) -> PyTree:
    """Return the tree scaled to a Euclidean norm of `length`; a zero tree stays zero."""
    norm = safe_sqrt(sum_sq(tree))
    return times(tree, jnp.where(norm > 0, length / jnp.where(norm > 0, norm, 1), 0))


def _normalize(grads, slots, params, count):
    return unit_length(grads, 1), slots


def _normalize_by_update_norm(grads, slots, params, count, *, scale_factor, eps):
    length = safe_sqrt(sum_sq(grads)) + eps
    some = length != 0  # eps = 0: a zero gradient stays zero
    return times(grads, jnp.where(some, scale_factor / jnp.where(some, length, 1), 0)), slots


@checked(scale_factor=FINITE)
def normalize_by_update_norm(scale_factor: Scalar = 1.0, eps: Scalar = 1e-6) -> Optimizer:
    r"""Divide the whole tree by its Euclidean norm and multiply by a number.

    .. math::

       g \leftarrow \frac{c\, g}{\lVert g \rVert + \epsilon}

    The norm is taken in float32 over all leaves. `normalize` is the same with c = 1 and eps = 0,
    where a zero gradient stays zero (optax: NaN).

    Args:
      scale_factor: :math:`c`, the norm of the result: a number or schedule; negative numbers
        descend.
      eps: :math:`\epsilon` >= 0, added to the norm: a number or schedule.

    Returns:
      An `Optimizer` without slots.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.normalize_by_update_norm(scale_factor=-10.0)
      >>> print(opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)))[0])
      [-6. -8.]
    """
    return treewise(_normalize_by_update_norm, None, dict(scale_factor=scale_factor, eps=eps))


def normalize() -> Optimizer:
    """Divide the whole tree by its Euclidean norm; zeros stay zeros, where optax gives NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.normalize()
      >>> print(opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)))[0])
      [0.6 0.8]
    """
    return treewise(_normalize)
