"""Run any optimizer to convergence, in one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, as_float_leaves, check_range
from gdjax.core.evaluation import eval_params
from gdjax.core.numerics import cast_like, compute_dtype, scalar_dtype
from gdjax.projections import projection_box
from gdjax.solvers.converge import converge, largest, uphill
from gdjax.solvers.implicit import choose_solve, with_implicit_derivative
from gdjax.solvers.lbfgs import lbfgs
from gdjax.solvers.lbfgsb import lbfgsb
from gdjax.solvers.optimality import optimality
from gdjax.solvers.projected import projected
from gdjax.solvers.projected_gradient import projected_gradient
from gdjax.solvers.result import Result, checked_result
from gdjax.training.report import Bar


def _solve(fun, update, has_aux, trace, show, params, state, args, tol, max_steps) -> Result:
    def value_fn(p):
        out = fun(p, *args)
        return out[0] if has_aux else out

    value_and_grad = uphill(value_fn)
    extra = dict(value_fn=value_fn)
    limit = trace if trace else max_steps
    end = converge(value_and_grad, update, params, state, tol, limit, extra, bool(trace), show)
    final = eval_params(end.state, end.params)
    if final is not end.params:  # other weights than those that were trained
        value, grad = value_and_grad(final)
        norm = largest(optimality(end.state, final, grad))
        end = end._replace(
            params=final, value=value, grad_norm=norm, evaluations=end.evaluations + 1
        )
    aux = fun(end.params, *args)[1] if has_aux else None
    return Result(
        end.params, end.value, end.grad_norm, end.steps, end.evaluations, end.status, end.state,
        aux, end.trace,
    )  # fmt: skip


_compiled = jax.jit(_solve, static_argnums=(0, 1, 2, 3, 4))


def _implicit(solve, fun, update, has_aux, trace, show, params, state, args, tol, limit) -> Result:
    """Return what `_solve` returns, with derivatives by args, the state's numbers, and closures."""

    def value_fn(p):
        out = fun(p, *args)
        return out[0] if has_aux else out

    def condition(p):
        _, grad = uphill(value_fn)(p)
        return cast_like(optimality(state, p, grad), p)

    def run(p):
        result = _solve(fun, update, has_aux, trace, show, p, state, args, tol, limit)
        return result.params, dataclasses.replace(result, params=None, aux=None, state=None)

    grads = uphill(value_fn)(params)[1]
    symmetric = optimality(state, params, grads) is grads
    size = sum(x.size for x in jax.tree.leaves(params))
    linear_solve = choose_solve(solve, symmetric, size)
    found, result = with_implicit_derivative(condition, run, params, linear_solve)
    value, aux = fun(found, *args) if has_aux else (fun(found, *args), None)
    return dataclasses.replace(result, params=found, value=value, aux=aux)


_compiled_implicit = jax.jit(_implicit, static_argnums=(0, 1, 2, 3, 4, 5))


