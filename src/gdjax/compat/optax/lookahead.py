"""Lookahead with two sets of parameters, which the program holds: fast ones and slow ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    with_extra_args_support,
)
from gdjax.core.numerics import compute_dtype, scalar_dtype


class LookaheadState(NamedTuple):
    """What `lookahead` remembers.

    Attributes:
      fast_state: the state of the optimizer.
      steps_since_sync: number of steps since both sets of parameters were equal, int32.
    """

    fast_state: OptState
    steps_since_sync: Array


class LookaheadParams(NamedTuple):
    """Two sets of parameters.

    Attributes:
      fast: those at which gradients are taken.
      slow: those to use in the end.
    """

    fast: Params
    slow: Params

    @classmethod
    def init_synced(cls, params: Params) -> LookaheadParams:
        """Return twice the same parameters."""
        return cls(fast=params, slow=params)


def lookahead(
    fast_optimizer: GradientTransformation,
    sync_period: int,
    slow_step_size: ArrayLike,
    reset_state: bool = False,
) -> GradientTransformationExtraArgs:
    """Move slow parameters towards the fast ones every few steps, and then these onto them.

    Zhang et al. (2019), https://arxiv.org/abs/1907.08610. Parameters and updates are
    `LookaheadParams`, gradients those of the fast parameters. `gdjax.lookahead` keeps the slow
    ones in its state.

    Args:
      fast_optimizer: the optimizer of the fast parameters.
      sync_period: how many of its steps are between two moves of the slow parameters, >= 1.
      slow_step_size: how far these move towards the fast ones, usually in [0, 1].
      reset_state: whether the optimizer starts again after each of these moves. Random keys in its
        state are not reset: it would draw the same numbers again.

    Raises:
      ValueError: if the period is less than 1.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.lookahead(optax.scale(-1.0), sync_period=2, slow_step_size=0.5)
      >>> params = optax.LookaheadParams.init_synced(jnp.array(8.0))
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array(1.0), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(params.fast, params.slow)
      7.0 8.0
      7.0 7.0
    """
    if sync_period < 1:
        raise ValueError(f"lookahead(sync_period=...) must be at least 1, got {sync_period}.")
    optimizer = with_extra_args_support(fast_optimizer)

    def init(params: Any) -> LookaheadState:
        fast = getattr(params, "fast", params)
        return LookaheadState(optimizer.init(fast), jnp.zeros((), jnp.int32))

    def update(updates, state, params: Any = None, **extra_args: Any):
        if not hasattr(params, "fast"):
            raise AttributeError(
                "lookahead needs both sets of parameters: call update(updates, state, params) "
                f"with LookaheadParams, got {type(params).__name__}."
            )
        updates, fast_state = optimizer.update(updates, state.fast_state, params.fast, **extra_args)
        due = state.steps_since_sync == sync_period - 1
        rate = jnp.asarray(slow_step_size, scalar_dtype())

        def step(update, fast, slow):
            dtype = compute_dtype(*map(jnp.asarray, (update, fast, slow)))
            wide, far = (jnp.asarray(x, dtype) for x in (update, fast))
            far = jnp.where(due, far + wide - jnp.asarray(slow, dtype), 0)
            share = rate.astype(far.real.dtype)
            both = wide - (1 - share) * far, share * far
            return LookaheadParams(*(x.astype(jnp.result_type(update)) for x in both))

        def reset(now, first):
            if jnp.issubdtype(jnp.result_type(now), jax.dtypes.prng_key):
                return now
            return jnp.where(due, first, now).astype(jnp.result_type(now))

        both = jax.tree.map(step, updates, params.fast, params.slow)
        is_one = lambda x: isinstance(x, LookaheadParams)  # noqa: E731
        fast, slow = (jax.tree.map(lambda x, i=i: x[i], both, is_leaf=is_one) for i in (0, 1))
        if reset_state:
            fast_state = jax.tree.map(reset, fast_state, optimizer.init(params.fast))
        since = (state.steps_since_sync + 1) % sync_period
        return LookaheadParams(fast, slow), LookaheadState(fast_state, since)

    return GradientTransformationExtraArgs(init, update)
