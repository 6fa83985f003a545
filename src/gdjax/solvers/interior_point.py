"""A homogeneous interior-point method for convex quadratic programs; see `quadratic_program`.

The embedding of Goulart & Chen (2024), https://arxiv.org/abs/2405.12762, section 3: one iteration
ends at a solution or at a proof that there is none. Predictor and corrector of Mehrotra (1992),
https://doi.org/10.1137/0802028. Paper -> here: z -> (y, z), of equations and inequalities.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import Precision

from gdjax.solvers.line_search import pick
from gdjax.solvers.result import Status

PATIENCE = 8  # steps without a better point after which rounding is the likely cause

Triple: TypeAlias = tuple[Array, Array, Array]  # of x, of y and of z

dot = functools.partial(jnp.matmul, precision=Precision.HIGHEST)


class Program(NamedTuple):
    """Minimize x'Qx / 2 + c'x subject to Ax = b, Gx <= h, lower <= x <= upper."""

    Q: Array  # (n, n)
    c: Array  # (n,)
    A: Array  # (p, n)
    b: Array  # (p,)
    G: Array  # (m, n)
    h: Array  # (m,)
    lower: Array  # (n,), or (0,) without bounds; as upper
    upper: Array


class Rows(NamedTuple):
    """All inequalities R x <= limits, R = [G; I; -I]; those without a finite limit are 0 <= 1."""

    G: Array
    there: Array  # 1 where there is a limit, else 0
    limits: Array

    @classmethod
    def of(cls, q: Program) -> Rows:
        """Return the inequalities of a program."""
        limits = q.h, q.upper, -q.lower
        # where before concatenate: XLA on CPUs (jaxlib 0.10) gets the other order wrong under vmap
        there = jnp.concatenate([jnp.where(v == jnp.inf, 0, 1) for v in limits])
        finite = jnp.concatenate([jnp.where(v == jnp.inf, 1, v) for v in limits])
        return cls(q.G, there.astype(q.c.dtype), finite)

    def split(self, z: Array) -> list[Array]:
        """Return those of G, of the upper and of the lower bounds."""
        m = self.G.shape[0]
        return jnp.split(z, [m, m + (z.size - m) // 2])

    def times(self, x: Array) -> Array:
        """Return R x."""
        sides = [x, -x] if self.limits.size > self.G.shape[0] else []
        return self.there * jnp.concatenate([dot(self.G, x), *sides])

    def transposed(self, z: Array) -> Array:
        """Return R' z."""
        inequality, upper, lower = self.split(self.there * z)
        product = dot(inequality, self.G)
        return product + upper - lower if upper.size else product

    def gram(self, w: Array) -> Array:
        """Return R' diag(w) R."""
        inequality, upper, lower = self.split(self.there * w)
        product = dot(self.G.T, inequality[:, None] * self.G)
        return product + jnp.diag(upper + lower) if upper.size else product


class Point(NamedTuple):
    """An iterate: x / tau converges to a solution; if there is none, kappa / tau grows."""

    x: Array
    y: Array
    z: Array  # > 0, as what follows
    s: Array
    tau: Array
    kappa: Array


class Carry(NamedTuple):
    """What the loop carries from step to step."""

    at: Point
    best: Point
    error: Array  # of the best
    steps: Array
    since: Array  # steps without a better one
    status: Array  # -1 while running


def newton(q: Program, rows: Rows, s: Array, z: Array, rounds: int) -> Callable[[Triple], Triple]:
    """Return a function that solves [Q A' R'; A 0 0; zR 0 -s] [dx; dy; dz] = right.

    dz is eliminated and the rest inverted, with -s - delta z in place of -s, so that singular
    matrices become regular and no entry is so large that Q is lost in its rounding. Each round of
    refinement then removes most of the error that this makes.
    """
    n, p = q.c.size, q.b.size
    delta = float(jnp.finfo(q.c.dtype).eps) ** 0.75
    divisor = s + delta * z
    H = q.Q + rows.gram(z / divisor)
    K = jnp.block([[H, q.A.T], [q.A, jnp.zeros((p, p), H.dtype)]])
    shift = jnp.where(jnp.arange(n + p) < n, delta, -delta).astype(H.dtype)
    inverse = jnp.linalg.inv(K + jnp.diag(shift))  # products with it are refined by the next round

    def once(right):
        top = jnp.concatenate([right[0] + rows.transposed(right[2] / divisor), right[1]])
        both = dot(inverse, top)
        dx, dy = both[:n], both[n:]
        return dx, dy, (z * rows.times(dx) - right[2]) / divisor

    def left(right, move):
        dx, dy, dz = move
        top = right[0] - dot(q.Q, dx) - dot(dy, q.A) - rows.transposed(dz)
        return top, right[1] - dot(q.A, dx), right[2] - z * rows.times(dx) + s * dz

    def solve(right):
        def refine(_, move):
            return jax.tree.map(jnp.add, move, once(left(right, move)))

        return jax.lax.fori_loop(0, rounds + 1, refine, jax.tree.map(jnp.zeros_like, right))

    return solve


def biggest(*arrays: Array) -> Array:
    """Return the largest magnitude in some arrays, 0 of none."""
    return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(a), initial=0) for a in arrays])


