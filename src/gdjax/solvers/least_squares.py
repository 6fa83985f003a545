"""Nonlinear least squares, run to convergence: fits of curves to data, and systems of equations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import UpdateFn
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.numerics import cast_like, compute_dtype
from gdjax.core.trees import total
from gdjax.core.types import Number, OptState, Pair, Params, PyTree
from gdjax.solvers.implicit import choose_solve, with_implicit_derivative
from gdjax.solvers.levenberg_marquardt import levenberg_marquardt
from gdjax.solvers.result import Result, Status, checked_result
from gdjax.solvers.runner import call, converge, largest, start_of, uphill


def half_squares(residuals: PyTree) -> Array:
    """Return half the sum of |r|^2 over a tree, in at least float32."""
    return 0.5 * total(jax.tree.map(_sum_sq, residuals))


def _sum_sq(r: Array) -> Array:
    r = r.astype(compute_dtype(r))
    return jnp.sum(r.real**2 + r.imag**2 if jnp.iscomplexobj(r) else r * r)


def like_params(name: str, out: PyTree, params: Params) -> Params:
    """Return what a function returned, as arrays; raise unless it has the parameters' shapes."""
    if jax.tree.structure(out) != jax.tree.structure(params):
        raise ValueError(
            f"{name}(fun=...) must return a tree like the parameters, got "
            f"{jax.tree.structure(out)} for {jax.tree.structure(params)}."
        )
    out = jax.tree.map(jnp.asarray, out)
    shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (out, params)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name}(fun=...) must return shapes like those of the parameters, got {shapes[0]} for "
            f"{shapes[1]}."
        )
    return out


def _residuals(fun: Callable[..., Any], rooted: bool, args: tuple) -> Callable[[Any], Any]:
    """Return the residuals as a function of the parameters alone."""

    def residual_fn(p):
        out = fun(p, *args)
        if rooted:
            return like_params("root", out, p)
        if out is None:
            raise TypeError("least_squares(residual_fn=...) must return residuals, got None.")
        for r in jax.tree.leaves(out):
            if not (hasattr(r, "dtype") or isinstance(r, (int, float, complex))):
                kind = type(r).__name__
                raise TypeError(f"least_squares(residual_fn=...) must return numbers, got {kind}.")
        return jax.tree.map(jnp.asarray, out)

    return residual_fn


def _solve(
    fun: Callable[..., Any],
    update: UpdateFn,
    rooted: bool,
    params: Params,
    state: OptState,
    args: tuple,
    tol: Array,
    limit: Array,
) -> Result:
    residual_fn = _residuals(fun, rooted, args)

    def value_and_residual(p):
        r = residual_fn(p)
        return half_squares(r), jax.tree.map(lambda x: x.astype(compute_dtype(x)), r)

    def value_fn(p):
        return half_squares(residual_fn(p))

    look = value_and_residual if rooted else functools.partial(uphill, value_fn)
    extra = dict(residual_fn=residual_fn, value_fn=value_fn)
    if not rooted:  # relative to the first gradient, as its units are those of r^2 / params
        tol = tol * jnp.maximum(largest(look(params)[1]), 1)
    end = converge(look, update, params, state, tol, limit, extra)
    if not rooted:
        return end
    stuck = (end.status == Status.CONVERGED) & ~(end.grad_norm <= tol)  # a minimum of |F|, not 0
    return dataclasses.replace(end, status=jnp.where(stuck, Status.LINE_SEARCH_FAILED, end.status))


def _solve_implicit(
    fun: Callable[..., Any],
    solve: bool | Callable,
    update: UpdateFn,
    rooted: bool,
    params: Params,
    state: OptState,
    args: tuple,
    tol: Array,
    limit: Array,
) -> Result:
    name = "root" if rooted else "least_squares"
    residual_fn = _residuals(fun, rooted, args)

    def condition(p):
        if rooted:
            return cast_like(residual_fn(p), p)
        return cast_like(uphill(lambda p: half_squares(residual_fn(p)), p)[1], p)

    def run(p):
        result = _solve(fun, update, rooted, p, state, args, tol, limit)
        return result.params, dataclasses.replace(result, params=None, state=None)

    size = sum(x.size for x in jax.tree.leaves(params))
    found, result = with_implicit_derivative(
        condition, run, params, choose_solve(name, solve, not rooted, size)
    )
    return dataclasses.replace(result, params=found, value=half_squares(residual_fn(found)))


