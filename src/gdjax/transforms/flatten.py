"""Show an optimizer all parameters as one long vector."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.lift import treewise
from gdjax.core.numerics import scalar_dtype, upcast


def _joined(tree: Any) -> Any:
    """Return the leaves end to end, at least float32; a dict of vectors if their dtypes differ."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(upcast(tree))]
    dtypes = sorted({str(x.dtype) for x in leaves})
    vectors = {
        d: jnp.concatenate([x.reshape(-1) for x in leaves if str(x.dtype) == d]) for d in dtypes
    }
    if len(vectors) > 1:
        return vectors
    return vectors[dtypes[0]] if vectors else jnp.zeros(0, scalar_dtype())


def _split(flat: Any, like: Any) -> Any:
    leaves, treedef = jax.tree.flatten(like)
    out, done = [], {}
    for x in leaves:
        vector = flat[str(x.dtype)] if isinstance(flat, dict) else flat
        start = done.get(str(x.dtype), 0)
        done[str(x.dtype)] = stop = start + math.prod(x.shape)
        out.append(vector[start:stop].reshape(x.shape))
    return treedef.unflatten(out)


def _flatten(grads, slots, params, count, *, inner, **extra):
    flat = None if params is None else _joined(params)
    updates, slots = inner(_joined(grads), slots, flat, **extra)
    return _split(updates, grads), slots


def _fresh(init, params):
    return init(_joined(params))


def flatten(inner: Any) -> Optimizer:
    """Run an optimizer on one vector that holds all parameters end to end.

    It then takes norms and trust ratios over all parameters together, and traces once. gdjax
    processes like leaves in blocks, so many small leaves are no reason for it by themselves; and
    the vector costs a copy of the gradients.

    Args:
      inner: the `(init, update)` pair. It sees a vector of at least float32, or a dict of one for
        each dtype if parameters are real and complex, or float32 and float64.

    Returns:
      An `Optimizer`. State: that of `inner`, shaped like the vector.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.flatten(gdjax.clip_by_block_rms(1.0))
      >>> grads = {"a": jnp.array([3.0, 3.0]), "b": jnp.zeros((2, 1))}
      >>> updates, state = opt.update(grads, opt.init(grads))
      >>> print(updates["a"])  # the rms of [3, 3, 0, 0] is 2.1213
      [1.4142 1.4142]
    """
    inner = with_extra_args_support(inner)
    return treewise(_flatten, functools.partial(_fresh, inner.init), inner=inner.update)
