"""Linear least squares in a trust region, min |J d + r| over |D d| <= radius, in any units.

By QR and the secular equation: More (1978), "The Levenberg-Marquardt algorithm: implementation and
theory", https://doi.org/10.1007/BFb0067700, section 5 (MINPACK's lmpar); or each linear
system by conjugate gradients on products with J: Hestenes & Stiefel (1952), section 10 (CGLS).
Paper -> here: Delta -> radius, alpha or lambda -> damping, l_k, u_k -> low, high, q = D d.
Neither forms J^T J, whose condition number is the square of J's: in float32 that would leave no
digit of a direction for which J has a condition of 3e3. `spectrum` does, on request, and then drops
such directions; from the singular values of J a step for any damping costs min(m, n) products.
Deviation: the columns are ordered before the QR, not during it; each that depends on those before
it gets a row of its own, of eps^(1/4) times its norm, in place of the truncated step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.types import Params, PyTree
from gdjax.core.vectors import as_tree, as_vector
from gdjax.linalg.axes import matmul
from gdjax.linalg.damped import Linear, damped_cg, preconditioner

PROBES = 8  # random combinations of the rows of J, from which the norms of its columns are told

# --- numbers of any size --------------------------------------------------------------------------


def norm(x: Array, axis: int | None = None) -> Array:
    """Return the Euclidean norm, without overflow or underflow of the squares.

    Example:
      >>> import jax.numpy as jnp
      >>> print(norm(jnp.array([3e-30, 4e-30])), norm(jnp.array([3e30, 4e30])))
      5e-30 5e+30
    """
    size = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    length = jnp.sqrt(jnp.sum((x / unit) ** 2, axis=axis))
    return length * jnp.squeeze(unit, axis=axis)


def powers_of_two(x: Array) -> tuple[Array, Array]:
    """Return a power of two near the size of a vector, and its inverse: a product is exact.

    XLA makes (x / a) / a to x / (a * a), which may overflow; it leaves products as they are.
    """
    size = jnp.max(jnp.abs(x), initial=0)
    usual = (size > jnp.finfo(x.dtype).tiny) & jnp.isfinite(size)
    most = jnp.finfo(x.dtype).maxexp - 2
    exponent = jnp.clip(jnp.frexp(jnp.where(usual, size, 1))[1] - 1, -most, most)
    one = jnp.ones((), x.dtype)
    return jnp.ldexp(one, exponent), jnp.ldexp(one, -exponent)


# --- the linear model -----------------------------------------------------------------------------


class Linearized(NamedTuple):
    """Residuals at one point, and the products of their Jacobian, all divided by one number."""

    point: Array  # x, the parameters as a vector of n elements
    residual: Callable[[Array], Array]  # x -> r as a vector of m elements
    value: Array  # r at x
    push: Callable[[Array], Array]  # v -> J v
    pull: Callable[[Array], Array]  # w -> J^T w
    unit: Array  # the number, a power of two: the largest element of r at x is in [1, 2)


def linearized(residual_fn: Callable[[Params], PyTree], params: Params) -> Linearized:
    """Return the residuals at `params`, a tree, with products of their Jacobian."""

    def residual(x):
        return as_vector(residual_fn(as_tree(x, params)))

    x = as_vector(params)
    r, push = jax.linearize(residual, x)
    transpose = jax.linear_transpose(push, x)
    unit, inverse = powers_of_two(r)
    return Linearized(
        x,
        lambda x: residual(x) * inverse,
        r * inverse,
        lambda v: push(v) * inverse,
        lambda w: transpose(w * inverse)[0],
        unit,
    )


def jacobian(at: Linearized, block_size: int | None = None) -> Array:
    """Return J, computed by columns or by rows, whichever are fewer, `block_size` at once."""
    n, m = at.point.size, at.value.size
    if n <= m:
        return _rows(at.push, n, at.point.dtype, block_size).T
    return _rows(at.pull, m, at.value.dtype, block_size)


def _rows(function: Callable[[Array], Array], n: int, dtype: Any, block_size: int | None) -> Array:
    """Return the images of the n unit vectors, as rows."""
    eye = jnp.eye(n, dtype=dtype)
    if block_size is None or block_size >= n:
        return jax.vmap(function)(eye)
    return jax.lax.map(function, eye, batch_size=block_size)


def column_norms(at: Linearized) -> Array:
    """Return the norms of the columns of J from few products: exact for few columns.

    Else each is the root mean square of PROBES normal numbers whose variance is its square: it is
    ten times too small with a probability of 1e-7, and never much too large.
    """
    n, m = at.point.size, at.value.size
    if min(n, m) <= PROBES:
        return norm(jacobian(at), axis=0)
    probes = jax.random.normal(jax.random.key(0), (PROBES, m), at.value.dtype)
    return norm(jax.vmap(at.pull)(probes), axis=0) / PROBES**0.5


def largest_cosine(at: Linearized, norms: Array) -> Array:
    """Return the largest |cosine| of the angle between r and a column of J that is not zero."""
    g, size = at.pull(at.value), norm(at.value)
    length = norms * jnp.where(size > 0, size, 1)
    return jnp.max(jnp.abs(g) / jnp.where(length > 0, length, jnp.inf), initial=0)


def term_sizes(at: Linearized) -> Array:
    """Return the root of the sum over j of (J_ij x_j)^2, or an estimate from PROBES products."""
    n = at.point.size
    eye = jnp.eye(n, dtype=at.point.dtype)
    few = n <= PROBES
    probes = eye if few else jax.random.normal(jax.random.key(0), (PROBES, n), eye.dtype)
    terms = norm(jax.vmap(at.push)(probes * at.point[None]), axis=0)
    return terms if few else terms / PROBES**0.5


def rounding_error(at: Linearized, params: Params, norms: Array) -> Array:
    """Return how much r may change where the parameters are rounded, from the norms of J's columns.

    The dtypes of `params`, the tree at the point, say how exact they are.
    """
    digits = jax.tree.map(lambda x: jnp.full_like(x, jnp.finfo(x.dtype).eps), params)
    return 4 * norm(norms * as_vector(digits) * at.point)


# --- steps in a trust region ----------------------------------------------------------------------


class Step(NamedTuple):
    """The step for one radius, what the linear model says of it, and of the Gauss-Newton step."""

    d: Array
    damping: Array  # alpha in (J^T J + alpha D^2) d = -J^T r; 0 inside
    inside: Array  # whether it is the Gauss-Newton step
    length: Array  # |D d|
    fall: Array  # |r|^2 - |r + J d|^2
    slope: Array  # -r^T J d
    full_fall: Array  # of the Gauss-Newton step; inf with CG, which may stop before it
    full_length: Array


def triangle(matrix: Array, r: Array) -> tuple[Array, Array]:
    """Return R of matrix = Q R, and Q^T r; Q itself is not formed."""
    n = matrix.shape[1]
    rows = jnp.concatenate([matrix, r[:, None]], axis=1)
    if rows.shape[0] < n:  # fewer equations than unknowns
        rows = jnp.concatenate([rows, jnp.zeros((n - rows.shape[0], n + 1), rows.dtype)])
    full = jnp.linalg.qr(rows, mode="r")
    return full[:n, :n], full[:n, n]


def _stacked(upper: Array, rotated: Array, diagonal: Array) -> tuple[Array, Array]:
    """Return R and Q^T r of [R; diag(diagonal)] q = -[rotated; 0]."""
    rows = jnp.concatenate([upper, jnp.diag(diagonal)])
    return triangle(rows, jnp.concatenate([rotated, jnp.zeros_like(rotated)]))


class Solution(NamedTuple):
    """The solution of (A + damping I) q = b, in the variables q = D d."""

    q: Array
    change: Array  # |J d|
    rate: Array  # <q, (A + damping I)^-1 q> / |q|^2, or a lower bound of it


def on_the_edge(
    solve: Callable[[Array], Solution],
    radius: Array,
    guess: Array,
    low: Array,
    high: Array,
    newton: Solution,
    inside: Array,
    band: float,
) -> tuple[Array, Solution]:
    """Return the damping, and its solution, with |q| = radius, within `band` of it.

    Newton's method for 1 / |q| = 1 / radius, between bounds that it improves (More 1978, 5.5).

    Args:
      solve: returns the solution for a damping.
      radius: of the region.
      guess: of the damping, within the bounds; used unless it is 0.
      low: lower bound of the damping.
      high: upper bound of it.
      newton: the solution for damping 0.
      inside: whether that is the result.
      band: largest relative error of |q|.
    """

    def improve(c):
        damping, low, high, _, _, tries, _ = c
        damping = jnp.where(damping > 0, damping, 1e-3 * high)
        s = solve(damping)
        length = norm(s.q)
        excess = (length - radius) / radius
        low, high = jnp.where(excess > 0, damping, low), jnp.where(excess > 0, high, damping)
        following = jnp.maximum(low, damping + excess / s.rate)
        done = (jnp.abs(excess) <= band) | (tries >= 9)
        return following, low, high, damping, s, tries + 1, done

    start = (guess, low, high, jnp.zeros_like(guess), newton, jnp.zeros((), jnp.int32), inside)
    end = jax.lax.while_loop(lambda c: ~c[-1], improve, start)
    return end[3], end[4]


def _in_the_region(
    solve: Callable[[Array], Solution], newton: Solution, most: Array, radius: Array, guess: Array
) -> tuple[Array, Array, Solution]:
    """Return whether the Gauss-Newton step is taken, the damping, and its solution.

    Args:
      solve: returns the solution for a damping.
      newton: the solution for damping 0.
      most: |D^-1 J^T r|.
      radius: of the region.
      guess: of the damping.
    """
    length = norm(newton.q)
    inside = length <= 1.1 * radius
    low = (length - radius) / radius / newton.rate
    low, high = jnp.where(jnp.isfinite(low) & ~inside, low, 0), most / radius
    guess = jnp.clip(guess, low, high)
    guess = jnp.where(guess > 0, guess, most / length)
    damping, found = on_the_edge(solve, radius, guess, low, high, newton, inside, 0.1)
    return inside, damping, found


def _as_step(
    damping: Array, s: Solution, scale: Array, inside: Array, full_fall: Array, full_length: Array
) -> Step:
    length = norm(s.q)
    penalty = damping * length**2
    return Step(
        s.q / scale, damping, inside, length, s.change**2 + 2 * penalty, s.change**2 + penalty,
        full_fall, full_length,
    )  # fmt: skip


def reduced(matrix: Array, r: Array, scale: Array, order: Array) -> tuple[Array, Array, Array]:
    """Return R and Q^T r of J D^-1 = Q R, its columns in an order, and how to undo the order.

    A column that depends on those before it has a row of its own in R; see above.

    Args:
      matrix: J.
      r: the residuals.
      scale: D.
      order: the columns from the first to the last. One that depends on those before is not used.
    """
    place = jnp.argsort(order)
    upper, rotated = triangle((matrix / scale[None])[:, order], r)
    eps = jnp.finfo(r.dtype).eps
    norms = norm(upper, axis=0)
    weak = jnp.abs(jnp.diag(upper)) <= norms.size * eps * norms
    upper, rotated = jax.lax.cond(
        jnp.any(weak),
        lambda: _stacked(upper, rotated, eps**0.25 * jnp.where(norms > 0, norms, 1) * weak),
        lambda: (upper, rotated),
    )
    return upper, rotated, place


def steps_by_qr(
    matrix: Array, r: Array, scale: Array, order: Array
) -> Callable[[Array, Array], Step]:
    """Return the step as a function of the radius and of a first guess of the damping.

    J is reduced once; what is solved for a damping is [R; sqrt(damping) I] q = -[Q^T r; 0].

    Args:
      matrix: J.
      r: the residuals.
      scale: D.
      order: the columns from the first to the last. One that depends on those before is not used.
    """
    upper, rotated, place = reduced(matrix, r, scale, order)

    def solution(triangular: Array, right: Array) -> Solution:
        q = -jax.scipy.linalg.solve_triangular(triangular, right)
        w = jax.scipy.linalg.solve_triangular(triangular.T, q / norm(q), lower=True)
        return Solution(q, norm(upper @ q), jnp.vdot(w, w))

    def solve(damping: Array) -> Solution:
        return solution(*_stacked(upper, rotated, jnp.full_like(rotated, jnp.sqrt(damping))))

    newton = solution(upper, rotated)
    full_fall, full_length = jnp.vdot(rotated, rotated), norm(newton.q)
    most = norm(rotated @ upper)  # |D^-1 J^T r|

    def step(radius: Array, guess: Array) -> Step:
        inside, damping, s = _in_the_region(solve, newton, most, radius, guess)
        s = s._replace(q=s.q[place])
        return _as_step(damping, s, scale, inside, full_fall, full_length)

    return step


def preconditioned(
    kind: str | None, at: Linearized, params: Params, norms: Array, scale: Array, rank: int
) -> Callable[[ArrayLike], Linear | None]:
    """Return the preconditioner of J D^-1 as a function of the damping; see `preconditioner`.

    Args:
      kind: of it.
      at: the linear model.
      params: the parameters, whose leaves are the blocks.
      norms: of the columns of J, or estimates.
      scale: D.
      rank: of "nystrom".
    """
    return preconditioner(
        kind, lambda q: at.push(q / scale), lambda w: at.pull(w) / scale, at.point,
        [as_vector(x).size for x in jax.tree.leaves(params)], lambda: (norms / scale) ** 2, rank,
    )  # fmt: skip


def steps_by_cg(
    at: Linearized,
    scale: Array,
    rtol: Array,
    max_steps: Array,
    preconditioned: Callable[[ArrayLike], Linear | None],
) -> Callable[[Array, Array], Step]:
    """Return the step as a function of the radius and of a first guess of the damping, by CGLS.

    Without damping and preconditioner |q| grows with every step, so that it ends outside of the
    region. The `rate` is the bound of Kantorovich's inequality from below,
    <q, q> / <q, (A + damping I) q>.

    Args:
      at: the linear model.
      scale: D.
      rtol: of `damped_cg`.
      max_steps: of `damped_cg`.
      preconditioned: see `preconditioned`.
    """
    most = norm(at.pull(at.value) / scale)

    def solve(damping: Array, longest: Array) -> Solution:
        q, image, _ = damped_cg(
            lambda q: at.push(q / scale), lambda w: at.pull(w) / scale, -at.value, damping,
            precondition=preconditioned(damping), rtol=rtol, max_steps=max_steps, longest=longest,
        )  # fmt: skip
        change, length = norm(image), norm(q)
        total = change**2 + damping * length**2
        return Solution(q, change, length**2 / jnp.where(total > 0, total, 1))

    def step(radius: Array, guess: Array) -> Step:
        newton = solve(jnp.zeros_like(most), 1.1 * radius)
        inside = norm(newton.q) <= 1.1 * radius
        high, inf = most / radius, jnp.full_like(most, jnp.inf)
        guess = jnp.minimum(guess, high)
        damping, s = on_the_edge(
            lambda damping: solve(damping, inf), radius, guess, jnp.zeros_like(high), high, newton,
            inside, 0.3,
        )  # fmt: skip
        return _as_step(damping, s, scale, inside, inf, inf)

    return step


# --- all dampings from one factorization ----------------------------------------------------------

FORMS = ("auto", "qr", "normal", "kernel", "cg")
MOST_JACOBIAN = 2**28  # elements of J, up to which "auto" forms it
MOST_QR = 2**12  # min(m, n), up to which "auto" takes QR
MOST_GRAM = 2**26  # elements of the smaller Gram matrix, up to which "auto" forms that


def form_of(solver: str, m: int, n: int, accelerated: bool = False) -> str:
    """Return the form for J of m x n elements; "auto" decides by size.

    Raises:
      ValueError: if it is "cg", and steps are to be accelerated.

    Example:
      >>> [form_of("auto", m, 1000) for m in (10**4, 10**6)], form_of("auto", 10**5, 10**5)
      (['qr', 'normal'], 'cg')
    """
    if solver != "auto":
        return solver
    if min(m, n) ** 2 > MOST_GRAM:
        if accelerated:
            raise ValueError(
                f"acceleration=True needs a factorization, and {m} residuals of {n} parameters are "
                'too many for one: use batches of fewer residuals, or choose solver="kernel".'
            )
        return "cg"
    if m * n > MOST_JACOBIAN or min(m, n) > MOST_QR:
        return "normal" if n <= m else "kernel"
    return "qr"


def check_block_size(caller: str, block_size: int | None) -> None:
    """Raise unless a block size is None or a whole number >= 1."""
    if block_size is not None and block_size < 1:
        raise ValueError(f"{caller}(block_size=...) must be a whole number >= 1, got {block_size}.")


class Spectrum(NamedTuple):
    """J D^-1 = U diag(sizes) V^T, and what is needed of U and V; min(m, n) singular values."""

    sizes: Array  # in descending order
    image: Array  # U^T r
    back: Callable[[Array], Array]  # y -> D^-1 V y
    pulled: Callable[[Array], Array]  # w -> V^T D^-1 J^T w
    noise: float  # singular values below this part of the largest are rounding errors

    def kept(self, rcond: ArrayLike = 0.0) -> Array:
        """Return which singular values count."""
        least = jnp.maximum(jnp.asarray(rcond, self.sizes.dtype), self.noise)
        return self.sizes > least * jnp.max(self.sizes)


def spectrum(
    at: Linearized, form: str, scale: Array, matrix: Array | None, block_size: int | None
) -> Spectrum:
    """Return the singular values and vectors of J D^-1 by QR of J, or from a Gram matrix.

    Args:
      at: the point.
      form: "qr", "normal" or "kernel".
      scale: D.
      matrix: J, or None for the products of a Gram matrix, `block_size` at once, without J.
      block_size: see `matrix`.
    """
    n, m = at.point.size, at.value.size
    eps = float(jnp.finfo(at.value.dtype).eps)

    def push(q):
        return at.push(q / scale)

    def pull(w):
        return at.pull(w) / scale

    if matrix is not None:
        matrix = matrix / scale[None]
    if form == "qr" and matrix is not None and n <= m:
        upper, rotated = triangle(matrix, at.value)
        u, sizes, vt = jnp.linalg.svd(upper)
        return Spectrum(
            sizes,
            matmul(u.T, rotated),
            lambda y: matmul(vt.T, y) / scale,
            lambda w: matmul(vt, pull(w)),
            max(m, n) * eps,
        )
    if form == "qr" and matrix is not None:
        _, sizes, vt = jnp.linalg.svd(jnp.linalg.qr(matrix.T, mode="r"))
        left, noise = vt.T, max(m, n) * eps
    else:
        first, then, k = (push, pull, n) if form == "normal" else (pull, push, m)
        if matrix is None:
            gram = _rows(lambda e: then(first(e)), k, at.value.dtype, block_size)
            gram = (gram + gram.T) / 2
        else:
            gram = matmul(matrix.T, matrix) if form == "normal" else matmul(matrix, matrix.T)
        squares, vectors = jnp.linalg.eigh(gram)
        sizes, left = jnp.sqrt(jnp.maximum(squares[::-1], 0)), vectors[:, ::-1]
        noise = (max(m, n) * eps) ** 0.5
    safe = jnp.where(sizes > 0, sizes, 1)
    if form == "normal":
        return Spectrum(
            sizes,
            matmul(left.T, pull(at.value)) / safe,
            lambda y: matmul(left, y) / scale,
            lambda w: matmul(left.T, pull(w)),
            noise,
        )
    return Spectrum(
        sizes,
        matmul(left.T, at.value),
        lambda y: pull(matmul(left, y / safe)) / scale,
        lambda w: sizes * matmul(left.T, w),
        noise,
    )


def steps_by_spectrum(s: Spectrum) -> Callable[[Array, Array], Step]:
    """Return the step as a function of the radius and of a first guess of the damping."""
    kept = s.kept()
    sizes, image = jnp.where(kept, s.sizes, 0), jnp.where(kept, s.image, 0)

    def gain(damping: Array) -> Array:
        return jnp.where(kept, 1 / jnp.where(kept, sizes**2 + damping, 1), 0)

    def solve(damping: Array) -> Solution:
        y = -gain(damping) * sizes * image
        total = jnp.vdot(y, y)
        rate = jnp.vdot(y, gain(damping) * y) / jnp.where(total > 0, total, 1)
        return Solution(y, norm(sizes * y), rate)

    newton = solve(jnp.zeros((), sizes.dtype))
    full_fall, full_length = jnp.vdot(image, image), norm(newton.q)
    most = norm(sizes * image)

    def step(radius: Array, guess: Array) -> Step:
        inside, damping, found = _in_the_region(solve, newton, most, radius, guess)
        out = _as_step(damping, found, jnp.ones_like(sizes), inside, full_fall, full_length)
        return out._replace(d=s.back(found.q))

    return step


def path_bend(at: Linearized, s: Spectrum, rcond: ArrayLike, d: Array, damping: Array) -> Array:
    """Return a of the path x + t d + t^2 a along which r keeps to its linear model.

    J a = -1/2 r'' in the least squares of the step, r'' the second derivative of r along d:
    Transtrum & Sethna (2012), "Improvements to the Levenberg-Marquardt algorithm for nonlinear
    least-squares minimization", https://arxiv.org/abs/1201.5885, (19).
    """
    bend = second_derivative(at, d)
    kept = s.kept(rcond)
    return s.back(
        -0.5 * jnp.where(kept, s.pulled(bend) / jnp.where(kept, s.sizes**2 + damping, 1), 0)
    )


def second_derivative(at: Linearized, d: Array) -> Array:
    """Return the second derivative of r along d at the point."""

    def slope(t):
        return jax.jvp(lambda t: at.residual(at.point + t * d), (t,), (jnp.ones_like(t),))[1]

    zero = jnp.zeros((), at.point.dtype)
    return jax.jvp(slope, (zero,), (jnp.ones_like(zero),))[1]
