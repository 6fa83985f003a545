"""Run an optimizer only in the steps for which a condition holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.every import either
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like, safe_increment
from gdjax.core.protocols import also_took_step
from gdjax.core.types import OptState, Pair, Params


class Conditional(NamedTuple):
    """What a condition remembers."""

    step: Array  # calls so far, int32, for the condition
    updated: Array  # whether the last call gave updates: the optimizer ran, or passed gradients on
    inner: OptState  # state of the optimizer after the last step in which it ran

    def stepped(self) -> Array:
        """Return whether the last call took a step."""
        return also_took_step(self.updated, self.inner)


def _conditionally(
    grads, slots, params, count, *, called, condition, forward, mask, inner, raw_params, **extra
):

    def step():
        updates, state = inner(grads, slots.inner, params, **extra)
        return cast_like(updates, grads), cast_like(state, slots.inner)

    def leave():
        return (jax.tree.map(jnp.zeros_like, grads) if mask else grads), slots.inner

    due = jnp.asarray(condition(slots.step, **(extra if forward else {})))
    if due.ndim:
        raise ValueError(
            f"{called}: should_transform_fn must return one boolean, got an array of shape "
            f"{due.shape}."
        )
    updates, state = either(due != 0, step, leave)
    updated = jnp.asarray(due != 0, bool) if mask else jnp.array(True)
    return updates, Conditional(safe_increment(slots.step), updated, state)


def _wrap(
    name: str, inner: Pair, condition: Callable[..., Any], forward: bool, mask: bool
) -> Optimizer:
    init, update = with_extra_args_support(inner)
    slots = functools.partial(_fresh, init)
    return treewise(
        _conditionally,
        slots,
        name=name,
        called=name,
        condition=condition,
        forward=forward,
        mask=mask,
        inner=update,
    )


def _fresh(init: InitFn, params: Params) -> Conditional:
    return Conditional(jnp.zeros((), jnp.int32), jnp.array(True), init(params))


@strict()
def conditionally_transform(
    inner: Pair, should_transform_fn: Callable[..., Any], forward_extra_args: bool = False
) -> Optimizer:
    """Apply an optimizer when a condition holds; otherwise return the gradients unchanged.

    Only one of the two runs in a step (`lax.cond`).

    Args:
      inner: the `(init, update)` pair.
      should_transform_fn: `should_transform_fn(step)` returns one boolean; `step` is the number of
        updates before this one, from 0. A function is static.
      forward_extra_args: whether it also gets the extra arguments of `update`, as keywords.

    Returns:
      An `Optimizer`.
      State: that of `inner`, which does not change in the other steps.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.conditionally_transform(gdjax.clip(1.0), lambda step: step < 1)
      >>> state = opt.init(jnp.ones(1))
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.full(1, 5.0), state)
      ...     print(updates)
      [1.]
      [5.]
    """
    return _wrap("conditionally_transform", inner, should_transform_fn, forward_extra_args, False)


@strict()
def conditionally_mask(
    inner: Pair, should_transform_fn: Callable[..., Any], forward_extra_args: bool = False
) -> Optimizer:
    """Apply an optimizer when a condition holds; otherwise the updates are zero.

    Args:
      inner: as all arguments, as for `conditionally_transform`.
      should_transform_fn: see there.
      forward_extra_args: see there.

    Returns:
      An `Optimizer`.
      State: that of `inner`, which does not change in the other steps.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.conditionally_mask(gdjax.sgd(1.0), lambda step: step % 2 == 1)
      >>> state = opt.init(jnp.ones(1))
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.full(1, 5.0), state)
      ...     print(updates)
      [0.]
      [-5.]
    """
    return _wrap("conditionally_mask", inner, should_transform_fn, forward_extra_args, True)
