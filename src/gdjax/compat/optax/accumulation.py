"""Sums and means of gradients, over all steps or over the batches of one step."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import GradientTransformation, Params
from gdjax.core.types import FloatDType

skip_not_finite = gdjax.skip_not_finite
skip_large_updates = gdjax.skip_large_updates


class TraceState(NamedTuple):
    """The decaying sum of the updates, shaped like the parameters."""

    trace: Params


def trace(
    decay: Any, nesterov: bool = False, accumulator_dtype: FloatDType = None
) -> GradientTransformation:
    """Replace the updates by their decaying sum; see `gdjax.trace`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.trace(decay=0.5)
      >>> updates, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
      >>> print(tx.update(jnp.ones(1), state)[0], state.trace)
      [1.5] [1.]
    """
    return on_gdjax(gdjax.trace(decay, nesterov, accumulator_dtype), TraceState)


class EmaState(NamedTuple):
    """The running mean of the updates.

    Attributes:
      count: number of updates so far, int32.
      ema: the mean without its correction for the start at zero, shaped like the parameters.
    """

    count: Array
    ema: Params


def ema(
    decay: Any, debias: bool = True, accumulator_dtype: FloatDType = None
) -> GradientTransformation:
    """Replace the updates by their running mean; see `gdjax.ema`."""
    return on_gdjax(gdjax.ema(decay, debias, accumulator_dtype), EmaState)
