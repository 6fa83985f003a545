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
    """Multiply each array of updates by trust_coefficient * |param| / (|update| + eps).

    Where one of the norms is 0, the factor is 1.

    Args:
      min_norm: lower bound >= 0 of both norms: a number, schedule or prefix tree, like all numbers
        below.
      trust_coefficient: the factor >= 0.
      eps: added to the norm of the update, >= 0.

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
    """Descend with momentum, with steps proportional to the norm of each array.

    Good for: very large batches of images.

    g = g + weight_decay * param;  step = -learning_rate * trust_coefficient * |param| / |g| * g;
    update = trace = momentum * trace + step

    Biases and the scales of normalization layers usually have neither decay nor ratio.

    Args:
      learning_rate: factor >= 0 of the steps: a number, schedule or prefix tree, like all numbers
        below. A change affects new steps, not the trace.
      weight_decay: L2 decay >= 0.
      weight_decay_mask: which leaves decay, see `adamw`.
      trust_coefficient: the step as a fraction of the norm of the array, >= 0.
      eps: added to |g|, >= 0.
      trust_ratio_mask: which leaves use the ratio; the others step by -learning_rate * g.
      momentum: decay of the sum of the steps, in [0, 1).
      nesterov: whether to look one step ahead.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes per element.

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
    """Step along Adam's direction, with steps proportional to the norm of each array.

    Good for: very large batches.

    d = Adam's direction + weight_decay * param;  update = -learning_rate * |param| / |d| * d

    The first version of the paper bounds |param| by 10, and some implementations are without bias
    correction; this one has no bound and corrects the bias.

    Args:
      learning_rate: the step as a fraction of the norm of the array, >= 0: a number, schedule or
        prefix tree, like all numbers below.
      b1: see `adam`.
      b2: see `adam`.
      eps: see `adam`.
      eps_root: see `adam`.
      weight_decay: strength >= 0 of the decay, inside the ratio.
      mask: which leaves decay, see `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 8 bytes per element (mu, nu).

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
