"""Run any optimizer to convergence, in one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.evaluation import eval_params
from gdjax.core.numerics import cast_like
from gdjax.projections import projection_box
from gdjax.solvers.converge import converge, largest, start_of, uphill
from gdjax.solvers.implicit import choose_solve, with_implicit_derivative
from gdjax.solvers.lbfgs import lbfgs
from gdjax.solvers.lbfgsb import lbfgsb
from gdjax.solvers.optimality import optimality
from gdjax.solvers.program import call
from gdjax.solvers.projected import projected
from gdjax.solvers.projected_gradient import projected_gradient
from gdjax.solvers.result import Result, checked_result
from gdjax.solvers.watch import Watch, tell


def _with_aux(fun: Callable, has_aux: bool, args: tuple) -> Callable:
    """Return the function of the parameters alone that gives value and aux."""

    def both(p):
        out = fun(p, *args)
        if not has_aux:
            return out, None
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            kind = type(out).__name__
            raise TypeError(f"minimize(has_aux=True): fun must return (value, aux), got {kind}.")
        return out

    return both


def _solve(fun, update, has_aux, trace, params, state, args, tol, max_steps, ticket) -> Result:
    both = _with_aux(fun, has_aux, args)

    def value_fn(p):
        return both(p)[0]

    value_and_grad = uphill(value_fn)
    extra = dict(value_fn=value_fn)
    limit = trace if trace else max_steps
    show = None if ticket is None else functools.partial(jax.debug.callback, tell, ticket)
    end = converge(value_and_grad, update, params, state, tol, limit, extra, bool(trace), show)
    final = eval_params(end.state, end.params)
    if final is not end.params:  # other weights than those that were trained
        value, grad = value_and_grad(final)
        norm = largest(optimality(end.state, final, grad))
        end = end._replace(
            params=final, value=value, grad_norm=norm, evaluations=end.evaluations + 1
        )
    aux = both(end.params)[1] if has_aux else None
    return Result(
        end.params, end.value, end.grad_norm, end.steps, end.evaluations, end.status, end.state,
        aux, end.trace,
    )  # fmt: skip


def _implicit(fun, solve, update, has_aux, trace, params, state, *rest) -> Result:
    """Return what `_solve` returns, with derivatives by args, the state's numbers, and closures."""
    both = _with_aux(fun, has_aux, rest[0])

    def value_fn(p):
        return both(p)[0]

    def condition(p):
        _, grad = uphill(value_fn)(p)
        return cast_like(optimality(state, p, grad), p)

    def run(p):
        result = _solve(fun, update, has_aux, trace, p, state, *rest)
        return result.params, dataclasses.replace(result, params=None, aux=None, state=None)

    grads = uphill(value_fn)(params)[1]
    symmetric = optimality(state, params, grads) is grads
    size = sum(x.size for x in jax.tree.leaves(params))
    linear_solve = choose_solve(solve, symmetric, size)
    found, result = with_implicit_derivative(condition, run, params, linear_solve)
    value, aux = both(found)
    return dataclasses.replace(result, params=found, value=value, aux=aux)


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
    A second call with the same `fun` and shapes compiles nothing, whatever the numbers are; a new
    function, as a lambda in a loop, compiles anew. As under `jax.jit`, globals and what `fun`
    closes over are read when it compiles: give what changes in `args`.

    Args:
      fun: `fun(params, *args)` returns the objective, a real number; with `has_aux`, a pair. If it
        is a pytree, as `jax.tree_util.Partial` or an Equinox module, its arrays are data like args.
      params: a tree of float or complex arrays, where to start.
      opt: an `(init, update)` pair; None is `lbfgs()`. It is given `value`, `grad`, `value_fn`.
      args: further arguments of `fun`, a tuple: arrays and numbers may change without a new
        compile; anything else, as functions and strings, is structure.
      bounds: (lower, upper), each a number, an array, a prefix tree of those, or None for no bound.
        No point outside is evaluated. With `opt=None` the method is `lbfgsb`, else `opt`'s steps
        are `projected`.
      constraint: a projection, as in `gdjax.projections`: a function from a tree to the nearest
        allowed one. With `opt=None` the method is accelerated `projected_gradient`, else `opt`'s
        steps are `projected`.
      tol: largest gradient element >= 0 that counts as zero, in units of value per parameter. None
        is the square root of the dtype's precision: 3e-4 in float32, 1.5e-8 in float64.
      max_steps: most updates, a whole number >= 0.
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
    opt = _method(opt, bounds, constraint, params)
    if trace and not isinstance(max_steps, (int, np.integer)):
        raise TypeError(f"minimize(trace=True) needs an int as max_steps, got {max_steps!r}.")
    with Watch(progress, max_steps) as watch:
        static = (opt.update, has_aux, int(max_steps) if trace else 0)
        given = (params, opt.init(params), args, tol, limit, watch.ticket)
        if implicit_diff:
            result = call("minimize", _implicit, fun, (implicit_diff, *static), given)
        else:
            result = call("minimize", _solve, fun, static, given)
        watch.result = result
    return checked_result(result, "minimize") if throw else result


def _method(opt: Any, bounds: Any, constraint: Any, params: Any) -> Any:
    """Return the optimizer that does what was asked for."""
    if bounds is not None and constraint is not None:
        raise ValueError("minimize: give bounds=... or constraint=..., a projection onto both.")
    if bounds is not None:
        if not isinstance(bounds, tuple) or len(bounds) != 2:
            raise ValueError(
                f"minimize(bounds=...) must be a pair (lower, upper), got {bounds!r}. SciPy's list "
                "of pairs is tuple(jnp.array(pairs).T)."
            )
        box = lbfgsb(*bounds)
        if opt is None:
            return box
        slots = box.init(params).slots
        return projected(opt, projection_box, slots.lower, slots.upper)
    if constraint is not None:
        if not callable(constraint):
            raise TypeError(
                f"minimize(constraint=...) must be a projection, a function of the parameters, got "
                f"{constraint!r}."
            )
        if opt is None:
            return projected_gradient(constraint, accelerated=True)
        return projected(opt, constraint)
    return with_extra_args_support(_default() if opt is None else opt)


@functools.cache
def _default() -> Optimizer:
    """Return L-BFGS whose state is made in one program, not in thirty small ones."""
    init, update = lbfgs()
    return Optimizer(jax.jit(init), update)
