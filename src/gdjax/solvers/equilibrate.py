"""Units in which a quadratic program is well scaled, the same whatever units it came in.

Curtis & Reid (1972), https://doi.org/10.1093/imamat/10.1.118: the logarithms of the units make
those of all elements other than 0 as small as they can be, in the sense of least squares. So other
units of the objective, of rows, of variables or of right sides lead to the same scaled program.
Then Ruiz (2001), https://cds.cern.ch/record/585592: rows and columns of [Q A' G'; A 0 0; G 0 0] are
divided by the roots of their largest elements, until these are about 1. Last, one unit for all of x
and one for the objective.
All are powers of 2, with which nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.solvers.interior_point import Program, dot

SIDE_WEIGHT = 1e-3  # of right sides, which decide only what nothing else does
RANGE = 33.0  # as exponent of 2: right sides that differ more from most are rounding or "no limit"


class Units(NamedTuple):
    """Exponents of 2: each quantity times 2 to its power is the one of the scaled program."""

    objective: Array  # number
    x: Array  # (n,), of columns; of x and of bounds, minus this
    a: Array  # (p,), of rows
    g: Array  # (m,), of rows


class Logs(NamedTuple):
    """Logarithms of magnitudes, of base 2, and 1 where there is one, 0 for those of 0 and inf."""

    value: Array
    there: Array

    @classmethod
    def of(cls, v: Array) -> Logs:
        """Return those of an array."""
        there = (v != 0) & jnp.isfinite(v)
        value = jnp.where(there, jnp.log2(jnp.abs(jnp.where(there, v, 1))), 0)
        return cls(value, there.astype(v.dtype))


def _least_squares(q: Program) -> Units:
    """Return the units of Curtis and Reid."""
    Q, c = Logs.of(q.Q), Logs.of(q.c)
    n, dtype = q.c.size, q.c.dtype
    normal, right = jnp.zeros((n + 1, n + 1), dtype), jnp.zeros(n + 1, dtype)

    def cross(column, value):
        """Return what terms value + x + objective add to the matrix and to the right side."""
        matrix = jnp.block([[jnp.diag(column), column[:, None]], [column[None], column.sum()]])
        return matrix, -jnp.append(value, value.sum())

    # Q's element (i, j) and (j, i) are one term; of its sum over both unknowns, half is each one's
    in_rows = Q.there.sum(1)
    matrix, side = cross(in_rows, Q.value.sum(1))
    normal += matrix.at[:n, :n].add(Q.there).at[n, n].multiply(0.5)
    right += side.at[n].multiply(0.5)
    matrix, side = cross(c.there, c.value)
    normal, right = normal + matrix, right + side
    rows = []
    for matrix, limits in ((q.A, q.b), (q.G, q.h)):
        M, b = Logs.of(matrix), Logs.of(limits)
        total = M.there.sum(1) + SIDE_WEIGHT * b.there  # each row's own unit is eliminated
        share = M.there / jnp.where(total > 0, total, 1)[:, None]
        sums = M.value.sum(1) + SIDE_WEIGHT * b.value
        normal = normal.at[:n, :n].add(jnp.diag(M.there.sum(0)) - dot(M.there.T, share))
        right = right.at[:n].add(dot(sums, share) - M.value.sum(0))
        rows.append((sums / jnp.where(total > 0, total, 1), share))
    for bound in (q.lower, q.upper):
        if bound.size:
            v = Logs.of(bound)
            normal = normal.at[:n, :n].add(SIDE_WEIGHT * jnp.diag(v.there))
            right = right.at[:n].add(SIDE_WEIGHT * v.value)
    ridge = float(jnp.finfo(dtype).eps) ** 0.75 * jnp.eye(n + 1, dtype=dtype)
    root = jnp.linalg.cholesky(normal + ridge * n)
    found = jax.scipy.linalg.cho_solve((root, True), right)
    x = found[:n]
    return Units(found[n], x, *(-(mean + dot(share, x)) for mean, share in rows))


def _balanced(q: Program, units: Units) -> Units:
    """Return the units of Ruiz, from others."""
    logs = [jnp.log2(jnp.abs(m)) for m in (q.Q, q.A, q.G)]  # -inf of 0

    def highest(m, axis):
        return jnp.max(m, axis=axis, initial=-jnp.inf)

    def half(v):
        return jnp.where(jnp.isfinite(v), v / 2, 0)

    def balance(_, units):
        lone = units.objective + units.x, units.a, units.g
        Q, A, G = (m + r[:, None] + units.x[None] for m, r in zip(logs, lone, strict=True))
        x = jnp.maximum(highest(Q, 0), jnp.maximum(highest(A, 0), highest(G, 0)))
        return Units(
            units.objective, units.x - half(x), units.a - half(highest(A, 1)),
            units.g - half(highest(G, 1)),
        )  # fmt: skip

    return jax.lax.fori_loop(0, 8, balance, units)


def _typical(logs: Logs, end: Callable[..., Array]) -> Array:
    """Return a number between most of some logarithms and one end of those near to it.

    Seven of eight are below what it starts with: more often than not, the small ones are rounding.
    """
    count = logs.there.sum().astype(jnp.int32)
    ordered = jnp.sort(jnp.where(logs.there > 0, logs.value, jnp.inf))
    most = ordered[(7 * count) >> 3]
    near = (logs.there > 0) & (jnp.abs(logs.value - most) <= RANGE)
    far = end(jnp.where(near, logs.value, most))
    return jnp.where(count > 0, (most + far) / 2, 0)


def _with_unknowns_about_one(q: Program, units: Units) -> Units:
    """Return the units in which right sides and the objective's elements are about 1 as well."""
    one, x, a, g = units
    side = x[: q.lower.size]
    sides = [(q.b, a), (q.h, g), (q.lower, -side), (q.upper, -side)]
    sides = [Logs.of(v)._replace(value=Logs.of(v).value + unit) for v, unit in sides]
    # those of equations are never "no limit": what is far below the largest of them is rounding
    least = jnp.max(jnp.where(sides[0].there > 0, sides[0].value, -jnp.inf), initial=-jnp.inf)
    least -= jnp.finfo(q.c.dtype).nmant - 6
    sides = [Logs(v, there * (v >= least)) for v, there in sides]
    c, Q = Logs.of(q.c), Logs.of(q.Q)
    highest = jnp.max(jnp.where(Q.there > 0, Q.value + x[:, None] + x[None], -jnp.inf))
    slope = _typical(c._replace(value=c.value + x), jnp.max)
    size = _typical(Logs(*(jnp.append(jnp.concatenate(v), 0) for v in zip(*sides))), jnp.min)
    some = jnp.concatenate([v.there for v in sides]).sum() > 0
    # without right sides the objective alone gives a unit of x: the one in which Q and c agree
    size = jnp.where(some, size, jnp.where(jnp.isfinite(highest), slope - highest, 0))
    one = -jnp.maximum(jnp.where(c.there.sum() > 0, slope + size, -jnp.inf), highest + 2 * size)
    return Units(one, x + size, a - size, g - size)


def power(exponent: Array, dtype: jnp.dtype) -> Array:
    """Return 2 to a whole power, exactly, within the range of the dtype."""
    info = jnp.finfo(dtype)
    exponent = jnp.clip(exponent, info.minexp, info.maxexp - 1)
    return jnp.ldexp(jnp.ones((), dtype), exponent.astype(jnp.int32))


def equilibrated(q: Program) -> tuple[Program, Units]:
    """Return the same program in other units, and those units, which get no derivative."""
    fixed = jax.lax.stop_gradient(q)
    units = _with_unknowns_about_one(fixed, _balanced(fixed, _least_squares(fixed)))
    units = jax.tree.map(lambda v: jnp.round(jnp.where(jnp.isfinite(v), v, 0)), units)
    one, x, a, g = units

    def times(v, exponent):
        return v * power(exponent, q.c.dtype)

    side = x[: q.lower.size]
    scaled = Program(
        times(q.Q, one + x[:, None] + x[None]), times(q.c, one + x),
        times(q.A, a[:, None] + x[None]), times(q.b, a),
        times(q.G, g[:, None] + x[None]), times(q.h, g), times(q.lower, -side),
        times(q.upper, -side),
    )  # fmt: skip
    return scaled, units
