"""ScheduleFree+: schedule-free AdamW with momentum and a Polyak step size, for large models.

Defazio (2026), https://arxiv.org/abs/2605.19095; code: AdamCScheduleFreePlusPaper in
https://github.com/facebookresearch/schedule_free
Paper -> here: y -> the parameters, z -> z, x -> `eval_params(state, params)`, beta_sf -> beta,
beta_sf^max -> beta_max, T_anneal -> anneal_steps, gamma -> learning_rate, F -> value,
beta_p -> b3, e -> norm, r -> weight_count_power, C_warmup -> average_start.
Deviations: y is updated as in `gdjax.optimizers.shared.averaging`, also where beta changes, and
z - x is (z - y) / beta. No floor of eps below the rates.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.checks import NONNEGATIVE, OPEN_UNIT, POSITIVE, checked
from gdjax.core.fits import loss_given
from gdjax.core.lift import leafwise, treewise
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.residual import exact_params, land, no_residual
from gdjax.core.trees import copied, inner_product, map_leaves, total, zero
from gdjax.core.types import FloatDType, Hyperparam, OptState, Params, PyTree, Scalar
from gdjax.optimizers.adam import Moments, zero_moments
from gdjax.optimizers.shared.averaging import RANGES, extrapolated, weigh

L1_TO_L2 = math.sqrt(math.pi / 2)  # of the mean sizes of normal numbers


class ScheduleFreePlus(NamedTuple):
    """What ScheduleFree+ remembers."""

    z: Params  # where the steps lead, at first the parameters, shaped like them
    weight_sum: Array  # sum of the weights of all z in the average; a number, like the next three
    max_learning_rate: Array  # largest step size so far
    norm: Array  # e, running mean of the l1 norm of the gradient
    beta: Array  # share of x in y, the parameters, since the last update
    residual: PyTree  # what rounding to less than float32 takes from y; see `gdjax.core.residual`
    inner: OptState  # both moments of Adam

    iterates = ("z", "residual")

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return x, the average of z."""
        return extrapolated(self.z, params, self.residual, self.beta)


def _schedule_free_plus(
    grads,
    slots,
    params,
    count,
    *,
    learning_rate,
    b3,
    beta,
    beta_max: Any = None,
    anneal_steps=None,
    average_start,
    weight_lr_power,
    weight_count_power,
    value,
    inner,
):
    if anneal_steps is not None:
        done = jnp.minimum((count - 1) / anneal_steps, 1)
        beta = 1 - (1 - beta) ** (1 - done) * (1 - beta_max) ** done
    exact = exact_params(params, slots.residual)

    sizes, slopes = map_leaves(_size_and_slope, 2, (grads, slots.z, exact))
    norm = b3 * slots.norm + (1 - b3) * L1_TO_L2 * total(sizes)
    gap = loss_given("schedule_free_plus", value) + beta / slots.beta * total(slopes)
    rate = learning_rate * safe_divide(jnp.maximum(gap, 0), norm / bias_correction(b3, count))

    directions, state = inner(grads, slots.inner, exact, rate=rate)
    c, weight_sum, largest = weigh(slots, rate, count, weight_lr_power, weight_count_power)
    early = count <= average_start
    c, weight_sum = jnp.where(early, 1, c), jnp.where(early, slots.weight_sum, weight_sum)
    share, own = c + (1 - c) * (slots.beta - beta) / slots.beta, 1 - beta * (1 - c)
    updates, z = map_leaves(_leaf_step, 2, (exact, slots.z, directions), rate, share, own)
    updates, residual = land(params, exact, updates, slots.residual)
    return updates, ScheduleFreePlus(z, weight_sum, largest, norm, beta, residual, state)


def _size_and_slope(grad, z, y):
    size = jnp.sum(jnp.abs(grad.real))
    if jnp.iscomplexobj(grad):
        size += jnp.sum(jnp.abs(grad.imag))
    return size, inner_product(grad, z - y)


def _adamc(grad, slots, param, count, *, b1, b2, eps, weight_decay, rate):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    root = safe_sqrt(nu / bias_correction(b2, count)) + eps
    direction = safe_divide(mu / bias_correction(b1, count), root)
    if weight_decay is not None:
        direction = direction + rate.astype(nu.dtype) * weight_decay * param
    return direction, Moments(mu, nu)


def _leaf_step(y, z, direction, rate, share, own):
    update = -rate * direction
    z = z + update
    return share * (z - update - y) + own * update, z


def _fresh(init: InitFn, state_dtype: FloatDType, params: Params) -> ScheduleFreePlus:
    z, one = copied(params, state_dtype), zero() + 1
    return ScheduleFreePlus(z, zero(), zero(), zero(), one, no_residual(params), init(params))


