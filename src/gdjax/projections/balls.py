"""Projections onto the simplex, and onto balls and spheres of the l1 and l2 norms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, checked, strict
from gdjax.core.explicit import automatically
from gdjax.core.numerics import cast_like, safe_sqrt, upcast
from gdjax.core.trees import over, sum_sq, unit_of
from gdjax.core.types import Number, PyTree
from gdjax.projections.reading import keep, read


@checked(scale=NONNEGATIVE)
def projection_simplex(tree: PyTree, scale: Number = 1) -> PyTree:
    r"""Return the nearest non-negative tree whose elements sum to `scale`.

    .. math::

       \arg\min_y \lVert y - x \rVert \quad \text{over } y \ge 0,\; \sum_i y_i = s

    Args:
      tree: tree of float arrays.
      scale: :math:`s` >= 0, the sum.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_simplex(jnp.array([2.5, 3.0, -1.0])))
      [0.25 0.75 0.  ]

    References:
      Held, Wolfe & Crowder (1974), "Validation of subgradient optimization".
    """
    tree = read("projection_simplex", tree)
    return automatically(_simplex, tree, scale)


@checked(scale=NONNEGATIVE)
def projection_l1_sphere(tree: PyTree, scale: Number = 1) -> PyTree:
    r"""Return the nearest tree whose magnitudes sum to `scale`.

    .. math::

       \arg\min_y \lVert y - x \rVert \quad \text{over } \lVert y \rVert_1 = s

    Elements that are 0 may grow, to the positive side (optax leaves them 0, off the sphere).

    Args:
      tree: tree of float arrays.
      scale: :math:`s` >= 0, the sum of magnitudes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l1_sphere(jnp.array([2.5, -3.0, 0.0])))
      [ 0.25 -0.75  0.  ]
    """
    return automatically(_l1_sphere, read("projection_l1_sphere", tree), scale)


@checked(scale=NONNEGATIVE)
def projection_l1_ball(tree: PyTree, scale: Number = 1) -> PyTree:
    r"""Return the nearest tree whose magnitudes sum to at most `scale`.

    .. math::

       \arg\min_y \lVert y - x \rVert \quad \text{over } \lVert y \rVert_1 \le s

    Args:
      tree: tree of float arrays.
      scale: :math:`s` >= 0, the largest sum of magnitudes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l1_ball(jnp.array([2.5, -3.0, 0.5])))
      [ 0.25 -0.75  0.  ]

    References:
      Duchi et al. (2008), "Efficient projections onto the l1-ball for learning in high dimensions".
    """
    return automatically(_l1_ball, read("projection_l1_ball", tree), scale)


@checked(scale=NONNEGATIVE)
def projection_l2_sphere(tree: PyTree, scale: Number = 1) -> PyTree:
    r"""Return the nearest tree of Euclidean norm `scale`; a zero tree goes to equal elements.

    .. math::

       s\, x / \lVert x \rVert

    Args:
      tree: tree of float or complex arrays.
      scale: :math:`s` >= 0, the norm.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l2_sphere(jnp.array([3.0, 4.0])))
      [0.6 0.8]
    """
    tree = read("projection_l2_sphere", tree, complex_too=True)
    size = sum(x.size for x in jax.tree.leaves(tree))
    unit = unit_of(tree)
    small = over(tree, unit)
    norm = safe_sqrt(sum_sq(small))
    factor = jnp.divide(scale, jnp.where(norm > 0, norm, 1))
    equal = jnp.divide(scale, max(size, 1) ** 0.5)
    projected = jax.tree.map(
        lambda x: jnp.where(norm > 0, x * factor.astype(x.real.dtype), equal), small
    )
    return cast_like(projected, tree)


@checked(scale=NONNEGATIVE)
def projection_l2_ball(tree: PyTree, scale: Number = 1) -> PyTree:
    r"""Shrink the tree to a Euclidean norm of at most `scale`.

    .. math::

       x \min(1,\; s / \lVert x \rVert)

    Args:
      tree: tree of float or complex arrays.
      scale: :math:`s` >= 0, the largest norm.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l2_ball(jnp.array([3.0, 4.0])))
      [0.6 0.8]
    """
    tree = read("projection_l2_ball", tree, complex_too=True)
    unit = unit_of(tree)
    small = over(tree, unit)
    norm = safe_sqrt(sum_sq(small))
    outside = norm > jnp.divide(scale, unit)
    factor = jnp.divide(scale, jnp.where(outside, norm, 1))
    return keep(lambda x, y: jnp.where(outside, y * factor.astype(y.real.dtype), x), tree, small)


@strict()
def unit_simplex(x: ArrayLike, scale: Number = 1) -> Array:
    """Project the rows of x, over the last axis, onto the simplex of sum `scale`.

    p = max(x - tau, 0), with tau such that the sum is right. Only which elements are positive is
    found by sorting; tau is a mean over those, so gradients of any order are right.

    Example:
      >>> import jax.numpy as jnp
      >>> print(unit_simplex(jnp.array([[1e4, 1e4 - 0.5], [0.0, 0.0]])))
      [[0.75 0.25]
       [0.5  0.5 ]]
    """
    x = jnp.asarray(x)
    if not x.ndim:
        raise ValueError("unit_simplex(x=...) must have at least one axis, got one number.")
    return automatically(_unit_simplex, x, scale) if x.shape[-1] else x


def _unit_simplex(x: Array, scale: Number) -> Array:
    scale = jnp.asarray(scale, x.dtype)
    top = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    shifted = x - top  # shifts tau only
    x = jnp.where(top == jnp.inf, jnp.where(x < top, -jnp.inf, 0), shifted)
    fixed, size = jax.lax.stop_gradient((x, scale))
    ordered = -jnp.sort(-fixed, axis=-1)
    rank = jax.lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) + 1
    slack = ordered * rank - jnp.cumsum(ordered, axis=-1) + size
    count = jnp.maximum(jnp.sum(slack > 0, axis=-1, keepdims=True), 1)
    # ties with the last of them are in too: they get the same value
    support = fixed >= jnp.take_along_axis(ordered, count - 1, axis=-1)
    number = jnp.sum(support, axis=-1, keepdims=True).astype(x.dtype)
    tau = (jnp.sum(jnp.where(support, x, 0), axis=-1, keepdims=True) - scale) / number
    return jnp.where(support | jnp.isnan(x), jnp.maximum(x - tau, 0), 0)


def _simplex(tree: PyTree, scale: Number) -> PyTree:
    x, unravel = ravel_pytree(upcast(tree))
    return cast_like(unravel(unit_simplex(x, scale)), tree)


def _l1_sphere(tree: PyTree, scale: Number) -> PyTree:
    x, unravel = ravel_pytree(upcast(tree))
    return cast_like(unravel(_on_l1_sphere(x, scale)), tree)


def _l1_ball(tree: PyTree, scale: Number) -> PyTree:
    x, unravel = ravel_pytree(upcast(tree))
    inside = jnp.less_equal(jnp.sum(jnp.abs(x)), scale)
    return cast_like(unravel(jnp.where(inside, x, _on_l1_sphere(x, scale))), tree)


def _on_l1_sphere(x: Array, scale: Number) -> Array:
    return jnp.where(x < 0, -1, 1).astype(x.dtype) * unit_simplex(jnp.abs(x), scale)
