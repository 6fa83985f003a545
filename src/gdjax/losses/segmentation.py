"""Overlap losses between segmentation masks."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, check_choice, checked
from gdjax.core.types import Number
from gdjax.losses.inputs import (
    Axis,
    as_array,
    at_least_zero,
    check_same_shape,
    log_softmax,
    number,
    read,
    read_axes,
)


@checked(smooth=NONNEGATIVE, alpha=NONNEGATIVE, beta=NONNEGATIVE)
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: Number = 1.0,
    alpha: Number = 0.5,
    beta: Number = 0.5,
    apply_softmax: bool = True,
    reduction: Literal["mean", "sum", "none"] = "mean",
    ignore_background: bool = False,
    axis: Axis = None,
) -> Array:
    r"""Return the Dice, Jaccard or Tversky loss, averaged over the classes.

    .. math::

       1 - \frac{\mathrm{TP} + s}{\mathrm{TP} + \alpha\, \mathrm{FP} + \beta\, \mathrm{FN} + s}

    TP, FP and FN are sums over pixels of p t, p (1 - t) and (1 - p) t, with p the predicted
    probabilities and t the targets. alpha = beta = 0.5 is the
    Dice loss, alpha = beta = 1 the Jaccard loss, and other values give the Tversky loss. A class
    that is absent from both predictions and targets is a perfect match, also for `smooth=0`
    (optax: NaN).

    Args:
      predictions: float array [batch, ..., classes], logits. A single class, or a class axis that
        only the targets have, means a binary segmentation.
      targets: real array of the same shape, one-hot; a missing axis for a single class is added.
      class_weights: real array [classes] that multiplies the losses of the classes; None means 1.
      smooth: :math:`s` >= 0, added to numerator and denominator.
      alpha: :math:`\alpha` >= 0, weight of false positives.
      beta: :math:`\beta` >= 0, weight of false negatives.
      apply_softmax: whether `predictions` are logits, to which a softmax is applied, or a sigmoid
        for a single class. Otherwise they must be probabilities, which is checked outside `jit`.
        (optax does not work under `jit` with False, and for a single class only accepts
        probability 1.)
      reduction: "mean", "sum" or "none", over the classes.
      ignore_background: whether to leave out class 0 if there are others.
      axis: axes of the pixels; None means all but the first and last.

    Returns:
      Losses [batch], or [batch, classes] for "none".

    Raises:
      TypeError: if `predictions` is not float.
      ValueError: if shapes do not fit, `reduction` is unknown or probabilities do not sum to 1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> targets = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])  # two pixels, two classes
      >>> print(gdjax.losses.dice_loss(20 * targets - 10, targets, smooth=0.0).round(3))
      [0.]
      >>> print(gdjax.losses.dice_loss(10 - 20 * targets, targets, smooth=0.0).round(3))
      [1.]

    References:
      Milletari et al. (2016), https://arxiv.org/abs/1606.04797
      Salehi et al. (2017), https://arxiv.org/abs/1706.05721 (Tversky).
    """
    call = "dice_loss"
    check_choice(f"{call}(reduction=...)", reduction, ("mean", "sum", "none"))
    p, t = read(call, {"predictions": predictions}, {"targets": targets})
    p, t = _probabilities(call, *_with_class_axis(p, t), apply_softmax=apply_softmax)
    axes = tuple(range(1, p.ndim - 1)) if axis is None else read_axes(call, axis, p.ndim)
    if p.ndim - 1 in axes:
        raise ValueError(f"{call}(axis=...) must not include the class axis, got {axis}.")
    loss = _class_losses(p, t, axes, smooth, alpha, beta)
    if class_weights is not None:
        classes = p.shape[-1]
        weights = as_array(f"{call}(class_weights=...)", class_weights)
        if weights.shape != (classes,):
            raise ValueError(
                f"{call}(class_weights=...) must have shape [{classes}], got {list(weights.shape)}."
            )
        loss = loss * jnp.broadcast_to(weights.astype(loss.dtype), loss.shape)
    loss = _foreground(loss) if ignore_background else loss
    if reduction == "none":
        return loss
    return jnp.mean(loss, axis=-1) if reduction == "mean" else jnp.sum(loss, axis=-1)


@checked(smooth=NONNEGATIVE)
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: Number = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> Array:
    r"""Return `dice_loss` with classes weighted by the inverse square of their pixel counts.

    .. math::

       w_c \propto 1 / (n_c^2 + 10^{-7})

    with :math:`n_c` the number of pixels of class c. The weights are computed over the whole batch
    and average to 1. As in optax, and unlike in the paper, they multiply the losses of the classes,
    not the sums in numerator and denominator. A class without pixels gets almost all of the weight,
    so leave out classes that do not occur.

    Args:
      predictions: see `dice_loss`.
      targets: see `dice_loss`, of the same shape.
      smooth: see `dice_loss`.
      apply_softmax: see `dice_loss`.
      ignore_background: see `dice_loss`.

    Returns:
      The mean over batch and classes, one number.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> targets = jax.nn.one_hot(jnp.array([[0, 0, 0, 1]]), 2)
      >>> print(gdjax.losses.multiclass_generalized_dice_loss(0 * targets, targets).round(4))
      0.3886

    References:
      Sudre et al. (2017), https://arxiv.org/abs/1707.03237
    """
    call = "multiclass_generalized_dice_loss"
    p, t = read(call, {"predictions": predictions}, {"targets": targets})
    p, t = _probabilities(call, p, t, apply_softmax=apply_softmax)
    counts = jnp.sum(t, axis=tuple(range(t.ndim - 1)))
    weights = 1 / (counts**2 + 1e-7)
    losses = _class_losses(p, t, tuple(range(1, p.ndim - 1)), smooth)
    losses = losses * jnp.broadcast_to(weights / jnp.mean(weights), losses.shape)
    return jnp.mean(_foreground(losses) if ignore_background else losses)


@checked(smooth=NONNEGATIVE)
def binary_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: Number = 1.0,
    apply_sigmoid: bool = True,
) -> Array:
    """Return `dice_loss` for binary masks.

    Args:
      predictions: float array [batch, ...] or [batch, ..., 1], logits. If both arrays end in an
        axis of size 1, it is taken as the class axis.
      targets: real array of the same shape, with or without that axis, with values 0 and 1.
      smooth: see `dice_loss`.
      apply_sigmoid: whether `predictions` are logits; otherwise they are probabilities.

    Returns:
      Losses [batch].

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> target = jnp.array([[1.0, 1.0, 0.0, 0.0]])
      >>> print(gdjax.losses.binary_dice_loss(jnp.zeros((1, 4)), target))
      [0.3333]
    """
    call = "binary_dice_loss"
    p, t = read(call, {"predictions": predictions}, {"targets": targets})
    if p.ndim == t.ndim and p.ndim and p.shape[-1] != 1:
        p, t = p[..., None], t[..., None]
    p, t = _probabilities(call, *_with_class_axis(p, t), apply_sigmoid=apply_sigmoid)
    return jnp.mean(_class_losses(p, t, tuple(range(1, p.ndim - 1)), smooth), axis=-1)


def _with_class_axis(p, t):
    """Add a class axis to one array where only the other one has it."""
    p = p[..., None] if p.ndim == t.ndim - 1 else p
    return p, t[..., None] if t.ndim == p.ndim - 1 else t


def _probabilities(call: str, p: Array, t: Array, **apply: bool) -> tuple[Array, Array]:
    """Return predicted probabilities and targets, both with a class axis."""
    check_same_shape(call, predictions=p, targets=t)
    if p.ndim < 1:
        raise ValueError(f"{call}(predictions=...) needs a class axis, got a scalar.")
    ((name, from_logits),) = apply.items()
    if from_logits:
        p = jax.nn.sigmoid(p) if p.shape[-1] == 1 else jnp.exp(log_softmax(p, (p.ndim - 1,)))
    else:
        _check_probabilities(call, name, p)
    return p, t


def _class_losses(
    p: Array,
    t: Array,
    axes: tuple[int, ...],
    smooth: ArrayLike,
    alpha: Number = 0.5,
    beta: Number = 0.5,
) -> Array:
    hit = jnp.sum(p * t, axis=axes)
    smooth, alpha, beta = (number(x, p) for x in (smooth, alpha, beta))
    # 1 - (hit + smooth) / (hit + wrong + smooth), without the difference of two numbers near 1
    wrong = alpha * jnp.sum(p * (1 - t), axis=axes) + beta * jnp.sum((1 - p) * t, axis=axes)
    below = hit + wrong + smooth
    nothing = below == 0
    return at_least_zero(jnp.where(nothing, 0, wrong / jnp.where(nothing, 1, below)))


def _foreground(losses):
    """Leave out class 0 if there are others."""
    return losses[..., 1:] if losses.shape[-1] > 1 else losses


def _check_probabilities(call: str, argument: str, p: Array) -> None:
    if isinstance(p, jax.core.Tracer) or not math.prod(p.shape):
        return
    values = np.asarray(p)
    total = values.sum(axis=-1) if values.shape[-1] > 1 else np.ones(())
    if (
        values.min() < 0
        or values.max() > 1 + 1e-5
        or not np.allclose(total, 1, rtol=1e-5, atol=1e-5)
    ):
        raise ValueError(
            f"{call}({argument}=False) needs predictions that are valid probability distributions, "
            f"got values in [{values.min():.6g}, {values.max():.6g}] that sum to "
            f"[{total.min():.6g}, {total.max():.6g}] over the classes. For logits use "
            f"{argument}=True."
        )
