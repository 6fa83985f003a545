"""Bounds for the updates, by value or by norm."""

from __future__ import annotations

from typing import Any

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import GradientTransformation

per_example_global_norm_clip = gdjax.per_example_global_norm_clip
per_example_layer_norm_clip = gdjax.per_example_layer_norm_clip
unitwise_norm = gdjax.unitwise_norm
unitwise_clip = gdjax.unitwise_clip


def clip(max_delta: Any) -> GradientTransformation:
    """Clip each element to [-max_delta, max_delta]; see `gdjax.clip`."""
    return on_gdjax(gdjax.clip(max_delta), takes_params=False)


def clip_by_block_rms(threshold: Any) -> GradientTransformation:
    """Scale each array down to a root-mean-square; see `gdjax.clip_by_block_rms`."""
    return on_gdjax(gdjax.clip_by_block_rms(threshold), takes_params=False)


def clip_by_global_norm(max_norm: Any) -> GradientTransformation:
    """Scale the updates down to a norm over all of them; see `gdjax.clip_by_global_norm`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.clip_by_global_norm(1.0)
      >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))[0])
      [0.6 0.8]
    """
    return on_gdjax(gdjax.clip_by_global_norm(max_norm), takes_params=False)


def adaptive_grad_clip(
    clipping: Any, eps: Any = 1e-3, axis: int | tuple[int, ...] | None = None
) -> GradientTransformation:
    """Scale each unit's update down to a part of its weights; see `gdjax.adaptive_grad_clip`."""
    return on_gdjax(gdjax.adaptive_grad_clip(clipping, eps, axis))
