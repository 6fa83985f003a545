"""AdEMAMix: Adam with a second, much slower mean of the gradients; also its one-mean variant.

Pagliardini, Ablin & Grangier (2024), Algorithm 1, https://arxiv.org/abs/2409.03137
Simplified: Morwani et al. (2025), section 5, https://arxiv.org/abs/2502.02431
Paper -> here: m_1, m_2 -> m1, m2, nu -> nu, eta -> learning_rate, lambda -> weight_decay, T_alpha
and T_beta3 -> total_steps. Deviations: none; like the paper, decay is multiplied by the rate.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, OPEN_UNIT, POSITIVE, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.lift import descend, leafwise
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam, Mask, Number
from gdjax.optimizers.adam import Moments, zero_moments
from gdjax.schedules.curves import real


class TwoMeans(NamedTuple):
    """What AdEMAMix remembers of one parameter."""

    m1: Array  # fast running mean of the gradient, shaped like the parameter
    m2: Array  # slow running mean of the gradient, likewise
    nu: Array  # running mean of the gradient's square, real, likewise


def _ademamix(grad, slots, param, count, *, b1, b2, b3, alpha, eps, eps_root):
    m1 = b1 * slots.m1 + (1 - b1) * grad
    m2 = b3 * slots.m2 + (1 - b3) * grad  # without bias correction: it should grow slowly
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    root = safe_sqrt(nu / bias_correction(b2, count) + eps_root)
    mean = m1 / bias_correction(b1, count) + alpha * m2
    return safe_divide(mean, root + eps), TwoMeans(m1, m2, nu)


def _two_means(param: Array, mu_dtype: FloatDType) -> TwoMeans:
    m1, nu = zero_moments(param, mu_dtype)
    return TwoMeans(m1, jnp.zeros_like(m1), nu)


def _progress(count: Number, total_steps: Number) -> Array:
    t = real(count) + 1  # as a float: a count at its maximum must not wrap
    return jnp.minimum(t / real(total_steps), 1)


@schedule
class LinearMix(Schedule):
    """The warm-up of alpha: `alpha * min(t / total_steps, 1)` at t = 1, 2, ..."""

    alpha: Number
    total_steps: Number

    def __call__(self, count: Number) -> Array:
        """Return alpha for update number `count`, where 0 is the first."""
        return real(self.alpha) * _progress(count, self.total_steps)


@schedule
class HalfLifeWarmup(Schedule):
    """The warm-up of b3, from b1 upwards: its half-life grows linearly until t = total_steps."""

    b1: Number
    b3: Number
    total_steps: Number

    def __call__(self, count: Number) -> Array:
        """Return b3 for update number `count`, where 0 is the first."""
        progress = _progress(count, self.total_steps)
        slow, fast = jnp.log(real(self.b3)), jnp.log(real(self.b1))
        return jnp.exp(slow * fast / ((1 - progress) * slow + progress * fast))


@checked(total_steps=POSITIVE, alpha=NONNEGATIVE, b1=OPEN_UNIT, b3=OPEN_UNIT)
def ademamix_schedules(
    total_steps: Number, alpha: Number = 5.0, b1: Number = 0.9, b3: Number = 0.9999
) -> dict[str, Schedule]:
    r"""Return the paper's warm-ups of `alpha` and `b3`, as arguments for `ademamix`.

    .. math::

       \tau_t &= \min(t / T, 1) \\
       \alpha_t &= \tau_t \alpha \\
       \beta_{3,t} &= \exp \frac{\ln \beta_1 \ln \beta_3}
                                {(1 - \tau_t) \ln \beta_3 + \tau_t \ln \beta_1}

    The half-life of the slow mean grows linearly. Without the warm-ups this mean makes the early
    steps too long. The first update uses t = 1, for which the schedules have the count 0.

    Args:
      total_steps: :math:`T`, steps > 0 until both have their final values, usually the whole run.
      alpha: :math:`\alpha`, final weight of the slow mean, >= 0.
      b1: :math:`\beta_1`, where :math:`\beta_3` starts, in (0, 1); the `b1` of `ademamix`.
      b3: :math:`\beta_3`, final decay of the slow mean, in (0, 1).

    Example:
      >>> import gdjax
      >>> warmups = gdjax.ademamix_schedules(total_steps=1000)
      >>> opt = gdjax.ademamix(1e-3, **warmups)
      >>> for count in (0, 499, 999):
      ...     print(f"{warmups['alpha'](count):.3f} {warmups['b3'](count):.4f}")
      0.005 0.9500
      2.500 0.9998
      5.000 0.9999
    """
    return dict(alpha=LinearMix(alpha, total_steps), b3=HalfLifeWarmup(b1, b3, total_steps))


@checked(alpha=NONNEGATIVE)
def scale_by_ademamix(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    b3: Hyperparam = 0.9999,
    alpha: Hyperparam = 6.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    """Replace the gradient by AdEMAMix's direction; arguments and equations as in `ademamix`.

    As in optax, the default of `alpha` is 6 here and 5 there.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_ademamix(b3=0.9, alpha=5.0)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0].round(3))
      [ 1.5 -1.5]
    """
    slots = functools.partial(_two_means, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, b3=b3, alpha=alpha, eps=eps, eps_root=eps_root)
    return leafwise(_ademamix, slots, numbers)


@checked(alpha=NONNEGATIVE)
def ademamix(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    b3: Hyperparam = 0.9999,
    alpha: Hyperparam = 5.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
) -> Optimizer:
    r"""Run AdamW along a mix of a fast and a very slow mean of the gradients.

    Good for: long runs of language models.

    Evidence: independent. It is second of 16 entries with one configuration for nine workloads,
    before NAdamW (AlgoPerf, July 2026, unofficial,
    https://github.com/mlcommons/submissions_algorithms). Its loss is the lowest at 720 M parameters
    (Semenov et al. 2025, arXiv 2509.01440), where one of its authors takes part.

    .. math::

       m_{1,t} &= \beta_1 m_{1,t-1} + (1 - \beta_1) g_t \\
       m_{2,t} &= \beta_3 m_{2,t-1} + (1 - \beta_3) g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
       \hat m_{1,t} &= m_{1,t} / (1 - \beta_1^t), \quad \hat v_t = v_t / (1 - \beta_2^t) \\
       d_t &= (\hat m_{1,t} + \alpha m_{2,t}) / (\sqrt{\hat v_t + \bar\epsilon} + \epsilon) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    The slow mean covers about :math:`1 / (1 - \beta_3)` steps. Use the paper's warm-ups,
    `ademamix(1e-3, **ademamix_schedules(total_steps))`, and a smaller :math:`\beta_3` for short
    runs.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`.
      b1: :math:`\beta_1`, decay of the fast mean, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      b3: :math:`\beta_3`, decay of the slow mean, in [0, 1).
      alpha: :math:`\alpha`, weight of the slow mean, >= 0; 4 to 10 in the paper.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      mu_dtype: dtype of the two means; None is float32, or float64 for float64 parameters.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 12 bytes per element, :math:`m_{1,t}` (`m1`), :math:`m_{2,t}` (`m2`) and :math:`v_t`
      (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.ademamix(0.1, b3=0.99, alpha=5.0)
      >>> params = jnp.zeros(1)
      >>> state = opt.init(params)
      >>> for grad in (1.0, 1.0, 0.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state, params)
      ...     print(updates.round(3))
      [-0.105]
      [-0.11]
      [-0.089]

    References:
      Pagliardini, Ablin & Grangier (2024), "The AdEMAMix optimizer: better, faster, older",
      Algorithm 1.
    """
    slots = functools.partial(_two_means, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, b3=b3, alpha=alpha, eps=eps, eps_root=eps_root)
    return descend(_ademamix, slots, numbers, learning_rate, weight_decay, mask)


def _simplified_ademamix(grad, slots, param, count, *, b1, b2, alpha, eps, eps_root):
    mu = b1 * slots.mu + grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    root = safe_sqrt(nu / bias_correction(b2, count) + eps_root)
    return safe_divide(mu + alpha * grad, root + eps), Moments(mu, nu)


@checked(alpha=NONNEGATIVE)
def scale_by_simplified_ademamix(
    b1: Hyperparam = 0.99,
    b2: Hyperparam = 0.95,
    alpha: Hyperparam = 0.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
) -> Optimizer:
    """Replace the gradient by the direction of `simplified_ademamix`, which has its arguments.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_simplified_ademamix(alpha=2.0)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0].round(3))
      [ 3. -3.]
    """
    numbers = dict(b1=b1, b2=b2, alpha=alpha, eps=eps, eps_root=eps_root)
    return leafwise(_simplified_ademamix, zero_moments, numbers)


@checked(alpha=NONNEGATIVE)
def simplified_ademamix(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.99,
    b2: Hyperparam = 0.95,
    alpha: Hyperparam = 0.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
) -> Optimizer:
    r"""Descend along a slow sum of gradients plus the newest gradient: AdEMAMix with one mean.

    Good for: language models with small batches and little memory.

    Evidence: authors only. Morwani et al. 2025, arXiv 2502.02431.

    .. math::

       m_t &= \beta_1 m_{t-1} + g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
       \hat v_t &= v_t / (1 - \beta_2^t) \\
       d_t &= (m_t + \alpha g_t) / (\sqrt{\hat v_t + \bar\epsilon} + \epsilon) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    :math:`m_t` is a sum, up to :math:`1 / (1 - \beta_1)` times as long as Adam's mean: take a
    learning rate smaller by that factor. :math:`\alpha = 0` is Adam with that learning rate and no
    bias correction of the mean.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`.
      b1: :math:`\beta_1`, decay of the sum, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      alpha: :math:`\alpha`, weight of the newest gradient, >= 0: small for small batches, large for
        large ones.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.simplified_ademamix(0.01, b1=0.5, alpha=1.0)
      >>> params = jnp.zeros(1)
      >>> state = opt.init(params)
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.ones(1), state, params)
      ...     print(updates)
      [-0.02]
      [-0.025]

    References:
      Morwani et al. (2025), "Connections between schedule-free optimizers, AdEMAMix, and
      accelerated SGD variants", section 5.
    """
    numbers = dict(b1=b1, b2=b2, alpha=alpha, eps=eps, eps_root=eps_root)
    return descend(_simplified_ademamix, zero_moments, numbers, learning_rate, weight_decay, mask)
