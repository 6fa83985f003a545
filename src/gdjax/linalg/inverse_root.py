"""Inverse roots of positive definite matrices, by matrix products alone or by eigenvalues.

Coupled Newton iteration: Guo & Higham (2006), "A Schur-Newton method for the matrix p-th root and
its inverse"; Higham (2008), "Functions of matrices", equation 7.18.
Paper -> here: X_k -> root, M_k -> rest (root^p times the matrix, which converges to 1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, as_float_leaves, check_choice, check_integer, checked
from gdjax.core.every import renew_when
from gdjax.core.explicit import automatically
from gdjax.core.numerics import cast, upcast
from gdjax.core.types import Number
from gdjax.linalg.axes import matmul
from gdjax.linalg.eigenbasis import after
from gdjax.linalg.power_iteration import power_iteration

Root: TypeAlias = Literal["eigh", "newton"]


@checked(num_iters=NONNEGATIVE, ridge_epsilon=NONNEGATIVE, error_tolerance=NONNEGATIVE)
def matrix_inverse_pth_root(
    matrix: ArrayLike,
    p: int,
    num_iters: Number = 100,
    ridge_epsilon: Number = 1e-6,
    error_tolerance: Number = 1e-6,
    precision: Precision = Precision.HIGHEST,
    *,
    method: Root = "eigh",
) -> tuple[Array, Array]:
    r"""Return an inverse root of a matrix and an estimate of its error; NaN if there is none.

    .. math::

       X = (A + \epsilon \lambda_{\max} I)^{-1/p}

    The matrix may have any scale: it is divided by its largest eigenvalue first. The result cannot
    be differentiated in reverse mode. For several matrices use `jax.vmap`.

    By eigenvalues ("eigh"), those below 1/1000 of the largest are computed again in their subspace,
    with a product of doubled precision. So the relative error of the root is below 1e-3 in float32
    and 1e-9 in float64 for conditions up to 1e6. By matrix products alone ("newton"), it is about
    condition * machine epsilon / p: in float32 up to 1e-2 at a condition of 1e6.

    Args:
      matrix: real float array [n, n], symmetric up to rounding and positive semidefinite.
      p: any integer >= 1 (optax replaces it by the nearest power of two up to 8).
      num_iters: the maximal number of steps of "newton".
      ridge_epsilon: :math:`\epsilon` >= 0; times the largest eigenvalue, it is added to the
        diagonal. A zero matrix counts as 1e-16 times the identity. "newton" estimates that
        eigenvalue by power iteration.
      error_tolerance: "newton" stops when its iterate is this close to its limit.
      precision: of the matrix products.
      method: "eigh" or "newton", which is faster on accelerators. With p above 16 "newton" may lose
        all digits to rounding, and then returns NaN.

    Returns:
      The root, in the dtype of the matrix (computed in at least float32, in float64 where the
      matrix is); and an error in that of the computation, an estimate of the largest element of
      :math:`X^p (A + \epsilon \lambda_{\max} I) - I` in magnitude. If this is 0.1 or more, if an
      eigenvalue with the ridge is not positive or the matrix is not finite, then the root is NaN
      and the error infinite.

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
    check_choice(f"{call}(method=...)", method, get_args(Root))
    ((given,), _) = as_float_leaves(f"{call}(matrix=...)", matrix)
    a = upcast(jnp.asarray(given))
    if jnp.iscomplexobj(a):
        raise TypeError(f"{call}(matrix=...) must be real, got dtype {a.dtype}.")
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"{call}(matrix=...) must be square, got {list(a.shape)}.")
    if a.shape[0] == 0:
        return jnp.asarray(given), jnp.zeros((), a.dtype)

    found = functools.partial(_found_root, p=p, precision=precision, method=method)
    root, error = automatically(found, a, num_iters, ridge_epsilon, error_tolerance)
    return cast(root, given.dtype), error


