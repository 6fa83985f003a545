"""Transformations that are applied in some steps only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    Updates,
    with_extra_args_support,
)
from gdjax.core.every import either
from gdjax.core.numerics import cast, compute_dtype, is_inexact, safe_increment
from gdjax.wrappers.guard import all_finite


class ConditionFn(Protocol):
    """Says in which steps to apply a transformation."""

    def __call__(self, step: ArrayLike, **extra_args: Any) -> ArrayLike:
        """Return one boolean; `step` counts the earlier calls of `update`, from 0."""
        ...


class ConditionallyTransformState(NamedTuple):
    """What `conditionally_transform` remembers.

    Attributes:
      inner_state: the state of the transformation.
      step: number of calls so far, int32.
    """

    inner_state: OptState
    step: Array


class ConditionallyMaskState(NamedTuple):
    """What `conditionally_mask` remembers; the attributes are as above."""

    step: Array
    inner_state: OptState


def run_if(
    condition: Array,
    update: Callable[..., tuple[Updates, OptState]],
    updates: Updates,
    state: OptState,
    params: Params | None,
    extra_args: dict[str, Any],
    otherwise: Callable[[Array], Array] = jnp.zeros_like,
    like: Updates = None,
) -> tuple[Updates, OptState]:
    """Return what a transformation gives if a condition holds, else other updates and its state.

    Only one of the two runs. New updates have the dtype of the given ones, at least a floating one,
    and the new state has the dtypes of the old one.

    Args:
      condition: a boolean scalar.
      update: that of the transformation, which takes extra arguments.
      updates: its arguments, as the next three.
      state: its state.
      params: the parameters, or None.
      extra_args: further arguments.
      otherwise: what becomes of each update if the condition does not hold.
      like: updates whose dtypes count; None is `updates`.
    """
    like = updates if like is None else like

    def run():
        new, new_state = update(updates, state, params, **extra_args)
        return jax.tree.map(_typed, new, like), jax.tree.map(_as_before, new_state, state)

    def leave():
        return jax.tree.map(lambda x: _typed(otherwise(x), x), like), state

    return either(condition, run, leave)


def _typed(update: Any, like: Any) -> Array:
    like = jnp.asarray(like)
    return cast(jnp.asarray(update), like.dtype if is_inexact(like.dtype) else compute_dtype(like))


def _as_before(new: Any, old: Any) -> Array:
    return cast(jnp.asarray(new), jnp.asarray(old).dtype)


def _answer(name: str, condition: ConditionFn, step: Array, extra_args: dict[str, Any]) -> Array:
    holds = jnp.asarray(condition(step, **extra_args))
    if holds.ndim:
        raise ValueError(
            f"{name}(should_transform_fn=...) must return one boolean, got an array of shape "
            f"{holds.shape}."
        )
    return holds != 0


def conditionally_transform(
    inner: GradientTransformation,
    should_transform_fn: ConditionFn,
    forward_extra_args: bool = False,
) -> GradientTransformationExtraArgs:
    """Apply a transformation where a condition holds; otherwise return the updates as they are.

    Args:
      inner: the transformation; its state does not change in the other steps.
      should_transform_fn: a function of the number of earlier calls of `update`.
      forward_extra_args: whether it also gets the extra arguments of `update`.

    Raises:
      ValueError: in `update`, if the function returns no scalar.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.conditionally_transform(optax.scale(2.0), lambda step: step < 1)
      >>> state = tx.init(jnp.ones(1))
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.ones(1), state)
      ...     print(updates, state.step)
      [2.] 1
      [1.] 2
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> ConditionallyTransformState:
        return ConditionallyTransformState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra_args):
        forwarded = extra_args if forward_extra_args else {}
        holds = _answer("conditionally_transform", should_transform_fn, state.step, forwarded)
        before = state.inner_state
        new, after = run_if(
            holds, inner.update, updates, before, params, extra_args, otherwise=jnp.asarray
        )
        return new, ConditionallyTransformState(after, safe_increment(state.step))

    return GradientTransformationExtraArgs(init, update)


def conditionally_mask(
    inner: GradientTransformation,
    should_transform_fn: ConditionFn,
    forward_extra_args: bool = False,
) -> GradientTransformationExtraArgs:
    """Apply a transformation where a condition holds; otherwise the updates are zero.

    Args:
      inner: as all arguments, as for `conditionally_transform`.
      should_transform_fn: see there.
      forward_extra_args: see there.
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> ConditionallyMaskState:
        return ConditionallyMaskState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        forwarded = extra_args if forward_extra_args else {}
        holds = _answer("conditionally_mask", should_transform_fn, state.step, forwarded)
        new, after = run_if(holds, inner.update, updates, state.inner_state, params, extra_args)
        return new, ConditionallyMaskState(safe_increment(state.step), after)

    return GradientTransformationExtraArgs(init, update)


class ApplyIfFiniteState(NamedTuple):
    """What `apply_if_finite` remembers.

    Attributes:
      notfinite_count: updates in a row, up to the last ones, that were not finite, int32.
      last_finite: whether the last ones were finite.
      total_notfinite: updates so far that were not finite, int32.
      inner_state: the state of the transformation.
    """

    notfinite_count: Array
    last_finite: Array
    total_notfinite: Array
    inner_state: OptState


def apply_if_finite(
    inner: GradientTransformation, max_consecutive_errors: ArrayLike
) -> GradientTransformationExtraArgs:
    """Leave out updates that are infinite or NaN somewhere, unless there were too many in a row.

    Once there are more in a row than `max_consecutive_errors`, they are let through, which destroys
    the parameters: see `gdjax.apply_if_finite` for one that does not.

    Args:
      inner: the transformation; its state does not change in the steps that are left out.
      max_consecutive_errors: how many are left out in a row.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.apply_if_finite(optax.scale(2.0), max_consecutive_errors=3)
      >>> updates, state = tx.update(jnp.array([jnp.nan]), tx.init(jnp.ones(1)))
      >>> print(updates, state.last_finite, state.total_notfinite)
      [0.] False 1
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> ApplyIfFiniteState:
        in_a_row, total = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return ApplyIfFiniteState(in_a_row, jnp.array(True), total, inner.init(params))

    def update(updates, state, params=None, **extra_args):
        finite = all_finite(jax.tree.map(jnp.asarray, updates))
        in_a_row = jnp.where(finite, 0, safe_increment(state.notfinite_count))
        total = state.total_notfinite
        new, after = run_if(
            finite | (in_a_row > max_consecutive_errors),
            inner.update,
            updates,
            state.inner_state,
            params,
            extra_args,
        )
        total = jnp.where(finite, total, safe_increment(total))
        return new, ApplyIfFiniteState(in_a_row, finite, total, after)

    return GradientTransformationExtraArgs(init, update)
