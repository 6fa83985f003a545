"""Numerics that are right at zero, in low precision and for complex leaves."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else jax.lax.mul(x, x)


@jax.custom_jvp  # selects around the root made a step of Adam compile 10 % longer
def safe_sqrt(x: Array) -> Array:
    """Return the square root of x >= 0 with derivative 0, not infinity, at 0."""
    return jnp.sqrt(x)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    root, positive = safe_sqrt(x), x > 0
    return root, tangent * jnp.where(positive, 0.5 / jnp.where(positive, root, 1), 0)


@jax.custom_jvp
def with_value(x: Array, value: Array) -> Array:
    """Return `value` with the derivatives of x: for limits and bounds that rounding passes.

    Example:
      >>> def rounded(x):
      ...     return with_value(x, jnp.round(x))
      >>> print(rounded(1.4), jax.grad(rounded)(1.4))
      1.0 1.0
    """
    del x
    return value


@with_value.defjvp
def _with_value_jvp(primals, tangents):
    return with_value(*primals), tangents[0]


def bounded(x: Array) -> Array:
    """Return x with the largest finite number in place of infinity, with the derivative 1."""
    most = jnp.finfo(x.dtype).max
    return with_value(x, jnp.clip(x, -most, most))


def product(x: Array, y: Array) -> Array:
    """Return x * y with 0 * inf = 0, in the value and in the derivatives.

    Example:
      >>> print(product(jnp.zeros(()), jnp.array(jnp.inf)), product(jnp.array(-jnp.inf), 2.0))
      0.0 -inf
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    finite = bounded(x) * bounded(y)
    return with_value(finite, jnp.where(finite == 0, finite, x * y))


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


@jax.custom_jvp  # as for `safe_sqrt`
def safe_divide(x: Array, by: Array) -> Array:
    """Return x / by elementwise, and 0, with derivative 0, where `by` is 0.

    A step divided by sqrt(nu) + eps is then finite for eps = 0 as well: where all gradients so far
    were 0, the step is 0.
    """
    return jnp.where(by == 0, 0, x / by)


@safe_divide.defjvp
def _safe_divide_jvp(primals, tangents):
    (x, by), (dx, dby) = primals, tangents
    out, zero = safe_divide(x, by), by == 0
    return out, (dx - out * dby) * jnp.where(zero, 0, 1 / jnp.where(zero, 1, by))


def bias_correction(decay: Array, count: Array) -> Array:
    """Return 1 - decay**count, the weight of the samples in a running mean that starts at zero.

    It is computed from 1 - decay, so that it has all its digits for a decay near 1 and a count of
    any size; 0 for count = 0.
    """
    return _lost_once(jnp.asarray(1 - decay), count)


@jax.custom_jvp
def _lost(weight, count):
    return -jnp.expm1(count.astype(weight.dtype) * _log_kept(weight))


@_lost.defjvp
def _lost_jvp(primals, tangents):
    (weight, count), (tangent, _) = primals, tangents
    n = count.astype(weight.dtype)  # the derivative by the count is never asked for
    slope = n * jnp.exp(jnp.maximum(n - 1, 0) * _log_kept(weight))
    return _lost(weight, count), slope * tangent


_lost_once = jax.jit(_lost)  # numbers, the same for leaves of all shapes: traced once


def _log_kept(weight):
    return jnp.maximum(jnp.log1p(-weight), -1e4)  # finite for a decay of 0


@jax.tree_util.register_pytree_node_class
class Decay:
    """A decay in a rule: an array that knows what rounding took from it.

    In float32, 0.9999999 is stored as 0.99999988, and 1 minus that is 19 % too large. So a decay
    comes with its rounding error, and `1 - decay` has all its digits. In everything else it is the
    array: operators and functions of `jax.numpy` take it as such.

    Args:
      value: the decay as it is stored, which derivatives go by.
      rounding: the exact decay minus `value`.

    Example:
      >>> b = Decay(jnp.float32(0.9999999), jnp.float32(0.9999999 - float(np.float32(0.9999999))))
      >>> print(1 - jnp.float32(0.9999999), 1 - b, 10 * b)
      1.1920929e-07 1e-07 9.999999
    """

    def __init__(self, value: Array, rounding: Array):
        self.value, self.rounding = value, rounding

    @classmethod
    def of(cls, lost: Array) -> Decay:
        """Return the decay 1 - lost."""
        value = 1 - lost
        return cls(value, (1 - value) - lost)

    def tree_flatten(self):
        """Return both arrays as children."""
        return (self.value, self.rounding), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """Rebuild from both arrays."""
        return cls(*children)

    def __rsub__(self, other: Any) -> Array:
        """Return `other - decay`; for 1 the first difference is exact from 1/2 on (Sterbenz)."""
        return (other - self.value) - self.rounding

    def astype(self, dtype: DTypeLike) -> Decay:
        """Return the decay in another dtype; what that rounds off is kept as well."""
        if jnp.dtype(dtype) == self.value.dtype:
            return self
        value = cast(self.value, dtype)
        lost = self.value - value.astype(self.value.dtype)
        return Decay(value, cast(lost + self.rounding, dtype))

    def __jax_array__(self) -> Array:
        """Return the decay as it is stored."""
        return self.value

    def __getattr__(self, name: str) -> Any:
        """Return what the array has of that name: its shape, its dtype, ..."""
        if name.startswith("__") or name in ("value", "rounding"):
            raise AttributeError(name)
        return getattr(self.value, name)


def _as_the_array(name: str) -> Callable[..., Any]:
    method = getattr(operator, name)

    def forward(self: Decay, other: Any) -> Any:
        return method(self.value, other)

    return forward


def _from_the_right(name: str) -> Callable[..., Any]:
    method = getattr(operator, name)

    def backward(self: Decay, other: Any) -> Any:
        return method(other, self.value)

    return backward


for _name in ("add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Decay, f"__{_name}__", _as_the_array(_name))
for _name in ("add", "mul", "truediv", "pow"):
    setattr(Decay, f"__r{_name}__", _from_the_right(_name))


def safe_increment(count: Array) -> Array:
    """Return count + 1, or count where that would overflow its integer type."""
    if not (hasattr(count, "dtype") and jnp.issubdtype(count.dtype, jnp.integer)):
        raise TypeError(f"safe_increment(count=...) must be an integer array, got {count!r}.")
    return jnp.where(count < jnp.iinfo(count.dtype).max, count + 1, count)
