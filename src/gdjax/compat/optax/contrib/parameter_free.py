"""Optimizers that find their step size: cocob, dadapt_adamw, dog, dowg, momo, prodigy."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.adding import add_decayed_weights
from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    MaskOrFn,
    Params,
    ScalarOrSchedule,
    Updates,
    identity,
)
from gdjax.compat.optax.combine import chain
from gdjax.compat.optax.contrib.adapting import as_numbers, starting
from gdjax.compat.optax.transform import scale_by_learning_rate
from gdjax.core.types import Number
from gdjax.optimizers.dog import first_distance

# --- betting --------------------------------------------------------------------------------------


class COCOBState(NamedTuple):
    """What COCOB remembers; all trees are shaped like the parameters.

    Attributes:
      init_particles: the first parameters.
      cumulative_gradients: minus the sum of the gradients.
      scale: largest |gradient| so far, at first `eps`.
      subgradients: sum of |gradient|.
      reward: the gains so far.
    """

    init_particles: Updates
    cumulative_gradients: Updates
    scale: Updates
    subgradients: Updates
    reward: Updates


def scale_by_cocob(alpha: Number = 100.0, eps: Number = 1e-8) -> GradientTransformation:
    """Return COCOB's update, downhill; see `gdjax.scale_by_cocob`."""
    fields = dict(init_particles="start", cumulative_gradients="bets", subgradients="abs_sum")
    pair = on_gdjax(gdjax.scale_by_cocob(alpha, eps), COCOBState, fields)

    def init(params):
        state = pair.init(params)
        return state._replace(scale=jax.tree.map(lambda x: jnp.full_like(x, eps), state.scale))

    return GradientTransformation(init, pair.update)


def cocob(
    learning_rate: ScalarOrSchedule = 1.0,
    alpha: Number = 100.0,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    mask: MaskOrFn = None,
) -> GradientTransformation:
    """COCOB; see `gdjax.cocob`."""
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


# --- distances ------------------------------------------------------------------------------------


class DAdaptAdamWState(NamedTuple):
    """What D-Adaptation remembers.

    Attributes:
      exp_avg: running mean of step size times gradient, shaped like the parameters.
      exp_avg_sq: running mean of the squared gradient.
      grad_sum: slow running mean of step size times gradient.
      estim_lr: the estimate, a number.
      numerator_weighted: slow running mean of what the estimate gains, a number.
      count: number of updates so far, int32.
    """

    exp_avg: Updates
    exp_avg_sq: Updates
    grad_sum: Updates
    estim_lr: Array
    numerator_weighted: Array
    count: Array


_ESTIMATE = dict(exp_avg="mu", exp_avg_sq="nu", estim_lr="distance", numerator_weighted="numerator")


def dadapt_adamw(
    learning_rate: ScalarOrSchedule = 1.0,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    estim_lr0: Number = 1e-6,
    weight_decay: Number = 0.0,
) -> GradientTransformationExtraArgs:
    """AdamW with D-Adaptation; see `gdjax.dadapt_adamw`.

    A zero gradient leaves the estimate as it is; optax's becomes NaN.
    """
    optimizer = gdjax.dadapt_adamw(learning_rate, betas, eps, estim_lr0, weight_decay)
    pair = on_gdjax(optimizer, DAdaptAdamWState, _ESTIMATE, kind=GradientTransformationExtraArgs)
    return starting(pair, lambda params: dict(estim_lr=as_numbers(estim_lr0)))


class ProdigyState(NamedTuple):
    """What Prodigy remembers.

    Attributes:
      exp_avg: running mean of estimate times gradient, shaped like the parameters.
      exp_avg_sq: running mean of its square.
      grad_sum: decaying weighted sum of the gradients.
      params0: the first parameters.
      estim_lr: the estimate, a number.
      numerator_weighted: decaying weighted sum of what the estimate gains, a number.
      count: number of updates so far, int32.
      residual: what rounding takes from parameters of less than float32, None for others; optax
        has no such field.
    """

    exp_avg: Updates
    exp_avg_sq: Updates
    grad_sum: Updates
    params0: Updates
    estim_lr: Array
    numerator_weighted: Array
    count: Array
    residual: Updates = None


def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    betas: tuple[Number, Number] = (0.9, 0.999),
    beta3: Number | None = None,
    eps: Number = 1e-8,
    estim_lr0: Number = 1e-6,
    estim_lr_coef: Number = 1.0,
    weight_decay: Number = 0.0,
    safeguard_warmup: bool = False,
) -> GradientTransformationExtraArgs:
    """Prodigy; see `gdjax.prodigy`.

    A zero gradient leaves the estimate as it is; optax's becomes NaN.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> print(optax.contrib.prodigy(estim_lr0=0.5).init(jnp.zeros(2)).estim_lr)
      0.5
    """
    optimizer = gdjax.prodigy(
        learning_rate, betas, beta3, eps, estim_lr0, estim_lr_coef, weight_decay, safeguard_warmup
    )
    fields = _ESTIMATE | dict(params0="start")
    pair = on_gdjax(optimizer, ProdigyState, fields, kind=GradientTransformationExtraArgs)
    return starting(pair, lambda params: dict(estim_lr=as_numbers(estim_lr0)))


class DoGState(NamedTuple):
    """What DoG remembers.

    Attributes:
      is_init_step: whether there was no update yet.
      init_params: the first parameters.
      max_dist: the largest distance from them so far, a number.
      sum_sq_norm_grads: sum of the squared norms of the gradients, a number.
    """

    is_init_step: Array
    init_params: Params
    max_dist: Array
    sum_sq_norm_grads: Array


