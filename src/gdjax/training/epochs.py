"""How many steps an epoch of a run has, for schedules whose lengths are in epochs."""

from __future__ import annotations

import jax
from jax import Array

from gdjax.core.types import Number, OptState, PyTree
from gdjax.schedules.epochs import needs_steps_per_epoch, with_steps_per_epoch
from gdjax.training.foreign import is_iterator
from gdjax.training.streams import batches_per_epoch, is_stream

COLUMN = "steps in an epoch"  # of the table of a sweep's lanes; no argument has such a name


def steps_per_epoch(data: PyTree, batch_size: int | None) -> int | None:
    """Return the steps in an epoch of a run's data; None for a stream that does not say it.

    Bad data and batch sizes are errors of `make_plan`, not of this function.
    """
    if is_stream(data):
        return batches_per_epoch(data)
    leaves = jax.tree.leaves(data, is_leaf=is_iterator)
    shape: tuple[int, ...] = getattr(leaves[0], "shape", ()) if leaves else ()
    examples = next(iter(shape), 1)
    return max(1, examples // max(1, batch_size or examples))


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
