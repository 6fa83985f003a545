"""Slow copies of parameters, such as target networks, that are updated by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import short
from gdjax.core.checks import strict
from gdjax.core.every import either
from gdjax.core.hyper import path_name
from gdjax.core.kinds import is_array, shown
from gdjax.core.numerics import compute_dtype, is_inexact
from gdjax.core.types import Number, Params


@strict()
def incremental_update(new_tensors: Params, old_tensors: Params, step_size: Number) -> Params:
    """Move a slow copy towards new values.

    The result is step_size * new + (1 - step_size) * old, an exponential average with decay
    1 - step_size. The wrapper `average` keeps such an average in the state of an optimizer.

    Args:
      new_tensors: a tree of arrays; the result is None where it is None.
      old_tensors: the slow copy, a tree of the same structure.
      step_size: weight of the new values, in [0, 1]: one number, which may be traced.

    Returns:
      A tree like `old_tensors` and in its dtypes, computed in at least float32. What has no mean,
      such as integers, booleans and random keys, is that of `new_tensors`. Keep the slow copy
      of bfloat16 parameters in float32, since small steps would be rounded away.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.incremental_update(jnp.array([1.0]), jnp.array([0.0]), 0.1))
      [0.1]
    """

    def mix(new, old):
        if not is_inexact(jnp.result_type(old)):
            return new
        new, old = jnp.asarray(new), jnp.asarray(old)
        dtype = compute_dtype(new, old)
        share = jnp.asarray(step_size, jnp.finfo(dtype).dtype)
        mixed = share * new.astype(dtype) + (1 - share) * old.astype(dtype)
        return mixed.astype(old.dtype)

    return _map_like("incremental_update", mix, new_tensors, old_tensors)


def _map_like(
    call: str, function: Callable[[Any, Any], Any], new_tensors: Params, old_tensors: Params
) -> Params:
    """Return `function` of each pair of leaves, after checking that they are alike."""
    new, treedef = jax.tree_util.tree_flatten_with_path(new_tensors, is_leaf=lambda x: x is None)
    try:
        old = treedef.flatten_up_to(old_tensors)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{call}(new_tensors=..., old_tensors=...) must have the same tree structure. {error}"
        ) from None
    for (path, x), y in zip(new, old, strict=True):
        if x is None:
            continue
        for name, leaf in (("new_tensors", x), ("old_tensors", y)):
            if not hasattr(leaf, "dtype") and not is_array(leaf):
                raise TypeError(
                    f"{call}(new_tensors=..., old_tensors=...) must be trees of arrays of the same "
                    f"structure, got {shown(leaf)} in {name} at {path_name(path)!r}."
                )
        kinds = [jnp.issubdtype(jnp.result_type(z), jax.dtypes.extended) for z in (x, y)]
        if jnp.shape(x) != jnp.shape(y) or kinds[0] != kinds[1]:
            raise ValueError(
                f"{call}(new_tensors=..., old_tensors=...) must agree in shape, got "
                f"{short(x)} and {short(y)} at {path_name(path)!r}."
            )
    pairs = zip((x for _, x in new), old, strict=True)
    return treedef.unflatten([None if x is None else function(x, y) for x, y in pairs])


@strict()
def periodic_update(
    new_tensors: Params, old_tensors: Params, steps: Number, update_period: Number
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
    new = _map_like("periodic_update", _cast_like, new_tensors, old_tensors)
    return either(due, lambda: new, lambda: _map_like("periodic_update", _second, new, old_tensors))


def _cast_like(new: Array, old: Array) -> Array:
    new, old = (x if hasattr(x, "dtype") else jnp.asarray(x) for x in (new, old))
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _second(new: Array, old: Array) -> Array:
    return old if hasattr(old, "dtype") else jnp.asarray(old)
