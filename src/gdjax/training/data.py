"""What comes in: arrays that are checked once, or a stream of batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.checks import leaf_name


def is_stream(data: Any) -> bool:
    """Return whether `data` is an iterable of batches, not a tree of arrays."""
    return jax.tree_util.all_leaves([data]) and isinstance(data, Iterable) and not is_array(data)


def is_array(x: Any) -> bool:
    """Return whether `x` is an array of JAX or NumPy."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def check_arrays(caller: str, data: Any, batch_size: int | None) -> tuple[Any, int]:
    """Return the data on the device and the number of examples, after checking them."""
    leaves, treedef = jax.tree.flatten(data)
    if not leaves:
        raise ValueError(f"{caller}(data=...) has no arrays in it, got {data!r}.")
    for i, x in enumerate(leaves):
        if not is_array(x) or not np.shape(x):
            raise TypeError(
                f"{caller}(data=...) must be a tree of arrays with the examples along axis 0, or "
                f"an iterable of batches; got {type(x).__name__} of shape {np.shape(x)} at "
                f"{leaf_name(data, i)!r}."
            )
    sizes = {leaf_name(data, i): len(x) for i, x in enumerate(leaves)}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"{caller}(data=...): all arrays must have the same number of examples along axis 0, "
            f"got {sizes}."
        )
    count = len(leaves[0])
    if count == 0:
        raise ValueError(f"{caller}(data=...) has no examples: every axis 0 has length 0.")
    if batch_size is not None and not 1 <= batch_size <= count:
        raise ValueError(
            f"{caller}(batch_size=...) must be in [1, {count}], the number of examples, got "
            f"{batch_size}. None takes all of them in every step."
        )
    arrays = jax.device_put(leaves)  # `jnp.asarray` would be a program to compile for each shape
    for i, x in enumerate(arrays):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            continue
        bad = ~np.isfinite(np.asarray(x))  # on the host: no program to compile
        if bad.any():
            first = tuple(int(k) for k in np.argwhere(bad)[0])
            raise ValueError(
                f"{caller}(data=...) must be finite, got {x[first]} at index {first} of "
                f"{leaf_name(data, i)!r}. Drop or fill such examples first."
            )
    return treedef.unflatten(arrays), count


def key_or_seed(key: Any) -> Any:
    """Return a PRNG key as it is, an integer (None: 0) as a number for a program to call `as_key`.

    Making a key of a number is a program of its own, at 20 ms to compile.
    """
    if key is None or isinstance(key, (int, np.integer)) and 0 <= key < 2**31:
        return np.int32(key or 0)
    return as_key(key)


def as_key(key: Any) -> Any:
    """Return a PRNG key from a key or an integer seed."""
    dtype = getattr(key, "dtype", None)
    is_seed = dtype is None or jnp.issubdtype(dtype, jnp.integer) and np.ndim(key) == 0
    return jax.random.key(key) if is_seed else key


def count_steps(
    caller: str, steps: int | None, epochs: int | None, examples: int, batch_size: int | None
) -> int:
    """Return the number of steps from exactly one of `steps` and `epochs`."""
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"{caller} needs exactly one of steps=... and epochs=..., got {steps} and {epochs}."
        )
    name, number = ("steps", steps) if epochs is None else ("epochs", epochs)
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{caller}({name}=...) must be an integer >= 1, got {number!r}.")
    return int(number) * (1 if epochs is None else examples // (batch_size or examples))
