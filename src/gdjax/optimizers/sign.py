"""signSGD and Signum: step by the sign of the gradient, or of its running mean.

    Bernstein et al. (2018),
    Algorithm 1 and the momentum form (Signum),
    https://arxiv.org/abs/1802.04434,
Paper -> here: m -> mu, beta -> beta, delta -> learning_rate. Deviations: none. The sign of a
complex element is its phase, x / |x|.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import UNIT, checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.types import FloatDType, Hyperparam
from gdjax.optimizers.lion import Mean, zero_mean


def _sign(grad, slots, param, count):
    return jnp.sign(grad), slots


def _signum(grad, slots, param, count, *, beta):
    mu = beta * slots.mu + (1 - beta) * grad
    return jnp.sign(mu), Mean(mu)


@checked()
def sign_sgd(learning_rate: Hyperparam) -> Optimizer:
    r"""Step against the sign of the gradient.

    Good for: distributed training that communicates one bit for each parameter.

    Evidence: mixed. For language models signed descent is faster than SGD and behind Adam (Orvieto
    & Gower 2025, arXiv 2505.21829).

    .. math::

       x_t = x_{t-1} - \eta_t \operatorname{sign}(g_t)

    Args:
      learning_rate: :math:`\eta_t`, the length of every step >= 0: a number, schedule or prefix
        tree.

    Returns:
      An `Optimizer` that remembers nothing of the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.sign_sgd(0.1)
      >>> print(opt.update(jnp.array([4.0, -0.1]), opt.init(jnp.zeros(2)))[0])
      [-0.1  0.1]

    References:
      Bernstein et al. (2018), "signSGD: compressed optimisation for non-convex problems".
    """
    return descend(_sign, None, {}, learning_rate)


@direction_of(sign_sgd)
def scale_by_sign() -> None:
    """Replace every element of the gradient by its sign.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_sign()
      >>> print(opt.update(jnp.array([4.0, -0.1, 0.0]), opt.init(jnp.zeros(3)))[0])
      [ 1. -1.  0.]
    """


@checked(beta=UNIT)
def signum(
    learning_rate: Hyperparam, beta: Hyperparam = 0.9, accumulator_dtype: FloatDType = None
) -> Optimizer:
    r"""Step against the sign of a running mean of the gradient.

    Good for: large batches, distributed training that communicates one bit for each parameter.

    Evidence: mixed. For language models it is as good as Adam in one study (Zhao et al. 2024, arXiv
    2407.07972), and behind tuned Adam, though before SGD, in another (Orvieto & Gower 2025, arXiv
    2505.21829; also Semenov et al. 2025, arXiv 2509.01440).

    .. math::

       m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
       x_t &= x_{t-1} - \eta_t \operatorname{sign}(m_t)

    `lion` gives the newest gradient more weight in the sign than in the mean.

    Args:
      learning_rate: :math:`\eta_t`, the length of every step >= 0: a number, schedule or prefix
        tree.
      beta: decay of the mean, in [0, 1).
      accumulator_dtype: dtype of the mean; None is at least float32.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.signum(0.1)
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (3.0, -1.0, -4.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [-0.1]
      [-0.1]
      [0.1]
    """
    slots = functools.partial(zero_mean, mu_dtype=accumulator_dtype)
    return descend(_signum, slots, dict(beta=beta), learning_rate)
