"""Adafactor: Adam without momentum, with the mean square of a matrix kept as rows times columns.

Shazeer & Stern (2018), Algorithms 4 and 5, https://arxiv.org/abs/1804.04235
Paper -> here: R -> v_row, C -> v_col, V -> v, beta_2t -> the decay, epsilon_1 -> eps,
epsilon_2 -> min_scale, d -> clipping_threshold, alpha -> the update, rho -> learning_rate.
Deviations, as in optax: the two largest axes are factored, not the last two, and only if both have
128 elements; the learning rate is 1 unless given, and multiplies neither momentum nor decay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, NONNEGATIVE, POSITIVE, check_integer, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import leafwise, mask_decay
from gdjax.core.numerics import Decay, abs_sq, root_mean_sq, safe_divide, safe_sqrt
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import zero_moments


class Factors(NamedTuple):
    """What Adafactor remembers of one parameter; what it does not need is None."""

    v_row: Array | None  # R, mean over the largest axis of the running mean of |g|^2
    v_col: Array | None  # C, mean over the second largest axis
    v: Array | None  # V, the running mean itself, where it is not factored
    mu: Array | None  # running mean of the update, with momentum


def factored_rms_rule(
    grad,
    slots,
    param,
    count,
    *,
    decay_rate,
    step_offset,
    epsilon,
    factored,
    min_dim_size_to_factor,
    decay_rate_fn=None,
):
    """Return the gradient over its factored root-mean-square, and the new means."""
    decay = (decay_rate_fn or _power)(count - 1 - step_offset, decay_rate)
    axes = factored_axes(grad.shape, factored, min_dim_size_to_factor)
    normed, _, slots = _normed(grad, slots, decay, epsilon, axes)
    return normed, slots


def _normed(grad, slots, decay, epsilon, axes):
    """Return the gradient over its root-mean-square, the rms of that, and the new means."""
    if axes is None:
        v = decay * slots.v + (1 - decay) * (abs_sq(grad) + epsilon)
        normed = safe_divide(grad, safe_sqrt(v))
        return normed, root_mean_sq(normed), slots._replace(v=v)
    second, first = axes
    v_row = decay * slots.v_row + (1 - decay) * (_mean(abs_sq(grad), first) + epsilon)
    v_col = decay * slots.v_col + (1 - decay) * (_mean(_twice_sq(grad), second) / 2 + epsilon)
    # The reciprocal roots are taken of the rows and columns, not once for each element. There are
    # two: their product may be so small or large that it, or its derivative, overflows.
    one = jnp.ones((), v_row.dtype)
    row = safe_divide(one, safe_sqrt(safe_divide(v_row, _mean(v_row, second))))
    col = safe_divide(one, safe_sqrt(v_col))
    sums = jnp.sum(abs_sq(grad * (col + col)), first, keepdims=True)  # doubled as in `_twice_sq`
    rms = safe_sqrt(jnp.sum(row * (row * sums)) / max(grad.size, 1)) / 2
    return grad * row * col, rms, slots._replace(v_row=v_row, v_col=v_col)


def _twice_sq(x: Array) -> Array:
    """Return 2 |x|**2, by other operations than `abs_sq`.

    XLA writes an array to memory if two sums or updates take it, so each computes its own.
    """
    return abs_sq(x) * 2 if jnp.iscomplexobj(x) else (x + x) * x


def _adafactor(
    grad,
    slots,
    param,
    count,
    *,
    learning_rate=None,
    decay_rate,
    decay_offset,
    eps,
    min_scale=None,
    clipping_threshold=None,
    momentum=None,
    weight_decay_rate=None,
    factored,
    min_dim_size_to_factor,
):
    if param is None and (min_scale is not None or weight_decay_rate is not None):
        raise ValueError(f"adafactor needs {NEEDS_PARAMS}")
    decay = _power(count - 1 - decay_offset, decay_rate)
    axes = factored_axes(grad.shape, factored, min_dim_size_to_factor)
    x, rms, slots = _normed(grad, slots, decay, eps, axes)
    factor = jnp.ones((), rms.dtype)
    if clipping_threshold is not None:
        factor = factor / jnp.maximum(1, rms / clipping_threshold)
    if learning_rate is not None:
        factor = learning_rate * factor
    if param is not None and min_scale is not None:
        factor = factor * jnp.maximum(root_mean_sq(param), min_scale)
    x = factor * x
    if momentum is not None:
        x = momentum * slots.mu + (1 - momentum) * x
        slots = slots._replace(mu=x)
    if weight_decay_rate is not None:
        x = x + weight_decay_rate * param
    return -x, slots


def _power(step: Array, decay_rate: Array) -> Decay:
    """Return the decay of the mean square at 0-based step: 0 at first, then increasing to 1."""
    t = step + 1
    return Decay.of(jnp.where(t < 1, 1, t) ** -decay_rate)


def factored_axes(
    shape: tuple[int, ...], factored: bool, min_dim_size_to_factor: int
) -> tuple[int, int] | None:
    """Return the second largest and the largest axis, or None if nothing is factored."""
    if not factored or len(shape) < 2:
        return None
    *_, second, first = np.argsort(shape, kind="stable")
    return (int(second), int(first)) if shape[second] >= min_dim_size_to_factor else None


def _mean(x: Array, axis: int) -> Array:
    return jnp.sum(x, axis, keepdims=True) / max(x.shape[axis], 1)


def zero_factors(
    param: Array, factored: bool, min_dim: int, momentum: bool = False, mu_dtype: FloatDType = None
) -> Factors:
    """Return zeros for one parameter."""
    mu, v = zero_moments(param, mu_dtype)
    axes = factored_axes(param.shape, factored, min_dim)
    mu = mu if momentum else None
    if axes is None:
        return Factors(None, None, v, mu)
    v_col, v_row = (jnp.sum(v, axis, keepdims=True) for axis in axes)
    return Factors(v_row, v_col, None, mu)


RANGES = dict(
    decay_rate=NONNEGATIVE,
    decay_offset=FINITE,
    step_offset=FINITE,
    epsilon=NONNEGATIVE,
    clipping_threshold=POSITIVE._replace(optional=True),
    weight_decay_rate=NONNEGATIVE,
    min_scale=NONNEGATIVE,
)


@checked(**RANGES)
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Hyperparam = 0.8,
    step_offset: Hyperparam = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Hyperparam = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] | None = None,
) -> Optimizer:
    r"""Divide the gradient by its root-mean-square, kept as rows times columns where it is large.

    The direction is :math:`U_t` in the equations of `adafactor`.

    Args:
      factored: see `adafactor`.
      decay_rate: see `adafactor`.
      step_offset: see `decay_offset` of `adafactor`.
      min_dim_size_to_factor: see `adafactor`.
      epsilon: see `eps` of `adafactor`.
      decay_rate_fn: `decay_rate_fn(step, decay_rate)` gives the decay for step 0, 1, ...; None is
        `1 - (step + 1)**-decay_rate`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_factored_rms(min_dim_size_to_factor=2)
      >>> grad = jnp.array([[1.0, 2.0], [3.0, 6.0]])
      >>> print(opt.update(grad, opt.init(grad))[0])
      [[1. 1.]
       [1. 1.]]
    """
    name = "scale_by_factored_rms"
    min_dim = check_integer(f"{name}(min_dim_size_to_factor=...)", min_dim_size_to_factor, 0)
    return leafwise(
        factored_rms_rule,
        functools.partial(zero_factors, factored=factored, min_dim=min_dim),
        dict(decay_rate=decay_rate, step_offset=step_offset, epsilon=epsilon),
        name=name,
        factored=factored,
        min_dim_size_to_factor=min_dim,
        decay_rate_fn=decay_rate_fn,
    )


@checked(**RANGES)
def adafactor(
    learning_rate: Hyperparam | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Hyperparam = 0.8,
    decay_offset: Hyperparam = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Hyperparam | None = 1.0,
    momentum: Hyperparam | None = None,
    dtype_momentum: FloatDType = None,
    weight_decay_rate: Hyperparam | None = None,
    eps: Hyperparam = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask = None,
    *,
    min_scale: Hyperparam = 1e-3,
) -> Optimizer:
    r"""Scale steps by the RMS of the parameters, with factored second moments.

    Good for: large matrices with little memory, T5-like language models.

    Evidence: independent. With tuned numbers it trains language models of up to 1.2 B parameters
    about as well as Adam (Zhao et al. 2024, arXiv 2407.07972); with small batches it comes close to
    Adam too (Marek et al. 2025, arXiv 2507.07101).

    .. math::

       \hat\beta_{2t} &= 1 - t^{-c} \\
       V_t &= \hat\beta_{2t} V_{t-1} + (1 - \hat\beta_{2t}) (|g_t|^2 + \epsilon_1) \\
       U_t &= g_t / \sqrt{V_t} \\
       \hat U_t &= U_t / \max(1, \operatorname{RMS}(U_t) / d) \\
       \alpha_t &= \eta_t \max(\epsilon_2, \operatorname{RMS}(x_{t-1})) \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \alpha_t \hat U_t \\
       x_t &= x_{t-1} - m_t - \lambda x_{t-1}

    A matrix keeps only the means of :math:`V_t` over its columns and over its rows, :math:`R_t` and
    :math:`C_t`, and divides by the root of :math:`R_t C_t / \operatorname{mean}(R_t)`. Without
    momentum, :math:`m_t = \alpha_t \hat U_t`.

    Differences: optax is the same. torch factors the last two axes of every array, bounds the
    learning rate by :math:`1 / \sqrt t`, has no momentum, and multiplies the decay by the learning
    rate.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0, relative to the parameters if multiplied by
        their scale; None is 1: a number, schedule or prefix tree, like all numbers below.
      min_dim_size_to_factor: the two largest axes must have at least this length, an integer >= 0.
      decay_rate: :math:`c`, how fast the decay increases to 1, >= 0; at 0 the mean is the newest
        value alone.
      decay_offset: subtracted from t, which is at least 1; for training that continues from a
        checkpoint.
      multiply_by_parameter_scale: whether the step is multiplied by the root-mean-square of the
        parameter; if not, :math:`\alpha_t = \eta_t`.
      clipping_threshold: :math:`d`, the largest root-mean-square of a step before its factors, > 0,
        or None.
      momentum: :math:`\beta_1`, decay of the running mean of the steps, in [0, 1), without bias
        correction; None keeps no mean.
      dtype_momentum: dtype of that mean; None is float32, or float64 for float64 parameters.
      weight_decay_rate: :math:`\lambda`, strength of the decay, >= 0, *not* multiplied by the
        learning rate; None is none.
      eps: :math:`\epsilon_1`, added to the squared gradient, >= 0.
      factored: whether to factor at all.
      weight_decay_mask: which leaves decay, see `adamw`.
      min_scale: :math:`\epsilon_2`, the smallest scale of a parameter, >= 0, so that zeros can
        change.

    Returns:
      An `Optimizer` whose `update` needs the parameters for their scale and for the decay.
      State: of a matrix, 4 bytes for each row (`v_row`) and column (`v_col`); of other arrays, 4
      per element (`v`); 4 more per element with momentum (`mu`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` lacks the parameters it needs.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.adafactor(0.1)
      >>> params = {"w": jnp.ones((256, 512)), "b": jnp.ones(4)}
      >>> state = opt.init(params)
      >>> [x.shape for x in jax.tree.leaves(state.slots)]
      [(256, 1), (1, 512), (4,)]
      >>> print(opt.update(params, state, params)[0]["b"])
      [-0.1 -0.1 -0.1 -0.1]

    References:
      Shazeer & Stern (2018), "Adafactor: adaptive learning rates with sublinear memory cost",
      Algorithms 4 and 5.
    """
    min_dim = check_integer("adafactor(min_dim_size_to_factor=...)", min_dim_size_to_factor, 0)
    numbers = dict(decay_rate=decay_rate, decay_offset=decay_offset, eps=eps)
    optional = dict(
        learning_rate=learning_rate,
        min_scale=min_scale if multiply_by_parameter_scale else None,
        clipping_threshold=clipping_threshold,
        momentum=momentum,
        weight_decay_rate=weight_decay_rate,
    )
    numbers |= {k: v for k, v in optional.items() if v is not None}
    slots = functools.partial(
        zero_factors,
        factored=factored,
        min_dim=min_dim,
        momentum=momentum is not None,
        mu_dtype=dtype_momentum,
    )
    optimizer = leafwise(
        _adafactor,
        slots,
        numbers,
        factored=factored,
        min_dim_size_to_factor=min_dim,
    )
    if weight_decay_rate is None:
        return optimizer
    return mask_decay(optimizer, weight_decay_mask, "weight_decay_rate", "weight_decay_mask")
