"""Optimizers with a step size for each element: acprop, ademamix, adopt, madgrad, sophia."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

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
)
from gdjax.compat.optax.combine import chain
from gdjax.compat.optax.transform import (
    ScaleByAdamState,
    ScaleByBeliefState,
    scale_by_learning_rate,
)
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.trees import magnitude, total_count
from gdjax.core.types import Number
from gdjax.optimizers.adopt import quartic_root


def scale_by_acprop(
    b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-16, eps_root: Number = 1e-16
) -> GradientTransformation:
    """Return ACProp's direction, uphill; see `acprop`."""
    return on_gdjax(gdjax.scale_by_acprop(b1, b2, eps, eps_root), ScaleByBeliefState)


def acprop(
    learning_rate: ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    eps_root: Number = 1e-16,
    weight_decay: Number = 0.0,
    mask: MaskOrFn = None,
) -> GradientTransformation:
    """ACProp; see `gdjax.acprop`, also for what differs from optax."""
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


class ScaleByAdemamixState(NamedTuple):
    """AdEMAMix's moments.

    Attributes:
      count: number of updates so far, int32.
      count_m2: the same; the schedules of `b3` and `alpha` are functions of it.
      m1: fast running mean of the gradient, shaped like the parameters.
      m2: slow running mean of the gradient.
      nu: running mean of its square.
    """

    count: Array
    count_m2: Array
    m1: Updates
    m2: Updates
    nu: Updates


def scale_by_ademamix(
    b1: Number = 0.9,
    b2: Number = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 6.0,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Return AdEMAMix's direction, uphill; see `ademamix`.

    optax keeps the mean square in `mu_dtype` too; here it has at least float32.
    """
    optimizer = gdjax.scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype)
    pair = on_gdjax(optimizer, ScaleByAdemamixState, dict(count_m2="count"))
    return _with_both_counts(pair)


def _with_both_counts(pair: GradientTransformation) -> GradientTransformation:
    def update(updates, state, params=None, **extra):
        return pair.update(updates, state._replace(count_m2=state.count), params, **extra)

    return GradientTransformation(pair.init, update)


def ademamix(
    learning_rate: ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any | None = None,
    weight_decay: Number = 0.0,
    mask: MaskOrFn = None,
) -> GradientTransformation:
    """AdEMAMix; see `gdjax.ademamix`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.contrib.ademamix(0.1, b3=0.9)
      >>> params = jnp.zeros(2)
      >>> updates, state = tx.update(jnp.array([4.0, -2.0]), tx.init(params), params)
      >>> print(updates.round(3), state[0].m1)
      [-0.15  0.15] [ 0.4 -0.2]
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


class ScaleBySimplifiedAdEMAMixState(NamedTuple):
    """The moments of AdEMAMix with one mean.

    Attributes:
      t: number of updates so far, int32.
      m: decaying sum of the gradients, shaped like the parameters.
      n: running mean of their squares.
    """

    t: Array
    m: Updates
    n: Updates


def scale_by_simplified_ademamix(
    b1: Number = 0.99,
    b2: Number = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
) -> GradientTransformation:
    """Return the direction of `simplified_ademamix`, uphill."""
    optimizer = gdjax.scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root)
    fields = dict(t="count", m="mu", n="nu")
    return on_gdjax(optimizer, ScaleBySimplifiedAdEMAMixState, fields)


def simplified_ademamix(
    learning_rate: ScalarOrSchedule,
    b1: Number = 0.99,
    b2: Number = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    weight_decay: Number = 0.0,
    mask: MaskOrFn = None,
) -> GradientTransformation:
    """AdEMAMix with one mean; see `gdjax.simplified_ademamix`."""
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_adopt(
    b1: Number = 0.9,
    b2: Number = 0.9999,
    eps: Number = 1e-6,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Array], Array] = quartic_root,
) -> GradientTransformation:
    """Return ADOPT's direction, uphill; see `gdjax.scale_by_adopt`."""
    optimizer = gdjax.scale_by_adopt(
        b1,
        b2,
        eps,
        mu_dtype,
        nesterov=nesterov,
        use_clipping=use_clipping,
        clip_value_fn=clip_value_fn,
    )
    return on_gdjax(optimizer, ScaleByAdamState)


def adopt(
    learning_rate: ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.9999,
    eps: Number = 1e-6,
    mu_dtype: Any | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Array], Array] = quartic_root,
) -> GradientTransformationExtraArgs:
    """ADOPT; see `gdjax.adopt`."""
    return chain(
        scale_by_adopt(
            b1,
            b2,
            eps,
            mu_dtype,
            nesterov=nesterov,
            use_clipping=use_clipping,
            clip_value_fn=clip_value_fn,
        ),
        scale_by_learning_rate(learning_rate),
    )


class MadgradState(NamedTuple):
    """What MADGRAD remembers.

    Attributes:
      count: number of updates so far, int32.
      grad_sum_sq: weighted sum of the squared gradients, shaped like the parameters.
      s: weighted sum of the gradients.
      x0: the first parameters.
      residual: what rounding takes from parameters of less than float32, None for others; optax
        has no such field.
    """

    count: Array
    grad_sum_sq: Updates
    s: Updates
    x0: Params
    residual: Updates = None


def scale_by_madgrad(
    learning_rate: ScalarOrSchedule, momentum: float = 0.9, eps: float = 1e-6
) -> GradientTransformation:
    """Return MADGRAD's update, downhill; see `gdjax.scale_by_madgrad`."""
    return on_gdjax(gdjax.scale_by_madgrad(learning_rate, momentum, eps), MadgradState)