InitStep = tuple[Literal["distance", "learning_rate", "heuristic"], Number]


def scale_by_dog(init_step: InitStep, eps: Number = 1e-8) -> GradientTransformation:
    """Scale the gradient by DoG's step size; see `dog`."""
    optimizer = gdjax.scale_by_dog(init_step, eps)

    def read(state):
        start, max_dist, sum_sq = state.slots
        return DoGState(state.count == 0, start, max_dist, sum_sq)

    def write(native, state):
        slots = native.slots._replace(
            start=state.init_params, max_dist=state.max_dist, sum_sq=state.sum_sq_norm_grads
        )
        count = jnp.where(state.is_init_step, 0, 1).astype(native.count.dtype)
        return native._replace(count=count, slots=slots)

    pair = on_gdjax(optimizer, DoGState, read=read, write=write)
    kind, value = init_step
    return starting(
        pair, lambda params: dict(max_dist=first_distance(kind, as_numbers(value), params))
    )


def dog(
    learning_rate: ScalarOrSchedule = 1.0,
    init_step: InitStep = ("heuristic", 1e-6),
    eps: Number = 1e-8,
    weight_decay: Number | None = None,
    mask: MaskOrFn = None,
) -> GradientTransformation:
    """Distance over gradients; see `gdjax.dog`."""
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dog(init_step, eps),
        scale_by_learning_rate(learning_rate),
    )


class DoWGState(NamedTuple):
    """What DoWG remembers.

    Attributes:
      init_params: the first parameters.
      weighted_sq_norm_grads: sum of the squared norms of the gradients, weighted, a number.
      estim_sq_dist: the largest squared distance from the first parameters so far, a number.
    """

    init_params: Params
    weighted_sq_norm_grads: Array
    estim_sq_dist: Array


def scale_by_dowg(
    init_estim_sq_dist: Number | None = None, eps: Number = 1e-4
) -> GradientTransformation:
    """Scale the gradient by DoWG's step size; see `dowg`."""
    optimizer = gdjax.scale_by_dowg(init_estim_sq_dist, eps)

    def read(state):
        start, sq_dist, sum_sq = state.slots
        return DoWGState(start, sum_sq, sq_dist)

    def write(native, state):
        slots = native.slots._replace(
            start=state.init_params,
            sq_dist=state.estim_sq_dist,
            sum_sq=state.weighted_sq_norm_grads,
        )
        # never as in the first update, since the state has the first distance
        return native._replace(count=jnp.ones_like(native.count), slots=slots)

    first = eps if init_estim_sq_dist is None else init_estim_sq_dist
    pair = on_gdjax(optimizer, DoWGState, read=read, write=write)
    return starting(pair, lambda params: dict(estim_sq_dist=as_numbers(first)))


def dowg(
    learning_rate: ScalarOrSchedule = 1.0,
    init_estim_sq_dist: Number | None = None,
    eps: Number = 1e-4,
    weight_decay: Number | None = None,
    mask: MaskOrFn = None,
) -> GradientTransformation:
    """Distance over weighted gradients; see `gdjax.dowg`."""
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps),
        scale_by_learning_rate(learning_rate),
    )


# --- the loss -------------------------------------------------------------------------------------


class MomoState(NamedTuple):
    """What MoMo remembers.

    Attributes:
      exp_avg: running mean of the gradient, shaped like the parameters.
      barf: running mean of the loss, a number.
      gamma: running mean of <gradient, parameters>, a number.
      lb: lower bound of the loss, a number.
      count: number of updates so far, int32.
    """

    exp_avg: Updates
    barf: Array
    gamma: Array
    lb: Array
    count: Array


_LOSS_MODEL = dict(
    exp_avg="mu", exp_avg_sq="nu", barf="loss_mean", gamma="slope_mean", lb="lower_bound"
)


def momo(
    learning_rate: ScalarOrSchedule = 1.0,
    beta: Number = 0.9,
    lower_bound: Number = 0.0,
    weight_decay: Number = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformationExtraArgs:
    """Momentum with a Polyak step, `update(..., value=loss)`; see `gdjax.momo`.

    The step is divided by 1 + learning_rate * weight_decay, as in the paper; in optax it is not.
    """
    optimizer = gdjax.momo(learning_rate, beta, lower_bound, weight_decay, adapt_lower_bound)
    pair = on_gdjax(optimizer, MomoState, _LOSS_MODEL, kind=GradientTransformationExtraArgs)
    return starting(pair, lambda params: dict(lb=as_numbers(lower_bound)))


class MomoAdamState(NamedTuple):
    """What MoMo-Adam remembers: as `MomoState`, and the running mean of the squared gradient."""

    exp_avg: Updates
    exp_avg_sq: Updates
    barf: Array
    gamma: Array
    lb: Array
    count: Array


def momo_adam(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    lower_bound: Number = 0.0,
    weight_decay: Number = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformationExtraArgs:
    """Adam with a Polyak step, `update(..., value=loss)`; see `gdjax.momo_adam` and `momo`."""
    optimizer = gdjax.momo_adam(
        learning_rate, b1, b2, eps, lower_bound, weight_decay, adapt_lower_bound
    )
    pair = on_gdjax(optimizer, MomoAdamState, _LOSS_MODEL, kind=GradientTransformationExtraArgs)
    return starting(pair, lambda params: dict(lb=as_numbers(lower_bound)))
