"""The transformations that optax's optimizers are chains of, and their states."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Schedule,
    Updates,
    identity,
    stateless,
)
from gdjax.core.checks import CLOSED_UNIT, NONNEGATIVE, POSITIVE, check_integer, checked
from gdjax.core.lift import leafwise, treewise
from gdjax.core.numerics import compute_dtype, real_dtype, safe_sqrt, scalar_dtype
from gdjax.core.trees import derived, inner_product, sum_sq, total, zeros_like
from gdjax.core.types import FloatDType, Hyperparam, Number, Scalar
from gdjax.optimizers.adam import Moments, zero_moments
from gdjax.optimizers.lion import Mean, direction_of_mean, zero_mean
from gdjax.optimizers.optimistic import Previous
from gdjax.optimizers.rmsprop import Rms, rms_rule
from gdjax.optimizers.rprop import Steps, first_sizes, rprop_rule
from gdjax.optimizers.sm3 import Covers, sm3_rule, zero_covers
from gdjax.optimizers.yogi import yogi_rule
from gdjax.transforms.apply_every import UpdateSum

# --- factors --------------------------------------------------------------------------------------


def scale(step_size: Number) -> GradientTransformation:
    """Multiply by a number, or by an array that broadcasts with each update."""
    if not callable(step_size) and jnp.ndim(step_size):
        return stateless(lambda updates, _: jax.tree.map(lambda g: step_size * g, updates))
    return on_gdjax(gdjax.scale(step_size), takes_params=False)


class ScaleByScheduleState(NamedTuple):
    """The number of updates so far, int32."""

    count: Array


def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformation:
    """Multiply by a schedule of the count; the first update uses `step_size_fn(0)`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.scale_by_schedule(lambda count: 0.5**count)
      >>> state = tx.init(jnp.ones(2))
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.ones(2), state)
      ...     print(updates, state.count)
      [1. 1.] 1
      [0.5 0.5] 2
    """

    def init(params):
        return ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def read(state):
        return ScaleByScheduleState(state.count)

    def write(state, of_optax):
        # the program gets the number and not the function: it is the same one for all schedules
        number = jnp.asarray(step_size_fn(of_optax.count), scalar_dtype())
        return state._replace(count=of_optax.count, hyperparams={"step_size": number})

    return on_gdjax(
        gdjax.scale(0.0),
        ScaleByScheduleState,
        init=init,
        read=read,
        write=write,
        takes_params=False,
    )


def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule | None = None, *, flip_sign: bool = True
) -> GradientTransformation:
    """Multiply by the learning rate, or by a schedule, and by -1 unless told otherwise.

    None does nothing.
    """
    if learning_rate is None:
        return identity()
    sign = -1 if flip_sign else 1
    if callable(learning_rate):
        return scale_by_schedule(lambda count: sign * learning_rate(count))
    return scale(sign * learning_rate)


def scale_by_sign() -> GradientTransformation:
    """Replace every element by its sign, that of a complex number by its phase."""
    return on_gdjax(gdjax.scale_by_sign(), takes_params=False)


def scale_by_param_block_norm(min_scale: Hyperparam = 1e-3) -> GradientTransformation:
    """Multiply each array of updates by the norm of its parameters, `min_scale` at least."""
    return on_gdjax(gdjax.scale_by_param_block_norm(min_scale))


def scale_by_param_block_rms(min_scale: Hyperparam = 1e-3) -> GradientTransformation:
    """Multiply each array of updates by the root-mean-square of its parameters."""
    return on_gdjax(gdjax.scale_by_param_block_rms(min_scale))


def scale_by_trust_ratio(
    min_norm: Hyperparam = 0.0, trust_coefficient: Hyperparam = 1.0, eps: Hyperparam = 0.0
) -> GradientTransformation:
    """Multiply each array by |param| / |update|; see `gdjax.scale_by_trust_ratio`."""
    return on_gdjax(gdjax.scale_by_trust_ratio(min_norm, trust_coefficient, eps))


def scale_by_polyak(
    f_min: Scalar = 0.0, max_learning_rate: Scalar = 1.0, eps: Scalar = 0.0, variant: str = "sps"
) -> GradientTransformationExtraArgs:
    """Multiply by Polyak's step size, for which `update` needs `value=`, the loss."""
    optimizer = gdjax.scale_by_polyak(f_min, max_learning_rate, eps, variant)
    return on_gdjax(optimizer, kind=GradientTransformationExtraArgs, takes_params=False)


