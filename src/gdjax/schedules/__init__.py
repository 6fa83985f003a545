"""Schedules: functions of the step count, pytrees whose numbers are leaves; the first count is 0.

A count may be an integer, a float or an array of them, traced or not; the value is at least
float32. In float32, counts are exact up to 2**24 (17 million) and have 7 correct digits beyond.
"""

from gdjax.core.hyper import Schedule as Schedule
from gdjax.schedules.cycles import cyclic_schedule as cyclic_schedule
from gdjax.schedules.cycles import sgdr_schedule as sgdr_schedule
from gdjax.schedules.decay import cosine_decay_schedule as cosine_decay_schedule
from gdjax.schedules.decay import exponential_decay as exponential_decay
from gdjax.schedules.epochs import in_epochs as in_epochs
from gdjax.schedules.epochs import with_steps_per_epoch as with_steps_per_epoch
from gdjax.schedules.join import join_schedules as join_schedules
from gdjax.schedules.longrun import inverse_sqrt_schedule as inverse_sqrt_schedule
from gdjax.schedules.longrun import wsd_schedule as wsd_schedule
from gdjax.schedules.onecycle import cosine_onecycle_schedule as cosine_onecycle_schedule
from gdjax.schedules.onecycle import linear_onecycle_schedule as linear_onecycle_schedule
from gdjax.schedules.piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from gdjax.schedules.piecewise import (
    piecewise_interpolate_schedule as piecewise_interpolate_schedule,
)
from gdjax.schedules.tokens import half_life as half_life
from gdjax.schedules.tokens import in_tokens as in_tokens
from gdjax.schedules.tokens import scaled_by_batch_size as scaled_by_batch_size
from gdjax.schedules.transition import constant_schedule as constant_schedule
from gdjax.schedules.transition import linear_schedule as linear_schedule
from gdjax.schedules.transition import one_minus_sqrt_schedule as one_minus_sqrt_schedule
from gdjax.schedules.transition import polynomial_schedule as polynomial_schedule
from gdjax.schedules.transition import rex_schedule as rex_schedule
from gdjax.schedules.warmup import warmup_constant_schedule as warmup_constant_schedule
from gdjax.schedules.warmup_decay import (
    warmup_cosine_decay_schedule as warmup_cosine_decay_schedule,
)
from gdjax.schedules.warmup_decay import (
    warmup_exponential_decay_schedule as warmup_exponential_decay_schedule,
)
from gdjax.schedules.warmup_decay import (
    warmup_linear_decay_schedule as warmup_linear_decay_schedule,
)
from gdjax.schedules.warmup_decay import (
    warmup_polynomial_decay_schedule as warmup_polynomial_decay_schedule,
)
