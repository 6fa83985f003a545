"""Nonlinear least squares, run to convergence: fits of curves to data, and systems of equations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import UpdateFn
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import POSITIVE, check_choice, strict
from gdjax.core.numerics import cast_like, compute_dtype, scalar_dtype, upcast
from gdjax.core.protocols import HasFixed, HasOptimality, ReportsFit, states_in
from gdjax.core.trees import total
from gdjax.core.types import Number, OptState, Pair, Params, PyTree
from gdjax.core.vectors import as_vector
from gdjax.projections import projection_box
from gdjax.projections.reading import Bound
from gdjax.solvers.bounded_levenberg_marquardt import bounded_levenberg_marquardt
from gdjax.solvers.bounds import pair_of_bounds
from gdjax.solvers.damped import (
    column_norms,
    largest_cosine,
    linearized,
    norm,
    rounding_error,
    term_sizes,
)
from gdjax.solvers.implicit import choose_solve, with_implicit_derivative
from gdjax.solvers.levenberg_marquardt import levenberg_marquardt
from gdjax.solvers.projected import projected
from gdjax.solvers.result import Result, Status, checked_result
from gdjax.solvers.robust import NAMES, Rho, robust
from gdjax.solvers.runner import (
    Judge,
    call,
    check_number,
    converge,
    largest,
    optimality,
    small_gradient,
    start_of,
    tolerances,
    uphill,
)
from gdjax.solvers.uncertainty import LeastSquaresResult, uncertainty


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


# --- tests of a solution, free of units -----------------------------------------------------------


def reports_fit(state: OptState) -> bool:
    """Return whether a method in the state makes the tests of a fit itself."""
    return any(isinstance(node.slots, ReportsFit) for _, node in states_in(state))


def _judge_zero(residual_fn: Callable[[Any], Any]) -> Judge:
    """Return the test of a point: whether r is 0."""

    def judge(params: Params, value: Array, grad_norm: Array) -> Array:
        r = as_vector(residual_fn(params))
        status = jnp.where(jnp.all(r == 0), Status.CONVERGED, -1)
        return jnp.where(jnp.all(jnp.isfinite(r)), status, Status.NONFINITE)

    return judge


def _judge_minimum(residual_fn: Callable[[Any], Any], state: OptState, tol: Array) -> Judge:
    """Return the test of a point: whether r is all rounding, or at a right angle to J's columns.

    A method for constraints is tested as in `minimize`.
    """
    if any(isinstance(node.slots, HasOptimality) for _, node in states_in(state)):
        return small_gradient(tol)

    def judge(params: Params, value: Array, grad_norm: Array) -> Array:
        at = linearized(residual_fn, params)
        norms = column_norms(at)
        solved = largest_cosine(at, norms) <= tol
        solved |= norm(at.value) <= rounding_error(at, params, norms)
        status = jnp.where(solved, Status.CONVERGED, -1)
        return jnp.where(jnp.all(jnp.isfinite(at.value)), status, Status.NONFINITE)

    return judge


def _judge_root(fun: Callable[[Any], Any], tol: Array) -> Judge:
    """Return the test of a point: whether fun is 0, in proportion to the terms in it."""

    def judge(params: Params, value: Array, grad_norm: Array) -> Array:
        at = linearized(fun, params)
        small = jnp.abs(at.value) <= tol * term_sizes(at)
        status = jnp.where(jnp.all(small), Status.CONVERGED, -1)
        return jnp.where(jnp.all(jnp.isfinite(at.value)), status, Status.NONFINITE)

    return judge


def _judge_fit(
    rooted: bool, tol: Array, ftol: Array, xtol: Array, fit: ReportsFit
) -> tuple[Array, Array]:
    """Return whether the point before the update is a solution; the status of that after it."""
    if rooted:  # the step is below rounding error, and |fun| has no minimum here
        rounded = (fit.step_size <= 0) & (fit.cosine > tol)
        minimum = (fit.cosine <= tol) | (fit.reduction <= 0)
        status = jnp.where(minimum, Status.LINE_SEARCH_FAILED, -1)
        return jnp.zeros((), bool), jnp.where(rounded, Status.CONVERGED, status)
    small = jnp.where(fit.step_size <= xtol, Status.SMALL_STEP, -1)
    small = jnp.where(fit.reduction <= ftol, Status.SMALL_REDUCTION, small)
    return fit.cosine <= tol, small


class Task(NamedTuple):
    """What is static in a run: which function and tests, and what is computed at the end."""

    rooted: bool  # whether equations are solved, by `root`
    loss: str | Rho = "linear"
    covariance: bool = False

    @property
    def name(self) -> str:
        """What the user called."""
        return "root" if self.rooted else "least_squares"


class Numbers(NamedTuple):
    """The numbers of a run."""

    tols: tuple[Array, Array, Array]  # tol, ftol, xtol
    limit: Array  # most updates
    f_scale: Array  # of the loss


def _solve(
    fun: Callable[..., Any],
    update: UpdateFn,
    task: Task,
    params: Params,
    state: OptState,
    args: tuple,
    numbers: Numbers,
) -> Result:
    tols, rooted, raw_fn = numbers.tols, task.rooted, _residuals(fun, task.rooted, args)
    residual_fn = robust(raw_fn, task.loss, numbers.f_scale)

    def value_and_residual(p):
        r = residual_fn(p)
        return half_squares(r), jax.tree.map(lambda x: x.astype(compute_dtype(x)), r)

    def value_alone(p):
        return half_squares(residual_fn(p)), jax.tree.map(jnp.zeros_like, upcast(p))

    def value_fn(p):
        return half_squares(residual_fn(p))

    value_and_grad = functools.partial(uphill, value_fn)
    if rooted:
        look, judge = value_and_residual, _judge_root(residual_fn, tols[0])
    elif reports_fit(state):  # it needs no gradient, and makes its own tests
        look, judge = value_alone, _judge_zero(residual_fn)
    else:
        look, judge = value_and_grad, _judge_minimum(residual_fn, state, tols[0])
    judge_fit = functools.partial(_judge_fit, rooted, *tols)
    extra: dict[str, Any] = dict(residual_fn=residual_fn, value_fn=value_fn)
    if look is value_alone:  # a point that passes the test takes no trials, nor do lanes that ended
        extra["cosine_tol"] = tols[0]
    end = converge(look, update, params, state, judge, numbers.limit, extra, judge_fit=judge_fit)
    if look is value_alone:
        states = [node for _, node in states_in(end.state)]
        slope = optimality(states, end.params, value_and_grad(end.params)[1])
        end = dataclasses.replace(end, grad_norm=largest(slope), evaluations=end.evaluations + 1)
    return end if rooted else _with_uncertainty(end, raw_fn, task, numbers, end.state)


def _with_uncertainty(
    end: Result,
    residual_fn: Callable[[Any], Any],
    task: Task,
    numbers: Numbers,
    state: OptState,
) -> LeastSquaresResult:
    """Return the result with the Jacobian's part in the covariance, if it was asked for."""
    known = None
    if task.covariance:
        at = linearized(residual_fn, end.params)
        slots = [node.slots for _, node in states_in(state)]
        fixed = [as_vector(x.fixed()) > 0 for x in slots if isinstance(x, HasFixed)]
        mask = functools.reduce(jnp.logical_or, fixed, jnp.zeros(at.point.shape, bool))
        known = uncertainty(at, residual_fn(end.params), mask, task.loss, numbers.f_scale)
    fields = {field.name: getattr(end, field.name) for field in dataclasses.fields(Result)}
    return LeastSquaresResult(**fields, uncertainty=known)


