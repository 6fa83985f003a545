"""Norms that can be differentiated where they are zero."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.numerics import cast, compute_dtype, root_mean_sq
from gdjax.core.types import Number


@strict()
def safe_norm(
    x: ArrayLike,
    min_norm: Number,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Array:
    """Return the larger of a norm and `min_norm`, with derivative 0 where the norm is below it.

    Args:
      x: an array; norms are taken in at least float32.
      min_norm: the least value >= 0.
      ord: as in `jnp.linalg.norm`. With `axis=None` too, None is the 2-norm of all elements.
      axis: an axis, or two for norms of matrices.
      keepdims: whether the axes stay, with length 1.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> print(gdjax.safe_norm(jnp.array([3.0, 4.0]), 1.0))
      5.0
      >>> print(jax.grad(lambda x: gdjax.safe_norm(x, 0.0))(jnp.zeros(2)))
      [0. 0.]
    """
    if isinstance(ord, str) and ord not in ("fro", "nuc") or np.ndim(ord or 0):
        raise ValueError(f"safe_norm(ord=...) must be a number, 'fro', 'nuc' or None, got {ord!r}.")
    ord = None if ord is None else ord if isinstance(ord, str) else float(ord)
    axis = tuple(axis) if isinstance(axis, (list, range)) else axis
    x = jnp.asarray(x)
    x = cast(x, compute_dtype(x))
    norm = jnp.linalg.norm(x, ord, axis, keepdims=True)
    small = norm <= min_norm
    safe = jnp.linalg.norm(jnp.where(small, 1, x), ord, axis, keepdims=keepdims)
    return jnp.where(small.reshape(safe.shape), min_norm, safe)


@strict()
def safe_root_mean_squares(x: ArrayLike, min_rms: Number) -> Array:
    """Return the larger of the root-mean-square and `min_rms`, with derivative 0 below it.

    Args:
      x: an array, real or complex; sums are taken in at least float32.
      min_rms: the least value >= 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.safe_root_mean_squares(jnp.array([1.0, 7.0]), 0.0))
      5.0
    """
    x = jnp.asarray(x)
    rms = root_mean_sq(cast(x, compute_dtype(x)))
    return jnp.where(rms <= min_rms, min_rms, rms)
