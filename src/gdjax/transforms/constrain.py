"""Prevent NaN in the updates, or negative parameters."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import leafwise


class FoundNan(NamedTuple):
    """What `zero_nans` remembers of one parameter."""

    found_nan: Array  # whether the last gradient had a NaN, a scalar


def _zero_nans(grad, slots, param, count):
    is_nan = jnp.isnan(grad)
    return jnp.where(is_nan, 0, grad), FoundNan(jnp.any(is_nan))


def _nothing_found(param: Array) -> FoundNan:
    return FoundNan(jnp.zeros((), bool))


def zero_nans() -> Optimizer:
    """Replace NaN by 0, element by element; infinite elements stay.

    If a gradient contains NaN, its other elements are often wrong too. To skip the whole step
    instead, use `apply_if_finite`.

    Returns:
      An `Optimizer`.
      State: one boolean for each parameter, whether its last gradient had a NaN:
      `gdjax.tree.get(state, "found_nan")`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.zero_nans()
      >>> updates, state = opt.update(jnp.array([1.0, jnp.nan]), opt.init(jnp.ones(2)))
      >>> print(updates, gdjax.tree.get(state, "found_nan"))
      [1. 0.] True
    """
    return leafwise(_zero_nans, _nothing_found)


def _keep_params_nonnegative(grad, slots, param, count):
    if param is None:
        raise ValueError(f"keep_params_nonnegative needs {NEEDS_PARAMS}")
    if jnp.iscomplexobj(param):
        raise TypeError("keep_params_nonnegative needs real parameters: complex ones have no sign.")
    return jnp.where(param + grad < 0, -param, grad), slots


def keep_params_nonnegative() -> Optimizer:
    """Shorten updates that would make a parameter negative, so that it becomes 0.

    It must be the last member of a chain, since a later one could undo it. Parameters that are
    already negative are moved to 0.

    Returns:
      An `Optimizer` without slots; its `update` needs the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.sgd(1.0), gdjax.keep_params_nonnegative())
      >>> params = jnp.array([1.0, 1.0])
      >>> print(opt.update(jnp.array([0.5, 3.0]), opt.init(params), params)[0])
      [-0.5 -1. ]
    """
    return leafwise(_keep_params_nonnegative)
