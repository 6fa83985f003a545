"""The schedules of `gdjax.schedules`, and what only optax has in its module of that name."""

from gdjax.compat.optax.inject import inject_hyperparams as inject_hyperparams
from gdjax.compat.optax.stateful import StatefulSchedule as StatefulSchedule
from gdjax.compat.optax.stateful import WrappedSchedule as WrappedSchedule
from gdjax.schedules import *  # noqa: F403
