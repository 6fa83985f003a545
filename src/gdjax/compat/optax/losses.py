"""The names of `optax.losses`, which are those of gdjax, and its old name of one."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import gdjax.losses
from gdjax.compat.optax.private import add_private_modules
from gdjax.losses import binary_dice_loss as binary_dice_loss
from gdjax.losses import cosine_distance as cosine_distance
from gdjax.losses import cosine_similarity as cosine_similarity
from gdjax.losses import ctc_loss as ctc_loss
from gdjax.losses import ctc_loss_with_forward_probs as ctc_loss_with_forward_probs
from gdjax.losses import dice_loss as dice_loss
from gdjax.losses import generalized_kl_divergence as generalized_kl_divergence
from gdjax.losses import kl_divergence as kl_divergence
from gdjax.losses import kl_divergence_with_log_targets as kl_divergence_with_log_targets
from gdjax.losses import l2_loss as l2_loss
from gdjax.losses import make_fenchel_young_loss as make_fenchel_young_loss
from gdjax.losses import multiclass_generalized_dice_loss as multiclass_generalized_dice_loss
from gdjax.losses import multiclass_hinge_loss as multiclass_hinge_loss
from gdjax.losses import multiclass_perceptron_loss as multiclass_perceptron_loss
from gdjax.losses import multiclass_sparsemax_loss as multiclass_sparsemax_loss
from gdjax.losses import ntxent as ntxent
from gdjax.losses import perceptron_loss as perceptron_loss
from gdjax.losses import poly_loss_cross_entropy as poly_loss_cross_entropy
from gdjax.losses import ranking_softmax_loss as ranking_softmax_loss
from gdjax.losses import safe_softmax_cross_entropy as safe_softmax_cross_entropy
from gdjax.losses import smooth_labels as smooth_labels
from gdjax.losses import softmax_cross_entropy as softmax_cross_entropy
from gdjax.losses import squared_error as squared_error
from gdjax.losses import triplet_margin_loss as triplet_margin_loss
from gdjax.losses.divergence import Axis

_P = ParamSpec("_P")


def _broadcasting(loss: Callable[_P, Array]) -> Callable[_P, Array]:
    """Return the loss that takes shapes like [n, 1] and [n], and integer scores, as in optax.

    gdjax refuses both: the loss of the former is [n, n], most often by mistake.
    """
    signature = inspect.signature(loss)
    by_name: Callable[..., Array] = loss
    first, second = list(signature.parameters)[:2]

    @functools.wraps(loss)
    def lenient(*args: _P.args, **kwargs: _P.kwargs) -> Array:
        given: dict[str, Any] = dict(signature.bind(*args, **kwargs).arguments)
        scores = given[first] = jnp.asarray(given[first])
        if jnp.issubdtype(scores.dtype, jnp.integer):
            given[first] = scores.astype(jnp.float32)
        if given.get(second) is not None:
            given |= zip((first, second), jnp.broadcast_arrays(given[first], given[second]))
        return by_name(**given)

    lenient.__module__ = __name__
    return lenient


hinge_loss = _broadcasting(gdjax.losses.hinge_loss)
huber_loss = _broadcasting(gdjax.losses.huber_loss)
log_cosh = _broadcasting(gdjax.losses.log_cosh)
sigmoid_binary_cross_entropy = _broadcasting(gdjax.losses.sigmoid_binary_cross_entropy)
sigmoid_focal_loss = _broadcasting(gdjax.losses.sigmoid_focal_loss)
sparsemax_loss = _broadcasting(gdjax.losses.sparsemax_loss)


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Return -log_softmax(logits)[labels]; see `gdjax.softmax_cross_entropy_with_integer_labels`.

    As in optax, a negative label counts from the end of the classes: code that masks the losses of
    labels of -1 or -100 afterwards relies on it. The loss is NaN in gdjax.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> logits, labels = jnp.zeros((2, 200)), jnp.array([7, -100])
      >>> print(optax.softmax_cross_entropy_with_integer_labels(logits, labels).round(2))
      [5.3 5.3]
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.signedinteger):
        axes = axis if isinstance(axis, tuple) else (axis,)
        if all(-logits.ndim <= i < logits.ndim for i in axes):  # else the next line says so
            classes = math.prod(logits.shape[i] for i in axes)
            labels = jnp.where(labels < 0, labels + classes, labels)
    return gdjax.losses.softmax_cross_entropy_with_integer_labels(logits, labels, axis, where)


def convex_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """Return `generalized_kl_divergence`: its old name, deprecated as in optax."""
    message = "optax.convex_kl_divergence is deprecated: use generalized_kl_divergence."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return generalized_kl_divergence(log_predictions, targets, axis, where)


add_private_modules(
    __name__,
    "_classification _fenchel_young _ranking _regression _segmentation _self_supervised _smoothing",
)
