"""Eigenbases of slowly changing Hermitian matrices, by one QR decomposition in place of `eigh`.

One step of orthogonal iteration, as in SOAP: Vyas et al. (2024), Algorithm 4,
https://arxiv.org/abs/2409.11321. Bases are constants for differentiation: where eigenvalues are
equal their derivative does not exist, and where they are close it is large and meaningless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.every import renew_when, when_due
from gdjax.linalg.axes import matmul

PerAxis: TypeAlias = tuple[Array | None, ...]  # a matrix or a vector for each axis, or None


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

    order = columns by decreasing diag(basis^H matrix basis);
    the new basis is Q of Q R = matrix basis[:, order]

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
    # without this, rounding errors alone would determine some columns of Q for a singular matrix
    lift = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), initial=0)
    order = jnp.argsort(-values)
    return jnp.linalg.qr((image + lift * basis)[:, order])[0], order


def diagonal_in(matrix: Array, basis: Array) -> Array:
    """Return the diagonal of basis^H matrix basis, real: estimates of the eigenvalues.

    Example:
      >>> print(diagonal_in(jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.eye(2)))
      [2. 3.]
    """
    return jnp.sum((basis.conj() * matmul(matrix, basis)).real, axis=0)


def after(others: Sequence[Array], x: Array) -> Array:
    """Return x with a data dependence on the last of the others, which must be finite.

    For decompositions in a branch of `lax.cond`: XLA's CPU runtime (seen in jaxlib 0.10, two cores,
    256 x 256) runs independent ones at the same time there, which can deadlock. The dependence
    makes them run one after another. It must be arithmetic: `optimization_barrier` is removed
    before the order is decided.
    """
    return x + (0 * others[-1].real.ravel()[0]).astype(x.dtype) if others else x


def renewed_bases(
    due: Array, count: Array, factors: PerAxis, bases: PerAxis
) -> tuple[PerAxis, PerAxis, Array]:
    """Return bases, the orders of their columns and how many failed, after a renewal if due.

    Args:
      due: whether to renew, a scalar.
      count: t = 1, 2, ...; at t = 1 the bases come from eigendecompositions.
      factors: for each axis a Hermitian matrix, or None.
      bases: likewise, the bases before. One stays where the new one is not finite.

    Returns:
      New bases, integers [n] for each basis (new column i comes from old column order[i]), and an
      integer. Axes without a factor have None.
    """
    axes = [i for i, f in enumerate(factors) if f is not None]
    old = [q for q in bases if q is not None]
    orders = [jnp.arange(len(q)) for q in old]
    failed = jnp.zeros((), jnp.int32)
    if axes:
        given = [factors[i] for i in axes], count == 1
        old, orders, failed = renew_when(due, _renew, (old, orders, failed), *given)

    def per_axis(found: Sequence[Any]) -> PerAxis:
        return tuple(found[axes.index(i)] if i in axes else None for i in range(len(factors)))

    return per_axis(old), per_axis(orders), failed


def _renew(kept, factors, first):
    bases, orders, failed = kept
    new_bases, new_orders = [], []
    for factor, basis, order in zip(factors, bases, orders, strict=True):
        factor = after(new_bases, factor)
        new, new_order = jax.lax.cond(
            first,
            lambda factor=factor, order=order: (eigenbasis(factor), order),
            lambda factor=factor, basis=basis: tracked_basis(factor, basis),
        )
        ok = jnp.all(jnp.isfinite(new))
        new_bases.append(jnp.where(ok, new, basis))
        new_orders.append(jnp.where(ok, new_order, order))
        failed = failed + ~ok
    return new_bases, new_orders, failed


def renewed_values(
    due: Array, values: PerAxis | None, factors: PerAxis, bases: PerAxis
) -> PerAxis | None:
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
