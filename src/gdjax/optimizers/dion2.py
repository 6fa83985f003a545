"""Dion2: Muon on those rows of the momentum that have gathered most.

Ahn et al. (2025), https://arxiv.org/abs/2512.16928
Paper -> here: M -> mu, mu -> beta, alpha -> fraction. Deviations: none. The rows are those along
the shorter side of a matrix, by their sums of absolute values.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.trees import magnitude
from gdjax.optimizers.muon import RANGES
from gdjax.optimizers.shared.orthogonal import only_momentum, or_adam, orthogonalized, scaled


def _largest(rows: Array, fraction: float) -> Array:
    """Return the indices of the largest rows of a matrix [m, n]."""
    k = min(math.ceil(fraction * len(rows)), len(rows))
    return jax.lax.top_k(jnp.sum(magnitude(jax.lax.stop_gradient(rows)), -1), k)[1]


@functools.lru_cache(maxsize=64)
def _of_largest_rows(fraction: float, kernel: Any) -> Any:
    def kernel_of_rows(x, table, eps):
        at = _largest(x, fraction)
        return jnp.zeros_like(x).at[at].set(kernel(x[at], table, eps), unique_indices=True)

    return kernel_of_rows


def _gathered(grad, slots, param, count, **rest):
    if slots.axes is None:
        return grad, slots
    mu = slots.mu + grad
    return mu, slots._replace(mu=mu)


def _dion2(o, slots, count, *, beta, consistent_rms, scale, fraction):
    def decayed(matrices):  # the rows that were used: error feedback
        m, n = matrices.shape[-2:]
        if m > n:
            return decayed(matrices.mT).mT
        if matrices.ndim > 2:
            return jax.vmap(decayed)(matrices)
        return matrices.at[_largest(matrices, fraction)].multiply(beta, unique_indices=True)

    mu = slots.axes.map(decayed, slots.mu)
    return scaled(o, slots.axes, scale, consistent_rms), slots._replace(mu=mu)


@checked(**RANGES)
def dion2(
    learning_rate: Any,
    fraction: float = 0.25,
    ns_coeffs: Any = "you",
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.01,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.95,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
    scale: str | None = "spectral",
    ns_dtype: Any = None,
) -> Optimizer:
    """Run Muon on the largest rows of each matrix's momentum; the others wait and gather.

    Good for: Muon at a fraction of its arithmetic, for large matrices.

    mu += g;  S = the k rows of largest L1 norm;  update[S] = -learning_rate * scale * polar(mu[S]);
    mu[S] *= beta;  weight decay everywhere

    Args:
      learning_rate: see `muon`, like all arguments that are not named here.
      fraction: share of the rows that move, k = ceil(fraction * rows), in (0, 1]; it is a shape, so
        it must be a Python number. "Rows" are along the shorter side.
      ns_coeffs: see `muon`.
      ns_steps: see `muon`.
      beta: what stays in the momentum of a row that was used, in [0, 1).
      eps: see `muon`.
      weight_decay: see `muon`.
      weight_decay_mask: see `muon`.
      mu_dtype: see `muon`.
      preconditioning: see `muon`.
      adam_b1: see `muon`.
      adam_b2: see `muon`.
      adam_eps_root: see `muon`.
      adam_weight_decay: see `muon`.
      adam_learning_rate: see `muon`.
      muon_weight_dimension_numbers: see `muon`.
      consistent_rms: see `muon`.
      scale: see `muon`; of the whole matrix.
      ns_dtype: see `muon`.

    Returns:
      As `muon`.

    Raises:
      ValueError: as `muon`, and for a fraction out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.dion2(1.0, 0.5, "polar_express", 8, weight_decay=None)
      >>> grads = jnp.array([[3.0, 0.0], [0.0, 2.0]])
      >>> updates, state = opt.update(grads, opt.init(grads), grads)
      >>> print(updates.round(3))
      [[-1. -0.]
       [-0. -0.]]

    References:
      Ahn et al. (2025), "Dion2: a simple method to shrink matrix in Muon".
    """
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ValueError(
            f"dion2(fraction=...) must be a Python number in (0, 1], got {fraction!r}."
        )
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
    return orthogonalized(
        or_adam(_dion2),
        numbers,
        name="dion2",
        ns_coeffs=ns_coeffs,
        ns_steps=ns_steps,
        preconditioning=preconditioning,
        ns_dtype=ns_dtype,
        dimension_numbers=muon_weight_dimension_numbers,
        mask=weight_decay_mask,
        slots=functools.partial(only_momentum, mu_dtype=mu_dtype, adam=True),
        first=_gathered,
        around=functools.partial(_of_largest_rows, fraction),
        nesterov=False,
        scale=scale,
        fraction=fraction,
    )