def madgrad(
    learning_rate: ScalarOrSchedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    eps: float = 1e-6,
) -> GradientTransformation:
    """MADGRAD; see `gdjax.madgrad`."""
    return chain(add_decayed_weights(weight_decay), scale_by_madgrad(learning_rate, momentum, eps))


class HutchinsonState(NamedTuple):
    """The key of the next random signs, typed if the seed is a typed key."""

    key: Array


def hutchinson_estimator_diag_hessian(
    random_seed: Array | None = None,
) -> GradientTransformationExtraArgs:
    """Estimate the diagonal of the Hessian; see `gdjax.hutchinson_estimator_diag_hessian`.

    Args:
      random_seed: a key of `jax.random`, or an int; None is 0.

    Raises:
      ValueError: if `update` is called without the parameters or without `obj_fn=`.
    """
    name = "hutchinson_estimator_diag_hessian"
    seed = 0 if random_seed is None else random_seed
    typed = isinstance(seed, Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)

    def read(state):
        key = state.slots.key
        return HutchinsonState(key if typed else jax.random.key_data(key))

    def write(state, of_optax):
        key = of_optax.key if typed else jax.random.wrap_key_data(of_optax.key)
        return state._replace(slots=state.slots._replace(key=key))

    optimizer = gdjax.hutchinson_estimator_diag_hessian(seed)
    estimate = on_gdjax(optimizer, HutchinsonState, read=read, write=write)

    def update(updates, state, params=None, obj_fn=None, **extra_args):
        if params is None:
            raise ValueError(f"{name} needs {NEEDS_PARAMS}")
        if obj_fn is None:
            raise ValueError(
                f"{name} needs the loss as a function of the parameters: call "
                "update(updates, state, params, obj_fn=...)."
            )
        return estimate.update(updates, state, params, obj_fn=obj_fn)

    return GradientTransformationExtraArgs(estimate.init, update)


class SophiaState(NamedTuple):
    """What Sophia remembers.

    Attributes:
      count: number of updates so far, int32.
      mu: running mean of the gradient, shaped like the parameters.
      nu: running mean of the estimated Hessian diagonals.
      hessian_fn_state: the state of the estimate.
    """

    count: Array
    mu: Updates
    nu: Updates
    hessian_fn_state: Any


_HUTCHINSON = hutchinson_estimator_diag_hessian()


def scale_by_sophia(
    b1: Number = 0.965,
    b2: Number = 0.99,
    eps: Number = 1e-8,
    gamma: Number = 0.01,
    clip_threshold: Number | None = 1.0,
    update_interval: Number = 10,
    hessian_diagonal_fn: GradientTransformation = _HUTCHINSON,
    mu_dtype: Any | None = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: Number = 0,
) -> GradientTransformationExtraArgs:
    """Return Sophia's direction, uphill; see `sophia`."""
    optimizer = gdjax.scale_by_sophia(
        b1, b2, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn, mu_dtype
    )
    pair = on_gdjax(optimizer, SophiaState, kind=GradientTransformationExtraArgs)
    if not verbose or clip_threshold is None:
        return pair

    def update(updates, state, params=None, **extra_args):
        updates, state = pair.update(updates, state, params, **extra_args)
        every = jnp.asarray(print_win_rate_every_n_steps)
        due = (every > 0) & (state.count % jnp.maximum(every, 1) == 0)
        jax.lax.cond(due, _print_win_rate, lambda *_: None, updates, clip_threshold)
        return updates, state

    return GradientTransformationExtraArgs(pair.init, update)


def _print_win_rate(updates: Updates, clip_threshold: Number) -> None:
    inside = jax.tree.map(lambda u: jnp.sum(magnitude(u) < clip_threshold), updates)
    size = sum(u.size for u in jax.tree.leaves(updates))
    jax.debug.print("Sophia: share of unclipped elements {}", total_count(inside) / max(size, 1))


def sophia(
    learning_rate: ScalarOrSchedule,
    b1: Number = 0.965,
    b2: Number = 0.99,
    eps: Number = 1e-8,
    weight_decay: Number = 1e-4,
    weight_decay_mask: MaskOrFn = None,
    gamma: Number = 0.01,
    clip_threshold: Number | None = 1.0,
    update_interval: Number = 10,
    hessian_diagonal_fn: GradientTransformation = _HUTCHINSON,
    mu_dtype: Any | None = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: Number = 0,
) -> GradientTransformationExtraArgs:
    """Sophia; see `gdjax.sophia`.

    The curvature of a step is used in that step, as in the paper; in optax in the next one.

    Args:
      learning_rate: see `gdjax.sophia`, like all arguments that are not named here.
      b1: see there.
      b2: see there.
      eps: see there.
      weight_decay: see there.
      weight_decay_mask: see there.
      gamma: see there.
      clip_threshold: see there.
      update_interval: see there.
      hessian_diagonal_fn: the estimate of the Hessian's diagonal, which gets the extra arguments of
        `update`; the default one needs `obj_fn=`.
      mu_dtype: see there.
      verbose: whether to print the share of elements that are not clipped.
      print_win_rate_every_n_steps: how often; 0 is never.
    """
    return chain(
        scale_by_sophia(
            b1,
            b2,
            eps,
            gamma,
            clip_threshold,
            update_interval,
            hessian_diagonal_fn,
            mu_dtype,
            verbose,
            print_win_rate_every_n_steps,
        ),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
