"""CAME: Adafactor with momentum, divided by the deviation of the momentum from the new updates.

Luo et al. (2023), Algorithm 2, https://arxiv.org/abs/2307.02047
Paper -> here: r, c -> v_row, v_col, m -> mu, R, C -> res_row, res_col, U -> residual, S -> res,
epsilon_1, epsilon_2 -> eps, eps_res, d -> clip_threshold, eta -> learning_rate.
Deviations: none. As in the authors' code the last two axes are factored, whatever their size, and
the axes before them are a batch, except in the clipping; an array of fewer axes keeps its mean
square and is not divided by its residual.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import POSITIVE, checked
from gdjax.core.lift import descend
from gdjax.core.numerics import abs_sq, root_mean_sq, safe_divide, safe_sqrt
from gdjax.core.placement import zeros_along
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import zero_moments


class Confidence(NamedTuple):
    """What CAME remembers of one parameter; what it does not need is None."""

    mu: Array  # m, running mean of the normed gradient, shaped like the parameter
    v: Array | None  # running mean of |g|^2, where it is not factored
    v_row: Array | None  # its mean over the last axis
    v_col: Array | None  # its mean over the last axis but one
    res_row: Array | None  # running mean of the squared residual, over the last axis
    res_col: Array | None  # over the last axis but one


def _came(grad, slots, param, count, *, b1, b2, b3, eps, eps_res, clip_threshold):
    square = abs_sq(grad) + eps
    if slots.v is not None:
        v = b2 * slots.v + (1 - b2) * square
        x, slots = _over(grad, v), slots._replace(v=v)
    else:
        v_row, v_col = _factors(square, slots.v_row, slots.v_col, b2)
        x, slots = _divide(grad, v_row, v_col), slots._replace(v_row=v_row, v_col=v_col)
    x = x / jnp.maximum(1, root_mean_sq(x) / clip_threshold)
    mu = b1 * slots.mu + (1 - b1) * x
    if slots.v is not None:
        return mu, slots._replace(mu=mu)
    residual = abs_sq(x - mu) + eps_res
    res_row, res_col = _factors(residual, slots.res_row, slots.res_col, b3)
    return _divide(mu, res_row, res_col), slots._replace(mu=mu, res_row=res_row, res_col=res_col)


def _factors(square: Array, row: Array, col: Array, decay: Array) -> tuple[Array, Array]:
    """Return the running means over the last axis and over the one before."""
    return (
        decay * row + (1 - decay) * jnp.mean(square, -1, keepdims=True),
        decay * col + (1 - decay) * jnp.mean(square, -2, keepdims=True),
    )


def _divide(x: Array, row: Array, col: Array) -> Array:
    """Return x over the root of row col / mean(row)."""
    share = _over(safe_sqrt(jnp.mean(row, -2, keepdims=True)), row)
    return _over(x, col) * share


def _over(x: Array, square: Array) -> Array:
    """Return x over a root, a constant for differentiation where that would overflow float32."""
    root = safe_sqrt(square)
    small = root < 1e-12  # the gradients are negligible against `eps`
    constant = jax.lax.stop_gradient(safe_divide(x, root))
    return jnp.where(small, constant, x / jnp.where(small, 1, root))


def _slots(param: Array, mu_dtype: FloatDType) -> Confidence:
    mu, v = zero_moments(param, mu_dtype)
    if v.ndim < 2 or not v.size:
        return Confidence(mu, v, None, None, None, None)
    row, col = v.shape[:-1] + (1,), v.shape[:-2] + (1,) + v.shape[-1:]
    shapes, axes = (row, col, row, col), range(v.ndim)
    return Confidence(mu, None, *(zeros_along(param, s, axes, v.dtype) for s in shapes))


@checked(eps_res=POSITIVE, clip_threshold=POSITIVE)
def came(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    b3: Hyperparam = 0.9999,
    eps: Hyperparam = 1e-30,
    eps_res: Hyperparam = 1e-16,
    clip_threshold: Hyperparam = 1.0,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Run Adafactor with momentum, divided by the factored root-mean-square of its deviation.

    Good for: large language models, with Adafactor's memory and momentum.

    Evidence: authors only. Luo et al. 2023, arXiv 2307.02047.

    .. math::

       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) (|g_t|^2 + \epsilon_1) \\
       u_t &= g_t / \sqrt{v_t} \\
       \hat u_t &= u_t / \max(1, \operatorname{RMS}(u_t) / d) \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \hat u_t \\
       S_t &= \beta_3 S_{t-1} + (1 - \beta_3) (|\hat u_t - m_t|^2 + \epsilon_2) \\
       x_t &= x_{t-1} - \eta_t (m_t / \sqrt{S_t} + \lambda x_{t-1})

    Of :math:`v_t` and :math:`S_t` a matrix keeps only the means over columns and over rows,
    :math:`R` and :math:`C`, and divides by the root of :math:`R C / \operatorname{mean}(R)`.
    Vectors keep :math:`v_t` and are not divided by :math:`\sqrt{S_t}`.

    There is no bias correction: the first updates are about 100 times longer than later ones where
    :math:`\beta_3` is 0.9999. Warm the learning rate up.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`; the paper's is 2e-4.
      b1: :math:`\beta_1`, decay of the momentum, in [0, 1).
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      b3: :math:`\beta_3`, decay of the mean squared residual, in [0, 1).
      eps: :math:`\epsilon_1`, added to each squared gradient, >= 0.
      eps_res: :math:`\epsilon_2`, added to each squared residual, > 0.
      clip_threshold: :math:`d`, largest root-mean-square of a normed gradient, > 0.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      mu_dtype: dtype of the momentum; None is at least float32.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State: 4 bytes per element, :math:`m_t` (`mu`), and 8 for each row and column (`v_row`,
      `v_col`, `res_row`, `res_col`); 8 per element of a vector (`mu`, `v`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.came(1e-3)
      >>> state = jax.eval_shape(opt.init, jnp.zeros((100, 200)))
      >>> sum(x.size for x in jax.tree.leaves(state.slots))
      20600

    References:
      Luo et al. (2023), "CAME: confidence-guided adaptive memory efficient optimization",
      Algorithm 2.
    """
    slots = functools.partial(_slots, mu_dtype=mu_dtype)
    numbers = dict(b1=b1, b2=b2, b3=b3, eps=eps, eps_res=eps_res, clip_threshold=clip_threshold)
    return descend(_came, slots, numbers, learning_rate, weight_decay, mask)
