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
import numpy as np
from jax import Array
from jax.lax import Precision
from jax.typing import ArrayLike

from gdjax.solvers.line_search import pick
from gdjax.solvers.result import Status

FAR = 1e6  # a large slack at the start, in units in which most of a program is about 1
POLISH = 2  # steps with the rows that bind as equations, after the last
ROUNDS = 5  # solves with the same matrix, each of which removes most of the error of those before
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


class Solution(NamedTuple):
    """What the method found, or the proof that there is nothing to find; see `interior_point`."""

    x: Array
    y: Array
    z: Array
    error: Array
    steps: Array
    status: Array


class Carry(NamedTuple):
    """What the loop carries from step to step."""

    at: Point
    best: Point  # or the proof, or the direction without an end
    error: Array  # of the best
    steps: Array
    since: Array  # steps without a better one; -1 before the first
    status: Array  # -1 while running
    polished: Array  # how often, after the last step
    goal: Array  # 1; 0 once the objective is dropped, to find out whether any point fits
    ray: Array  # (n,), a direction of unlimited decrease; 0 until one is found


def newton(
    q: Program, rows: Rows, s: Array, z: Array, exact: ArrayLike
) -> Callable[[Triple], Triple]:
    """Return a function that solves [Q A' R'; A 0 0; zR 0 -s] [dx; dy; dz] = right.

    dz is eliminated and the rest factored, with -s - delta z in place of -s, so that singular
    matrices become regular and no entry is so large that Q is lost in its rounding. Each round of
    refinement then removes most of the error that this makes. It needs solves by factors, of which
    the residual is small for any condition number; that of products with an inverse is not, and
    they gain no digit near the solution, where the condition is 1 / delta^2. Where rows are
    `exact`, s = 0, the entries are 1 / delta, and delta must be larger, so that delta times the
    identity is not lost.
    """
    n, p = q.c.size, q.b.size
    eps = float(jnp.finfo(q.c.dtype).eps)
    delta = jnp.where(exact, eps**0.45, eps**0.75).astype(q.c.dtype)
    divisor = s + delta * z
    H = q.Q + rows.gram(z / divisor)
    K = jnp.block([[H, q.A.T], [q.A, jnp.zeros((p, p), H.dtype)]])
    # units in which the diagonals of H and, up to what is beside that of H, of A H^-1 A' are 1
    own = jax.lax.rsqrt(jnp.diag(H) + delta)
    both = jnp.sum((q.A * own[None]) ** 2, axis=1)
    unit = jnp.concatenate([own, jax.lax.rsqrt(jnp.where(both > 0, both, 1))])
    # no less than rounding of those, so that the factors exist where H is singular and large
    shift = jnp.maximum(delta * unit**2, 2 * eps) * jnp.where(jnp.arange(n + p) < n, 1, -1)
    factors = jax.scipy.linalg.lu_factor(
        unit[:, None] * K * unit[None] + jnp.diag(shift.astype(H.dtype))
    )

    def once(right):
        top = jnp.concatenate([right[0] + rows.transposed(right[2] / divisor), right[1]])
        both = unit * jax.scipy.linalg.lu_solve(factors, unit * top)
        dx, dy = both[:n], both[n:]
        return dx, dy, (z * rows.times(dx) - right[2]) / divisor

    def left(right, move):
        dx, dy, dz = move
        top = right[0] - dot(q.Q, dx) - dot(dy, q.A) - rows.transposed(dz)
        return top, right[1] - dot(q.A, dx), right[2] - z * rows.times(dx) + s * dz

    def solve(right):
        def refine(_, move):
            return jax.tree.map(jnp.add, move, once(left(right, move)))

        return jax.lax.fori_loop(0, ROUNDS, refine, jax.tree.map(jnp.zeros_like, right))

    return solve


def biggest(*arrays: Array) -> Array:
    """Return the largest magnitude in some arrays, 0 of none."""
    return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(a), initial=0) for a in arrays])


def _floor(*sides: Array) -> Array:
    """Return the size below which all is 0: of the least right side, but at most 1."""
    eps = float(jnp.finfo(sides[0].dtype).eps)
    sizes = [jnp.abs(v) for v in sides]
    least = [jnp.min(jnp.where(v > 0, v, 1), initial=1) for v in sizes]
    return jnp.maximum(functools.reduce(jnp.minimum, least), jnp.minimum(eps * biggest(*sizes), 1))


