"""Scaled gradients, normal distributions, and small checks of arrays that public code imports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import gdjax
from gdjax.core.keys import fresh_key
from gdjax.core.numerics import scalar_dtype
from gdjax.distributions import MultiNormal
from gdjax.transforms.scale import scale_gradient as scale_gradient


class MultiNormalDiagFromLogScale(MultiNormal):
    """A normal distribution with independent elements, by mean and log standard deviation."""

    __slots__ = ()

    @property
    def _param_shape(self) -> tuple[int, ...]:
        return jnp.broadcast_shapes(self.loc.shape, self.log_scale.shape)


def multi_normal(loc: ArrayLike, log_scale: ArrayLike) -> MultiNormalDiagFromLogScale:
    """Return a normal distribution with independent elements; see `gdjax.multi_normal`.

    Raises:
      ValueError: if the shapes do not broadcast.
    """
    normal = MultiNormalDiagFromLogScale(*gdjax.multi_normal(loc, log_scale))
    _ = normal._param_shape
    return normal


def tile_second_to_last_dim(a: ArrayLike) -> Array:
    """Return an array [..., n, n] whose columns are all `a`, [..., n]."""
    a = jnp.asarray(a)
    return jnp.broadcast_to(a[..., None], (*a.shape, a.shape[-1]))


def canonicalize_dtype(dtype: Any) -> Any:
    """Return the dtype that JAX uses for this one, without x64 that of 32 bits; None for None."""
    return None if dtype is None else jax.dtypes.canonicalize_dtype(dtype)


def canonicalize_key(key_or_seed: Any) -> Array:
    """Return a key of `jax.random` for a seed, and a key as it is."""
    return fresh_key(key_or_seed)


def check_subdtype(array: ArrayLike, subdtype: Any) -> None:
    """Raise TypeError unless the dtype of an array is one of a kind, such as `jnp.floating`."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, subdtype):
        raise TypeError(f"The dtype must be one of {subdtype}, got {dtype}.")


def check_shapes_equal(a: ArrayLike, b: ArrayLike) -> None:
    """Raise ValueError unless two arrays have the same shape."""
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(f"The shapes must be equal, got {jnp.shape(a)} and {jnp.shape(b)}.")


def check_rank(array: ArrayLike, rank: int) -> None:
    """Raise ValueError unless an array has so many axes."""
    if jnp.ndim(array) != rank:
        raise ValueError(f"The array must have {rank} axes, got {jnp.ndim(array)}.")


def set_diags(a: Array, new_diags: ArrayLike) -> Array:
    """Return square matrices with other diagonals.

    Args:
      a: an array [n, d, d].
      new_diags: an array [n, d].

    Raises:
      ValueError: if the shapes are others.
    """
    new_diags = jnp.asarray(new_diags)
    if a.ndim != 3:
        raise ValueError(f"Expected `a` to be a 3D tensor, got shape {a.shape}.")
    if new_diags.ndim != 2:
        raise ValueError(f"Expected `new_diags` to be a 2D array, got shape {new_diags.shape}.")
    n, d, _ = a.shape
    if a.shape != (n, d, d):
        raise ValueError(f"Shape mismatch: expected `a.shape` to be {(n, d, d)}, got {a.shape}.")
    if new_diags.shape != (n, d):
        raise ValueError(
            f"Shape mismatch: expected `new_diags.shape` to be {(n, d)}, got {new_diags.shape}."
        )
    on_diagonal = jnp.eye(d, dtype=bool)
    return jnp.where(on_diagonal, new_diags[:, None].astype(a.dtype), a)


@contextlib.contextmanager
def x64_precision(enable_x64_precision: bool = True) -> Iterator[None]:
    """Turn double precision on or off in a `with` block."""
    before = scalar_dtype() == jnp.float64
    jax.config.update("jax_enable_x64", enable_x64_precision)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
