"""The schedules of `gdjax.schedules`, and optax's numbers in the state."""

from gdjax.compat.optax.base import StatefulSchedule as StatefulSchedule
from gdjax.compat.optax.inject import InjectHyperparamsState as InjectHyperparamsState
from gdjax.compat.optax.inject import (
    InjectStatefulHyperparamsState as InjectStatefulHyperparamsState,
)
from gdjax.compat.optax.inject import WrappedSchedule as WrappedSchedule
from gdjax.compat.optax.inject import inject_hyperparams as inject_hyperparams
from gdjax.compat.optax.inject import inject_stateful_hyperparams as inject_stateful_hyperparams
from gdjax.compat.optax.private import add_private_modules
from gdjax.schedules import *  # noqa: F403

add_private_modules(__name__, "_inject _join _schedule")
