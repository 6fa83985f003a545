"""How many steps an epoch of a run has, for schedules whose lengths are in epochs."""

from __future__ import annotations

from jax import Array

from gdjax.core.types import Number, OptState
from gdjax.schedules.epochs import needs_steps_per_epoch, with_steps_per_epoch
from gdjax.training.inputs import Plan

COLUMN = "steps in an epoch"  # of the table of a sweep's lanes; no argument has such a name


def steps_per_epoch(plan: Plan) -> int | None:
    """Return the steps in an epoch of a run's data; None for a stream that does not say it."""
    if plan.examples:
        return plan.examples // (plan.program.batch_size or plan.examples)
    try:
        return len(plan.data)
    except TypeError:
        return None


def with_epochs(caller: str, state: OptState, steps: Number | Array | None) -> OptState:
    """Return a state whose schedules in epochs know how many steps an epoch of the data has.

    Args:
      caller: the function that errors name.
      state: the state before the first step of a run.
      steps: see `steps_per_epoch`.
    """
    if not needs_steps_per_epoch(state):
        return state
    if steps is None:
        raise ValueError(
            f"{caller}(optimizer=...) has a schedule in epochs, but the data are a stream that "
            "does not say how many batches an epoch has: it has no len(). Give the number to the "
            "schedule: in_epochs(schedule, steps_per_epoch=...)."
        )
    return with_steps_per_epoch(state, steps)
