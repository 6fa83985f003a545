"""Run any optimizer to convergence, in one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import Optimizer, UpdateFn
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.evaluation import eval_params
from gdjax.core.numerics import cast_like
from gdjax.core.protocols import states_in
from gdjax.core.types import LossFn, Number, OptState, Pair, Params
from gdjax.projections import projection_box
from gdjax.projections.reading import Bound
from gdjax.solvers.bounds import pair_of_bounds
from gdjax.solvers.implicit import choose_solve, with_implicit_derivative
from gdjax.solvers.lbfgs import lbfgs
from gdjax.solvers.lbfgsb import lbfgsb
from gdjax.solvers.projected import projected
from gdjax.solvers.proximal_gradient import projected_gradient
from gdjax.solvers.result import Result, checked_result
from gdjax.solvers.runner import (
    call,
    converge,
    largest,
    optimality,
    small_gradient,
    start_of,
    uphill,
)
from gdjax.solvers.watch import Watch, tell


def _objective(fun: LossFn, has_aux: bool, args: tuple, params: Params) -> tuple[Array, Any]:
    """Return `(value, aux)`, the value checked."""
    value, aux = fun(params, *args), None
    if has_aux:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            kind = type(value).__name__
            raise TypeError(f"minimize(has_aux=True): fun must return (value, aux), got {kind}.")
        value, aux = value
    got = type(value).__name__
    if hasattr(value, "dtype") or isinstance(value, (int, float, complex)):
        value = jnp.asarray(value)
        if value.shape == () and jnp.issubdtype(value.dtype, jnp.floating):
            return value, aux
        got = f"{value.dtype}{list(value.shape)}"
    raise TypeError(
        f"minimize(fun=...) must return one real number, got {got}. With has_aux=True it "
        "returns (value, aux)."
    )


def _solve(
    fun: LossFn,
    update: UpdateFn,
    has_aux: bool,
    trace: int,
    params: Params,
    state: OptState,
    args: tuple,
    tol: Array,
    max_steps: Array,
    callback_id: Array | None,
) -> Result:
    objective = functools.partial(_objective, fun, has_aux, args)

    def value_fn(p):
        return objective(p)[0]

    value_and_grad, extra = functools.partial(uphill, value_fn), dict(value_fn=value_fn)
    limit = trace if trace else max_steps
    show = None if callback_id is None else functools.partial(jax.debug.callback, tell, callback_id)
    judge = small_gradient(tol)
    end = converge(value_and_grad, update, params, state, judge, limit, extra, bool(trace), show)
    final = eval_params(end.state, end.params)
    if final is not end.params:  # other weights than those that were trained
        value, grad = value_and_grad(final)
        norm = largest(optimality((s for _, s in states_in(end.state)), final, grad))
        end = dataclasses.replace(
            end, params=final, value=value, grad_norm=norm, evaluations=end.evaluations + 1
        )
    return dataclasses.replace(end, aux=objective(end.params)[1]) if has_aux else end


def _solve_implicit(
    fun: LossFn,
    solve: bool | Callable,
    update: UpdateFn,
    has_aux: bool,
    trace: int,
    params: Params,
    state: OptState,
    args: tuple,
    *rest: Any,
) -> Result:
    """Return what `_solve` returns, with derivatives by args, the state's numbers, and closures."""
    objective = functools.partial(_objective, fun, has_aux, args)
    value_and_grad = functools.partial(uphill, lambda p: objective(p)[0])
    states = [node for _, node in states_in(state)]

    def condition(p):
        return cast_like(optimality(states, p, value_and_grad(p)[1]), p)

    def run(p):
        result = _solve(fun, update, has_aux, trace, p, state, args, *rest)
        return result.params, dataclasses.replace(result, params=None, aux=None, state=None)

    grads = value_and_grad(params)[1]
    symmetric = optimality(states, params, grads) is grads
    size = sum(x.size for x in jax.tree.leaves(params))
    found, result = with_implicit_derivative(
        condition, run, params, choose_solve("minimize", solve, symmetric, size)
    )
    value, aux = objective(found)
    return dataclasses.replace(result, params=found, value=value, aux=aux)


