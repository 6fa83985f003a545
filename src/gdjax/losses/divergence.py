"""Divergences between predicted and target distributions, with the convention 0 log 0 = 0."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.numerics import bounded, product, with_value
from gdjax.losses.inputs import Axis, broadcast, masked, read, read_axes, read_mask


@strict()
def kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the Kullback-Leibler divergence of targets from predictions.

    .. math::

       \sum_i q_i (\log q_i - \log p_i)

    with q the targets and p the predictions. Where a target is 0 the term is 0 and its gradient is
    finite, even for a log prediction of -inf (optax: both are NaN). The result is never negative by
    rounding; it may be negative where the predictions sum to more than the targets.

    Args:
      log_predictions: float array [..., dim], log probabilities.
      targets: float array [..., dim], probabilities >= 0.
      axis: axis or axes of the distribution; None means all.
      where: boolean mask that broadcasts to the arrays: the elements to include.

    Returns:
      Divergences in nats, with the shape of the arrays without `axis`.

    Raises:
      TypeError: if an array is not float, or `where` not boolean.
      ValueError: if shapes do not fit or `axis` is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> p = jnp.log(jnp.array([0.5, 0.25, 0.25]))
      >>> print(gdjax.kl_divergence(p, jnp.array([0.5, 0.5, 0.0])).round(4))
      0.3466

    References:
      Kullback & Leibler (1951), "On information and sufficiency".
    """
    log_p, q, axes, mask = _read("kl_divergence", log_predictions, targets, axis, where)
    return _total(_terms(log_p, q), log_p, q, axes, mask)


@strict()
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Return `kl_divergence` for targets given as logarithms, which may be -inf.

    Args:
      log_predictions: see `kl_divergence`.
      log_targets: float array [..., dim], log probabilities.
      axis: see `kl_divergence`.
      where: see `kl_divergence`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> p = jnp.log(jnp.array([0.5, 0.25, 0.25]))
      >>> q = jnp.log(jnp.array([0.5, 0.5, 0.0]))
      >>> print(gdjax.losses.kl_divergence_with_log_targets(p, q).round(4))
      0.3466
    """
    call = "kl_divergence_with_log_targets"
    log_p, log_q, axes, mask = _read(call, log_predictions, log_targets, axis, where, "log_targets")
    there, q = log_q != -jnp.inf, masked(jnp.exp(log_q), mask)
    gap = jnp.where(there, log_q, 0) - jnp.where(there | (log_p > -jnp.inf), log_p, 0)
    return _total(product(q, gap), log_p, q, axes, mask)


@strict()
def generalized_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the divergence `kl_divergence` for values that need not sum to 1.

    .. math::

       \sum_i q_i (\log q_i - \log p_i) + \sum_i (p_i - q_i)

    It is the Bregman divergence of x log x - x: 0 if both are equal, and positive otherwise.

    Args:
      log_predictions: see `kl_divergence`.
      targets: see `kl_divergence`.
      axis: see `kl_divergence`.
      where: see `kl_divergence`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> p = jnp.log(jnp.array([1.0, 2.0]))
      >>> print(gdjax.generalized_kl_divergence(p, jnp.array([1.0, 1.0])).round(4))
      0.3069

    References:
      Boyd & Vandenberghe (2004), "Convex optimization", page 90.
    """
    call = "generalized_kl_divergence"
    log_p, q, axes, mask = _read(call, log_predictions, targets, axis, where)
    p = masked(jnp.exp(log_p), mask)
    terms = _terms(log_p, q) + (p - q)
    value = jnp.where(p == jnp.inf, p + q, jnp.maximum(terms, 0))
    return jnp.sum(with_value(terms, jnp.where(q < 0, jnp.nan, value)), axis=axes)


@strict()
def js_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Return the Jensen-Shannon divergence: the mean KL divergence of both from their average.

    .. math::

       \tfrac12 \mathrm{KL}(q, m) + \tfrac12 \mathrm{KL}(p, m), \qquad m = (p + q) / 2

    It is symmetric and at most log 2, even if the supports are disjoint. optax does not have it.

    Args:
      log_predictions: see `kl_divergence`.
      targets: see `kl_divergence`.
      axis: see `kl_divergence`.
      where: see `kl_divergence`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> p = jnp.array([0.0, -jnp.inf])
      >>> print(gdjax.losses.js_divergence(p, jnp.array([0.0, 1.0])))
      0.6931472

    References:
      Lin (1991), "Divergence measures based on the Shannon entropy".
    """
    log_p, q, axes, mask = _read("js_divergence", log_predictions, targets, axis, where)
    p = masked(jnp.exp(log_p), mask)
    tiny = jnp.finfo(q.dtype).tiny
    log_q = jnp.where(jnp.abs(q) < tiny, -jnp.inf, jnp.log(jnp.where(jnp.abs(q) < tiny, 1, q)))
    # log p - log((p + q) / 2) = log 2 - log(1 + q / p), and 0 where both are 0
    nothing = (p == 0) & (log_q == -jnp.inf)
    gap = jnp.where(nothing, 0, jnp.where(nothing, 0, log_q) - bounded(log_p))
    first = product(p, math.log(2) - jax.nn.softplus(gap))
    second = product(q, jnp.where(log_q == -jnp.inf, 0, math.log(2) - jax.nn.softplus(-gap)))
    terms = first + second
    value = jnp.where(p == jnp.inf, p + q, jnp.maximum(terms, 0))
    return 0.5 * jnp.sum(with_value(terms, value), axis=axes)


def _read(call, log_predictions, targets, axis, where, name="targets"):
    log_p, q = read(call, {"log_predictions": log_predictions, name: targets})
    log_p, q = broadcast(call, **{"log_predictions": log_p, name: q})
    axes = read_axes(call, axis, log_p.ndim)
    mask = read_mask(call, where, log_p.shape)
    return masked(log_p, mask), masked(q, mask), axes, mask


def _terms(log_p, q):
    # a number below the normal ones has no logarithm where the device rounds it to 0, and a
    # negative target is not a probability: the result is NaN
    there = (jnp.abs(q) >= jnp.finfo(q.dtype).tiny) | jnp.isnan(q)
    log_q = jnp.log(jnp.where(there, q, 1))
    return product(q, log_q - jnp.where(there | (log_p > -jnp.inf), log_p, 0))


def _total(terms, log_p, q, axes, mask):
    """Return the sum of the terms; at least 0 where theory says so, whatever rounding did.

    It is at least 0 where the predictions do not sum to more than the targets, here up to the
    rounding of their logarithms.
    """
    total = jnp.sum(terms, axis=axes)
    slack = 16 * jnp.finfo(q.dtype).eps
    p = jnp.sum(masked(jnp.exp(log_p), mask), axis=axes)
    proper = p <= jnp.sum(q, axis=axes) * (1 + slack)
    return with_value(total, jnp.where(proper, jnp.maximum(total, 0), total))
