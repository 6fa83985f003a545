"""Functions of an optimizer: mechanize, sam, schedule_free, split_real_and_imaginary."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.adding import add_decayed_weights
from gdjax.compat.optax.alias import sgd
from gdjax.compat.optax.base import (
    EmptyState,
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    ScalarOrSchedule,
    Updates,
    with_extra_args_support,
)
from gdjax.compat.optax.combine import chain
from gdjax.compat.optax.contrib.adapting import on_trees, starting
from gdjax.compat.optax.schedules import warmup_constant_schedule
from gdjax.compat.optax.transform import scale_by_learning_rate, scale_by_rms
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.numerics import scalar_dtype
from gdjax.core.types import Number
from gdjax.optimizers.shared.averaging import extrapolated
from gdjax.wrappers.complex_parts import merge, split
from gdjax.wrappers.shared.reset import memory

# --- complex parameters ---------------------------------------------------------------------------


class SplitRealAndImaginaryState(NamedTuple):
    """The state of the optimizer that sees two real arrays for each complex one."""

    inner_state: OptState


def split_real_and_imaginary(inner: GradientTransformation) -> GradientTransformation:
    """Let an optimizer see each complex parameter as two real ones.

    See `gdjax.split_real_and_imaginary`. Extra arguments reach the optimizer.
    """
    inner = with_extra_args_support(inner)

    def init(params):
        return SplitRealAndImaginaryState(inner.init(split(params)))

    def update(updates, state, params=None, **extra_args):
        updates, inner_state = inner.update(
            split(updates), state.inner_state, split(params), **extra_args
        )
        return merge(updates), SplitRealAndImaginaryState(inner_state)

    return GradientTransformationExtraArgs(init, update)


# --- Mechanic -------------------------------------------------------------------------------------


class MechanicState(NamedTuple):
    """What Mechanic remembers; the vectors have one element for each decay rate.

    Attributes:
      base_optimizer_state: that of the wrapped optimizer.
      count: number of updates so far, int32.
      r: rewards.
      m: largest |h|.
      v: sum of h^2.
      s: the scales, whose sum multiplies the displacement.
      x0: the parameters of the first update.
      displacement: sum of the wrapped optimizer's updates; optax has no such field and recovers it
        from the parameters.
    """

    base_optimizer_state: OptState
    count: Array
    r: Array
    m: Array
    v: Array
    s: Array
    x0: Updates
    displacement: Updates = None


def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: Number = 1e-2,
    eps: Number = 1e-8,
    s_init: Number = 1e-6,
    num_betas: int = 6,
) -> GradientTransformationExtraArgs:
    """Learn the scale of another optimizer's updates; see `gdjax.mechanize`."""
    optimizer = gdjax.mechanize(base_optimizer, weight_decay, eps, s_init, num_betas)
    fields = dict(base_optimizer_state="inner", r="rewards", m="largest", v="squares")
    fields |= dict(s="scales", x0="start")
    pair = starting(
        on_gdjax(optimizer, MechanicState, fields),
        lambda params: dict(s=jnp.full(num_betas, s_init, scalar_dtype())),
    )

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(f"mechanize needs {NEEDS_PARAMS}")
        first = state.count == 0  # the parameters may have been set after init
        x0 = jax.tree.map(lambda x, p: jnp.where(first, p, x).astype(x.dtype), state.x0, params)
        return pair.update(updates, state._replace(x0=x0), params, **extra_args)

    return GradientTransformationExtraArgs(pair.init, update)


# --- SAM ------------------------------------------------------------------------------------------

NormalizeState = EmptyState


def normalize() -> GradientTransformation:
    """Divide the updates by their norm; zeros stay zeros, where optax gives NaN."""
    return on_gdjax(gdjax.normalize())


class SAMState(NamedTuple):
    """What SAM remembers.

    Attributes:
      steps_since_sync: number of gradients since the last descent, int32.
      opt_state: the state of the optimizer that descends.
      adv_state: the state of the one that ascends.
      cache: the parameters to return to; None in opaque mode.
    """

    steps_since_sync: Array
    opt_state: OptState
    adv_state: OptState
    cache: Params | None


def sam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> GradientTransformationExtraArgs:
    """Sharpness-aware minimization; see `gdjax.sam`.

    The random keys of `adv_optimizer` are not reset, so that no noise occurs twice.

    Raises:
      ValueError: if `sync_period` is less than 1; in `update`, if `grad_fn=` is missing in opaque
        mode.
    """
    inner = with_extra_args_support(optimizer)
    adversary = with_extra_args_support(adv_optimizer)
    native_sam = gdjax.sam(inner, adversary, sync_period, reset_state, opaque_mode, batch_axis_name)
    resets = reset_state and not opaque_mode

    def read(state):
        slots = state.slots
        return SAMState(slots.phase, slots.inner, slots.adversary, slots.center)

    def write(native, state, updates, params):
        like = updates if params is None else params
        slots = native.slots._replace(
            phase=state.steps_since_sync,
            center=state.cache,
            first=memory(adversary.init(like)) if resets else None,
            adversary=state.adv_state,
            inner=state.opt_state,
        )
        return native._replace(slots=slots)

    return on_trees(native_sam, SAMState, read, write, kind=GradientTransformationExtraArgs)


