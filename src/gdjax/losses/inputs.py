"""Convert and check the arguments of losses, and bring them to a common dtype."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.numerics import compute_dtype, with_value

Axis = int | tuple[int, ...] | None


def as_array(what: str, x: ArrayLike) -> Array:
    """Return `x` as an array, or raise an error that names it."""
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be an array, got {type(x).__name__}.") from error


def read(
    call: str, floats: Mapping[str, ArrayLike], reals: Mapping[str, ArrayLike] | None = None
) -> list[Array]:
    """Return the arguments as arrays of one common dtype, at least float32.

    Args:
      call: name of the public function, for the messages.
      floats: arguments that must be float.
      reals: arguments that may also be integer or boolean, which do not affect the common dtype.

    Example:
      >>> predictions, targets = read(
      ...     "loss", {"predictions": jnp.ones(2, jnp.bfloat16)}, {"targets": jnp.arange(2)})
      >>> print(predictions.dtype, targets.dtype)
      float32 float32
    """
    arrays = {k: as_array(f"{call}({k}=...)", x) for k, x in {**floats, **(reals or {})}.items()}
    for name, x in arrays.items():
        if name in floats and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{call}({name}=...) must be float, got dtype {x.dtype}. Cast it with "
                "`.astype(jnp.float32)` if its values are correct."
            )
        if jnp.issubdtype(x.dtype, jnp.complexfloating) or not (
            jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool
        ):
            raise TypeError(f"{call}({name}=...) must be real, got dtype {x.dtype}.")
    floating = [x for x in arrays.values() if jnp.issubdtype(x.dtype, jnp.floating)]
    dtype = compute_dtype(*floating)
    return [x.astype(dtype) for x in arrays.values()]


def number(x: ArrayLike, like: Array) -> Array:
    """Return a number in the dtype of `like`, so that a float64 number does not promote it."""
    return jnp.asarray(x, like.dtype)


def check_same_shape(call: str, **arrays: Array) -> None:
    """Raise unless all arrays have one shape."""
    if len({x.shape for x in arrays.values()}) > 1:
        shapes = ", ".join(f"{k} {list(x.shape)}" for k, x in arrays.items())
        raise ValueError(f"{call} needs equal shapes, got {shapes}.")


def broadcast(call: str, **arrays: Array) -> list[Array]:
    """Broadcast two arrays, but not two ranks to a shape that neither of them has.

    Predictions of shape [n, 1] and targets of shape [n] would broadcast to [n, n], which is almost
    always a mistake. So if the ranks differ, one shape must broadcast to the other.
    """
    shapes = [x.shape for x in arrays.values()]
    given = " and ".join(f"{k} {list(x.shape)}" for k, x in arrays.items())
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ValueError(f"{call} got shapes that do not fit: {given}.") from error
    if len(set(map(len, shapes))) > 1 and shape not in shapes:
        raise ValueError(
            f"{call} got {given}, which would broadcast to {list(shape)}. Reshape one of them; if "
            "you want all pairs, give both the same number of axes."
        )
    return [jnp.broadcast_to(x, shape) for x in arrays.values()]


def read_axes(call: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """Return the axes as a tuple of non-negative integers, in the order given; None means all."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    try:
        axes = [operator.index(a) for a in given]
    except TypeError as error:
        raise TypeError(f"{call}(axis=...) must be an int or ints, got {axis!r}.") from error
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(f"{call}(axis=...) is {a}, out of range for {ndim} axes.")
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) < len(axes):
        raise ValueError(f"{call}(axis=...) names an axis twice: {axis}.")
    return axes


