"""Slow copies of parameters: target networks and averages that one updates by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.every import either
from gdjax.core.numerics import compute_dtype


def incremental_update(new_tensors: Any, old_tensors: Any, step_size: Any) -> Any:
    """Move a slow copy a part of the way to new values.

    step_size * new + (1 - step_size) * old, which is an exponential average with decay
    1 - step_size. `average` keeps one within an optimizer.

    Args:
      new_tensors: a tree of arrays; where it has None, the result has None.
      old_tensors: the slow copy, a tree of the same structure.
      step_size: share of the new values, in [0, 1]: one number, also a traced one.

    Returns:
      A tree like `old_tensors`, in its dtypes, but calculated in at least float32: a bfloat16 copy
      should be kept in float32, since small steps round away.

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


def periodic_update(new_tensors: Any, old_tensors: Any, steps: Any, update_period: Any) -> Any:
    """Return the new values every so many steps, else the slow copy.

    Args:
      new_tensors: a tree of arrays.
      old_tensors: the slow copy, a tree of the same structure, shapes and dtypes.
      steps: number of steps done; the copy is renewed at multiples of the period, also at 0.
      update_period: a whole number >= 1, also a traced one.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> copy = jnp.array([0.0])
      >>> [float(gdjax.periodic_update(jnp.array([1.0]), copy, t, 3)[0]) for t in (2, 3)]
      [0.0, 1.0]
    """
    due = jnp.mod(jnp.asarray(steps), update_period) == 0
    return either(due, lambda: new_tensors, lambda: old_tensors)