def _solve_implicit(
    fun: Callable[..., Any],
    solve: bool | Callable,
    update: UpdateFn,
    task: Task,
    params: Params,
    state: OptState,
    args: tuple,
    numbers: Numbers,
) -> Result:
    raw_fn = _residuals(fun, task.rooted, args)
    residual_fn = robust(raw_fn, task.loss, numbers.f_scale)
    states = [node for _, node in states_in(state)]

    def value_fn(p):
        return half_squares(residual_fn(p))

    def condition(p):
        if task.rooted:
            return cast_like(residual_fn(p), p)
        return cast_like(optimality(states, p, uphill(value_fn, p)[1]), p)

    def run(p):
        plain = task._replace(covariance=False)
        result = _solve(fun, update, plain, p, state, args, numbers)
        return result.params, dataclasses.replace(result, params=None, state=None)

    size = sum(x.size for x in jax.tree.leaves(params))
    symmetric = not task.rooted and not any(isinstance(s.slots, HasOptimality) for s in states)
    found, result = with_implicit_derivative(
        condition, run, params, choose_solve(task.name, solve, symmetric, size)
    )
    result = dataclasses.replace(result, params=found, value=value_fn(found))
    return result if task.rooted else _with_uncertainty(result, raw_fn, task, numbers, state)


