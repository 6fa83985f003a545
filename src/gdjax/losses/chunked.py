"""Softmax cross entropy of a linear layer in chunks, so that not all logits are in memory at once.

Also known as linear cross entropy, fused linear cross entropy or cut cross entropy (Wijmans et al.
2024, https://arxiv.org/abs/2411.09009, algorithms 1 to 4). Their filter for tiny gradients is not
used, so the result is exact. The sum over the vocabulary is accumulated chunk by chunk with a
running maximum (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import check_integer, strict
from gdjax.core.explicit import automatically
from gdjax.core.numerics import compute_dtype
from gdjax.losses.inputs import as_array, masked, read_classes, read_mask


@strict()
def chunked_softmax_cross_entropy(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    chunk_size: int = 4096,
    where: ArrayLike | None = None,
) -> Array:
    r"""Return `softmax_cross_entropy_with_integer_labels(hidden @ kernel + bias, labels)`.

    .. math::

       -\log \frac{e^{z_y}}{\sum_c e^{z_c}}, \qquad z = h W + b

    The logits are computed `chunk_size` classes at a time, and again in the backward pass. Memory
    is tokens * chunk_size instead of tokens * classes, at the cost of a fourth matrix product where
    the plain form needs three. Reverse-mode derivatives of any order are supported; `jax.jvp` of
    the loss itself is not.

    Args:
      hidden: float array [..., dim], the inputs of the last layer.
      kernel: float array [dim, classes], the output matrix; `embedding.T` if it is tied.
      labels: integer array [...], class indices; the loss of one outside [0, classes) is NaN.
      bias: float array [classes], or None.
      chunk_size: number of classes in a chunk, >= 1; it need not divide the number of classes.
        Larger chunks use the device better, smaller ones save memory.
      where: boolean mask of the shape of `labels`, or None. Excluded tokens have loss 0 and
        gradient 0, whatever their label.

    Returns:
      Cross entropies in nats, shaped like `labels`, in float32 (float64 if an input is float64).
      Products of half-precision inputs are accumulated in float32; gradients have the inputs'
      dtypes.

    Raises:
      TypeError: if an input is not float or `labels` not integer.
      ValueError: if shapes do not fit, or `chunk_size` is not an integer >= 1.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> hidden = jnp.array([[1.0, 0.0], [0.5, -1.0]])
      >>> kernel = jnp.array([[1.0, 0.0, -1.0], [2.0, 1.0, 0.0]])
      >>> labels = jnp.array([0, 2])
      >>> print(gdjax.chunked_softmax_cross_entropy(hidden, kernel, labels, chunk_size=2))
      [0.4076 0.6803]
      >>> print(gdjax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, labels))
      [0.4076 0.6803]
    """
    call = "chunked_softmax_cross_entropy"
    given = {"hidden": hidden, "kernel": kernel} | ({} if bias is None else {"bias": bias})
    arrays = {k: as_array(f"{call}({k}=...)", x) for k, x in given.items()}
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{call}({name}=...) must be float, got dtype {x.dtype}.")
    h, w = arrays["hidden"], arrays["kernel"]
    if h.ndim < 1 or w.ndim != 2 or h.shape[-1] != w.shape[0]:
        raise ValueError(
            f"{call} needs hidden [..., dim] and kernel [dim, classes], got {list(h.shape)} and "
            f"{list(w.shape)}. Transpose a tied embedding [classes, dim]."
        )
    classes = w.shape[1]
    if classes < 1:
        raise ValueError(f"{call}(kernel=...) needs at least one class, got {list(w.shape)}.")
    b = arrays.get("bias", jnp.zeros((), w.dtype))
    if bias is not None and b.shape != (classes,):
        raise ValueError(f"{call}(bias=...) must have shape [{classes}], got {list(b.shape)}.")
    labels = read_classes(call, labels, h.shape[:-1], of="hidden")
    mask = read_mask(call, where, labels.shape)
    h = h if mask is None else masked(h, mask[..., None])
    b = jnp.broadcast_to(b, (classes,))
    chunk = min(check_integer(f"{call}(chunk_size=...)", chunk_size), classes)
    return masked(jnp.asarray(_loss(chunk, h, w, b, labels)), mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(chunk, h, w, b, labels):
    return _forward(chunk, h, w, b, labels)[0]


def _forward(chunk, h, w, b, labels):
    saved = automatically(functools.partial(_sums, chunk), (h, w, b), labels)
    return saved[0], (h, w, b, labels, *saved[1:])


def _sums(chunk, arrays, labels):
    """Return the losses, the largest logits and the logarithms of the sums relative to these."""
    h, w, b = arrays
    dtype = compute_dtype(h, w, b)

    def body(carry, start):
        top, mass, picked = carry
        _, logits, fresh, hit = _chunk(chunk, h, w, b, labels, start)
        new_top = jnp.maximum(top, jnp.max(jnp.where(fresh, logits, -jnp.inf), axis=-1))
        # a maximum of -inf means an empty sum; subtract 0 instead, since inf - inf is NaN
        base = jnp.where(new_top == -jnp.inf, 0, new_top)
        terms = jnp.where(fresh, jnp.exp(_less(logits, base[..., None])), 0)
        mass = mass * jnp.exp(_less(top, base)) + jnp.sum(terms, axis=-1)
        return (new_top, mass, picked + jnp.sum(jnp.where(hit, logits, 0), axis=-1)), None

    start = jnp.full(labels.shape, -jnp.inf, dtype), *(jnp.zeros(labels.shape, dtype),) * 2
    (top, mass, picked), _ = jax.lax.scan(body, start, _starts(chunk, w.shape[1]))
    base = jnp.where(top == -jnp.inf, 0, top)
    log_mass = jnp.log(jnp.where(mass > 0, mass, 1))
    # a single infinite logit has probability 1; the ratio of several has no limit
    valid = (labels >= 0) & (labels < w.shape[1]) & ~((base == jnp.inf) & (mass > 1))
    # subtract from the maximum first: what it shares with the label's logit cancels exactly
    loss = jnp.where(valid, _less(base, picked) + log_mass, jnp.nan)
    return loss, base, log_mass


def _backward(chunk, saved, cotangent):
    h, w, b, *rest = saved
    grads = automatically(functools.partial(_gradients, chunk), (h, w, b), *rest, cotangent)
    return *grads, np.zeros(rest[0].shape, jax.dtypes.float0)


def _gradients(chunk, arrays, labels, base, log_mass, cotangent):
    h, w, b = arrays
    dtype = compute_dtype(h, w, b)
    narrow = jnp.bfloat16 if h.dtype == w.dtype == jnp.bfloat16 else dtype
    rows = (cotangent[..., None] * h).astype(narrow)
    lead = tuple(range(labels.ndim))

    def body(carry, start):
        dh, dw, db = carry
        part, logits, fresh, hit = _chunk(chunk, h, w, b, labels, start)
        p = jnp.exp(_less(logits, base[..., None]) - log_mass[..., None])
        error = jnp.where(fresh, p - hit, 0)  # softmax minus one-hot
        narrow_error = error.astype(narrow)
        dh += jnp.matmul(narrow_error, part.T.astype(narrow), preferred_element_type=dtype)
        dw_part = jnp.tensordot(rows, narrow_error, (lead, lead), preferred_element_type=dtype)
        db_part = jnp.sum(cotangent[..., None] * error, axis=lead)
        return (dh, _add_at(dw, dw_part, start), _add_at(db, db_part, start)), None

    zeros = jnp.zeros(h.shape, dtype), jnp.zeros_like(w), jnp.zeros_like(b)
    (dh, dw, db), _ = jax.lax.scan(body, zeros, _starts(chunk, w.shape[1]))
    dh = (cotangent[..., None] * dh).astype(h.dtype)
    return dh, dw, db


_loss.defvjp(_forward, _backward)


def _less(x: Array, y: Array) -> Array:
    """Return x - y, and 0 for equal infinities."""
    return jnp.where(x == y, 0, x - y)


def _starts(chunk: int, classes: int) -> Array:
    return jnp.arange(0, classes, chunk)


def _chunk(chunk, h, w, b, labels, start):
    """Return the kernel and logits of one chunk, and masks of its new classes and of the labels.

    The last chunk is shifted back so that it ends with the last class; the classes that it shares
    with the chunk before are not new. This needs neither padding nor a second program.
    """
    first = jnp.minimum(start, w.shape[1] - chunk)
    part = jax.lax.dynamic_slice_in_dim(w, first, chunk, axis=1)
    shift = jax.lax.dynamic_slice_in_dim(b, first, chunk)
    dtype = compute_dtype(h, w, b)
    common = jnp.promote_types(h.dtype, w.dtype)
    logits = jnp.matmul(h.astype(common), part.astype(common), preferred_element_type=dtype)
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) + first
    fresh = classes >= start
    logits += jnp.broadcast_to(shift.astype(dtype), logits.shape)
    return part, logits, fresh, fresh & (classes == labels[..., None])


def _add_at(whole, part, start):
    """Add the gradients of one chunk in place, at the same classes as `_chunk`."""
    first = jnp.minimum(start, whole.shape[-1] - part.shape[-1])
    axis = whole.ndim - 1
    old = jax.lax.dynamic_slice_in_dim(whole, first, part.shape[-1], axis)
    new = (old.astype(part.dtype) + part).astype(whole.dtype)
    return jax.lax.dynamic_update_slice_in_dim(whole, new, first, axis)
