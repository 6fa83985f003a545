"""Schedule-free gradient descent, AdamW and RAdam; `gdjax.schedule_free` wraps any other optimizer.

Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky (2024), eqs. 3-5, Algorithm 1,
https://arxiv.org/abs/2405.15682
Paper -> here: see `gdjax.optimizers.shared.averaging`, which has y, z, x and their weights.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import leafwise, treewise
from gdjax.core.numerics import abs_sq, bias_correction, compute_dtype, real_dtype, safe_sqrt
from gdjax.core.residual import exact_params, land
from gdjax.core.trees import map_leaves
from gdjax.core.types import FloatDType, Hyperparam, Rule, Scalar
from gdjax.optimizers.radam import rectification
from gdjax.optimizers.shared.averaging import RANGES, ScheduleFree, fresh, move, weigh


class Rms(NamedTuple):
    """The part of Adam that schedule-free Adam keeps of one parameter."""

    nu: Array  # v, running mean of the squared gradient, real, shaped like the parameter


def _schedule_free(
    grads,
    slots,
    params,
    count,
    *,
    learning_rate,
    warmup_steps,
    b1,
    weight_lr_power,
    weight_count_power,
    inner,
):
    rate = learning_rate
    if warmup_steps is not None:
        rate *= jnp.minimum(count / jnp.maximum(warmup_steps, 1), 1)
    exact = exact_params(params, slots.residual)
    directions, state = inner(grads, slots.inner, exact)
    powers = weight_lr_power, weight_count_power
    return _step(slots, params, exact, directions, state, rate, count, b1, powers)


def _schedule_free_radam(
    grads,
    slots,
    params,
    count,
    *,
    learning_rate,
    b1,
    b2,
    weight_lr_power,
    weight_count_power,
    silent,
    inner,
):
    trusted, factor = rectification(b2, count, 4)
    rate = learning_rate * jnp.where(trusted, factor, 0 if silent else 1)
    exact = exact_params(params, slots.residual)
    directions, state = inner(grads, slots.inner, exact, b2=b2, trusted=trusted)
    powers = weight_lr_power, weight_count_power
    return _step(slots, params, exact, directions, state, rate, count, b1, powers)


def _step(slots, params, exact, directions, state, rate, count, b1, powers):
    c, weight_sum, largest = weigh(slots, rate, count, *powers)
    updates, z = map_leaves(_leaf_step, 2, (exact, slots.z, directions), rate, c, b1)
    updates, residual = land(params, exact, updates, slots.residual)
    return updates, ScheduleFree(z, weight_sum, largest, residual, state)


def _leaf_step(param, z, direction, rate, c, b1):
    return move(param, z, -rate * direction, c, b1)


# --- the direction of z -------------------------------------------------------------------------


def _gradient(grad, slots, param, count, *, weight_decay):
    return _decayed(grad, param, weight_decay), slots


def _rms(grad, slots, param, count, *, b2, eps, weight_decay):
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    direction = _over(grad, safe_sqrt(nu / bias_correction(b2, count)) + eps)
    return _decayed(direction, param, weight_decay), Rms(nu)


def _rectified(grad, slots, param, count, *, eps, weight_decay, b2, trusted):
    b2 = b2.astype(slots.nu.dtype)
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    direction = _over(grad, safe_sqrt(nu / bias_correction(b2, count)) + eps)
    return _decayed(jnp.where(trusted, direction, grad), param, weight_decay), Rms(nu)


def _over(grad, root):
    # as `safe_divide`, where XLA would store one array more: the root is 0 only if the gradient is
    return grad / jnp.where(root == 0, 1, root)


def _decayed(direction, param, weight_decay):
    return direction if weight_decay is None else direction + weight_decay * param


def _zero_nu(param: Array) -> Rms:
    return Rms(jnp.zeros_like(param, dtype=real_dtype(compute_dtype(param))))


def _build(
    rule: Rule,
    base: Optimizer,
    state_dtype: FloatDType,
    numbers: Mapping[str, Scalar | None],
    **static: Any,
) -> Optimizer:
    slots = functools.partial(fresh, base.init, state_dtype)
    return treewise(rule, slots, numbers, needs_params=True, inner=base.update, **static)


# --- public ---------------------------------------------------------------------------------------


@checked(**RANGES)
def schedule_free_sgd(
    learning_rate: Scalar = 1.0,
    warmup_steps: Scalar | None = None,
    b1: Scalar = 0.9,
    weight_decay: Hyperparam | None = None,
    weight_lr_power: Scalar = 2.0,
    state_dtype: FloatDType = None,
    *,
    weight_count_power: Scalar = 0.0,
) -> Optimizer:
    r"""Run schedule-free gradient descent; see `schedule_free`.

    Good for: images, convex problems, runs of unknown length.

    Evidence: authors only. Defazio et al. 2024, arXiv 2405.15682.

    `schedule_free` defines y, the parameters, and x, their average; z is updated by

    .. math::

       \gamma_t &= \eta_t \min(1,\; t / T) \\
       z_t &= z_{t-1} - \gamma_t (g_t + \lambda y_{t-1})

    with :math:`g_t` the gradient at :math:`y_{t-1}`.

    Differences: the warm-up is that of the authors' schedulefree; optax's first update is 0.

    Args:
      learning_rate: :math:`\eta_t` >= 0: a number or schedule for the whole tree.
      warmup_steps: :math:`T` >= 0, length of a linear warm-up; None is none.
      b1: :math:`\beta` in (0, 1], see `schedule_free`.
      weight_decay: :math:`\lambda` >= 0: a number, schedule or prefix tree; None is none.
      weight_lr_power: see `schedule_free`.
      state_dtype: see `schedule_free`.
      weight_count_power: see `schedule_free`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes for each element; 8 where the parameters are of less than float32, whose
      rounding errors it keeps.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.schedule_free_sgd(0.5, warmup_steps=5)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> updates, state = opt.update(params, state, params)
      >>> print(updates)
      [-0.1  0.2]
    """
    numbers = dict(learning_rate=learning_rate, warmup_steps=warmup_steps, b1=b1)
    numbers |= dict(weight_lr_power=weight_lr_power, weight_count_power=weight_count_power)
    base = leafwise(_gradient, None, dict(weight_decay=weight_decay))
    return _build(_schedule_free, base, state_dtype, numbers)


@checked(**RANGES)
def schedule_free_adamw(
    learning_rate: Scalar = 0.0025,
    warmup_steps: Scalar | None = None,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    weight_lr_power: Scalar = 2.0,
    state_dtype: FloatDType = None,
    *,
    weight_count_power: Scalar = 0.0,
) -> Optimizer:
    r"""Run schedule-free AdamW, which needs no first moment; see `schedule_free`.

    Good for: runs of unknown length, without a schedule to tune.

    Evidence: independent. It won AlgoPerf without tuning and was second with tuning (Kasimbeg et
    al. 2025, arXiv 2502.15015); a second version leads the entries with one configuration for nine
    workloads (AlgoPerf, July 2026, unofficial,
    https://github.com/mlcommons/submissions_algorithms). For language models whose length is known
    its loss is above that of AdamW with a cosine schedule (Semenov et al. 2025, arXiv 2509.01440).

    `schedule_free` defines y, the parameters, and x, their average; z is updated by

    .. math::

       v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
       z_t &= z_{t-1} - \gamma_t \left( \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
       + \lambda y_{t-1} \right)

    with :math:`g_t` the gradient at :math:`y_{t-1}` and :math:`\gamma_t` the learning rate, with
    the warm-up of `schedule_free_sgd`.

    Args:
      learning_rate: see `schedule_free_sgd`, like all arguments that are not named here.
      warmup_steps: see `schedule_free_sgd`.
      b1: :math:`\beta` in (0, 1], see `schedule_free`.
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      eps: :math:`\epsilon` >= 0, added to the root.
      weight_decay: :math:`\lambda` >= 0, strength of the decoupled decay, at y: a number, schedule
        or prefix tree; None is none.
      weight_lr_power: see `schedule_free`.
      state_dtype: see `schedule_free`.
      weight_count_power: see `schedule_free`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 8 bytes for each element; 12 where the parameters are of less than float32.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.schedule_free_adamw(0.1)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(50):
      ...     updates, state = opt.update(params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(jnp.abs(gdjax.eval_params(state, params)).max() < 0.5))
      True
    """
    numbers = dict(learning_rate=learning_rate, warmup_steps=warmup_steps, b1=b1)
    numbers |= dict(weight_lr_power=weight_lr_power, weight_count_power=weight_count_power)
    base = leafwise(_rms, _zero_nu, dict(b2=b2, eps=eps, weight_decay=weight_decay))
    return _build(_schedule_free, base, state_dtype, numbers)


@checked(**RANGES)
def schedule_free_radam(
    learning_rate: Scalar = 0.0025,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    weight_lr_power: Scalar = 2.0,
    state_dtype: FloatDType = None,
    *,
    weight_count_power: Scalar = 0.0,
    silent: bool = True,
) -> Optimizer:
    r"""Run schedule-free rectified Adam, which needs no warm-up; see `schedule_free_adamw`.

    Good for: as `schedule_free_adamw`, also without a warm-up.

    Evidence: none. It is in the authors' package; no comparison is known to us.

    With :math:`r_t` and :math:`\rho_t` of `radam` (Liu et al. 2019,
    https://arxiv.org/abs/1908.03265), the learning rate of `schedule_free_adamw` is

    .. math::

       \gamma_t = \begin{cases} \eta_t r_t & \text{if } \rho_t > 4 \\
       0 & \text{else} \end{cases}

    Without `silent`, :math:`\gamma_t = \eta_t` in the first steps, in which z is moved along the
    gradient itself.

    Args:
      learning_rate: see `schedule_free_sgd`, like all arguments that are not named here.
      b1: :math:`\beta` in (0, 1], see `schedule_free`.
      b2: :math:`\beta_2` in [0, 1), see `schedule_free_adamw`.
      eps: :math:`\epsilon` >= 0, see `schedule_free_adamw`.
      weight_decay: :math:`\lambda` >= 0, see `schedule_free_adamw`.
      weight_lr_power: see `schedule_free`.
      state_dtype: see `schedule_free`.
      weight_count_power: see `schedule_free`.
      silent: whether the first updates, usually 4, are 0, or else plain gradient descent.

    Returns:
      As `schedule_free_adamw`.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.schedule_free_radam(0.1)
      >>> params = jnp.array([1.0, -2.0])
      >>> print(opt.update(params, opt.init(params), params)[0])
      [0. 0.]
    """
    numbers = dict(learning_rate=learning_rate, b1=b1, b2=b2)
    numbers |= dict(weight_lr_power=weight_lr_power, weight_count_power=weight_count_power)
    base = leafwise(_rectified, _zero_nu, dict(eps=eps, weight_decay=weight_decay))
    return _build(_schedule_free_radam, base, state_dtype, numbers, silent=silent)
