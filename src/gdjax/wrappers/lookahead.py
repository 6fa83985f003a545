"""Lookahead: k steps of a fast optimizer, then one step of slow weights towards the fast ones.

Zhang, Lucas, Hinton & Ba (2019), Algorithm 1, https://arxiv.org/abs/1907.08610
Paper -> here: phi -> slow, theta -> the parameters, k -> sync_period, alpha -> slow_step_size.
Deviations: none.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import AT_LEAST_ONE, CLOSED_UNIT, checked
from gdjax.core.evaluation import map_held
from gdjax.core.lift import NEEDS_PARAMS, treewise
from gdjax.core.residual import exact_params, land, no_residual
from gdjax.core.trees import copied, map_leaves
from gdjax.core.types import OptState, Pair, Params, PyTree, Scalar
from gdjax.wrappers.shared.reset import memory, reset
from gdjax.wrappers.shared.skipping import at_steps


class Lookahead(NamedTuple):
    """What lookahead remembers."""

    slow: Params  # phi, shaped like the parameters, at least float32
    residual: PyTree  # what rounding takes from fast weights of less than float32, else None
    first: PyTree  # counts and slots of the fast optimizer at `init`; None unless it is reset
    inner: OptState  # state of the fast optimizer

    iterates = ("slow", "residual", "first")

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the slow weights."""
        return map_held(_slow, self.slow, params)


def _slow(slow, param):
    return slow


def _sync(slow, param, update, due, share):
    slow = jnp.where(due > 0, slow + share * (param + update - slow), slow)
    return jnp.where(due > 0, slow - param, update), slow


def _lookahead(grads, slots, params, count, *, sync_period, slow_step_size, inner, **extra):
    if params is None:
        raise ValueError(f"lookahead needs {NEEDS_PARAMS}")
    exact = exact_params(params, slots.residual)
    updates, state = inner(grads, slots.inner, exact, **extra)

    def step():
        due = count % jnp.maximum(sync_period.astype(jnp.int32), 1) == 0
        moved, slow = map_leaves(_sync, 2, (slots.slow, exact, updates), due, slow_step_size)
        moved, residual = land(params, exact, moved, slots.residual)
        fast = state if slots.first is None else reset(due, state, slots.first)
        return moved, Lookahead(slow, residual, slots.first, fast)

    return at_steps(state, step, (updates, slots._replace(inner=state)))


def _fresh(init: InitFn, reset_state: bool, params: Params) -> Lookahead:
    first = memory(init(params)) if reset_state else None
    return Lookahead(copied(params), no_residual(params), first, init(params))


@checked(sync_period=AT_LEAST_ONE, slow_step_size=CLOSED_UNIT)
def lookahead(
    fast_optimizer: Pair,
    sync_period: Scalar = 6,
    slow_step_size: Scalar = 0.5,
    reset_state: bool = False,
) -> Optimizer:
    r"""Every few updates, pull the parameters back towards slow weights that follow them.

    At updates k, 2 k, ... the slow weights :math:`\phi` move towards the parameters :math:`\theta`,
    which then become equal to them:

    .. math::

       \phi &\leftarrow \phi + \alpha (\theta - \phi) \\
       \theta &\leftarrow \phi

    Evaluate at the slow weights, `gdjax.eval_params(state, params)`. Updates are those that
    the fast optimizer takes: not calls that a guard in it skips, or in which it accumulates.

    Evidence: mixed. With momentum and with RAdam it is among fifteen tuned optimizers, of which
    none was consistently better than Adam (Schmidt et al. 2021, arXiv 2007.01547).

    Differences: the slow weights are part of the state; the parameters are the fast weights, a
    plain tree. optax keeps both in `LookaheadParams`, which gdjax does not need: pass `params`
    where optax code has `LookaheadParams.init_synced(params)` or `params.fast`.

    Args:
      fast_optimizer: any `(init, update)` pair. Nothing may change the updates after the wrapper.
      sync_period: :math:`k` >= 1, number of updates between synchronizations; fractions are
        dropped.
      slow_step_size: :math:`\alpha` in [0, 1], how far the slow weights move towards the fast ones.
      reset_state: whether the fast optimizer is reset at each synchronization: its counts, also
        those of its schedules, and its slots; not its numbers and random keys, nor what guards and
        accumulation in it count and hold back. Costs the memory of a second state of it.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes for each element, in addition to that of `fast_optimizer`; 8 where the
      parameters are of less than float32, whose rounding errors it keeps.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.lookahead(gdjax.sgd(1.0), sync_period=2)
      >>> params = jnp.array([4.0])
      >>> state = opt.init(params)
      >>> for _ in range(2):
      ...     updates, state = opt.update(jnp.ones(1), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      ...     print(params, gdjax.eval_params(state, params))
      [3.] [4.]
      [3.] [3.]

    References:
      Zhang et al. (2019), "Lookahead optimizer: k steps forward, 1 step back".
    """
    fast = with_extra_args_support(fast_optimizer)
    slots = functools.partial(_fresh, fast.init, reset_state)
    numbers = dict(sync_period=sync_period, slow_step_size=slow_step_size)
    return treewise(_lookahead, slots, numbers, inner=fast.update)
