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
from gdjax.core.explicit import automatically
from gdjax.core.numerics import compute_dtype, scalar_dtype
from gdjax.core.types import Number
from gdjax.solvers.equilibrate import equilibrated, power
from gdjax.solvers.interior_point import Program, Rows, dot, interior_point, newton
from gdjax.solvers.result import Result, Status, checked_result
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
    solved = end.status != Status.UNBOUNDED
    x = jnp.where(solved, jnp.clip(end.x, q.lower, q.upper), end.x) if q.lower.size else end.x
    return x, end.y, end.z, jnp.stack([end.error, end.steps, end.status])


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
        solve_newton = newton(q, rows, 1 - binds, binds, True)
        dx, dy, dz = solve_newton((dual, equal, binds * above))
        return jnp.concatenate([dx, dy, dz - (1 - binds) * above])

    _, moves = jax.jvp(conditions, primals[:1], tangents[:1])
    right = -jnp.concatenate(moves)
    move = jax.lax.custom_linear_solve(matvec, right, solve, symmetric=True)
    dx, dy, dz = jnp.split(move, cuts)
    return (x, y, z, rest), (dx, dy, dz, jnp.zeros_like(rest))


class Reduced(NamedTuple):
    """A program without what can be decided at once."""

    q: Program
    fixed: Array  # (n,), whether lower == upper
    at: Array  # (n,), the value where it is fixed, else 0
    finite: Array  # whether all numbers are, but for infinite right sides
    proof: Multipliers  # of rows and bounds that no x satisfies; 0 without any


def _reduced(q: Program) -> Reduced:
    """Eliminate fixed variables and rows without any variable; find what cannot be satisfied."""
    n, eps = q.c.size, float(jnp.finfo(q.c.dtype).eps)
    finite = jnp.array([jnp.isfinite(v).all() for v in (q.Q, q.c, q.A, q.G)]).all()
    finite &= ~jnp.array([jnp.isnan(v).any() for v in (q.b, q.h, q.lower, q.upper)]).any()
    fixed, at, empty = jnp.zeros(n, bool), jnp.zeros(n, q.c.dtype), jnp.zeros(0, bool)
    if q.lower.size:
        empty = (q.lower > q.upper) | (q.lower == jnp.inf) | (q.upper == -jnp.inf)
        fixed = (q.lower == q.upper) & ~empty
        at = jnp.where(fixed, q.lower / 2 + q.upper / 2, 0)
        q = q._replace(
            lower=jnp.where(fixed | empty, -jnp.inf, q.lower),
            upper=jnp.where(fixed | empty, jnp.inf, q.upper),
        )

    def rest(matrix, limits, impossible):
        """Return a block without fixed variables, and what each of its rows' sum may not exceed."""
        terms = dot(jnp.abs(matrix), jnp.abs(at)) + jnp.where(impossible, 0, jnp.abs(limits))
        left = jnp.where(impossible, 0, limits) - dot(matrix, at)
        left = jnp.where(jnp.abs(left) <= 8 * eps * terms, left - jax.lax.stop_gradient(left), left)
        matrix = jnp.where(fixed, 0, matrix)
        return matrix, left, (matrix == 0).all(1)

    A, b, none = rest(q.A, q.b, jnp.isinf(q.b))
    y = jnp.where(jnp.isinf(q.b), -jnp.sign(q.b), jnp.where(none, -jnp.sign(b), 0))
    b = jnp.where(y != 0, 0, b)
    G, h, none = rest(jnp.where((q.h == jnp.inf)[:, None], 0, q.G), q.h, jnp.isinf(q.h))
    z = ((q.h == -jnp.inf) | (none & (h < 0))).astype(h.dtype)
    h = jnp.where(none | jnp.isinf(q.h), jnp.inf, h)
    square = fixed[:, None] | fixed[None]
    Q = jnp.where(square, 0, q.Q) + jnp.diag(fixed.astype(q.c.dtype))
    c = jnp.where(fixed, 0, q.c + dot(q.Q, at))
    both = empty.astype(h.dtype)
    return Reduced(
        Program(Q, c, A, b, G, h, q.lower, q.upper), fixed, at, finite,
        Multipliers(y, z, both, both),
    )  # fmt: skip


