"""The names of `optax.schedules`: those of gdjax, and optax's numbers in the state."""

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
from gdjax.schedules import exponential_decay as exponential_decay
from gdjax.schedules import join_schedules as join_schedules
from gdjax.schedules import linear_onecycle_schedule as linear_onecycle_schedule
from gdjax.schedules import linear_schedule as linear_schedule
from gdjax.schedules import piecewise_constant_schedule as piecewise_constant_schedule
from gdjax.schedules import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gdjax.schedules import polynomial_schedule as polynomial_schedule
from gdjax.schedules import sgdr_schedule as sgdr_schedule
from gdjax.schedules import warmup_constant_schedule as warmup_constant_schedule
from gdjax.schedules import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from gdjax.schedules import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule

add_private_modules(__name__, "_inject _join _schedule")
