"""A matrix for each axis of an array: products along axes, and Gram matrices of them.

An axis without a matrix is None everywhere. All products are in the full precision of the dtype.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

matmul = functools.partial(jnp.matmul, precision="highest")


def along(x: Array, matrix: Array, axis: int) -> Array:
    """Return y with y[.., j, ..] = sum_i x[.., i, ..] matrix[i, j] at that axis.

    Example:
      >>> x, m = jnp.ones((2, 3)), jnp.array([[1.0, 2.0], [0.0, 1.0]])
      >>> print(along(x, m, 0))
      [[1. 1. 1.]
       [3. 3. 3.]]
    """
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    n, m = matrix.shape
    if not after:
        return matmul(x.reshape(-1, n), matrix).reshape(*before, m)
    if not before:
        return matmul(matrix.T, x.reshape(n, -1)).reshape(m, *after)
    x = x.reshape(math.prod(before), n, math.prod(after))
    return matmul(matrix.T, x).reshape(*before, m, *after)


def along_inverse(x: Array, upper: Array, axis: int) -> Array:
    """Return y with `along(y, upper, axis)` = x, by a triangular solve.

    Example:
      >>> m = jnp.array([[1.0, 2.0], [0.0, 1.0]])
      >>> print(along_inverse(along(jnp.ones((2, 3)), m, 0), m, 0))
      [[1. 1. 1.]
       [1. 1. 1.]]
    """
    n = x.shape[axis]
    moved = jnp.moveaxis(x, axis, 0)
    solved = jax.lax.linalg.triangular_solve(
        upper, moved.reshape(n, -1), left_side=True, lower=False, transpose_a=True
    )
    return jnp.moveaxis(solved.reshape(moved.shape), 0, axis)


def rotated(x: Array, bases: Sequence[Array | None], skip: int | None = None) -> Array:
    """Return the coordinates of x in the bases, one for each axis or None; columns are vectors.

    Args:
      x: an array.
      bases: for each axis a unitary matrix, or None to leave the axis as it is.
      skip: an axis to leave as it is.
    """
    for axis, basis in enumerate(bases):
        if basis is not None and axis != skip:
            x = along(x, basis.conj(), axis)
    return x


def rotated_back(x: Array, bases: Sequence[Array | None]) -> Array:
    """Return the array with the coordinates x in the bases: the inverse of `rotated`."""
    for axis, basis in enumerate(bases):
        if basis is not None:
            x = along(x, basis.T, axis)
    return x


def gram(x: Array, axis: int) -> Array:
    """Return the Hermitian matrix of sums over all other axes, X X^H for axis 0 of a matrix.

    Example:
      >>> print(gram(jnp.array([[1.0, 2.0], [0.0, 1.0]]), 1))
      [[1. 2.]
       [2. 5.]]
    """
    others = [i for i in range(x.ndim) if i != axis]
    return jnp.tensordot(x, x.conj(), (others, others), precision="highest")


def sum_others(x: Array, axis: int) -> Array:
    """Return the sums over all axes but one."""
    return jnp.sum(x, tuple(i for i in range(x.ndim) if i != axis))


def scaled(x: Array, weights: Sequence[Array | None], skip: int | None = None) -> Array:
    """Return x times a vector for each axis that has one."""
    for axis, weight in enumerate(weights):
        if weight is not None and axis != skip:
            x = x * weight.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return x
