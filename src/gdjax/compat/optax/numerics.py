"""Counters that do not overflow, and norms that can be differentiated at 0."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core import numerics
from gdjax.linalg.norms import safe_norm as safe_norm
from gdjax.linalg.norms import safe_root_mean_squares as safe_root_mean_squares


def safe_increment(count: ArrayLike) -> Array:
    """Return count + 1, but not more than the largest number of its dtype.

    Raises:
      ValueError: if the count is neither an integer nor a float.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> print(optax.safe_increment(jnp.array(3)), optax.safe_increment(jnp.array(255, jnp.uint8)))
      4 255
    """
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.integer):
        most = jnp.iinfo(count.dtype).max
    elif jnp.issubdtype(count.dtype, jnp.floating):
        most = jnp.finfo(count.dtype).max
    else:
        raise ValueError(
            f"safe_increment(count=...) must be an integer or a float, got dtype {count.dtype}."
        )
    largest = np.asarray(most, count.dtype)
    return jnp.where(count < largest, count + np.ones((), count.dtype), largest)


safe_int32_increment = safe_increment


def abs_sq(x: Any) -> Array:
    """Return |x|**2 of an array, which is real.

    Raises:
      ValueError: if x is no array.
    """
    if not isinstance(x, (np.ndarray, Array)):
        raise ValueError(f"abs_sq(x=...) must be an array, got {type(x).__name__}.")
    return numerics.abs_sq(jnp.asarray(x))
