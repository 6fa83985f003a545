"""Accumulate updates and apply their sum every k steps."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import WHOLE, checked
from gdjax.core.every import as_interval
from gdjax.core.lift import leafwise
from gdjax.core.numerics import compute_dtype
from gdjax.core.types import Hyperparam


class UpdateSum(NamedTuple):
    """What is remembered of one parameter."""

    grad_acc: Array  # sum of the updates since the last sum was returned, shaped like the parameter
    held: Array  # how many those are, int32

    def stepped(self) -> Array | None:
        """Return whether the last call returned the sum of any parameter."""
        held = [x == 0 for x in jax.tree.leaves(self.held)]
        return functools.reduce(jnp.logical_or, held) if held else None


def _apply_every(grad, slots, param, count, *, k):
    total = jnp.where(slots.held > 0, slots.grad_acc, 0) + grad
    due = slots.held + 1 >= as_interval(k, count)
    return jnp.where(due, total, 0), UpdateSum(total, jnp.where(due, 0, slots.held + 1))


def _fresh(param: Array) -> UpdateSum:
    zeros = jnp.zeros_like(param, dtype=compute_dtype(param))
    return UpdateSum(zeros, jnp.zeros((), jnp.int32))


@checked(k=WHOLE)
def apply_every(k: Hyperparam = 1) -> Optimizer:
    """Sum up updates and return the sum every k steps, zeros in between.

    In a chain, the members before it run in every step. To take one step for k gradients, as for a
    batch k times as large, use `accumulate`.

    Args:
      k: number of updates >= 1 in a sum: a number, schedule or prefix tree; a leaf of the state
        like any number, so that it can be changed, or differ between lanes of a sweep, without
        recompilation. If it falls below the number of updates that are held, the next call returns
        their sum.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element.

    Raises:
      ValueError: if `k` is not a whole number >= 1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.sgd(0.1), gdjax.apply_every(2))
      >>> state = opt.init(jnp.zeros(1))
      >>> for grad in (1.0, 2.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates)
      [0.]
      [-0.3]
    """
    return leafwise(_apply_every, _fresh, dict(k=k))
