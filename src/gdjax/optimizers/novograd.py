"""NovoGrad: Adam with one second moment for each array.

Ginsburg et al. (2019), Algorithm 1, https://arxiv.org/abs/1905.11286
Paper -> here: m -> mu, v -> nu, lambda -> learning_rate, d -> weight_decay.
Deviations: the defaults b1, b2, eps are optax's; the paper's are 0.95, 0.98, 1e-8.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import leafwise
from gdjax.core.numerics import abs_sq, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam
from gdjax.optimizers.adam import zero_moments


class LayerMoments(NamedTuple):
    """What NovoGrad remembers of one parameter."""

    mu: Array  # m, decaying sum of the normed gradients, shaped like the parameter
    nu: Array  # v, running mean of |g|^2 over the array, a real scalar


def _novograd(
    grad,
    slots,
    param,
    count,
    *,
    b1,
    b2,
    eps,
    eps_root,
    weight_decay=None,
    learning_rate=None,
    called,
):
    squared = jnp.sum(abs_sq(grad))
    nu = jnp.where(count == 1, squared, b2 * slots.nu + (1 - b2) * squared)
    direction = safe_divide(grad, safe_sqrt(nu + eps_root) + eps)
    if weight_decay is not None:
        if param is None:
            raise ValueError(f"{called} with weight_decay needs {NEEDS_PARAMS}")
        direction = direction + weight_decay * param
    mu = b1 * slots.mu + direction
    return (mu if learning_rate is None else -learning_rate * mu), LayerMoments(mu, nu)


def _slots(param: Array, mu_dtype: FloatDType) -> LayerMoments:
    mu, nu = zero_moments(param, mu_dtype)
    return LayerMoments(mu, jnp.zeros((), nu.dtype))


@checked()
def scale_by_novograd(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.25,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam | None = 0.0,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    """Replace the gradient by NovoGrad's direction; arguments and equations as in `novograd`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_novograd()
      >>> params = jnp.zeros(2)
      >>> print(opt.update(jnp.array([3.0, 4.0]), opt.init(params), params)[0])
      [0.6 0.8]
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root, weight_decay=weight_decay)
    return _optimizer("scale_by_novograd", numbers, mu_dtype)


@checked()
def novograd(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.25,
    eps: Hyperparam = 1e-6,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam | None = 0.0,
    *,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Descend with momentum along gradients divided by a running norm of their array.

    Good for: speech and language models with half of Adam's memory.

    Evidence: authors only. Ginsburg et al. 2019, arXiv 1905.11286.

    .. math::

       v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, \lVert g_t \rVert^2 \\
       v_1 &= \lVert g_1 \rVert^2 \\
       m_t &= \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t + \bar\epsilon} + \epsilon}
       + \lambda x_{t-1} \\
       x_t &= x_{t-1} - \eta_t m_t

    The norm is that of one array. :math:`m_t` is a sum, not a mean: a steady gradient moves
    1 / (1 - b1) learning rates.

    Differences: the paper's defaults are b1 = 0.95, b2 = 0.98 and eps = 1e-8; these are optax's.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers below.
      b1: :math:`\beta_1`, decay of the sum, in [0, 1).
      b2: :math:`\beta_2`, decay of the squared norm, in [0, 1).
      eps: :math:`\epsilon`, added to the root, >= 0.
      eps_root: :math:`\bar\epsilon`, added under the root, >= 0.
      weight_decay: :math:`\lambda` >= 0, strength of the decay, which is part of the sum; None is
        off.
      mu_dtype: dtype of the sum; None is at least float32.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 4 bytes per element and 4 per array.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.novograd(0.1)
      >>> params = jnp.zeros(2)
      >>> state = opt.init(params)
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.array([3.0, 4.0]), state, params)
      ...     print(updates)
      [-0.06 -0.08]
      [-0.114 -0.152]

    References:
      Ginsburg et al. (2019), "Stochastic gradient methods with layer-wise adaptive moments for
      training of deep networks", Algorithm 1.
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root, weight_decay=weight_decay)
    return _optimizer("novograd", numbers | dict(learning_rate=learning_rate), mu_dtype)


def _optimizer(name: str, numbers: dict[str, Hyperparam | None], mu_dtype: FloatDType) -> Optimizer:
    slots = functools.partial(_slots, mu_dtype=mu_dtype)
    return leafwise(_novograd, slots, numbers, name=name, called=name)
