"""Kronecker factors Q_k, one for each axis of an array, fitted so that their product whitens it.

Li (2015), https://arxiv.org/abs/1512.04202; Pooladzandi & Li (2024),
https://arxiv.org/abs/2402.04553; Li (2024), https://arxiv.org/abs/2402.11858. A factor is a matrix
[n, n] or a diagonal [n]. The criterion is |Q x|^2 + |Q^-H v|^2 for random v, where Q is the
Kronecker product of all factors: it is minimal where Q^H Q x is white.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.every import is_due
from gdjax.core.numerics import abs_sq
from gdjax.linalg.axes import along, along_inverse, gram, matmul, scaled, sum_others
from gdjax.linalg.norm_bounds import spectral_norm_lower_bound

Factors: TypeAlias = tuple[Array, ...]
Saving: TypeAlias = Literal["one_diag", "all_diag"]
SAVING = (None, *get_args(Saving))


Kept: TypeAlias = tuple[Factors, Array | None, Array, Array]  # see `learned`


def first_factors(
    shape: tuple[int, ...], scale: Array, limit: int, least_ndim: int, saving: Saving | None
) -> Factors:
    """Return multiples of the identity, in the dtype of `scale`, whose Kronecker product is it.

    Args:
      shape: of the array, at least one axis.
      scale: a number > 0.
      limit: longer axes have diagonals.
      least_ndim: arrays of fewer axes have diagonals.
      saving: one of `SAVING`: "one_diag" for a diagonal on the longest axis, "all_diag" on all.

    Example:
      >>> [q.shape for q in first_factors((2, 5, 1), jnp.ones(()), 8, 2, None)]
      [(2, 2), (5, 5), (1,)]
      >>> [q.shape for q in first_factors((2, 5, 5), jnp.ones(()), 8, 2, "one_diag")]
      [(2, 2), (5, 5), (5,)]
    """
    longest = max(range(len(shape)), key=lambda i: (shape[i], i))  # the last of equal ones
    root, factors = scale ** (1 / len(shape)), []
    for i, n in enumerate(shape):
        diagonal = n == 1 or n > limit or len(shape) < least_ndim
        diagonal |= saving == "all_diag" or (saving == "one_diag" and i == longest)
        one = jnp.ones(n, scale.dtype) if diagonal else jnp.eye(n, dtype=scale.dtype)
        factors.append(root * one)
    return tuple(factors)


def whitened(x: Array, factors: Factors) -> Array:
    """Return x with Q_k^H Q_k applied along every axis.

    Example:
      >>> print(whitened(jnp.ones((2, 2)), (jnp.array([1.0, 2.0]), jnp.eye(2))))
      [[1. 1.]
       [4. 4.]]
    """
    for axis, q in enumerate(factors):
        if q.ndim == 1:
            x = scaled(x, [None] * axis + [abs_sq(q)])
        else:
            x = along(along(x, q.T, axis), q.conj(), axis)
    return x


def learned(
    kept: Kept, x: Array, key: Array, rate: Array, decay: Array | None, balance_interval: Array
) -> Kept:
    """Return factors after one step; for `renew_when`.

    The noise in x keeps the criterion bounded. If x is zero or the step would not be finite, the
    factors do not change.

    Args:
      kept: factors; bounds for `procrustes_step`, or None for `triangular_step`; the numbers of
        updates and of failures.
      x: the array to whiten, with at least one axis.
      key: for the noise.
      rate: step size.
      decay: of the bounds, or None.
      balance_interval: updates from one balancing of the factors to the next.
    """
    old, bounds, updates, failures = kept
    nonzero = jnp.any(x != 0)
    probe = jax.random.normal(key, x.shape, x.dtype)
    noisy = x + math.sqrt(np.finfo(np.float32).eps) * jnp.mean(jnp.abs(x)) * probe
    new, tops = balanced(old, is_due(updates + 1, balance_interval)), None
    if bounds is None or decay is None:
        new = triangular_step(new, noisy, probe, rate)
    else:
        new, tops = procrustes_step(new, bounds, noisy, rate, decay)
    largest = functools.reduce(jnp.multiply, [jnp.max(jnp.abs(q)) ** 2 for q in new])
    limit = jnp.finfo(largest.dtype).max ** 0.5  # beyond, the product with a gradient may overflow
    ok = jnp.all(jnp.array([jnp.all(jnp.isfinite(q)) for q in new])) & (largest < limit)
    factors, bounds = jax.tree.map(
        lambda a, b: jnp.where(ok & nonzero, a, b), (new, tops), (old, bounds)
    )
    return factors, bounds, updates + 1, failures + (nonzero & ~ok)


def triangular_step(factors: Factors, x: Array, probe: Array, rate: Array) -> Factors:
    """Return upper triangular factors after a step of gradient descent on their Lie group.

    A = x with every Q_k applied;  B = the probe with every Q_k^-H applied;
    Q_k = Q_k - rate * triu(A_k A_k^H - B_k B_k^H) Q_k / |A_k A_k^H + B_k B_k^H|
    """
    a, b = x, probe.conj()
    for axis, q in enumerate(factors):
        if q.ndim == 1:
            a, b = scaled(a, [None] * axis + [q]), scaled(b, [None] * axis + [1 / q])
        else:
            a, b = along(a, q.T, axis), along_inverse(b, q, axis)
    b, new = b.conj(), []
    for axis, q in enumerate(factors):
        first, second = _seen(a, q, axis), _seen(b, q, axis)
        step = rate / (_largest(first + second) + jnp.finfo(q.real.dtype).tiny)
        change = step.astype(first.dtype) * (first - second)
        new.append(q - (change * q if q.ndim == 1 else matmul(jnp.triu(change), q)))
    return tuple(new)


def procrustes_step(
    factors: Factors, bounds: Array, x: Array, rate: Array, decay: Array
) -> tuple[Factors, Array]:
    """Return full factors after a step without solves, and the bounds that divide it.

    With y = `whitened(x)`, C = y_k y_k^H and tau = elements / side:
    l = max(decay * l + (1 - decay) |C + tau|, |C + tau|);  Q_k = Q_k - rate * (C - tau) Q_k / l;
    then Q_k is rotated a little towards the Hermitian factor of the same Q_k^H Q_k.

    Args:
      factors: Q_k.
      bounds: the l of each axis, [axes]; 0 at first.
      x: the array to whiten; a little noise in it keeps Q_k regular.
      rate: step size.
      decay: of the bounds, in [0, 1).
    """
    y, new, tops = whitened(x, factors), [], []
    for axis, q in enumerate(factors):
        seen, target = _seen(y, q, axis), x.size / len(q)
        top = _largest(seen) + target
        tops.append(jnp.maximum(decay * bounds[axis] + (1 - decay) * top, top))
        step = (rate / tops[-1]).astype(q.dtype)
        if q.ndim == 1:
            new.append(q - step * (seen - target) * q)
        else:
            new.append(_turned(q - step * (matmul(seen, q) - target * q)))
    return tuple(new), jnp.stack(tops)


def balanced(factors: Factors, due: Array) -> Factors:
    """Return factors rescaled to equal largest elements, if due; their product does not change.

    Example:
      >>> [q.tolist() for q in balanced((jnp.array([8.0, 2.0]), jnp.array([0.5])), jnp.array(True))]
      [[2.0, 0.5], [2.0]]
    """
    sizes = jnp.stack([jnp.max(jnp.abs(q)) for q in factors])
    mean = jnp.exp(jnp.mean(jnp.log(sizes)))
    by = jnp.where(due & (mean > 0) & jnp.isfinite(mean), mean / sizes, 1)
    return tuple(q * by[i].astype(q.dtype) for i, q in enumerate(factors))


def _seen(x: Array, q: Array, axis: int) -> Array:
    """Return the Gram matrix of x along an axis, or its diagonal for a diagonal factor."""
    return sum_others(abs_sq(x), axis) if q.ndim == 1 else gram(x, axis)


def _largest(seen: Array) -> Array:
    """Return a lower bound of the largest eigenvalue."""
    return jnp.max(seen) if seen.ndim == 1 else spectral_norm_lower_bound(seen)


def _turned(q: Array) -> Array:
    """Return exp(a R) Q to second order, with R = (Q^H - Q) / |Q^H - Q|.

    a <= 1/8 maximizes the real trace, which is largest at the Hermitian factor. The bound is
    psgd_torch's; heavyball's PSGDPRO goes up to 1/2.
    """
    r = q.conj().T - q
    r = r / (spectral_norm_lower_bound(r) + jnp.finfo(q.real.dtype).tiny).astype(q.dtype)
    first = matmul(r, q)
    second = matmul(r, first)
    up, down = jnp.trace(first).real, jnp.trace(second).real
    a = jnp.where(down < 0, jnp.clip(-up / jnp.where(down < 0, down, -1), 0, 0.125), 0.125)
    a = a.astype(q.dtype)
    return q + a * first + 0.5 * a * a * second
