"""Run any optimizer to convergence, in one loop on the device.

How a solver takes part: its slots may hold `value` and `grad`, those at the new parameters, which
are then not computed again; `evals`, what the last update evaluated; `failed`, whether it found no
better point; `nonfinite`, whether it met a value that was not finite; `settled`, whether no step
can change the value by more than rounding; and methods `optimality` and `feasible`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import State, is_state
from gdjax.core.chain import apply_updates, with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, as_float_leaves, check_range
from gdjax.core.evaluation import eval_params
from gdjax.core.numerics import cast_like, compute_dtype, scalar_dtype
from gdjax.projections import projection_box
from gdjax.solvers.implicit import choose_solve, with_implicit_derivative
from gdjax.solvers.lbfgs import lbfgs
from gdjax.solvers.lbfgsb import lbfgsb
from gdjax.solvers.line import found_in, pick
from gdjax.solvers.optimality import feasible, optimality
from gdjax.solvers.projected import projected
from gdjax.solvers.proximal_gradient import projected_gradient
from gdjax.training.report import Bar


class Status(enum.IntEnum):
    """How a minimization ended."""

    CONVERGED = 0
    STEP_LIMIT = 1
    LINE_SEARCH_FAILED = 2
    NONFINITE = 3


MEANING = {
    Status.STEP_LIMIT: "max_steps was reached before the gradient was small; raise it, or tol",
    Status.LINE_SEARCH_FAILED: "no better point was found along a descent direction; the gradient "
    "may be wrong, the objective not smooth, or tol below what the dtype can resolve",
    Status.NONFINITE: "the objective or its gradient is not finite, at the start or wherever a "
    "step may lead; it may be unbounded below",
}


class MinimizeError(RuntimeError):
    """A minimization did not converge; `result` is what it reached."""

    result: Result


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "params", "value", "grad_norm", "steps", "evaluations", "status", "state", "aux", "trace"
    ],
    meta_fields=[],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Result:
    """What `minimize` returns: a pytree of arrays, with a leading axis of lanes under `vmap`.

    Attributes:
      params: the best parameters; never worse than the last finite ones.
      value: the objective there.
      grad_norm: the largest magnitude in the gradient there, or in what stands for it with
        constraints: zero at a solution.
      steps: updates done, int32.
      evaluations: of the objective, most with its gradient, int32.
      status: a `Status`, int32.
      state: the optimizer's last state.
      aux: what `fun` returned besides, at `params`; None without `has_aux`.
      trace: with `trace=True` a dict of "value" and "grad_norm" before each update, (max_steps,),
        NaN after the last; else None.
    """

    params: Any
    value: Array
    grad_norm: Array
    steps: Array
    evaluations: Array
    status: Array
    state: Any
    aux: Any
    trace: Any

    @property
    def converged(self) -> Array:
        """Whether the status is `Status.CONVERGED`."""
        return self.status == Status.CONVERGED


class Carry(NamedTuple):
    """What goes from update to update."""

    params: Any
    state: Any
    value: Array
    grad: Any
    grad_norm: Array
    steps: Array
    evaluations: Array
    failures: Array  # updates in a row that found no better point
    status: Array  # -1 while running
    trace: Any


def largest(tree: Any) -> Array:
    """Return the largest magnitude of an element, in the dtype of numbers; 0 of none."""
    sizes = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
    dtype = scalar_dtype()
    return functools.reduce(jnp.maximum, [x.astype(dtype) for x in sizes], jnp.zeros((), dtype))


def slots_in(state: Any) -> list[Any]:
    """Return the slots of every optimizer in a state."""
    found = []
    for node in jax.tree.leaves(state, is_leaf=is_state):
        if isinstance(node, State):
            found += [node.slots, *slots_in(node.slots)]
    return found


def reported(state: Any, name: str) -> Array:
    """Return the sum of what the slots in a state report under a name."""
    values = [getattr(slots, name) for slots in slots_in(state) if hasattr(slots, name)]
    return functools.reduce(jnp.add, [jnp.asarray(v, jnp.int32) for v in values], jnp.int32(0))


def uphill(value_fn: Callable) -> Callable:
    """Return `value_and_grad` of a real function, at least float32, its gradient uphill."""

    def number(params):
        value = jnp.asarray(value_fn(params))
        if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"minimize(fun=...) must return one real number, got {value.dtype}"
                f"{list(value.shape)}. With has_aux=True it returns (value, aux)."
            )
        return value

    def value_and_grad(params):
        value, grad = jax.value_and_grad(number)(params)
        grad = jax.tree.map(lambda g: jnp.conj(g).astype(compute_dtype(g)), grad)
        return value.astype(compute_dtype(value)), grad

    return value_and_grad


def converge(
    value_and_grad: Callable,
    update: Callable,
    params: Any,
    state: Any,
    tol: Array,
    max_steps: Any,
    extra: dict[str, Any],
    trace: bool = False,
    show: Callable | None = None,
) -> Carry:
    """Update until the gradient is small, in one `while_loop`.

    Args:
      value_and_grad: `value_and_grad(params)`, the gradient pointing uphill.
      update: the optimizer's. It is given `value`, `grad` and what is in `extra`.
      params: where to start.
      state: the optimizer's state there.
      tol: largest magnitude in the gradient that is small.
      max_steps: most updates.
      extra: extra arguments of `update` that do not change, such as `value_fn`.
      trace: whether to record each step; `max_steps` must then be an int.
      show: called on the host with steps, value and norm after each update.
    """

    def look(params, state, value, grad):
        norm = largest(optimality(state, params, grad))
        fine = jnp.isfinite(value) & jnp.isfinite(norm)
        status = jnp.where(norm <= tol, Status.CONVERGED, -1)
        return norm, jnp.where(fine, status, Status.NONFINITE).astype(jnp.int32)

    def unfinished(c: Carry) -> Array:
        return (c.status < 0) & (c.steps < max_steps)

    def step(c: Carry) -> Carry:
        given = dict(value=c.value, grad=c.grad, **extra)
        updates, state = update(c.grad, c.state, c.params, **given)
        params = feasible(state, apply_updates(c.params, updates))
        kept, evaluations = found_in(state), reported(state, "evals")
        if len(kept) == 1:
            value, grad = kept[0].value, kept[0].grad
        else:
            value, grad = value_and_grad(params)
            evaluations += 1
        value = value.astype(c.value.dtype)
        grad = jax.tree.map(lambda g, old: g.astype(old.dtype), grad, c.grad)
        norm, status = look(params, state, value, grad)
        settled = (status < 0) & (reported(state, "settled") > 0)
        status = jnp.where(settled, Status.CONVERGED, status).astype(jnp.int32)
        failures = jnp.where(reported(state, "failed") > 0, c.failures + 1, 0)
        met = (reported(state, "nonfinite") > 0) | ~jnp.isfinite(norm * norm)
        verdict = jnp.where(met, Status.NONFINITE, Status.LINE_SEARCH_FAILED)
        failed = (status < 0) & (failures >= 2)  # after the first, a solver may start afresh
        status = jnp.where(failed, verdict, status).astype(jnp.int32)
        keep = (status == Status.NONFINITE) & ~failed
        new, old = (params, value, grad, norm), (c.params, c.value, c.grad, c.grad_norm)
        params, value, grad, norm = pick(keep, old, new)
        if len(kept) != 1:  # a solver's own state is never nonfinite; to select it takes copies
            state = pick(keep, c.state, state)
        steps = c.steps + 1
        record = c.trace
        if trace:
            before = dict(value=c.value, grad_norm=c.grad_norm)
            record = {k: record[k].at[c.steps].set(v) for k, v in before.items()}
        if show is not None:
            jax.debug.callback(show, steps, value, norm)
        evaluations = c.evaluations + evaluations
        return Carry(params, state, value, grad, norm, steps, evaluations, failures, status, record)

    params = feasible(state, params)
    value, grad = value_and_grad(params)
    norm, status = look(params, state, value, grad)
    record = None
    if trace:
        nans = jnp.full(int(max_steps), jnp.nan)
        record = dict(value=nans.astype(value.dtype), grad_norm=nans.astype(norm.dtype))
    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
    start = Carry(params, state, value, grad, norm, zero, one, zero, status, record)
    end = jax.lax.while_loop(unfinished, step, start)
    return end._replace(status=jnp.where(end.status < 0, Status.STEP_LIMIT, end.status))


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
        linear solver to use; True takes a dense one up to 100 parameters, then conjugate gradients,
        or GMRES with constraints. The derivative is as exact as the solution: see `tol`. The result
        then has no `state`.
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
    return checked_result(result) if throw else result


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


_default = functools.cache(lbfgs)


def _show(bar: Bar, steps: Any, value: Any, grad_norm: Any) -> None:
    bar.show(int(steps), value=float(value), grad_norm=float(grad_norm))


def checked_result(result: Result) -> Result:
    """Return the result, or raise if a lane did not converge."""
    if isinstance(result.status, jax.core.Tracer):
        raise TypeError(
            "minimize(throw=True) cannot raise under jit, vmap or grad: look at result.status "
            "there."
        )
    status = np.ravel(np.asarray(result.status))
    bad = np.flatnonzero(status != Status.CONVERGED)
    if bad.size:
        first = Status(int(status[bad[0]]))
        lanes = (
            f"{bad.size} of {status.size} lanes; the first, lane {bad[0]}: "
            if result.status.ndim
            else ""
        )
        error = MinimizeError(f"minimize: {lanes}{first.name}: {MEANING[first]}.")
        error.result = result
        raise error
    return result
