"""Levenberg-Marquardt: each step solves a damped linear least-squares problem.

Marquardt (1963), https://doi.org/10.1137/0111030; damping by the gain: Madsen, Nielsen & Tingleff
(2004), "Methods for non-linear least squares problems", Algorithm 3.16; scaling: More (1978).
Paper -> here: mu -> damping, nu -> growth, tau -> init_damping, h -> d, rho -> gain.
Deviations: an update tries until it makes progress, so that no update is spent on damping alone; a
step whose gain is all rounding error is taken and changes no damping (cf. Conn, Gould & Toint 2000,
section 17.4.2), else float32 would refuse good steps near the minimum.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import POSITIVE, WHOLE, check_choice, checked
from gdjax.core.lift import NEEDS_PARAMS, treewise
from gdjax.core.trees import zero, zeros_like
from gdjax.core.types import Params, Scalar
from gdjax.solvers.damped import cg_solver, jacobian, linearized, qr_solver
from gdjax.solvers.line_search import as_tree, as_vector

SOLVERS = ("qr", "cg")


class Damping(NamedTuple):
    """The slots of Levenberg-Marquardt."""

    damping: Array  # mu
    growth: Array  # nu, what mu is multiplied with at the next failure
    scale: Any  # D, the largest norm so far of each column of J, shaped like the parameters
    evals: Array  # residual evaluations of the last update, int32
    failed: Array  # whether the last update found no better point
    settled: Array  # whether the predicted decrease was below the rounding error


class Trial(NamedTuple):
    """One damping that was tried."""

    damping: Array
    growth: Array
    d: Array
    evals: Array
    accepted: Array
    stuck: Array
    settled: Array


def gain_ratio(decrease: Array, predicted: Array, noise: Array) -> Array:
    """Return decrease / predicted, or 1/2, which changes no damping, where both are noise."""
    blind = (jnp.abs(decrease) <= noise) & (predicted <= noise)
    ratio = decrease / jnp.where(predicted > 0, predicted, 1)
    return jnp.where(blind, 0.5, jnp.where(predicted > 0, ratio, 0))


def _levenberg_marquardt(
    grads, slots, params, count, *, init_damping, max_tries, cg_rtol: Any = None,
    cg_steps: Any = None, solver, scaled, residual_fn, raw_params,
):  # fmt: skip
    if params is None:
        raise ValueError(f"levenberg_marquardt needs {NEEDS_PARAMS}")
    at = linearized(residual_fn, raw_params)
    x, r = at.point, at.value
    if not (x.size and r.size):
        return jax.tree.map(jnp.zeros_like, grads), slots
    g = at.pull(r)
    scale = jnp.ones_like(x)
    if solver == "qr":
        j = jacobian(at)
        norms = jnp.sqrt(jnp.sum(j * j, axis=0))
        solve, size = qr_solver(j, r), jnp.max(norms) ** 2
        if scaled:
            kept, size = jnp.maximum(as_vector(slots.scale).astype(x.dtype), norms), 1.0
            scale = jnp.where(kept > 0, kept, 1)
    else:
        jg, gg = at.push(g), jnp.vdot(g, g)
        solve = cg_solver(at, cg_rtol.astype(x.dtype), cg_steps)
        size = jnp.vdot(jg, jg) / jnp.where(gg > 0, gg, 1)
    first = count == 1
    damping = jnp.where(first, init_damping * size, slots.damping).astype(x.dtype)
    growth = jnp.where(first, 2, slots.growth).astype(x.dtype)
    value = 0.5 * jnp.vdot(r, r)

    def attempt(t: Trial) -> Trial:
        d = solve(t.damping, scale)
        r_new = at.residual(x + d)
        decrease = 0.5 * jnp.vdot(r - r_new, r + r_new)  # more digits than a difference of sums
        predicted = 0.5 * jnp.vdot(d, t.damping * scale**2 * d - g)
        noise = jnp.finfo(x.dtype).eps * value
        gain = gain_ratio(decrease, predicted, noise)
        accepted = jnp.isfinite(decrease) & jnp.isfinite(predicted) & (gain > 0)
        less = jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
        damping = t.damping * jnp.where(accepted, less, t.growth)
        return Trial(
            jnp.maximum(damping, jnp.finfo(x.dtype).tiny),
            jnp.where(accepted, 2, 2 * t.growth),
            d,
            t.evals + 1,
            accepted,
            jnp.all(x + d == x),
            accepted & (predicted <= noise),
        )

    def unfinished(t: Trial) -> Array:
        return ~t.accepted & ~t.stuck & (t.evals < max_tries)

    no = jnp.zeros((), bool)
    start = Trial(damping, growth, jnp.zeros_like(x), jnp.zeros((), jnp.int32), no, no, no)
    end = jax.lax.while_loop(unfinished, attempt, start)
    good = end.accepted & ~end.stuck
    d = jnp.where(good, end.d, 0)
    kept = as_tree(scale, slots.scale) if scaled else None
    failed = ~good & jnp.any(g != 0)
    new = Damping(end.damping, end.growth, kept, end.evals, failed, good & end.settled)
    return as_tree(d, grads), new


def _no_damping(params: Params, scaled: bool) -> Damping:
    scale = zeros_like(params) if scaled else None
    no = [jnp.zeros((), bool) for _ in range(2)]
    return Damping(zero(), zero(), scale, jnp.zeros((), jnp.int32), *no)


@checked(init_damping=POSITIVE, max_tries=WHOLE, cg_rtol=POSITIVE, cg_steps=WHOLE)
def levenberg_marquardt(
    init_damping: Scalar = 1e-3,
    max_tries: Scalar = 30,
    *,
    solver: str = "qr",
    scaled: bool = True,
    cg_rtol: Scalar = 1e-3,
    cg_steps: Scalar = 200,
) -> Optimizer:
    """Minimize 0.5 |r(params)|^2 by damped Gauss-Newton steps.

    d = argmin |J d + r|^2 + mu |D d|^2, with mu raised until the sum of squares falls, and lowered
    by how well the linear model predicted the decrease.

    `update` takes the extra `residual_fn`, a function of the parameters to a tree of residuals. The
    gradients are computed from it; those passed to `update` only give shapes and dtypes.
    `gdjax.least_squares` runs it to convergence.

    Args:
      init_damping: the first mu > 0, relative to the largest diagonal element of J^T J: 1e-3, or
        1 far from the minimum, 1e-6 near it.
      max_tries: how many values of mu an update tries at most.
      solver: "qr" forms J, of m x n elements, and factors it; "cg" needs only products with J.
      scaled: whether to measure each parameter in units of the norm of its column of J (D, which
        never shrinks; More 1978), so that the units of the parameters do not matter; else D = 1, as
        always with "cg", which does not see the columns.
      cg_rtol: relative error > 0 at which "cg" stops.
      cg_steps: steps after which "cg" stops at the latest.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `residual_fn=`. State: 4 bytes per
      element if scaled, else a few numbers. Residuals that are not finite count as too large.

    Raises:
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
    check_choice("levenberg_marquardt(solver=...)", solver, SOLVERS)
    scaled = scaled and solver == "qr"
    numbers: dict[str, Scalar] = dict(init_damping=init_damping, max_tries=max_tries)
    if solver == "cg":
        numbers |= dict(cg_rtol=cg_rtol, cg_steps=cg_steps)
    slots = functools.partial(_no_damping, scaled=scaled)
    return treewise(
        _levenberg_marquardt, slots, numbers, name="levenberg_marquardt", solver=solver,
        scaled=scaled,
    )  # fmt: skip
