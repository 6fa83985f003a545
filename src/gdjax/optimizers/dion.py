"""Dion: Muon of low rank, by one step of a power iteration with QR, and error feedback.

Ahn et al. (2025), Algorithm 1, https://arxiv.org/abs/2504.05295
Paper -> here: M -> mu, Q -> nu, mu -> 1 - the feedback, beta; r -> the rank. Deviations: the first
basis is Gaussian, drawn from `key` and the index of the parameter among all.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import check_choice, checked
from gdjax.core.keys import fresh_key
from gdjax.core.lift import leafwise, mask_decay
from gdjax.core.numerics import abs_sq, compute_dtype, safe_sqrt
from gdjax.optimizers.muon import RANGES
from gdjax.optimizers.shared.orthogonal import (
    SCALES,
    Orthogonal,
    init_with,
    only_momentum,
    or_adam,
    scaled,
)

_matmul = functools.partial(jnp.matmul, precision="highest")


def _orthonormal(x: Array) -> Array:
    """Return an orthonormal basis of the columns; the columns of a zero matrix stay zero.

    Dependent columns have no QR that can be differentiated: they get a little of the unit matrix,
    too little to matter for others.
    """
    size = safe_sqrt(jnp.sum(abs_sq(x), (-2, -1), keepdims=True))
    one = jnp.eye(x.shape[-2], x.shape[-1], dtype=x.dtype)
    some = size > 0
    unit = x / jnp.where(some, size, 1) + jnp.finfo(x.dtype).eps * one
    q = jnp.linalg.qr(jnp.where(some, unit, one))[0]
    return jnp.where(some, q, 0)


def _dion(grad, slots, count, *, beta, eps, scale, consistent_rms):
    axes = slots.axes
    m = axes.matrices(slots.mu) + axes.matrices(grad)
    p = _orthonormal(_matmul(m, slots.nu))
    r = _matmul(m.conj().mT, p)
    m = m - (1 - beta) * _matmul(p, r.conj().mT)
    norms = safe_sqrt(jnp.sum(abs_sq(r), -2, keepdims=True))
    q = r / (norms + eps)
    direction = axes.array(_matmul(p, q.conj().mT), grad)
    live = jnp.any(p != 0, (-2, -1), keepdims=True)
    new = slots._replace(mu=axes.array(m, grad), nu=jnp.where(live, q, slots.nu))
    return scaled(direction, axes, scale, consistent_rms), new


def _slots(param, axes, index, key, rank_fraction, mu_dtype) -> Orthogonal:
    slots = only_momentum(param, axes, mu_dtype=mu_dtype, adam=True)
    if axes is None:
        return slots
    *batch, m, n = axes.shape(param)
    shape = (*batch, n, max(1, math.ceil(rank_fraction * min(m, n))))
    dtype = compute_dtype(param)
    return slots._replace(
        nu=jax.random.normal(jax.random.fold_in(fresh_key(key), index), shape, dtype)
    )


@checked(**RANGES)
def dion(
    learning_rate: Any,
    rank_fraction: float = 0.25,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.01,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    key: Any = 0,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.95,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
    scale: str | None = "spectral",
) -> Optimizer:
    """Step along an orthonormal matrix of low rank that follows the momentum; Adam for the rest.

    Good for: Muon's directions where matrices are sharded, or too large for products of their side.

    M += g;  P = qr(M Q);  R = M^T P;  M -= (1 - beta) P R^T;  Q = R / (column norms + eps);
    update = -learning_rate * (scale * P Q^T + weight_decay * param)

    Args:
      learning_rate: see `muon`, like all arguments that are not named here.
      rank_fraction: the rank over the smaller side, in (0, 1]; a shape, so a Python number.
      beta: what stays in the momentum of the part that was used, in [0, 1).
      eps: added to the norms of the columns, and Adam's, >= 0.
      weight_decay: see `muon`.
      weight_decay_mask: see `muon`.
      mu_dtype: see `muon`.
      key: an int or `jax.random.key` for the first basis.
      adam_b1: see `muon`.
      adam_b2: see `muon`.
      adam_eps_root: see `muon`.
      adam_weight_decay: see `muon`.
      adam_learning_rate: see `muon`.
      muon_weight_dimension_numbers: see `muon`; without `splits`.
      consistent_rms: see `muon`.
      scale: see `muon`.

    Returns:
      As `muon`. State of an m x n matrix: 4 m n + 4 r n bytes.

    Raises:
      ValueError: as `muon`, and for a fraction out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.dion(1.0, 0.5, weight_decay=None)
      >>> grads = jnp.array([[3.0, 0.0], [0.0, 0.0]])
      >>> updates, state = opt.update(grads, opt.init(grads), grads)
      >>> print(abs(updates.round(3)), state.slots.mu)
      [[1. 0.]
       [0. 0.]] [[2.85 0.  ]
       [0.   0.  ]]

    References:
      Ahn et al. (2025), "Dion: distributed orthonormalized updates".
    """
    if not isinstance(rank_fraction, int | float) or not 0 < rank_fraction <= 1:
        raise ValueError(
            f"dion(rank_fraction=...) must be a number in (0, 1], got {rank_fraction!r}."
        )
    check_choice("dion(scale=...)", scale, SCALES)
    numbers = dict(
        learning_rate=learning_rate,
        beta=beta,
        eps=eps,
        weight_decay=weight_decay,
        consistent_rms=consistent_rms,
        adam_learning_rate=adam_learning_rate,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
    )
    slots = functools.partial(_slots, key=key, rank_fraction=rank_fraction, mu_dtype=mu_dtype)
    init = init_with(slots, numbers, muon_weight_dimension_numbers, "dion")
    update = leafwise(or_adam(_dion), nesterov=False, scale=scale).update
    return mask_decay(Optimizer(init, update), weight_decay_mask)
