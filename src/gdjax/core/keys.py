"""Random keys, as they are kept in states."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.types import Key


def fresh_key(seed: Key) -> Array:
    """Return a typed key that shares no buffer with the user's own, so that it can be donated.

    Args:
      seed: an int, also a traced one; a `jax.random.key`; or an old-style `jax.random.PRNGKey`.

    Example:
      >>> import jax
      >>> keys = fresh_key(0), fresh_key(jax.random.key(0)), fresh_key(jax.random.PRNGKey(0))
      >>> len({int(jax.random.bits(key)) for key in keys})
      1
    """
    dtype = getattr(seed, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        data = jnp.array(jax.random.key_data(seed), copy=True)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(seed))
    if dtype == jnp.uint32 and jnp.ndim(seed) == 1:
        return jax.random.wrap_key_data(jnp.array(seed, copy=True))
    if jnp.ndim(seed):
        raise TypeError(f"expected an int or a jax.random.key, got shape {jnp.shape(seed)}.")
    return jax.random.key(seed)


def is_key(x: Array) -> bool:
    """Return whether an array of a state holds keys, typed ones or old-style ones (uint32).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> [is_key(x) for x in (jax.random.key(0), jax.random.PRNGKey(0), jnp.zeros(2))]
      [True, True, False]
    """
    dtype, shape = getattr(x, "dtype", None), jnp.shape(x)
    if dtype == jnp.uint32:
        return bool(shape) and shape[-1] in (2, 4)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
