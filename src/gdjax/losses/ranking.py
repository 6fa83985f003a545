"""Ranking losses over lists of items along the last axis."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.losses.cross_entropy import softmax_cross_entropy
from gdjax.losses.inputs import broadcast, masked, read, read_mask


@strict()
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., Array] | None = jnp.mean,
) -> Array:
    r"""Return the softmax cross entropy of each list of items, reduced over the lists.

    .. math::

       -\sum_i w_i y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}}

    A list without valid items has loss 0 and gradient 0 and does not count in the mean (optax: the
    gradient is NaN).

    Args:
      logits: float array [..., items], the scores.
      labels: real array that broadcasts with it, the relevance of each item.
      where: boolean mask that broadcasts to `logits`: the valid items.
      weights: real array that broadcasts with `logits`, or None.
      reduce_fn: called as reduce_fn(losses) or, with a mask, reduce_fn(losses, where=valid lists);
        None returns the losses of the lists. The default returns the mean over the valid lists, or
        0 if there are none.

    Returns:
      The result of `reduce_fn`, by default one number.

    Raises:
      TypeError: if `logits` is not float, or `where` not boolean.
      ValueError: if the shapes do not fit.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> scores = jnp.array([[2.0, 1.0, 0.0], [1.0, 0.5, 1.5]])
      >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
      >>> valid = jnp.array([[True, True, False], [True, True, True]])
      >>> print(gdjax.losses.ranking_softmax_loss(scores, labels, where=valid).round(3))
      0.497

    References:
      Cao et al. (2007), "Learning to rank: from pairwise approach to listwise approach".
    """
    call = "ranking_softmax_loss"
    s, y = read(call, {"logits": logits}, {"labels": labels})
    s, y = broadcast(call, logits=s, labels=y)
    mask = read_mask(call, where, s.shape)
    if weights is not None:
        (w,) = read(call, {}, {"weights": weights})
        w = broadcast(call, logits=s, weights=w.astype(s.dtype))[1]
        y = masked(y, mask) * masked(w, mask)
    losses = softmax_cross_entropy(s, y, where=mask)
    if mask is None:
        return losses if reduce_fn is None else reduce_fn(losses)
    valid = jnp.any(mask, axis=-1)
    if reduce_fn is None:
        return losses
    if reduce_fn is jnp.mean:
        return jnp.sum(masked(losses, valid)) / jnp.maximum(jnp.sum(valid), 1).astype(s.dtype)
    return reduce_fn(losses, where=valid)
