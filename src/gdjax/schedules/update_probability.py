"""How often a preconditioner is updated: a schedule for `psgd_kron`.

As in psgd-jax and the author's psgd_torch, https://github.com/lixilinx/psgd_torch
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import FINITE, NONNEGATIVE, SHARE, checked
from gdjax.core.hyper import Schedule, schedule
from gdjax.core.types import Number
from gdjax.schedules.curves import Leaf, numbers, since


@schedule
class UpdateProbability(Schedule):
    """Constant, then an exponential decay to a lower bound; see `precond_update_prob_schedule`."""

    lengths: ClassVar[tuple[str, ...]] = ("flat_start",)
    max_prob: Leaf
    min_prob: Leaf
    decay: Leaf
    flat_start: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the probability for update number `count`, where 0 is the first."""
        falling = self.max_prob * jnp.exp(-self.decay * since(count, self.flat_start - 1))
        return jnp.minimum(jnp.maximum(falling, self.min_prob), self.max_prob)


@checked(max_prob=SHARE, min_prob=SHARE, decay=NONNEGATIVE, flat_start=FINITE)
def precond_update_prob_schedule(
    max_prob: Number = 1.0, min_prob: Number = 0.03, decay: Number = 0.001, flat_start: Number = 500
) -> Schedule:
    r"""Update a preconditioner often at first and rarely later.

    .. math::

       p_t &= \min\left( p_{\max},\; \max\left( p_{\min},\;
       p_{\max}\, e^{-r (t - b)} \right) \right) \\
       t &= 1, 2, \ldots

    Args:
      max_prob: :math:`p_{\max}` in (0, 1], probability of an update at the start.
      min_prob: :math:`p_{\min}` in (0, 1], probability of an update at the end.
      decay: :math:`r` >= 0, rate at which the probability decays.
      flat_start: :math:`b`, number of steps before it decays, finite.

    Example:
      >>> import gdjax
      >>> rate = gdjax.precond_update_prob_schedule()
      >>> print([round(float(rate(n)), 4) for n in (0, 1499, 10000)])
      [1.0, 0.3679, 0.03]
    """
    return UpdateProbability(*numbers(max_prob, min_prob, decay, flat_start))