def _start(
    task: Task,
    fun: Callable[..., Any],
    params: Params,
    optimizer: Pair,
    args: tuple,
    tol: Number | None,
    ftol: Number,
    xtol: Number,
    f_scale: Number,
    max_steps: int | Array,
    implicit_diff: bool | Callable,
    throw: bool,
) -> Result:
    optimizer = with_extra_args_support(optimizer)
    params, cosine, limit = start_of(task.name, params, args, tol, max_steps)
    small_fall, small_step = tolerances(task.name, ftol=ftol, xtol=xtol)
    state = optimizer.init(params)
    if tol is None and not task.rooted and reports_fit(state):  # exact enough for less in float32
        eps = jnp.finfo(compute_dtype(*jax.tree.leaves(params))).eps
        cosine = jnp.asarray(max(1.5e-8, 50 * float(eps)), cosine.dtype)
    numbers = Numbers((cosine, small_fall, small_step), limit, jnp.asarray(f_scale, scalar_dtype()))
    given = (params, state, args, numbers)
    if implicit_diff:
        result = call(
            task.name, _solve_implicit, fun, (implicit_diff, optimizer.update, task), given
        )
    else:
        result = call(task.name, _solve, fun, (optimizer.update, task), given)
    return checked_result(result, task.name) if throw else result


def _method(optimizer: Pair | None, bounds: tuple[Bound, Bound] | None, params: Params) -> Pair:
    """Return the optimizer of a fit, which keeps the bounds."""
    if bounds is None:
        return levenberg_marquardt() if optimizer is None else optimizer
    box = bounded_levenberg_marquardt(*pair_of_bounds("least_squares", bounds))
    if optimizer is None:
        return box
    optimizer = with_extra_args_support(optimizer)
    if reports_fit(optimizer.init(params)):
        raise ValueError(
            "least_squares: this optimizer knows of no bounds=...; leave it out, or give "
            "bounded_levenberg_marquardt(lower, upper, ...) as the optimizer, without bounds."
        )
    slots: Any = box.init(params).slots
    return projected(optimizer, projection_box, slots.lower, slots.upper)