@checked(
    beta=OPEN_UNIT,
    beta_max=OPEN_UNIT,
    anneal_steps=POSITIVE,
    average_start=NONNEGATIVE,
    weight_lr_power=RANGES["weight_lr_power"],
    weight_count_power=RANGES["weight_count_power"],
)
def schedule_free_plus(
    learning_rate: Scalar = 1.0,
    b1: Scalar = 0.9,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    weight_decay: Hyperparam | None = None,
    *,
    b3: Scalar = 0.0,
    beta: Scalar = 0.9,
    beta_max: Scalar = 0.965,
    anneal_steps: Scalar | None = None,
    average_start: Scalar = 0,
    weight_lr_power: Scalar = 2.0,
    weight_count_power: Scalar = 0.0,
    state_dtype: FloatDType = None,
) -> Optimizer:
    r"""Run schedule-free AdamW with momentum and a Polyak step size; needs the loss.

    Good for: long runs of large language models, of unknown length and without a tuned rate.

    Evidence: authors only. Defazio 2026 measures language models: without tuning the learning rate
    it beats a tuned warm-up, constant and decay schedule, at 1000 tokens per parameter by 31 %
    (arXiv 2605.19095).

    The parameters are :math:`y_t`; gradient and loss :math:`f_t` are those at :math:`y_{t-1}`.
    With :math:`\hat m_t` and :math:`\hat v_t` the moments of `adam`, corrected for their start:

    .. math::

       e_t &= \beta_3 e_{t-1} + (1 - \beta_3) \sqrt{\pi / 2}\, \lVert g_t \rVert_1 \\
       \alpha_t &= \eta_t\, \frac{\max(0,\; f_t + \tilde\beta_t \langle g_t, z_{t-1} - x_{t-1}
       \rangle)}{e_t / (1 - \beta_3^t)} \\
       z_t &= z_{t-1} - \alpha_t \left( \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}
       + \alpha_t \lambda y_{t-1} \right) \\
       w_t &= t^r \left( \max_{i \le t} \alpha_i \right)^p, \qquad
       c_t = w_t / \sum_{i=C+1}^t w_i \\
       x_t &= (1 - c_t)\, x_{t-1} + c_t z_t \\
       y_t &= (1 - \tilde\beta_t)\, z_t + \tilde\beta_t x_t

    In the first C updates :math:`c_t = 1`. With `anneal_steps`, :math:`1 - \tilde\beta_t` goes
    from :math:`1 - \beta` to :math:`1 - \beta_{\max}` on a line of its logarithm, in T updates:

    .. math::

       1 - \tilde\beta_t = (1 - \beta)^{1 - p_t} (1 - \beta_{\max})^{p_t},
       \qquad p_t = \min(1,\; (t - 1) / T)

    Norm and inner product are over all parameters. Evaluate at x = `gdjax.eval_params(state,
    params)`. The step size supposes that the smallest possible loss is 0: subtract a better lower
    bound from the loss.

    Differences: the authors' code bounds the rates from below by eps, and with :math:`\beta_3 > 0`
    it averages norms that are corrected already (version of July 2026); otherwise results agree.

    Args:
      learning_rate: :math:`\eta_t` >= 0, factor of the step size: a number or schedule for the
        whole tree; for a warm-up `warmup_constant_schedule(0.0, 1.0, warmup_steps)`.
      b1: :math:`\beta_1` in [0, 1), decay of the mean gradient.
      b2: :math:`\beta_2` in [0, 1), decay of the mean square.
      eps: :math:`\epsilon` >= 0, added to the root.
      weight_decay: :math:`\lambda` >= 0, strength of the decay, at y: a number, schedule or prefix
        tree; None is none. It is multiplied by the square of the step size, so that good values
        are larger than those of `adamw`, by the authors 20 to 50.
      b3: :math:`\beta_3` in [0, 1), decay of the mean norm; with 0 it is that of the last gradient.
      beta: :math:`\beta` in (0, 1), share of x in y: a number or schedule.
      beta_max: :math:`\beta_{\max}` in (0, 1), what it becomes with `anneal_steps`.
      anneal_steps: :math:`T` > 0, number of updates in which it does; None keeps :math:`\beta`.
      average_start: :math:`C` >= 0, number of updates before the average, in which x = z; the
        authors advise once or twice the length of the warm-up.
      weight_lr_power: :math:`p` >= 0, power of the largest step size in the weights.
      weight_count_power: :math:`r`, power of the step count in the weights, finite; the authors
        advise to try 2 in long runs.
      state_dtype: dtype of z; None is float32, or float64 for float64 parameters.

    Returns:
      An `Optimizer` whose `update` needs the parameters and `value=`, the loss at them.
      State: 12 bytes for each element; 16 where the parameters are of less than float32, whose
      rounding errors it keeps.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.
      TypeError: if `update` is called without `value`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum(x**2)
      >>> opt = gdjax.schedule_free_plus()
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(50):
      ...     value, grads = jax.value_and_grad(loss)(params)
      ...     updates, state = opt.update(grads, state, params, value=value)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(loss(gdjax.eval_params(state, params)) < 0.1))
      True

    References:
      Defazio (2026), "ScheduleFree+: Scaling learning-rate-free and schedule-free learning to large
      language models".
    """
    numbers = dict(learning_rate=learning_rate, b3=b3, beta=beta, average_start=average_start)
    if anneal_steps is not None:
        numbers |= dict(beta_max=beta_max, anneal_steps=anneal_steps)
    numbers |= dict(weight_lr_power=weight_lr_power, weight_count_power=weight_count_power)
    base = leafwise(_adamc, zero_moments, dict(b1=b1, b2=b2, eps=eps, weight_decay=weight_decay))
    slots = functools.partial(_fresh, base.init, state_dtype)
    return treewise(_schedule_free_plus, slots, numbers, needs_params=True, inner=base.update)
