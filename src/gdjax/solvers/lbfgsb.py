"""L-BFGS-B: limited-memory BFGS for variables with bounds.

Byrd, Lu, Nocedal & Zhu (1995), https://doi.org/10.1137/0916069; version 3 of their code (Morales &
Nocedal 2011). The model and its minima are in `gdjax.solvers.box`.
Deviations: the line search is that of `scale_by_zoom_linesearch`, for the strong Wolfe conditions
up to the box's edge; every point that is evaluated is clipped to the box.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import OPEN_UNIT, WHOLE, as_float_leaves, check_integer, checked
from gdjax.core.fits import NEEDS_PARAMS, loss_given
from gdjax.core.lift import treewise
from gdjax.core.numerics import compute_dtype
from gdjax.core.types import Params, PyTree, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.projections.reading import Bound
from gdjax.solvers.bounds import clipped, projected_gradient, whole_bounds
from gdjax.solvers.box import cauchy_point, compact, subspace_minimum
from gdjax.solvers.line_search import Line, Point, is_curved, is_finite, pick, wolfe_search


class Bounded(NamedTuple):
    """The slots of L-BFGS-B."""

    lower: Any  # bounds, shaped like the parameters, at least float32
    upper: Any
    s: Array  # (m, n) steps, the newest last
    y: Array  # (m, n) changes of the gradient
    used: Array  # (m,) which rows hold a pair
    value: Array  # the objective at the new parameters, inf before the first update
    grad: Any  # its gradient there, shaped like the parameters
    evals: Array  # evaluations of value and gradient in the last update, int32
    failed: Array  # whether the last update found no better point

    def optimality(self, params: Params, grads: PyTree, hyperparams: dict[str, Any]) -> PyTree:
        """Return x - clip(x - grads, lower, upper), the projected gradient."""
        return projected_gradient(params, grads, self.lower, self.upper)

    def feasible(self, params: Params) -> Params:
        """Return the parameters, clipped to the box."""
        return clipped(params, self.lower, self.upper)

    def fixed(self) -> PyTree:
        """Return which parameters have lower == upper."""
        return jax.tree.map(jnp.equal, self.lower, self.upper)


def _lbfgsb(
    grads,
    slots,
    params,
    count,
    *,
    slope_rtol,
    curv_rtol,
    max_linesearch_steps,
    value,
    value_fn,
    raw_params,
):
    if params is None:
        raise ValueError(f"lbfgsb needs {NEEDS_PARAMS}")
    x, g = as_vector(raw_params), as_vector(grads)
    if not x.size:
        return grads, slots
    dtype = slots.s.dtype
    lower, upper = as_vector(slots.lower), as_vector(slots.upper)
    x, g, lower, upper = (z.astype(dtype) for z in (x, g, lower, upper))
    x, value = jnp.clip(x, lower, upper), loss_given("lbfgsb", value).astype(dtype)
    model = compact(slots.s, slots.y, slots.used)
    cauchy = cauchy_point(model, x, g, lower, upper)
    target = subspace_minimum(model, x, g, cauchy, lower, upper)
    d = target - x
    fine = jnp.isfinite(d).all() & (jnp.vdot(d, g) < 0)
    d = jnp.where(fine, d, jnp.clip(x - g, lower, upper) - x)
    space = jnp.where(d > 0, upper - x, lower - x)
    longest = jnp.min(jnp.where(d == 0, jnp.inf, space / jnp.where(d == 0, 1, d)), initial=1e10)
    longest = jnp.maximum(longest, 1)
    used = jnp.any(slots.used)
    size = jnp.sqrt(jnp.vdot(d, d))
    boxed = jnp.all(jnp.isfinite(lower) & jnp.isfinite(upper))  # the box limits the first step
    short = jnp.minimum(1, 1 / jnp.where(size > 0, size, 1))  # else it has at most length 1
    first = jnp.where(used | boxed, 1, short).astype(dtype)

    def place(t: Array) -> Array:
        return jnp.clip(x + t * d, lower, upper)

    def at(t: Array) -> Point:
        v, grad = jax.value_and_grad(value_fn)(as_tree(place(t), raw_params))
        grad = as_vector(grad).astype(dtype)
        return Point(t, v.astype(dtype), jnp.vdot(grad, d), grad)

    here = Point(jnp.zeros((), dtype), value, jnp.vdot(g, d), g)
    path = Line(
        at,
        lambda t: at(t).value,
        lambda t: jnp.any(place(t) != x),
        here,
        d,
        is_finite(here) & (here.slope < 0),
    )
    zero, slack = jnp.zeros((), dtype), 10 * jnp.finfo(dtype).eps * jnp.abs(value)
    c1, c2 = slope_rtol.astype(dtype), curv_rtol.astype(dtype)
    end, failed = wolfe_search(
        path, first, longest, c1, c2, zero, slack, zero + 4, zero + 1e-5, max_linesearch_steps
    )
    moved = ~failed & path.moves(end.low.t)
    best = pick(moved, end.low, here)
    s, y = jnp.where(moved, place(best.t) - x, 0), best.grad - g
    sy, yy = jnp.vdot(s, y), jnp.vdot(y, y)
    keep = moved & is_curved(s, y, sy, yy)

    def append(rows, new):
        return jnp.where(keep, jnp.concatenate([rows[1:], new[None]]), rows)

    kept = append(slots.used, jnp.ones((), bool)) & moved  # no decrease: drop the curvature
    new = slots._replace(
        s=jnp.where(kept[:, None], append(slots.s, s), 0),
        y=jnp.where(kept[:, None], append(slots.y, y), 0),
        used=kept,
        value=best.value,
        grad=as_tree(best.grad, slots.grad),
        evals=end.tries,
        failed=~moved & ~used & jnp.any(d != 0),
    )
    return as_tree(s, grads), new


@checked(slope_rtol=OPEN_UNIT, curv_rtol=OPEN_UNIT, max_linesearch_steps=WHOLE)
def lbfgsb(
    lower: Bound = None,
    upper: Bound = None,
    history_size: int = 10,
    *,
    slope_rtol: Scalar = 1e-4,
    curv_rtol: Scalar = 0.9,
    max_linesearch_steps: Scalar = 25,
) -> Optimizer:
    r"""Minimize a smooth function of variables with bounds, by limited-memory BFGS.

    .. math::

       \min_x f(x), \qquad l \le x \le u

    Each update minimizes a quadratic model over the box and searches the line to that minimum. No
    point outside of [lower, upper] is evaluated, not even in the line search. The sum params +
    updates is rounded and may exceed a bound by one digit: `gdjax.minimize` clips it, and your own
    loop should do the same before it evaluates there.

    Evidence: theory. The method and its tests are in Byrd et al. 1995,
    https://doi.org/10.1137/0916069.

    Args:
      lower: :math:`l`, bound of every element: a number, an array, or a prefix tree or `by_path` of
        those; None, or -inf in an array, is no bound. Bounds are leaves of the state's slots.
      upper: :math:`u`, likewise.
      history_size: how many pairs of steps and gradient changes to keep, >= 1.
      slope_rtol: the share, in (0, 1), of the decrease predicted by the slope that is enough.
      curv_rtol: the share, in (0, 1), of the slope that may be left.
      max_linesearch_steps: how many points the line search evaluates at most, >= 1.

    Returns:
      An `Optimizer` whose `update` needs the parameters, `value=` (the objective there) and
      `value_fn=` (the objective, a function of the parameters). State: 4 (2 history_size + 3)
      bytes per element. Values that are not finite shorten the step.

    Raises:
      ValueError: if a number is out of range, a bound does not fit, or lower > upper.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> opt = gdjax.lbfgsb(upper=jnp.array([0.5, jnp.inf]))
      >>> x = jnp.array([-1.2, 1.0])
      >>> state = opt.init(x)
      >>> def step(x, state):
      ...     value, grad = jax.value_and_grad(fun)(x)
      ...     return opt.update(grad, state, x, value=value, value_fn=fun)
      >>> step = jax.jit(step)
      >>> for _ in range(22):
      ...     updates, state = step(x, state)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(x.round(3))
      [0.5  0.25]
    """
    size = check_integer("lbfgsb(history_size=...)", history_size)
    numbers: dict[str, Scalar] = dict(
        slope_rtol=slope_rtol, curv_rtol=curv_rtol, max_linesearch_steps=max_linesearch_steps
    )

    def slots(params: Params) -> Bounded:
        leaves, treedef = as_float_leaves("lbfgsb: the parameters", params)
        low, high = whole_bounds("lbfgsb", lower, upper, params)
        dtype = compute_dtype(*leaves)
        rows = jnp.zeros((size, sum(p.size for p in leaves)), dtype)
        grad = [jnp.zeros(p.shape, compute_dtype(p)) for p in leaves]
        return Bounded(
            low,
            high,
            rows,
            jnp.zeros_like(rows),
            jnp.zeros(size, bool),
            jnp.full((), jnp.inf, dtype),
            treedef.unflatten(grad),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), bool),
        )

    return treewise(_lbfgsb, slots, numbers, name="lbfgsb")
