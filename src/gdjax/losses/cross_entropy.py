"""Cross entropies between unnormalized log probabilities and labels.

The largest logit is subtracted before exponentials are summed, so that logits of +-1e4 lose no
precision.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import CLOSED_UNIT, FINITE, NONNEGATIVE, checked, strict
from gdjax.core.numerics import product
from gdjax.core.types import Number
from gdjax.losses.inputs import (
    Axis,
    as_array,
    at_least_zero,
    below_top,
    broadcast,
    log_mass,
    log_softmax,
    masked,
    merge_axes,
    number,
    pick,
    read,
    read_axes,
    read_classes,
    read_mask,
)


@strict()
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the cross entropy of labels and the softmax of logits, over the classes.

    .. math::

       -\sum_c y_c \log p_c, \qquad p_c = \frac{e^{z_c}}{\sum_k e^{z_k}}

    A logit of -inf with label 0 contributes 0, by the convention 0 log 0 = 0 (optax: NaN).

    Args:
      logits: :math:`z`, float array [..., classes], unnormalized log probabilities.
      labels: :math:`y`, real array that broadcasts with `logits`: one-hot labels or probabilities.
      axis: axis or axes of the classes; None means all.
      where: boolean mask with the shape of `logits`, or that shape without `axis`: the valid
        classes. An example without valid classes has loss 0 and gradient 0.

    Returns:
      Cross entropies in nats, with the shape of `logits` without `axis`.

    Raises:
      TypeError: if `logits` is not float, or `labels` are class indices.
      ValueError: if shapes do not fit or `axis` is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
      >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
      >>> print(gdjax.softmax_cross_entropy(logits, labels))
      [0.2761 2.9518]
    """
    logits, labels, axes, mask = _read("softmax_cross_entropy", logits, labels, axis, where)
    return _cross_entropy(log_softmax(logits, axes, mask), labels, axes)


@strict()
def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return `softmax_cross_entropy` over the last axis, which already handles logits of -inf.

    Args:
      logits: see `softmax_cross_entropy`.
      labels: see `softmax_cross_entropy`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits = jnp.array([0.0, -jnp.inf, 0.0])
      >>> print(gdjax.losses.safe_softmax_cross_entropy(logits, jnp.array([1.0, 0.0, 0.0])))
      0.6931472
    """
    logits, labels, axes, _ = _read("safe_softmax_cross_entropy", logits, labels, -1, None)
    return _cross_entropy(log_softmax(logits, axes, None), labels, axes)


@strict()
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Return the cross entropy of class indices and the softmax of logits.

    .. math::

       -\log p_y, \qquad p_c = \frac{e^{z_c}}{\sum_k e^{z_k}}

    A label outside [0, classes) gives NaN, also if it is negative (optax counts negative labels
    from the end), and a finite gradient, so that that of `jnp.where(labels >= 0, loss, 0)` is
    right; a label whose class `where` excludes gives infinity (optax: a meaningless number). If the
    logits of the whole vocabulary do not fit into memory, see `chunked_softmax_cross_entropy`.

    Args:
      logits: float array [..., classes], unnormalized log probabilities.
      labels: integer array [...], class indices. With several axes, indices into those axes
        flattened in the order given.
      axis: axis or axes of the classes.
      where: boolean mask with the shape of `logits`, or that shape without `axis`. An example
        without valid classes has loss 0 and gradient 0, whatever its label, so that padding may
        have the label -1.

    Returns:
      Cross entropies in nats, shaped like `labels`.

    Raises:
      TypeError: if `logits` is not float or `labels` not integer.
      ValueError: if shapes do not fit or `axis` is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
      >>> print(gdjax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1])))
      [0.2761 2.9518]
    """
    call = "softmax_cross_entropy_with_integer_labels"
    (logits,) = read(call, {"logits": logits})
    if axis is None:
        raise TypeError(f"{call}(axis=...) must be an int or ints, got None.")
    axes = read_axes(call, axis, logits.ndim)
    mask = read_mask(call, where, logits.shape, axes)
    logits, mask = merge_axes(logits, axes), None if mask is None else merge_axes(mask, axes)
    labels = read_classes(call, labels, logits.shape[:-1])
    shifted, infinite = below_top(logits, (logits.ndim - 1,), mask)
    log_total = log_mass(shifted, infinite, (logits.ndim - 1,), mask)[..., 0]
    loss = log_total - pick(shifted, labels, mask)
    return loss if mask is None else jnp.where(jnp.any(mask, -1), loss, 0)


