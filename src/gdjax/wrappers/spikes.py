"""Skip the updates where the loss or the gradient norm is far above its recent values.

limit = median + threshold * 1.4826 * MAD over the last values, where MAD is the median distance
from the median, and 1.4826 MAD is the standard deviation of a normal distribution. Unlike mean and
deviation (levanter skips above mean + 6 sd of 128 values), they are robust to spikes.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import (
    NONNEGATIVE,
    check_choice,
    check_integer,
    checked,
)
from gdjax.core.fits import loss_given
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_increment, safe_sqrt, scalar_dtype
from gdjax.core.protocols import also_took_step
from gdjax.core.trees import sum_sq
from gdjax.core.types import OptState, Pair, Params, Scalar
from gdjax.wrappers.shared.skipping import tally, unless

WATCH = ("grad_norm", "value", "both")
NORMAL = 1.4826  # standard deviations in one MAD of a normal distribution


class Spikes(NamedTuple):
    """What the guard remembers."""

    history: Array  # the last values of each watched quantity, one row each; a ring buffer
    limits: Array  # what the last values were compared with
    recorded: Array  # values written so far, int32
    skipped: Array  # updates left out so far, int32
    in_a_row: Array  # those since the last update that was done, int32
    inner: OptState  # state of the guarded optimizer

    def skipped_steps(self) -> Array:
        """Return how many updates were left out."""
        return self.skipped

    def stepped(self) -> Array:
        """Return whether the last call took a step."""
        return also_took_step(self.in_a_row == 0, self.inner)


def _middle(row, n):
    """Return the median of the n finite values of a row that is padded with infinities."""
    row = jnp.sort(row)
    return (row[jnp.maximum(n - 1, 0) // 2] + row[n // 2]) / 2


def _limit(row, n, threshold, min_spread):
    known = jnp.arange(row.size) < n
    median = _middle(jnp.where(known, row, jnp.inf), n)
    mad = _middle(jnp.where(known, jnp.abs(row - median), jnp.inf), n)
    return median + threshold * jnp.maximum(NORMAL * mad, min_spread * jnp.abs(median))


def _skip_spikes(
    grads, slots, params, count, *, threshold, min_history, min_spread, watch, inner, **extra
):
    if watch != "grad_norm" and "value" not in extra:
        raise TypeError(
            f"skip_spikes(watch={watch!r}) needs the loss: call update(grads, state, params, "
            "value=...)."
        )
    seen = [] if watch == "value" else [safe_sqrt(sum_sq(grads))]
    seen += [] if watch == "grad_norm" else [loss_given("skip_spikes", extra["value"])]
    now = jnp.stack([x.astype(slots.history.dtype) for x in seen])
    window = slots.history.shape[1]
    n = jnp.minimum(slots.recorded, window)
    limits = jax.vmap(_limit, (0, None, None, None))(slots.history, n, threshold, min_spread)
    limits = jnp.where(n >= jnp.maximum(min_history, 1), limits, jnp.inf)
    limits = jax.lax.stop_gradient(limits)  # they decide only; infinite ones have no derivative
    finite = jnp.isfinite(now).all()
    skip = ~finite | jnp.any(now > limits)
    # Spikes are recorded too, so that a higher level is accepted after half a window.
    written = slots.history.at[:, slots.recorded % window].set(now)
    history = jnp.where(finite, written, slots.history)
    recorded = jnp.where(finite, safe_increment(slots.recorded), slots.recorded)
    updates, state = unless(skip, inner, grads, slots.inner, params, extra)
    counts = tally(skip, slots.skipped, slots.in_a_row)
    return updates, Spikes(history, limits, recorded, *counts, state)


def _fresh(init: InitFn, rows: int, window: int, params: Params) -> Spikes:
    recorded, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
    history = jnp.zeros((rows, window), scalar_dtype())
    limits = jnp.full(rows, jnp.inf, history.dtype)
    return Spikes(history, limits, recorded, skipped, in_a_row, init(params))


@checked(threshold=NONNEGATIVE, min_history=NONNEGATIVE, min_spread=NONNEGATIVE)
def skip_spikes(
    optimizer: Pair,
    threshold: Scalar = 6.0,
    window: int = 128,
    *,
    watch: Literal["grad_norm", "value", "both"] = "grad_norm",
    min_history: Scalar = 16,
    min_spread: Scalar = 0.01,
) -> Optimizer:
    r"""Skip the updates where the loss or the gradient's norm is a spike, or not finite.

    A spike is larger than

    .. math::

       M + \theta\, \max(1.4826\, D,\; s\, |M|)

    with M the median of the last values and D the median of their distances from M.

    Parameters and state do not change in a skipped step. Spikes are recorded in the history too, so
    a level that has risen permanently is skipped for about half a window and accepted after that.

    Args:
      optimizer: any `(init, update)` pair.
      threshold: :math:`\theta` >= 0, largest accepted distance above the median, in standard
        deviations.
      window: number of last values >= 1 to compare with; static, not a leaf of the state.
      watch: "grad_norm", "value" (the loss, `update(..., value=loss)`), or "both", where a spike
        in either is enough.
      min_history: number of values before which nothing finite is skipped.
      min_spread: :math:`s` >= 0, lower bound of the standard deviation, relative to the median, for
        values that hardly change.

    Returns:
      An `Optimizer`.
      State: `window` numbers for each watched quantity, the last `slots.limits`, and counts: see
      `skipped_steps`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.skip_spikes(gdjax.sgd(0.1), window=8, min_history=4)
      >>> state = opt.init(jnp.ones(1))
      >>> for grad in (1.0, 1.1, 0.9, 1.0, 50.0, 1.1):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates, state.slots.limits)
      [-0.1] [inf]
      [-0.11] [inf]
      [-0.09] [inf]
      [-0.1] [inf]
      [0.] [1.4448]
      [-0.11] [1.8896]
    """
    check_choice("skip_spikes(watch=...)", watch, WATCH)
    window = check_integer("skip_spikes(window=...)", window)
    init, update = with_extra_args_support(optimizer)
    slots = functools.partial(_fresh, init, 2 if watch == "both" else 1, window)
    numbers = dict(threshold=threshold, min_history=min_history, min_spread=min_spread)
    return treewise(_skip_spikes, slots, numbers, watch=watch, inner=update)
