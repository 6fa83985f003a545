"""Gauss-Newton: a step towards the minimum of the linearized least-squares problem.

Nocedal & Wright (2006), "Numerical optimization", section 10.3; the line search is their 3.1.
A rank-deficient Jacobian gives the shortest of the best steps, with each parameter in units in
which its column of J has length 1. Deviations: none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, OPEN_UNIT, WHOLE, checked
from gdjax.core.lift import NEEDS_PARAMS, treewise
from gdjax.core.trees import zero
from gdjax.core.types import Params, Scalar
from gdjax.solvers.damped import jacobian, largest_cosine, linearized, norm
from gdjax.solvers.levenberg_marquardt import relative_reduction, relative_step
from gdjax.solvers.line_search import as_tree


class Search(NamedTuple):
    """The slots of Gauss-Newton: how its last update went."""

    evals: Array  # residual evaluations, int32
    failed: Array  # whether no part of the step made the sum of squares smaller
    cosine: Array  # the measures of `gdjax.core.protocols.ReportsFit`
    reduction: Array
    step_size: Array


def _gauss_newton(
    grads,
    slots,
    params,
    count,
    *,
    slope_rtol,
    decrease_factor,
    max_linesearch_steps,
    rcond,
    residual_fn,
    raw_params,
):
    if params is None:
        raise ValueError(f"gauss_newton needs {NEEDS_PARAMS}")
    at = linearized(residual_fn, raw_params)
    x, r = at.point, at.value
    if not (x.size and r.size):
        return jax.tree.map(jnp.zeros_like, grads), slots
    g = at.pull(r)
    j, value = jacobian(at), jnp.vdot(r, r)
    norms = norm(j, axis=0)
    scale = jnp.where(norms > 0, norms, 1)
    u, s, vt = jnp.linalg.svd(j / scale[None], full_matrices=False)
    kept = s > rcond.astype(x.dtype) * s[0]
    rotated = u.T @ r
    q = -vt.T @ jnp.where(kept, rotated / jnp.where(kept, s, 1), 0)
    d, slope, slack = q / scale, jnp.vdot(g / scale, q), 10 * jnp.finfo(x.dtype).eps * 0.5 * value

    def decrease_at(t: Array) -> Array:
        r_new = at.residual(x + t * d)
        return 0.5 * jnp.vdot(r - r_new, r + r_new)

    def enough(t: Array, decrease: Array) -> Array:
        return jnp.isfinite(decrease) & (decrease >= -slope_rtol * t * slope - slack)

    def unfinished(carry):
        _, tries, accepted, _ = carry
        return ~accepted & (tries < max_linesearch_steps)

    def shorter(carry):
        t, tries, _, _ = carry
        t = jnp.where(tries == 0, 1, t * decrease_factor).astype(x.dtype)
        decrease = decrease_at(t)
        return t, tries + 1, enough(t, decrease), decrease

    one, no = jnp.ones((), x.dtype), jnp.zeros((), bool)
    start = (one, jnp.zeros((), jnp.int32), no, one)
    t, evals, accepted, decrease = jax.lax.while_loop(unfinished, shorter, start)
    step = jnp.where(accepted & jnp.isfinite(d), t * d, 0)
    moved = jnp.any(x + step != x)
    fall = jnp.vdot(rotated, rotated)  # of all directions, also of those that are not kept
    return as_tree(step, grads), Search(
        evals,
        ~(accepted & moved) & jnp.any(g != 0),
        largest_cosine(at, norms),
        relative_reduction(fall / value, 2 * decrease / value, jnp.zeros((), x.dtype)),
        relative_step(at, raw_params, norms, fall, norm(q)),
    )


@checked(
    slope_rtol=NONNEGATIVE,
    decrease_factor=OPEN_UNIT,
    max_linesearch_steps=WHOLE,
    rcond=NONNEGATIVE,
)
def gauss_newton(
    slope_rtol: Scalar = 1e-4,
    decrease_factor: Scalar = 0.5,
    max_linesearch_steps: Scalar = 30,
    rcond: Scalar = 1e-6,
) -> Optimizer:
    """Minimize 0.5 |r(params)|^2 by linear least-squares problems and backtracking.

    d = argmin |J d + r|^2 of least norm; update = t d for the first t = 1, decrease_factor,
    decrease_factor^2, ... with F(x + t d) <= F(x) + slope_rtol t <J^T r, d>

    For small residuals or mild curvature it converges like Newton's method. `levenberg_marquardt`
    is the safer choice. As there, `update` takes the extra `residual_fn` and computes the gradients
    from it.

    Args:
      slope_rtol: the share >= 0 of the decrease predicted by the slope that is enough.
      decrease_factor: what a step that is too long is multiplied with, in (0, 1).
      max_linesearch_steps: how many lengths an update tries at most, >= 1.
      rcond: singular values below rcond times the largest count as 0, >= 0.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `residual_fn=`. State: two numbers.
      The Jacobian is formed in every update.

    Raises:
      ValueError: if a number is out of range.

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
    numbers: dict[str, Scalar] = dict(
        slope_rtol=slope_rtol,
        decrease_factor=decrease_factor,
        max_linesearch_steps=max_linesearch_steps,
        rcond=rcond,
    )
    return treewise(_gauss_newton, _no_search, numbers, name="gauss_newton")


def _no_search(params: Params) -> Search:
    measures = [zero() + 1 for _ in range(3)]
    return Search(jnp.zeros((), jnp.int32), jnp.zeros((), bool), *measures)
