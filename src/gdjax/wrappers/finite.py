"""Skip the updates whose gradients are not finite."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import treewise
from gdjax.core.protocols import also_took_step
from gdjax.core.types import OptState, Pair, Params, Scalar
from gdjax.wrappers.guard import all_finite
from gdjax.wrappers.shared.skipping import tally, unless


class ApplyIfFinite(NamedTuple):
    """What the guard remembers."""

    notfinite_count: Array  # gradients in a row that were not finite, int32
    last_finite: Array  # whether the last ones were finite
    total_notfinite: Array  # gradients so far that were not finite, int32
    skipped: Array  # updates left out so far, int32
    gave_up: Array  # whether there ever were more in a row than allowed
    updated: Array  # whether the last gradients were applied
    inner: OptState  # state of the guarded optimizer

    def skipped_steps(self) -> Array:
        """Return how many updates were left out."""
        return self.skipped

    def stepped(self) -> Array:
        """Return whether the last call took a step."""
        return also_took_step(self.updated, self.inner)


def _apply_if_finite(
    grads, slots, params, count, *, max_consecutive_errors, let_through, inner, **extra
):
    bad = ~all_finite(grads)
    total, in_a_row = tally(bad, slots.total_notfinite, slots.notfinite_count)
    too_many = in_a_row > max_consecutive_errors
    skip = bad & ~too_many if let_through else bad
    updates, state = unless(skip, inner, grads, slots.inner, params, extra)
    skipped, _ = tally(skip, slots.skipped, in_a_row)
    gave_up = slots.gave_up | too_many
    return updates, ApplyIfFinite(in_a_row, ~bad, total, skipped, gave_up, ~skip, state)


def _fresh(init: InitFn, params: Params) -> ApplyIfFinite:
    in_a_row, total, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
    last_finite, gave_up, updated = jnp.array(True), jnp.array(False), jnp.array(True)
    return ApplyIfFinite(in_a_row, last_finite, total, skipped, gave_up, updated, init(params))


@checked(max_consecutive_errors=NONNEGATIVE)
def apply_if_finite(
    inner: Pair, max_consecutive_errors: Scalar, *, let_through: bool = False
) -> Optimizer:
    """Skip the updates whose gradients have an element that is infinite or NaN.

    Parameters and state do not change in a skipped step. After more than `max_consecutive_errors`
    in a row the state says `gave_up`. optax, at that point, lets the gradients through, which
    destroys the parameters and the state: that is `let_through=True`.

    Args:
      inner: any `(init, update)` pair.
      max_consecutive_errors: how many of them in a row are tolerated, >= 0.
      let_through: whether to apply gradients that are not finite once there were more in a row.

    Returns:
      An `Optimizer`.
      State: three counts, `slots.notfinite_count` (in a row), `total_notfinite` and `skipped`, and
      flags, `last_finite`, `gave_up` and `updated`. `gdjax.skipped_steps` reads any state.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.apply_if_finite(gdjax.sgd(0.1), max_consecutive_errors=1)
      >>> state = opt.init(jnp.ones(1))
      >>> for grad in (1.0, jnp.inf, jnp.nan, 1.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates, state.slots.notfinite_count, state.slots.gave_up)
      [-0.1] 0 False
      [0.] 1 False
      [0.] 2 True
      [-0.1] 0 True
    """
    init, update = with_extra_args_support(inner)
    slots = functools.partial(_fresh, init)
    numbers = dict(max_consecutive_errors=max_consecutive_errors)
    return treewise(_apply_if_finite, slots, numbers, let_through=let_through, inner=update)