@jax.jit
def _solve_scaled(q: Program, tol: Array, limit: Array) -> Result:
    few = _reduced(q)
    scaled, (one, unit, a, g) = equilibrated(few.q)
    impossible = jnp.array([(v != 0).any() for v in few.proof]).any()
    x, y, z, (error, steps, status) = _solve(scaled, tol, jnp.where(impossible, 0, limit))
    status = jnp.where(impossible, Status.INFEASIBLE, status)
    status = jnp.where(few.finite, status, Status.NONFINITE).astype(jnp.int32)
    infeasible, endless = status == Status.INFEASIBLE, status == Status.UNBOUNDED
    rows, side = Rows.of(scaled), unit[: q.lower.size]
    inequality, upper, lower = rows.split(rows.there * z)
    exponents = Multipliers(a - one, g - one, -side - one, -side - one)
    found = Multipliers(y, inequality, lower, upper)
    # the units may leave the dtype's range; a proof and a direction have none: the largest is 1
    top = jnp.max(jnp.array([_top(v, e) for v, e in zip(found, exponents)]))
    found = Multipliers(
        *(v * power(jnp.where(infeasible, e - top, e), v.dtype) for v, e in zip(found, exponents))
    )
    found = jax.tree.map(lambda v, w: jnp.where(impossible, v, w), few.proof, found)
    x = x * power(jnp.where(endless, unit - _top(x, unit), unit), x.dtype)
    x = jnp.where(few.fixed, jnp.where(endless, 0, few.at), x)
    if q.lower.size:  # a fixed variable's bounds have what its column of the conditions lacks
        slope = jnp.where(infeasible, 0, dot(q.Q, x) + q.c)
        slope += dot(found.equality, q.A) + dot(found.inequality, jnp.where(
            (q.h == jnp.inf)[:, None], 0, q.G))  # fmt: skip
        found = found._replace(
            lower=jnp.where(few.fixed, jnp.maximum(slope, 0), found.lower),
            upper=jnp.where(few.fixed, jnp.maximum(-slope, 0), found.upper),
        )
    value = dot(x, dot(q.Q, x)) / 2 + dot(q.c, x)
    lost = (status == Status.CONVERGED) & ~jnp.isfinite(jnp.append(x, value)).all()
    status = jnp.where(lost, Status.NONFINITE, status).astype(jnp.int32)
    steps, error = steps.astype(jnp.int32), error.astype(scalar_dtype())
    return Result(x, value, error, steps, steps, status, found, None, None)


def _top(v: Array, exponent: Array) -> Array:
    """Return the exponent of the largest of some numbers times powers of 2."""
    v = jax.lax.stop_gradient(jnp.abs(v))
    logs = jnp.where(v > 0, jnp.log2(jnp.where(v > 0, v, 1)) + exponent, -jnp.inf)
    top = jnp.floor(jnp.max(logs, initial=-jnp.inf))
    return jnp.where(jnp.isfinite(top), top, 0)


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
    arrays["Q"] = automatically(lambda matrix: (matrix + matrix.T) / 2, arrays["Q"])
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
    r"""Minimize a convex quadratic function under linear equations, inequalities and bounds.

    .. math::

       \min_x \tfrac12 x^\top Q x + c^\top x \quad \text{subject to} \quad
       A x = b,\; G x \le h,\; l \le x \le u

    At a solution, with multipliers y of the equations, z of the inequalities and
    :math:`\mu_l, \mu_u` of the bounds, up to `tol`:

    .. math::

       & Q x + c + A^\top y + G^\top z + \mu_u - \mu_l = 0 \\
       & z, \mu_l, \mu_u \ge 0 \\
       & z^\top (h - G x) = \mu_l^\top (x - l) = \mu_u^\top (u - x) = 0

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
      h: array [m]; None without G. Where it is inf, the row is no constraint. Use inf for "no
        limit": 1e20, which some file formats take for it, is a number like others here.
      bounds: (lower, upper), each a number, an array [n], or None; +-inf for no bound.
      tol: largest error >= 0 that counts as none: of each equation, inequality and element of the
        gradient of the Lagrangian, and of the gap between the objective and its dual, each relative
        to the magnitudes of the terms whose sum it is, so that units do not matter. None is the
        square root of the dtype's precision: 3e-4 in float32, 1.5e-8 in float64. Most solutions
        are far more accurate, as the last two steps solve for the constraints that bind.
      max_steps: most steps, >= 0. Ten are enough for most programs; where Q is singular and there
        is no solution, about one program in 700 needs more than 100 for the proof.
      throw: see `minimize`.

    Returns:
      A `Result`. Its `state` has the `Multipliers`, and `grad_norm` is the error. With
      `Status.INFEASIBLE` the multipliers prove that no x fits:
      :math:`A^\top y + G^\top z + \mu_u - \mu_l` is 0 but for rounding, relative to its terms, and
      the sum of limits times multipliers is negative; where a single bound or row without variables
      cannot hold (lower > upper, lower = inf, 0 = 1), only its multipliers are not 0. With
      `Status.UNBOUNDED`, `params` is a direction along which the objective decreases
      without limit, and some point fits; where Q is flat along it only up to rounding, a solution
      far away is possible as well. Proof and direction have no unit: the largest element is between
      1 and 2. With `Status.LINE_SEARCH_FAILED` rounding kept the error above `tol`; the best point
      is returned. With `Status.NONFINITE` an array has NaN, or an infinity that is no limit, or the
      solution is beyond the dtype's range. No status depends on the units of the objective, rows,
      variables or right sides.
      Memory: about :math:`6 (n + p)^2 + 4 m n` numbers.

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
    result = automatically(_solve_scaled, q, tol, limit)
    return checked_result(result, "quadratic_program") if throw else result
