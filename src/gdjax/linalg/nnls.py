"""Least squares under x >= 0, solved exactly by an active-set method.

Lawson & Hanson (1974), "Solving least squares problems", algorithm 23.10.
Paper -> here: P -> free, the variables that may be positive; w -> slope, minus the gradient.
Deviations: columns and right sides are divided by powers of 2, so that no unit matters; `iters`
gradient steps (Polyak 2015) guess the free set; each free set is solved by one QR decomposition,
and slopes are those of the residual orthogonal to its columns, which is exact where columns are
nearly dependent as well; a column that only rounding let in waits until the residual falls.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, as_float_leaves, check_integer, checked
from gdjax.core.explicit import automatically
from gdjax.core.numerics import cast, compute_dtype, power_of_two
from gdjax.core.types import Number


class Carry(NamedTuple):
    """What the loop carries from step to step."""

    x: Array  # (n,), >= 0, the solution over some free set, or between two of them
    free: Array  # (n,), bool
    new: Array  # (n,), bool, the one that became free last
    waiting: Array  # (n,), bool: tried since the residual fell last
    best: Array  # (n,), bool, the free set with the smallest residual
    least: Array  # the norm of that residual, orthogonal to the columns of the set
    reached: Array  # the smallest norm of b - A x
    steps: Array
    guessed: Array  # bool: no feasible solution yet
    done: Array  # bool: no variable is left to become free
    optimal: Array  # bool: the conditions of the minimum hold


@checked(L=NONNEGATIVE)
def nnls(
    A: ArrayLike,
    b: ArrayLike,
    iters: int = 10,
    unroll: int | bool = 1,
    L: Number | None = None,
) -> Array:
    r"""Solve a least-squares problem for non-negative unknowns, to rounding.

    .. math::

       \min_x \lVert A x - b \rVert, \qquad x \ge 0

    After `iters` gradient steps, which find most of the positive elements, an active-set method
    makes the solution exact: usually a few steps more, each with one QR decomposition of an
    [m + n, n] matrix. It does not matter in which units b and the columns of A are. Where the
    solution is not unique, it is one of them. It can be differentiated, as the solution of the
    least-squares problem of its positive elements.

    Args:
      A: real float array [m, n].
      b: real float array [m], or [m, k] for k problems at once.
      iters: how many gradient steps at the start, >= 0. The result is exact whatever it is (optax:
        the result of that many steps).
      unroll: how many of them at a time in the compiled loop, as in `jax.lax.scan`.
      L: an upper bound of the largest eigenvalue of :math:`A^\top A`, in units of A's; the gradient
        steps are as long as it allows. None is the smaller of two norms.

    Returns:
      The solution [n] or [n, k], in the common dtype of A and b (computed in float32 at least). NaN
      for a right side that 10 n + 100 decompositions did not solve, or if A or b is not finite.
      Memory: about 4 (m + n) n numbers for each right side.

    Raises:
      TypeError: if an array is not real and float.
      ValueError: if shapes do not fit or `iters` is not an integer >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> A, b = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 6.0])
      >>> print(nnls(A, b))
      [0.  1.7]
    """
    arrays = [as_float_leaves(f"nnls({k}=...)", x)[0][0] for k, x in (("A", A), ("b", b))]
    matrix, right = map(jnp.asarray, arrays)
    for name, x in (("A", matrix), ("b", right)):
        if jnp.iscomplexobj(x):
            raise TypeError(f"nnls({name}=...) must be real, got dtype {x.dtype}.")
    if matrix.ndim != 2 or right.ndim not in (1, 2) or right.shape[0] != matrix.shape[0]:
        raise ValueError(
            f"nnls needs A [m, n] and b [m] or [m, k], got {list(matrix.shape)} and "
            f"{list(right.shape)}."
        )
    iters = check_integer("nnls(iters=...)", iters, 0)
    if unroll is not True and unroll is not False:
        check_integer("nnls(unroll=...)", unroll, 0)
    dtype, kept = compute_dtype(matrix, right), jnp.promote_types(matrix.dtype, right.dtype)
    if not matrix.size:
        return jnp.zeros((matrix.shape[1], *right.shape[1:]), kept)
    bound = None if L is None else jnp.asarray(L, dtype)
    solve = partial(_scaled, iters=iters, unroll=unroll)
    x = automatically(solve, cast(matrix, dtype), cast(right, dtype), bound)
    return cast(x, kept)


@partial(jax.jit, static_argnames=("iters", "unroll"))  # the loops are compiled once
def _scaled(a: Array, b: Array, L: Array | None, *, iters: int, unroll: int | bool) -> Array:
    """Return the solution, found in units in which columns and right sides are about 1."""
    columns, sizes = (power_of_two(jnp.max(jnp.abs(v), 0, keepdims=True)) for v in (a, b))
    a, r = a / columns, b / sizes
    x = jax.lax.stop_gradient(_gradient_steps(a, r, columns, iters, unroll, L))
    solve = _solution
    for _ in range(b.ndim - 1):
        solve = jax.vmap(solve, in_axes=(None, -1, -1), out_axes=-1)
    x = solve(a, r, x)
    # in an order in which nothing overflows or vanishes on the way
    units = columns.reshape((-1,) + (1,) * (b.ndim - 1))
    near = (sizes >= 1) == (units >= 1)
    return jnp.where(near, x * (sizes / units), x * sizes / units)


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=Precision.HIGHEST)


def _gradient_steps(
    a: Array, b: Array, columns: Array, iters: int, unroll: int | bool, L: Array | None
) -> Array:
    """Return where accelerated projected gradient steps lead.

    The momentum of Beck & Teboulle (2009) is dropped where it points uphill (O'Donoghue & Candes
    2012, https://arxiv.org/abs/1204.3982, section 3.2).
    """
    gram, target = _dot(a.T, a), _dot(a.T, b)
    if L is None:
        most = jnp.max(jnp.sum(jnp.abs(gram), axis=0), initial=0)
        L = jnp.minimum(jnp.sqrt(jnp.sum(gram * gram)), most)
    else:  # of A, whose columns have other units here
        L = L / jnp.min(columns) / jnp.min(columns)
    L = jnp.where(L > 0, L, 1)

    def step(carry, _):
        x, ahead, t = carry
        slope = _dot(gram, ahead) - target
        new = jnp.maximum(ahead - slope / L, 0)
        uphill = jnp.sum((ahead - new) * (new - x), axis=0) > 0
        t = jnp.where(uphill, 1, t)
        new_t = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        momentum = jnp.broadcast_to((t - 1) / new_t, new.shape)
        return (new, new + momentum * (new - x), new_t), None

    x = jnp.zeros_like(target)
    begin = x, x, jnp.ones(target.shape[1:], a.dtype)
    return jax.lax.scan(step, begin, length=iters, unroll=unroll)[0][0]


def _solution(a: Array, b: Array, x: Array) -> Array:
    """Return the solution of one right side, with its derivatives."""
    x, free, optimal = jax.lax.stop_gradient(_active_set(*jax.lax.stop_gradient((a, b, x))))
    upper = _decomposed(jax.lax.stop_gradient(a), free)[1]
    part = jnp.where(free, a, 0)

    def times(v):
        return jnp.where(free, _dot(part.T, _dot(part, v)), v)

    def solve(_, right):
        def refine(_, v):
            half = jax.scipy.linalg.solve_triangular(upper, right - times(v), trans=1)
            return v + jax.scipy.linalg.solve_triangular(upper, half)

        return jax.lax.fori_loop(0, 3, refine, jnp.zeros_like(right))

    # a step of Newton's method from the solution: its value is rounding, its derivatives are right
    rest = _dot(part.T, b - _dot(part, x))
    step = jax.lax.custom_linear_solve(times, rest, solve, symmetric=True)
    return jnp.where(optimal, x + step - jax.lax.stop_gradient(step), jnp.nan)


def _decomposed(a: Array, free: Array) -> tuple[Array, Array]:
    """Return the QR decomposition of the free columns, and of a unit vector for each other."""
    others = jnp.diag(jnp.where(free, 0, 1).astype(a.dtype))
    orthogonal, upper = jnp.linalg.qr(jnp.concatenate([jnp.where(free, a, 0), others]))
    return jnp.where(free, orthogonal[: a.shape[0]], 0), upper


def _active_set(a: Array, b: Array, x: Array) -> tuple[Array, Array, Array]:
    """Return the solution, which elements may be positive, and whether it is one."""
    m, n = a.shape
    eps = float(jnp.finfo(a.dtype).eps)
    norms = jnp.sqrt(jnp.sum(a * a, axis=0))
    size = jnp.sqrt(jnp.sum(b * b))
    rounding = 4 * eps * m**0.5 * size  # of the slope of a unit column

    def least_squares(free):
        """Return the solution over the free set, and the residual."""
        orthogonal, upper = _decomposed(a, free)

        def refine(_, v):
            rest = _dot(orthogonal.T, b - _dot(a, v))
            return v + jnp.where(free, jax.scipy.linalg.solve_triangular(upper, rest), 0)

        rest = b - _dot(orthogonal, _dot(orthogonal.T, b))
        rest = rest - _dot(orthogonal, _dot(orthogonal.T, rest))
        return jax.lax.fori_loop(0, 2, refine, jnp.zeros(n, a.dtype)), rest

    def step(c: Carry) -> Carry:
        found, rest = least_squares(c.free)
        negative = c.free & ~(found > 0)
        blocked = negative.any()
        # of a guess all that is negative leaves, later what is 0 first on the way to the solution
        ratios = jnp.where(negative, c.x / jnp.where(negative, c.x - found, 1), 1)
        length = jnp.min(ratios, initial=1)
        leaves = negative & (c.guessed | (ratios <= length))
        free = c.free & ~leaves
        x = jnp.where(blocked & ~c.guessed, c.x + length * (found - c.x), found)
        x = jnp.where(free, jnp.maximum(x, 0), 0)
        # when all free ones are positive, the one with the largest slope becomes free, unless
        # rounding made the residual larger: then back to the best
        norm = jnp.sqrt(jnp.sum((b - _dot(a, x)) ** 2))
        worse = ~blocked & ~(norm <= c.reached + eps**0.5 * size)
        across = jnp.sqrt(jnp.sum(rest * rest))
        better = ~blocked & ~worse & (across < c.least)
        waiting = c.waiting & ~better
        slope = jnp.where(free, 0, _dot(a.T, rest) / jnp.where(norms > 0, norms, 1))
        optimal = jnp.max(slope) <= eps**0.5 * size
        candidate = jnp.where(waiting | (slope <= rounding), 0, slope)
        best = jnp.argmax(candidate)
        more = ~blocked & ~worse & (candidate[best] > 0)
        new = jnp.where(blocked, c.new & ~leaves, more & (jnp.arange(n) == best))
        return Carry(
            x, jnp.where(worse, c.best, free | new), new, waiting | new,
            jnp.where(better, free, c.best), jnp.where(better, across, c.least),
            jnp.where(better, jnp.minimum(norm, c.reached), c.reached),
            c.steps + 1, c.guessed & blocked, ~blocked & ~worse & ~more, optimal,
        )  # fmt: skip

    finite = jnp.isfinite(size) & jnp.isfinite(a).all() & jnp.isfinite(b).all()
    # a guess whose columns are independent: each one of those before it
    guess = finite & (x > 0)
    upper = _decomposed(a, guess)[1]
    guess &= jnp.abs(jnp.diagonal(upper)) > eps**0.25 * norms
    none, no = jnp.zeros(n, bool), jnp.zeros((), bool)
    infinite = jnp.full_like(size, jnp.inf)
    start = Carry(
        jnp.zeros_like(x), guess, none, none, none, infinite, infinite,
        jnp.zeros((), jnp.int32), ~no, no, no,
    )  # fmt: skip
    limit = jnp.where(finite, 10 * n + 100, 0)
    end = jax.lax.while_loop(lambda c: ~c.done & (c.steps < limit), step, start)
    return end.x, end.free, end.done & end.optimal
