"""Damped linear least squares, d = argmin |J d - r|^2 + damping |d|^2, in the forms of its algebra.

With J of m x n elements, each direct form costs O(min(m, n)^2 max(m, n)) where it fits the shape:

    normal  d = (J^H J + damping I)^-1 J^H r    n x n, Cholesky: m n^2 + n^3 / 3
    kernel  d = J^H (J J^H + damping I)^-1 r    m x m, Cholesky: n m^2 + m^3 / 3
    qr      J = Q R, R = U diag(s) V^H          QR and an SVD of R: 2 m n^2 + about 12 n^3
                                                (m < n: of J^H, 2 n m^2 + about 12 m^3)
    cg      products with J and J^H only

in multiplications with additions. The first two square the condition number: they leave no digit
of a direction with a singular value below sqrt(eps) times the largest, 3e-4 in float32, 1e-8 in
float64, unless the damping is larger; one step of refinement with J itself (Bjorck 1987, "Stability
analysis of the method of seminormal equations") keeps the digits above it. QR squares nothing.

The preconditioners are block diagonal, or Frangella, Tropp & Udell (2021), "Randomized Nystrom
preconditioning", https://arxiv.org/abs/2110.02820, algorithm 2.1 for A = J^H J: with J Omega = Q R,
A_nys = J^H Q Q^H J, which needs no shift. Paper -> here: mu -> damping, l -> rank,
U, Lambda -> basis, values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.typing import ArrayLike

from gdjax.core.checks import check_choice, check_integer
from gdjax.core.numerics import real_dtype
from gdjax.core.types import KeyArray
from gdjax.linalg.axes import matmul

FORMS = ("normal", "kernel", "qr")
PRECONDITIONERS = ("block_diagonal", "nystrom")
QR_LIMIT = 256  # of min(m, n): up to here "auto" takes QR

Linear = Callable[[Array], Array]


def direct_form(m: int, n: int) -> str:
    """Return the form that "auto" stands for, for J of m x n elements.

    QR, which keeps all digits, while min(m, n) <= 256; beyond it the smaller Gram matrix.

    Example:
      >>> direct_form(10_000, 200), direct_form(50_000, 5000), direct_form(5000, 50_000)
      ('qr', 'normal', 'kernel')
    """
    if min(m, n) <= QR_LIMIT:
        return "qr"
    return "normal" if n <= m else "kernel"


def damped_direction(
    jac: Array, rhs: Array, damping: ArrayLike, *, solver: str = "auto", rcond: float | None = None
) -> Array:
    """Return d = argmin |J d - r|^2 + damping |d|^2, that is (J^H J + damping I) d = J^H r.

    With "qr" and no damping it is the shortest of the best, of singular values above rcond times
    the largest. "normal" and "kernel" take a damping of at least rcond^2 |J|^2, |J| the root of the
    sum of squares, in place of this cutoff.

    Args:
      jac: J, an (m, n) array, real or complex, of at least float32.
      rhs: r, an (m,) array.
      damping: a number >= 0, may be traced.
      solver: "normal", "kernel", "qr", or "auto" by shape: `direct_form`.
      rcond: see above; None is max(m, n) eps for "qr", 2 sqrt(eps) for the others.

    Returns:
      An (n,) array.
      Memory: J, a copy of it with "qr", and two arrays of min(m, n)^2 elements. It has derivatives
      of any order in all arguments, also where singular values are equal.

    Example:
      >>> import jax.numpy as jnp
      >>> j, r = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), jnp.array([6.0, 4.0, 1.0])
      >>> print(damped_direction(j, r, 1.0).round(5))
      [1.8 2. ]
    """
    form, rcond = _chosen(jac, solver, rcond)
    if not jac.size:
        return jnp.zeros(jac.shape[1], jac.dtype)
    return _direction(form, rcond, jac, rhs, jnp.asarray(damping, real_dtype(jac.dtype)))


def damped_inverse(
    jac: Array, vector: Array, damping: ArrayLike, *, solver: str = "auto",
    rcond: float | None = None,
) -> Array:  # fmt: skip
    """Return (J^H J + damping I)^-1 g for any g, an (n,) array; else as `damped_direction`.

    Without damping it is the pseudo-inverse. If g is J^H r, `damped_direction` of r is more exact.

    Example:
      >>> import jax.numpy as jnp
      >>> j = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
      >>> print(damped_inverse(j, jnp.array([10.0, 4.0]), 1.0).round(5))
      [1. 2.]
    """
    form, rcond = _chosen(jac, solver, rcond)
    damping = jnp.asarray(damping, real_dtype(jac.dtype))
    if not jac.size:
        return vector * _or_zero(damping)
    return _inverse(form, rcond, jac, vector, damping)


def _chosen(jac: Array, solver: str, rcond: float | None) -> tuple[str, float]:
    m, n = jac.shape
    form = direct_form(m, n) if solver == "auto" else solver
    eps = float(jnp.finfo(jac.dtype).eps)
    least = max(m, n) * eps if form == "qr" else 2 * eps**0.5
    return form, least if rcond is None else rcond


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _inverse(form: str, rcond: float, jac: Array, vector: Array, damping: Array) -> Array:
    return _factors(form, rcond, jac, None, damping)[1](vector)


@_inverse.defjvp
def _inverse_jvp(form, rcond, primals, tangents):
    jac, vector, damping = primals
    jac_dot, vector_dot, damping_dot = tangents
    d = _inverse(form, rcond, jac, vector, damping)
    change = matmul(jac_dot.conj().T, matmul(jac, d)) + matmul(jac.conj().T, matmul(jac_dot, d))
    return d, _inverse(form, rcond, jac, vector_dot - change - damping_dot * d, damping)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _direction(form: str, rcond: float, jac: Array, rhs: Array, damping: Array) -> Array:
    return _factors(form, rcond, jac, rhs, damping)[0]


@_direction.defjvp
def _direction_jvp(form, rcond, primals, tangents):
    jac, rhs, damping = primals
    jac_dot, rhs_dot, damping_dot = tangents
    d = _direction(form, rcond, jac, rhs, damping)
    change = matmul(jac_dot.conj().T, rhs - matmul(jac, d))
    change += matmul(jac.conj().T, rhs_dot - matmul(jac_dot, d))
    return d, _inverse(form, rcond, jac, change - damping_dot * d, damping)


def _factors(
    form: str, rcond: float, jac: Array, rhs: Array | None, damping: ArrayLike
) -> tuple[Array, Linear]:
    """Return the direction for `rhs`, if there is one, and g -> (J^H J + damping I)^-1 g."""
    (m, n), real = jac.shape, real_dtype(jac.dtype)
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(jac)))
    inverse = 1 / jnp.where((size > 0) & jnp.isfinite(size), size, 1).astype(real)
    j = jac * inverse  # squares neither overflow nor underflow
    damping = jnp.asarray(damping, real) * inverse * inverse
    adjoint, r = j.conj().T, jnp.zeros(m, j.dtype) if rhs is None else rhs
    if form == "qr":
        if n <= m:
            full = jnp.linalg.qr(jnp.concatenate([j, r[:, None]], axis=1), mode="r")
            u, s, vh = jnp.linalg.svd(full[:n, :n], full_matrices=False)
            image = matmul(u.conj().T, full[:n, n])
        else:
            u, s, vh = jnp.linalg.svd(jnp.linalg.qr(adjoint, mode="r"), full_matrices=False)
            image = matmul(vh, r)
        kept = s > rcond * s[0]
        gain = jnp.where(kept, 1 / jnp.where(kept, s * s + damping, 1), 0)
        if n <= m:
            d = matmul(vh.conj().T, gain * s * image)
            off = jnp.where(kept, gain, _or_zero(damping))
            solve = lambda g: matmul(vh.conj().T, off * matmul(vh, g))  # noqa: E731
        else:
            kernel = lambda w: matmul(vh.conj().T, gain * matmul(vh, w))  # noqa: E731
            d = matmul(adjoint, kernel(r))
            solve = lambda g: _woodbury(adjoint, kernel, g, damping)  # noqa: E731
        return d * inverse, lambda g: solve(g) * inverse * inverse
    least = rcond**2 * jnp.sum(j.real**2 + j.imag**2 if jnp.iscomplexobj(j) else j * j)
    damping = jnp.maximum(damping, jnp.where(size > 0, least, 1))
    gram = matmul(adjoint, j) if form == "normal" else matmul(j, adjoint)
    upper = jnp.linalg.cholesky(gram + damping * jnp.eye(len(gram), dtype=j.dtype)).conj().T

    def apply(b):
        return solve_triangular(upper, solve_triangular(upper, b, trans="C"))

    if form == "normal":
        d = apply(matmul(adjoint, r))
        rest = matmul(adjoint, r - matmul(j, d)) - damping * d
        return (d + apply(rest)) * inverse, lambda g: apply(g) * inverse * inverse
    w = apply(r)
    rest = r - matmul(j, matmul(adjoint, w)) - damping * w
    d = matmul(adjoint, w + apply(rest))
    return d * inverse, lambda g: _woodbury(adjoint, apply, g, damping) * inverse * inverse


def _or_zero(damping: Array) -> Array:
    """Return 1 / damping, and 0 for 0."""
    return jnp.where(damping > 0, 1 / jnp.where(damping > 0, damping, 1), 0)


def _woodbury(adjoint: Array, kernel_inverse: Linear, g: Array, damping: Array) -> Array:
    """Return (J^H J + damping I)^-1 g from (J J^H + damping I)^-1, without damping J^+ J^+^H g."""
    w = kernel_inverse(matmul(adjoint.conj().T, g))
    return jnp.where(
        damping > 0,
        (g - matmul(adjoint, w)) * _or_zero(damping),
        matmul(adjoint, kernel_inverse(w)),
    )


# --- matrix-free ----------------------------------------------------------------------------------


class Solved(NamedTuple):
    """What `damped_cg` returns."""

    d: Array  # (n,)
    image: Array  # J d, (m,)
    steps: Array  # int32


def damped_cg(
    push: Linear,
    pull: Linear,
    rhs: Array,
    damping: ArrayLike,
    *,
    precondition: Linear | None = None,
    rtol: ArrayLike = 1e-6,
    max_steps: ArrayLike = 200,
    longest: ArrayLike | None = None,
) -> Solved:
    """Return `damped_direction` by conjugate gradients, and J d.

    CGLS, Hestenes & Stiefel (1952), section 10, with a preconditioner. The residual of the normal
    equations is J^H of that of the least-squares problem, updated as such, so that rounding errors
    are not those of J^H J either.

    Args:
      push: v -> J v.
      pull: w -> J^H w.
      rhs: r, an (m,) array, real or complex.
      damping: a number >= 0, may be traced.
      precondition: v -> P^-1 v, with P Hermitian, positive definite, near J^H J + damping I; None
        is the identity. `nystrom` and `block_diagonal` make some.
      rtol: it stops where |s| in the norm of P^-1, s the residual of the normal equations, is this
        part of that at the start.
      max_steps: steps after which it stops at the latest; each takes one product with J, one with
        J^H.
      longest: it stops where |d| is above it; None is nowhere. Without preconditioner |d| grows.

    Example:
      >>> import jax.numpy as jnp
      >>> j, r = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), jnp.array([6.0, 4.0, 1.0])
      >>> solved = damped_cg(lambda v: j @ v, lambda w: j.T @ w, r, 1.0)
      >>> print(solved.d.round(5), solved.steps)
      [1.8 2. ] 2
    """
    apply = precondition or (lambda v: v)
    g = pull(rhs)
    z = apply(g)
    start = _dot(g, z)
    target = jnp.asarray(rtol, start.dtype) ** 2 * start
    damping = jnp.asarray(damping, start.dtype)
    limit = jnp.inf if longest is None else jnp.asarray(longest, start.dtype) ** 2

    def unfinished(carry):
        d, _, _, _, gamma, i = carry
        return (gamma > target) & (i < max_steps) & (_dot(d, d) <= limit)

    def improve(carry):
        d, image, rest, p, gamma, i = carry
        ahead = push(p)
        curvature = _dot(ahead, ahead) + damping * _dot(p, p)
        t = (gamma / jnp.where(curvature > 0, curvature, 1)).astype(d.dtype)
        d, image, rest = d + t * p, image + t * ahead, rest - t * ahead
        s = pull(rest) - damping * d
        z = apply(s)
        new = _dot(s, z)
        return d, image, rest, z + (new / gamma).astype(d.dtype) * p, new, i + 1

    begin = (
        *(jnp.zeros_like(g), jnp.zeros_like(rhs), rhs),
        *(z.astype(g.dtype), start, jnp.zeros((), jnp.int32)),
    )
    d, image, _, _, _, steps = jax.lax.while_loop(unfinished, improve, begin)
    return Solved(d, image, steps)


def _dot(a: Array, b: Array) -> Array:
    return jnp.vdot(a, b).real


class Nystrom(NamedTuple):
    """A Nystrom approximation U diag(values) U^H of J^H J."""

    basis: Array  # U, (n, rank), orthonormal columns
    values: Array  # Lambda, (rank,), in descending order

    def inverse(self, damping: ArrayLike) -> Linear:
        """Return v -> P^-1 v, (1.3) of the paper, scaled so that P is near J^H J + damping I."""
        damping = jnp.asarray(damping, self.values.dtype)
        edge = self.values[-1] + damping
        edge = jnp.where(edge > 0, edge, 1)
        inside = self.values + damping
        gain = (1 / jnp.where(inside > 0, inside, edge) - 1 / edge).astype(self.basis.dtype)

        def apply(v: Array) -> Array:
            inner = matmul(self.basis.conj().T, v)
            return v / edge.astype(v.dtype) + matmul(self.basis, gain * inner)

        return apply


def nystrom(push: Linear, pull: Linear, like: Array, rank: int, key: KeyArray) -> Nystrom:
    """Return the randomized Nystrom approximation of J^H J, for `damped_cg`.

    Where the rank is above the number of eigenvalues larger than the damping, the preconditioned
    system has a condition number below about 28, so CG needs some tens of steps (theorem 5.1 of the
    paper). It costs `rank` products with J and with J^H, and O((m + n) rank^2).

    Args:
      push: v -> J v.
      pull: w -> J^H w.
      like: an array of n elements, for its dtype.
      rank: of the approximation, >= 1; at most m and n are used.
      key: of the random test matrix.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> j = jnp.diag(jnp.array([10.0, 5.0, 0.1]))
      >>> found = nystrom(lambda v: j @ v, lambda w: j.T @ w, jnp.ones(3), 3, jax.random.key(0))
      >>> print(found.values.round(2))
      [100.    25.     0.01]
    """
    probes = jax.random.normal(key, (min(rank, like.size), like.size), like.dtype)
    images = jax.vmap(push, out_axes=1)(probes)
    q = jnp.linalg.qr(images)[0]
    rows = jax.vmap(pull, in_axes=1, out_axes=1)(q)  # B = J^H Q
    basis, sizes, _ = jnp.linalg.svd(rows, full_matrices=False)
    return Nystrom(basis, sizes**2)


def block_diagonal(
    push: Linear,
    like: Array,
    sizes: Sequence[int],
    squares: Array,
    damping: ArrayLike,
    largest: int = 64,
) -> Linear:
    """Return v -> P^-1 v, with P the blocks of J^H J + damping I for parts of the parameters.

    Args:
      push: v -> J v.
      like: an array of n elements, for its dtype.
      sizes: of the parts, one after the other: the leaves of the parameters. n in total.
      squares: the diagonal of J^H J or an estimate of it, an (n,) real array.
      damping: a number >= 0, may be traced; with 0 there is a part eps of the largest square.
      largest: size up to which a part has its exact block, from one product with J for each of its
        elements; larger parts have the diagonal.

    Example:
      >>> import jax.numpy as jnp
      >>> j = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
      >>> apply = block_diagonal(lambda v: j @ v, jnp.ones(3), [2, 1], jnp.array([4.0, 2, 9]), 0.0)
      >>> print(apply(jnp.array([4.0, 2.0, 9.0])).round(3))
      [1. 0. 1.]
    """
    n = squares.size
    eps = jnp.finfo(squares.dtype).eps
    floored = jnp.asarray(damping, squares.dtype) + n * eps * jnp.max(squares, initial=0)
    floored = jnp.where(floored > 0, floored, 1)
    out: list[Linear] = []
    at = 0
    for size in sizes:
        part = slice(at, at + size)
        if size <= largest and size:
            probes = jnp.eye(size, n, at, dtype=like.dtype)
            columns = jax.vmap(push, out_axes=1)(probes)
            gram = matmul(columns.conj().T, columns)
            damped = gram + floored * jnp.eye(size, dtype=gram.dtype)
            factor = jnp.linalg.cholesky(damped).conj().T
            out.append(lambda v, factor=factor, part=part: cho_solve((factor, False), v[part]))
        else:
            scale = squares[part] + floored
            out.append(lambda v, scale=scale, part=part: v[part] / scale)
        at += size

    def apply(v: Array) -> Array:
        return jnp.concatenate([one(v) for one in out]) if out else v

    return apply


def preconditioner(
    kind: str | None,
    push: Linear,
    pull: Linear,
    like: Array,
    sizes: Sequence[int],
    squares: Callable[[], Array],
    rank: int,
) -> Callable[[ArrayLike], Linear | None]:
    """Return the preconditioner for `damped_cg` as a function of the damping.

    Args:
      kind: "nystrom", "block_diagonal", or None for no preconditioner.
      push: v -> J v.
      pull: w -> J^H w.
      like: an array of n elements, for its dtype.
      sizes: of the leaves of the parameters, for "block_diagonal".
      squares: returns the diagonal of J^H J or an estimate of it, for "block_diagonal".
      rank: of "nystrom".

    Example:
      >>> import jax.numpy as jnp
      >>> j = jnp.diag(jnp.array([10.0, 5.0, 1.0]))
      >>> both = (lambda v: j @ v), (lambda w: j.T @ w)
      >>> found = preconditioner("nystrom", *both, jnp.ones(3), [3], lambda: jnp.ones(3), 3)
      >>> print(found(0.0)(jnp.array([100.0, 25.0, 1.0])).round(3))
      [1. 1. 1.]
    """
    if kind == "nystrom":
        return nystrom(push, pull, like, rank, jax.random.key(0)).inverse
    if kind == "block_diagonal":
        diagonal = squares()
        return lambda damping: block_diagonal(push, like, sizes, diagonal, damping)
    return lambda damping: None


def check_preconditioner(caller: str, solver: str, kind: str | None, rank: int) -> None:
    """Raise unless this preconditioner exists, and the form of the algebra may use it."""
    if kind is None:
        return
    check_choice(f"{caller}(preconditioner=...)", kind, PRECONDITIONERS)
    check_integer(f"{caller}(preconditioner_rank=...)", rank)
    if solver not in ("auto", "cg"):
        raise ValueError(
            f"{caller}(preconditioner={kind!r}) is for conjugate gradients: use solver='cg', or "
            f"'auto', which takes it for large problems; got solver={solver!r}."
        )
