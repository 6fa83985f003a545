"""Convex quadratic programs, with derivatives of solution and multipliers.

The derivatives are those of Amos & Kolter (2017), https://arxiv.org/abs/1703.00443, with the
active inequalities as equations.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.base import short
from gdjax.core.checks import strict
from gdjax.core.numerics import compute_dtype, scalar_dtype
from gdjax.core.types import Number
from gdjax.solvers.interior_point import Program, Rows, biggest, dot, interior_point, newton
from gdjax.solvers.result import Result, checked_result
from gdjax.solvers.runner import start_of

Bounds: TypeAlias = tuple[ArrayLike | None, ArrayLike | None]


class Multipliers(NamedTuple):
    """Lagrange multipliers: minus the derivative of the objective by each right side."""

    equality: Array  # (p,) of A x = b
    inequality: Array  # (m,) of G x <= h, >= 0
    lower: Array  # (n,) of x >= lower, >= 0; (0,) without bounds
    upper: Array  # (n,) of x <= upper, >= 0

    def __repr__(self) -> str:
        """Show the shapes."""
        fields = (f"{k}={short(v)}" for k, v in zip(self._fields, self, strict=True))
        return f"Multipliers({', '.join(fields)})"


@jax.custom_jvp
def _solve(q: Program, tol: Array, limit: Array) -> tuple[Array, Array, Array, Array]:
    """Return x, y, z, and as one float array error, steps and status."""
    end = interior_point(q, tol, limit)
    x, y, z = (v / end.best.tau for v in end.best[:3])
    return x, y, z, jnp.stack([end.error, end.steps, end.status])


@_solve.defjvp
def _solve_jvp(primals, tangents):
    """Differentiate the optimality conditions, with the active inequalities as equations."""
    q = primals[0]
    x, y, z, rest = _solve(*primals)
    rows = Rows.of(q)
    binds = (z > rows.limits - rows.times(x)).astype(x.dtype)

    def conditions(q):
        rows = Rows.of(q)
        dual = dot(q.Q, x) + q.c + dot(y, q.A) + rows.transposed(z)
        return dual, dot(q.A, x) - q.b, binds * (rows.times(x) - rows.limits)

    cuts = [x.size, x.size + y.size]

    def matvec(v):
        dx, dy, dz = jnp.split(v, cuts)
        dual = dot(q.Q, dx) + dot(dy, q.A) + rows.transposed(binds * dz)
        return jnp.concatenate([dual, dot(q.A, dx), binds * rows.times(dx) - (1 - binds) * dz])

    def solve(_, right):
        dual, equal, above = jnp.split(right, cuts)
        solve_newton = newton(q, rows, 1 - binds, binds, 4)
        dx, dy, dz = solve_newton((dual, equal, binds * above))
        return jnp.concatenate([dx, dy, dz - (1 - binds) * above])

    _, moves = jax.jvp(conditions, primals[:1], tangents[:1])
    right = -jnp.concatenate(moves)
    move = jax.lax.custom_linear_solve(matvec, right, solve, symmetric=True)
    dx, dy, dz = jnp.split(move, cuts)
    return (x, y, z, rest), (dx, dy, dz, jnp.zeros_like(rest))


def _scaled(q: Program) -> tuple[Program, Array, Multipliers]:
    """Return the same program in other units, and those units of x and of the multipliers.

    Ruiz (2001), https://cds.cern.ch/record/585592: rows and columns of [Q A' G'; A 0 0; G 0 0] are
    divided by the roots of their largest elements, until these are about 1.
    """
    sizes = [jnp.abs(m) for m in jax.lax.stop_gradient((q.Q, q.A, q.G))]

    def inverse(v):
        return 1 / jnp.where(v > 0, v, 1)

    def highest(m, axis):
        return jnp.max(m, axis=axis, initial=0)

    def balance(_, units):
        x, a, g = units
        Q, A, G = (r[:, None] * m * x[None] for r, m in zip(units, sizes, strict=True))
        columns = jnp.maximum(highest(Q, 0), jnp.maximum(highest(A, 0), highest(G, 0)))
        found = columns, highest(A, 1), highest(G, 1)
        return tuple(u * inverse(jnp.sqrt(v)) for u, v in zip(units, found, strict=True))

    ones = tuple(jnp.ones(m.shape[0], m.dtype) for m in sizes)
    x, a, g = jax.lax.fori_loop(0, 10, balance, ones)
    one = inverse(biggest(x[:, None] * sizes[0] * x[None], x * jax.lax.stop_gradient(q.c)))
    side = x[: q.lower.size]
    scaled = Program(
        one * x[:, None] * q.Q * x[None], one * x * q.c, a[:, None] * q.A * x[None], a * q.b,
        g[:, None] * q.G * x[None], g * q.h, q.lower / side, q.upper / side,
    )  # fmt: skip
    return scaled, x, Multipliers(a / one, g / one, 1 / (one * side), 1 / (one * side))


@jax.jit
def _solve_scaled(q: Program, tol: Array, limit: Array) -> Result:
    scaled, unit, units = _scaled(q)
    x, y, z, (error, steps, status) = _solve(scaled, tol, limit)
    rows = Rows.of(scaled)
    inequality, upper, lower = rows.split(rows.there * z)
    costs = jax.tree.map(jnp.multiply, units, Multipliers(y, inequality, lower, upper))
    x = unit * x
    value = dot(x, dot(q.Q, x)) / 2 + dot(q.c, x)
    steps, status = steps.astype(jnp.int32), status.astype(jnp.int32)
    error = error.astype(scalar_dtype())
    return Result(x, value, error, steps, steps, status, costs, None, None)


def _program(Q: ArrayLike, c: ArrayLike, *rest: ArrayLike | None, bounds: Bounds | None) -> Program:
    """Return the program in one dtype, with Q symmetric, and no rows for what is None."""
    given = dict(zip("QcAbGh", (Q, c, *rest), strict=True))
    for k in "Qc":
        if given[k] is None:
            raise TypeError(f"quadratic_program({k}=...) must be an array, got None.")
    arrays = {
        k: _array(f"quadratic_program({k}=...)", v) for k, v in given.items() if v is not None
    }
    for k, v in arrays.items():
        if jnp.iscomplexobj(v) or v.dtype == jnp.bool_:
            raise TypeError(f"quadratic_program({k}=...) must be real, got dtype {v.dtype}.")
    dtype = compute_dtype(jnp.zeros((), jnp.result_type(1.0, *arrays.values())))
    arrays = {k: v.astype(dtype) for k, v in arrays.items()}
    n = arrays["c"].shape[0] if arrays["c"].ndim == 1 else -1
    if n < 1 or arrays["Q"].shape != (n, n):
        raise ValueError(
            "quadratic_program needs Q [n, n] and c [n], n >= 1, got "
            f"{list(arrays['Q'].shape)} and {list(arrays['c'].shape)}. Use vmap for a batch."
        )
    for k, right in (("A", "b"), ("G", "h")):
        if (k in arrays) != (right in arrays):
            raise ValueError(f"quadratic_program needs both {k} and {right}, or neither.")
        matrix = arrays.setdefault(k, jnp.zeros((0, n), dtype))
        limits = arrays.setdefault(right, jnp.zeros(0, dtype))
        if matrix.shape != (limits.size, n) or limits.ndim != 1:
            raise ValueError(
                f"quadratic_program needs {k} [rows, {n}] and {right} [rows], got "
                f"{list(matrix.shape)} and {list(limits.shape)}."
            )
    arrays["Q"] = (arrays["Q"] + arrays["Q"].T) / 2
    if bounds is None:
        return Program(**arrays, lower=jnp.zeros(0, dtype), upper=jnp.zeros(0, dtype))
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise ValueError(f"quadratic_program(bounds=...) must be (lower, upper), got {bounds!r}.")
    sides = (-jnp.inf if bounds[0] is None else bounds[0], bounds[1])
    sides = [jnp.inf if v is None else v for v in sides]
    sides = [_array("quadratic_program(bounds=...)", v).astype(dtype) for v in sides]
    for v in sides:
        if v.shape not in ((), (n,)):
            raise ValueError(
                f"quadratic_program(bounds=...) needs numbers or arrays [{n}], got {list(v.shape)}."
            )
    lower, upper = (jnp.broadcast_to(v, (n,)) for v in sides)
    return Program(**arrays, lower=lower, upper=upper)


def _array(what: str, x: ArrayLike) -> Array:
    try:
        if not isinstance(x, (str, bytes)):  # JAX would take it for a number
            return jnp.asarray(x)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{what} must be a number or an array, got {x!r}.")


@strict()
def quadratic_program(
    Q: ArrayLike,
    c: ArrayLike,
    A: ArrayLike | None = None,
    b: ArrayLike | None = None,
    G: ArrayLike | None = None,
    h: ArrayLike | None = None,
    *,
    bounds: Bounds | None = None,
    tol: Number | None = None,
    max_steps: int | Array = 100,
    throw: bool = False,
) -> Result:
    """Minimize a convex quadratic function under linear equations, inequalities and bounds.

    min x'Qx / 2 + c'x   subject to   A x = b,   G x <= h,   lower <= x <= upper

    Linear programs are the case Q = 0. About ten steps, each of which factors one dense matrix
    of n + p rows: for up to some thousand unknowns, and with `vmap` for many programs at once. The
    solution and the multipliers have derivatives with respect to all arrays, by one more linear
    solve, in forward and reverse mode; where an active inequality has the multiplier 0, one-sided
    ones.

    On CPUs (jaxlib 0.10), two independent calls in one jitted function, of about 1000 lanes each,
    can deadlock, because XLA runs their decompositions concurrently: make them one call of 2000
    lanes.

    Args:
      Q: positive semidefinite array [n, n]; its symmetric part counts. With a negative eigenvalue
        the status is `Status.NOT_CONVEX`.
      c: array [n].
      A: array [p, n], or None; rows may be linearly dependent.
      b: array [p]; None without A.
      G: array [m, n], or None.
      h: array [m]; None without G. Where it is inf, the row is no constraint.
      bounds: (lower, upper), each a number, an array [n], or None; +-inf for no bound.
      tol: largest error >= 0 that counts as none: of equations, of inequalities, of the gradient of
        the Lagrangian and of the gap between the objective and its dual, each relative to 1 + the
        largest of its terms, in units in which rows and columns have elements of about 1. None is
        the square root of the dtype's precision: 3e-4 in float32, 1.5e-8 in float64.
      max_steps: most steps, >= 0.
      throw: see `minimize`.

    Returns:
      A `Result`: `state` has the `Multipliers`, `grad_norm` is the error. With `Status.INFEASIBLE`
      these prove that no x fits (A'y + G'z + upper - lower ones = 0 and a negative sum of limits
      times multipliers); with `Status.UNBOUNDED`, `params` is a direction along which the
      objective decreases without limit. With
      `Status.LINE_SEARCH_FAILED` rounding kept the error above `tol`; the best point is returned.
      Memory: about 3 (n + p)^2 + 2 m n numbers.

    Raises:
      MinimizeError: see `throw`.
      TypeError: if an array is not real.
      ValueError: if shapes do not fit.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def portfolio(risk):  # weights >= 0 with sum 1: expected gain against variance
      ...     gain, variance = jnp.array([0.1, 0.2, 0.15]), jnp.diag(jnp.array([0.1, 0.4, 0.2]))
      ...     one = jnp.ones((1, 3))
      ...     return gdjax.quadratic_program(risk * variance, -gain, one, [1.0], bounds=(0, None))
      >>> print(portfolio(1.0).params.round(3))
      [0.286 0.321 0.393]
      >>> print(jax.jacobian(lambda risk: portfolio(risk).params)(1.0).round(2))
      [ 0.29 -0.18 -0.11]
    """
    q = _program(Q, c, A, b, G, h, bounds=bounds)
    _, tol, max_steps = start_of("quadratic_program", q.c, (), tol, max_steps)
    tol, limit = jnp.asarray(tol, q.c.dtype), jnp.asarray(max_steps, q.c.dtype)
    result = _solve_scaled(q, tol, limit)
    return checked_result(result, "quadratic_program") if throw else result
