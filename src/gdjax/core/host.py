"""Arrays in the memory of the host, beside that of the device that they belong to.

JAX's memory spaces are part of the type of an array, so that a program says what it copies, and XLA
when. An old JAX, without `jax.memory`, has them by placement only: there the CPU, whose memory is
that of the host, is served, and nothing is copied.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

_SPACES: Any = getattr(getattr(jax, "memory", None), "Space", None)
KIND = "pinned_host"  # memory that devices read without the help of a processor


def to_host(x: Any) -> Any:
    """Return an array in the memory of the host, sharded as it is; shapes return as such."""
    if isinstance(x, jax.ShapeDtypeStruct):
        sharding = x.sharding
        if sharding is not None and _SPACES is not None:
            sharding = sharding.with_memory_kind(KIND)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return x if _SPACES is None else jax.device_put(x, _SPACES.Host)


def to_device(x: Array) -> Array:
    """Return an array in the memory of its device."""
    return x if _SPACES is None else jax.device_put(x, _SPACES.Device)


def to_memory_of(like: Any, x: Array) -> Array:
    """Return an array on the host if `like` is there, else as it is."""
    return to_host(x) if is_on_host(like) else x


def is_on_host(x: Any) -> bool:
    """Return whether an array, tracer or type is in the memory of the host."""
    if _SPACES is None:
        return False
    aval = jax.typeof(x) if isinstance(x, Array) else x
    return getattr(aval, "memory_space", None) == _SPACES.Host


def memory_kind(aval: Any) -> str | None:
    """Return the kind of memory of a type that is kept on the host; None for the device's own."""
    return KIND if is_on_host(aval) else None


def check_host_memory(what: str) -> None:
    """Raise where arrays cannot be kept on the host."""
    if _SPACES is None and jax.default_backend() != "cpu":
        raise RuntimeError(
            f"{what} needs jax.memory, which JAX {jax.__version__} does not have: update JAX, for "
            "example to 0.10."
        )
