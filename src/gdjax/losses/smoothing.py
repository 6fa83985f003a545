"""Label smoothing for cross entropies."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import CLOSED_UNIT, checked
from gdjax.core.types import Number
from gdjax.losses.inputs import Axis, masked, number, read, read_axes, read_mask


@checked(alpha=CLOSED_UNIT)
def smooth_labels(
    labels: ArrayLike, alpha: Number, *, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return a mixture of the labels and the uniform distribution over n classes.

    .. math::

       (1 - \alpha)\, y + \alpha / n

    Args:
      labels: float array [..., classes], one-hot or probabilities.
      alpha: :math:`\alpha` in [0, 1], the weight of the uniform distribution.
      axis: axis or axes of the classes; None means all.
      where: boolean mask that broadcasts to `labels`: the valid classes. The others become 0, so
        that the valid ones sum to 1 (optax also gives excluded classes a share, and infinity if
        no class is valid).

    Raises:
      TypeError: if `labels` is not float: class indices cannot be smoothed.
      ValueError: if `alpha` or `axis` is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.smooth_labels(jnp.array([0.0, 1.0, 0.0]), 0.3))
      [0.1 0.8 0.1]

    References:
      Szegedy et al. (2015), https://arxiv.org/abs/1512.00567, section 7.
    """
    (labels,) = read("smooth_labels", {"labels": labels})
    axes = read_axes("smooth_labels", axis, labels.ndim)
    mask = read_mask("smooth_labels", where, labels.shape)
    there = jnp.ones_like(labels) if mask is None else mask.astype(labels.dtype)
    classes = jnp.maximum(jnp.sum(there, axis=axes, keepdims=True), 1)
    alpha = number(alpha, labels)
    return masked((1 - alpha) * labels + alpha / classes, mask)