def read_mask(
    call: str, where: ArrayLike | None, shape: tuple[int, ...], axes: tuple[int, ...] = ()
) -> Array | None:
    """Return a boolean mask of `shape`, or None.

    Args:
      call: name of the public function, for the messages.
      where: None, or a boolean mask that broadcasts to `shape`, or to `shape` without `axes`.
      shape: the shape of the masked array.
      axes: the axes that are reduced.
    """
    if where is None:
        return None
    mask = as_array(f"{call}(where=...)", where)
    if mask.dtype != bool:
        raise TypeError(
            f"{call}(where=...) must be boolean, got dtype {mask.dtype}; use `mask != 0`."
        )
    if axes and mask.ndim == len(shape) - len(axes) and mask.ndim != len(shape):
        mask = jnp.expand_dims(mask, axes)
    if mask.ndim > len(shape) or any(
        m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(
            f"{call}(where=...) of shape {list(np.shape(where))} does not fit {list(shape)}."
        )
    return jnp.broadcast_to(mask, shape)


def masked(x: Array, mask: Array | None, fill: float = 0.0) -> Array:
    """Replace excluded elements, so that they affect neither the result nor the gradient."""
    return x if mask is None else jnp.where(mask, x, fill)


def at_least_zero(loss: Array) -> Array:
    """Return a loss that rounding cannot make negative, with its derivatives unchanged."""
    return with_value(loss, jnp.maximum(loss, 0))


def constant_scale(size: Array, axes: tuple[int, ...], least: ArrayLike) -> Array:
    """Return about the largest of sizes >= 0 and `least`, a constant; 1 for subnormal numbers.

    A quarter of it, since XLA may multiply by the inverse, which must not be subnormal.
    """
    top = jnp.maximum(jnp.max(size, axis=axes, keepdims=True, initial=0), least)
    tiny = jnp.finfo(size.dtype).tiny
    return jax.lax.stop_gradient(jnp.where(top < tiny, 1, jnp.maximum(0.25 * top, tiny)))


def below_top(x: Array, axes: tuple[int, ...], mask: Array | None = None) -> tuple[Array, Array]:
    """Return x minus its maximum over `axes`, and whether that is inf.

    It has the derivatives of x: the maximum is a constant. Infinite maxima become 0, with all else
    at -inf. Where all are -inf the result is -inf. Excluded elements are 0.
    """
    fixed = jax.lax.stop_gradient(masked(x, mask, -jnp.inf))
    top = jnp.max(fixed, axis=axes, keepdims=True, initial=-jnp.inf)
    base = jnp.where(jnp.isinf(top), 0, top)
    infinite = top == jnp.inf
    value = jnp.where(infinite, jnp.where(fixed == jnp.inf, 0, -jnp.inf), fixed - base)
    return masked(with_value(x - base, value), mask), infinite


def log_softmax(x: Array, axes: tuple[int, ...], mask: Array | None = None) -> Array:
    """Return x minus its logsumexp over `axes`: finite derivatives for any x, limits at infinity.

    Where all are -inf, so is the result; where several are inf there is no limit: NaN. Excluded
    elements get an arbitrary number.
    """
    shifted, infinite = below_top(x, axes, mask)
    return shifted - log_mass(shifted, infinite, axes, mask)


def log_mass(
    shifted: Array, infinite: Array, axes: tuple[int, ...], mask: Array | None = None
) -> Array:
    """Return the log of the sum of the exponentials of a result of `below_top`; 0 for log 0."""
    mass = jnp.sum(masked(jnp.exp(shifted), mask), axis=axes, keepdims=True)
    log = jnp.log(jnp.where(mass == 0, 1, mass))
    return jnp.where(infinite & (mass > 1), jnp.nan, log)  # several infinities


def read_classes(call: str, labels: ArrayLike, shape: tuple[int, ...], of: str = "logits") -> Array:
    """Return integer class labels after checking their dtype and shape."""
    labels = as_array(f"{call}(labels=...)", labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"{call}(labels=...) must be integer class indices, got dtype {labels.dtype}. "
            "For one-hot labels or probabilities use `softmax_cross_entropy`."
        )
    if labels.shape != shape:
        raise ValueError(
            f"{call}(labels=...) must have shape {list(shape)}, the shape of {of} without the "
            f"class axis, got {list(labels.shape)}."
        )
    return labels


def pick(values: Array, labels: Array, mask: Array | None = None) -> Array:
    """Return `values[..., labels]`: NaN for a label out of range, -inf for an excluded class.

    It is a comparison and a sum, which XLA fuses with neighbouring reductions; neither the value
    nor its gradient needs a gather or scatter over the classes.
    """
    labels = labels.astype(jnp.int64 if labels.dtype.itemsize > 4 else jnp.int32)
    classes = jax.lax.broadcasted_iota(labels.dtype, values.shape, values.ndim - 1)
    if mask is not None:
        values = jnp.where(mask, values, -jnp.inf)
    picked = jnp.sum(jnp.where(classes == labels[..., None], values, 0), axis=-1)
    return jnp.where((labels >= 0) & (labels < values.shape[-1]), picked, jnp.nan)


def merge_axes(x: Array, axes: tuple[int, ...]) -> Array:
    """Move `axes` to the end, in the order given, and merge them into one axis."""
    batch = tuple(a for a in range(x.ndim) if a not in axes)
    lead = tuple(x.shape[a] for a in batch)
    return x.transpose(batch + axes).reshape((*lead, math.prod(x.shape[a] for a in axes)))
