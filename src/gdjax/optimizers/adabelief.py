"""AdaBelief: divide by how far the gradient is from its running mean.

Zhuang et al. (2020), Algorithm 2, https://arxiv.org/abs/2010.07468
Paper -> here: m -> mu, s -> nu, epsilon (stored with s) -> eps_root, epsilon (of the root) -> eps,
alpha -> learning_rate. Deviations: none.
"""

from __future__ import annotations

from typing import Any

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, leafwise
from gdjax.core.numerics import abs_sq, bias_correction, safe_sqrt
from gdjax.optimizers.adam import Moments, corrected_mean, zero_moments


class BeliefMoments(Moments):
    """Moments that also say what AdaBelief's steps were divided by."""

    def diagonal(self, count, *, b2, eps, **_):
        """Return the optimizer's metric after `count` updates."""
        return safe_sqrt(self.nu / bias_correction(b2, count)) + eps


def _zero_moments(param) -> BeliefMoments:
    return BeliefMoments(*zero_moments(param))


def _adabelief(grad, slots, param, count, *, b1, b2, eps, eps_root, nesterov):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + ((1 - b2) * abs_sq(grad - mu) + eps_root)  # within: else XLA copies nu
    mu_hat = corrected_mean(mu, grad, count, b1, nesterov)
    new = BeliefMoments(mu, nu)
    return mu_hat / new.diagonal(count, b2=b2, eps=eps), new


@checked()
def scale_by_belief(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
) -> Optimizer:
    """Replace the gradient by AdaBelief's direction; the arguments are those of `adabelief`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_belief(b1=0.5)
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 2. -2.]
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return leafwise(_adabelief, _zero_moments, numbers, nesterov=nesterov)


@checked()
def adabelief(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
) -> Optimizer:
    """Step far where the gradient is what its mean foretold, less where it is not.

    Good for: small and medium networks where Adam generalizes worse than SGD.

    mu = b1 mu + (1 - b1) g;  nu = b2 nu + (1 - b2) |g - mu|^2 + eps_root;
    update = -learning_rate * mu / (1 - b1^t) / (sqrt(nu / (1 - b2^t)) + eps)

    Args:
      learning_rate: as in `adam`, like b1 and b2.
      b1: see `adam`.
      b2: see `adam`.
      eps: added to the root, >= 0.
      eps_root: added to nu in every step and kept there, >= 0: nu cannot fall below
        eps_root / (1 - b2).
      nesterov: whether to look one step ahead, as `nadam` does.

    Returns:
      An `Optimizer`. State: 8 bytes per element (mu, nu).

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
