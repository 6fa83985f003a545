"""Derivatives of a solution by the implicit function theorem, whatever method found it.

Where F(x*, theta) = 0, dx*/dtheta solves (dF/dx) dx = -(dF/dtheta) dtheta: one linear system, in
place of a derivative through all steps (Krantz & Parks 2002; Blondel et al. 2021,
https://arxiv.org/abs/2105.15183). theta is anything that F closes over. Forward mode (`jvp`),
reverse mode (`grad`), second derivatives, `jit` and `vmap` work, through `jax.lax.custom_root`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.types import PyTree
from gdjax.core.vectors import as_tree, as_vector

LinearSolve = Callable[[Callable[[Array], Array], Array], Array]


def with_implicit_derivative(
    condition: Callable[[PyTree], PyTree],
    solve: Callable[[PyTree], tuple[PyTree, PyTree]],
    guess: PyTree,
    linear_solve: LinearSolve,
) -> tuple[PyTree, PyTree]:
    """Return `solve(guess)`, with derivatives that come from `condition(solution) = 0` alone.

    Args:
      condition: a function of a tree like the solution, to one of the same shapes and dtypes.
      solve: returns the solution and a tree of further arrays, float or int32, which get no
        derivative.
      guess: a tree like the solution; it gets no derivative either.
      linear_solve: `solve_cg`, `solve_gmres`, `solve_dense`, or a similar function.

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


def _as_was(x: Array, dtype: np.dtype) -> Array:
    return jax.lax.bitcast_convert_type(x, dtype) if dtype == jnp.int32 else x


def _tolerance(dtype: np.dtype) -> float:
    return float(jnp.finfo(dtype).eps) ** 0.75  # 2e-12 in float64, 6e-6 in float32


def choose_solve(name: str, asked: bool | Callable, symmetric: bool, size: int) -> LinearSolve:
    """Return the linear solver that a user asked for.

    Args:
      name: what the user called, for errors.
      asked: its `implicit_diff`: a linear solver, or True for one of those below.
      symmetric: whether the matrix is symmetric.
      size: number of unknowns.
    """
    if callable(asked):
        return functools.partial(_solve_as_asked, asked, symmetric)
    if asked is not True:
        raise TypeError(
            f"{name}(implicit_diff=...) must be True, False or a linear solver, a function of the "
            f"matrix (as its product with a vector) and of the right side, got {asked!r}."
        )
    if size <= 100:
        return solve_dense
    return solve_cg if symmetric else solve_gmres


def _solve_as_asked(
    asked: Callable, symmetric: bool, times: Callable[[Array], Array], right: Array
) -> Array:
    def solve(times, right):
        found = asked(times, right)
        return found[0] if isinstance(found, tuple) else found  # SciPy's come with a status

    other = None if symmetric else solve
    return jax.lax.custom_linear_solve(times, right, solve, other, symmetric)


def solve_cg(times: Callable[[Array], Array], right: Array) -> Array:
    """Solve a symmetric positive definite system by conjugate gradients: a Hessian's."""

    def solve(times, right):
        return jax.scipy.sparse.linalg.cg(times, right, tol=_tolerance(right.dtype))[0]

    return jax.lax.custom_linear_solve(times, right, solve, symmetric=True)


def solve_gmres(times: Callable[[Array], Array], right: Array) -> Array:
    """Solve any regular system by GMRES, restarted after 50 products."""
    restart, tol = max(min(right.size, 50), 1), _tolerance(right.dtype)

    def solve(times, right):  # "batched" would always take 50: a contraction needs 10 to 25
        return jax.scipy.sparse.linalg.gmres(
            times, right, tol=tol, restart=restart, maxiter=20, solve_method="incremental"
        )[0]

    return jax.lax.custom_linear_solve(times, right, solve, transpose_solve=solve)


def solve_dense(times: Callable[[Array], Array], right: Array) -> Array:
    """Return the least-squares solution of least norm of any system, for up to a few 100 unknowns.

    The matrix is formed; it may be singular, for example at a minimum that is not isolated.
    """

    def solve(times, right):
        matrix = jax.vmap(times, out_axes=1)(jnp.eye(right.size, dtype=right.dtype))
        return jnp.linalg.lstsq(matrix, right)[0]

    return jax.lax.custom_linear_solve(times, right, solve, transpose_solve=solve)


def solve_diagonal(times: Callable[[Array], Array], right: Array) -> Array:
    """Solve independent equations, each for its own unknown.

    An infinite derivative of one, where its slope is 0, does not affect the others.
    """

    def solve(times, right):
        return jnp.where(right == 0, 0, right / times(jnp.ones_like(right)))

    return jax.lax.custom_linear_solve(times, right, solve, symmetric=True)
