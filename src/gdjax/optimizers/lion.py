"""Lion: step by the sign of a mean of the gradients, so that every element moves equally far.

Chen et al. (2023), Algorithm 2, https://arxiv.org/abs/2302.06675
Paper -> here: m -> mu, beta_1 -> b1, beta_2 -> b2, eta -> learning_rate, lambda -> weight_decay.
Deviations: the direction is calculated from the new mean, which is equal (see `_lion`), so b2 = 0
is not allowed. The modes "smooth" and "refined", which soften the sign, are optax's.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, OPEN_UNIT, called, check_choice, checked
from gdjax.core.lift import descend
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import zero_moments

MODES = ("hard", "smooth", "refined")


class Mean(NamedTuple):
    """What Lion remembers of one parameter."""

    mu: Array  # m, running mean of the gradient, shaped like the parameter


def _lion(grad, slots, param, count, *, b1, b2, smooth_beta=1.0, mode):
    mu = b2 * slots.mu + (1 - b2) * grad
    # c = b1 m + (1 - b1) g in terms of the new m, so that XLA overwrites the old one in place
    c = b1 / b2 * mu + ((1 - b1) - (1 - b2)) / b2 * grad
    return direction_of_mean(c, mode, smooth_beta), Mean(mu)


def direction_of_mean(c: Array, mode: str, smooth_beta: ArrayLike) -> Array:
    """Return the sign of each element, or what the mode has in its place."""
    direction = jnp.sign(c)  # of a complex number: its phase
    if mode == "smooth":  # tanh itself has poles in the complex plane
        soft = jnp.tanh(smooth_beta * jnp.abs(c)) * direction
        direction = soft if jnp.iscomplexobj(c) else jnp.tanh(smooth_beta * c)
    elif mode == "refined":
        direction = jnp.where(jnp.abs(c) < 1, c, direction)
    return direction


def zero_mean(param: Array, mu_dtype: FloatDType = None) -> Mean:
    """Return a zero mean for one parameter, at least float32 unless a dtype is given."""
    return Mean(zero_moments(param, mu_dtype).mu)


def _build(
    learning_rate: Hyperparam | None,
    weight_decay: Hyperparam | None,
    mask: Mask,
    mu_dtype: FloatDType,
    mode: str,
    smooth_beta: Hyperparam,
    **numbers: Hyperparam,
) -> Optimizer:
    check_choice(f"{called('lion')}(mode=...)", mode, MODES)
    if mode == "smooth":
        numbers["smooth_beta"] = smooth_beta
    slots = functools.partial(zero_mean, mu_dtype=mu_dtype)
    return descend(_lion, slots, numbers, learning_rate, weight_decay, mask, mode=mode)


_RANGES = dict(b2=OPEN_UNIT._replace(decay=True), smooth_beta=NONNEGATIVE)


@checked(**_RANGES)
def scale_by_lion(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.99,
    mu_dtype: FloatDType = None,
    *,
    mode: str = "hard",
    smooth_beta: Hyperparam = 1.0,
) -> Optimizer:
    """Replace the gradient by Lion's direction; arguments and equations as in `lion`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_lion()
      >>> print(opt.update(jnp.array([4.0, -0.1, 0.0]), opt.init(jnp.zeros(3)))[0])
      [ 1. -1.  0.]
    """
    return _build(None, None, None, mu_dtype, mode, smooth_beta, b1=b1, b2=b2)


@checked(**_RANGES)
def lion(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.99,
    mu_dtype: FloatDType = None,
    weight_decay: Hyperparam | None = 1e-3,
    mask: Mask = None,
    *,
    mode: str = "hard",
    smooth_beta: Hyperparam = 1.0,
) -> Optimizer:
    r"""Step against the sign of a mean of the gradients, with decoupled weight decay.

    Good for: large batches with little memory.

    Evidence: negative. Its gains vanish against a baseline whose learning rate decays fully
    (Kaddour et al. 2023, arXiv 2307.06440); its loss is that of tuned AdamW (Wen et al. 2025, arXiv
    2509.02046) or above it (Semenov et al. 2025, arXiv 2509.01440) for language models, and its
    score is below NAdamW's on nine workloads (AlgoPerf, July 2026, unofficial,
    https://github.com/mlcommons/submissions_algorithms).

    .. math::

       c_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       d_t &= \operatorname{sign}(c_t) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1}) \\
       m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Every element moves by the learning rate, which should be 3 to 10 times smaller than for
    `adamw`, with a weight decay larger by the same factor.

    Differences: optax is the same. The package `lion-pytorch` has no weight decay by default.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0, in units of the parameters: a number, schedule
        or prefix tree, like all numbers below.
      b1: :math:`\beta_1`, weight of the mean in the direction, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean, in (0, 1); rounding errors of the direction grow as
        :math:`\beta_1 / \beta_2`.
      mu_dtype: dtype of the mean; None is float32, or float64 for float64 parameters.
      weight_decay: :math:`\lambda`, strength of the decay, >= 0.
      mask: which leaves decay, see `adamw`.
      mode: "hard" is the sign; "smooth" is :math:`\tanh(k c_t)`; "refined" is :math:`c_t` where
        :math:`|c_t| < 1` and the sign elsewhere. Complex elements keep their phase in all of them.
      smooth_beta: :math:`k`, steepness for "smooth", >= 0; the other modes do not have this
        hyperparameter.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 4 bytes per element, :math:`m_t` (`mu`).

    Raises:
      ValueError: if a concrete number is out of range or the mode unknown.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([1.0, 1.0])
      >>> opt = gdjax.lion(0.1, weight_decay=0.5)
      >>> print(opt.update(jnp.array([4.0, -0.1]), opt.init(params), params)[0])
      [-0.15  0.05]

    References:
      Chen et al. (2023), "Symbolic discovery of optimization algorithms", Algorithm 2.
    """
    return _build(learning_rate, weight_decay, mask, mu_dtype, mode, smooth_beta, b1=b1, b2=b2)
