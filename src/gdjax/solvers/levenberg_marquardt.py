"""Levenberg-Marquardt: each step minimizes the linear model of the residuals in a trust region.

More (1978), "The Levenberg-Marquardt algorithm: implementation and theory",
https://doi.org/10.1007/BFb0067700, as in MINPACK's lmder (More, Garbow & Hillstrom 1980, "User
guide for MINPACK-1", ANL-80-74); the step itself is in `gdjax.solvers.damped`.
Paper -> here: Delta -> radius, alpha -> damping, rho -> gain, D -> scale, mu -> factor.
Deviations: an update tries until it makes progress; the decrease is <r - r_new, r + r_new>, which
has more digits than the difference of two sums; a step whose gain is all rounding error is taken
and leaves the region as it is (cf. Conn, Gould & Toint 2000, section 17.4.2), else float32 would
refuse good steps near the minimum; what MINPACK's tests on reduction and step ask of the step, is
asked of the Gauss-Newton step here, so that a small region is no proof of a minimum; a start at 0
has a region as large as its residual.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.base import Optimizer
from gdjax.core.checks import POSITIVE, WHOLE, check_choice, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.on_batch import on_batch
from gdjax.core.trees import zero, zeros_like
from gdjax.core.types import Params, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.linalg.damped import check_preconditioner
from gdjax.solvers.damped import (
    FORMS,
    Linearized,
    Step,
    check_block_size,
    column_norms,
    form_of,
    jacobian,
    largest_cosine,
    linearized,
    norm,
    path_bend,
    preconditioned,
    rounding_error,
    spectrum,
    steps_by_cg,
    steps_by_qr,
    steps_by_spectrum,
)

MOST_BEND = 0.75  # of |D a| / |D d|


class Region(NamedTuple):
    """The slots of Levenberg-Marquardt."""

    radius: Array  # Delta, of the region of the next update, in units of the residuals
    damping: Array  # the last alpha, a first guess of the next
    scale: Any  # D, the largest norm so far of each column of J, shaped like the parameters
    evals: Array  # residual evaluations of the last update, int32
    failed: Array  # whether the last update found no better point
    cosine: Array  # largest |cosine| of r and a column of J, before the last update
    reduction: Array  # relative, of |r|^2 by the last update; see `gdjax.core.protocols`
    step_size: Array  # relative, of the Gauss-Newton step; see `gdjax.core.protocols`


class Trial(NamedTuple):
    """One radius that was tried."""

    radius: Array
    damping: Array
    d: Array
    evals: Array
    accepted: Array
    stuck: Array
    reduction: Array
    step_size: Array


def gain_ratio(decrease: Array, predicted: Array, noise: ArrayLike) -> Array:
    """Return decrease / predicted, or 1/2, which leaves a region as it is, where both are noise."""
    blind = (jnp.abs(decrease) <= noise) & (predicted <= noise)
    ratio = decrease / jnp.where(predicted > 0, predicted, 1)
    return jnp.where(blind, 0.5, jnp.where(predicted > 0, ratio, 0))


def relative_reduction(full_fall: Array, decrease: Array, gain: Array) -> Array:
    """Return the largest of both reductions of |r|^2; 0 below eps^1.5.

    Args:
      full_fall: what the linear model predicts for the Gauss-Newton step, relative to |r|^2.
      decrease: what the last step did.
      gain: decrease / prediction of the last step; above 2 the model is not to be trusted.
    """
    most = jnp.where(gain <= 2, jnp.maximum(full_fall, jnp.abs(decrease)), jnp.inf)
    return jnp.where(most <= jnp.finfo(most.dtype).eps ** 1.5, 0, most)


def relative_step(
    at: Linearized, params: Params, norms: Array, fall: Array, length: Array
) -> Array:
    """Return the length of the Gauss-Newton step over that of x; 0 below the rounding error of r.

    Args:
      at: the point x.
      params: the parameters there, a tree.
      norms: D of the norm |D x|.
      fall: the square of how the step changes r; at most |r|^2, where it is not known.
      length: |D d| of the step d.
    """
    size, change = norm(norms * at.point), jnp.minimum(jnp.sqrt(fall), norm(at.value))
    relative = jnp.where(size > 0, length / jnp.where(size > 0, size, 1), jnp.inf)
    return jnp.where(change <= rounding_error(at, params, norms), 0, relative)


def try_radii(
    at: Linearized,
    params: Params,
    solve: Callable[[Array, Array], Step],
    place: Callable[[Array], Array],
    scale: Array,
    norms: Array,
    near: Array,
    level: Array,
    first: Array,
    radius: Array,
    damping: Array,
    max_tries: Array,
    bend: Callable[[Array, Array], Array] | None = None,
) -> Trial:
    """Return the first radius whose step makes the sum of squares smaller, or the last one tried.

    Args:
      at: the point x.
      params: the parameters there, a tree.
      solve: the step for a radius and a first guess of the damping.
      place: the point that a step leads to, as it is rounded.
      scale: D.
      norms: the norms of the columns of J.
      near: whether the cosines are so small that a step without reduction shows a minimum.
      level: whether J is nearly 0, in units of what it was.
      first: whether this is the first update: the step bounds the radius.
      radius: the first one.
      damping: the guess for it.
      max_tries: most radii.
      bend: the acceleration of a step and its damping, or None for straight steps.
    """
    x, r = at.point, at.value
    eps, value = jnp.finfo(x.dtype).eps, jnp.vdot(r, r)

    def attempt(t: Trial) -> Trial:
        s = solve(t.radius, t.damping)
        straight = jnp.ones((), bool)
        if bend is not None:
            a = bend(s.d, s.damping)
            straight = norm(scale * a) <= MOST_BEND * norm(scale * s.d)
            s = s._replace(d=s.d + jnp.where(straight, a, 0))
        new = place(s.d)
        r_new = at.residual(new)
        decrease = jnp.vdot(r - r_new, r + r_new) / value
        fall = s.fall / value
        fine = jnp.isfinite(decrease) & jnp.isfinite(fall) & straight
        gain = jnp.where(fine, gain_ratio(decrease, fall, 4 * float(eps)), 0)
        radius = jnp.where(first, jnp.minimum(t.radius, s.length), t.radius)
        # the minimum of the parabola through both values and the slope, More (1978), section 4;
        # as MINPACK's dirder and actred, slope and decrease are negative where it is used
        slope = -s.slope / value
        factor = jnp.where(decrease >= 0, 0.5, 0.5 * slope / (slope + 0.5 * decrease))
        factor = jnp.where(fine & (decrease > -99), jnp.maximum(factor, 0.1), 0.1)
        factor = jnp.where(straight, factor, 0.25)
        shrunk = factor * jnp.minimum(radius, 10 * s.length)
        wide = s.inside | (gain >= 0.75)
        bad = gain <= 0.25
        unmoved = jnp.all(r_new == r) & (s.length > 8 * eps * norm(scale * x))
        step_size = relative_step(at, params, norms, s.full_fall, s.full_length)
        reduction = relative_reduction(s.full_fall / value, decrease, gain)
        blind = (jnp.abs(decrease) <= 4 * eps) & (fall <= 4 * eps)
        flat = blind & ~s.inside & (near | level & (t.radius >= norm(scale * x)))
        return Trial(
            jnp.where(bad, shrunk, jnp.where(wide, 2 * s.length, radius)),
            jnp.where(bad, s.damping / factor, jnp.where(wide, 0.5 * s.damping, s.damping)),
            s.d,
            t.evals + 1,
            fine & (gain >= 1e-4),
            jnp.all(new == x) | unmoved,
            jnp.where(flat, 0, reduction),
            jnp.where(unmoved, 0, step_size),
        )

    def unfinished(t: Trial) -> Array:
        return ~t.accepted & ~t.stuck & (t.evals < max_tries)

    no, inf = jnp.zeros((), bool), jnp.full((), jnp.inf, x.dtype)
    none = jnp.zeros((), jnp.int32)
    start = Trial(radius, damping, jnp.zeros_like(x), none, no, no, inf, inf)
    return jax.lax.while_loop(unfinished, attempt, start)


def _rounded(x: Array, params: Params, d: Array) -> Array:
    """Return x + d as it is once it is rounded to the dtypes of the parameters."""
    return as_vector(as_tree(x + d, params)).astype(x.dtype)


def _levenberg_marquardt(
    grads, slots, params, count, *, init_radius, max_tries, cg_rtol: Any = None,
    cg_steps: Any = None, solver, scaled, accelerated, block_size, preconditioner,
    preconditioner_rank, on_examples, raw_params, residual_fn: Any = None, batch: Any = None,
    cosine_tol: Any = -1.0,
):  # fmt: skip
    if params is None:
        raise ValueError(f"levenberg_marquardt needs {NEEDS_PARAMS}")
    residual_fn = on_batch("levenberg_marquardt", "residual_fn", residual_fn, on_examples, batch)
    at = linearized(residual_fn, raw_params)
    x, r = at.point, at.value
    if not (x.size and r.size):
        return jax.tree.map(jnp.zeros_like, grads), slots
    form = form_of(solver, r.size, x.size, accelerated)
    whole = form == "qr" or block_size is None and form != "cg"
    j = jacobian(at, block_size) if whole else None
    norms = column_norms(at) if j is None else norm(j, axis=0)
    widest = norms if scaled else jnp.full_like(norms, jnp.max(norms))
    kept = jnp.maximum(as_vector(slots.scale).astype(x.dtype), widest * at.unit)
    scale = jnp.where(kept > 0, kept / at.unit, 1)
    bend = None
    if form == "cg":
        near = preconditioned(preconditioner, at, raw_params, norms, scale, preconditioner_rank)
        solve = steps_by_cg(at, scale, cg_rtol.astype(x.dtype), cg_steps, near)
    elif form == "qr" and j is not None and x.size <= r.size and not accelerated:
        solve = steps_by_qr(j, r, scale, jnp.argsort(-norms * jnp.abs(x)))
    else:
        s = spectrum(at, form, scale, j, block_size)
        solve = steps_by_spectrum(s)
        bend = functools.partial(path_bend, at, s, 0.0) if accelerated else None
    first, size, value = count == 1, norm(scale * x), jnp.vdot(r, r)
    size = jnp.where(size > 0, size, jnp.sqrt(value))
    radius = jnp.where(first, init_radius * size, slots.radius / at.unit).astype(x.dtype)
    damping = jnp.where(first, 0, slots.damping).astype(x.dtype)
    eps = jnp.finfo(x.dtype).eps
    cosine = largest_cosine(at, norms)
    near = cosine <= eps ** (1 / 3)
    level = largest_cosine(at, scale) <= eps**0.5  # J is nearly 0, in units of what it was

    place = functools.partial(_rounded, x, raw_params)
    max_tries = jnp.where(cosine <= cosine_tol, 0, max_tries)  # it is a solution already
    end = try_radii(
        at, raw_params, solve, place, scale, norms, near, level, first, radius, damping, max_tries,
        bend,
    )  # fmt: skip
    good = end.accepted & ~end.stuck
    g = at.pull(r)
    return as_tree(jnp.where(good, end.d, 0), grads), Region(
        end.radius * at.unit,
        end.damping,
        as_tree(kept, slots.scale),
        end.evals,
        ~good & jnp.any(g != 0),
        cosine,
        jnp.where(~good & near, 0, end.reduction),
        end.step_size,
    )


def _whole_region(params: Params) -> Region:
    evals, failed = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    measures = [zero() + 1 for _ in range(3)]
    return Region(zero(), zero(), zeros_like(params), evals, failed, *measures)


@checked(init_radius=POSITIVE, max_tries=WHOLE, cg_rtol=POSITIVE, cg_steps=WHOLE)
def levenberg_marquardt(
    init_radius: Scalar = 100.0,
    max_tries: Scalar = 30,
    *,
    residual_fn: Callable[[Any, Any], Any] | None = None,
    solver: str = "auto",
    acceleration: bool = False,
    scaled: bool = True,
    block_size: int | None = None,
    cg_rtol: Scalar = 1e-6,
    cg_steps: Scalar = 200,
    preconditioner: str | None = None,
    preconditioner_rank: int = 32,
) -> Optimizer:
    r"""Minimize a sum of squares by minima of its linear model in a trust region.

    .. math::

       \min_x \tfrac12 \lVert r(x) \rVert^2

    by steps d, for which there is a damping :math:`\lambda \ge 0`:

    .. math::

       d &= \arg\min_d \lVert J d + r \rVert^2 \quad
       \text{over } \lVert D d \rVert \le \Delta \\
       (J^\top J + \lambda D^2)\, d &= -J^\top r

    The region shrinks until the sum of squares falls, and grows where the model predicted that
    well.

    `update` takes the extra `residual_fn`, a function of the parameters to a tree of residuals; or
    the factory takes it as a function of `(params, batch)`, for `fit` and `sweep`. The gradients
    are computed from it; those passed to `update` only give shapes and dtypes.
    `gdjax.least_squares` runs it to convergence. With "qr" the steps are MINPACK's. Neither the
    units of the residuals nor those of each parameter matter, and sums of squares that overflow or
    underflow do no harm.

    Forms of the linear algebra, for J of m x n elements:

    - "qr": QR of J, :math:`2 m n^2` products, and :math:`\tfrac43 n^3` more for each damping that
      is tried; of the transpose if m < n, with an SVD of its factor. Memory m n.
    - "normal", "kernel": eigenvalues of :math:`J^\top J` or :math:`J J^\top`:
      :math:`\min(m, n)^2 \max(m, n)` products and :math:`9 \min(m, n)^3`, for all dampings
      together. The condition number is squared: singular values below
      :math:`\sqrt{\max(m, n)\, \epsilon}` of the largest are not used. With `block_size` J is not
      formed: memory :math:`n^2` or :math:`m^2`. If examples are sharded over devices, "normal" only
      adds n numbers of each product between them.
    - "cg": at most 2 cg_steps products for each damping; memory m + n.
    - "auto": as for `gauss_newton`; "qr" up to min(m, n) = 4096.

    Evidence: theory. It converges to stationary points (More 1978,
    https://doi.org/10.1007/BFb0067700), and is the method of MINPACK.

    Args:
      init_radius: the first radius :math:`\Delta` > 0, in units of :math:`\lVert D x \rVert` (of
        :math:`\lVert r \rVert` at 0): 100, or 0.1 where the first step leads too far; MINPACK's
        `factor`.
      max_tries: how many radii an update tries at most.
      residual_fn: a function of (params, batch) to a tree of residuals. A step is judged by the
        examples that it was computed from, so the region says how far the linear model of a batch
        is valid, not how much noise its minimum has. Take batches of more residuals than
        parameters, or a small `init_radius`.
      solver: the form, see above.
      acceleration: whether steps are d + a, with :math:`J a = -r''/2` in the least squares of the
        step, r'' the second derivative along d: Transtrum & Sethna (2012),
        https://arxiv.org/abs/1201.5885. The region shrinks where :math:`\lVert D a \rVert >
        \tfrac34 \lVert D d \rVert`. For narrow curved valleys, such as networks for differential
        equations. Not with "cg".
      scaled: whether D has the norm of each column of J, the largest so far, so that the units of
        single parameters do not matter; with "cg" it is an estimate from 8 products with J^T. Else
        the largest of these is taken for all.
      block_size: columns or rows of J, or of the Gram matrix, that are computed at once; None is
        all. It limits memory.
      cg_rtol: relative error > 0 at which "cg" stops.
      cg_steps: steps after which "cg" stops at the latest.
      preconditioner: of "cg": see `gauss_newton`.
      preconditioner_rank: see `gauss_newton`.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `residual_fn=`, or `batch=` for that of
      the factory. State: 4 bytes per element and a few numbers. Residuals that are not finite
      count as too large. Its slots have the measures of `gdjax.core.protocols.ReportsFit`.

    Raises:
      TypeError: if there is no residual function.
      ValueError: if a number is out of range; for an unknown solver.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def residual_fn(x): return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])
      >>> opt = gdjax.levenberg_marquardt()
      >>> x = jnp.array([-1.2, 1.0])
      >>> state = opt.init(x)
      >>> step = jax.jit(lambda x, state: opt.update(x, state, x, residual_fn=residual_fn))
      >>> for _ in range(20):
      ...     updates, state = step(x, state)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(x.round(3))
      [1. 1.]
    """
    check_choice("levenberg_marquardt(solver=...)", solver, FORMS)
    check_block_size("levenberg_marquardt", block_size)
    check_preconditioner("levenberg_marquardt", solver, preconditioner, preconditioner_rank)
    if acceleration and solver == "cg":
        raise ValueError('levenberg_marquardt(acceleration=True) needs another solver than "cg".')
    numbers: dict[str, Scalar] = dict(init_radius=init_radius, max_tries=max_tries)
    if solver in ("auto", "cg"):
        numbers |= dict(cg_rtol=cg_rtol, cg_steps=cg_steps)
    return treewise(
        _levenberg_marquardt, _whole_region, numbers, name="levenberg_marquardt", solver=solver,
        scaled=scaled, accelerated=acceleration, block_size=block_size,
        preconditioner=preconditioner, preconditioner_rank=preconditioner_rank,
        on_examples=residual_fn,
    )  # fmt: skip