def centralize() -> GradientTransformation:
    """Subtract from each slice along the first axis its mean; see `gdjax.centralize`."""
    return on_gdjax(gdjax.centralize(), takes_params=False)


def normalize_by_update_norm(
    scale_factor: Scalar = 1.0, eps: Scalar = 1e-6
) -> GradientTransformation:
    """Divide by the norm of the whole tree; with `eps=0`, zeros stay zeros, where optax has NaN."""
    return on_gdjax(gdjax.normalize_by_update_norm(scale_factor, eps), takes_params=False)


# --- Adam and its relatives -----------------------------------------------------------------------


class ScaleByAdamState(NamedTuple):
    """The moments of Adam, AdaMax, Yogi and RAdam.

    Attributes:
      count: number of updates so far, int32.
      mu: running mean of the gradient, shaped like the parameters.
      nu: running mean of its square, or for AdaMax its decaying maximum.
    """

    count: Array
    mu: Updates
    nu: Updates


def scale_by_adam(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Return Adam's direction, uphill; see `gdjax.scale_by_adam`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.scale_by_adam()
      >>> updates, state = tx.update(jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> print(updates.round(4), state.count)
      [ 1. -1.] 1
    """
    optimizer = gdjax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return on_gdjax(optimizer, ScaleByAdamState, takes_params=False)


class ScaleByAmsgradState(NamedTuple):
    """AMSGrad's moments.

    Attributes:
      count: number of updates so far, int32.
      mu: running mean of the gradient, shaped like the parameters.
      nu: running mean of its square.
      nu_max: the largest bias-corrected nu so far.
    """

    count: Array
    mu: Updates
    nu: Updates
    nu_max: Updates


def scale_by_amsgrad(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> GradientTransformation:
    """Return AMSGrad's direction, uphill, with the maximum after bias correction."""
    optimizer = gdjax.scale_by_amsgrad(
        b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu, max_corrected=True
    )
    return on_gdjax(optimizer, ScaleByAmsgradState, takes_params=False)


def scale_by_adamax(
    b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-8
) -> GradientTransformation:
    """Return AdaMax's direction, uphill; see `gdjax.scale_by_adamax`."""
    optimizer = gdjax.scale_by_adamax(b1, b2, eps)
    return on_gdjax(optimizer, ScaleByAdamState, takes_params=False)


@checked(initial_accumulator_value=NONNEGATIVE)
def scale_by_yogi(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-3,
    eps_root: Hyperparam = 0.0,
    initial_accumulator_value: Number = 1e-6,
) -> GradientTransformation:
    """Return Yogi's direction, uphill; see `gdjax.scale_by_yogi`."""

    def slots(param) -> Moments:
        return Moments(*(_full(x, initial_accumulator_value) for x in zero_moments(param)))

    optimizer = leafwise(yogi_rule, slots, dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root))
    return on_gdjax(optimizer, ScaleByAdamState, takes_params=False)


def scale_by_radam(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    threshold: Hyperparam = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Return RAdam's direction, uphill; see `gdjax.scale_by_radam`."""
    optimizer = gdjax.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
    return on_gdjax(optimizer, ScaleByAdamState, takes_params=False)


class ScaleByBeliefState(NamedTuple):
    """AdaBelief's moments.

    Attributes:
      count: number of updates so far, int32.
      mu: running mean of the gradient, shaped like the parameters.
      nu: running mean of the squared distance of the gradient from mu.
    """

    count: Array
    mu: Updates
    nu: Updates


def scale_by_belief(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-16,
    eps_root: Hyperparam = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Return AdaBelief's direction, uphill; see `gdjax.scale_by_belief`."""
    optimizer = gdjax.scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    return on_gdjax(optimizer, ScaleByBeliefState, takes_params=False)


class ScaleByAdanState(NamedTuple):
    """What Adan remembers.

    Attributes:
      m: running mean of the gradient, shaped like the parameters.
      v: running mean of its change.
      n: running mean of the squared look ahead.
      g: the last gradient.
      t: number of updates so far, int32.
    """

    m: Updates
    v: Updates
    n: Updates
    g: Updates
    t: Array


def scale_by_adan(
    b1: Hyperparam = 0.98,
    b2: Hyperparam = 0.92,
    b3: Hyperparam = 0.99,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
) -> GradientTransformation:
    """Return Adan's direction, uphill; see `gdjax.scale_by_adan`.

    The change of the gradient is multiplied by b2, as in the paper; optax multiplies by 1 - b2.
    """
    fields = dict(m="mu", v="delta", n="nu", g="previous", t="count")
    optimizer = gdjax.scale_by_adan(b1, b2, b3, eps, eps_root)
    return on_gdjax(optimizer, ScaleByAdanState, fields, takes_params=False)


class ScaleByNovogradState(NamedTuple):
    """NovoGrad's moments.

    Attributes:
      count: number of updates so far, int32.
      mu: decaying sum of the normed gradients, shaped like the parameters.
      nu: running mean of the squared norm, one number for each parameter.
    """

    count: Array
    mu: Updates
    nu: Updates


def scale_by_novograd(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.25,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
) -> GradientTransformation:
    """Return NovoGrad's direction, uphill; see `gdjax.scale_by_novograd`."""
    optimizer = gdjax.scale_by_novograd(b1, b2, eps, eps_root, weight_decay, mu_dtype)
    return on_gdjax(optimizer, ScaleByNovogradState)


class ScaleByLionState(NamedTuple):
    """What Lion remembers.

    Attributes:
      count: number of updates so far, int32.
      mu: running mean of the gradient, shaped like the parameters.
    """

    count: Array
    mu: Updates


def scale_by_lion(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.99,
    mu_dtype: FloatDType = None,
    *,
    mode: str = "hard",
    smooth_beta: Hyperparam = 1.0,
) -> GradientTransformation:
    """Return Lion's direction, uphill; see `gdjax.scale_by_lion`. As in optax, b2 may be 0."""
    of_last = isinstance(b2, (int, float)) and b2 == 0
    optimizer = gdjax.scale_by_lion(
        b1, 0.5 if of_last else b2, mu_dtype, mode=mode, smooth_beta=smooth_beta
    )
    if of_last:
        slots = functools.partial(zero_mean, mu_dtype=mu_dtype)
        numbers = dict(b1=b1, smooth_beta=smooth_beta)
        optimizer = leafwise(_lion_of_last, slots, numbers, name="scale_by_lion", mode=mode)
    return on_gdjax(optimizer, ScaleByLionState, takes_params=False)


def _lion_of_last(grad, slots, param, count, *, b1, smooth_beta, mode):
    c = b1 * slots.mu + (1 - b1) * grad
    return direction_of_mean(c, mode, smooth_beta), Mean(grad)


# --- sums and means of squares --------------------------------------------------------------------


class ScaleByRssState(NamedTuple):
    """The sum of the squared gradients so far, shaped like the parameters."""

    sum_of_squares: Updates


def scale_by_rss(
    initial_accumulator_value: Number = 0.1, eps: Hyperparam = 1e-7
) -> GradientTransformation:
    """Divide by the root of the sum of the squared gradients so far; see `gdjax.scale_by_rss`."""
    optimizer = gdjax.scale_by_rss(initial_accumulator_value, eps)

    def read_first(params):
        squares = optimizer.init(params).slots.sum_of_squares
        return ScaleByRssState(jax.tree.map(lambda x: _full(x, initial_accumulator_value), squares))

    return on_gdjax(optimizer, ScaleByRssState, init=read_first, takes_params=False)


class ScaleByRmsState(NamedTuple):
    """The running mean of the squared gradients, shaped like the parameters."""

    nu: Updates


class ScaleByRmsWithCountState(NamedTuple):
    """The same for `bias_correction=True`, with the number of updates so far, int32."""

    count: Array
    nu: Updates


@checked(initial_scale=NONNEGATIVE)
def scale_by_rms(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Divide by the running root-mean-square of the gradients; see `gdjax.scale_by_rms`."""
    kind = ScaleByRmsWithCountState if bias_correction else ScaleByRmsState
    return _scale_by_root(kind, decay, eps, initial_scale, eps_in_sqrt, bias_correction)


class ScaleByRStdDevState(NamedTuple):
    """The running means of the gradients and of their squares, shaped like the parameters."""

    mu: Updates
    nu: Updates


class ScaleByRStdDevWithCountState(NamedTuple):
    """The same for `bias_correction=True`, with the number of updates so far, int32."""

    count: Array
    mu: Updates
    nu: Updates


@checked(initial_scale=NONNEGATIVE)
def scale_by_stddev(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Divide by the running standard deviation of the gradients; see `gdjax.scale_by_stddev`."""
    kind = ScaleByRStdDevWithCountState if bias_correction else ScaleByRStdDevState
    return _scale_by_root(kind, decay, eps, initial_scale, eps_in_sqrt, bias_correction)


class _MeanSquare(NamedTuple):
    nu: Array


def _root(grad, slots, param, count, *, decay, eps, centered, eps_in_sqrt, bias_correction):
    static = dict(centered=centered, eps_in_sqrt=eps_in_sqrt, bias_correction=bias_correction)
    kept = Rms(slots.nu, slots.mu if centered else None, None)
    out, new = rms_rule(grad, kept, param, count, decay=decay, eps=eps, **static)
    return out, _MeanSquare(new.nu) if new.mu is None else Moments(new.mu, new.nu)


def _scale_by_root(
    kind: type[Any],
    decay: Hyperparam,
    eps: Hyperparam,
    initial_scale: Number,
    eps_in_sqrt: bool,
    bias_correction: bool,
) -> GradientTransformation:
    centered = "mu" in kind._fields

    def slots(param):
        mu, nu = zero_moments(param)
        nu = _full(nu, initial_scale)
        return Moments(mu, nu) if centered else _MeanSquare(nu)

    optimizer = leafwise(
        _root,
        slots,
        dict(decay=decay, eps=eps),
        centered=centered,
        eps_in_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
    )
    return on_gdjax(optimizer, kind, takes_params=False)


class ScaleByAdaDeltaState(NamedTuple):
    """Adadelta's running means of the squared gradient, e_g, and of the squared step, e_x."""

    e_g: Updates
    e_x: Updates


def scale_by_adadelta(rho: Hyperparam = 0.9, eps: Hyperparam = 1e-6) -> GradientTransformation:
    """Return Adadelta's step, uphill; see `gdjax.scale_by_adadelta`."""
    return on_gdjax(gdjax.scale_by_adadelta(rho, eps), ScaleByAdaDeltaState, takes_params=False)


class ScaleBySM3State(NamedTuple):
    """What SM3 remembers.

    Attributes:
      mu: for each parameter the list of its accumulators, one for each axis; a scalar has one too,
        where optax has none and fails.
      nu: running mean of the direction, shaped like the parameters.
    """

    mu: Updates
    nu: Updates


class _Accumulators(NamedTuple):
    mu: list[Array]
    nu: Array


def _sm3(grad, slots, param, count, *, b1, b2, eps):
    wide = [
        x if grad.ndim < 2 else jnp.expand_dims(x, [j for j in range(grad.ndim) if j != i])
        for i, x in enumerate(slots.mu)
    ]
    kept = Covers(slots.nu, tuple(wide))
    out, new = sm3_rule(grad, kept, param, count, b1=b1, b2=b2, eps=eps)
    return out, _accumulators(new)


def _accumulators(covers: Covers) -> _Accumulators:
    if covers.mu.ndim < 2:
        return _Accumulators(list(covers.accumulators), covers.mu)
    each = enumerate(covers.accumulators)
    others = [(x, tuple(j for j in range(x.ndim) if j != i)) for i, x in each]
    return _Accumulators([jnp.squeeze(x, axes) for x, axes in others], covers.mu)


@checked(b2=CLOSED_UNIT)
def scale_by_sm3(
    b1: Hyperparam = 0.9, b2: Hyperparam = 1.0, eps: Hyperparam = 1e-8
) -> GradientTransformation:
    """Return SM3's direction, uphill; see `gdjax.scale_by_sm3`."""

    def slots(param) -> _Accumulators:
        return _accumulators(zero_covers(param))

    optimizer = leafwise(_sm3, slots, dict(b1=b1, b2=b2, eps=eps))
    return on_gdjax(optimizer, ScaleBySM3State, takes_params=False)


# --- others ---------------------------------------------------------------------------------------


class ScaleByRpropState(NamedTuple):
    """What Rprop remembers, shaped like the parameters.

    Attributes:
      step_sizes: the length of the last step of each weight.
      prev_updates: the last step, uphill; 0 where the gradient had changed its sign.
    """

    step_sizes: Updates
    prev_updates: Updates


@checked(
    eta_minus=CLOSED_UNIT, eta_plus=POSITIVE, min_step_size=NONNEGATIVE, max_step_size=POSITIVE
)
def scale_by_rprop(
    learning_rate: Number,
    eta_minus: Hyperparam = 0.5,
    eta_plus: Hyperparam = 1.2,
    min_step_size: Hyperparam = 1e-6,
    max_step_size: Hyperparam = 50.0,
) -> GradientTransformation:
    """Return Rprop's step, uphill; see `gdjax.scale_by_rprop`.

    It is the step for this gradient, while optax returns that for the gradient before.
    """

    def slots(param) -> Steps:
        zeros = zero_moments(param).mu
        return Steps(first_sizes(zeros, learning_rate), zeros)

    optimizer = leafwise(
        rprop_rule,
        slots,
        dict(
            eta_minus=eta_minus,
            eta_plus=eta_plus,
            min_step_size=min_step_size,
            max_step_size=max_step_size,
        ),
        flip_sign=False,
    )

    def read(state):
        sizes, gradient = state.slots
        return ScaleByRpropState(sizes, jax.tree.map(_step, sizes, gradient))

    def write(state, of_optax):  # of the last gradient only the signs matter
        return state._replace(slots=Steps(of_optax.step_sizes, of_optax.prev_updates))

    return on_gdjax(optimizer, ScaleByRpropState, read=read, write=write, takes_params=False)


def _step(size: Array, gradient: Array) -> Array:
    if jnp.iscomplexobj(size):
        return jax.lax.complex(_step(size.real, gradient.real), _step(size.imag, gradient.imag))
    return size * jnp.sign(gradient)


class ApplyEvery(NamedTuple):
    """What `apply_every` remembers.

    Attributes:
      count: how many updates are held back, int32.
      grad_acc: their sum, shaped like the parameters.
    """

    count: Array
    grad_acc: Updates


def apply_every(k: Number = 1) -> GradientTransformation:
    """Return the sum of k updates every k calls, and zeros in between; see `gdjax.apply_every`."""

    def read(state):
        held = jax.tree.leaves(state.slots.held)
        count = held[0] if held else jnp.zeros((), jnp.int32)
        return ApplyEvery(count, state.slots.grad_acc)

    def write(state, of_optax):
        held = jax.tree.map(lambda _: of_optax.count, of_optax.grad_acc)
        return state._replace(slots=UpdateSum(of_optax.grad_acc, held))

    return on_gdjax(
        gdjax.apply_every(k),
        ApplyEvery,
        {"count": "held"},
        read=read,
        write=write,
        takes_params=False,
    )


class ScaleByOptimisticGradientState(NamedTuple):
    """What optimistic descent remembers.

    Attributes:
      is_initial_step: whether there was no update yet.
      previous_gradient: the last gradient, shaped like the parameters.
    """

    is_initial_step: Array
    previous_gradient: Updates


def scale_by_optimistic_gradient(
    alpha: Hyperparam = 1.0, beta: Hyperparam = 1.0
) -> GradientTransformation:
    """Return alpha g + beta (g - the last g); see `gdjax.scale_by_optimistic_gradient`."""

    def read(state):
        return ScaleByOptimisticGradientState(state.count == 0, state.slots.previous)

    def write(state, of_optax):
        count = jnp.where(of_optax.is_initial_step, 0, state.count)
        return state._replace(count=count, slots=Previous(of_optax.previous_gradient))

    return on_gdjax(
        gdjax.scale_by_optimistic_gradient(alpha, beta),
        ScaleByOptimisticGradientState,
        read=read,
        write=write,
        takes_params=False,
    )


class ScaleByDistanceOverGradientsState(NamedTuple):
    """What the distance over gradients remembers of each parameter.

    Attributes:
      max_dist: the largest distance from the first parameters so far, a number.
      grad_sum_of_squares: the sum of the squared norms of the gradients, a number.
      init_params: the first parameters.
    """

    max_dist: Updates
    grad_sum_of_squares: Updates
    init_params: Params


def scale_by_distance_over_gradients(
    reps_rel: Number = 1e-6,
    eps: Hyperparam = 1e-8,
    param_dtype: FloatDType = jnp.float32,
    global_scale: Hyperparam = 1.0,
) -> GradientTransformation:
    """Scale each gradient by max_dist / sqrt(sum |g|^2 + eps), with a first step by `reps_rel`.

    See `gdjax.scale_by_distance_over_gradients`.
    """
    optimizer = gdjax.scale_by_distance_over_gradients(reps_rel, eps, param_dtype, global_scale)

    def init(params):
        start, zeros, squares = optimizer.init(params).slots
        first = jax.tree.map(
            lambda x, zero: derived(functools.partial(distance, zero.dtype), x), params, zeros
        )
        return ScaleByDistanceOverGradientsState(first, squares, start)

    def distance(dtype, x):
        return jnp.asarray(reps_rel * (1 + safe_sqrt(sum_sq(jnp.asarray(x)))), dtype)

    fields = dict(max_dist="max_dist", grad_sum_of_squares="sum_sq", init_params="start")
    return on_gdjax(optimizer, ScaleByDistanceOverGradientsState, fields, init=init)


class ScaleByLBFGSState(NamedTuple):
    """What L-BFGS remembers.

    Attributes:
      count: number of updates so far, int32.
      params: the parameters of the last update.
      updates: the gradient of the last update.
      diff_params_memory: the last steps, with a new first axis: a ring buffer.
      diff_updates_memory: the changes of the gradient in these steps.
      weights_memory: 1 / <step, change> for each step; 0 for those that are not used.
    """

    count: Array
    params: Params
    updates: Updates
    diff_params_memory: Params
    diff_updates_memory: Updates
    weights_memory: Array


class _History(NamedTuple):
    params: Params
    updates: Updates
    diff_params_memory: Params
    diff_updates_memory: Updates
    weights_memory: Array


def precondition_by_lbfgs(
    updates: Updates,
    diff_params_memory: Params,
    diff_updates_memory: Updates,
    weights_memory: Array,
    identity_scale: Number,
    memory_idx: Number,
) -> Updates:
    """Return the product of L-BFGS's inverse Hessian with the updates (Nocedal & Wright, alg. 7.4).

    Args:
      updates: a tree.
      diff_params_memory: a tree of the steps, each leaf with an axis of them in front.
      diff_updates_memory: a tree of the changes of the gradient, likewise.
      weights_memory: 1 / <step, change> for each of them, or 0.
      identity_scale: the inverse Hessian without any steps, a multiple of the identity.
      memory_idx: which of them is the oldest.
    """
    size = len(weights_memory)
    order = (memory_idx + jnp.arange(size)) % size
    memories = diff_params_memory, diff_updates_memory

    def from_the_newest(q, i):
        step, change = _rows(memories, i)
        share = weights_memory[i] * _dot(step, q)
        return _plus(q, -share, change), share

    def from_the_oldest(r, row):
        i, share = row
        step, change = _rows(memories, i)
        return _plus(r, share - weights_memory[i] * _dot(change, r), step), None

    q, shares = jax.lax.scan(from_the_newest, updates, order, reverse=True)
    r = jax.tree.map(lambda x: jnp.asarray(identity_scale, x.real.dtype) * x, q)
    return jax.lax.scan(from_the_oldest, r, (order, shares))[0]


def _rows(memories: Any, i: Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), memories)


def _dot(x: Updates, y: Updates) -> Array:
    return total(jax.tree.map(inner_product, x, y))


def _plus(x: Updates, number: Array, y: Updates) -> Updates:
    return jax.tree.map(lambda a, b: a + number.astype(a.real.dtype) * b.astype(a.dtype), x, y)


def _lbfgs(grads, slots, params, count, *, scale_init_precond):
    size, started = len(slots.weights_memory), count > 1
    step, change = (
        jax.tree.map(lambda a, b: jnp.where(started, a - b, 0), new, old)
        for new, old in ((params, slots.params), (grads, slots.updates))
    )
    along, squared = _dot(step, change), _dot(change, change)
    least = jnp.finfo(along.dtype).eps * jnp.sqrt(_dot(step, step) * squared)
    curved = jnp.isfinite(squared) & (along > least)
    newest = (count - 2) % size

    def put(memory, x):
        x = jnp.where(curved, x, 0).astype(memory.dtype)
        return jax.lax.dynamic_update_index_in_dim(memory, x, newest, 0)

    steps = jax.tree.map(put, slots.diff_params_memory, step)
    changes = jax.tree.map(put, slots.diff_updates_memory, change)
    weight = jnp.where(curved, 1 / jnp.where(curved, along, 1), 0)
    weights = put(slots.weights_memory, weight)

    norm = safe_sqrt(sum_sq(grads))
    gamma = jnp.minimum(1, 1 / jnp.where(norm > 0, norm, 1))  # a first step of length 1 at most
    age = (newest - jnp.arange(size)) % size
    last = jnp.argmin(jnp.where(weights > 0, age, size))  # the newest that is used
    of_last = _rows(changes, last)
    among = weights[last] * _dot(of_last, of_last)
    gamma = jnp.where(among > 0, 1 / jnp.where(among > 0, among, 1), gamma)
    out = precondition_by_lbfgs(
        grads, steps, changes, weights, gamma if scale_init_precond else 1.0, (newest + 1) % size
    )
    return out, _History(params, grads, steps, changes, weights)


def scale_by_lbfgs(
    memory_size: int = 10, scale_init_precond: bool = True
) -> GradientTransformation:
    """Multiply the gradient by L-BFGS's estimate of the inverse Hessian.

    A step without positive curvature is not used, so that the direction leads downhill; optax uses
    every step whose <step, change> is not 0. `gdjax.scale_by_lbfgs` does the same in fewer
    operations, with another state.

    Args:
      memory_size: how many steps to remember, >= 1.
      scale_init_precond: whether the estimate starts from a multiple of the identity that the
        newest step gives; at first it is min(1, 1 / |g|).

    Raises:
      ValueError: if `memory_size` is not an integer >= 1.
    """
    size = check_integer("scale_by_lbfgs(memory_size=...)", memory_size)

    def slots(params) -> _History:
        def memory():
            return jax.tree.map(
                lambda x: jnp.zeros_like(jnp.broadcast_to(x, (size, *x.shape))), zeros_like(params)
            )

        dtype = real_dtype(compute_dtype(*jax.tree.leaves(params)))
        weights = jnp.zeros(size, dtype)
        return _History(zeros_like(params), zeros_like(params), memory(), memory(), weights)

    optimizer = treewise(
        _lbfgs,
        slots,
        name="scale_by_lbfgs",
        needs_params=True,
        scale_init_precond=scale_init_precond,
    )
    return on_gdjax(optimizer, ScaleByLBFGSState)


def _full(like: Array, value: Number) -> Array:
    return jnp.full_like(like, value)
