"""Transformations of gradients: privacy, and a scale that falls when the loss stops decreasing."""

from typing import NamedTuple

from jax import Array

import gdjax
from gdjax.compat.optax.accumulation import trace
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.adding import key_of
from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    ScalarOrSchedule,
    identity,
)
from gdjax.compat.optax.combine import chain
from gdjax.compat.optax.transform import scale_by_learning_rate
from gdjax.core.types import Number


class DifferentiallyPrivateAggregateState(NamedTuple):
    """The key of the next noise, a typed one."""

    rng_key: Array


def differentially_private_aggregate(
    l2_norm_clip: Number,
    noise_multiplier: Number,
    key: Array | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """Clip the gradient of each example, add up, add noise, and divide by their number.

    See `gdjax.differentially_private_aggregate`.

    Args:
      l2_norm_clip: see there, like the next.
      noise_multiplier: see there.
      key: a key of `jax.random`, or an int. Without one it is 0, with a warning.
      seed: deprecated: use `key`.

    Raises:
      ValueError: if both `key` and `seed` are given.
    """
    key = key_of("differentially_private_aggregate", key, seed)
    optimizer = gdjax.differentially_private_aggregate(l2_norm_clip, noise_multiplier, key)
    return on_gdjax(optimizer, DifferentiallyPrivateAggregateState, dict(rng_key="key"))


def dpsgd(
    learning_rate: ScalarOrSchedule,
    l2_norm_clip: Number,
    noise_multiplier: Number,
    seed: Array | int | None = None,
    momentum: Number | None = None,
    nesterov: bool = False,
    *,
    key: Array | int | None = None,
) -> GradientTransformation:
    """Gradient descent with differential privacy; see `gdjax.dpsgd`.

    After optax 0.2.8 the fourth argument has the name `key`.

    Raises:
      ValueError: if both `key` and `seed` are given.
    """
    if key is not None and seed is not None:
        raise ValueError("dpsgd takes key=... or seed=..., its old name, not both.")
    return chain(
        differentially_private_aggregate(
            l2_norm_clip, noise_multiplier, key if seed is None else seed
        ),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )


class ReduceLROnPlateauState(NamedTuple):
    """What `reduce_on_plateau` remembers.

    Attributes:
      scale: factor of the updates.
      best_value: the smallest mean so far.
      plateau_count: means in a row without improvement, int32.
      cooldown_count: means left in the cooldown, int32.
      count: values in the mean, int32.
      avg_value: the mean of the values so far.
    """

    scale: Array
    best_value: Array
    plateau_count: Array
    cooldown_count: Array
    count: Array
    avg_value: Array


def reduce_on_plateau(
    factor: float = 0.1,
    patience: Number = 10,
    rtol: float = 1e-4,
    atol: float = 0.0,
    cooldown: Number = 0,
    accumulation_size: Number = 1,
    min_scale: Number = 0.0,
) -> GradientTransformationExtraArgs:
    """Reduce the scale of the updates when `update(..., value=loss)` stops decreasing.

    See `gdjax.reduce_on_plateau`. A relative tolerance is relative to |best|, so that it is right
    for negative losses too; in optax it is not.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(0.5, patience=2))
      >>> state = tx.init(jnp.ones(1))
      >>> for loss in (3.0, 2.0, 2.0, 2.0):
      ...     updates, state = tx.update(jnp.ones(1), state, value=loss)
      >>> print(updates, state[1].scale)
      [-0.5] 0.5
    """
    optimizer = gdjax.reduce_on_plateau(
        factor, patience, rtol, atol, cooldown, accumulation_size, min_scale
    )

    def read(state):
        return ReduceLROnPlateauState(*state.slots)

    def write(native, state):
        return native._replace(slots=type(native.slots)(*state))

    return on_gdjax(
        optimizer,
        ReduceLROnPlateauState,
        read=read,
        write=write,
        kind=GradientTransformationExtraArgs,
    )
