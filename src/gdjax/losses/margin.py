"""Losses that vanish beyond a margin: hinge, perceptron and sparsemax, binary and multiclass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.losses.inputs import as_array, broadcast, pick, read, read_classes
from gdjax.projections import unit_simplex


@strict()
def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """Return max(0, 1 - output * target), the loss of the support vector machine.

    Args:
      predictor_outputs: float array of any shape, the decision function.
      targets: real array that broadcasts with it, with values -1 and 1.

    Raises:
      TypeError: if `predictor_outputs` is not float.
      ValueError: if the shapes do not fit.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.hinge_loss(jnp.array([0.3, 2.0, 2.0]), jnp.array([1, 1, -1])))
      [0.7 0.  3. ]
    """
    return jnp.maximum(0, 1 - _products("hinge_loss", predictor_outputs, targets))


@strict()
def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """Return max(0, -output * target): only the sign of the output has to be correct.

    Args:
      predictor_outputs: float array of any shape, the decision function.
      targets: real array that broadcasts with it, with values -1 and 1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.losses.perceptron_loss(jnp.array([0.5, 2.0]), jnp.array([1, -1])))
      [0. 2.]
    """
    return jnp.maximum(0, -_products("perceptron_loss", predictor_outputs, targets))


@strict()
def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return the binary sparsemax loss: quadratic within the margin, linear for wrong labels.

    Args:
      logits: float array of any shape.
      labels: integer or boolean array that broadcasts with it, with values 0 and 1.

    Raises:
      TypeError: if `logits` is not float, or `labels` neither integer nor boolean.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.losses.sparsemax_loss(jnp.array([0.0, 2.0, 2.0]), jnp.array([1, 1, 0])))
      [0.25 0.   2.  ]

    References:
      Blondel, Martins & Niculae (2020), "Learning with Fenchel-Young losses", section 4.4.
    """
    labels = as_array("sparsemax_loss(labels=...)", labels)
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == bool):
        raise TypeError(
            f"sparsemax_loss(labels=...) must be integer or boolean, got dtype {labels.dtype}."
        )
    logits, labels = read("sparsemax_loss", {"logits": logits}, {"labels": labels})
    logits, labels = broadcast("sparsemax_loss", logits=logits, labels=labels)
    return jax.nn.sparse_plus(jnp.where(labels != 0, -logits, logits))


@strict()
def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return max_j(scores[j] + [j is not the label]) - scores[label] (Crammer & Singer).

    Args:
      scores: float array [..., classes].
      labels: integer array [...]; the loss of a label outside [0, classes) is NaN.

    Raises:
      TypeError: if `scores` is not float or `labels` not integer.
      ValueError: if the shapes do not fit.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> scores = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 1.0]])
      >>> print(gdjax.losses.multiclass_hinge_loss(scores, jnp.array([0, 2])))
      [0.5 3. ]
    """
    margins, labels = _margins("multiclass_hinge_loss", scores, labels)
    classes = jax.lax.broadcasted_iota(jnp.int32, margins.shape, margins.ndim - 1)
    other = classes != labels[..., None].astype(jnp.int32)
    return jnp.max(margins + other.astype(margins.dtype), axis=-1)


@strict()
def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return max_j(scores[j]) - scores[label].

    Args:
      scores: see `multiclass_hinge_loss`.
      labels: see `multiclass_hinge_loss`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> scores = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 1.0]])
      >>> print(gdjax.losses.multiclass_perceptron_loss(scores, jnp.array([0, 2])))
      [0. 2.]

    References:
      Collins (2002), "Discriminative training methods for hidden Markov models".
    """
    margins, _ = _margins("multiclass_perceptron_loss", scores, labels)
    return jnp.max(margins, axis=-1)


@strict()
def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return the sparsemax loss, whose gradient is sparsemax(scores) - onehot(label).

    Args:
      scores: float array [..., classes]; optax supports one batch axis only.
      labels: see `multiclass_hinge_loss`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> scores = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 1.0]])
      >>> print(gdjax.losses.multiclass_sparsemax_loss(scores, jnp.array([0, 2])))
      [0.0625 2.    ]

    References:
      Martins & Astudillo (2016), https://arxiv.org/abs/1602.02068, equation 24.
    """
    margins, _ = _margins("multiclass_sparsemax_loss", scores, labels)
    p = unit_simplex(margins)
    return jnp.sum(p * jnp.where(p > 0, margins, 0), axis=-1) + 0.5 * (1 - jnp.sum(p * p, axis=-1))


def _products(call, predictor_outputs, targets):
    arrays = read(call, {"predictor_outputs": predictor_outputs}, {"targets": targets})
    outputs, targets = broadcast(call, predictor_outputs=arrays[0], targets=arrays[1])
    return outputs * targets


def _margins(call, scores, labels):
    """Return every score minus that of the label, which is exactly 0 for the label itself."""
    (scores,) = read(call, {"scores": scores})
    labels = read_classes(call, labels, scores.shape[:-1], of="scores")
    return scores - pick(scores, labels)[..., None], labels
