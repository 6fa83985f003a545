"""The names of `optax.schedules`: those of gdjax, and optax's numbers in the state."""

from __future__ import annotations

from typing import Any

import gdjax.schedules
from gdjax.compat.optax.base import Schedule as Schedule
from gdjax.compat.optax.base import StatefulSchedule as StatefulSchedule
from gdjax.compat.optax.inject import InjectHyperparamsState as InjectHyperparamsState
from gdjax.compat.optax.inject import (
    InjectStatefulHyperparamsState as InjectStatefulHyperparamsState,
)
from gdjax.compat.optax.inject import WrappedSchedule as WrappedSchedule
from gdjax.compat.optax.inject import inject_hyperparams as inject_hyperparams
from gdjax.compat.optax.inject import inject_stateful_hyperparams as inject_stateful_hyperparams
from gdjax.compat.optax.private import add_private_modules
from gdjax.schedules import constant_schedule as constant_schedule
from gdjax.schedules import cosine_decay_schedule as cosine_decay_schedule
from gdjax.schedules import cosine_onecycle_schedule as cosine_onecycle_schedule
from gdjax.schedules import join_schedules as join_schedules
from gdjax.schedules import linear_onecycle_schedule as linear_onecycle_schedule
from gdjax.schedules import linear_schedule as linear_schedule
from gdjax.schedules import piecewise_constant_schedule as piecewise_constant_schedule
from gdjax.schedules import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gdjax.schedules import sgdr_schedule as sgdr_schedule
from gdjax.schedules import warmup_constant_schedule as warmup_constant_schedule
from gdjax.schedules import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from gdjax.schedules import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule


def exponential_decay(
    init_value: Any,
    transition_steps: Any,
    decay_rate: Any,
    transition_begin: Any = 0,
    staircase: bool = False,
    end_value: Any = None,
) -> Schedule:
    """Decay as `gdjax.exponential_decay`; constant for no steps or a rate of 0, as in optax."""
    if _is_not_positive(transition_steps) or isinstance(decay_rate, int | float) and not decay_rate:
        return constant_schedule(init_value)
    return gdjax.schedules.exponential_decay(
        init_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )


def polynomial_schedule(
    init_value: Any,
    end_value: Any,
    power: Any,
    transition_steps: Any,
    transition_begin: Any = 0,
) -> Schedule:
    """Change as `gdjax.polynomial_schedule`; constant if there are no steps, as in optax."""
    if _is_not_positive(transition_steps):
        return constant_schedule(init_value)
    return gdjax.schedules.polynomial_schedule(
        init_value, end_value, power, transition_steps, transition_begin
    )


def _is_not_positive(steps: Any) -> bool:
    return isinstance(steps, int | float) and steps <= 0


add_private_modules(__name__, "_inject _join _schedule")
