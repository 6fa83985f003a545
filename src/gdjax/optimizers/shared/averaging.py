"""The average of schedule-free learning, which optimizers and wrappers share.

Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky (2024), eqs. 3-5, https://arxiv.org/abs/2405.15682
Paper -> here: y -> the parameters, z -> z, x -> `eval_params(state, params)`, beta -> b1, gamma ->
learning_rate, c -> share of the newest z, r -> weight_count_power.
Deviations: y is updated without dividing by b1, y += c (z - y) + (1 - b1 (1 - c)) u with the old z
and the update u of z, which is equal but free of cancellation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn
from gdjax.core.checks import FINITE, NONNEGATIVE, SHARE
from gdjax.core.evaluation import map_held
from gdjax.core.numerics import cast_like
from gdjax.core.residual import exact_params, no_residual
from gdjax.core.trees import copied, zero
from gdjax.core.types import FloatDType, OptState, Params, PyTree

RANGES = dict(
    b1=SHARE, weight_lr_power=NONNEGATIVE, weight_count_power=FINITE, warmup_steps=NONNEGATIVE
)


class ScheduleFree(NamedTuple):
    """What schedule-free learning remembers."""

    z: Params  # what the wrapped optimizer updates, first the parameters, shaped like them
    weight_sum: Array  # sum of the weights of all z so far; a number
    max_learning_rate: Array  # largest learning rate so far; a number
    residual: PyTree  # what rounding to less than float32 takes from y; see `gdjax.core.residual`
    inner: OptState  # state of the wrapped optimizer

    iterates = ("z", "residual")

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return x, the average of z."""
        return extrapolated(self.z, params, self.residual, hyperparams["b1"])


def extrapolated(z: Params, params: Params, residual: PyTree, b1: Array) -> Params:
    """Return x = (y - (1 - b1) z) / b1 for y = params + residual, in the dtypes of `params`."""
    x = map_held(_extrapolate, z, exact_params(params, residual), b1)
    return cast_like(x, params)


def _extrapolate(z, y, b1):
    return y + (1 - b1) / b1 * (y - z)


def weigh(
    slots: ScheduleFree,
    rate: Array,
    count: Array,
    weight_lr_power: Array,
    weight_count_power: Array,
) -> tuple[Array, Array, Array]:
    """Return the share c of the newest z, the sum of weights and the largest learning rate."""
    largest = jnp.maximum(slots.max_learning_rate, rate)
    weight = count.astype(rate.dtype) ** weight_count_power * largest**weight_lr_power
    largest_weight = float(jnp.finfo(rate.dtype).max) ** 0.75  # so that sums are finite
    weight = jnp.minimum(weight, largest_weight)
    total = slots.weight_sum + weight
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0), total, largest


def move(param: Array, z: Array, update: Array, c: Array, b1: Array) -> tuple[Array, Array]:
    """Return the update of y, the parameter, and the next z."""
    z = z + update
    before = z - update  # from the new z, so that XLA overwrites the old one in place
    return c * (before - param) + (1 - b1 * (1 - c)) * update, z


def fresh(init: InitFn, state_dtype: FloatDType, params: Params) -> ScheduleFree:
    """Return the slots for parameters, given the `init` of the wrapped optimizer."""
    z = copied(params, state_dtype)
    return ScheduleFree(z, zero(), zero(), no_residual(params), init(params))
