"""Terms that are added to the updates: weight decay and noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import (
    EmptyState,
    GradientTransformation,
    Params,
    PRNGKey,
)
from gdjax.compat.optax.masking import masked
from gdjax.core.types import PyTree


class WeightDecaySchedule(NamedTuple):
    """The number of updates so far, int32."""

    count: Array


def add_decayed_weights(
    weight_decay: Any = 0.0,
    mask: PyTree | Callable[[Params], PyTree] | None = None,
) -> GradientTransformation:
    """Add the parameters times a number, or times a schedule of the count.

    Args:
      weight_decay: the number, or the schedule.
      mask: where to add them; see `masked`. None is everywhere.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx, params = optax.add_decayed_weights(0.1), jnp.array([1.0, -2.0])
      >>> print(tx.update(jnp.zeros(2), tx.init(params), params)[0])
      [ 0.1 -0.2]
    """
    kind = WeightDecaySchedule if callable(weight_decay) else EmptyState
    adding = on_gdjax(gdjax.add_decayed_weights(weight_decay), kind)
    return adding if mask is None else masked(adding, mask)


class AddNoiseState(NamedTuple):
    """What `add_noise` remembers.

    Attributes:
      count: number of updates so far, int32.
      rng_key: a typed key of `jax.random`.
    """

    count: Array
    rng_key: Array


def add_noise(
    eta: Any, gamma: Any, key: PRNGKey | int | None = None, *, seed: int | None = None
) -> GradientTransformation:
    """Add Gaussian noise of variance eta / count**gamma; see `gdjax.add_noise`.

    Args:
      eta: variance of the first noise.
      gamma: how fast it decreases.
      key: a seed or a key of `jax.random`; None is 0, with a warning.
      seed: old name of `key`.

    Raises:
      ValueError: if both are given.
    """
    optimizer = gdjax.add_noise(eta, gamma, key_of("add_noise", key, seed))
    return on_gdjax(optimizer, AddNoiseState, {"rng_key": "key"}, takes_params=False)


def key_of(name: str, key: PRNGKey | int | None, seed: int | None) -> PRNGKey | int:
    """Return the key of noise that may be given by its old name, or not at all, with a warning.

    Raises:
      ValueError: if both are given.
    """
    if seed is not None:
        message = f"{name}(seed=...) is deprecated: use key=..."
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        if key is not None:
            raise ValueError(f"{name} takes key=... or the deprecated seed=..., not both.")
        return seed
    if key is None:
        message = f"{name} without key=... always draws the same noise, that of key=0."
        warnings.warn(message, stacklevel=3)
        return 0
    return key
