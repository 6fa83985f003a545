"""The quadratic model of L-BFGS in a box: its Cauchy point, and its minimum over free variables.

Byrd, Lu, Nocedal & Zhu (1995), https://doi.org/10.1137/0916069, sections 3 to 5.1, with the
projection of Morales & Nocedal (2011), https://doi.org/10.1145/2049662.2049669
Paper -> here: W, M, theta as there; x^c -> cauchy; r^c -> r; p, c, f', f'' as there.
Deviation: the paper walks from breakpoint to breakpoint; here all segments of the projected path
are computed together, by cumulative sums over the sorted breakpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Model(NamedTuple):
    """The compact form B = theta I - W M W^T (3.1 to 3.4)."""

    theta: Array  # number
    w: Array  # (n, 2 m): [Y, theta S]; columns of unused pairs are 0
    k: Array  # (2 m, 2 m), the inverse of M, which is not formed
    factors: tuple  # LU of k

    def times_m(self, vectors: Array) -> Array:
        """Return M v for each row v, or for the one that is given."""
        return jax.scipy.linalg.lu_solve(self.factors, vectors.T).T


def compact(s: Array, y: Array, used: Array) -> Model:
    """Return B from the pairs, rows of s and y from the oldest to the newest; unused rows are 0.

    B does not change when a pair is multiplied with a number; <s, y> = 1 makes k well scaled.
    """
    weight = jnp.where(used, jax.lax.rsqrt(jnp.where(used, jnp.sum(s * y, axis=1), 1)), 0)
    s, y = s * weight[:, None], y * weight[:, None]
    sy = s @ y.T
    theta = jnp.where(used[-1], jnp.vdot(y[-1], y[-1]), 1)
    lower = jnp.tril(sy, -1)
    diagonal = jnp.diag(jnp.where(used, jnp.diag(sy), 1))
    filled = theta * (s @ s.T) + jnp.diag(jnp.where(used, 0, 1).astype(s.dtype))
    k = jnp.block([[-diagonal, lower.T], [lower, filled]])
    w = jnp.concatenate([y, theta * s]).T
    return Model(theta, w, k, jax.scipy.linalg.lu_factor(k))


def cauchy_point(model: Model, x: Array, g: Array, lower: Array, upper: Array) -> Array:
    """Return the first local minimum of the model along the path of steepest descent, projected."""
    bound = jnp.where(g < 0, upper, lower)
    moving = (g != 0) & (x != bound)
    t = jnp.where(moving, (x - bound) / jnp.where(g == 0, 1, g), jnp.where(g == 0, jnp.inf, 0))
    d = jnp.where(moving, -g, 0)
    order = jnp.argsort(t)
    stop, ds, ws = t[order], d[order], model.w[order]

    def still_moving(z):  # sums over the variables not at a bound yet, before each segment
        sums = jnp.flip(jnp.cumsum(jnp.flip(z, 0), axis=0), 0)
        return jnp.concatenate([sums, jnp.zeros_like(sums[:1])])

    dd, p = still_moving(ds**2), still_moving(ds[:, None] * ws)
    start = jnp.concatenate([jnp.zeros_like(stop[:1]), stop])
    length = jnp.where(jnp.isfinite(start[:-1]), stop - start[:-1], 0)
    walked = jnp.cumsum(jnp.where(jnp.isfinite(length), length, 0)[:, None] * p[:-1], axis=0)
    c = jnp.concatenate([jnp.zeros_like(walked[:1]), walked])
    start = jnp.where(jnp.isfinite(start), start, 0)
    mp = model.times_m(p)
    slope = (model.theta * start - 1) * dd - jnp.sum(c * mp, axis=1)
    bend = model.theta * dd - jnp.sum(p * mp, axis=1)
    bend = jnp.maximum(bend, jnp.finfo(x.dtype).eps * model.theta * dd)
    best = jnp.where(bend > 0, -slope / jnp.where(bend > 0, bend, 1), 0)
    ends = jnp.concatenate([length, jnp.zeros_like(length[:1])])
    here = ((slope >= 0) | (best < ends)).at[-1].set(True)
    j = jnp.argmax(here)
    time = start[j] + jnp.maximum(jnp.where(slope[j] >= 0, 0, best[j]), 0)
    return jnp.where(t <= time, jnp.where(d != 0, bound, x), jnp.clip(x + time * d, lower, upper))


def subspace_minimum(
    model: Model, x: Array, g: Array, cauchy: Array, lower: Array, upper: Array
) -> Array:
    """Return the minimum of the model over the variables that are free at the Cauchy point.

    It is projected onto the box; if that is no descent direction from x, the segment from the
    Cauchy point to it ends at the boundary of the box instead, as in the paper.
    """
    free = (cauchy > lower) & (cauchy < upper)
    theta, w = model.theta, model.w
    moved = cauchy - x
    r = jnp.where(free, g + theta * moved - w @ model.times_m(moved @ w), 0)
    wf = jnp.where(free[:, None], w, 0)
    v = jnp.linalg.solve(model.k - wf.T @ wf / theta, r @ wf)
    d = -r / theta - wf @ v / theta**2
    d = jnp.where(jnp.isfinite(d).all(), d, 0)
    projected = jnp.clip(cauchy + d, lower, upper)
    space = jnp.where(d > 0, upper - cauchy, lower - cauchy)
    share = jnp.min(jnp.where(d == 0, 1, space / jnp.where(d == 0, 1, d)), initial=1)
    cut = jnp.clip(cauchy + share * d, lower, upper)
    return jnp.where(jnp.vdot(projected - x, g) < 0, projected, cut)
