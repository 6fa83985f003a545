"""Levenberg-Marquardt for parameters with bounds: each model is minimized within them, exactly.

Kanzow, Yamashita & Fukushima (2004), "Levenberg-Marquardt methods with strong local convergence
properties for solving nonlinear equations with convex constraints",
https://doi.org/10.1016/j.cam.2004.02.013, with More's (1978) trust region and scaling in place of
their damping; the box-constrained linear problems: Stark & Parker (1995), "Bounded-variable least
squares" (Lawson & Hanson's active sets).
Paper -> here: Omega -> [lower, upper], mu -> damping, Delta -> radius; q = D d, P -> free.
Deviations: those of `levenberg_marquardt`; of the first active sets, all variables that the
solution takes out of the box leave at once.
SciPy's "trf" (Branch, Coleman & Li 1999) stays in the interior and approaches a bound by a factor
in each step; here a bound is reached in one step, and parameters are equal to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import POSITIVE, WHOLE, as_float_leaves, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.on_batch import on_batch
from gdjax.core.trees import zero, zeros_like
from gdjax.core.types import Params, PyTree, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.projections.reading import Bound
from gdjax.solvers.bounds import clipped, projected_gradient, whole_bounds
from gdjax.solvers.damped import Step, jacobian, linearized, norm, reduced, triangle
from gdjax.solvers.levenberg_marquardt import try_radii


class BoundedRegion(NamedTuple):
    """The slots of Levenberg-Marquardt with bounds; see `Region`."""

    lower: Any  # bounds, shaped like the parameters, at least float32
    upper: Any
    radius: Array  # Delta, of the region of the next update, in units of the residuals
    damping: Array  # the last mu, a first guess of the next
    scale: Any  # D, the largest norm so far of each column of J, shaped like the parameters
    evals: Array  # residual evaluations of the last update, int32
    failed: Array  # whether the last update found no better point
    cosine: Array  # of r and columns of J, of parameters that no bound holds, before the update
    reduction: Array  # relative, of |r|^2 by the last update; see `gdjax.core.protocols`
    step_size: Array  # relative, of the step to the minimum of the model within the bounds

    def optimality(self, params: Params, grads: PyTree, hyperparams: dict[str, Any]) -> PyTree:
        """Return x - clip(x - grads, lower, upper), the projected gradient."""
        return projected_gradient(params, grads, self.lower, self.upper)

    def feasible(self, params: Params) -> Params:
        """Return the parameters, clipped to the box."""
        return clipped(params, self.lower, self.upper)

    def fixed(self) -> PyTree:
        """Return which parameters have lower == upper."""
        return jax.tree.map(jnp.equal, self.lower, self.upper)


# --- the linear problem: min |R q + c|^2 + damping |q|^2 in a box around 0 ------------------------


class Boxed(NamedTuple):
    """The minimum for one damping."""

    q: Array
    free: Array  # P, the variables that are at no bound
    rate: Array  # <q, (A + damping I)^-1 q> / |q|^2 over the free variables


class Active(NamedTuple):
    """What the active-set method carries from step to step."""

    q: Array  # the solution over some free set, or between two of them
    free: Array
    factor: Array  # R of the last free set
    guessed: Array  # whether no solution was within the box yet
    done: Array
    tries: Array


def minimum_in_box(
    upper: Array, rotated: Array, damping: Array, low: Array, high: Array, q: Array, free: Array
) -> Boxed:
    """Return the q in [low, high] that minimizes |R q + c|^2 + damping |q|^2.

    Args:
      upper: R, (n, n), regular unless the damping is positive.
      rotated: c.
      damping: >= 0.
      low: <= 0.
      high: >= 0.
      q: where the variables that are not free are, each at one of its bounds.
      free: the first guess of the free variables.
    """
    n, eps = rotated.size, jnp.finfo(rotated.dtype).eps
    norms = norm(upper, axis=0)
    root = jnp.sqrt(damping)

    def step(c: Active) -> Active:
        rows = jnp.concatenate([upper * c.free[None], jnp.diag(jnp.where(c.free, root, 1))])
        right = rotated + upper @ jnp.where(c.free, 0, c.q)
        factor, turned = triangle(rows, jnp.concatenate([right, jnp.zeros_like(right)]))
        found = jnp.where(c.free, -jax.scipy.linalg.solve_triangular(factor, turned), c.q)
        outside = c.free & ~((found >= low) & (found <= high))
        blocked = outside.any()
        # of a guess all that is outside leaves, later what meets its bound first on the way
        bound = jnp.where(found > high, high, low)
        away = jnp.where(outside, found - c.q, 1)
        shares = jnp.where(outside, (bound - c.q) / jnp.where(away == 0, 1, away), 1)
        share = jnp.clip(jnp.min(shares), 0, 1)
        leaves = outside & (c.guessed | (shares <= share))
        part = jnp.where(blocked & ~c.guessed, c.q + share * (found - c.q), found)
        q = jnp.clip(jnp.where(leaves, bound, part), low, high)
        free = c.free & ~leaves
        # within the box: the variable whose bound holds it from falling most becomes free
        rest = upper @ q + rotated
        slope = rest @ upper + damping * q
        inward = jnp.where(q <= low, -slope, jnp.where(q >= high, slope, 0))
        noise = 8 * eps * (norms * norm(rest) + damping * jnp.abs(q))
        inward = jnp.where(free | (low == high) | ~(inward > noise), 0, inward)
        inward = inward / jnp.where(norms > 0, norms, 1)
        best = jnp.argmax(inward)
        more = ~blocked & (inward[best] > 0)
        free |= more & (jnp.arange(n) == best)
        return Active(q, free, factor, c.guessed & blocked, ~blocked & ~more, c.tries + 1)

    no = jnp.zeros((), bool)
    start = Active(q, free, upper, ~no, no, jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(lambda c: ~c.done & (c.tries < 3 * n + 10), step, start)
    length = norm(end.q)
    part = jnp.where(end.free, end.q, 0) / jnp.where(length > 0, length, 1)
    w = jax.scipy.linalg.solve_triangular(end.factor.T, part, lower=True)
    return Boxed(end.q, end.free, jnp.vdot(w, w))


def steps_in_box(
    matrix: Array, r: Array, scale: Array, order: Array, low: Array, high: Array, held: Array
) -> Callable[[Array, Array], Step]:
    """Return the step as a function of the radius and of a first guess of the damping.

    It minimizes |J d + r| over |D d| <= radius and low <= d <= high; see `steps_by_qr`.

    Args:
      matrix: J.
      r: the residuals.
      scale: D.
      order: the columns from the first to the last, see `reduced`.
      low: lower bound of the step, <= 0.
      high: upper bound of it, >= 0.
      held: which parameters are at a bound, and would leave it along the gradient.
    """
    upper, rotated, place = reduced(matrix, r, scale, order)
    low, high = (scale * low)[order], (scale * high)[order]
    most = norm(rotated @ upper)
    nothing = jnp.zeros_like(most)
    free = ~held[order] & (low < high)
    newton = minimum_in_box(upper, rotated, nothing, low, high, jnp.zeros_like(rotated), free)

    def measured(q: Array, damping: Array) -> tuple[Array, Array]:
        """Return by how much the model falls, and its slope along the step, both >= 0."""
        change, penalty = norm(upper @ q) ** 2, damping * norm(q) ** 2
        force = (upper @ q + rotated) @ upper + damping * q  # of the bounds
        held = -jnp.sum(jnp.where((q <= low) | (q >= high), force * q, 0))
        return change + 2 * (penalty + held), change + penalty + held

    full_fall, full_length = measured(newton.q, nothing)[0], norm(newton.q)

    def step(radius: Array, guess: Array) -> Step:
        inside = full_length <= 1.1 * radius

        def improve(c):
            damping, least, largest, _, last, tries, _ = c
            s = minimum_in_box(upper, rotated, damping, low, high, last.q, last.free)
            excess = (norm(s.q) - radius) / radius
            least = jnp.where(excess > 0, damping, least)
            largest = jnp.where(excess > 0, largest, damping)
            following = damping + excess / s.rate
            within = (following > least) & (following < largest)
            middle = jnp.sqrt(jnp.maximum(least, 1e-3 * largest) * largest)
            done = (jnp.abs(excess) <= 0.1) | (tries >= 9)
            return jnp.where(within, following, middle), least, largest, damping, s, tries + 1, done

        largest = most / radius
        guess = jnp.clip(guess, 0, largest)
        guess = jnp.where(guess > 0, guess, jnp.minimum(most / full_length, largest))
        start = (guess, nothing, largest, nothing, newton, jnp.zeros((), jnp.int32), inside)
        end = jax.lax.while_loop(lambda c: ~c[-1], improve, start)
        damping, q = end[3], end[4].q
        fall, slope = measured(q, damping)
        return Step(q[place] / scale, damping, inside, norm(q), fall, slope, full_fall, full_length)

    return step


# --- the method -----------------------------------------------------------------------------------


def _bounded_levenberg_marquardt(
    grads, slots, params, count, *, init_radius, max_tries, on_examples, raw_params,
    residual_fn: Any = None, batch: Any = None, cosine_tol: Any = -1.0,
):  # fmt: skip
    name = "bounded_levenberg_marquardt"
    if params is None:
        raise ValueError(f"{name} needs {NEEDS_PARAMS}")
    residual_fn = on_batch(name, "residual_fn", residual_fn, on_examples, batch)
    inner = clipped(raw_params, slots.lower, slots.upper)
    at = linearized(residual_fn, inner)
    x, r = at.point, at.value
    if not (x.size and r.size):
        return jax.tree.map(jnp.zeros_like, grads), slots
    lower, upper = (as_vector(bound).astype(x.dtype) for bound in (slots.lower, slots.upper))
    j = jacobian(at)
    norms = norm(j, axis=0)
    kept = jnp.maximum(as_vector(slots.scale).astype(x.dtype), norms * at.unit)
    scale = jnp.where(kept > 0, kept / at.unit, 1)
    order = jnp.argsort(-norms * jnp.abs(x))
    g = at.pull(r)
    held = ((x <= lower) & (g >= 0)) | ((x >= upper) & (g <= 0))
    solve = steps_in_box(j, r, scale, order, lower - x, upper - x, held)
    first, size, value = count == 1, norm(scale * x), jnp.vdot(r, r)
    size = jnp.where(size > 0, size, jnp.sqrt(value))
    radius = jnp.where(first, init_radius * size, slots.radius / at.unit).astype(x.dtype)
    damping = jnp.where(first, 0, slots.damping).astype(x.dtype)
    eps = float(jnp.finfo(x.dtype).eps)
    g = jnp.where(held, 0, g)
    cosine, level = (_largest_ratio(g, d * jnp.sqrt(value)) for d in (norms, scale))

    def place(d: Array) -> Array:
        return as_vector(clipped(as_tree(x + d, inner), slots.lower, slots.upper)).astype(x.dtype)

    max_tries = jnp.where(cosine <= cosine_tol, 0, max_tries)  # it is a solution already
    end = try_radii(
        at, inner, solve, place, scale, norms, cosine <= eps ** (1 / 3), level <= eps**0.5, first,
        radius, damping, max_tries,
    )  # fmt: skip
    good = end.accepted & ~end.stuck
    new = jnp.where(good, place(end.d), x)
    return as_tree(new - as_vector(raw_params), grads), slots._replace(
        radius=end.radius * at.unit,
        damping=end.damping,
        scale=as_tree(kept, slots.scale),
        evals=end.evals,
        failed=~good & jnp.any(g != 0),
        cosine=cosine,
        reduction=jnp.where(~good & (cosine <= eps ** (1 / 3)), 0, end.reduction),
        step_size=end.step_size,
    )


def _largest_ratio(g: Array, sizes: Array) -> Array:
    """Return the largest |g| / size of those that are not zero."""
    return jnp.max(jnp.abs(g) / jnp.where(sizes > 0, sizes, jnp.inf), initial=0)


@checked(init_radius=POSITIVE, max_tries=WHOLE)
def bounded_levenberg_marquardt(
    lower: Bound = None,
    upper: Bound = None,
    init_radius: Scalar = 100.0,
    max_tries: Scalar = 30,
    *,
    residual_fn: Callable[[Params, Any], Any] | None = None,
) -> Optimizer:
    r"""Minimize a sum of squares within bounds, by minima of its linear model in a trust region.

    .. math::

       \min_x \tfrac12 \lVert r(x) \rVert^2, \qquad l \le x \le u

    by steps

    .. math::

       d = \arg\min_d \lVert J d + r \rVert^2 \quad
       \text{over } \lVert D d \rVert \le \Delta,\; l \le x + d \le u

    `levenberg_marquardt`, with each linear problem solved under the bounds by active sets: without
    bounds the steps are the same. No point outside of [lower, upper] is evaluated, so a logarithm
    of a parameter with lower = 0 is safe wherever it is finite at the bound. A start outside of
    the bounds is moved to the nearest point within; parameters with lower == upper do not change.
    Neither the units of the residuals nor those of each parameter matter.

    Evidence: theory. Its relatives converge quadratically under an error bound (Kanzow et al. 2004,
    https://doi.org/10.1016/j.cam.2004.02.013).

    Args:
      lower: :math:`l`, bound of every element: a number, an array, or a prefix tree or `by_path` of
        those; None, or -inf in an array, is no bound. Bounds are leaves of the state's slots.
      upper: :math:`u`, likewise.
      init_radius: see `levenberg_marquardt`.
      max_tries: likewise.
      residual_fn: likewise.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `residual_fn=`.
      State: 12 bytes per element and a few numbers. J, of m x n elements, is formed and reduced
      once per update, in O(m n^2); each linear problem then takes a few QR decompositions of 2n x n
      elements. Residuals that are not finite count as too large. For many parameters use `lbfgsb`.

    Raises:
      ValueError: if a number is out of range, a bound does not fit, or lower > upper.
      TypeError: for complex parameters, which have no order.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def residual_fn(x): return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])
      >>> opt = gdjax.bounded_levenberg_marquardt(upper=jnp.array([0.5, jnp.inf]))
      >>> print(gdjax.least_squares(residual_fn, jnp.array([-1.2, 1.0]), opt).params)
      [0.5  0.25]
    """
    numbers: dict[str, Scalar] = dict(init_radius=init_radius, max_tries=max_tries)
    name = "bounded_levenberg_marquardt"

    def slots(params: Params) -> BoundedRegion:
        as_float_leaves(f"{name}: the parameters", params)
        low, high = whole_bounds(name, lower, upper, params)
        evals, failed = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        measures = [zero() + 1 for _ in range(3)]
        scale = zeros_like(params)
        return BoundedRegion(low, high, zero(), zero(), scale, evals, failed, *measures)

    return treewise(
        _bounded_levenberg_marquardt, slots, numbers, name=name, on_examples=residual_fn
    )