def _start(
    name: str,
    fun: Callable[..., Any],
    params: Params,
    optimizer: Pair | None,
    args: tuple,
    tol: Number | None,
    max_steps: int | Array,
    implicit_diff: bool | Callable,
    throw: bool,
) -> Result:
    optimizer = with_extra_args_support(levenberg_marquardt() if optimizer is None else optimizer)
    params, tol, limit = start_of(name, params, args, tol, max_steps)
    static, given = (optimizer.update, name == "root"), (optimizer.init(params), args, tol, limit)
    if implicit_diff:
        result = call(name, _solve_implicit, fun, (implicit_diff, *static), (params, *given))
    else:
        result = call(name, _solve, fun, static, (params, *given))
    return checked_result(result, name) if throw else result


@strict()
def least_squares(
    residual_fn: Callable[..., Any],
    params: Params,
    optimizer: Pair | None = None,
    *,
    args: tuple = (),
    tol: Number | None = None,
    max_steps: int | Array = 200,
    implicit_diff: bool | Callable = False,
    throw: bool = False,
) -> Result:
    """Minimize half the sum of squares of residuals, by default with Levenberg-Marquardt.

    min 0.5 |residual_fn(params, *args)|^2

    It stops when no element of the gradient J^T r is larger than `tol` times the largest at the
    start (or 1, if that is larger); when the decrease that the linear model predicts is below the
    rounding error of the sum; after `max_steps` updates; or as `minimize` does.

    Args:
      residual_fn: `residual_fn(params, *args)` returns a tree of residuals, real or complex.
      params: the initial parameters, a tree of float or complex arrays.
      optimizer: `levenberg_marquardt()`, `gauss_newton()`, or any optimizer; None is the first.
      args: further arguments of `residual_fn`, see `minimize`.
      tol: see above, >= 0; None is the square root of the dtype's precision.
      max_steps: most updates, >= 0.
      implicit_diff: see `minimize`.
      throw: see `minimize`.

    Returns:
      A `Result`; `value` is half the sum of squares, as SciPy's `cost`.

    Raises:
      MinimizeError: see `minimize`.
      ValueError: if a number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> t = jnp.linspace(0.0, 2.0, 20)
      >>> def residual_fn(p, y): return p["a"] * jnp.exp(-p["b"] * t) - y
      >>> fit = gdjax.least_squares(residual_fn, {"a": 1.0, "b": 1.0}, args=(3 * jnp.exp(-2 * t),))
      >>> print(f"{fit.params['a']:.3f} {fit.params['b']:.3f} {fit.converged}")
      3.000 2.000 True
    """
    return _start(
        "least_squares", residual_fn, params, optimizer, args, tol, max_steps, implicit_diff, throw
    )


@strict()
def root(
    fun: Callable[..., Any],
    params: Params,
    optimizer: Pair | None = None,
    *,
    args: tuple = (),
    tol: Number | None = None,
    max_steps: int | Array = 200,
    implicit_diff: bool | Callable = True,
    throw: bool = False,
) -> Result:
    """Find a root of a function by Levenberg-Marquardt: Newton's method with global convergence.

    fun(params, *args) = 0

    It stops when no element of `fun` is larger than `tol`. A point where |fun| has a minimum but is
    not zero ends with `Status.LINE_SEARCH_FAILED`.

    Args:
      fun: `fun(params, *args)` returns a tree of the structure and shapes of the parameters.
      params: the initial parameters, a tree of float arrays.
      optimizer: see `least_squares`.
      args: see `least_squares`.
      tol: largest element of `fun` >= 0 that counts as zero; None is the square root of the dtype's
        precision.
      max_steps: most updates, >= 0.
      implicit_diff: see `minimize`; here the default is True.
      throw: see `minimize`.

    Returns:
      A `Result`; `grad_norm` is the largest element of `fun`, `value` half its sum of squares.

    Example:
      >>> import gdjax, jax
      >>> def kepler(x, mean, e): return x - e * jax.numpy.sin(x) - mean
      >>> def anomaly(mean, e): return gdjax.root(kepler, mean, args=(mean, e), tol=1e-6).params
      >>> print(f"{anomaly(1.0, 0.5):.4f} {jax.grad(anomaly)(1.0, 0.5):.4f}")
      1.4987 1.0374
    """
    return _start("root", fun, params, optimizer, args, tol, max_steps, implicit_diff, throw)
