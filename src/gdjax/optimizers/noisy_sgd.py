"""Gradient descent with decaying Gaussian noise.

Neelakantan et al. (2015), section 3, https://arxiv.org/abs/1511.06807
Paper -> here: t -> count - 1, eta -> eta, gamma -> gamma. Deviations: none.
"""

from __future__ import annotations

import functools

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, NONNEGATIVE, checked
from gdjax.core.lift import treewise
from gdjax.core.trees import times
from gdjax.core.types import Key, Scalar
from gdjax.transforms.noise import add_noise_to, fresh_randomness


def _noisy_sgd(grads, slots, params, count, *, learning_rate, eta, gamma):
    grads, slots = add_noise_to(grads, slots, count, eta, gamma)
    return times(grads, -learning_rate), slots


@checked(eta=NONNEGATIVE, gamma=FINITE)
def noisy_sgd(
    learning_rate: Scalar, eta: Scalar = 0.01, gamma: Scalar = 0.55, key: Key = 0
) -> Optimizer:
    r"""Descend along the gradient plus Gaussian noise whose variance falls with time.

    Good for: very deep networks that hardly train from a poor initialization.

    Evidence: authors only. Neelakantan et al. 2015, arXiv 1511.06807.

    .. math::

       x_t &= x_{t-1} - \eta_t (g_t + n_t) \\
       n_t &\sim \mathcal N(0, \sigma^2 / t^\gamma)

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number or a schedule.
      eta: :math:`\sigma^2`, variance of the first noise, >= 0.
      gamma: power of t by which the variance falls.
      key: an int or a `jax.random.key`, see `add_noise`. Runs with the same key get the same noise.

    Returns:
      An `Optimizer`.
      State: one key.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def first(key):
      ...     opt = gdjax.noisy_sgd(0.1, key=key)
      ...     return opt.update(jnp.ones(2), opt.init(jnp.ones(2)))[0]
      >>> updates = jax.vmap(first)(jnp.arange(100))
      >>> print(round(float(updates.mean()), 2), round(float(updates.std()), 2))
      -0.1 0.01

    References:
      Neelakantan et al. (2015), "Adding gradient noise improves learning for very deep networks".
    """
    slots = functools.partial(fresh_randomness, key=key)
    return treewise(_noisy_sgd, slots, dict(learning_rate=learning_rate, eta=eta, gamma=gamma))
