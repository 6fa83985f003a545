"""Eigenbases of Hermitian matrices that change slowly: one QR decomposition instead of all of eigh.

One step of orthogonal iteration, as in SOAP: Vyas et al. (2024), Algorithm 4,
https://arxiv.org/abs/2409.11321. Bases are constants for differentiation: where eigenvalues are
equal their derivative does not exist, and where they are close it is large without a meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.every import renew_when, when_due
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
    values = jnp.sum((basis.conj() * image).real, axis=0)  # as `diagonal_in`
    # Without this a singular matrix leaves some columns of Q to rounding noise.
    lift = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), initial=0)
    order = jnp.argsort(-values)
    return jnp.linalg.qr((image + lift * basis)[:, order])[0], order


def diagonal_in(matrix: Array, basis: Array) -> Array:
    """Return the diagonal of basis^H matrix basis, real: what stands for the eigenvalues there.

    Example:
      >>> print(diagonal_in(jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.eye(2)))
      [2. 3.]
    """
    return jnp.sum((basis.conj() * matmul(matrix, basis)).real, axis=0)


def after(others: Sequence[Array], x: Array) -> Array:
    """Return x, to be computed with only once the last of the others, which is finite, is there.

    For decompositions in a branch of `lax.cond`: XLA's CPU runtime (seen in jaxlib 0.10, two cores,
    256 x 256) runs independent ones at the same time there, and may then wait for ever. It takes
    real arithmetic to tie them: `optimization_barrier` is gone when the order is decided.
    """
    return x + (0 * others[-1].real.ravel()[0]).astype(x.dtype) if others else x


def renewed_bases(due, count, factors, bases):
    """Return bases, the orders of their columns and how many failed, after a renewal if due.

    What comes from no axis is None. The first bases come from eigendecompositions.
    """
    axes = [i for i, f in enumerate(factors) if f is not None]
    old = [bases[i] for i in axes]
    orders = [jnp.arange(len(q)) for q in old]
    failed = jnp.zeros((), jnp.int32)
    if axes:
        given = [factors[i] for i in axes], count == 1
        old, orders, failed = renew_when(due, _renew, (old, orders, failed), *given)
    at = {axis: k for k, axis in enumerate(axes)}
    bases, orders = (
        tuple(found[at[i]] if i in at else None for i in range(len(factors)))
        for found in (old, orders)
    )
    return bases, orders, failed


def _renew(kept, factors, first):
    bases, orders, failed = kept
    new_bases, new_orders = [], []
    for factor, basis, order in zip(factors, bases, orders, strict=True):
        factor = after(new_bases, factor)
        new, place = jax.lax.cond(
            first,
            lambda factor=factor, order=order: (eigenbasis(factor), order),
            lambda factor=factor, basis=basis: tracked_basis(factor, basis),
        )
        ok = jnp.all(jnp.isfinite(new))
        new_bases.append(jnp.where(ok, new, basis))
        new_orders.append(jnp.where(ok, place, order))
        failed = failed + ~ok
    return new_bases, new_orders, failed


def renewed_values(due, values, factors, bases):
    """Return the diagonals of the factors in the bases, if due and finite; None for None."""
    if values is None:
        return None

    def renew(*old):
        return tuple(map(better, old, factors, bases))

    def better(old, factor, basis):
        if old is None:
            return None
        new = diagonal_in(factor, basis)
        return jnp.where(jnp.all(jnp.isfinite(new)), new, old)

    return when_due(due, renew, *values) if values else values
