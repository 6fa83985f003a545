"""Adafactor's mean squares, kept as rows times columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import GradientTransformation, Updates
from gdjax.core.checks import check_integer, checked
from gdjax.core.lift import leafwise
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adafactor import (
    RANGES,
    Factors,
    factored_axes,
    factored_rms_rule,
    zero_factors,
)


class FactoredState(NamedTuple):
    """The mean squares of Adafactor. What a parameter does not need is an array of shape (1,).

    Attributes:
      count: number of updates so far, int32.
      v_row: mean of the mean square over the largest axis of each parameter that is factored.
      v_col: mean over the second largest axis.
      v: the mean square itself of each parameter that is not factored.
    """

    count: Array
    v_row: Updates
    v_col: Updates
    v: Updates


class _Means(NamedTuple):
    v_row: Array
    v_col: Array
    v: Array


def _factored_rms(
    grad,
    slots,
    param,
    count,
    *,
    decay_rate,
    step_offset,
    epsilon,
    factored,
    min_dim_size_to_factor,
    decay_rate_fn,
):
    axes = factored_axes(grad.shape, factored, min_dim_size_to_factor)
    kept = Factors(None, None, slots.v, None)
    if axes is not None:
        second, first = axes
        row, col = jnp.expand_dims(slots.v_row, first), jnp.expand_dims(slots.v_col, second)
        kept = Factors(row, col, None, None)
    out, new = factored_rms_rule(
        grad,
        kept,
        param,
        count,
        decay_rate=decay_rate,
        step_offset=step_offset,
        epsilon=epsilon,
        factored=factored,
        min_dim_size_to_factor=min_dim_size_to_factor,
        decay_rate_fn=decay_rate_fn,
    )
    return out, _means(new, axes)


def _means(factors: Factors, axes: tuple[int, int] | None) -> _Means:
    """Return what optax remembers in place of what gdjax does."""
    row, col, whole = factors.v_row, factors.v_col, factors.v
    if axes is None or row is None or col is None:
        assert whole is not None, "all of the mean square, or its rows and columns"
        none = jnp.zeros((1,), whole.dtype)
        return _Means(none, jnp.zeros_like(none), whole)
    second, first = axes
    return _Means(jnp.squeeze(row, first), jnp.squeeze(col, second), jnp.zeros((1,), row.dtype))


@checked(**RANGES)
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Hyperparam = 0.8,
    step_offset: Hyperparam = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Hyperparam = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] | None = None,
) -> GradientTransformation:
    """Divide by the root-mean-square of the gradients; see `gdjax.scale_by_factored_rms`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> state = optax.scale_by_factored_rms().init(jnp.zeros((256, 512)))
      >>> state.v_row.shape, state.v_col.shape, state.v.shape
      ((256,), (512,), (1,))
    """
    min_dim = check_integer(
        "scale_by_factored_rms(min_dim_size_to_factor=...)", min_dim_size_to_factor, 0
    )

    def slots(param) -> _Means:
        axes = factored_axes(param.shape, factored, min_dim)
        return _means(zero_factors(param, factored, min_dim), axes)

    optimizer = leafwise(
        _factored_rms,
        slots,
        dict(decay_rate=decay_rate, step_offset=step_offset, epsilon=epsilon),
        factored=factored,
        min_dim_size_to_factor=min_dim,
        decay_rate_fn=decay_rate_fn,
    )
    return on_gdjax(optimizer, FactoredState, takes_params=False)
