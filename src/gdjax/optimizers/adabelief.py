"""AdaBelief: divide by the root-mean-square distance of the gradient from its running mean.

Zhuang et al. (2020), Algorithm 2, https://arxiv.org/abs/2010.07468
Paper -> here: m -> mu, s -> nu, epsilon (stored with s) -> eps_root, epsilon (of the root) -> eps,
alpha -> learning_rate. Deviations: none.
"""

from __future__ import annotations

from typing import Any

from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adam import Moments, corrected_mean, zero_moments


class BeliefMoments(Moments):
    """Moments that also know AdaBelief's denominator; see `with_prox`."""

    def diagonal(self, count: Array, *, b2: Array, eps: Array, **_: Any) -> Array:
        """Return what the direction was divided by after `count` updates."""
        return safe_sqrt(self.nu / bias_correction(b2, count)) + eps


def _adabelief(grad, slots, param, count, *, b1, b2, eps, eps_root, nesterov):
    mu = b1 * slots.mu + (1 - b1) * grad
    # eps_root is added inside the parentheses so that XLA overwrites nu in place
    nu = b2 * slots.nu + ((1 - b2) * abs_sq(grad - mu) + eps_root)
    mu_hat = corrected_mean(mu, grad, count, b1, nesterov)
    new = BeliefMoments(mu, nu)
    return safe_divide(mu_hat, new.diagonal(count, b2=b2, eps=eps)), new


def _zero_moments(param: Array) -> BeliefMoments:
    return BeliefMoments(*zero_moments(param))


@checked()
def adabelief(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-16,
    eps_root: Hyperparam = 1e-16,
    *,
    nesterov: bool = False,
) -> Optimizer:
    r"""Descend along a mean of the gradient over its RMS distance from that mean.

    Good for: networks for which steps should be long where gradients agree with their mean.

    Evidence: negative. It is one of fifteen tuned optimizers, of which none was consistently better
    than Adam (Schmidt et al. 2021, arXiv 2007.01547).

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       s_t &= \beta_2 s_{t-1} + (1 - \beta_2) |g_t - m_t|^2 + \bar\epsilon \\
       \hat m_t &= m_t / (1 - \beta_1^t), \quad \hat s_t = s_t / (1 - \beta_2^t) \\
       d_t &= \hat m_t / (\sqrt{\hat s_t} + \epsilon) \\
       x_t &= x_{t-1} - \eta_t d_t

    Differences: optax is the same. The authors' code also rectifies the step, as `radam` does,
    unless it is told not to.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean squared distance, in [0, 1).
      eps: :math:`\epsilon`, added to the root, >= 0.
      eps_root: :math:`\bar\epsilon`, added to :math:`s_t` in every step and kept there, >= 0:
        :math:`\hat s_t` is at least :math:`\bar\epsilon / (1 - \beta_2)`.
      nesterov: whether to look one step ahead, as `nadam` does.

    Returns:
      An `Optimizer`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`s_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adabelief(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (1.0, 1.0, 1.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1111]
      [-0.1168]
      [-0.1226]

    References:
      Zhuang et al. (2020), "AdaBelief optimizer: adapting stepsizes by the belief in observed
      gradients", Algorithm 2.
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return descend(_adabelief, _zero_moments, numbers, learning_rate, nesterov=nesterov)


@direction_of(adabelief)
def scale_by_belief() -> None:
    """Replace the gradient by AdaBelief's direction; arguments and equations as in `adabelief`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_belief(b1=0.5)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 2. -2.]
    """
