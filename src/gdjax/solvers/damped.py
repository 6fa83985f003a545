"""Damped linear least squares, min |J d + r|^2 + mu |D d|^2: by QR, or by CG on products with J.

Neither forms J^T J, whose condition number is the square of J's: in float32 that would leave no
digit of a direction for which J has a condition of 3e3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.types import Params, PyTree
from gdjax.solvers.line_search import as_tree, as_vector


class Linearized(NamedTuple):
    """Residuals at one point, and the products of their Jacobian."""

    point: Array  # x, the parameters as a vector of n elements
    residual: Callable[[Array], Array]  # x -> r as a vector of m elements
    value: Array  # r at x
    push: Callable[[Array], Array]  # v -> J v
    pull: Callable[[Array], Array]  # w -> J^T w


def linearized(residual_fn: Callable[[Params], PyTree], params: Params) -> Linearized:
    """Return the residuals at `params`, a tree, with products of their Jacobian."""

    def residual(x):
        return as_vector(residual_fn(as_tree(x, params)))

    x = as_vector(params)
    r, push = jax.linearize(residual, x)
    transpose = jax.linear_transpose(push, x)
    return Linearized(x, residual, r, push, lambda w: transpose(w)[0])


def jacobian(at: Linearized) -> Array:
    """Return J, computed by columns or by rows, whichever are fewer."""
    n, m = at.point.size, at.value.size
    if n <= m:
        return jax.vmap(at.push, out_axes=1)(jnp.eye(n, dtype=at.point.dtype))
    return jax.vmap(at.pull)(jnp.eye(m, dtype=at.value.dtype))


def triangle(matrix: Array, r: Array) -> tuple[Array, Array]:
    """Return R of matrix = Q R, and Q^T r; Q itself is not formed."""
    full = jnp.linalg.qr(jnp.concatenate([matrix, r[:, None]], axis=1), mode="r")
    n = matrix.shape[1]
    return full[:n, :n], full[:n, n]


def qr_solver(matrix: Array, r: Array) -> Callable[[Array, Array], Array]:
    """Return d as a function of mu and D: J is reduced once, [R; sqrt(mu) D] for every mu."""
    upper, rotated = triangle(matrix, r)

    def solve(damping: Array, scale: Array) -> Array:
        rows = jnp.concatenate([upper, jnp.diag(jnp.sqrt(damping) * scale)])
        right = jnp.concatenate([rotated, jnp.zeros_like(scale)])
        r_mu, q_r = triangle(rows, right)
        return -jax.scipy.linalg.solve_triangular(r_mu, q_r)

    return solve


def cg_solver(at: Linearized, rtol: Array, max_steps: Array) -> Callable[[Array, Array], Array]:
    """Return d as a function of mu and D, by conjugate gradients on the normal equations (CGLS).

    Hestenes & Stiefel (1952), section 10: the residual of the equations is J^T of that of the
    least-squares problem, updated as such, so that J^T J is not formed.
    """

    def solve(damping: Array, scale: Array) -> Array:
        weight = damping * scale * scale
        zero = jnp.zeros_like(at.point)
        s = -at.pull(at.value)
        target = rtol**2 * jnp.vdot(s, s)

        def unfinished(carry):
            _, _, _, _, gamma, step = carry
            return (gamma > target) & (step < max_steps)

        def step(carry):
            d, rest, _, p, gamma, i = carry
            q = at.push(p)
            curvature = jnp.vdot(q, q) + jnp.vdot(p, weight * p)
            alpha = gamma / jnp.where(curvature > 0, curvature, 1)
            d, rest = d + alpha * p, rest - alpha * q
            s = at.pull(rest) - weight * d
            new = jnp.vdot(s, s)
            return d, rest, s, s + new / gamma * p, new, i + 1

        start = (zero, -at.value, s, s, jnp.vdot(s, s), jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(unfinished, step, start)[0]

    return solve
