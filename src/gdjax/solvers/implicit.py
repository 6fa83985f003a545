"""Derivatives of a solution by the implicit function theorem, whatever found the solution.

Where F(x*, theta) = 0, dx*/dtheta solves (dF/dx) dx = -(dF/dtheta) dtheta: one linear system, in
place of a derivative through all steps (Krantz & Parks 2002; Blondel et al. 2021,
https://arxiv.org/abs/2105.15183). theta is anything that F closes over. Works forwards (`jvp`) and
backwards (`grad`), under jit and vmap, and again for second derivatives, through
`jax.lax.custom_root`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.solvers.vector import as_tree, as_vector

LinearSolve = Callable[[Callable[[Array], Array], Array], Array]


def with_implicit_derivative(
    condition: Callable[[Any], Any],
    solve: Callable[[Any], tuple[Any, Any]],
    guess: Any,
    linear_solve: LinearSolve,
) -> tuple[Any, Any]:
    """Return `solve(guess)`, with derivatives that come from `condition(solution) = 0` alone.

    Args:
      condition: a function of a tree like the solution, to one of the same shapes and dtypes.
      solve: returns the solution and a tree of further arrays, which get no derivative.
      guess: a tree like the solution; it gets no derivative either.
      linear_solve: `solve_cg`, `solve_gmres`, `solve_dense`, or a function alike.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def cube_root(a):
      ...     def solve(x): return a ** (1 / 3), ()
      ...     return with_implicit_derivative(lambda x: x**3 - a, solve, a, solve_dense)[0]
      >>> print(jax.grad(cube_root)(8.0))  # 1 / (3 * 2^2)
      0.083333336
    """

    def tangent_solve(linear, right):
        def times(v):
            return as_vector(linear(as_tree(v, right)))

        return as_tree(linear_solve(times, as_vector(right)), right)

    return jax.lax.custom_root(condition, guess, lambda _, x: solve(x), tangent_solve, has_aux=True)


def _tolerance(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps) ** 0.75  # 2e-12 in float64, 6e-6 in float32


def solve_cg(times: Callable[[Array], Array], right: Array) -> Array:
    """Solve a symmetric positive definite system by conjugate gradients: a Hessian's."""
    return jax.scipy.sparse.linalg.cg(times, right, tol=_tolerance(right.dtype))[0]


def solve_gmres(times: Callable[[Array], Array], right: Array) -> Array:
    """Solve any regular system by GMRES, restarted after 50 products."""
    restart = max(min(right.size, 50), 1)
    tol = _tolerance(right.dtype)
    return jax.scipy.sparse.linalg.gmres(times, right, tol=tol, restart=restart, maxiter=20)[0]


def solve_dense(times: Callable[[Array], Array], right: Array) -> Array:
    """Return the least-squares solution of least norm of any system, for up to a few 100 unknowns.

    The matrix is formed; it may be singular, as where a minimum is not isolated.
    """

    def solve(times, right):
        matrix = jax.vmap(times, out_axes=1)(jnp.eye(right.size, dtype=right.dtype))
        return jnp.linalg.lstsq(matrix, right)[0]

    return jax.lax.custom_linear_solve(times, right, solve, transpose_solve=solve)
