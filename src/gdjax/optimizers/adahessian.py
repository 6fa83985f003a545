"""AdaHessian: Adam with the mean square of the Hessian's diagonal in place of the gradient's.

Yao et al. (2020), Algorithm 1, https://arxiv.org/abs/2006.00719
Paper -> here: m -> mu, v -> nu, k -> hessian_power, eta -> learning_rate, b -> average_axes.
Deviations: the diagonal is averaged by its magnitude, as in the authors' code; nothing is averaged
unless asked for. With an interval, the bias of nu is corrected by the number of its refreshes.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import chain, with_extra_args_support
from gdjax.core.checks import CLOSED_UNIT, WHOLE, checked
from gdjax.core.every import is_due, when_due
from gdjax.core.lift import descend, treewise
from gdjax.core.numerics import bias_correction, compute_dtype, mean_to, real_dtype, safe_divide
from gdjax.core.placement import zeros_along
from gdjax.core.trees import map_leaves
from gdjax.core.types import FloatDType, Hyperparam, Mask, OptState, Pair, Params, PyTree, Scalar
from gdjax.linalg.matrices import AxesSpec, axes_per_leaf
from gdjax.optimizers.sgd import gradient_rule
from gdjax.transforms.curvature import hutchinson_estimator_diag_hessian


class CurvatureMoments(NamedTuple):
    """What AdaHessian remembers."""

    mu: PyTree  # m, running mean of the gradients, a tree like the parameters
    nu: PyTree  # v, running mean of the squared diagonals; averaged axes have length 1
    refreshes: Array  # number of diagonals in nu so far, int32
    hessian_fn_state: OptState  # the state of the estimate


def _adahessian(
    grads,
    slots,
    params,
    count,
    *,
    b1,
    b2,
    eps,
    hessian_power,
    update_interval,
    estimate,
    raw_params,
    **extra,
):
    def refresh(state, nu, refreshes):
        diagonal, state = estimate(grads, state, raw_params, **extra)
        return state, map_leaves(_mean_sq, 1, (nu, diagonal), b2)[0], refreshes + 1

    due = is_due(count, update_interval)
    state, nu, seen = when_due(due, refresh, slots.hessian_fn_state, slots.nu, slots.refreshes)
    (mu,) = map_leaves(_mean, 1, (slots.mu, grads), b1)
    corrections = bias_correction(b1, count), bias_correction(b2, seen)
    (direction,) = map_leaves(_divided, 1, (mu, nu), *corrections, eps, hessian_power)
    return direction, CurvatureMoments(mu, nu, seen, state)


def _mean(mean: Array, x: Array, decay: Array) -> Array:
    return decay * mean + (1 - decay) * x


def _mean_sq(nu: Array, diagonal: Array, decay: Array) -> Array:
    return _mean(nu, mean_to(jnp.abs(diagonal), nu.shape) ** 2, decay)


def _divided(
    mu: Array, nu: Array, mu_weight: Array, nu_weight: Array, eps: Array, power: Array
) -> Array:
    positive = nu > 0  # the derivative of the root at 0 is infinite
    root = jnp.where(positive, jnp.where(positive, nu / nu_weight, 1) ** (power / 2), 0)
    return safe_divide(mu / mu_weight, root + eps)


def _slots(
    params: Params, estimate_init: InitFn, average_axes: AxesSpec, mu_dtype: FloatDType
) -> CurvatureMoments:
    leaves, treedef = jax.tree.flatten(params)
    axes = axes_per_leaf("adahessian(average_axes=...)", average_axes, params)
    shapes = [
        tuple(1 if i in over else n for i, n in enumerate(x.shape))
        for x, over in zip(leaves, axes, strict=True)
    ]
    mu = [jnp.zeros_like(x, dtype=mu_dtype or compute_dtype(x)) for x in leaves]
    nu = [
        zeros_along(x, s, range(x.ndim), real_dtype(compute_dtype(x)))
        for x, s in zip(leaves, shapes, strict=True)
    ]
    mu, nu = treedef.unflatten(mu), treedef.unflatten(nu)
    return CurvatureMoments(mu, nu, jnp.zeros((), jnp.int32), estimate_init(params))


@checked(hessian_power=CLOSED_UNIT, update_interval=WHOLE)
def adahessian(
    learning_rate: Hyperparam,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-4,
    hessian_power: Scalar = 1.0,
    weight_decay: Hyperparam | None = 0.0,
    mask: Mask = None,
    *,
    average_axes: AxesSpec = None,
    update_interval: Scalar = 1,
    hessian_diagonal_fn: Pair | None = None,
    mu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Descend along a mean gradient over the root-mean-square of the Hessian's diagonal.

    Good for: smooth losses where a Hessian-vector product per step is affordable.

    Evidence: authors only. Yao et al. 2020, arXiv 2006.00719.

    With an estimate :math:`D_t` of the magnitude of the Hessian's diagonal:

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2) D_t^2 \\
       \hat m_t &= m_t / (1 - \beta_1^t), \quad \hat v_t = v_t / (1 - \beta_2^t) \\
       d_t &= \hat m_t / (\hat v_t^{k/2} + \epsilon) \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    If the diagonal is not estimated in every step, :math:`v_t` changes only in the steps with an
    estimate, and t counts those in :math:`\hat v_t`.

    Pass what the estimate needs to `update`: for the default
    `update(grads, state, params, obj_fn=lambda p: loss(p, batch))`. `fit` does that by itself.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree. The step is
        a Newton step times this: the paper's is 0.15.
      b1: :math:`\beta_1`, decay of the mean gradient, in [0, 1): a number or a schedule, like the
        numbers below.
      b2: :math:`\beta_2`, decay of the mean square of the curvature, in [0, 1).
      eps: :math:`\epsilon`, added to the root, >= 0.
      hessian_power: :math:`k`, power of the curvature in the divisor, in [0, 1]; 0 does not divide.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      average_axes: the axis or axes over which the magnitude of the diagonal is averaged, as the
        paper does over the window of a convolution: (0, 1) for kernels of shape (height, width,
        inputs, outputs), by name `by_path({".*Conv.*kernel": (0, 1), ".*": None})`. None is none.
      update_interval: steps from one estimate of the curvature to the next, a whole number >= 1.
      hessian_diagonal_fn: the estimate, an `(init, update)` pair; None is
        `hutchinson_estimator_diag_hessian()`.
      mu_dtype: dtype of the mean gradient; None is at least float32.

    Returns:
      An `Optimizer` for real parameters whose `update` needs the parameters and what the estimate
      asks for.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`, which has length 1
      along averaged axes), and a key.

    Raises:
      ValueError: if a concrete number is out of range.
      TypeError: if `update` is called without what the estimate needs.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)  # badly conditioned
      >>> opt = gdjax.adahessian(0.5)
      >>> params = jnp.array([0.5, 0.5])
      >>> state = opt.init(params)
      >>> for _ in range(3):
      ...     updates, state = opt.update(jax.grad(loss)(params), state, params, obj_fn=loss)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params.round(3))
      [-0.063 -0.063]

    References:
      Yao et al. (2020), "ADAHESSIAN: an adaptive second order optimizer for machine learning",
      Algorithm 1.
    """
    estimate = with_extra_args_support(hessian_diagonal_fn or hutchinson_estimator_diag_hessian())
    slots = functools.partial(
        _slots, estimate_init=estimate.init, average_axes=average_axes, mu_dtype=mu_dtype
    )
    numbers = dict(
        b1=b1, b2=b2, eps=eps, hessian_power=hessian_power, update_interval=update_interval
    )
    direction = treewise(_adahessian, slots, numbers, estimate=estimate.update)
    step = descend(gradient_rule, None, {}, learning_rate, weight_decay, mask, name="adahessian")
    return chain(direction, step)
