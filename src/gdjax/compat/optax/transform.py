"""The transformations that optax's optimizers are chains of, and their states."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import (
    GradientTransformation,
    ScalarOrSchedule,
    Schedule,
    Updates,
)


class ScaleByAdamState(NamedTuple):
    """Adam's moments.

    Attributes:
      count: number of updates so far, int32.
      mu: running mean of the gradient, shaped like the parameters.
      nu: running mean of its square.
    """

    count: Array
    mu: Updates
    nu: Updates


def scale_by_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Return Adam's direction, uphill; see `gdjax.scale_by_adam`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.scale_by_adam()
      >>> updates, state = tx.update(jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> print(updates.round(4), state.count)
      [ 1. -1.] 1
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return on_gdjax(
        gdjax.scale_by_adam(**numbers, mu_dtype=mu_dtype, nesterov=nesterov), ScaleByAdamState
    )


class ScaleByScheduleState(NamedTuple):
    """The number of updates so far, int32."""

    count: Array


def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformation:
    """Multiply by a schedule of the count; the first update uses `step_size_fn(0)`."""
    return on_gdjax(gdjax.scale_by_schedule(step_size_fn), ScaleByScheduleState)


def scale(step_size: Any) -> GradientTransformation:
    """Multiply by a number."""
    return on_gdjax(gdjax.scale(step_size))


def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule, *, flip_sign: bool = True
) -> GradientTransformation:
    """Multiply by the learning rate, or by a schedule, and by -1 unless told otherwise."""
    sign = -1 if flip_sign else 1
    if callable(learning_rate):
        return scale_by_schedule(lambda count: sign * learning_rate(count))
    return scale(sign * learning_rate)