def minimize(
    fun: Callable,
    params: Any,
    opt: Any = None,
    *,
    args: tuple = (),
    bounds: tuple[Any, Any] | None = None,
    constraint: Callable | None = None,
    tol: Any = None,
    max_steps: Any = 1000,
    has_aux: bool = False,
    implicit_diff: bool | Callable = False,
    trace: bool = False,
    progress: bool | Callable = False,
    throw: bool = False,
) -> Result:
    """Minimize a function to convergence with any optimizer, in one compiled loop.

    It stops when no element of the gradient is larger than `tol` (with constraints: of what stands
    for it, such as x - prox(x - grad)), after `max_steps` updates, when two updates in a row found
    no better point, or where the objective is not finite. Under `vmap` every lane ends by itself.
    A second call with the same `fun` and shapes compiles nothing, whatever the numbers are.

    Args:
      fun: `fun(params, *args)` returns the objective, a real number; with `has_aux`, a pair.
      params: a tree of float or complex arrays, where to start.
      opt: an `(init, update)` pair; None is `lbfgs()`. It is given `value`, `grad`, `value_fn`.
      args: further arguments of `fun`: arrays that may change without a new compile.
      bounds: (lower, upper), each a number, an array, a prefix tree of those, or None for no bound.
        No point outside is evaluated. With `opt=None` the method is `lbfgsb`, else `opt`'s steps
        are `projected`.
      constraint: a projection, as in `gdjax.projections`: a function from a tree to the nearest
        allowed one. With `opt=None` the method is accelerated `projected_gradient`, else `opt`'s
        steps are `projected`.
      tol: largest gradient element >= 0 that counts as zero, in units of value per parameter. None
        is the square root of the dtype's precision: 3e-4 in float32, 1.5e-8 in float64.
      max_steps: most updates, >= 0.
      has_aux: whether `fun` returns `(value, aux)`.
      implicit_diff: whether the result can be differentiated, by the implicit function theorem, by
        `args`, the optimizer's numbers, bounds, and all that `fun` closes over. It may be the
        linear solver to use, such as `jax.scipy.sparse.linalg.cg`: a function of the matrix, given
        as its product with a vector, and of the right side, a vector. True takes a dense one up to
        100 parameters, then conjugate gradients, or GMRES with constraints. The derivative is as
        exact as the solution: see `tol`. The result then has no `state`.
      trace: whether to record value and gradient norm of each step; needs an int `max_steps`.
      progress: whether to show a bar (needs tqdm), or a function of (steps, value, grad_norm).
      throw: whether to raise unless every lane converged; only outside of `jit`.

    Returns:
      A `Result`. Memory: parameters, gradient, state, and one copy of each.

    Raises:
      MinimizeError: see `throw`; its `result` is what was reached.
      TypeError: if `fun` does not return a real number.

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
    opt = _method(opt, bounds, constraint, params)
    leaves, treedef = as_float_leaves("minimize: the parameters", params)
    params = treedef.unflatten([jnp.asarray(x) for x in leaves])
    if tol is None:
        tol = float(jnp.finfo(compute_dtype(*leaves)).eps) ** 0.5
    check_range("minimize(tol=...)", tol, NONNEGATIVE)
    check_range("minimize(max_steps=...)", max_steps, NONNEGATIVE)
    if trace and not isinstance(max_steps, (int, np.integer)):
        raise TypeError(f"minimize(trace=True) needs an int as max_steps, got {max_steps!r}.")
    bar = Bar(int(max_steps), progress is True)
    show = progress if callable(progress) else functools.partial(_show, bar) if progress else None
    limit = jnp.asarray(max_steps, jnp.int32)
    tol = jnp.asarray(tol, scalar_dtype())
    static = (fun, opt.update, has_aux, int(max_steps) if trace else 0, show)
    given = (params, opt.init(params), args, tol, limit)
    inside = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(given))
    if implicit_diff:
        run = _implicit if inside else _compiled_implicit
        result = run(implicit_diff, *static, *given)
    else:
        result = (_solve if inside else _compiled)(*static, *given)
    if progress:
        jax.block_until_ready(result)
        jax.effects_barrier()
        bar.__exit__()
    return checked_result(result, "minimize") if throw else result


def _method(opt: Any, bounds: Any, constraint: Any, params: Any) -> Any:
    """Return the optimizer that does what was asked for."""
    if bounds is not None and constraint is not None:
        raise ValueError("minimize: give bounds=... or constraint=..., a projection onto both.")
    if bounds is not None:
        if not isinstance(bounds, tuple) or len(bounds) != 2:
            raise ValueError(f"minimize(bounds=...) must be a pair (lower, upper), got {bounds!r}.")
        box = lbfgsb(*bounds)
        if opt is None:
            return box
        slots = box.init(params).slots
        return projected(opt, projection_box, slots.lower, slots.upper)
    if constraint is not None:
        if opt is None:
            return projected_gradient(constraint, accelerated=True)
        return projected(opt, constraint)
    return with_extra_args_support(_default() if opt is None else opt)


@functools.cache
def _default() -> Optimizer:
    """Return L-BFGS whose state is made in one program, not in thirty small ones."""
    init, update = lbfgs()
    return Optimizer(jax.jit(init), update)


def _show(bar: Bar, steps: Any, value: Any, grad_norm: Any) -> None:
    bar.show(int(steps), value=float(value), grad_norm=float(grad_norm))
