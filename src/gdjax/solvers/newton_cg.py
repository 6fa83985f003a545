"""Newton-CG in a trust region: conjugate gradients on the Hessian, stopped at the region's edge.

Steihaug (1983), https://doi.org/10.1137/0720042, and Toint (1981); Nocedal & Wright (2006),
Algorithms 4.1 and 7.2. Paper -> here: Delta -> radius, rho -> gain, z -> d, eps_k -> tolerance.
Deviations: an update shrinks the region until it makes progress; a step whose gain is all rounding
error is taken and leaves the region as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import OPEN_UNIT, POSITIVE, WHOLE, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.trees import zero
from gdjax.core.types import Params, Scalar
from gdjax.core.vectors import as_tree, as_vector
from gdjax.solvers.levenberg_marquardt import gain_ratio


class Region(NamedTuple):
    """The slots of Newton-CG."""

    radius: Array  # Delta, of the region for the next update
    evals: Array  # evaluations of the objective in the last update, int32
    failed: Array  # whether the last update found no better point


class Trial(NamedTuple):
    """One radius that was tried."""

    radius: Array
    d: Array
    evals: Array
    accepted: Array
    stuck: Array


def length_to_edge(d: Array, p: Array, radius: Array) -> Array:
    """Return the t >= 0 with |d + t p| = radius, for |d| <= radius."""
    a, b, c = jnp.vdot(p, p), jnp.vdot(d, p), jnp.vdot(d, d) - radius**2
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0))
    q = -(b + jnp.where(b < 0, -root, root))  # the root without cancellation
    safe = jnp.where(q == 0, 1, q)
    return jnp.where(b < 0, q / jnp.where(a > 0, a, 1), jnp.where(q == 0, 0, c / safe))


def steihaug(
    hvp: Callable[[Array], Array], g: Array, radius: Array, rtol: Array, max_steps: Array
) -> tuple[Array, Array]:
    """Return d, an approximate minimum of <g, d> + <d, H d> / 2 in |d| <= radius, and its value.

    Conjugate gradients up to a residual of rtol |g|. Where they meet negative curvature or the
    edge, they follow the direction up to the edge: the value falls all the way there.
    """

    def unfinished(carry):
        _, _, _, _, rr, i, done = carry
        return ~done & (rr > (rtol * size) ** 2) & (i < max_steps)

    def step(carry):
        d, hd, r, p, rr, i, _ = carry
        hp = hvp(p)
        curvature = jnp.vdot(p, hp)
        alpha = rr / jnp.where(curvature > 0, curvature, 1)
        ahead = d + alpha * p
        done = ~(curvature > 0) | ~(jnp.vdot(ahead, ahead) < radius**2)
        t = jnp.where(done, length_to_edge(d, p, radius), alpha)
        new_d = jnp.where(done, d + t * p, ahead)
        new_hd = hd + t * hp
        r = r + alpha * hp
        new = jnp.vdot(r, r)
        return new_d, new_hd, r, -r + new / rr * p, new, i + 1, done

    size = jnp.sqrt(jnp.vdot(g, g))
    zeros, i = jnp.zeros_like(g), jnp.zeros((), jnp.int32)
    start = (zeros, zeros, g, -g, jnp.vdot(g, g), i, jnp.zeros((), bool))
    d, hd, *_ = jax.lax.while_loop(unfinished, step, start)
    return d, jnp.vdot(g, d) + 0.5 * jnp.vdot(d, hd)


def _newton_cg(
    grads, slots, params, count, *, init_radius, max_radius, eta, cg_steps, max_tries, value,
    value_fn, raw_params,
):  # fmt: skip
    if params is None:
        raise ValueError(f"newton_cg needs {NEEDS_PARAMS}")
    x = as_vector(raw_params)
    if not x.size:
        return grads, slots

    def fun(x):
        return value_fn(as_tree(x, raw_params)).astype(x.dtype)

    g, hvp = jax.linearize(jax.grad(fun), x)
    size = jnp.sqrt(jnp.vdot(g, g))
    rtol = jnp.minimum(0.5, jnp.sqrt(size))  # superlinear convergence (N&W 7.3)
    before = value.astype(x.dtype)
    radius = jnp.where(count == 1, init_radius, slots.radius).astype(x.dtype)

    def attempt(t: Trial) -> Trial:
        d, fall = steihaug(hvp, g, t.radius, rtol, cg_steps)
        decrease = before - fun(x + d)
        gain = gain_ratio(decrease, -fall, 4 * jnp.finfo(x.dtype).eps * jnp.abs(before))
        length = jnp.sqrt(jnp.vdot(d, d))
        fine = jnp.isfinite(decrease) & jnp.isfinite(length)
        accepted = fine & (gain > eta)
        wide = (gain > 0.75) & (length > 0.99 * t.radius)
        shrunk = 0.25 * jnp.where(fine, jnp.minimum(length, t.radius), t.radius)
        grown = jnp.where(wide, jnp.minimum(2 * t.radius, max_radius), t.radius)
        radius = jnp.where(fine & (gain > 0.25), grown, shrunk).astype(x.dtype)
        return Trial(radius, d, t.evals + 1, accepted, jnp.all(x + d == x))

    def unfinished(t: Trial) -> Array:
        return ~t.accepted & ~t.stuck & (t.evals < max_tries)

    no = jnp.zeros((), bool)
    start = Trial(radius, jnp.zeros_like(x), jnp.zeros((), jnp.int32), no, no)
    end = jax.lax.while_loop(unfinished, attempt, start)
    good = end.accepted & ~end.stuck
    d = jnp.where(good, end.d, 0)
    return as_tree(d, grads), Region(end.radius, end.evals, ~good & jnp.any(g != 0))


def _whole_region(params: Params) -> Region:
    return Region(zero(), jnp.zeros((), jnp.int32), jnp.zeros((), bool))


@checked(init_radius=POSITIVE, max_radius=POSITIVE, eta=OPEN_UNIT, cg_steps=WHOLE, max_tries=WHOLE)
def newton_cg(
    init_radius: Scalar = 1.0,
    max_radius: Scalar = 1e8,
    eta: Scalar = 0.15,
    cg_steps: Scalar = 200,
    max_tries: Scalar = 30,
) -> Optimizer:
    r"""Minimize the quadratic model of the objective in a trust region, by Hessian-vector products.

    .. math::

       d \approx \arg\min_d \langle g, d \rangle + \tfrac12 \langle d, H d \rangle \quad
       \text{over } \lVert d \rVert \le \Delta

    Negative curvature is followed to the edge of the region, so it moves away from saddle points.
    The Hessian is never formed: a step costs one gradient and at most `cg_steps` products, each as
    much as two gradients. SciPy's "trust-ncg" is the same method.

    Evidence: theory. It converges to stationary points, superlinearly if directions are computed
    accurately (Steihaug 1983, https://doi.org/10.1137/0720042).

    Args:
      init_radius: :math:`\Delta` > 0, radius of the first region, in units of the parameters.
      max_radius: the largest radius > 0.
      eta: the least share, in (0, 1), of the predicted decrease with which a step is accepted.
      cg_steps: most products per step.
      max_tries: how many radii an update tries at most.

    Returns:
      An `Optimizer` whose `update` needs the parameters, `value=` (the objective there) and
      `value_fn=` (the objective, a function of the parameters). State: a few numbers. Values that
      are not finite count as too large.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def fun(x): return x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2  # a saddle at 0
      >>> opt = gdjax.newton_cg()
      >>> x = jnp.array([0.1, 1.0])
      >>> state = opt.init(x)
      >>> def step(x, state):
      ...     value, grad = jax.value_and_grad(fun)(x)
      ...     return opt.update(grad, state, x, value=value, value_fn=fun)
      >>> step = jax.jit(step)
      >>> for _ in range(8):
      ...     updates, state = step(x, state)
      ...     x = gdjax.apply_updates(x, updates)
      >>> print(jnp.abs(x).round(3))
      [1. 0.]
    """
    numbers: dict[str, Scalar] = dict(init_radius=init_radius, max_radius=max_radius, eta=eta)
    numbers |= dict(cg_steps=cg_steps, max_tries=max_tries)
    return treewise(_newton_cg, _whole_region, numbers, name="newton_cg")
