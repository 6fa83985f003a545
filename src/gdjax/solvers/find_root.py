"""Roots of functions of one number, each in a bracket; the search is in `linalg.bracketing`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, check_range, strict
from gdjax.core.numerics import cast_like, compute_dtype, is_inexact, scalar_dtype
from gdjax.linalg.bracketing import best, bracketed_root
from gdjax.solvers.implicit import solve_diagonal, with_implicit_derivative
from gdjax.solvers.result import Result, Status, checked_result
from gdjax.solvers.runner import call

# Of each `Outcome`, from 0.
STATUS = (Status.CONVERGED, Status.NONFINITE, Status.NO_SIGN_CHANGE)


def _solve(
    fun: Callable[..., Array], lower: Array, upper: Array, args: tuple, tol: Array
) -> Result:
    def number(x):
        f = fun(x, *args)
        return f.astype(compute_dtype(f))

    def run(_):
        end = bracketed_root(number, lower, upper, tol)
        x, f = best(end)
        return x, (f, end.steps, jnp.asarray(STATUS, jnp.int32)[end.outcome])

    def condition(x):
        return cast_like(fun(x, *args), x)

    x, (f, steps, status) = with_implicit_derivative(condition, run, lower, solve_diagonal)
    return Result(x, f, jnp.abs(f), steps, steps + 2, status, None, None, None)


def _bracket(
    fun: Callable[..., Array], bracket: tuple[ArrayLike, ArrayLike], args: tuple, tol: ArrayLike
) -> tuple[Array, Array, Array]:
    """Return both ends and the tolerance, checked, in the shape of all equations."""
    if not isinstance(bracket, tuple) or len(bracket) != 2:
        raise ValueError(f"find_root(bracket=...) must be a pair (lower, upper), got {bracket!r}.")
    if not isinstance(args, (tuple, list)):
        kind = type(args).__name__
        raise TypeError(f"find_root(args=...) must be a tuple, as in args=(x,), got {kind}.")
    for x in bracket:
        if not (hasattr(x, "dtype") or isinstance(x, (int, float, complex, list, tuple))):
            raise TypeError(
                f"find_root(bracket=...) must be two real numbers or arrays, got {x!r}."
            )
    lower, upper = (jnp.asarray(x) for x in bracket)
    dtype = jnp.result_type(lower, upper)
    if jnp.issubdtype(dtype, jnp.complexfloating) or dtype == jnp.bool_:
        raise TypeError(f"find_root(bracket=...) must be two real numbers or arrays, got {dtype}.")
    for x in (lower, upper):
        if not isinstance(x, jax.core.Tracer) and not np.isfinite(np.asarray(x)).all():
            raise ValueError(
                f"find_root(bracket=...) must be finite, got {x}. Take ends that are large, or "
                "substitute the unknown."
            )
    check_range("find_root(tol=...)", tol, NONNEGATIVE)
    tol = jnp.asarray(tol)
    dtype = compute_dtype(lower, upper) if is_inexact(dtype) else scalar_dtype()
    shapes = lower.shape, upper.shape, tol.shape
    if not _broadcasts(*shapes):
        raise ValueError(
            "find_root: the ends of bracket= and tol= must have shapes that fit each other, got "
            f"{shapes}."
        )
    shape, fits = np.broadcast_shapes(*shapes), True
    for _ in range(2):  # arrays that `fun` closes over may make more equations of one bracket
        f = jax.eval_shape(fun, jax.ShapeDtypeStruct(shape, dtype), *args)
        if not hasattr(f, "dtype") or not (
            jnp.issubdtype(f.dtype, jnp.floating) or jnp.issubdtype(f.dtype, jnp.integer)
        ):
            raise TypeError(f"find_root(fun=...) must return an array of real numbers, got {f}.")
        before, fits = shape, _broadcasts(shape, f.shape)
        shape = np.broadcast_shapes(shape, f.shape) if fits else shape
    if f.shape != before or not fits:
        raise ValueError(
            f"find_root(fun=...) must return one number for each element of the unknown, got shape "
            f"{f.shape} for {before}. For a system of equations use gdjax.root."
        )
    lower, upper, tol = (jnp.broadcast_to(x, shape).astype(dtype) for x in (lower, upper, tol))
    return lower, upper, tol


def _broadcasts(*shapes: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


@strict()
def find_root(
    fun: Callable[..., Array],
    bracket: tuple[ArrayLike, ArrayLike],
    *,
    args: tuple = (),
    tol: ArrayLike = 0.0,
    throw: bool = False,
) -> Result:
    r"""Find where a function of one number is zero, or changes sign, between two ends.

    .. math::

       f(x) = 0, \qquad l \le x \le u

    for each element independently.

    `fun` must have different signs at the ends; its values there may be infinite. The search stops
    when the sign changes within `tol` of `params`. It always does: usually after 10 to 20
    evaluations, after at most 66 in float32, 130 in float64, all of them inside the bracket. All
    elements are one loop of as many steps as the slowest takes.

    The root can be differentiated by `args` and by all that `fun` closes over, through the implicit
    function theorem. Where the slope of `fun` is 0 at its root, the derivative is infinite.

    Args:
      fun: `fun(x, *args)` returns an array of x's shape, each element a function of that of x.
      bracket: (lower, upper), numbers or arrays, finite, in either order. They are cast to at
        least float32, and spread to the shape that `fun` returns: one may be for many equations.
      args: further arguments of `fun`: arrays that may change without a new compile.
      tol: largest distance >= 0 to the root, a number or an array. The dtype sets another: 2 eps
        times the root, which is added.
      throw: whether to raise unless every equation was solved; only outside of `jit`.

    Returns:
      A `Result` of arrays, one entry for each equation. `params` is the end of the last bracket
      where the magnitude of `fun` is smaller, `value` is the value of `fun` there and `grad_norm`
      its magnitude. `status` is `Status.NO_SIGN_CHANGE` if the signs at the ends are equal, and
      `Status.NONFINITE` if `fun` was NaN.

    Raises:
      MinimizeError: see `throw`.
      ValueError: if a concrete end is not finite, or `fun` returns another shape than x's.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def price(rate, years): return jnp.expm1(-rate * years) / rate + 10
      >>> def rate(years): return gdjax.find_root(price, (1e-6, 1.0), args=(years,)).params
      >>> years = jnp.array([15.0, 20.0, 30.0])
      >>> print(rate(years).round(4))
      [0.0583 0.0797 0.094 ]
      >>> print(jax.vmap(jax.grad(rate))(years).round(4))
      [0.0065 0.0027 0.0007]
    """
    lower, upper, tol = _bracket(fun, bracket, args, tol)
    result = call("find_root", _solve, fun, (), (lower, upper, args, tol))
    return checked_result(result, "find_root") if throw else result
