"""Dion2: Muon on the largest rows of the momentum.

Ahn et al. (2025), https://arxiv.org/abs/2512.16928
Paper -> here: M -> mu, mu -> beta, alpha -> fraction. Deviations: none. The rows are those along
the shorter side of a matrix, by their sums of absolute values.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.dealing import Devices
from gdjax.core.trees import magnitude
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.linalg.matrices import MatrixSpec
from gdjax.linalg.polar import Coefficients, Kernel, Preconditioning
from gdjax.optimizers.shared.orthogonal import (
    RANGES,
    Scale,
    accumulated,
    check_share,
    only_momentum,
    or_adam,
    orthogonalized,
    scaled,
)


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


def _largest(rows: Array, fraction: float) -> Array:
    """Return the indices of the largest rows of a matrix [m, n]."""
    k = min(math.ceil(fraction * len(rows)), len(rows))
    return jax.lax.top_k(jnp.sum(magnitude(jax.lax.stop_gradient(rows)), -1), k)[1]


@functools.lru_cache(maxsize=64)
def _of_largest_rows(fraction: float, kernel: Kernel) -> Kernel:
    def kernel_of_rows(x, table, eps):
        at = _largest(x, fraction)
        return jnp.zeros_like(x).at[at].set(kernel(x[at], table, eps), unique_indices=True)

    return kernel_of_rows


@checked(**RANGES)
def dion2(
    learning_rate: Hyperparam,
    fraction: float = 0.25,
    ns_coeffs: Coefficients = "you",
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.01,
    weight_decay_mask: Mask = None,
    mu_dtype: FloatDType = None,
    *,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.95,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam | None = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    muon_weight_dimension_numbers: MatrixSpec = None,
    consistent_rms: Hyperparam | None = None,
    scale: Scale | None = "spectral",
    ns_dtype: FloatDType = None,
    mesh: Devices = None,
) -> Optimizer:
    r"""Run Muon on the largest rows of each matrix's momentum; the others only accumulate.

    Good for: Muon at a fraction of its arithmetic, for large matrices.

    Evidence: authors only. Ahn et al. 2025, arXiv 2512.16928.

    With the set :math:`S` of the k rows of :math:`B_t` whose L1 norms are the largest:

    .. math::

       B_t &= M_{t-1} + g_t \\
       O_{t,S} &= \operatorname{polar}(B_{t,S}), \quad O_{t,i} = 0 \text{ for } i \notin S \\
       x_t &= x_{t-1} - \eta_t (c O_t + \lambda x_{t-1}) \\
       M_{t,S} &= \beta B_{t,S}, \quad M_{t,i} = B_{t,i} \text{ for } i \notin S

    Here :math:`c` is the ``scale``. Other parameters are updated by Adam.

    Args:
      learning_rate: :math:`\eta_t`, see `muon`, like all arguments that are not named here.
      fraction: share of the rows that move, k = ceil(fraction * rows), in (0, 1]. It decides
        shapes, so it must be a Python number. "Rows" are along the shorter side.
      ns_coeffs: see `muon`.
      ns_steps: see `muon`.
      beta: :math:`\beta`, the share of a used row that stays in the momentum, in [0, 1).
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
      mesh: see `muon`.

    Returns:
      As `muon`.
      State: 4 bytes per element of a matrix, :math:`M_t` (`mu`), 8 of the rest.

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
    arguments = locals()
    check_share("dion2(fraction=...)", fraction)
    return orthogonalized(
        or_adam(_dion2),
        arguments,
        name="dion2",
        slots=functools.partial(only_momentum, mu_dtype=mu_dtype, adam=True),
        first=accumulated,
        around=functools.partial(_of_largest_rows, fraction),
        nesterov=False,
        scale=scale,
        fraction=fraction,
    )
