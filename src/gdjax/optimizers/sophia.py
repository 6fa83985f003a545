"""Sophia: the mean gradient divided by an estimate of the Hessian's diagonal, then clipped.

Liu et al. (2023), Algorithm 3, https://arxiv.org/abs/2305.14342
Paper -> here: m -> mu, h -> nu, k -> update_interval, rho (also gamma) -> gamma, lambda ->
weight_decay, eta -> learning_rate. Deviations: none. optax corrects the bias of mu and updates nu
after the step, so its first step is +-learning_rate everywhere and each estimate is used one step
later.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import chain, with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, POSITIVE, WHOLE, checked
from gdjax.core.every import is_due, when_due
from gdjax.core.lift import descend, treewise
from gdjax.core.numerics import clip_parts, compute_dtype, safe_divide
from gdjax.core.trees import map_leaves, zeros_like
from gdjax.core.types import FloatDType, Hyperparam, Mask, OptState, Pair, Params, PyTree, Scalar
from gdjax.optimizers.sgd import gradient_rule
from gdjax.transforms.curvature import hutchinson_estimator_diag_hessian

RANGES = dict(
    gamma=POSITIVE, clip_threshold=NONNEGATIVE._replace(optional=True), update_interval=WHOLE
)


class Curvature(NamedTuple):
    """What Sophia remembers."""

    mu: PyTree  # m, running mean of the gradients, a tree like the parameters
    nu: PyTree  # h, running mean of the estimated Hessian diagonals, likewise
    hessian_fn_state: OptState  # the state of the estimate


def _sophia(
    grads,
    slots,
    params,
    count,
    *,
    b1,
    b2,
    eps,
    gamma,
    clip_threshold,
    update_interval,
    estimate,
    raw_params,
    **extra,
):
    def refresh(state, nu):
        diagonal, state = estimate(grads, state, raw_params, **extra)
        return state, map_leaves(_mean, 1, (nu, diagonal), b2)[0]

    due = is_due(count, update_interval)
    state, nu = when_due(due, refresh, slots.hessian_fn_state, slots.nu)
    (mu,) = map_leaves(_mean, 1, (slots.mu, grads), b1)
    (direction,) = map_leaves(_clipped, 1, (mu, nu), gamma, eps, clip_threshold)
    return direction, Curvature(mu, nu, state)


def _mean(mean: Array, x: Array, decay: Array) -> Array:
    return decay * mean + (1 - decay) * x


def _clipped(mu: Array, nu: Array, gamma: Array, eps: Array, clip_threshold: Array | None) -> Array:
    direction = safe_divide(
        mu, jnp.maximum(gamma * nu, eps)
    )  # where the curvature is negative, over eps
    return direction if clip_threshold is None else clip_parts(direction, clip_threshold)


def _slots(params: Params, estimate_init: InitFn, mu_dtype: FloatDType) -> Curvature:
    mu = jax.tree.map(lambda x: jnp.zeros_like(x, dtype=mu_dtype or compute_dtype(x)), params)
    return Curvature(mu, zeros_like(params), estimate_init(params))


@checked(**RANGES)
def scale_by_sophia(
    b1: Scalar = 0.965,
    b2: Scalar = 0.99,
    eps: Scalar = 1e-8,
    gamma: Scalar = 0.01,
    clip_threshold: Scalar | None = 1.0,
    update_interval: Scalar = 10,
    hessian_diagonal_fn: Pair | None = None,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    """Replace the gradient by Sophia's direction; arguments and equations as in `sophia`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_sophia(b1=0.0, b2=0.0, gamma=1.0)
      >>> params = jnp.array([1.0, 2.0])
      >>> loss = lambda x: jnp.sum(jnp.array([3.0, -5.0]) * x**2)
      >>> state = opt.init(params)
      >>> print(opt.update(jnp.array([1.2, 0.1]), state, params, obj_fn=loss)[0])
      [0.2 1. ]
    """
    return _direction("scale_by_sophia", **locals())


def _direction(
    name: str,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    gamma: Scalar,
    clip_threshold: Scalar | None,
    update_interval: Scalar,
    hessian_diagonal_fn: Pair | None,
    mu_dtype: FloatDType,
) -> Optimizer:
    """Return the direction of `sophia`; `name` is for errors."""
    estimate = with_extra_args_support(hessian_diagonal_fn or hutchinson_estimator_diag_hessian())
    slots = functools.partial(_slots, estimate_init=estimate.init, mu_dtype=mu_dtype)
    numbers = dict(
        b1=b1,
        b2=b2,
        eps=eps,
        gamma=gamma,
        clip_threshold=clip_threshold,
        update_interval=update_interval,
    )
    return treewise(_sophia, slots, numbers, name=name, estimate=estimate.update)


@checked(**RANGES)
def sophia(
    learning_rate: Hyperparam,
    b1: Scalar = 0.965,
    b2: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Hyperparam | None = 1e-4,
    weight_decay_mask: Mask = None,
    gamma: Scalar = 0.01,
    clip_threshold: Scalar | None = 1.0,
    update_interval: Scalar = 10,
    hessian_diagonal_fn: Pair | None = None,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Descend along a mean gradient divided by an estimated curvature, with clipped elements.

    Good for: language models, with a curvature estimate every few steps.

    Evidence: negative. Its gains vanish against a baseline whose learning rate decays fully
    (Kaddour et al. 2023, arXiv 2307.06440); for language models its loss is that of tuned AdamW
    (Wen et al. 2025, arXiv 2509.02046) or above it in long runs (Semenov et al. 2025, arXiv
    2509.01440). One comparison finds a lower loss than AdamW's, but lower scores on tasks
    (Schlotthauer et al. 2025, arXiv 2507.08472).

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
       h_t &= \beta_2 h_{t-1} + (1 - \beta_2)\, \hat h_t
       \quad \text{in steps } 1,\; 1 + k,\; 1 + 2 k,\; \ldots \\
       d_t &= \operatorname{clip}\left( \frac{m_t}{\max(\gamma h_t, \epsilon)},\; -c,\; c
       \right) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    with :math:`\hat h_t` an estimate of the Hessian's diagonal; in the other steps :math:`h_t` does
    not change.

    Sophia-H is the default; Sophia-G is `hessian_diagonal_fn=gauss_newton_bartlett_diag_hessian()`
    with gamma 0.04. Pass what the estimate needs to `update`: for the default
    `update(grads, state, params, obj_fn=lambda p: loss(p, batch))`. `fit` does that by itself.
    The authors tune gamma so that a tenth to a half of the elements are not clipped.

    Differences: optax corrects the bias of :math:`m_t` and renews :math:`h_t` after the step. So
    its first step has the length of the learning rate in every element, and each estimate is used
    one step later.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0, in units of the parameters: a number, schedule
        or prefix tree.
      b1: :math:`\beta_1`, decay of the mean gradient, in [0, 1): a number or a schedule, like all
        numbers below.
      b2: :math:`\beta_2`, decay of the mean curvature, in [0, 1).
      eps: :math:`\epsilon` >= 0, smallest divisor; where the curvature is negative, the step is
        that of the sign.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`; 0.1 in the paper.
      weight_decay_mask: which leaves decay, see `adamw`.
      gamma: :math:`\gamma` > 0, factor of the curvature.
      clip_threshold: :math:`c` >= 0, largest magnitude of an element of the direction; None for no
        bound.
      update_interval: :math:`k`, steps from one estimate of the curvature to the next, a whole
        number >= 1.
      hessian_diagonal_fn: the estimate, an `(init, update)` pair; None is
        `hutchinson_estimator_diag_hessian()`.
      mu_dtype: dtype of the mean gradient; None is at least float32.

    Returns:
      An `Optimizer` for real parameters whose `update` needs the parameters and what the estimate
      asks for.
      State: 8 bytes per element (mu, nu) and a key.

    Raises:
      ValueError: if a concrete number is out of range.
      TypeError: if `update` is called without what the estimate needs.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)  # badly conditioned
      >>> opt = gdjax.sophia(0.1, b1=0.0, b2=0.0, gamma=1.0, weight_decay=0.0)
      >>> params = jnp.array([0.5, 0.5])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(jax.grad(loss)(params), state, params, obj_fn=loss)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(3))
      [0.364 0.364]

    References:
      Liu et al. (2023), "Sophia: a scalable stochastic second-order optimizer for language model
      pre-training", Algorithm 3.
    """
    direction = _direction(
        "sophia",
        b1=b1,
        b2=b2,
        eps=eps,
        gamma=gamma,
        clip_threshold=clip_threshold,
        update_interval=update_interval,
        hessian_diagonal_fn=hessian_diagonal_fn,
        mu_dtype=mu_dtype,
    )
    decay = weight_decay, weight_decay_mask
    return chain(direction, descend(gradient_rule, None, {}, learning_rate, *decay, name="sophia"))
