"""The average of schedule-free learning, which optimizers and wrappers share.

Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky (2024), eqs. 3-5, https://arxiv.org/abs/2405.15682
Paper -> here: y -> the parameters, z -> z, x -> `eval_params(state, params)`, beta -> b1, gamma ->
learning_rate, c -> share of the newest z, r -> weight_count_power.
Deviations: y is updated without dividing by b1, y += c (z - y) + (1 - b1 (1 - c)) u with the old z
and the update u of z, which is the same and does not cancel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, Range
from gdjax.core.evaluation import map_held
from gdjax.core.trees import copied, zero

OPEN_UNIT = Range("in (0, 1]", lambda x: 0 < x <= 1)
RANGES = dict(
    b1=OPEN_UNIT, weight_lr_power=NONNEGATIVE, weight_count_power=FINITE, warmup_steps=NONNEGATIVE
)


class ScheduleFree(NamedTuple):
    """What schedule-free learning remembers."""

    z: Any  # what the inner optimizer moves, at first the parameters, shaped like them
    weight_sum: Array  # sum of the weights of all z so far; a number
    max_learning_rate: Array  # largest learning rate so far; a number
    inner: Any  # state of the inner optimizer

    def eval_params(self, params, count, hyperparams):
        """Return x, the average of z."""
        return extrapolated(self.z, params, hyperparams["b1"])


def extrapolated(z, params, b1):
    """Return x = (y - (1 - b1) z) / b1 for the parameters y."""
    return map_held(_extrapolate, z, params, b1)


def _extrapolate(z, y, b1):
    return y + (1 - b1) / b1 * (y - z)


def weigh(slots, rate, count, weight_lr_power, weight_count_power):
    """Return the share c of the newest z, the sum of weights and the largest learning rate."""
    largest = jnp.maximum(slots.max_learning_rate, rate)
    weight = count.astype(rate.dtype) ** weight_count_power * largest**weight_lr_power
    total = slots.weight_sum + weight
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0), total, largest


def move(param, z, update, c, b1):
    """Return the updates of y, the parameter, and the next z."""
    z = z + update
    before = z - update  # read off the new z, since XLA would copy the old one to keep it
    return c * (before - param) + (1 - b1 * (1 - c)) * update, z


def fresh(init, state_dtype, params) -> ScheduleFree:
    """Return the slots for parameters, given the `init` of the inner optimizer."""
    return ScheduleFree(copied(params, state_dtype), zero(), zero(), init(params))