@strict()
def minimize(
    fun: LossFn,
    params: Params,
    optimizer: Pair | None = None,
    *,
    args: tuple = (),
    bounds: tuple[Bound, Bound] | None = None,
    constraint: Callable[[Any], Any] | None = None,
    tol: Number | None = None,
    max_steps: int | Array = 1000,
    has_aux: bool = False,
    implicit_diff: bool | Callable = False,
    trace: bool = False,
    progress: bool | Callable[[Any, Any, Any], None] = False,
    throw: bool = False,
) -> Result:
    r"""Minimize a function to convergence with any optimizer, in one compiled loop.

    .. math::

       \min_x f(x), \qquad l \le x \le u \text{ or } x \in C

    It stops when no element of the gradient is larger than `tol`,

    .. math::

       \max_i |\nabla f(x)_i| \le \text{tol}

    (with constraints: of the generalized gradient :math:`x - P(x - \nabla f(x))`, with P the
    projection or proximal operator), after `max_steps` updates, when two updates in a row
    found no better point, or where the objective is not finite. Under `vmap` every lane stops
    independently. A second call with the same `fun` and shapes compiles nothing, whatever the
    numbers are; a new function, as a lambda in a loop, compiles again. As under `jax.jit`, globals
    and what `fun` closes over are read when it compiles: pass what changes in `args`.

    Args:
      fun: `fun(params, *args)` returns the objective, a real number; with `has_aux`, a pair. If it
        is a pytree, as `jax.tree_util.Partial` or an Equinox module, its arrays are data like args.
      params: the initial parameters, a tree of float or complex arrays.
      optimizer: an `(init, update)` pair; None is `lbfgs()`. Its update gets `value`, `grad` and
        `value_fn`.
      args: further arguments of `fun`, a tuple: arrays and numbers may change without a new
        compile; anything else, as functions and strings, is static.
      bounds: (lower, upper), each a number, an array, a prefix tree of those, or None for no bound.
        No point outside is evaluated. With `optimizer=None` the method is `lbfgsb`, else the
        optimizer's steps are `projected`.
      constraint: a projection, as in `gdjax.projections`: a function from a tree to the nearest
        allowed one. With `optimizer=None` the method is accelerated `projected_gradient`, else the
        optimizer's steps are `projected`.
      tol: largest gradient element >= 0 that counts as zero, in units of value per parameter. None
        is the square root of the dtype's precision: 3e-4 in float32, 1.5e-8 in float64.
      max_steps: most updates, a whole number >= 0.
      has_aux: whether `fun` returns `(value, aux)`.
      implicit_diff: whether the result can be differentiated, by the implicit function theorem,
        with respect to `args`, the optimizer's numbers, bounds, and all that `fun` closes over. It
        may be the linear solver to use, such as `jax.scipy.sparse.linalg.cg`: a function of the
        matrix, given as its product with a vector, and of the right side, a vector. True takes a
        dense solver for up to 100 parameters, else conjugate gradients, or GMRES with constraints.
        The derivative is as exact as the solution: see `tol`. The result then has no `state`.
      trace: whether to record value and gradient norm of each step; needs an int `max_steps`.
      progress: whether to show a bar (needs tqdm), or a function of (steps, value, grad_norm).
      throw: whether to raise an error unless every lane converged; only outside of `jit`.

    Returns:
      A `Result`.
      Memory: parameters, gradient, state, and one copy of each.

    Raises:
      MinimizeError: see `throw`; its `result` is what was reached.
      TypeError: if `fun` does not return a real number, or an argument is of the wrong kind.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x, target): return jnp.sum((x - target) ** 4) + jnp.sum(x ** 2)
      >>> result = gdjax.minimize(fun, jnp.zeros(2), args=(jnp.array([1.0, -2.0]),))
      >>> print(result.params.round(3), gdjax.Status(int(result.status)).name)
      [ 0.41  -1.165] CONVERGED
      >>> many = jax.vmap(lambda t: gdjax.minimize(fun, jnp.zeros(2), args=(t,)))(jnp.ones((3, 2)))
      >>> print(many.converged)
      [ True  True  True]
    """
    params, tol, limit = start_of("minimize", params, args, tol, max_steps)
    if bounds is not None or constraint is not None:
        optimizer = _constrained(optimizer, bounds, constraint, params)
    elif optimizer is None:
        optimizer = _default()
    init, update = with_extra_args_support(optimizer)
    if trace and not isinstance(max_steps, (int, np.integer)):
        raise TypeError(f"minimize(trace=True) needs an int as max_steps, got {max_steps!r}.")
    run, static = _solve, (update, has_aux, int(max_steps) if trace else 0)
    if implicit_diff:
        run, static = _solve_implicit, (implicit_diff, *static)
    given = (params, init(params), args, tol, limit)
    if progress is False:
        result = call("minimize", run, fun, static, (*given, None))
    else:
        with Watch(progress, max_steps) as watch:
            result = call("minimize", run, fun, static, (*given, watch.callback_id))
            watch.result = result
    return checked_result(result, "minimize") if throw else result


def _constrained(
    optimizer: Pair | None,
    bounds: tuple[Bound, Bound] | None,
    constraint: Callable[[Any], Any] | None,
    params: Params,
) -> Optimizer:
    """Return the optimizer that keeps the bounds, or the constraint."""
    if bounds is not None and constraint is not None:
        raise ValueError("minimize: give bounds=... or constraint=..., a projection onto both.")
    if bounds is not None:
        box = lbfgsb(*pair_of_bounds("minimize", bounds))
        if optimizer is None:
            return box
        slots = box.init(params).slots
        return projected(optimizer, projection_box, slots.lower, slots.upper)
    if not callable(constraint):
        raise TypeError(
            f"minimize(constraint=...) must be a projection, a function of the parameters, got "
            f"{constraint!r}."
        )
    if optimizer is None:
        return projected_gradient(constraint, accelerated=True)
    return projected(optimizer, constraint)


@functools.cache
def _default() -> Optimizer:
    """Return L-BFGS whose state is made in one program, not in thirty small ones."""
    init, update = lbfgs()
    return Optimizer(jax.jit(init), update)
