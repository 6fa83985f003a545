"""Inverse roots of positive definite matrices, by matrix products alone or by eigenvalues.

Coupled Newton iteration: Guo & Higham (2006), "A Schur-Newton method for the matrix p-th root and
its inverse"; Higham (2008), "Functions of matrices", equation 7.18.
Paper -> here: X_k -> root, M_k -> rest (root^p times the matrix, which converges to 1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, as_float_leaves, check_integer, checked
from gdjax.core.every import renew_when
from gdjax.core.numerics import cast, upcast
from gdjax.core.types import Number
from gdjax.linalg.axes import matmul
from gdjax.linalg.eigenbasis import after
from gdjax.linalg.power_iteration import power_iteration


@checked(num_iters=NONNEGATIVE, ridge_epsilon=NONNEGATIVE, error_tolerance=NONNEGATIVE)
def matrix_inverse_pth_root(
    matrix: ArrayLike,
    p: int,
    num_iters: Number = 100,
    ridge_epsilon: Number = 1e-6,
    error_tolerance: Number = 1e-6,
    precision: Precision = Precision.HIGHEST,
) -> tuple[Array, Array]:
    """Return (matrix + ridge)**(-1/p) and how far its p-th power times the matrix is from 1.

    The matrix is divided by its largest eigenvalue first, so that it may have any scale. The
    result cannot be differentiated in reverse mode. For several matrices use `jax.vmap`.

    Args:
      matrix: real float array [n, n], symmetric and positive semidefinite.
      p: any integer >= 1 (optax replaces it by the nearest power of two up to 8).
      num_iters: the maximal number of steps.
      ridge_epsilon: >= 0; times the largest eigenvalue, it is added to the diagonal.
      error_tolerance: stop when the error, below, is less than this.
      precision: of the matrix products.

    Returns:
      The root, in the dtype of the matrix (computed in at least float32, in float64 where the
      matrix is); and the largest element of |root^p (matrix + ridge) - 1|. The iteration stops
      when this starts to grow, and the root before that is returned.

    Raises:
      ValueError: if the matrix is not square, a number is out of range, or `p` is not an integer.
      TypeError: if the matrix is not real and float.

    Example:
      >>> import jax.numpy as jnp
      >>> root, error = matrix_inverse_pth_root(jnp.diag(jnp.array([16.0, 1.0])), 4)
      >>> print(root.round(3), error < 1e-5)
      [[0.5 0. ]
       [0.  1. ]] True
    """
    call = "matrix_inverse_pth_root"
    p = check_integer(f"{call}(p=...)", p)
    ((given,), _) = as_float_leaves(f"{call}(matrix=...)", matrix)
    a = upcast(jnp.asarray(given))
    if jnp.iscomplexobj(a):
        raise TypeError(f"{call}(matrix=...) must be real, got dtype {a.dtype}.")
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"{call}(matrix=...) must be square, got {list(a.shape)}.")
    if a.shape[0] == 0:
        return jnp.asarray(given), jnp.zeros((), a.dtype)

    top = jnp.maximum(power_iteration(a, precision=precision)[0], 1e-16)
    ridge = jnp.asarray(ridge_epsilon, a.dtype)
    one = jnp.eye(a.shape[0], dtype=a.dtype)
    a = a / top + ridge * one

    def times(x: Array, y: Array) -> Array:
        return jnp.matmul(x, y, precision=precision)

    def off(rest):
        return jnp.max(jnp.abs(rest - one))

    def step(carry):
        root, rest, _, error, count, _ = carry
        factor = ((p + 1) * one - rest) / p
        new = times(_power(factor, p, times), rest)
        # the error may rise a little before it falls
        return times(root, factor), new, root, off(new), count + 1, off(new) < 1.2 * error

    def unfinished(carry):
        *_, error, count, improved = carry
        return (count < num_iters) & (error > error_tolerance) & improved

    scale = (1 + p) / (2 * jnp.linalg.norm(a))
    rest = scale * a
    root = scale ** (1 / p) * one
    begin = root, rest, root, off(rest), jnp.zeros((), jnp.int32), jnp.array(True)
    root, rest, before, error, _, improved = jax.lax.while_loop(unfinished, step, begin)
    root = jnp.where(improved, root, before)
    return cast(top ** (-1 / p) * root, given.dtype), error


def matrix_inverse_power(matrix: Array, power: Number, eps: Number) -> Array:
    """Return (matrix + shift)**(-power) by an eigendecomposition, for any real power.

    shift = eps - min(0, the smallest eigenvalue)

    The result is a constant for differentiation, see `gdjax.linalg.eigenbasis`.

    Args:
      matrix: Hermitian positive semidefinite up to rounding, [n, n].
      power: a number.
      eps: added to the eigenvalues, > 0 where the matrix is singular.

    Returns:
      A matrix [n, n]; not finite if the decomposition failed or a singular matrix had no `eps`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(matrix_inverse_power(jnp.array([[5.0, 4.0], [4.0, 5.0]]), 0.5, 0.0).round(4))
      [[ 0.6667 -0.3333]
       [-0.3333  0.6667]]
    """
    matrix, exponent, shift = map(jnp.asarray, jax.lax.stop_gradient((matrix, power, eps)))
    values, vectors = map(jnp.asarray, jnp.linalg.eigh(matrix, symmetrize_input=False))
    values = values - jnp.minimum(jnp.min(values), 0) + shift
    return matmul(vectors * values[None] ** -exponent, vectors.conj().T)


def renewed_roots(
    due: Array,
    roots: tuple[Array, ...],
    factors: tuple[Array, ...],
    numbers: tuple[Number, Number, Number],
    order: int | None,
) -> tuple[tuple[Array, ...], Array | int]:
    """Return the inverse roots of all factors after a renewal, where due, and how many failed.

    A root that is not finite, or whose error after the iteration is large, is not used: the old one
    stays.

    Args:
      due: whether to renew: a scalar, or [blocks], which are then renewed one by one, so that only
        those that are due cost time.
      roots: for each axis [blocks, n, n].
      factors: likewise; the root is that of factor / scale + eps.
      numbers: scale, power and eps.
      order: p of the inverse p-th root by matrix products, 0 for twice the number of axes; or None
        for (..)**(-power) by eigenvalues.
    """
    if not factors:
        return roots, 0
    function = functools.partial(_renew, order=order)

    def block(
        roots: tuple[Array, ...], factors: tuple[Array, ...], due: Array
    ) -> tuple[tuple[Array, ...], Array]:
        given = tuple(jnp.asarray(x, factors[0].real.dtype) for x in numbers)
        return renew_when(due, function, (roots, jnp.zeros((), jnp.int32)), factors, *given)

    if due.ndim:
        roots, failed = jax.lax.map(lambda row: block(*row), (roots, factors, due))
    else:
        roots, failed = jax.vmap(functools.partial(block, due=due))(roots, factors)
    return roots, jnp.sum(failed, dtype=jnp.int32)


def newton_order(what: str, exponent: object) -> int:
    """Return p of the inverse p-th root, a static number, for `renewed_roots`; 0 for None."""
    if exponent is None:
        return 0
    if not isinstance(exponent, (int, float)) or abs(1 / exponent - round(1 / exponent)) > 1e-9:
        raise ValueError(
            f'{what} must be 1 / p of a whole number p with root="newton", got {exponent!r}. '
            'root="eigh" takes any power.'
        )
    return round(1 / exponent)


def _renew(kept, factors, scale, power, eps, *, order):
    roots, failed = kept
    out = []
    for factor, old in zip(factors, roots, strict=True):
        factor = after(out, factor)
        if order is None:
            new = matrix_inverse_power(factor / scale, power, eps)
            ok = jnp.all(jnp.isfinite(new))
        else:
            shifted = factor / scale + eps * jnp.eye(len(factor), dtype=factor.dtype)
            new, error = matrix_inverse_pth_root(shifted, order or 2 * len(factors))
            ok = jnp.all(jnp.isfinite(new)) & (error < 0.1)
        out.append(jnp.where(ok, new, old))
        failed = failed + ~ok
    return tuple(out), failed


def _power(x: Array, p: int, times: Callable[[Array, Array], Array]) -> Array:
    """Return x**p with about log2(p) products."""
    if p == 1:
        return x
    half = _power(x, p // 2, times)
    square = times(half, half)
    return times(square, x) if p % 2 else square
