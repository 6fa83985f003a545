"""Roots of functions of one number, each in a bracket, by Chandrupatla's method.

Chandrupatla (1997), https://doi.org/10.1016/S0965-9978(96)00051-8: inverse quadratic interpolation
where the last three points say that it can be trusted, bisection elsewhere.
Paper -> here: x1 -> new, x2 -> across, x3 -> last, t -> share.
Deviations, for roots at 0 or many orders below the ends: 0 is tried as soon as one end is nothing
next to the other; after as many steps as the dtype has bits, the bracket is halved by the number of
floating-point numbers in it, which ends after as many again, not after a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.checks import NONNEGATIVE, check_range
from gdjax.core.numerics import cast_like, compute_dtype, is_inexact, scalar_dtype
from gdjax.solvers.implicit import solve_diagonal, with_implicit_derivative
from gdjax.solvers.line import pick
from gdjax.solvers.program import call
from gdjax.solvers.result import Result, Status, checked_result


class Point(NamedTuple):
    """A place, and the function there."""

    x: Array
    f: Array


class Carry(NamedTuple):
    """What goes from step to step, for each equation."""

    new: Point  # the last evaluated
    across: Point  # the other end of the bracket
    last: Point  # the one before
    steps: Array  # int32
    status: Array  # int32, -1 while running


def _best(c: Carry) -> Point:
    worse = jnp.isnan(c.new.f) | (jnp.abs(c.across.f) < jnp.abs(c.new.f))
    return pick(worse, c.across, c.new)


def _near(c: Carry, tol: Array) -> Array:
    """Return the distance that counts as none, half the width of a bracket that is narrow."""
    x, info = _best(c).x, jnp.finfo(tol.dtype)
    return 0.5 * tol + info.eps * jnp.abs(x) + info.tiny


def _share(c: Carry) -> Array:
    """Return how far from `new` to `across` an inverse parabola through three points is 0."""
    (x1, f1), (x2, f2), (x3, f3) = c.new, c.across, c.last
    xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
    slopes = f1 / (f2 - f1) * f3 / (f2 - f3)
    share = slopes + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
    trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & jnp.isfinite(share)
    return jnp.where(trusted, share, 0.5).astype(x1.dtype)


def _middle(a: Array, b: Array) -> Array:
    """Return a number between a and b with as many floating-point numbers on either side."""
    signed = np.dtype(f"int{8 * a.dtype.itemsize}")
    most = np.iinfo(signed).max

    def turned(i):  # from bits to ranks and back: those of negative numbers run the other way
        return jnp.where(i < 0, i ^ most, i)

    i, j = (turned(jax.lax.bitcast_convert_type(x, signed)) for x in (a, b))
    return jax.lax.bitcast_convert_type(turned((i & j) + ((i ^ j) >> 1)), a.dtype)


def _next(c: Carry, tol: Array) -> Array:
    """Return where to look next."""
    a, b, info = c.new.x, c.across.x, jnp.finfo(tol.dtype)
    near, share = _near(c, tol), _share(c)
    x = (1 - share) * a + share * b
    x = jnp.clip(x, jnp.minimum(a, b) + near, jnp.maximum(a, b) - near)
    x = jnp.where(c.steps < info.bits, x, _middle(a, b))
    small, large = jnp.minimum(jnp.abs(a), jnp.abs(b)), jnp.maximum(jnp.abs(a), jnp.abs(b))
    zero = (jnp.sign(a) == -jnp.sign(b)) & (small < info.eps * large)  # to be found, or ruled out
    return jnp.where(c.status < 0, jnp.where(zero, 0, x), a)


def _status(c: Carry, tol: Array) -> Array:
    best, width = _best(c), jnp.abs(c.across.x - c.new.x)
    narrow = 0.5 * width <= _near(c, tol)
    status = jnp.where(narrow, Status.CONVERGED, -1)
    status = jnp.where(narrow & jnp.isinf(best.f), Status.NONFINITE, status)
    return jnp.where(best.f == 0, Status.CONVERGED, status).astype(jnp.int32)


def _status_at_start(c: Carry, tol: Array) -> Array:
    same = jnp.sign(c.new.f) == jnp.sign(c.across.f)
    status = jnp.where(same & (_best(c).f != 0), Status.NO_SIGN_CHANGE, _status(c, tol))
    known = ~jnp.isnan(c.new.f) & ~jnp.isnan(c.across.f)
    known &= jnp.isfinite(c.new.x) & jnp.isfinite(c.across.x)
    return jnp.where(known, status, Status.NONFINITE).astype(jnp.int32)


def _search(fun: Callable, lower: Array, upper: Array, tol: Array) -> Carry:
    def step(c: Carry) -> Carry:
        x = _next(c, tol)
        new = Point(x, fun(x))
        beyond = jnp.sign(new.f) != jnp.sign(c.new.f)  # the root lies between the last two
        across, last = pick(beyond, (c.new, c.across), (c.across, c.new))
        moved = Carry(new, across, last, c.steps + 1, c.status)
        moved = moved._replace(status=_status(moved, tol))
        lost = c._replace(steps=moved.steps, status=jnp.full_like(c.status, Status.NONFINITE))
        return pick(c.status < 0, pick(jnp.isnan(new.f), lost, moved), c)

    new, across = Point(lower, fun(lower)), Point(upper, fun(upper))
    zero = jnp.zeros(lower.shape, jnp.int32)
    start = Carry(new, across, across, zero, zero)
    start = start._replace(status=_status_at_start(start, tol))
    return jax.lax.while_loop(lambda c: jnp.any(c.status < 0), step, start)


def _run(fun: Callable, lower: Array, upper: Array, args: tuple, tol: Array) -> Result:
    def number(x):
        f = fun(x, *args)
        return f.astype(compute_dtype(f))

    def run(_):
        end = _search(number, lower, upper, tol)
        x, f = _best(end)
        return x, (f, end.steps, end.status)

    def condition(x):
        return cast_like(fun(x, *args), x)

    x, (f, steps, status) = with_implicit_derivative(condition, run, lower, solve_diagonal)
    return Result(x, f, jnp.abs(f), steps, steps + 2, status, None, None, None)


def _bracket(fun: Callable, bracket: Any, args: tuple, tol: Any) -> tuple[Array, Array, Array]:
    """Return both ends and the tolerance, checked, in the shape of all equations."""
    if not isinstance(bracket, tuple) or len(bracket) != 2:
        raise ValueError(f"find_root(bracket=...) must be a pair (lower, upper), got {bracket!r}.")
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
    shape = jnp.broadcast_shapes(lower.shape, upper.shape, tol.shape)
    for _ in range(2):  # what `fun` brings along may make more equations of one bracket
        f = jax.eval_shape(fun, jax.ShapeDtypeStruct(shape, dtype), *args)
        if not hasattr(f, "dtype") or not (
            jnp.issubdtype(f.dtype, jnp.floating) or jnp.issubdtype(f.dtype, jnp.integer)
        ):
            raise TypeError(f"find_root(fun=...) must return an array of real numbers, got {f}.")
        before, shape = shape, jnp.broadcast_shapes(shape, f.shape)
    if f.shape != before:
        raise ValueError(
            f"find_root(fun=...) must return one number for each element of the unknown, got shape "
            f"{f.shape} for {before}. For a system of equations use gdjax.root."
        )
    lower, upper, tol = (jnp.broadcast_to(x, shape).astype(dtype) for x in (lower, upper, tol))
    return lower, upper, tol


def find_root(
    fun: Callable,
    bracket: tuple[Any, Any],
    *,
    args: tuple = (),
    tol: Any = 0.0,
    throw: bool = False,
) -> Result:
    """Find where a function of one number is zero, or jumps over zero, between two ends.

    fun(params, *args) = 0, for each element by itself; lower <= params <= upper

    `fun` must have different signs at the ends; infinite values have one, too. It stops when the
    sign changes within `tol` of `params`, and always does: after 10 to 20 evaluations as a rule,
    66 at most in float32, 130 in float64. None is outside of the bracket. All elements are one loop
    of as many steps as the slowest takes.

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
      A `Result` of arrays, one entry for each equation: `params`, the end of the last bracket where
      |fun| is smaller; `value`, the value of `fun` there; `grad_norm`, its magnitude; `status`.
      `Status.NO_SIGN_CHANGE`: the signs at the ends are equal. `Status.NONFINITE`: `fun` was NaN.

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
    result = call("find_root", _run, fun, (), (lower, upper, args, tol))
    return checked_result(result, "find_root") if throw else result
