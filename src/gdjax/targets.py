"""Slow copies of parameters, such as target networks, that are updated by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core.every import either
from gdjax.core.numerics import compute_dtype
from gdjax.core.types import Params


def incremental_update(new_tensors: Params, old_tensors: Params, step_size: ArrayLike) -> Params:
    """Move a slow copy towards new values.

    The result is step_size * new + (1 - step_size) * old, an exponential average with decay
    1 - step_size. The wrapper `average` keeps such an average in the state of an optimizer.

    Args:
      new_tensors: a tree of arrays; the result is None where it is None.
      old_tensors: the slow copy, a tree of the same structure.
      step_size: weight of the new values, in [0, 1]: one number, which may be traced.

    Returns:
      A tree like `old_tensors` and in its dtypes, computed in at least float32. Keep the slow copy
      of bfloat16 parameters in float32, since small steps would be rounded away.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.incremental_update(jnp.array([1.0]), jnp.array([0.0]), 0.1))
      [0.1]
    """

    def mix(new, old):
        if new is None:
            return None
        new, old = jnp.asarray(new), jnp.asarray(old)
        dtype = compute_dtype(new, old)
        share = jnp.asarray(step_size, jnp.finfo(dtype).dtype)
        mixed = share * new.astype(dtype) + (1 - share) * old.astype(dtype)
        return mixed.astype(old.dtype if jnp.issubdtype(old.dtype, jnp.inexact) else dtype)

    return jax.tree.map(mix, new_tensors, old_tensors, is_leaf=lambda x: x is None)


def periodic_update(
    new_tensors: Params, old_tensors: Params, steps: ArrayLike, update_period: ArrayLike
) -> Params:
    """Return the new values every `update_period` steps, and the slow copy otherwise.

    Args:
      new_tensors: a tree of arrays.
      old_tensors: the slow copy, a tree of the same structure, shapes and dtypes.
      steps: number of steps done; the copy is replaced at multiples of the period, including 0.
      update_period: an integer >= 1, which may be traced.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> copy = jnp.array([0.0])
      >>> [float(gdjax.periodic_update(jnp.array([1.0]), copy, t, 3)[0]) for t in (2, 3)]
      [0.0, 1.0]
    """
    due = jnp.mod(jnp.asarray(steps), update_period) == 0
    return either(due, lambda: new_tensors, lambda: old_tensors)
