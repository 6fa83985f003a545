"""Derivatives of a solution by the implicit function theorem, whatever found the solution.

Where F(x*, theta) = 0, dx*/dtheta solves (dF/dx) dx = -(dF/dtheta) dtheta: one linear system, in
place of a derivative through all steps (Krantz & Parks 2002; Blondel et al. 2021,
https://arxiv.org/abs/2105.15183). theta is anything that F closes over. Works forwards (`jvp`) and
backwards (`grad`), under jit and vmap, and again for second derivatives, through
`jax.lax.custom_root`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.solvers.vector import as_tree, as_vector

LinearSolve = Callable[[Callable[[Array], Array], Array], Any]


def with_implicit_derivative(
    condition: Callable[[Any], Any],
    solve: Callable[[Any], tuple[Any, Any]],
    guess: Any,
    linear_solve: LinearSolve,
) -> tuple[Any, Any]:
    """Return `solve(guess)`, with derivatives that come from `condition(solution) = 0` alone.

    Args:
      condition: a function of a tree like the solution, to one of the same shapes and dtypes.
      solve: returns the solution and a tree of further arrays, float or int32, which get no
        derivative.
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

    def solution(_, x):
        x, rest = solve(x)
        return x, jax.tree.map(_as_float, rest)

    found, rest = jax.lax.custom_root(condition, guess, solution, tangent_solve, has_aux=True)
    whole = jax.tree.map(lambda x: x.dtype, jax.eval_shape(solve, guess)[1])
    return found, jax.tree.map(_as_was, rest, whole)


def _as_float(x: Array) -> Array:  # `custom_root` cannot differentiate what holds whole numbers
    return jax.lax.bitcast_convert_type(x, jnp.float32) if x.dtype == jnp.int32 else x


def _as_was(x: Array, dtype: Any) -> Array:
    return jax.lax.bitcast_convert_type(x, dtype) if dtype == jnp.int32 else x


def _tolerance(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps) ** 0.75  # 2e-12 in float64, 6e-6 in float32


def choose_solve(asked: Any, symmetric: bool, size: int) -> LinearSolve:
    """Return the linear solver that a user asked for; True is the fitting one of those below."""
    if callable(asked):
        return functools.partial(_solve_by, asked)
    if size <= 100:
        return solve_dense
    return solve_cg if symmetric else solve_gmres


def _solve_by(asked: Callable, times: Callable[[Array], Array], right: Array) -> Any:
    """Solve by a user's function, which may return more besides, as `jax.scipy.sparse.linalg.cg`.

    Its own derivative, which backwards is a transpose, is never needed.
    """

    def solve(times, right):
        found = asked(times, right)
        return found[0] if isinstance(found, tuple) else found

    return jax.lax.custom_linear_solve(times, right, solve, transpose_solve=solve)


def solve_cg(times: Callable[[Array], Array], right: Array) -> Any:
    """Solve a symmetric positive definite system by conjugate gradients: a Hessian's."""

    def solve(times, right):
        return jax.scipy.sparse.linalg.cg(times, right, tol=_tolerance(right.dtype))[0]

    return jax.lax.custom_linear_solve(times, right, solve, symmetric=True)


def solve_gmres(times: Callable[[Array], Array], right: Array) -> Any:
    """Solve any regular system by GMRES, restarted after 50 products."""
    restart, tol = max(min(right.size, 50), 1), _tolerance(right.dtype)

    def solve(times, right):
        return jax.scipy.sparse.linalg.gmres(times, right, tol=tol, restart=restart, maxiter=20)[0]

    return jax.lax.custom_linear_solve(times, right, solve, transpose_solve=solve)


def solve_dense(times: Callable[[Array], Array], right: Array) -> Any:
    """Return the least-squares solution of least norm of any system, for up to a few 100 unknowns.

    The matrix is formed; it may be singular, as where a minimum is not isolated.
    """

    def solve(times, right):
        matrix = jax.vmap(times, out_axes=1)(jnp.eye(right.size, dtype=right.dtype))
        return jnp.linalg.lstsq(matrix, right)[0]

    return jax.lax.custom_linear_solve(times, right, solve, transpose_solve=solve)