class Measure(NamedTuple):
    """The errors of a point, each relative to the terms whose sum it is.

    So they do not depend on the units of the objective, of a row, or of a variable.
    """

    q: Program
    rows: Rows
    sizes: Program  # magnitudes of all elements
    size_rows: Rows
    floor: Array  # of what x is measured with
    price_floor: Array  # of what y and z are measured with

    @classmethod
    def of(cls, q: Program, rows: Rows) -> Measure:
        """Return the measure of a program."""
        sizes = q._replace(Q=jnp.abs(q.Q), c=jnp.abs(q.c), A=jnp.abs(q.A), b=jnp.abs(q.b))
        limits = rows.there * jnp.abs(rows.limits)
        size_rows = rows._replace(G=jnp.abs(rows.G), limits=limits)
        return cls(q, rows, sizes, size_rows, _floor(q.b, limits), _floor(q.c))

    def _row_terms(self, x: Array) -> Array:
        product = self.size_rows.times(x)  # of bounds x and -x, of which the magnitudes count
        return jnp.abs(product)

    def _price_terms(self, y: Array, z: Array) -> Array:
        inequality, upper, lower = self.rows.split(self.rows.there * z)
        product = dot(jnp.abs(y), self.sizes.A) + dot(inequality, self.size_rows.G)
        return product + upper + lower if upper.size else product

    def error(self, goal: Array, at: Point) -> Array:
        """Return the largest error of a solution, 0 <= z, s; the objective counts `goal` times."""
        q, rows, sizes, (x, y, z, s, _, _) = self.q, self.rows, self.sizes, at
        size, few = jnp.abs(x), _precise(x.dtype)
        floor = jnp.maximum(self.floor, 1e-3 * biggest(x))
        price_floor = jnp.maximum(self.price_floor, 0.1 * biggest(y, rows.there * z))
        Qx, c = goal * dot(q.Q, x), goal * q.c
        Qx_terms = goal * dot(sizes.Q, size)
        # |Qx|, not |Q||x|: far away, where that is large, all else would count as nothing; so below
        Qx_size = jnp.abs(Qx) + few * Qx_terms
        dual = jnp.abs(Qx + c + dot(y, q.A) + rows.transposed(z))
        dual_terms = Qx_size + jnp.abs(c) + self._price_terms(y, z) + price_floor
        equal, above = jnp.abs(dot(q.A, x) - q.b), jnp.abs(rows.times(x) + s - rows.limits)
        equal_terms = jnp.abs(dot(q.A, x)) + few * dot(sizes.A, size) + sizes.b + floor
        above_terms = jnp.abs(rows.times(x)) + few * self._row_terms(size)
        above_terms += self.size_rows.limits + s + floor
        gap = jnp.abs(dot(x, Qx) + dot(c, x) + dot(q.b, y) + dot(rows.there * rows.limits, z))
        gap_terms = dot(size, Qx_terms) + dot(jnp.abs(c), size) + dot(sizes.b, jnp.abs(y))
        gap_terms += dot(self.size_rows.limits, z) + self.floor * self.price_floor
        above = rows.there * above
        return biggest(dual / dual_terms, equal / equal_terms, above / above_terms, gap / gap_terms)

    def proof(self, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Return multipliers without what is only rounding, and whether they prove infeasibility.

        Farkas: a feasible v would have (Ay + Rz)'v <= <b, y> + <limits, z> < 0. The first factor
        must be 0 up to rounding; where a variable has a bound, the bound's multiplier makes it so.
        """
        q, rows, precise = self.q, self.rows, _precise(y.dtype)
        least = precise * biggest(y, rows.there * z)
        y, z = (jnp.where(jnp.abs(v) > least, v, 0) for v in (y, rows.there * z))
        inequality, upper, lower = rows.split(z)
        _, has_upper, has_lower = rows.split(rows.there)
        rest = dot(y, q.A) + dot(inequality, q.G)
        terms = dot(jnp.abs(y), self.sizes.A) + dot(inequality, self.size_rows.G)
        if upper.size:
            upper = has_upper * jnp.maximum(-rest, 0)
            lower = has_lower * jnp.maximum(rest, 0)
            z = jnp.concatenate([inequality, upper, lower])
            rest = rest + upper - lower
        bound, bound_terms = dot(q.b, y) + dot(rows.limits, z), dot(self.sizes.b, jnp.abs(y))
        bound_terms += dot(self.size_rows.limits, z)
        holds = (jnp.abs(rest) <= precise * terms).all() & (bound < -precise * bound_terms)
        return y, z, holds

    def ray(self, x: Array) -> tuple[Array, Array]:
        """Return a direction without what is only rounding, and whether it has no end."""
        q, rows, precise = self.q, self.rows, _precise(x.dtype)
        x = jnp.where(jnp.abs(x) > precise * biggest(x), x, 0)
        _, has_upper, has_lower = rows.split(rows.there)
        if has_upper.size:
            x = jnp.where(has_upper > 0, jnp.minimum(x, 0), x)
            x = jnp.where(has_lower > 0, jnp.maximum(x, 0), x)
        size = jnp.abs(x)
        flat = (jnp.abs(dot(q.Q, x)) <= precise * dot(self.sizes.Q, size)).all()
        equal = (jnp.abs(dot(q.A, x)) <= precise * dot(self.sizes.A, size)).all()
        below = (rows.times(x) <= precise * self._row_terms(size)).all()
        return x, flat & equal & below & (dot(q.c, x) < -precise * dot(self.sizes.c, size))


def _precise(dtype: np.dtype) -> float:
    """Return what counts as rounding in a sum, relative to its terms."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def _is_convex(Q: Array) -> Array:
    """Return whether Q has no negative eigenvalue, when its diagonal is made 1, up to rounding."""
    diagonal = jnp.diag(Q)
    root = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    unit = Q / root[:, None] / root[None]
    empty = (diagonal > 0) | (jnp.abs(Q).max(axis=0) == 0)
    shifted = unit + _precise(Q.dtype) * jnp.eye(root.size, dtype=Q.dtype)
    shifted += jnp.diag(jnp.where(diagonal > 0, 0, 1).astype(Q.dtype))
    return jnp.isfinite(jnp.linalg.cholesky(shifted)).all() & empty.all()


def interior_point(q: Program, tol: Array, limit: Array) -> Solution:
    """Run the method.

    The first step finds the start. The last ones take the rows that bind for equations, which is
    exact where these are the right ones (Stellato et al. 2020, https://arxiv.org/abs/1711.08013,
    section 4). One loop does all, as its body is most of what is to be compiled.

    Where the status is INFEASIBLE, y and z are the proof; where it is UNBOUNDED, x is a direction
    without an end, and some point fits.
    """
    rows = Rows.of(q)
    h, there = rows.limits, rows.there > 0
    convex = _is_convex(q.Q)
    # data dependency: Cholesky must finish first; concurrent decompositions can deadlock XLA on
    # CPUs (jaxlib 0.10)
    q = q._replace(Q=jnp.where(convex, q.Q, 0))
    measure = Measure.of(q, rows)
    one, none = jnp.ones((), h.dtype), jnp.zeros((), jnp.int32)
    root = float(jnp.finfo(h.dtype).eps) ** 0.5

    def direction(p, solve, at, constant, share, comp, comp_tau):
        """Return Newton's step, which reduces the residuals by a share and s z by `comp`."""
        x, y, z, s, tau, kappa = at
        Qx = dot(p.Q, x)
        dual = Qx + dot(y, p.A) + rows.transposed(z) + p.c * tau
        equal, above = dot(p.A, x) - p.b * tau, rows.times(x) + s - h * tau
        rest = kappa + dot(p.c, x) + dot(p.b, y) + dot(h, z) + dot(x, Qx) / tau
        first = solve((-share * dual, -share * equal, comp - share * z * above))

        def row(v):
            return dot(p.c + 2 * Qx / tau, v[0]) + dot(p.b, v[1]) + dot(h, v[2])

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

    def predicted_and_corrected(p, solve, at, constant):
        """Return the point after Mehrotra's step."""
        sz, both, mu = at.s * at.z, at.tau * at.kappa, mean(at)

        def part(_, c):  # first without, then with what the first says of the second order
            move, centre = c
            comp = sz + move.s * move.z - centre * mu
            comp_tau = both + move.tau * move.kappa - centre * mu
            move = direction(p, solve, at, constant, 1 - centre, comp, comp_tau)
            return move, (1 - longest(at, move)) ** 3

        nothing = jax.tree.map(jnp.zeros_like, at)
        move, _ = jax.lax.fori_loop(0, 2, part, (nothing, 0 * one))
        length = jnp.minimum(1, 0.99 * longest(at, move))
        return jax.tree.map(lambda a, d: a + length * d, at, move)

    def positive(v):
        """Return 1 + v of a large v; the product with that of -v is 1, so that all start alike."""
        return jnp.where(v > 0, 1 + v, 1 / (1 + jnp.abs(v)))

    def step(c: Carry) -> Carry:
        at, p = c.at, q._replace(Q=c.goal * q.Q, c=c.goal * q.c)
        first, polish = c.since < 0, c.status >= 0
        slack = h - rows.times(at.x)
        binds = ((at.z > slack) & there).astype(h.dtype)
        s, z = pick(polish, (1 - binds, binds), (at.s, at.z))
        dual = dot(p.Q, at.x) + p.c + dot(at.y, p.A) + rows.transposed(at.z)
        conditions = -dual, p.b - dot(p.A, at.x), jnp.where(binds > 0, slack, at.z)
        solve = newton(p, rows, s, z, polish)
        # a limit that is only there to be large does not decide where to start
        sides = pick(first, jnp.clip(h, -FAR, FAR), h)
        x, y, z = constant = solve(pick(polish, conditions, (-p.c, p.b, z * sides)))
        start = Point(x, y, positive(z), positive(-z), one, one)
        exact = Point(at.x + x, at.y + y, at.z + z, at.s, one, 0 * one)
        exact = exact._replace(s=h - rows.times(exact.x))
        moved = pick(first, start, predicted_and_corrected(p, solve, at, constant))
        at = pick(polish, exact, moved)

        sure = at._replace(z=jnp.maximum(at.z, 0), s=jnp.maximum(at.s, 0))
        sure = jax.tree.map(lambda v: v / at.tau, sure)
        error = measure.error(c.goal, sure)
        # where kappa stays larger, x / tau has no end, and what it misses is small beside it only
        error = jnp.where(~polish & (at.kappa > at.tau), jnp.maximum(error, 2 * tol), error)
        # also without what is small, or small beside its slack: it may vanish in the limit only
        vanish, fourth = at.z < at.s, float(jnp.finfo(h.dtype).eps) ** 0.25
        least = fourth * biggest(at.y, there * at.z)
        proofs = [
            measure.proof(at.y, at.z),
            measure.proof(
                jnp.where(jnp.abs(at.y) < least, 0, at.y),
                jnp.where(vanish | (at.z < least), 0, at.z),
            ),
        ]
        y, z, infeasible = pick(proofs[0][2], *proofs)
        _, *bounds = rows.split(~vanish & there)
        fixed = functools.reduce(jnp.logical_or, bounds) if bounds[0].size else False
        fixed |= jnp.abs(at.x) < fourth * biggest(at.x)
        rays = [measure.ray(at.x), measure.ray(jnp.where(fixed, 0, at.x))]
        ray, endless = pick(rays[0][1], *rays)
        proven = ~polish & (at.tau < root * at.kappa) & (error > tol)
        infeasible, endless = infeasible & proven, endless & proven & (c.goal > 0)
        best, best_error = pick(error < c.error, (sure, error), (c.best, c.error))
        best = pick(infeasible, sure._replace(y=y, z=z), best)
        # where only rounding is left, a slightly better point is no progress
        enough = jnp.where(c.error > _precise(h.dtype), 1, 0.5) * c.error
        since = jnp.where((error < enough) | (at.tau < at.kappa), 0, c.since + 1)
        status = jnp.select(
            [polish, infeasible, error <= tol, first & ~jnp.isfinite(error),
             (since >= PATIENCE) | ~jnp.isfinite(error)],
            [c.status, Status.INFEASIBLE, Status.CONVERGED, Status.NONFINITE,
             Status.LINE_SEARCH_FAILED], -1,
        ).astype(jnp.int32)  # fmt: skip
        at = pick((status >= 0) & ~polish, best, at)
        steps, polished = c.steps + (~first & ~polish), c.polished + polish
        end = Carry(at, best, best_error, steps, since, status, polished, c.goal, c.ray)
        # where a direction has no end, look for any point that fits
        again = begin._replace(steps=steps, goal=0 * one, ray=ray)
        return pick(endless, again, end)

    ones = jnp.ones_like(h)
    point = Point(jnp.zeros_like(q.c), jnp.zeros_like(q.b), ones, ones, one, one)
    status = jnp.where(convex, -1, Status.NOT_CONVEX).astype(jnp.int32)
    begin = Carry(
        point, point, jnp.inf * one, none, none - 1, status, none, one, jnp.zeros_like(q.c)
    )

    def runs(c: Carry) -> Array:
        polishable = (c.status == Status.CONVERGED) | (c.status == Status.LINE_SEARCH_FAILED)
        polishing = polishable & (c.polished < POLISH)
        return ((c.status < 0) & ((c.since < 0) | (c.steps < limit))) | polishing

    end = jax.lax.while_loop(runs, step, begin)
    status = jnp.where(end.status < 0, Status.STEP_LIMIT, end.status)
    rounded = (status == Status.LINE_SEARCH_FAILED) & (end.error <= tol)
    status = jnp.where(rounded, Status.CONVERGED, status)
    endless = (end.goal == 0) & (status == Status.CONVERGED)
    status = jnp.where(endless, Status.UNBOUNDED, status).astype(jnp.int32)
    x = jnp.where(endless, end.ray, end.best.x)
    return Solution(x, end.best.y, rows.there * end.best.z, end.error, end.steps, status)
