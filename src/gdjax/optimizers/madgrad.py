"""MADGRAD: dual averaging from the starting point, with a cube root and momentum.

Defazio & Jelassi (2021), Algorithm 1, https://arxiv.org/abs/2101.11075
Paper -> here: s -> s, nu -> grad_sum_sq, x_0 -> x0, gamma -> learning_rate, c -> 1 - momentum.
Deviations: `eps` is added to the learning rate too, as in the authors' code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import leafwise, mask_decay
from gdjax.core.numerics import abs_sq, compute_dtype, real_dtype, safe_divide
from gdjax.core.residual import Residual, exact_params, land, no_residual
from gdjax.core.trees import copied
from gdjax.core.types import Hyperparam, Mask


class DualAverage(NamedTuple):
    """What MADGRAD remembers of one parameter."""

    grad_sum_sq: Array  # nu, weighted sum of |g|^2, real, shaped like the parameter
    s: Array  # weighted sum of the gradients, shaped like the parameter
    x0: Array  # the first parameter
    residual: Residual | None  # what rounding takes from a parameter of less than float32

    iterates = ("s", "x0", "residual")


def _madgrad(
    grad, slots, param, count, *, learning_rate, momentum, eps, weight_decay=None, decoupled
):
    exact = exact_params(param, slots.residual)
    decay = 0 if weight_decay is None else weight_decay * exact
    rate = jnp.where(learning_rate > 0, learning_rate + eps, 0)
    weight = rate * jnp.sqrt(count.astype(rate.dtype))  # lambda_k
    grad = grad if decoupled else grad + decay
    s = slots.s + weight * grad
    grad_sum_sq = slots.grad_sum_sq + weight * abs_sq(grad)
    z = slots.x0 - safe_divide(s, _safe_cbrt(grad_sum_sq) + eps)
    update = (1 - momentum) * (z - exact)
    if decoupled:
        update = update - rate * decay
    update, residual = land(param, exact, update, slots.residual)
    return update, DualAverage(grad_sum_sq, s, slots.x0, residual)


def _safe_cbrt(x: Array) -> Array:
    positive = x > 0  # the derivative at 0 is infinite
    return jnp.where(positive, jnp.cbrt(jnp.where(positive, x, 1)), 0)


def _start(param: Array) -> DualAverage:
    dtype = compute_dtype(param)
    zeros = jnp.zeros_like(param, dtype=real_dtype(dtype)), jnp.zeros_like(param, dtype=dtype)
    return DualAverage(*zeros, copied(param), no_residual(param))


@checked()
def scale_by_madgrad(
    learning_rate: Hyperparam, momentum: Hyperparam = 0.9, eps: Hyperparam = 1e-6
) -> Optimizer:
    r"""Replace the gradient by MADGRAD's update; arguments and equations as in `madgrad`.

    The update points downhill, :math:`x_t - x_{t-1}`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.ones(1)
      >>> opt = gdjax.chain(gdjax.clip(1.0), gdjax.scale_by_madgrad(0.1, momentum=0.0))
      >>> print(opt.update(8 * params, opt.init(params), params)[0].round(3))
      [-0.215]
    """
    numbers = dict(learning_rate=learning_rate, momentum=momentum, eps=eps)
    return leafwise(_madgrad, _start, numbers, needs_params=True, decoupled=False)


@checked()
def madgrad(
    learning_rate: Hyperparam,
    momentum: Hyperparam = 0.9,
    weight_decay: Hyperparam | None = 0.0,
    eps: Hyperparam = 1e-6,
    *,
    decoupled: bool = False,
    mask: Mask = None,
) -> Optimizer:
    r"""Step towards the initial point minus the weighted sum of all gradients over a cube root.

    Good for: sparse features, images.

    Evidence: authors only. Defazio & Jelassi 2021, arXiv 2101.11075.

    .. math::

       w_t &= (\eta_t + \epsilon) \sqrt t \\
       \tilde g_t &= g_t + \lambda x_{t-1} \\
       s_t &= s_{t-1} + w_t \tilde g_t \\
       \nu_t &= \nu_{t-1} + w_t |\tilde g_t|^2 \\
       z_t &= x_0 - s_t / (\sqrt[3]{\nu_t} + \epsilon) \\
       x_t &= \mu x_{t-1} + (1 - \mu) z_t

    All gradients stay in the sum, with weights that grow with t. Weight decay should be smaller
    than for SGD, often 0.

    Differences: with a learning rate of 0 the weight is 0, as in the authors' code; in optax it is
    :math:`\epsilon \sqrt t`.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`, but of another magnitude; 1e-2 is the
        authors' default.
      momentum: :math:`\mu`, weight of the old parameter in the new one, in [0, 1).
      weight_decay: :math:`\lambda`, strength of the decay, >= 0.
      eps: :math:`\epsilon`, added to the cube root and to the learning rate, >= 0.
      decoupled: whether to subtract :math:`(\eta_t + \epsilon) \lambda x_{t-1}` from the new
        parameter instead of adding :math:`\lambda x_{t-1}` to the gradient.
      mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 12 bytes per element, :math:`\nu_t` (`grad_sum_sq`), :math:`s_t` (`s`) and :math:`x_0`
      (`x0`), and 4 more where the parameters are of less than float32.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.madgrad(0.1, momentum=0.5)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(2 * params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      ...     print(params.round(3))
      [ 0.864 -1.829]
      [ 0.695 -1.612]
      [ 0.521 -1.383]

    References:
      Defazio & Jelassi (2021), "Adaptivity without compromise: a momentumized, adaptive, dual
      averaged gradient method for stochastic optimization", Algorithm 1.
    """
    numbers = dict(learning_rate=learning_rate, momentum=momentum, eps=eps)
    if weight_decay is not None:
        numbers["weight_decay"] = weight_decay
    optimizer = leafwise(_madgrad, _start, numbers, needs_params=True, decoupled=decoupled)
    return mask_decay(optimizer, mask)
