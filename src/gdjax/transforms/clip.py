"""Bound the gradients, by value or by norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import leafwise, treewise
from gdjax.core.numerics import clip_parts, root_mean_sq
from gdjax.core.trees import sum_sq, times
from gdjax.core.types import Hyperparam, Scalar


def _clip(grad, slots, param, count, *, max_delta):
    return clip_parts(grad, max_delta), slots


@checked(max_delta=NONNEGATIVE)
def clip(max_delta: Hyperparam) -> Optimizer:
    """Clip every element to [-max_delta, max_delta]; real and imaginary parts one by one.

    Args:
      max_delta: the largest magnitude >= 0 of an element: a number, schedule or prefix tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.clip(1.0)
      >>> print(opt.update(jnp.array([-3.0, 0.5]), opt.init(jnp.ones(2)))[0])
      [-1.   0.5]
    """
    return leafwise(_clip, hyperparams=dict(max_delta=max_delta))


def _clip_by_global_norm(grads, slots, params, count, *, max_norm):
    # A single factor fuses with what follows it; a division by the norm costs a separate pass, and
    # `where`s around it are compiled again for every leaf.
    # A zero gradient stays zero, also for max_norm = 0; the power keeps its derivative finite.
    least = jnp.finfo(max_norm.dtype).tiny ** (2 / 3)
    factor = jnp.minimum(1, max_norm * jax.lax.rsqrt(jnp.maximum(sum_sq(grads), least)))
    return times(grads, factor), slots


@checked(max_norm=NONNEGATIVE)
def clip_by_global_norm(max_norm: Scalar) -> Optimizer:
    r"""Scale the whole tree down to a Euclidean norm of at most `max_norm`.

    .. math::

       g \leftarrow g\, \min(1,\; c / \lVert g \rVert)

    The norm is taken in float32 over all leaves (Pascanu et al. 2012, https://arxiv.org/abs/1211.5063).
    A zero gradient stays zero, also for `max_norm=0`. If the norm is not finite, every element of
    the result is NaN, or 0 where the gradient is 0 times an infinite norm: put a guard before it.

    Args:
      max_norm: :math:`c` >= 0, the largest norm: a number or a schedule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.clip_by_global_norm(1.0)
      >>> print(opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)))[0])
      [0.6 0.8]
    """
    return treewise(_clip_by_global_norm, hyperparams=dict(max_norm=max_norm))


def _clip_by_block_rms(grad, slots, param, count, *, threshold):
    rms = root_mean_sq(grad)
    over = rms > threshold
    return jnp.where(over, threshold / jnp.where(over, rms, 1), 1) * grad, slots


@checked(threshold=NONNEGATIVE)
def clip_by_block_rms(threshold: Hyperparam) -> Optimizer:
    r"""Scale each array down to a root-mean-square of at most `threshold`.

    .. math::

       g \leftarrow g\, \min(1,\; c / \operatorname{rms}(g))

    A zero gradient stays zero, also for `threshold=0` (optax: NaN).

    Args:
      threshold: :math:`c` >= 0, the largest root-mean-square: a number, schedule or prefix tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.clip_by_block_rms(1.0)
      >>> print(opt.update(jnp.array([1.0, 7.0]), opt.init(jnp.ones(2)))[0])
      [0.2 1.4]
    """
    return leafwise(_clip_by_block_rms, hyperparams=dict(threshold=threshold))
