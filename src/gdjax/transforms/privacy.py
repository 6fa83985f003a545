"""Differential privacy: clip the gradient of each example, and add noise.

Abadi et al. (2016), Algorithm 1, https://arxiv.org/abs/1607.00133
Paper -> here: C -> l2_norm_clip, sigma -> noise_multiplier, L -> the number of examples.
Deviations: none.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer, UpdateFn
from gdjax.core.blocks import map_blocks
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import treewise
from gdjax.core.remember import remembered_with_owners
from gdjax.core.types import Key, Scalar
from gdjax.transforms.noise import Randomness, fresh_randomness
from gdjax.transforms.per_example import per_example_global_norm_clip


def _differentially_private_aggregate(
    grads, slots, params, count, *, l2_norm_clip, noise_multiplier
):
    total, _ = per_example_global_norm_clip(grads, l2_norm_clip)
    leaves, treedef = jax.tree.flatten(total)
    key, *keys = jax.random.split(slots.key, len(leaves) + 1)
    size = max([1, *(g.shape[0] for g in jax.tree.leaves(grads))])
    shared = l2_norm_clip * noise_multiplier, jnp.full_like(l2_norm_clip, size)
    rows = list(zip(leaves, keys, strict=True))
    kinds = [(x.shape, x.dtype) for x in leaves]
    noisy = map_blocks(_noisy_mean, rows, kinds, [shared] * len(rows))
    return treedef.unflatten(noisy), Randomness(key)


@jax.jit
def _noisy_mean(row, deviation, size):
    total, key = row
    noise = jax.random.normal(key, total.shape, total.dtype)
    real = total.real.dtype
    return (total + deviation.astype(real) * noise) / size.astype(real)


@remembered_with_owners
def _without_params(update: UpdateFn) -> UpdateFn:
    """Allow gradients with an axis that the parameters do not have."""

    def differentially_private_aggregate(updates, state, params=None, **extra):
        return update(updates, state, None, **extra)

    return differentially_private_aggregate


@checked(l2_norm_clip=NONNEGATIVE, noise_multiplier=NONNEGATIVE)
def differentially_private_aggregate(
    l2_norm_clip: Scalar, noise_multiplier: Scalar, key: Key
) -> Optimizer:
    r"""Clip the gradient of each example, add them up, add noise, and divide by their number.

    .. math::

       \frac 1 n \left( \sum_{i=1}^n g_i \min(1,\; C / \lVert g_i \rVert)
       + C \sigma\, \mathcal N(0, I) \right)

    The gradients have the examples along their first axis, `vmap(grad(loss), (None, 0))`, so it
    must be first in a chain, and cannot be combined with `accumulate`.

    Args:
      l2_norm_clip: :math:`C` >= 0, largest norm of an example's whole gradient: a number or
        schedule.
      noise_multiplier: :math:`\sigma` >= 0, standard deviation of the noise, relative to the
        clipping norm.
      key: an int or a `jax.random.key`. It is kept in the state, so runs may be vmapped over keys.

    Returns:
      An `Optimizer` that returns gradients shaped like the parameters.
      State: one key.

    Raises:
      ValueError: if a concrete number is out of range, or the first axes differ.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.differentially_private_aggregate(1.0, 0.0, key=0)
      >>> per_example = jnp.array([[3.0, 4.0], [0.0, 0.5]])
      >>> print(opt.update(per_example, opt.init(jnp.ones(2)))[0])
      [0.3  0.65]

    References:
      Abadi et al. (2016), "Deep learning with differential privacy".
    """
    slots = functools.partial(fresh_randomness, key=key)
    numbers = dict(l2_norm_clip=l2_norm_clip, noise_multiplier=noise_multiplier)
    init, update = treewise(_differentially_private_aggregate, slots, numbers)
    return Optimizer(init, _without_params(update))
