"""Mechanic: learn the scale of another optimizer's updates, in place of a tuned learning rate.

Cutkosky, Defazio & Mehta (2023), Algorithm 1, https://arxiv.org/abs/2306.00144
Paper -> here: Delta -> displacement, x_ref -> start, s, r, m, v -> scales, rewards, largest,
squares; lambda -> weight_decay, W -> wealth.
Deviations: h is clipped by the largest |h| before it and negative rewards are kept, as in optax;
mechanic-pytorch does neither. The displacement is kept too, where optax recovers it from the
parameters, dividing by the scale + eps.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, POSITIVE, check_integer, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import abs_sq, safe_sqrt, scalar_dtype
from gdjax.core.trees import copied, inner_product, map_leaves, total, zeros_like
from gdjax.core.types import OptState, Pair, Params, Scalar, Updates
from gdjax.wrappers.shared.skipping import at_steps


class Mechanic(NamedTuple):
    """What Mechanic remembers; the vectors have one element for each decay rate."""

    start: Params  # x_ref, the first parameters, shaped like them
    displacement: Updates  # Delta, sum of the base optimizer's updates
    scales: Array  # s, whose sum multiplies the displacement; valid after the first update
    rewards: Array  # r
    largest: Array  # m, decaying maximum of |h|
    squares: Array  # v, decaying sum of h^2
    inner: OptState  # state of the base optimizer

    iterates = ("start", "displacement")


def _measure(grad, param, displacement):
    """Return |g|^2, |param|^2, <g, Delta>, <param, Delta>."""
    squares = jnp.sum(abs_sq(grad)), jnp.sum(abs_sq(param))
    return *squares, inner_product(grad, displacement), inner_product(param, displacement)


def _place(start, displacement, param, update, scale):
    displacement = displacement + update
    return start + scale * displacement - param, displacement


def _mechanize(grads, slots, params, count, *, weight_decay, eps, s_init, inner, **extra):
    if params is None:
        raise ValueError(f"mechanize needs {NEEDS_PARAMS}")
    base_updates, state = inner(grads, slots.inner, params, **extra)
    given = grads, slots, params, base_updates, state, count, weight_decay, eps, s_init
    left = base_updates, slots._replace(inner=state)
    return at_steps(state, functools.partial(_learn, *given), left)


def _learn(grads, slots, params, updates, state, count, weight_decay, eps, s_init):
    s = jnp.where(count == 1, s_init, slots.scales)
    betas = 1 - 0.1 ** jnp.arange(1, s.size + 1, dtype=s.dtype)
    # h = -<g + decay, Delta>: what a larger scale would have gained, to first order
    sums = map(total, map_leaves(_measure, 4, (grads, params, slots.displacement)))
    grad_sq, param_sq, grad_gain, param_gain = sums
    ratio = safe_sqrt(grad_sq) / (safe_sqrt(param_sq) + eps)
    h = -grad_gain - weight_decay * jnp.sum(s) * ratio * param_gain
    rewards = betas * slots.rewards + jnp.clip(h, -slots.largest, slots.largest) * s
    largest = jnp.maximum(betas * slots.largest, jnp.abs(h) + eps)
    squares = betas**2 * slots.squares + h**2
    wealth = s_init / s.size * largest + jnp.maximum(rewards, 0)
    s = wealth / (safe_sqrt(squares) + eps)
    trees = slots.start, slots.displacement, params, updates
    updates, displacement = map_leaves(_place, 2, trees, jnp.sum(s))
    return updates, Mechanic(slots.start, displacement, s, rewards, largest, squares, state)


def _fresh(init: InitFn, size: int, params: Params) -> Mechanic:
    s, r, m, v = (jnp.zeros(size, scalar_dtype()) for _ in range(4))
    return Mechanic(copied(params), zeros_like(params), s, r, m, v, init(params))


@checked(s_init=POSITIVE, eps=POSITIVE, weight_decay=NONNEGATIVE)
def mechanize(
    base_optimizer: Pair,
    weight_decay: Scalar = 1e-2,
    eps: Scalar = 1e-8,
    s_init: Scalar = 1e-6,
    num_betas: int = 6,
) -> Optimizer:
    r"""Learn the factor by which to scale the sum of another optimizer's updates.

    With :math:`u_t` the update of the base optimizer, :math:`S_t` the sum of the n scales
    :math:`s_{t,i}`, and :math:`\beta_i = 1 - 0.1^i`:

    .. math::

       h_t &= -\left\langle g_t + \lambda S_{t-1} \frac{\lVert g_t \rVert}
       {\lVert x_{t-1} \rVert + \epsilon} x_{t-1},\; \Delta_{t-1} \right\rangle \\
       r_{t,i} &= \beta_i r_{t-1,i} + \operatorname{clip}(h_t,\, -m_{t-1,i},\, m_{t-1,i})\,
       s_{t-1,i} \\
       m_{t,i} &= \max(\beta_i m_{t-1,i},\; |h_t| + \epsilon) \\
       v_{t,i} &= \beta_i^2 v_{t-1,i} + h_t^2 \\
       s_{t,i} &= \frac{(s_{\mathrm{init}} / n)\, m_{t,i} + \max(0, r_{t,i})}
       {\sqrt{v_{t,i}} + \epsilon} \\
       \Delta_t &= \Delta_{t-1} + u_t, \qquad x_t = x_0 + S_t \Delta_t

    Evidence: authors only. Cutkosky et al. 2023, arXiv 2306.00144.

    Differences: optax divides by S + eps where the displacement :math:`\Delta` is recovered, which
    matters as long as S is not much larger than eps; otherwise the results agree.

    Args:
      base_optimizer: any `(init, update)` pair, run at a learning rate of the order of 1; of a
        schedule only the shape matters.
      weight_decay: :math:`\lambda` >= 0, strength of the decay in the gradient that the scale is
        learned from: one number or schedule for the whole tree, like all numbers here.
      eps: :math:`\epsilon` > 0, added to divisors.
      s_init: :math:`s_{\mathrm{init}}` > 0, the first scale, too small rather than too large.
      num_betas: :math:`n` >= 1, number of decay rates 0.9, 0.99, ...; static, not a leaf of the
        state.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 8 bytes for each element, in addition to that of `base_optimizer`.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.mechanize(gdjax.sgd(1.0), s_init=1e-3)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(60):
      ...     updates, state = opt.update(2 * params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(jnp.abs(params).max() < 0.3))
      True

    References:
      Cutkosky, Defazio & Mehta (2023), "Mechanic: a learning rate tuner".
    """
    num_betas = check_integer("mechanize(num_betas=...)", num_betas)
    base = with_extra_args_support(base_optimizer)
    slots = functools.partial(_fresh, base.init, num_betas)
    numbers = dict(weight_decay=weight_decay, eps=eps, s_init=s_init)
    return treewise(_mechanize, slots, numbers, inner=base.update)
