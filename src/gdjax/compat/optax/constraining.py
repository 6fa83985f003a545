"""Bounds for the parameters, and for what NaN does to them."""

from __future__ import annotations

from typing import NamedTuple

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import GradientTransformation
from gdjax.core.types import PyTree


def keep_params_nonnegative() -> GradientTransformation:
    """Shorten updates that would make parameters negative; see `gdjax.keep_params_nonnegative`."""
    return on_gdjax(gdjax.keep_params_nonnegative())


class ZeroNansState(NamedTuple):
    """Whether the last update of each parameter had a NaN: a boolean for each of them."""

    found_nan: PyTree


def zero_nans() -> GradientTransformation:
    """Replace NaN by 0; see `gdjax.zero_nans`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.zero_nans()
      >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.ones(2)))
      >>> print(updates, state.found_nan)
      [1. 0.] True
    """
    return on_gdjax(gdjax.zero_nans(), ZeroNansState, takes_params=False)
