"""Numerics that are right at zero, in low precision and for complex leaves."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.types import PyTree, T

if TYPE_CHECKING:
    from jax.typing import DTypeLike


def compute_dtype(*arrays: PyTree) -> np.dtype:
    """Return the dtype to calculate in: the arrays' common dtype, at least float32."""
    dtype = np.dtype("float32")
    for a in arrays:
        dtype = _promote(dtype, a.dtype)
    return dtype


_promote = functools.cache(jnp.promote_types)


@functools.cache
def is_inexact(dtype: DTypeLike) -> bool:
    """Return whether `dtype` is a float or complex one."""
    return jnp.issubdtype(dtype, jnp.inexact)


def real_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the dtype of |x| for x of `dtype`."""
    return jnp.finfo(dtype).dtype


def scalar_dtype() -> np.dtype:
    """Return the dtype in which hyperparameters are kept: float32, or float64 when x64 is on."""
    return jnp.promote_types(jnp.result_type(float), jnp.float32)


def upcast(tree: T) -> T:
    """Cast every float or complex leaf to at least float32; leave the others."""
    return jax.tree.map(lambda x: cast(x, compute_dtype(x)) if is_inexact(x.dtype) else x, tree)


def cast(x: Array, dtype: DTypeLike) -> Array:
    """Cast, at no cost where there is nothing to cast."""
    return x if x.dtype == dtype else x.astype(dtype)


def cast_like(tree: T, like: PyTree) -> T:
    """Cast every leaf to the dtype of its counterpart in `like`."""
    return jax.tree.map(lambda x, y: cast(jnp.asarray(x), y.dtype), tree, like)


def rounded(x: Array, dtype: DTypeLike) -> Array:
    """Return x rounded to `dtype`, to nearest even, in its own wider real dtype.

    Two casts are not enough: XLA may leave out both, since it is allowed excess precision.

    Example:
      >>> print(rounded(jnp.array([1.001, 9.99]), jnp.bfloat16))
      [ 1. 10.]
    """
    to, own = jnp.finfo(dtype), jnp.finfo(x.dtype)
    normal = jax.lax.reduce_precision(x, to.nexp, to.nmant)
    if to.nexp == own.nexp:
        return normal
    unit = float(to.smallest_subnormal)  # `reduce_precision` turns subnormal numbers into 0
    return jnp.where(jnp.abs(x) < float(to.tiny), jnp.round(x / unit) * unit, normal)


def abs_sq(x: Array) -> Array:
    """Return |x|**2, elementwise and real."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


@jax.custom_jvp  # selects around the root made a step of Adam compile 10 % longer
def safe_sqrt(x: Array) -> Array:
    """Return the square root of x >= 0 with derivative 0, not infinity, at 0."""
    return jnp.sqrt(x)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    root, positive = safe_sqrt(x), x > 0
    return root, tangent * jnp.where(positive, 0.5 / jnp.where(positive, root, 1), 0)


def root_mean_sq(x: Array) -> Array:
    """Return sqrt(mean(|x|**2)), real; 0 for an array without elements, with derivative 0 at 0."""
    return safe_sqrt(jnp.sum(abs_sq(x)) / max(x.size, 1))


def power_of_two(size: Array) -> Array:
    """Return the largest power of 2 that is at most `size`, 1 of 0, infinity and NaN; no gradient.

    To divide by it and to multiply by it later rounds nothing.

    Example:
      >>> print(power_of_two(jnp.array([3.0, 0.2, 0.0])))
      [2.    0.125 1.   ]
    """
    size = jax.lax.stop_gradient(size)
    usable = (size > 0) & jnp.isfinite(size)
    exponent = jnp.frexp(jnp.where(usable, size, 1))[1] - 1
    return jnp.ldexp(jnp.ones_like(size), exponent)


def mean_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Return the mean over the axes that `shape` keeps as 1 and x has longer; 0 of no elements."""
    axes = tuple(i for i, (n, kept) in enumerate(zip(x.shape, shape, strict=True)) if n != kept)
    size = max(math.prod(x.shape[i] for i in axes), 1)
    return jnp.sum(x, axes, keepdims=True) / size if axes else x


def clip_parts(x: Array, bound: Array) -> Array:
    """Clip every element to [-bound, bound]; real and imaginary parts one by one."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(jnp.clip(x.real, -bound, bound), jnp.clip(x.imag, -bound, bound))
    return jnp.clip(x, -bound, bound)


def bias_correction(decay: Array, count: Array) -> Array:
    """Return 1 - decay**count, the weight of the samples in a running mean that starts at zero."""
    return 1 - decay**count


def safe_increment(count: Array) -> Array:
    """Return count + 1, or count where that would overflow its integer type."""
    return jnp.where(count < jnp.iinfo(count.dtype).max, count + 1, count)
