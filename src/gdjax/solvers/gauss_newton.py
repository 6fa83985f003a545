"""Gauss-Newton: a step towards the minimum of the linearized least-squares problem.

Nocedal & Wright (2006), "Numerical optimization", section 10.3; the line search is their 3.1.
A rank-deficient Jacobian gives the shortest of the best steps, with each parameter in units in
which its column of J has length 1. With `acceleration` the search is along the path x + t d + t^2 a
of Transtrum & Sethna (2012), https://arxiv.org/abs/1201.5885, section 4, for any t. Deviations:
none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, OPEN_UNIT, POSITIVE, WHOLE, check_choice, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.on_batch import on_batch
from gdjax.core.trees import zero
from gdjax.core.types import Params, Scalar
from gdjax.core.vectors import as_tree
from gdjax.linalg.damped import Linear, check_preconditioner, damped_cg
from gdjax.solvers.damped import (
    FORMS,
    Linearized,
    check_block_size,
    column_norms,
    form_of,
    jacobian,
    largest_cosine,
    linearized,
    norm,
    path_bend,
    preconditioned,
    spectrum,
)
from gdjax.solvers.levenberg_marquardt import relative_reduction, relative_step

SEARCHES = ("backtracking", "grid")


class Search(NamedTuple):
    """The slots of Gauss-Newton: how its last update went."""

    evals: Array  # residual evaluations, int32
    failed: Array  # whether no part of the step made the sum of squares smaller
    cosine: Array  # the measures of `gdjax.core.protocols.ReportsFit`
    reduction: Array
    step_size: Array


def _gauss_newton(
    grads, slots, params, count, *, slope_rtol, decrease_factor, max_linesearch_steps, rcond,
    cg_rtol: Any = None, cg_steps: Any = None, solver, linesearch, accelerated, scaled, block_size,
    preconditioner, preconditioner_rank, on_examples, raw_params, residual_fn: Any = None,
    batch: Any = None,
):  # fmt: skip
    if params is None:
        raise ValueError(f"gauss_newton needs {NEEDS_PARAMS}")
    residual_fn = on_batch("gauss_newton", "residual_fn", residual_fn, on_examples, batch)
    at = linearized(residual_fn, raw_params)
    x, r = at.point, at.value
    if not (x.size and r.size):
        return jax.tree.map(jnp.zeros_like, grads), slots
    form, g, value = form_of(solver, r.size, x.size, accelerated), at.pull(r), jnp.vdot(r, r)
    whole = form == "qr" or block_size is None and form != "cg"
    j = jacobian(at, block_size) if whole else None
    norms = column_norms(at) if j is None else norm(j, axis=0)
    widths = norms if scaled else jnp.full_like(norms, jnp.max(norms))
    scale = jnp.where(widths > 0, widths, 1)
    a, none = jnp.zeros_like(x), jnp.zeros((), x.dtype)
    if form == "cg":
        near = preconditioned(preconditioner, at, raw_params, norms, scale, preconditioner_rank)
        d, fall = _step_by_cg(at, scale, cg_rtol, cg_steps, near(0.0))
    else:
        s = spectrum(at, form, scale, j, block_size)
        kept = s.kept(rcond)
        d = s.back(-jnp.where(kept, s.image / jnp.where(kept, s.sizes, 1), 0))
        fall = jnp.vdot(s.image, s.image)  # of all directions, also of those that are not kept
        a = path_bend(at, s, rcond, d, none) if accelerated else a
    a = jnp.where(jnp.all(jnp.isfinite(a)), a, 0)
    slope, slack = jnp.vdot(g, d), 10 * jnp.finfo(x.dtype).eps * 0.5 * value

    def decrease_at(t: Array) -> Array:
        r_new = at.residual(x + (t * d + t**2 * a))
        return 0.5 * jnp.vdot(r - r_new, r + r_new)

    def enough(t: Array, decrease: Array) -> Array:
        return jnp.isfinite(decrease) & (decrease >= -slope_rtol * t * slope - slack)

    def unfinished(c: Tried) -> Array:
        return (c.evals < max_linesearch_steps) & ~(c.accepted & (linesearch == "backtracking"))

    def shorter(c: Tried) -> Tried:
        t = jnp.where(c.evals == 0, 1, c.last * decrease_factor).astype(x.dtype)
        decrease = decrease_at(t)
        fine = enough(t, decrease)
        better = fine & ~(c.accepted & (decrease <= c.decrease)) | ~c.accepted
        return Tried(
            t,
            jnp.where(better, t, c.t),
            jnp.where(better, decrease, c.decrease),
            c.accepted | fine,
            c.evals + 1,
        )

    start = Tried(none + 1, none + 1, none + 1, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(unfinished, shorter, start)
    step = end.t * d + end.t**2 * a
    step = jnp.where(end.accepted & jnp.isfinite(step), step, 0)
    moved = jnp.any(x + step != x)
    return as_tree(step, grads), Search(
        end.evals,
        ~(end.accepted & moved) & jnp.any(g != 0),
        largest_cosine(at, norms),
        relative_reduction(fall / value, 2 * end.decrease / value, none),
        relative_step(at, raw_params, norms, fall, norm(scale * d)),
    )


class Tried(NamedTuple):
    """The lengths of a step that were tried."""

    last: Array  # t, the last one
    t: Array  # the one that is taken
    decrease: Array  # of half the sum of squares there
    accepted: Array  # whether that is enough
    evals: Array


def _step_by_cg(
    at: Linearized, scale: Array, rtol: Array, steps: Array, near: Linear | None
) -> tuple[Array, Array]:
    """Return the step, and how much the linear model says that it reduces |r|^2."""
    solved = damped_cg(
        lambda q: at.push(q / scale),
        lambda w: at.pull(w) / scale,
        -at.value,
        0.0,
        precondition=near,
        rtol=rtol,
        max_steps=steps,
    )
    return solved.d / scale, jnp.vdot(solved.image, solved.image)


@checked(
    slope_rtol=NONNEGATIVE,
    decrease_factor=OPEN_UNIT,
    max_linesearch_steps=WHOLE,
    rcond=NONNEGATIVE,
    cg_rtol=POSITIVE,
    cg_steps=WHOLE,
)
def gauss_newton(
    slope_rtol: Scalar = 1e-4,
    decrease_factor: Scalar = 0.5,
    max_linesearch_steps: Scalar = 30,
    rcond: Scalar = 1e-6,
    *,
    residual_fn: Callable[[Any, Any], Any] | None = None,
    solver: str = "auto",
    linesearch: str = "backtracking",
    acceleration: bool = False,
    scaled: bool = True,
    block_size: int | None = None,
    cg_rtol: Scalar = 1e-6,
    cg_steps: Scalar = 200,
    preconditioner: str | None = None,
    preconditioner_rank: int = 32,
) -> Optimizer:
    r"""Minimize a sum of squares by linear least-squares problems and a search along the step.

    .. math::

       \min_x F(x) = \tfrac12 \lVert r(x) \rVert^2

    by steps t d, with d the solution of least norm and the first t that is short enough:

    .. math::

       d &= \arg\min_d \lVert J d + r \rVert^2 \\
       F(x + t d) &\le F(x) + c\, t\, \langle J^\top r, d \rangle \\
       t &= 1,\; \rho,\; \rho^2,\; \ldots

    For small residuals or mild curvature it converges like Newton's method. `levenberg_marquardt`
    is the safer choice. As there, `update` takes the extra `residual_fn`, or the factory takes it
    as a function of `(params, batch)`, and the gradients are computed from it.

    Forms of the linear algebra, for J of m x n elements; the singular value decomposition of the
    small factor of each costs about :math:`12 \min(m, n)^3` more:

    - "qr": QR of J or of its transpose, :math:`2 \min(m, n)^2 \max(m, n)` products; memory m n.
    - "normal", "kernel": :math:`J^\top J` or :math:`J J^\top`, half of that; the condition number
      is squared, so that singular values below :math:`\sqrt{\max(m, n)\, \epsilon}` of the largest
      are not used. With `block_size` J is not formed: memory :math:`n^2` or :math:`m^2`, and n or m
      products with J and with its transpose. If examples are sharded over devices, "normal" only
      adds n numbers of each product between them.
    - "cg": 2 cg_steps products; memory m + n. It stops early instead of cutting singular values.
    - "auto": "qr" up to min(m, n) = 4096 and :math:`m n = 2^{28}`; else the smaller Gram matrix, up
      to :math:`2^{26}` elements; else "cg".

    Evidence: theory. It converges quadratically to solutions with zero residuals (Nocedal & Wright
    2006, https://doi.org/10.1007/978-0-387-40065-5, section 10.3).

    Args:
      slope_rtol: :math:`c` >= 0, the share of the decrease predicted by the slope that is enough.
      decrease_factor: :math:`\rho` in (0, 1), what a step that is too long is multiplied with.
      max_linesearch_steps: how many lengths an update tries at most, >= 1.
      rcond: singular values below rcond times the largest count as 0, >= 0.
      residual_fn: a function of (params, batch) to a tree of residuals, for `fit` and `sweep`. The
        step and its length are for the examples of the batch alone; with fewer residuals than
        parameters it fits them exactly, so use batches of more.
      solver: the form, see above.
      linesearch: "backtracking" takes the first t that is enough; "grid" tries all
        `max_linesearch_steps` and takes the best, as energy natural gradients do (Mueller &
        Zeinhofer 2023, https://arxiv.org/abs/2302.13163), which costs as many evaluations.
      acceleration: whether the search is along :math:`x + t d + t^2 a`, the path of r to second
        order: :math:`J a = -r''/2`, r'' the second derivative along d (Transtrum & Sethna 2012,
        https://arxiv.org/abs/1201.5885). For curved valleys, as of networks for differential
        equations. Not with "cg".
      scaled: whether each parameter is in units in which its column of J has length 1, for the
        cutoff and the least norm.
      block_size: columns or rows of J, or of the Gram matrix, that are computed at once; None is
        all. It limits memory.
      cg_rtol: relative error > 0 at which "cg" stops.
      cg_steps: steps after which "cg" stops at the latest.
      preconditioner: of "cg", so that it needs fewer steps: "nystrom", for a few large singular
        values, costs 2 preconditioner_rank products and O((m + n) rank^2) in each update;
        "block_diagonal" has the blocks of leaves of up to 64 elements, a product for each, and the
        diagonal of the others, from 8. None is the diagonal, if `scaled`.
      preconditioner_rank: of "nystrom", >= 1.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `residual_fn=`, or `batch=` for that of
      the factory. State: a few numbers.

    Raises:
      TypeError: if there is no residual function.
      ValueError: if a number is out of range; for an unknown solver or line search.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def residual_fn(x): return jnp.array([x[0] * x[1] - 2, x[0] - x[1] - 1])
      >>> opt = gdjax.gauss_newton()
      >>> x = jnp.array([3.0, 3.0])
      >>> state = opt.init(x)
      >>> step = jax.jit(lambda x, state: opt.update(x, state, x, residual_fn=residual_fn))
      >>> for _ in range(5):
      ...     updates, state = step(x, state)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(x.round(3))
      [2. 1.]
    """
    check_choice("gauss_newton(solver=...)", solver, FORMS)
    check_choice("gauss_newton(linesearch=...)", linesearch, SEARCHES)
    check_block_size("gauss_newton", block_size)
    check_preconditioner("gauss_newton", solver, preconditioner, preconditioner_rank)
    if acceleration and solver == "cg":
        raise ValueError('gauss_newton(acceleration=True) needs another solver than "cg".')
    numbers: dict[str, Scalar] = dict(
        slope_rtol=slope_rtol,
        decrease_factor=decrease_factor,
        max_linesearch_steps=max_linesearch_steps,
        rcond=rcond,
    )
    if solver in ("auto", "cg"):
        numbers |= dict(cg_rtol=cg_rtol, cg_steps=cg_steps)
    return treewise(
        _gauss_newton, _no_search, numbers, name="gauss_newton", solver=solver,
        linesearch=linesearch, accelerated=acceleration, scaled=scaled, block_size=block_size,
        preconditioner=preconditioner, preconditioner_rank=preconditioner_rank,
        on_examples=residual_fn,
    )  # fmt: skip


def _no_search(params: Params) -> Search:
    measures = [zero() + 1 for _ in range(3)]
    return Search(jnp.zeros((), jnp.int32), jnp.zeros((), bool), *measures)
