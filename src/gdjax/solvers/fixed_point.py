"""Fixed points: plain iteration, and Anderson's acceleration of it as a pair.

Anderson (1965), https://doi.org/10.1145/321296.321305; type II, as in Walker & Ni (2011),
https://doi.org/10.1137/10078356X, section 2, and jaxopt's `AndersonAcceleration`.
Paper -> here: f_k = g(x_k) - x_k -> minus the gradients, m_k -> history_size, beta_k -> mixing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, UpdateFn
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, POSITIVE, check_integer, checked, strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like, compute_dtype
from gdjax.core.trees import derived
from gdjax.core.types import Number, OptState, Pair, Params, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.solvers.implicit import choose_solve, with_implicit_derivative
from gdjax.solvers.least_squares import half_squares, like_params
from gdjax.solvers.result import Result, checked_result
from gdjax.solvers.runner import call, converge, small_gradient, start_of


class Past(NamedTuple):
    """The slots of Anderson's method; rows are changes, the newest last, 0 where unused."""

    params: Array  # (n,) x of the last update
    residual: Array  # (n,) f there
    steps: Array  # (m, n) changes of x
    changes: Array  # (m, n) changes of f


def _anderson(grads, slots, params, count, *, mixing, ridge, raw_params):
    if params is None:
        raise ValueError(f"anderson needs {NEEDS_PARAMS}")
    dtype = slots.steps.dtype
    x, f = as_vector(raw_params).astype(dtype), -as_vector(grads).astype(dtype)
    if not x.size:
        return grads, slots
    later = count > 1
    steps = jnp.concatenate([slots.steps[1:], jnp.where(later, x - slots.params, 0)[None]])
    changes = jnp.concatenate([slots.changes[1:], jnp.where(later, f - slots.residual, 0)[None]])
    gram = changes @ changes.T
    size = jnp.trace(gram)
    weight = ridge.astype(dtype) * size + jnp.where(size > 0, 0, 1)
    gamma = jnp.linalg.solve(gram + weight * jnp.eye(gram.shape[0], dtype=dtype), changes @ f)
    beta = mixing.astype(dtype)
    step = beta * f - gamma @ (steps + beta * changes)
    step = jnp.where(jnp.isfinite(step).all(), step, beta * f)
    return as_tree(step, grads), Past(x, f, steps, changes)


def _no_past(history_size: int, params: Params) -> Past:
    x = jnp.zeros_like(derived(as_vector, params))
    rows = jnp.zeros((history_size, x.size), x.dtype)
    return Past(x, jnp.zeros_like(x), rows, jnp.zeros_like(rows))


@checked(mixing=POSITIVE, ridge=NONNEGATIVE)
def anderson(history_size: int = 5, mixing: Scalar = 1.0, ridge: Scalar = 1e-10) -> Optimizer:
    r"""Accelerate a fixed-point iteration by a least-squares fit to the last steps.

    With :math:`f_t = -g_t` (for a fixed point, T(x) - x), and the last changes of x and f as the
    columns of :math:`\Delta X` and :math:`\Delta F`:

    .. math::

       \gamma &= \arg\min_\gamma \lVert f_t - \Delta F\, \gamma \rVert \\
       x_{t+1} &= x_t + \beta f_t - (\Delta X + \beta \Delta F)\, \gamma

    Args:
      history_size: how many changes to keep, >= 1.
      mixing: :math:`\beta` > 0, factor of f.
      ridge: regularization >= 0 of the fit, relative to the trace of
        :math:`\Delta F^\top \Delta F`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 (2 history_size + 2) bytes per element.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> result = gdjax.fixed_point(jnp.cos, 1.0, gdjax.anderson(2), tol=1e-6)
      >>> print(f"{result.params:.5f} {result.steps < 10}")  # plain iteration: more than 30 steps
      0.73909 True
    """
    size = check_integer("anderson(history_size=...)", history_size)
    slots = functools.partial(_no_past, size)
    return treewise(_anderson, slots, dict(mixing=mixing, ridge=ridge), name="anderson")


def _change(fun: Callable[..., Any], params: Params, args: tuple) -> Params:
    new = like_params("fixed_point", fun(params, *args), params)
    return jax.tree.map(lambda x, y: x - y, params, new)


def _solve(
    fun: Callable[..., Any],
    update: UpdateFn,
    params: Params,
    state: OptState,
    args: tuple,
    tol: Array,
    limit: Array,
) -> Result:
    def look(p):
        f = jax.tree.map(lambda x: x.astype(compute_dtype(x)), _change(fun, p, args))
        return half_squares(f), f

    return converge(look, update, params, state, small_gradient(tol), limit, {})


def _solve_implicit(
    fun: Callable[..., Any],
    solve: bool | Callable,
    update: UpdateFn,
    params: Params,
    state: OptState,
    args: tuple,
    tol: Array,
    limit: Array,
) -> Result:
    def condition(p):
        return cast_like(_change(fun, p, args), p)

    def run(p):
        result = _solve(fun, update, p, state, args, tol, limit)
        return result.params, dataclasses.replace(result, params=None, state=None)

    size = sum(x.size for x in jax.tree.leaves(params))
    linear_solve = choose_solve("fixed_point", solve, False, size)
    found, result = with_implicit_derivative(condition, run, params, linear_solve)
    return dataclasses.replace(result, params=found)


@strict()
def fixed_point(
    fun: Callable[..., Any],
    params: Params,
    optimizer: Pair | None = None,
    *,
    args: tuple = (),
    tol: Number | None = None,
    max_steps: int | Array = 1000,
    implicit_diff: bool | Callable = True,
    throw: bool = False,
) -> Result:
    """Find a fixed point of a function by Anderson's accelerated iteration.

    .. math::

       f(x) = x

    It stops when no element changes by more than `tol`.

    Args:
      fun: `fun(params, *args)` returns a tree of the structure and shapes of the parameters.
      params: the initial parameters, a tree of float arrays.
      optimizer: any optimizer; it gets params - fun(params) as the gradient. None is `anderson()`;
        `gradient_descent(1.0)` is plain iteration.
      args: further arguments of `fun`, see `minimize`.
      tol: largest change >= 0 that counts as none; None is the square root of the dtype's
        precision.
      max_steps: most updates, >= 0.
      implicit_diff: see `minimize`; here the default is True.
      throw: see `minimize`.

    Returns:
      A `Result`; `grad_norm` is the largest change, `value` half the sum of squares of all.

    Example:
      >>> import gdjax, jax
      >>> def heron(x, a): return 0.5 * (x + a / x)  # the square root
      >>> def root(a): return gdjax.fixed_point(heron, 1.0, args=(a,), tol=1e-6).params
      >>> print(f"{root(2.0):.4f} {jax.grad(root)(2.0):.4f}")  # 1 / (2 sqrt(2))
      1.4142 0.3536
    """
    optimizer = with_extra_args_support(anderson() if optimizer is None else optimizer)
    params, tol, limit = start_of("fixed_point", params, args, tol, max_steps)
    given = (params, optimizer.init(params), args, tol, limit)
    if implicit_diff:
        result = call("fixed_point", _solve_implicit, fun, (implicit_diff, optimizer.update), given)
    else:
        result = call("fixed_point", _solve, fun, (optimizer.update,), given)
    return checked_result(result, "fixed_point") if throw else result
