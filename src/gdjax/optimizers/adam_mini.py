"""Adam-mini: Adam with one step size for each block of a parameter, in half of the memory.

Zhang et al. (2024), Algorithm 2, https://arxiv.org/abs/2406.16793
Paper -> here: m -> mu, v -> nu, t -> count, eta -> learning_rate, lambda -> weight_decay.
Deviations: blocks are specified by axes, not inferred from the names of the parameters; `eps_root`
is an addition.
"""

from __future__ import annotations

import functools

import jax

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.lift import descend
from gdjax.core.numerics import (
    abs_sq,
    bias_correction,
    compute_dtype,
    mean_to,
    real_dtype,
    safe_divide,
    safe_sqrt,
)
from gdjax.core.placement import zeros_along
from gdjax.core.types import FloatDType, Hyperparam, Mask, Params
from gdjax.linalg.matrices import AxesSpec, axes_per_leaf
from gdjax.optimizers.adam import Moments, zero_moments
from gdjax.optimizers.shared.slots import with_slots


def _adam_mini(grad, slots, param, count, *, b1, b2, eps, eps_root):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * mean_to(abs_sq(grad), slots.nu.shape)
    root = safe_sqrt(nu / bias_correction(b2, count) + eps_root)
    return safe_divide(mu / bias_correction(b1, count), root + eps), Moments(mu, nu)


def _slots(params: Params, block_axes: AxesSpec, mu_dtype: FloatDType) -> list[Moments]:
    """Return for each parameter the mean, and the mean square of each block."""
    axes = axes_per_leaf("adam_mini(block_axes=...)", block_axes, params, (-1,))
    rows = []
    for x, kept in zip(jax.tree.leaves(params), axes, strict=True):
        shape = tuple(n if i in kept else 1 for i, n in enumerate(x.shape))
        nu = zeros_along(x, shape, range(x.ndim), real_dtype(compute_dtype(x)))
        rows.append(zero_moments(x, mu_dtype)._replace(nu=nu))
    return rows


@checked()
def adam_mini(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    *,
    block_axes: AxesSpec = None,
) -> Optimizer:
    r"""Run Adam with the mean square averaged over blocks of the parameter.

    Good for: results like Adam's with half of its memory.

    Evidence: independent. Its loss is within 0.01 of tuned AdamW's for language models of 0.3 and
    0.5 B parameters (Wen et al. 2025, arXiv 2509.02046).

    The equations are those of `adamw`, with one number :math:`v_t` for each block:

    .. math::

       v_t = \beta_2 v_{t-1} + (1 - \beta_2) \operatorname{mean}(|g_t|^2)

    The blocks should be the dense ones of the Hessian. The paper's, for JAX's kernels: an output
    neuron (last axis) for values, projections and MLPs; a token (axis 0) for embeddings, and for a
    head of shape (inputs, tokens) the last axis again; a head (axis 1 of (inputs, heads, size)) for
    queries and keys; all of the parameter for biases and norms. By name:
    `block_axes=by_path({".*embedding": 0, ".*(query|key)/kernel": 1, ".*kernel": -1, ".*": None})`.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      mu_dtype: see `adam`.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      block_axes: the axis or axes along which blocks differ; a block extends over the others. () is
        one block for each parameter. Parameters of fewer than two dimensions are one block, unless
        named by `by_path`. None is -1. Name stacked layers too: (0, -1) for (layers, inputs,
        outputs).

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 4 bytes per element, :math:`m_t` (`mu`), and 4 per block, :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range; at `init`, if a parameter lacks an axis.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params, grads = jnp.zeros((2, 2)), jnp.array([[1.0, 30.0], [7.0, 40.0]])
      >>> opt = gdjax.adam_mini(0.1)
      >>> updates, state = opt.update(grads, opt.init(params), params)
      >>> print(updates.round(3), state.slots.nu.shape)
      [[-0.02  -0.085]
       [-0.14  -0.113]] (1, 2)

    References:
      Zhang et al. (2024), "Adam-mini: use fewer learning rates to gain more", Algorithm 2.
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    optimizer = descend(_adam_mini, None, numbers, learning_rate, weight_decay, mask)
    rows = functools.partial(_slots, block_axes=block_axes, mu_dtype=mu_dtype)
    return with_slots(optimizer, Moments, rows)