def _found_root(a, num_iters, ridge_epsilon, error_tolerance, *, p, precision, method):
    """Return the root, in the dtype of the matrix as it comes, and the error."""
    a, exponent = _scaled(a)
    ridge = jnp.asarray(ridge_epsilon, a.dtype)
    if method == "eigh":
        root, error = _root_by_eigenvalues(a, p, ridge, precision)
    else:
        top = power_iteration(a, precision=precision)[0]
        shifted = a + ridge * top * jnp.eye(len(a), dtype=a.dtype)
        root, error = _root_by_products(shifted, p, num_iters, error_tolerance, precision)
        # rounding changes the eigenvalues by a part of eps times the largest
        least = power_iteration(root, num_iters=20, precision=precision)[0] ** -p
        error = error + 0.5 * jnp.finfo(a.dtype).eps * top / least
        if p > 16:  # rounding parts the iterates, as the p-th power of a factor multiplies it by p
            times = functools.partial(jnp.matmul, precision=precision)
            rest = times(_power(root, p, times), shifted) - jnp.eye(len(a), dtype=a.dtype)
            error = jnp.maximum(error, jnp.max(jnp.abs(rest)))
    root = jnp.exp2(-exponent / p) * root
    ok = (error < 0.1) & jnp.all(jnp.isfinite(root))
    return jnp.where(ok, root, jnp.nan), jnp.where(ok, error, jnp.inf)


def _scaled(a: Array) -> tuple[Array, Array]:
    """Return a matrix of norm 1 / 2 to 1, and the power of two that it was divided by.

    The rounding of another division would change small eigenvalues. A zero matrix becomes 1.
    """
    largest = jnp.max(jnp.abs(a))
    exponent = jnp.frexp(largest)[1]
    a = jnp.ldexp(a, -exponent)
    a = 0.5 * (a + a.T)
    more = jnp.frexp(jnp.linalg.norm(a))[1]
    zero, power = largest == 0, (exponent + more).astype(a.dtype)
    one = jnp.eye(len(a), dtype=a.dtype)
    return jnp.where(zero, one, jnp.ldexp(a, -more)), jnp.where(zero, math.log2(1e-16), power)


def _root_by_eigenvalues(a, p, ridge, precision):
    """Return (a + ridge times its largest eigenvalue)**(-1/p), and an estimate of the error."""
    values, basis = map(jnp.asarray, jnp.linalg.eigh(a, symmetrize_input=False))
    top, n, info = values[-1], len(a), jnp.finfo(a.dtype)
    # Eigenvalues have errors of about eps times the largest. Those below `low` are found again
    # from the part of the matrix in their subspace, with errors of eps times `low`.
    low = 2.0**-10 * top
    small = values < low
    part = jnp.matmul(basis.T, _product_of_bounded(a, basis, precision), precision=precision)
    part = jnp.where(small[:, None] & small[None], 0.5 * (part + part.T), 0)
    others = low * (2 + jnp.arange(n, dtype=a.dtype) / n)  # above the small ones, in their order
    part = part + jnp.diag(jnp.where(small, 0, others))
    again, turn = map(jnp.asarray, jnp.linalg.eigh(part, symmetrize_input=False))
    values = jnp.where(small, again, values) + ridge * top
    basis = jnp.matmul(basis, turn, precision=precision)
    least = values[0]
    error = 2 * math.sqrt(n) * info.eps * jnp.max(jnp.where(small, low, top) / values)
    usable = jnp.where(least > 0, values, jnp.nan)
    root = jnp.matmul(basis * usable[None] ** (-1 / p), basis.T, precision=precision)
    return root, jnp.where(least > 0, error, jnp.inf)