@strict()
def least_squares(
    residual_fn: Callable[..., Any],
    params: Params,
    optimizer: Pair | None = None,
    *,
    args: tuple = (),
    bounds: tuple[Bound, Bound] | None = None,
    loss: str | Rho = "linear",
    f_scale: Number = 1.0,
    covariance: bool | None = None,
    tol: Number | None = None,
    ftol: Number = 0.0,
    xtol: Number = 0.0,
    max_steps: int | Array = 2000,
    implicit_diff: bool | Callable = False,
    throw: bool = False,
) -> LeastSquaresResult:
    r"""Minimize half the sum of squares of residuals, by default with Levenberg-Marquardt.

    .. math::

       \min_x \tfrac12 \sum_i r_i(x)^2, \qquad l \le x \le u

    With a robust `loss`, as SciPy's, it minimizes

    .. math::

       \tfrac12 \sum_i C^2 \rho(z_i), \qquad z_i = (r_i / C)^2

    with C = `f_scale` and :math:`\rho(z)` one of

    - "linear": :math:`z`
    - "soft_l1": :math:`2 (\sqrt{1 + z} - 1)`
    - "huber": :math:`z` for :math:`z \le 1`, else :math:`2 \sqrt z - 1`
    - "cauchy": :math:`\log(1 + z)`
    - "arctan": :math:`\arctan z`

    and r below is :math:`r \sqrt{\rho(z) / z}`, whose half sum of squares that is.

    It stops, with J the Jacobian of r, D the norms of its columns, and d the Gauss-Newton step:

    - `CONVERGED`: r is 0, or for all columns
      :math:`|J_j^\top r| \le \text{tol}\, \lVert J_j \rVert \lVert r \rVert`, that is no cosine of
      the angle between r and a column of J is above `tol` in magnitude;
    - `SMALL_REDUCTION`: neither the last update nor, as the linear model predicts it, d reduces
      :math:`\lVert r \rVert^2` by more than `ftol` of it, or by more than :math:`\epsilon^{3/2}`;
      or no step reduces it further, and the cosines are below :math:`\epsilon^{1/3}`, 6e-6 in
      float64;
    - `SMALL_STEP`: :math:`\lVert D d \rVert \le \text{xtol}\, \lVert D x \rVert`, or d changes r by
      no more than the rounding error of the parameters;

    after `max_steps` updates, or as `minimize` does otherwise. These are MINPACK's tests (More,
    Garbow & Hillstrom 1980), of the Gauss-Newton step in place of the step that was taken: that is
    small also where the trust region is. None depends on the start, or on units of the residuals or
    the parameters. The last two are made by `levenberg_marquardt` and `gauss_newton`; other methods
    are tested for the cosine, which takes 8 products with J^T, and those for constraints as in
    `minimize`. `result.converged` is true for all three.

    Args:
      residual_fn: `residual_fn(params, *args)` returns a tree of residuals, real or complex.
      params: the initial parameters, a tree of float or complex arrays.
      optimizer: `levenberg_marquardt()`, `gauss_newton()`, or any optimizer; None is the first.
      args: further arguments of `residual_fn`, see `minimize`.
      bounds: (lower, upper), each a number, an array, a prefix tree of those, or None for no bound.
        No point outside is evaluated; a start outside is moved to the nearest point within. With
        `optimizer=None` the method is `bounded_levenberg_marquardt`, else the optimizer's steps are
        `projected`. Only cosines of parameters that no bound holds are tested.
      loss: "linear", "soft_l1", "huber", "cauchy", "arctan", or :math:`\rho` itself, a function of
        an array z >= 0 with :math:`\rho(0) = 0` and :math:`\rho'(0) = 1`. Of a complex residual the
        magnitude counts.
      f_scale: C > 0, the size of residuals from which on they are outliers: two to three times the
        noise, in the units of the residuals. It may be traced.
      covariance: whether to compute what `result.covariance()` and `result.standard_errors()` need,
        one Jacobian, its QR decomposition and n^2 numbers; None is for up to 100 parameters.
      tol: largest magnitude >= 0 of a cosine that counts as 0; None is 1.5e-8 in float64 and 6e-6,
        50 times the precision, in float32; for methods that do not test it themselves 3e-4 in
        float32.
      ftol: relative reduction >= 0 of the sum of squares that is small.
      xtol: relative length >= 0 of a step that is small.
      max_steps: most updates, >= 0.
      implicit_diff: see `minimize`.
      throw: see `minimize`.

    Returns:
      A `Result` with the methods `covariance()` and `standard_errors()`; `value` is half the sum of
      squares, with a loss the sum above, as SciPy's `cost`. It may overflow or underflow where the
      residuals do not, which does no harm.

    Raises:
      MinimizeError: see `minimize`.
      ValueError: if a number is out of range, the loss unknown, lower > upper, or a bound does not
        fit. Residuals that are not finite at the start are no error: the status is NONFINITE.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> t = jnp.linspace(0.0, 2.0, 20)
      >>> def residual_fn(p, y): return p["a"] * jnp.exp(-p["b"] * t) - y
      >>> fit = gdjax.least_squares(residual_fn, {"a": 1.0, "b": 1.0}, args=(3 * jnp.exp(-2 * t),))
      >>> print(f"{fit.params['a']:.3f} {fit.params['b']:.3f} {fit.converged}")
      3.000 2.000 True
    """
    if not callable(loss):
        check_choice("least_squares(loss=...)", loss, NAMES)
    check_number("least_squares", "f_scale", f_scale, POSITIVE)
    if covariance is None:
        covariance = sum(jnp.size(x) for x in jax.tree.leaves(params)) <= 100
    task = Task(False, loss, covariance)
    method = _method(optimizer, bounds, params)
    result = _start(
        task, residual_fn, params, method, args, tol, ftol, xtol, f_scale, max_steps,
        implicit_diff, throw,
    )  # fmt: skip
    return cast(LeastSquaresResult, result)


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
    r"""Find a root of a function by Levenberg-Marquardt: Newton's method with global convergence.

    .. math::

       f(x) = 0

    It stops when no element of `fun` is larger than `tol` times the terms in it, with J the
    Jacobian,

    .. math::

       |f_i(x)| \le \text{tol}\, \sqrt{\sum_j (J_{ij} x_j)^2}

    or, with `levenberg_marquardt`, where Newton's step is below the rounding error. Units do not
    matter. A point where the norm of `fun` has a minimum but is not zero does not count.

    Args:
      fun: `fun(params, *args)` returns a tree of the structure and shapes of the parameters.
      params: the initial parameters, a tree of float arrays.
      optimizer: see `least_squares`.
      args: see `least_squares`.
      tol: largest element of `fun` >= 0, relative to its terms, that counts as zero; None is the
        square root of the dtype's precision.
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
    method = levenberg_marquardt() if optimizer is None else optimizer
    return _start(
        Task(True), fun, params, method, args, tol, 0.0, 0.0, 1.0, max_steps, implicit_diff, throw
    )
