"""Losses that move similar embeddings together and dissimilar ones apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import AT_LEAST_ONE, FINITE, POSITIVE, checked
from gdjax.core.explicit import automatically
from gdjax.core.numerics import bounded, with_value
from gdjax.core.types import Number
from gdjax.losses.inputs import (
    Axis,
    as_array,
    check_same_shape,
    constant_scale,
    number,
    read,
    read_axes,
)
from gdjax.losses.regression import cosine_similarity


@checked(temperature=POSITIVE)
def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: Number = 0.07) -> Array:
    r"""Return the normalized temperature-scaled cross entropy of a batch (NT-Xent, SimCLR).

    The mean over all pairs (i, j) of equal labels of

    .. math::

       -\log \frac{e^{s_{ij}}}{e^{s_{ij}} + \sum_k e^{s_{ik}}}

    where s are the cosine similarities divided by the temperature, and k runs over the examples
    with other labels. A batch without pairs, or with only one label, has loss 0 and gradient 0
    (optax: NaN).

    Args:
      embeddings: float array [batch, dim].
      labels: integer or boolean array [batch]; embeddings with equal labels form pairs.
      temperature: divides the similarities, > 0.

    Returns:
      The mean over all ordered pairs, one number.

    Raises:
      TypeError: if `embeddings` is not float, or `labels` neither integer nor boolean.
      ValueError: if the shapes do not fit or `temperature` is not positive.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
      >>> good, bad = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])
      >>> print(gdjax.ntxent(x, good).round(4), gdjax.ntxent(x, bad).round(4))
      0.0 12.8004

    References:
      Chen et al. (2020), https://arxiv.org/abs/2002.05709, equation 1.
    """
    (x,) = read("ntxent", {"embeddings": embeddings})
    labels = as_array("ntxent(labels=...)", labels)
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == bool):
        raise TypeError(f"ntxent(labels=...) must be integer or boolean, got {labels.dtype}.")
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(
            "ntxent needs embeddings [batch, dim] and labels [batch], got "
            f"{list(x.shape)} and {list(labels.shape)}."
        )
    return automatically(_ntxent, x, labels, number(temperature, x))


def _ntxent(x: Array, labels: Array, temperature: Array) -> Array:
    eps = jnp.finfo(x.dtype).eps
    s = cosine_similarity(x[None], x[:, None], epsilon=eps) / temperature
    same = labels[:, None] == labels[None]
    pair = same & ~jnp.eye(len(labels), dtype=bool)
    others = jax.nn.logsumexp(s, axis=1, keepdims=True, where=~same)  # -inf where there are none
    some = jnp.any(~same, axis=1, keepdims=True)
    loss = jnp.where(some, jax.nn.softplus(jnp.where(some, others, 0) - s), 0)
    return jnp.sum(jnp.where(pair, loss, 0)) / jnp.maximum(jnp.sum(pair), 1).astype(x.dtype)


@checked(norm_degree=AT_LEAST_ONE, margin=FINITE)
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: Axis = -1,
    norm_degree: Number = 2,
    margin: Number = 1.0,
    eps: Number = 1e-6,
) -> Array:
    r"""Return by how much positives are not closer to the anchors than negatives.

    .. math::

       \max(0,\; d(a, x^+) - d(a, x^-) + m)

    with the distance

    .. math::

       d(a, b) = \left( \sum_i |a_i - b_i|^p + \epsilon \right)^{1/p}

    Differences: optax omits the absolute value, which gives NaN for an odd p.

    Args:
      anchors: float array [..., dim].
      positives: float array of the same shape, examples that should be close to the anchors.
      negatives: float array of the same shape, examples that should be far from the anchors.
      axis: axis or axes of the vectors; None means all.
      norm_degree: :math:`p` >= 1.
      margin: :math:`m`, the required difference between the two distances.
      eps: :math:`\epsilon` >= 0, added to the sum. For 0 the gradient at distance zero is 0.

    Returns:
      Losses, with the shape of the arrays without `axis`.

    Raises:
      TypeError: if an array is not float.
      ValueError: if shapes differ or a number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> a, p = jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[0.1, 0.1], [1.1, 1.1]])
      >>> n = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(gdjax.losses.triplet_margin_loss(a, p, n))
      [0.1414 0.1414]

    References:
      Balntas et al. (2016), "Learning local feature descriptors with triplets and shallow
      convolutional neural networks".
    """
    call = "triplet_margin_loss"
    named = {"anchors": anchors, "positives": positives, "negatives": negatives}
    a, near, far = read(call, named)
    check_same_shape(call, anchors=a, positives=near, negatives=far)
    axes = read_axes(call, axis, a.ndim)
    p, eps = number(norm_degree, a), number(eps, a)
    margin = number(margin, a)
    (near, one), (far, other) = (_distance(a - x, axes, p, eps) for x in (near, far))
    unit = jnp.maximum(jnp.maximum(one, other), 1)  # the distances may overflow, not the loss
    loss = unit * (near * (one / unit) - far * (other / unit) + margin / unit)
    return jnp.maximum(loss, 0)


def _distance(x, axes, p, eps):
    """Return two factors of the distance: one that has the derivatives, and a constant scale."""
    size = jnp.abs(bounded(x))
    floor = _power(eps, 1 / p)
    scale = constant_scale(size, axes, floor)
    # so that ratios are at most 1, and no power of them overflows; 1 / scale stays normal
    scale = jnp.where(scale < float(jnp.finfo(scale.dtype).max) / 64, 4 * scale, scale)
    total = jnp.sum(_power(size / scale, p), axis=axes, keepdims=True) + _power(floor / scale, p)
    root = jnp.squeeze(_power(total, 1 / p), axes)
    infinite = jnp.any(jnp.isinf(x), axis=axes)
    return with_value(root, jnp.where(infinite, jnp.inf, root)), jnp.squeeze(scale, axes)


def _power(x, p):
    """Return x**p for x >= 0, with gradient 0 at 0."""
    nonzero = x != 0
    return jnp.where(nonzero, jnp.where(nonzero, x, 1) ** p, 0)
