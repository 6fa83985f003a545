"""Bounds of the spectral norm, the largest singular value, by a few products with vectors."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.linalg.axes import matmul


def spectral_norm_lower_bound(matrix: Array) -> Array:
    """Return a lower bound: one step of the power method from the longest row or column.

    On random matrices it is rarely less than 1 / sqrt(2) of the norm (Li 2024,
    https://arxiv.org/abs/2402.04553).

    Args:
      matrix: [m, n].

    Returns:
      A number, real; 0 for a zero matrix, NaN where the matrix is not finite.

    Example:
      >>> print(spectral_norm_lower_bound(jnp.array([[3.0, 0.0], [0.0, -4.0]])))
      4.0
    """
    largest = jnp.max(jnp.abs(matrix), initial=0)
    a = matrix / jnp.where(largest > 0, largest, 1).astype(matrix.dtype)  # no overflow of squares
    squares = abs_sq(a)
    rows, columns = jnp.sum(squares, 1), jnp.sum(squares, 0)
    row, column = a[jnp.argmax(rows)], a[:, jnp.argmax(columns)]
    from_row = _norm(matmul(a.conj().T, _unit(matmul(a, row.conj()))))
    from_column = _norm(matmul(a, _unit(matmul(a.conj().T, column))))
    return largest * jnp.where(jnp.max(columns) > jnp.max(rows), from_column, from_row)


def spectral_norm_upper_bound(matrix: Array) -> Array:
    """Return the smaller of two upper bounds, each at most sqrt(min(m, n)) times the norm.

    min(Frobenius norm, sqrt(largest absolute row sum * largest absolute column sum))

    Args:
      matrix: [m, n].

    Returns:
      A number, real.

    Example:
      >>> print(spectral_norm_upper_bound(jnp.array([[3.0, 0.0], [0.0, -4.0]])))
      4.0
    """
    largest = jnp.max(jnp.abs(matrix), initial=0)
    sizes = jnp.abs(matrix) / jnp.where(largest > 0, largest, 1)
    rows, columns = (jnp.max(jnp.sum(sizes, axis), initial=0) for axis in (1, 0))
    frobenius = safe_sqrt(jnp.sum(sizes * sizes))
    return largest * jnp.minimum(frobenius, safe_sqrt(rows * columns))


def _norm(x: Array) -> Array:
    return safe_sqrt(jnp.sum(abs_sq(x)))


def _unit(x: Array) -> Array:
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1).astype(x.dtype)
