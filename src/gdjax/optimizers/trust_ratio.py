"""LARS and LAMB: steps of each array in proportion to its norm, for large batches.

You, Gitman & Ginsburg (2017), Algorithm 1 (LARS), https://arxiv.org/abs/1708.03888
You et al. (2019), Algorithm 2 (LAMB), https://arxiv.org/abs/1904.00962
Paper -> here: eta (LARS) -> trust_coefficient, gamma -> learning_rate, beta -> weight_decay,
m -> momentum, v -> trace; LAMB: x -> param, phi -> the identity, lambda -> weight_decay.
Deviations: LARS divides by |g + weight_decay w|, as in optax, where the paper has
|g| + weight_decay |w|.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import leafwise, mask_decay
from gdjax.core.numerics import abs_sq, safe_sqrt
from gdjax.core.types import Hyperparam, Mask
from gdjax.optimizers.adam import adam_rule, zero_moments
from gdjax.optimizers.sgd import momentum_rule, zero_trace


def trust_ratio(
    param: Array,
    update: Array,
    min_norm: Array | float = 0,
    trust_coefficient: Array | float = 1,
    eps: Array | float = 0,
) -> Array:
    """Return trust_coefficient * |param| / (|update| + eps) of one array, 1 if a norm is 0."""
    size, length = (jnp.maximum(safe_sqrt(jnp.sum(abs_sq(x))), min_norm) for x in (param, update))
    moves = (size > 0) & (length > 0)
    ratio = trust_coefficient * size / jnp.where(moves, length + eps, 1)
    return jnp.where(moves, ratio, 1)


def _scale_by_trust_ratio(grad, slots, param, count, *, min_norm, trust_coefficient, eps):
    return trust_ratio(param, grad, min_norm, trust_coefficient, eps) * grad, slots


def _lars(
    grad,
    slots,
    param,
    count,
    *,
    learning_rate,
    weight_decay=None,
    trust_coefficient=None,
    eps,
    momentum,
    nesterov,
):
    if weight_decay is not None:
        grad = grad + weight_decay * param
    if trust_coefficient is not None:
        grad = trust_ratio(param, grad, 0, trust_coefficient, eps) * grad
    step = -learning_rate * grad
    return momentum_rule(step, slots, param, count, momentum=momentum, nesterov=nesterov)


def _lamb(grad, slots, param, count, *, learning_rate, b1, b2, eps, eps_root, weight_decay=None):
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    direction, slots = adam_rule(grad, slots, param, count, nesterov=False, **numbers)
    if weight_decay is not None:
        direction = direction + weight_decay * param
    return -learning_rate * trust_ratio(param, direction) * direction, slots


_RANGES = dict(min_norm=NONNEGATIVE, trust_coefficient=NONNEGATIVE)


@checked(**_RANGES)
def scale_by_trust_ratio(
    min_norm: Hyperparam = 0.0, trust_coefficient: Hyperparam = 1.0, eps: Hyperparam = 0.0
) -> Optimizer:
    r"""Multiply each array of updates by the ratio of the parameter's norm to its own.

    .. math::

       u \leftarrow c\, \frac{\max(\lVert x \rVert, n)}{\max(\lVert u \rVert, n) + \epsilon}\, u

    Where one of the norms is 0, the factor is 1.

    Args:
      min_norm: :math:`n` >= 0, lower bound of both norms: a number, schedule or prefix tree, like
        all numbers below.
      trust_coefficient: :math:`c` >= 0.
      eps: :math:`\epsilon` >= 0, added to the norm of the update.

    Returns:
      An `Optimizer` whose `update` needs the parameters; it remembers nothing of them.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_trust_ratio()
      >>> params = jnp.array([0.0, 2.0])
      >>> print(opt.update(jnp.array([6.0, 8.0]), opt.init(params), params)[0])
      [1.2 1.6]
    """
    numbers = dict(min_norm=min_norm, trust_coefficient=trust_coefficient, eps=eps)
    return leafwise(_scale_by_trust_ratio, None, numbers, needs_params=True)


@checked(**_RANGES)
def lars(
    learning_rate: Hyperparam,
    weight_decay: Hyperparam | None = 0.0,
    weight_decay_mask: Mask = True,
    trust_coefficient: Hyperparam = 0.001,
    eps: Hyperparam = 0.0,
    trust_ratio_mask: Mask = True,
    momentum: Hyperparam = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    r"""Descend with momentum, with steps proportional to the norm of each array.

    Good for: very large batches of images.

    Evidence: negative. With tuned numbers Nesterov momentum reaches or exceeds its results at the
    same large batch sizes (Nado et al. 2021, arXiv 2102.06356).

    .. math::

       \tilde g_t &= g_t + \lambda x_{t-1} \\
       s_t &= \eta_t\, c\, \frac{\lVert x_{t-1} \rVert}{\lVert \tilde g_t \rVert + \epsilon}\,
       \tilde g_t \\
       b_t &= \mu b_{t-1} + s_t \\
       x_t &= x_{t-1} - b_t

    The norms are those of one array; where one of them is 0, the ratio with c is 1. With `nesterov`
    the last line is :math:`x_t = x_{t-1} - (s_t + \mu b_t)`. Biases and the scales of normalization
    layers usually have neither decay nor ratio.

    Differences: the paper divides by :math:`\lVert g_t \rVert + \lambda \lVert x_{t-1} \rVert`,
    optax as here.

    Args:
      learning_rate: factor >= 0 of the steps: a number, schedule or prefix tree, like all numbers
        below. A change affects new steps, not the trace.
      weight_decay: :math:`\lambda` >= 0, L2 decay; None is none.
      weight_decay_mask: which leaves decay, see `adamw`.
      trust_coefficient: :math:`c` >= 0, the step as a fraction of the norm of the array.
      eps: :math:`\epsilon` >= 0, added to the norm of the gradient.
      trust_ratio_mask: which leaves use the ratio; the others have 1 in its place.
      momentum: :math:`\mu`, decay of the sum of the steps, in [0, 1).
      nesterov: whether to look one step ahead.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([1.0])}
      >>> opt = gdjax.lars(1.0, trust_ratio_mask={"w": True, "b": False})
      >>> grads = {"w": jnp.array([100.0, 0.0]), "b": jnp.array([0.2])}
      >>> updates, _ = opt.update(grads, opt.init(params), params)
      >>> print(updates["w"], updates["b"])
      [-0.005  0.   ] [-0.2]

    References:
      You, Gitman & Ginsburg (2017), "Large batch training of convolutional networks", Algorithm 1.
    """
    numbers = dict(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        eps=eps,
        momentum=momentum,
    )
    optimizer = leafwise(_lars, zero_trace, numbers, needs_params=True, nesterov=nesterov)
    decays = None if weight_decay_mask is True else weight_decay_mask
    optimizer = mask_decay(optimizer, decays, argument="weight_decay_mask")
    trusts = None if trust_ratio_mask is True else trust_ratio_mask
    return mask_decay(optimizer, trusts, "trust_coefficient", "trust_ratio_mask")


@checked()
def lamb(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-6,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
) -> Optimizer:
    r"""Step along Adam's direction, with steps proportional to the norm of each array.

    Good for: very large batches.

    Evidence: negative. With tuned numbers Adam reaches or exceeds its results at the same large
    batch sizes (Nado et al. 2021, arXiv 2102.06356).

    .. math::

       r_t &= \frac{\hat m_t}{\sqrt{\hat v_t + \bar\epsilon} + \epsilon} + \lambda x_{t-1} \\
       x_t &= x_{t-1} - \eta_t \frac{\lVert x_{t-1} \rVert}{\lVert r_t \rVert}\, r_t

    with :math:`\hat m_t` and :math:`\hat v_t` the corrected means of `adam`. The norms are those of
    one array; where one of them is 0, their ratio is replaced by 1.

    Differences: the first version of the paper bounds the norm of the parameter by 10, and some
    implementations are without bias correction; this one has no bound and corrects the bias.

    Args:
      learning_rate: the step as a fraction of the norm of the array, >= 0: a number, schedule or
        prefix tree, like all numbers below.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      weight_decay: :math:`\lambda` >= 0, strength of the decay, inside the ratio; None is none.
      mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([3.0, 4.0])
      >>> opt = gdjax.lamb(0.1)
      >>> print(opt.update(jnp.array([100.0, 0.0]), opt.init(params), params)[0])
      [-0.5 -0. ]

    References:
      You et al. (2019), "Large batch optimization for deep learning", Algorithm 2.
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    numbers |= dict(learning_rate=learning_rate, weight_decay=weight_decay)
    return mask_decay(leafwise(_lamb, zero_moments, numbers, needs_params=True), mask)