def _look(q: Program, rows: Rows, at: Point, tol: Array) -> tuple[Array, Array]:
    """Return the error of a point and its status, -1 where it is neither a solution nor a proof."""
    x, y, z, s = (v / at.tau for v in at[:4])
    Qx, Ax, Rx = dot(q.Q, x), dot(q.A, x), rows.times(x)
    Ay, Rz = dot(y, q.A), rows.transposed(z)
    dual = biggest(Qx + q.c + Ay + Rz) / (1 + biggest(Qx, q.c, Ay, Rz))
    primal = biggest(Ax - q.b, Rx + s - rows.limits) / (1 + biggest(Ax, q.b, rows.limits, s))
    slope, bound = dot(q.c, x), dot(q.b, y) + dot(rows.limits, z)
    above, below = dot(x, Qx) / 2 + slope, -dot(x, Qx) / 2 - bound
    gap = jnp.abs(above - below) / (1 + jnp.minimum(jnp.abs(above), jnp.abs(below)))
    error = jnp.maximum(jnp.maximum(dual, primal), gap)
    # Farkas: a feasible v would have (Ay + Rz)'v <= bound < 0; x / tau then has no limit
    infeasible = biggest(Ay + Rz) < -tol * (bound - dot(1 - rows.there, z))
    unbounded = biggest(jnp.maximum(Rx, 0), Ax, Qx) < -tol * slope
    status = jnp.where(infeasible, Status.INFEASIBLE, jnp.where(unbounded, Status.UNBOUNDED, -1))
    status = jnp.where(at.tau < tol * at.kappa, status, -1)
    return error, jnp.where(error <= tol, Status.CONVERGED, status).astype(jnp.int32)


def interior_point(q: Program, tol: Array, limit: Array) -> Carry:
    """Run the method; the result is at `best`, with a `status`."""
    rows = Rows.of(q)
    h = rows.limits
    shift = float(jnp.finfo(h.dtype).eps) ** 0.75 * jnp.eye(q.c.size, dtype=h.dtype)
    convex = jnp.isfinite(jnp.linalg.cholesky(q.Q + shift)).all()
    # data dependency: Cholesky must finish first; concurrent decompositions can deadlock XLA on
    # CPUs (jaxlib 0.10)
    q = q._replace(Q=jnp.where(convex, q.Q, 0))

    def direction(solve, at, constant, share, comp, comp_tau):
        """Return Newton's step, which reduces the residuals by a share and s z by `comp`."""
        x, y, z, s, tau, kappa = at
        Qx = dot(q.Q, x)
        dual = Qx + dot(y, q.A) + rows.transposed(z) + q.c * tau
        equal, above = dot(q.A, x) - q.b * tau, rows.times(x) + s - h * tau
        rest = kappa + dot(q.c, x) + dot(q.b, y) + dot(h, z) + dot(x, Qx) / tau
        first = solve((-share * dual, -share * equal, comp - share * z * above))

        def row(v):
            return dot(q.c + 2 * Qx / tau, v[0]) + dot(q.b, v[1]) + dot(h, v[2])

        pivot = row(constant) - kappa / tau - dot(x, Qx) / tau**2
        dtau = (comp_tau / tau - share * rest - row(first)) / pivot
        dx, dy, dz = (a + dtau * b for a, b in zip(first, constant, strict=True))
        ds = h * dtau - share * above - rows.times(dx)
        return Point(dx, dy, dz, ds, dtau, -(comp_tau + kappa * dtau) / tau)

    def longest(at, move):
        """Return how far z, s, tau and kappa stay positive, at most 1."""
        ends = [
            jnp.min(jnp.where(v + dv < 0, -v / jnp.where(dv < 0, dv, -1), 1), initial=1)
            for v, dv in zip(at[2:], move[2:], strict=True)
        ]
        return functools.reduce(jnp.minimum, ends)

    def mean(at):
        return (dot(at.s, at.z) + at.tau * at.kappa) / (at.s.size + 1)

    def step(c: Carry) -> Carry:
        at = c.at
        sz, both, mu = at.s * at.z, at.tau * at.kappa, mean(at)
        solve = newton(q, rows, at.s, at.z, 4)
        constant = solve((-q.c, q.b, at.z * h))
        move = direction(solve, at, constant, 1, sz, both)
        centre = (1 - longest(at, move)) ** 3
        comp = sz + move.s * move.z - centre * mu
        comp_tau = both + move.tau * move.kappa - centre * mu
        move = direction(solve, at, constant, 1 - centre, comp, comp_tau)
        length = jnp.minimum(1, 0.99 * longest(at, move))
        at = jax.tree.map(lambda a, d: a + length * d, at, move)
        error, status = _look(q, rows, at, tol)
        better = (error < c.error) | (status >= 0)
        since = jnp.where(better | (at.tau < at.kappa), 0, c.since + 1)
        stuck = (status < 0) & ((since >= PATIENCE) | ~jnp.isfinite(error))
        status = jnp.where(stuck, Status.LINE_SEARCH_FAILED, status).astype(jnp.int32)
        best, error = pick(better, (at, error), (c.best, c.error))
        return Carry(at, best, error, c.steps + 1, since, status)

    def positive(v):
        low = jnp.min(v, initial=jnp.inf)
        return v + jnp.where(low <= 0, 1 - low, 0)

    ones, one = jnp.ones_like(h), jnp.ones((), h.dtype)
    x, y, z = newton(q, rows, ones, ones, 2)((-q.c, q.b, h))
    at = Point(x, y, positive(z), positive(-z), one, one)
    error, status = _look(q, rows, at, tol)
    status = jnp.where(convex, status, Status.NOT_CONVEX)
    status = jnp.where(jnp.isfinite(error), status, Status.NONFINITE).astype(jnp.int32)
    none = jnp.zeros((), jnp.int32)
    start = Carry(at, at, error, none, none, status)
    end = jax.lax.while_loop(lambda c: (c.status < 0) & (c.steps < limit), step, start)
    return end._replace(status=jnp.where(end.status < 0, Status.STEP_LIMIT, end.status))
