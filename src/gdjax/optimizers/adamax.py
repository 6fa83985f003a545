"""AdaMax: Adam with a decaying maximum of the gradient in place of its mean square.

Kingma & Ba (2014), Algorithm 2, https://arxiv.org/abs/1412.6980
Paper -> here: m -> mu, u -> nu, t -> count, alpha -> learning_rate.
Deviations: eps, which the paper lacks, is added to |g| before the maximum, as in torch and optax.
"""

from __future__ import annotations

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import bias_correction, safe_divide
from gdjax.core.types import Hyperparam, Mask
from gdjax.optimizers.adam import Moments, zero_moments


def _adamax(grad, slots, param, count, *, b1, b2, eps):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = jnp.maximum(b2 * slots.nu, jnp.abs(grad) + eps)
    return safe_divide(mu / bias_correction(b1, count), nu), Moments(mu, nu)


@checked()
def adamax(
    learning_rate: Hyperparam, b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-8
) -> Optimizer:
    """Descend along a running mean of the gradient over its decaying maximum.

    Good for: embeddings and other sparse, heavy-tailed gradients.

    mu = b1 mu + (1 - b1) g;  nu = max(b2 nu, |g| + eps);
    update = -learning_rate * mu / (1 - b1^t) / nu

    Args:
      learning_rate: step size >= 0, a bound on the step of each element: a number, schedule or
        prefix tree, like all numbers below.
      b1: decay of the mean, in [0, 1).
      b2: decay of the maximum, in [0, 1).
      eps: added to |g|, >= 0.

    Returns:
      An `Optimizer`. State: 8 bytes per element (mu, nu).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adamax(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (4.0, 1.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.0606]

    References:
      Kingma & Ba (2014), "Adam: a method for stochastic optimization", Algorithm 2.
    """
    return descend(_adamax, zero_moments, dict(b1=b1, b2=b2, eps=eps), learning_rate)


@direction_of(adamax)
def scale_by_adamax() -> None:
    """Replace the gradient by AdaMax's direction; arguments as in `adamax`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_adamax()
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 1. -1.]
    """


@checked()
def adamaxw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 1e-4,
    mask: Mask = None,
) -> Optimizer:
    """Run AdaMax with decoupled weight decay.

    Good for: the same as `adamax`, with weight decay.

    Args:
      learning_rate: see `adamax`.
      b1: see `adamax`.
      b2: see `adamax`.
      eps: see `adamax`.
      weight_decay: see `adamw`.
      mask: see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 8 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adamaxw(0.1, weight_decay=0.5)
      >>> print(opt.update(jnp.zeros(1), opt.init(jnp.ones(1)), jnp.ones(1))[0])
      [-0.05]
    """
    numbers = dict(b1=b1, b2=b2, eps=eps)
    return descend(_adamax, zero_moments, numbers, learning_rate, weight_decay, mask)
