"""Losses that vanish beyond a margin: hinge, perceptron and sparsemax, binary and multiclass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.numerics import product, with_value
from gdjax.losses.inputs import (
    as_array,
    at_least_zero,
    below_top,
    broadcast,
    pick,
    read,
    read_classes,
)
from gdjax.projections import unit_simplex


@strict()
def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    r"""Return the hinge loss, that of the support vector machine.

    .. math::

       \max(0,\; 1 - y z)

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
    r"""Return the perceptron's loss: only the sign of the output has to be correct.

    .. math::

       \max(0,\; -y z)

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
    r"""Return the binary sparsemax loss: quadratic within the margin, linear for wrong labels.

    With :math:`s = -z` for label 1 and :math:`s = z` for label 0:

    .. math::

       \begin{cases} 0 & s \le -1 \\ (s + 1)^2 / 4 & -1 < s < 1 \\ s & s \ge 1 \end{cases}

    Args:
      logits: float array of any shape.
      labels: array that broadcasts with it, with values 0 and 1.

    Raises:
      TypeError: if `logits` is not float.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.losses.sparsemax_loss(jnp.array([0.0, 2.0, 2.0]), jnp.array([1, 1, 0])))
      [0.25 0.   2.  ]

    References:
      Blondel, Martins & Niculae (2020), "Learning with Fenchel-Young losses", section 4.4.
    """
    labels = as_array("sparsemax_loss(labels=...)", labels)
    logits, labels = read("sparsemax_loss", {"logits": logits}, {"labels": labels})
    logits, labels = broadcast("sparsemax_loss", logits=logits, labels=labels)
    z = jnp.where(labels != 0, -logits, logits)
    return 0.25 * (jnp.clip(z, -1, 1) + 1) ** 2 + jnp.maximum(z - 1, 0)


@strict()
def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the hinge loss of several classes (Crammer & Singer).

    .. math::

       \max_j (z_j + 1[j \ne y]) - z_y

    Args:
      scores: float array [..., classes].
      labels: integer array [...]; the loss of a label outside [0, classes) is NaN. Where the
        label's own score is -inf it is infinite.

    Raises:
      TypeError: if `scores` is not float or `labels` not integer.
      ValueError: if the shapes do not fit.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> scores = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 1.0]])
      >>> print(gdjax.losses.multiclass_hinge_loss(scores, jnp.array([0, 2])))
      [0.5 3. ]
    """
    margins, other, label = _margins("multiclass_hinge_loss", scores, labels)
    return _loss(2 * jnp.max(margins + 0.5 * other.astype(margins.dtype), axis=-1), label)


@strict()
def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the perceptron's loss of several classes.

    .. math::

       \max_j z_j - z_y

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
    margins, _, label = _margins("multiclass_perceptron_loss", scores, labels)
    return _loss(2 * jnp.max(margins, axis=-1), label)


@strict()
def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    r"""Return the sparsemax loss, whose gradient is sparsemax(scores) - onehot(label).

    .. math::

       \max_{p \in \Delta} \left( p^\top z - \tfrac12 \lVert p \rVert^2 \right)
       + \tfrac12 - z_y

    with :math:`\Delta` the probability simplex.

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
    margins, _, label = _margins("multiclass_sparsemax_loss", scores, labels)
    return _loss(at_least_zero(_sparse_maximum(margins)), label)


@jax.custom_jvp
def _sparse_maximum(margins):
    """Return max over the simplex of p . 2 margins + (1 - |p|^2) / 2; its gradient is 2 p."""
    p = _sparsemax(margins)
    return 2 * jnp.sum(product(p, margins), -1) + 0.5 * (1 - jnp.sum(p * p, -1))


@_sparse_maximum.defjvp
def _sparse_maximum_jvp(primals, tangents):
    (margins,), (tangent,) = primals, tangents
    return _sparse_maximum(margins), 2 * jnp.sum(_sparsemax(margins) * tangent, -1)


def _sparsemax(margins):
    # p is 0 for all that are 1 or more below the largest; their distance does not matter
    return unit_simplex(jnp.maximum(2 * below_top(margins, (margins.ndim - 1,))[0], -2))


def _products(call, predictor_outputs, targets):
    arrays = read(call, {"predictor_outputs": predictor_outputs}, {"targets": targets})
    outputs, targets = broadcast(call, predictor_outputs=arrays[0], targets=arrays[1])
    return product(outputs, targets)


def _margins(call, scores, labels):
    """Return half of every score minus that of the label, a mask of the others, and the latter.

    Half, so that no difference overflows. The label's own margin is exactly 0. Where its score is
    infinite the others are not reduced by it: the loss takes the limit, see `_loss`.
    """
    (scores,) = read(call, {"scores": scores})
    labels = read_classes(call, labels, scores.shape[:-1], of="scores")
    classes = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    other = classes != labels[..., None].astype(jnp.int32)
    label = pick(scores, labels)
    base = with_value(label, jnp.where(jnp.isinf(label), 0, label))[..., None]
    margins = 0.5 * scores - 0.5 * base
    highest, lowest = label[..., None] == jnp.inf, label[..., None] == -jnp.inf
    beaten = jnp.where(scores == jnp.inf, jnp.nan, jnp.where(jnp.isnan(scores), scores, -jnp.inf))
    margins = with_value(margins, jnp.where(highest, beaten, margins))
    own = jnp.where(lowest, -jnp.inf, jnp.where(jnp.isnan(label[..., None]), jnp.nan, 0))
    return jnp.where(other, margins, own.astype(margins.dtype)), other, label


def _loss(loss, label):
    """Return the loss, infinite where the label's score is -inf."""
    return with_value(loss, jnp.where((label == -jnp.inf) & ~jnp.isnan(loss), jnp.inf, loss))