def _product_of_bounded(a, b, precision):
    """Return a @ b with twice the digits of the dtype, for rows and columns of norms up to 1.

    Half of the digits of each, as multiples of a power of two, have a product without rounding
    errors (Ozaki et al. 2012, https://doi.org/10.1007/s11075-011-9478-1).
    """
    unit = 2.0 ** (jnp.finfo(a.dtype).nmant // 2)
    times = functools.partial(jnp.matmul, precision=precision)
    first, second = (jnp.round(x * unit) / unit for x in (a, b))
    return times(first, second) + (times(first, b - second) + times(a - first, b))


def _root_by_products(a, p, num_iters, tolerance, precision):
    """Return a**(-1/p) for positive eigenvalues, and how far the iteration is from its limit."""
    one = jnp.eye(len(a), dtype=a.dtype)
    times = functools.partial(jnp.matmul, precision=precision)

    def off(rest):
        return jnp.linalg.norm(rest - one)

    def factor_of(rest):
        return ((p + 1) * one - rest) / p

    def step(carry):
        root, rest, _, error, count, _ = carry
        factor = factor_of(rest)
        new = times(_power(factor, p, times), rest)
        new = 0.5 * (new + new.T)
        # from a norm of 1 / 2 on it converges, to what rounding allows; before, this may rise
        improved = (error > 0.5) | (off(new) < error)
        return times(root, factor), new, root, off(new), count + 1, improved

    def unfinished(carry):
        *_, error, count, improved = carry
        return (count < num_iters) & (error > tolerance) & improved

    scale = (1 + p) / (2 * jnp.linalg.norm(a))
    rest = scale * a
    root = scale ** (1 / p) * one
    begin = root, rest, root, off(rest), jnp.zeros((), jnp.int32), jnp.array(True)
    root, rest, before, error, _, improved = jax.lax.while_loop(unfinished, step, begin)
    # one more step squares the error, which costs one product only
    return jnp.where(improved, times(root, factor_of(rest)), before), error


def matrix_inverse_power(
    matrix: Array, power: Number, eps: Number, rcond: Number | None = None
) -> Array:
    """Return (matrix + shift)**(-power) by an eigendecomposition, for any real power.

    shift = eps - min(0, the smallest eigenvalue); with `rcond`, shift = eps for eigenvalues above
    rcond * the largest, and 0 is the power of all others: a pseudo-inverse root.

    The result is a constant for differentiation, see `gdjax.linalg.eigenbasis`.

    Args:
      matrix: Hermitian positive semidefinite up to rounding, [n, n].
      power: a number.
      eps: added to the eigenvalues, > 0 where the matrix is singular and there is no `rcond`.
      rcond: relative size up to which an eigenvalue counts as 0, or None: none does.

    Returns:
      A matrix [n, n]; not finite if the decomposition failed or a singular matrix had neither `eps`
      nor `rcond`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(matrix_inverse_power(jnp.array([[5.0, 4.0], [4.0, 5.0]]), 0.5, 0.0).round(4))
      [[ 0.6667 -0.3333]
       [-0.3333  0.6667]]
    """
    matrix, exponent, shift = map(jnp.asarray, jax.lax.stop_gradient((matrix, power, eps)))
    values, vectors = map(jnp.asarray, jnp.linalg.eigh(matrix, symmetrize_input=False))
    if rcond is None:
        powers = (values - jnp.minimum(jnp.min(values), 0) + shift) ** -exponent
    else:
        # not above: NaN, of a decomposition that failed, stays
        zero = values <= jnp.maximum(jax.lax.stop_gradient(rcond) * jnp.max(values), 0)
        powers = jnp.where(zero, 0, jnp.where(zero, 1, values + shift) ** -exponent)
    return matmul(vectors * powers[None], vectors.conj().T)


def renewed_roots(
    due: Array,
    roots: tuple[Array, ...],
    factors: tuple[Array, ...],
    numbers: tuple[Number, Number, Number, Number | None],
    order: int | None,
) -> tuple[tuple[Array, ...], Array | int]:
    """Return the inverse roots of all factors after a renewal, where due, and how many failed.

    A root that is not finite, as that of a failed iteration, is not used: the old one stays.

    Args:
      due: whether to renew: a scalar, or [blocks], which are then renewed one by one, so that only
        those that are due cost time.
      roots: for each axis [blocks, n, n].
      factors: likewise; the root is that of factor / scale + eps.
      numbers: scale, power, eps and rcond, see `matrix_inverse_power`.
      order: p of the inverse p-th root by matrix products, 0 for twice the number of axes; or None
        for (..)**(-power) by eigenvalues.
    """
    if not factors:
        return roots, 0
    function = functools.partial(_renew, order=order)

    def block(
        roots: tuple[Array, ...], factors: tuple[Array, ...], due: Array
    ) -> tuple[tuple[Array, ...], Array]:
        dtype = factors[0].real.dtype
        given = tuple(None if x is None else jnp.asarray(x, dtype) for x in numbers)
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


def _renew(kept, factors, scale, power, eps, rcond, *, order):
    roots, failed = kept
    out = []
    for factor, old in zip(factors, roots, strict=True):
        factor = after(out, factor)
        if order is None:
            new = matrix_inverse_power(factor / scale, power, eps, rcond)
        else:
            shifted = factor / scale + eps * jnp.eye(len(factor), dtype=factor.dtype)
            new, _ = matrix_inverse_pth_root(shifted, order or 2 * len(factors), method="newton")
        ok = jnp.all(jnp.isfinite(new))
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
