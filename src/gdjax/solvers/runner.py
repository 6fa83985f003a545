"""What `minimize`, `least_squares`, `root` and `fixed_point` share: checks, the loop, its program.

`converge` is the loop. It runs any optimizer; a solver takes part by the protocols of
`gdjax.core.protocols`: what its slots have to say about the last update (`ReportsSearch`,
`ReportsNonfinite`, `ReportsFit`), value and gradient at the new parameters (`KeepsGradient`),
constraints (`HasOptimality`, `HasFeasibleSet`).

`call` compiles a run, once for each function of the user, and keeps the program for as long as that
function lives, see `gdjax.core.remember`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import State, UpdateFn
from gdjax.core.chain import apply_updates
from gdjax.core.checks import COUNT, NONNEGATIVE, Range, as_float_leaves, check_range
from gdjax.core.explicit import automatically
from gdjax.core.hyper import numbers_at
from gdjax.core.numerics import compute_dtype, scalar_dtype
from gdjax.core.protocols import (
    HasFeasibleSet,
    HasOptimality,
    ReportsFit,
    ReportsNonfinite,
    ReportsSearch,
    states_in,
)
from gdjax.core.remember import remembered, weak_functions, whole
from gdjax.core.types import OptState, P, Params, PyTree, T, TreeDef
from gdjax.solvers.line_search import known_gradient, pick
from gdjax.solvers.result import Result, Status

# --- arguments ------------------------------------------------------------------------------------


def start_of(
    name: str, params: Params, args: tuple, tol: Any, max_steps: Any
) -> tuple[Params, Array, Array]:
    """Return parameters, tolerance and step limit as arrays, or raise an error.

    Args:
      name: what the user called, for errors.
      params: the initial parameters.
      args: further arguments of the user's function.
      tol: one number >= 0, or None for the square root of the precision.
      max_steps: one whole number >= 0.
    """
    if not isinstance(args, (tuple, list)):
        kind = type(args).__name__
        raise TypeError(f"{name}(args=...) must be a tuple, as in args=(x,), got {kind}.")
    if params is None:
        raise TypeError(f"{name}(params=...) must be the initial parameters, got None.")
    leaves, treedef = as_float_leaves(f"{name}: the parameters", params)
    leaves = [jnp.asarray(x) for x in leaves]
    if tol is None:
        tol = float(jnp.finfo(compute_dtype(*leaves)).eps) ** 0.5
    (tol,) = tolerances(name, tol=tol)
    check_number(name, "max_steps", max_steps, COUNT)
    return treedef.unflatten(leaves), tol, jnp.asarray(max_steps, jnp.int32)


def tolerances(name: str, **given: Any) -> list[Array]:
    """Return tolerances as arrays, or raise an error unless each is one number >= 0."""
    for what, value in given.items():
        check_number(name, what, value, NONNEGATIVE)
    return [jnp.asarray(value, scalar_dtype()) for value in given.values()]


def check_number(name: str, what: str, value: Any, allowed: Range) -> None:
    """Raise an error unless an argument is one number in a range; traced numbers pass."""
    check_range(f"{name}({what}=...)", value, allowed)
    if callable(value) or not jax.tree_util.all_leaves([value]):
        raise TypeError(f"{name}({what}=...) must be one number, got {value!r}.")
    if np.ndim(value):
        raise TypeError(
            f"{name}({what}=...) must be one number, got an array of shape {np.shape(value)}. "
            "For several runs use jax.vmap."
        )


# --- what a state says ----------------------------------------------------------------------------


def optimality(states: Iterable[State], params: Params, grads: PyTree) -> PyTree:
    """Return the tree that vanishes at a solution, for the stop criterion and derivatives.

    Args:
      states: the states in the optimizer's state, the outer before the inner (`states_in`).
      params: the point.
      grads: the gradient of the objective there.

    Returns:
      `grads`; or, for a method with constraints or a nonsmooth term, the generalized gradient
      x - prox(x - grads). The outermost such method decides.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, grads = jnp.array([0.0, 2.0]), jnp.array([0.5, -1.0])
      >>> state = gdjax.proximal_gradient(gdjax.proximal.prox_lasso, 0.1, reg=1.0).init(x)
      >>> print(optimality([state], x, grads))  # |0.5| <= 1 at 0; -1 + 1 = 0 at 2
      [0. 0.]
    """
    for state in states:
        if isinstance(state.slots, HasOptimality):
            return state.slots.optimality(params, grads, numbers_at(state, state.count))
    return grads


def feasible(states: Iterable[State], params: Params) -> Params:
    """Return the parameters, put back into the set of the outermost method with constraints.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.array([-1.0, 2.0])
      >>> for opt in (gdjax.lbfgsb(lower=0.0), gdjax.adam(0.1)):
      ...     print(feasible([opt.init(x)], x))
      [0. 2.]
      [-1.  2.]
    """
    for state in states:
        if isinstance(state.slots, HasFeasibleSet):
            return state.slots.feasible(params)
    return params


def largest(tree: PyTree) -> Array:
    """Return the largest magnitude of an element, in the dtype of numbers; 0 of none."""
    sizes = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
    dtype = scalar_dtype()
    return functools.reduce(jnp.maximum, [x.astype(dtype) for x in sizes], jnp.zeros((), dtype))


# --- the loop -------------------------------------------------------------------------------------


class Carry(NamedTuple):
    """What the loop carries from update to update."""

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


Judge = Callable[[Params, Array, Array], Array]


def small_gradient(tol: Array) -> Judge:
    """Return the test of `minimize`: value and gradient are finite, and that is at most `tol`."""

    def judge(params: Params, value: Array, norm: Array) -> Array:
        fine = jnp.isfinite(value) & jnp.isfinite(norm)
        return jnp.where(fine, jnp.where(norm <= tol, Status.CONVERGED, -1), Status.NONFINITE)

    return judge


def uphill(value_fn: Callable[[P], Array], params: P) -> tuple[Array, P]:
    """Return value and gradient of a real function, in at least float32, the gradient uphill.

    Uphill: for complex parameters JAX returns its conjugate.
    """
    value, grad = jax.value_and_grad(value_fn)(params)
    grad = jax.tree.map(lambda g: jnp.conj(g).astype(compute_dtype(g)), grad)
    return value.astype(compute_dtype(value)), grad


def converge(
    value_and_grad: Callable[[Any], tuple[Array, Any]],
    update: UpdateFn,
    params: Params,
    state: OptState,
    judge: Judge,
    max_steps: Array | int,
    extra: dict[str, Any],
    trace: bool = False,
    show: Callable[[Array, Array, Array], None] | None = None,
    judge_fit: Callable[[ReportsFit], tuple[Array, Array]] | None = None,
) -> Result:
    """Update until the point is a solution, in one `while_loop`.

    Args:
      value_and_grad: `value_and_grad(params)`, the gradient pointing uphill.
      update: the optimizer's. It is given `value`, `grad` and what is in `extra`.
      params: the initial parameters.
      state: the optimizer's state there.
      judge: `judge(params, value, norm)` returns the status at a point, -1 where it is no solution;
        `norm` is the largest magnitude of the (generalized) gradient. See `small_gradient`.
      max_steps: most updates.
      extra: extra arguments of `update` that do not change, such as `value_fn`.
      trace: whether to record each step; `max_steps` must then be an int.
      show: called with the arrays steps, value and norm after each update.
      judge_fit: for methods that report a fit: returns whether the point before the update was a
        solution, and the status of the point after it.
    """

    def look(states, params, value, grad):
        norm = largest(optimality(states, params, grad))
        return norm, judge(params, value, norm).astype(jnp.int32)

    def any_of(flags):
        return functools.reduce(jnp.logical_or, flags, jnp.zeros((), bool))

    def step(c: Carry) -> Carry:
        given = dict(value=c.value, grad=c.grad, **extra)
        updates, state = update(c.grad, c.state, c.params, **given)
        states = [node for _, node in states_in(state)]
        reports = [node.slots for node in states]
        params = feasible(states, apply_updates(c.params, updates))
        evaluations = sum([s.evals for s in reports if isinstance(s, ReportsSearch)], c.evaluations)
        known = known_gradient(state)
        if known is not None:
            value, grad = known.value, known.grad
        else:
            value, grad = value_and_grad(params)
            evaluations += 1
        value = value.astype(c.value.dtype)
        grad = jax.tree.map(lambda g, old: g.astype(old.dtype), grad, c.grad)
        norm, status = look(states, params, value, grad)
        was_solved = jnp.zeros((), bool)
        if judge_fit is not None:
            for fit in (s for s in reports if isinstance(s, ReportsFit)):
                was_solved, now = judge_fit(fit)
                status = jnp.where(status < 0, now, status)
        status = jnp.where(was_solved, Status.CONVERGED, status).astype(jnp.int32)
        stuck = any_of(s.failed for s in reports if isinstance(s, ReportsSearch))
        failures = jnp.where(stuck, c.failures + 1, 0)
        nonfinite = any_of(s.nonfinite for s in reports if isinstance(s, ReportsNonfinite))
        nonfinite |= ~jnp.isfinite(norm * norm)
        verdict = jnp.where(nonfinite, Status.NONFINITE, Status.LINE_SEARCH_FAILED)
        failed = (status < 0) & (failures >= 2)  # after the first, a solver may restart
        status = jnp.where(failed, verdict, status).astype(jnp.int32)
        keep = ((status == Status.NONFINITE) & ~failed) | was_solved
        new, old = (params, value, grad, norm), (c.params, c.value, c.grad, c.grad_norm)
        params, value, grad, norm = pick(keep, old, new)
        if known is None:  # a solver's own state is never nonfinite; to select it takes copies
            state = pick(keep, c.state, state)
        steps = c.steps + 1
        record = c.trace
        if trace:
            before = dict(value=c.value, grad_norm=c.grad_norm)
            record = {k: record[k].at[c.steps].set(v) for k, v in before.items()}
        if show is not None:
            show(steps, value, norm)
        return Carry(params, state, value, grad, norm, steps, evaluations, failures, status, record)

    states = [node for _, node in states_in(state)]
    params = feasible(states, params)
    value, grad = value_and_grad(params)
    norm, status = look(states, params, value, grad)
    record = None
    if trace:
        nans = jnp.full(int(max_steps), jnp.nan)
        record = dict(value=nans.astype(value.dtype), grad_norm=nans.astype(norm.dtype))
    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
    start = Carry(params, state, value, grad, norm, zero, one, zero, status, record)
    end = jax.lax.while_loop(lambda c: (c.status < 0) & (c.steps < max_steps), step, start)
    status = jnp.where(end.status < 0, Status.STEP_LIMIT, end.status)
    return Result(
        end.params, end.value, end.grad_norm, end.steps, end.evaluations, status, end.state, None,
        end.trace,
    )  # fmt: skip


# --- the program ----------------------------------------------------------------------------------

ARRAYS = (jax.Array, np.ndarray, np.generic)
NUMBERS = (*ARRAYS, bool, int, float, complex)


def call(
    name: str, run: Callable[..., T], fun: Callable, static: tuple[Hashable, ...], given: tuple
) -> T:
    """Return `run(fun, *static, *given)`, compiled unless the caller's trace compiles it anyway.

    Args:
      name: of the public function, for errors.
      run: a function of a module.
      fun: the user's function. If it is a pytree, as `jax.tree_util.Partial` or an Equinox module,
        its arrays are data: new ones compile nothing.
      static: functions, booleans and strings.
      given: trees of arrays and numbers, which are data; everything else in them is static.
    """
    if not callable(fun):
        raise TypeError(f"{name} needs a function, got {fun!r}.")
    # `jit` and `scan` record every operation, also on constants, and a nested program would only
    # cost more time to trace. `vmap` and `grad` outside of them do not: there a run needs a program
    # of its own, else it would be compiled at every call.
    if isinstance(jnp.zeros(()), jax.core.Tracer):
        return _run(run, fun, static, given)
    if isinstance(fun, types.MethodType) and not jax.tree_util.all_leaves([fun.__self__]):
        fun = jax.tree_util.Partial(fun.__func__, fun.__self__)
    tree = None if jax.tree_util.all_leaves([fun]) else fun
    with weak_functions() as functions:
        leaves, treedef = jax.tree.flatten((tree, given))
    own = len(jax.tree.leaves(tree))  # of the function only arrays are data, numbers are not
    is_data = [isinstance(x, ARRAYS if i < own else NUMBERS) for i, x in enumerate(leaves)]
    data = [x if yes else None for x, yes in zip(leaves, is_data, strict=True)]
    others = tuple(None if yes else x for x, yes in zip(leaves, is_data, strict=True))
    structure = (treedef, others, static)
    _check_hashable(name, fun if tree is None else None, structure)
    program = _program(run, None if tree is not None else fun, *structure, tuple(functions))
    with weak_functions():
        return program(data)


@remembered
def _program(
    run: Callable,
    fun: Callable | None,
    treedef: TreeDef,
    others: tuple[Any, ...],
    static: tuple[Hashable, ...],
    functions: tuple[Callable, ...],
) -> Callable:
    """Return the program of a run: of its arguments' arrays and numbers, the rest being given.

    Args:
      run: see `call`.
      fun: the user's function, or None if it is a pytree, the first of the tree.
      treedef: the structure of the function (or None) and the arguments.
      others: their leaves that are no data, None for those that are.
      static: see `call`.
      functions: those in `treedef`.
    """

    def program(data: list) -> Any:
        parts = zip(data, whole(others), strict=True)
        tree, given = treedef.unflatten([other if x is None else x for x, other in parts])
        return _run(run, fun if tree is None else tree, static, given)

    program.__name__ = program.__qualname__ = run.__name__
    return jax.jit(program)


def _run(run: Callable[..., T], fun: Any, static: tuple[Hashable, ...], given: tuple) -> T:
    def whole_run(params, fun, *rest):
        return run(fun, *static, params, *rest)

    return automatically(whole_run, given[0], fun, *given[1:])


def _check_hashable(name: str, fun: Any, structure: tuple) -> None:
    """Raise if nobody can say whether a program may be used again."""
    try:
        hash(fun)
    except TypeError as error:
        raise TypeError(
            f"{name}: the function {fun!r} cannot be hashed ({error}). Give it as a function, or "
            "make its class a pytree (jax.tree_util.register_dataclass), whose arrays are data."
        ) from error
    try:
        hash(structure)
    except TypeError as error:
        raise TypeError(
            f"{name}: what is no array or number in args, or in a function that is a pytree, must "
            f"be hashable, as functions and strings are ({error})."
        ) from error