@checked(epsilon=FINITE)
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: Number = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Return cross entropy plus a term linear in the probability of the labels (Poly-1).

    .. math::

       -\sum_c y_c \log p_c + \epsilon \sum_c y_c (1 - p_c)

    with :math:`p` the softmax of the logits.

    Args:
      logits: see `softmax_cross_entropy`.
      labels: probabilities, see `softmax_cross_entropy`.
      epsilon: :math:`\epsilon`, weight of the additional term; the paper uses 2 for ImageNet and -1
        for detection.
      axis: see `softmax_cross_entropy`.
      where: see `softmax_cross_entropy`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits, labels = jnp.array([1.2, -0.8, -0.5]), jnp.array([1.0, 0.0, 0.0])
      >>> print(gdjax.losses.poly_loss_cross_entropy(logits, labels, epsilon=2.0))
      0.7587006

    References:
      Leng et al. (2022), https://arxiv.org/abs/2204.12511, equation 6.
    """
    logits, labels, axes, mask = _read("poly_loss_cross_entropy", logits, labels, axis, where)
    log_p = log_softmax(logits, axes, mask)
    rest = jnp.sum(labels * -jnp.expm1(log_p), axis=axes)
    epsilon = number(epsilon, log_p)
    loss = _cross_entropy(log_p, labels, axes) + epsilon * rest
    return jnp.where(epsilon >= -1, at_least_zero(loss), loss)


@strict()
def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the cross entropy of independent binary predictions, element by element.

    .. math::

       -y \log p - (1 - y) \log(1 - p), \qquad p = \frac{1}{1 + e^{-z}}

    Args:
      logits: :math:`z`, float array of any shape, the log odds of label 1.
      labels: :math:`y`, real array that broadcasts with `logits`: 0, 1 or probabilities.

    Returns:
      Cross entropies in nats, of the common shape.

    Raises:
      TypeError: if `logits` is not float.
      ValueError: if the shapes do not fit.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.sigmoid_binary_cross_entropy(jnp.array([2.0, -1e4]), jnp.array([1, 1])))
      [    0.1269 10000.    ]
    """
    call = "sigmoid_binary_cross_entropy"
    return _binary(*broadcast_labels(call, *read(call, {"logits": logits}, {"labels": labels})))


@checked(alpha=CLOSED_UNIT, gamma=NONNEGATIVE)
def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: Number | None = None,
    gamma: Number = 2.0,
) -> Array:
    r"""Return binary cross entropy with less weight for examples that are predicted well.

    .. math::

       a\, (1 - q)^\gamma\, \mathrm{CE}, \qquad q = y p + (1 - y) (1 - p), \qquad
       a = \alpha y + (1 - \alpha) (1 - y)

    with CE and p those of `sigmoid_binary_cross_entropy`, and q the probability of the label. The
    weight is computed in log space, so that value and gradient are finite for any gamma >= 0.

    Args:
      logits: float array of any shape, the log odds of label 1.
      labels: real array in [0, 1] that broadcasts with `logits`.
      alpha: :math:`\alpha` in [0, 1], weight of label 1, that of label 0 being 1 - alpha; None
        means a = 1.
      gamma: :math:`\gamma` >= 0, exponent; 0 is plain binary cross entropy.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.sigmoid_focal_loss(jnp.array([2.0, -2.0]), jnp.array([1, 1])))
      [0.0018 1.6501]

    References:
      Lin et al. (2017), https://arxiv.org/abs/1708.02002, equations 4 and 5.
    """
    call = "sigmoid_focal_loss"
    x, y = broadcast_labels(call, *read(call, {"logits": logits}, {"labels": labels}))
    # beyond, p is 0 or 1 in any dtype; a select, as the derivative of a clip may be 0 * inf
    finite = jnp.where(jnp.abs(x) > 1e4, jnp.sign(x) * 1e4, x)
    log_p, log_q = jax.nn.log_sigmoid(finite), jax.nn.log_sigmoid(-finite)
    # log(1 - p_t) = log(y q + (1 - y) p), shifted by the larger of the nonzero terms
    top = jnp.maximum(jnp.where(y < 1, log_p, -jnp.inf), jnp.where(y > 0, log_q, -jnp.inf))
    top = jax.lax.stop_gradient(top)
    yes, no = (jnp.exp(jnp.minimum(z - top, 80)) for z in (log_q, log_p))  # 0 * inf is NaN
    log_rest = top + jnp.log(y * yes + (1 - y) * no)
    loss = product(jnp.exp(number(gamma, x) * log_rest), _binary(x, y))
    if alpha is None:
        return loss
    alpha = number(alpha, x)
    return product(alpha * y + (1 - alpha) * (1 - y), loss)


def broadcast_labels(call: str, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Broadcast logits and labels."""
    logits, labels = broadcast(call, logits=logits, labels=labels)
    return logits, labels


def _read(call, logits, labels, axis, where):
    given = as_array(f"{call}(labels=...)", labels)
    logits, labels = read(call, {"logits": logits}, {"labels": given})
    if jnp.issubdtype(given.dtype, jnp.integer) and given.ndim < logits.ndim:
        raise TypeError(
            f"{call}(labels=...) must be one-hot or probabilities, got {given.dtype} of shape "
            f"{list(given.shape)}. Class indices: use `softmax_cross_entropy_with_integer_labels`."
        )
    logits, labels = broadcast_labels(call, logits, labels)
    axes = read_axes(call, axis, logits.ndim)
    mask = read_mask(call, where, logits.shape, axes)
    return logits, masked(labels, mask), axes, mask


def _cross_entropy(log_p, labels, axes):
    log_p = jnp.where((labels == 0) & (log_p == -jnp.inf), 0, log_p)
    return -jnp.sum(labels * log_p, axis=axes)


def _binary(logits, labels):
    # log(1 - sigmoid(x)) = log_sigmoid(-x)
    yes, no = -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)
    return product(labels, yes) + product(1 - labels, no)