# --- schedule-free --------------------------------------------------------------------------------


class ScheduleFreeState(NamedTuple):
    """What schedule-free learning remembers.

    Attributes:
      b1: share of the average in the parameters, a number.
      weight_sum: sum of the weights so far, a number.
      step_count: 1 plus the number of updates so far, int32.
      max_lr: largest learning rate so far, a number.
      base_optimizer_state: that of the wrapped optimizer.
      z: what the wrapped optimizer moves, shaped like the parameters.
      residual: what rounding takes from parameters of less than float32, None for others; optax
        has no such field.
    """

    b1: Array
    weight_sum: Array
    step_count: Array
    max_lr: Array
    base_optimizer_state: OptState
    z: Params
    residual: Updates = None


def schedule_free_eval_params(state: OptState, params: Params) -> Params:
    """Return the average to evaluate with, given a state that holds a `ScheduleFreeState`.

    optax takes the `ScheduleFreeState` itself; here it may be anywhere in the state of a chain, a
    group or a wrapper.

    Raises:
      ValueError: if there is none in the state.
    """

    def averages(node):
        return getattr(node, "b1", None) is not None and getattr(node, "z", None) is not None

    found = [node for node in jax.tree.leaves(state, is_leaf=averages) if averages(node)]
    if not found:
        raise ValueError(
            "schedule_free_eval_params(state=...) must hold a ScheduleFreeState, got "
            f"{type(state).__name__}."
        )
    leaves, treedef = jax.tree.flatten(params)
    for node in found:
        z = treedef.flatten_up_to(node.z)
        residual = getattr(node, "residual", None)
        lost = [None] * len(z) if residual is None else treedef.flatten_up_to(residual)
        own = [i for i, x in enumerate(z) if jax.tree_util.all_leaves([x])]  # not a MaskedNode
        averaged, given, residuals = ([column[i] for i in own] for column in (z, leaves, lost))
        averages_of_own = extrapolated(averaged, given, residuals, node.b1)
        for i, x in zip(own, averages_of_own, strict=True):
            leaves[i] = x
    return treedef.unflatten(leaves)


def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: ScalarOrSchedule,
    b1: Number = 0.9,
    weight_lr_power: Number = 2.0,
    state_dtype: DTypeLike | None = None,
) -> GradientTransformationExtraArgs:
    """Average the path of an optimizer, in place of a schedule; see `gdjax.schedule_free`.

    The first weight is that of `learning_rate(0)`, the first rate of the optimizer; optax's is that
    of `learning_rate(1)`.
    """
    is_complex = state_dtype is not None and jnp.issubdtype(state_dtype, jnp.complexfloating)
    optimizer = gdjax.schedule_free(
        base_optimizer, learning_rate, b1, weight_lr_power, None if is_complex else state_dtype
    )

    def read(state):
        slots = state.slots
        return ScheduleFreeState(
            state.hyperparams["b1"],
            slots.weight_sum,
            state.count + 1,
            slots.max_learning_rate,
            slots.inner,
            slots.z,
            slots.residual,
        )

    def write(native, state):
        slots = native.slots._replace(
            z=state.z,
            weight_sum=state.weight_sum,
            max_learning_rate=state.max_lr,
            residual=state.residual,
            inner=state.base_optimizer_state,
        )
        return native._replace(count=state.step_count - 1, slots=slots)

    counts = dict(step_count="count")
    return on_gdjax(
        optimizer,
        ScheduleFreeState,
        counts,
        read=read,
        write=write,
        kind=GradientTransformationExtraArgs,
    )


def schedule_free_sgd(
    learning_rate: Number = 1.0,
    warmup_steps: int | None = None,
    b1: Number = 0.9,
    weight_decay: Number | None = None,
    weight_lr_power: Number = 2.0,
    state_dtype: DTypeLike | None = None,
) -> GradientTransformationExtraArgs:
    """Schedule-free gradient descent; see `schedule_free`.

    As in optax, the first step of a warm-up has the rate 0.
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    base = sgd(rate)
    if weight_decay is not None:
        base = chain(add_decayed_weights(weight_decay), base)
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def schedule_free_adamw(
    learning_rate: Number = 0.0025,
    warmup_steps: int | None = None,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    weight_lr_power: Number = 2.0,
    state_dtype: DTypeLike | None = None,
) -> GradientTransformationExtraArgs:
    """Schedule-free AdamW; see `schedule_free`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.contrib.schedule_free_adamw(0.1)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = tx.init(params)
      >>> for _ in range(50):
      ...     updates, state = tx.update(params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> average = optax.contrib.schedule_free_eval_params(state, params)
      >>> print(bool(jnp.abs(average).max() < 0.5))
      True
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def _warmed_up(learning_rate: Number, warmup_steps: int | None) -> ScalarOrSchedule:
    if warmup_steps is None:
        return learning_rate
    return warmup_constant_schedule(0.0, learning_rate, warmup_steps)
