"""Reduce the scale of the updates when the loss stops decreasing.

As torch.optim.lr_scheduler.ReduceLROnPlateau and optax's `reduce_on_plateau`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import CLOSED_UNIT, NONNEGATIVE, OPEN_UNIT, WHOLE, checked
from gdjax.core.every import as_interval
from gdjax.core.fits import loss_given
from gdjax.core.lift import treewise
from gdjax.core.numerics import safe_increment, scalar_dtype
from gdjax.core.trees import times
from gdjax.core.types import Params, Scalar


class Plateau(NamedTuple):
    """What is remembered of the loss."""

    scale: Array  # factor of the updates
    best_value: Array  # the smallest mean so far
    plateau_count: Array  # means in a row without improvement, int32
    cooldown_count: Array  # means left in the cooldown, int32
    count: Array  # values in the mean, int32
    avg_value: Array  # mean of the values so far, in at least float32


def _reduce_on_plateau(
    grads,
    slots,
    params,
    count,
    *,
    factor,
    patience,
    rtol,
    atol,
    cooldown,
    accumulation_size,
    min_scale,
    value,
):
    scale, best, stale, cooling, n, mean = slots
    n = safe_increment(n)
    value = loss_given("reduce_on_plateau", value).astype(mean.dtype)
    mean = mean + (value - mean) / n.astype(mean.dtype)
    due = n >= as_interval(accumulation_size, n)

    known = jnp.isfinite(best)  # it is infinite until there is a finite mean
    needed = jnp.where(known, rtol * jnp.abs(jnp.where(known, best, 0)) + atol, 0)
    improved = jnp.isfinite(mean) & (mean < best - needed)
    waited = jnp.where(improved, 0, safe_increment(stale))
    reduce = (cooling == 0) & (waited >= as_interval(patience, n))
    rest = jnp.where(reduce, jnp.round(cooldown).astype(n.dtype), jnp.maximum(cooling - 1, 0))
    compared = Plateau(
        jnp.where(reduce, jnp.maximum(scale * factor, min_scale), jnp.maximum(scale, min_scale)),
        jnp.where(improved, mean, best),
        jnp.where((cooling > 0) | reduce, 0, waited),
        rest,
        jnp.zeros_like(n),
        jnp.zeros_like(mean),
    )
    waiting = slots._replace(count=n, avg_value=mean)
    slots = Plateau(*(jnp.where(due, a, b) for a, b in zip(compared, waiting, strict=True)))
    return times(grads, slots.scale), slots


def _fresh(params: Params) -> Plateau:
    dtype = scalar_dtype()
    waited, cooling, n = (jnp.zeros((), jnp.int32) for _ in range(3))
    best = jnp.full((), jnp.inf, dtype)
    return Plateau(jnp.ones((), dtype), best, waited, cooling, n, jnp.zeros((), dtype))


@checked(
    factor=OPEN_UNIT,
    patience=NONNEGATIVE,
    rtol=CLOSED_UNIT,
    atol=NONNEGATIVE,
    cooldown=NONNEGATIVE,
    accumulation_size=WHOLE,
    min_scale=NONNEGATIVE,
)
def reduce_on_plateau(
    factor: Scalar = 0.1,
    patience: Scalar = 10,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
    cooldown: Scalar = 0,
    accumulation_size: Scalar = 1,
    min_scale: Scalar = 0.0,
) -> Optimizer:
    r"""Multiply the updates by a scale that is reduced whenever the loss stops decreasing.

    It needs the loss: `update(..., value=loss)`. Means of `accumulation_size` losses are compared
    with the best so far, b. A mean f is an improvement if

    .. math::

       f < b - r\, |b| - a

    After `patience` means in a row that are none, the scale is multiplied by `factor`.

    Differences: optax and torch compare with :math:`(1 - r)\, b - a`, which for a negative loss is
    above the best.

    Every call counts. To count steps, of an accumulation or a guard, put it inside: `accumulate(
    chain(optimizer, reduce_on_plateau()), 4)` compares the loss of the last mini-batch of a step.

    All arguments are leaves of the state, and so is the scale, which is kept in float32 (optax: in
    the parameters' lowest dtype).

    Args:
      factor: factor in (0, 1) by which the scale is multiplied.
      patience: number of means without improvement before a reduction; 0 is taken as 1.
      rtol: :math:`r` in [0, 1], smallest relative decrease that counts as improvement.
      atol: :math:`a` >= 0, smallest absolute decrease that counts as improvement.
      cooldown: number of means >= 0 after a reduction that are not counted.
      accumulation_size: number of losses >= 1 in a mean: 1 for a loss on held-out data, more for
        that of a mini-batch.
      min_scale: smallest scale >= 0.

    Returns:
      An `Optimizer`, to follow another one in a chain.
      State: six numbers, `slots.scale` first.

    Raises:
      ValueError: if a concrete number is out of range, or `rtol` and `atol` are both 0.
      TypeError: if `update` is called without `value`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.sgd(1.0), gdjax.reduce_on_plateau(0.5, patience=2))
      >>> state = opt.init(jnp.ones(1))
      >>> for loss in (3.0, 2.0, 2.0, 2.0, 1.0):
      ...     updates, state = opt.update(jnp.ones(1), state, value=loss)
      ...     print(updates)
      [-1.]
      [-1.]
      [-1.]
      [-0.5]
      [-0.5]
    """
    if _is_zero(rtol) and _is_zero(atol):
        raise ValueError("reduce_on_plateau(rtol=..., atol=...): at least one must be positive.")
    numbers = dict(
        factor=factor,
        patience=patience,
        rtol=rtol,
        atol=atol,
        cooldown=cooldown,
        accumulation_size=accumulation_size,
        min_scale=min_scale,
    )
    return treewise(_reduce_on_plateau, _fresh, numbers)


def _is_zero(x: Scalar) -> bool:
    return isinstance(x, (int, float)) and x == 0
