"""Eigenbases of Hermitian matrices that change slowly: one QR decomposition instead of all of eigh.

One step of orthogonal iteration, as in SOAP: Vyas et al. (2024), Algorithm 4,
https://arxiv.org/abs/2409.11321. Bases are constants for differentiation: where eigenvalues are
equal their derivative does not exist, and where they are close it is large without a meaning.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.linalg.axes import matmul


def eigenbasis(matrix: Array) -> Array:
    """Return eigenvectors as columns, the one of the largest eigenvalue first.

    Args:
      matrix: Hermitian, [n, n].

    Returns:
      A unitary matrix [n, n]; NaN if the decomposition failed.

    Example:
      >>> abs(eigenbasis(jnp.diag(jnp.array([1.0, 3.0])))).tolist()
      [[0.0, 1.0], [1.0, 0.0]]
    """
    matrix = jax.lax.stop_gradient(matrix)
    return jnp.linalg.eigh(matrix, symmetrize_input=False)[1][:, ::-1]


def tracked_basis(matrix: Array, basis: Array) -> tuple[Array, Array]:
    """Return a better eigenbasis by one step of orthogonal iteration, and the order of its columns.

    order = columns by falling diag(basis^H matrix basis); the new basis is Q of
    Q R = matrix basis[:, order]

    Args:
      matrix: Hermitian positive semidefinite, [n, n].
      basis: unitary, [n, n].

    Returns:
      A unitary matrix [n, n], and integers [n]: new column i comes from old column order[i].

    Example:
      >>> matrix = jnp.array([[2.0, 1.0], [1.0, 3.0]])
      >>> basis = jnp.eye(2)
      >>> for _ in range(20):
      ...     basis, order = tracked_basis(matrix, basis)
      >>> print(jnp.diag(basis.T @ matrix @ basis).round(3), order)
      [3.618 1.382] [0 1]
    """
    matrix, basis = jax.lax.stop_gradient((matrix, basis))
    image = matmul(matrix, basis)
    values = jnp.sum((basis.conj() * image).real, axis=0)
    # Without this a singular matrix leaves some columns of Q to rounding noise.
    lift = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), initial=0)
    order = jnp.argsort(-values)
    return jnp.linalg.qr((image + lift * basis)[:, order])[0], order
