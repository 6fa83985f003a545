"""How often a preconditioner is updated: a schedule for `psgd_kron`.

As in psgd-jax and the author's psgd_torch, https://github.com/lixilinx/psgd_torch
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, Range, checked
from gdjax.core.hyper import Schedule, schedule

PROBABILITY = Range("in (0, 1]", lambda x: 0 < x <= 1)


@schedule
class UpdateProbability(Schedule):
    """Flat, then an exponential decay to a floor; see `precond_update_prob_schedule`."""

    max_prob: Any
    min_prob: Any
    decay: Any
    flat_start: Any

    def __call__(self, count: Any) -> Array:
        """Return the probability for update number `count`, where 0 is the first."""
        falling = self.max_prob * jnp.exp(-self.decay * (count + 1 - self.flat_start))
        return jnp.minimum(jnp.maximum(falling, self.min_prob), self.max_prob)


@checked(max_prob=PROBABILITY, min_prob=PROBABILITY, decay=NONNEGATIVE, flat_start=FINITE)
def precond_update_prob_schedule(
    max_prob: Any = 1.0, min_prob: Any = 0.03, decay: Any = 0.001, flat_start: Any = 500
) -> Schedule:
    """Update a preconditioner often at first, rarely once it is learned.

    min(max_prob, max(min_prob, max_prob * exp(-decay * (t - flat_start)))), t = 1, 2, ...

    Args:
      max_prob: updates for each step at first, in (0, 1].
      min_prob: updates for each step in the end, in (0, 1].
      decay: how fast they get fewer, >= 0.
      flat_start: the steps before they do.

    Example:
      >>> import gdjax
      >>> rate = gdjax.precond_update_prob_schedule()
      >>> print([round(float(rate(n)), 4) for n in (0, 1499, 10000)])
      [1.0, 0.3679, 0.03]
    """
    return UpdateProbability(max_prob, min_prob, decay, flat_start)
