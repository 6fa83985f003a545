"""Lookahead: k steps of a fast optimizer, then one step of slow weights towards the fast ones.

Zhang, Lucas, Hinton & Ba (2019), Algorithm 1, https://arxiv.org/abs/1907.08610
Paper -> here: phi -> slow, theta -> the parameters, k -> sync_period, alpha -> slow_step_size.
With an outer optimizer: Kallusky et al. (2025), SNOO, https://arxiv.org/abs/2510.15830
w -> slow, w tilde -> the parameters, K -> sync_period, s -> the outer optimizer's gradient.
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
from gdjax.core.every import either
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like
from gdjax.core.protocols import took_step
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
    outer: OptState = None  # state of the outer optimizer; None without one

    iterates = ("slow", "residual", "first")

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the slow weights."""
        return map_held(_slow, self.slow, params)


def _slow(slow, param):
    return slow


def _sync(slow, param, update, due, share):
    slow = jnp.where(due > 0, slow + share * (param + update - slow), slow)
    return jnp.where(due > 0, slow - param, update), slow


def _pseudo_gradient(slow, param, update):
    return slow - (param + update)


def _jump(slow, param, step):
    slow = slow + step
    return slow - param, slow


def _lookahead(
    grads,
    slots,
    params,
    count,
    *,
    sync_period,
    slow_step_size=None,
    inner,
    outer: Any = None,
    **extra,
):
    if params is None:
        raise ValueError(f"lookahead needs {NEEDS_PARAMS}")
    exact = exact_params(params, slots.residual)
    updates, state = inner(grads, slots.inner, exact, **extra)

    def outer_step():
        (gap,) = map_leaves(_pseudo_gradient, 1, (slots.slow, exact, updates))
        steps, outer_state = outer(gap, slots.outer, slots.slow)
        return *map_leaves(_jump, 2, (slots.slow, exact, steps)), outer_state

    def step():
        due = count % jnp.maximum(sync_period.astype(jnp.int32), 1) == 0
        if outer is None:
            columns = slots.slow, exact, updates
            moved, slow = map_leaves(_sync, 2, columns, due, slow_step_size)
            outer_state = None
        else:
            left = updates, slots.slow, slots.outer
            synced = either(due, lambda: cast_like(outer_step(), left), lambda: left)
            moved, slow, outer_state = synced
        moved, residual = land(params, exact, moved, slots.residual)
        fast = state if slots.first is None else reset(due, state, slots.first)
        return moved, Lookahead(slow, residual, slots.first, fast, outer_state)

    return at_steps(state, step, (updates, slots._replace(inner=state)))


def _fresh(init: InitFn, outer_init: InitFn | None, reset_state: bool, params: Params) -> Lookahead:
    first = memory(init(params)) if reset_state else None
    slow, outer = copied(params), None
    if outer_init is not None:
        outer = outer_init(slow)
        if took_step(outer) is not None:
            raise ValueError(
                "lookahead(outer_optimizer=...) must take a step in each of its updates: put "
                "guards and accumulation into fast_optimizer, or around lookahead."
            )
    return Lookahead(slow, no_residual(params), first, init(params), outer)


@checked(sync_period=AT_LEAST_ONE, slow_step_size=CLOSED_UNIT)
def lookahead(
    fast_optimizer: Pair,
    sync_period: Scalar = 6,
    slow_step_size: Scalar = 0.5,
    reset_state: bool = False,
    *,
    outer_optimizer: Pair | None = None,
) -> Optimizer:
    r"""Every few updates, pull the parameters back towards slow weights that follow them.

    At updates k, 2 k, ... the slow weights :math:`\phi` move towards the parameters :math:`\theta`,
    which then become equal to them:

    .. math::

       \phi &\leftarrow \phi + \alpha (\theta - \phi) \\
       \theta &\leftarrow \phi

    An outer optimizer takes the place of the step of length :math:`\alpha`: it moves :math:`\phi`,
    with :math:`\phi - \theta` as its gradient. With Nesterov's momentum this is SNOO, or DiLoCo
    with a single worker:

    .. math::

       b &\leftarrow \mu b + (\phi - \theta) \\
       \phi &\leftarrow \phi - \eta\, (\mu b + \phi - \theta) \\
       \theta &\leftarrow \phi

    Evaluate at the slow weights, `gdjax.eval_params(state, params)`. Updates are those that
    the fast optimizer takes: not calls that a guard in it skips, or in which it accumulates.

    Evidence: mixed. With momentum and with RAdam it is among fifteen tuned optimizers, of which
    none was consistently better than Adam (Schmidt et al. 2021, arXiv 2007.01547). With Nesterov's
    momentum as outer optimizer language models need 1.5 to 2.5 times less compute up to 1e23 FLOP,
    by its authors (Kallusky et al. 2025, arXiv 2510.15830). In modded-nanogpt
    (https://github.com/KellerJordan/modded-nanogpt) it saved 60 steps, about 10 of 1407 seconds, in
    the medium track (record 12, by an author), and 40 of 3250 steps around NorMuonH (track 3,
    result 13; p = 0.03). Against it: single-worker DiLoCo scores 0.12 in AlgoPerf's unofficial
    table of July 2026, NAdamW 0.44 (https://github.com/mlcommons/submissions_algorithms).

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
      outer_optimizer: an `(init, update)` pair that moves the slow weights in place of
        `slow_step_size`; it takes a step in each synchronization, which is the count of its
        schedules. SNOO is `sgd(0.68, momentum=0.37, nesterov=True)` with `sync_period=28` in
        modded-nanogpt, DiLoCo has a rate of 0.7 and a momentum of 0.9.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes for each element, in addition to that of both optimizers; 8 where the
      parameters are of less than float32, whose rounding errors it keeps.

    Raises:
      ValueError: if a concrete number is out of range; if both `slow_step_size` and
        `outer_optimizer` are given; if `update` is called without parameters.

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
      Zhang et al. (2019), "Lookahead optimizer: k steps forward, 1 step back"; Kallusky et al.
      (2025), "SNOO: Step-K Nesterov outer optimizer"; Douillard et al. (2023), "DiLoCo: Distributed
      low-communication training of language models", https://arxiv.org/abs/2311.08105
    """
    fast = with_extra_args_support(fast_optimizer)
    if outer_optimizer is None:
        slots = functools.partial(_fresh, fast.init, None, reset_state)
        numbers = dict(sync_period=sync_period, slow_step_size=slow_step_size)
        return treewise(_lookahead, slots, numbers, inner=fast.update)
    if not (isinstance(slow_step_size, float) and slow_step_size == 0.5):
        raise ValueError(
            "lookahead(slow_step_size=...) has no effect with an outer_optimizer, whose learning "
            "rate takes its place: give one of them."
        )
    outer = with_extra_args_support(outer_optimizer)
    slots = functools.partial(_fresh, fast.init, outer.init, reset_state)
    numbers = dict(sync_period=sync_period)
    return treewise(_lookahead, slots, numbers, inner=fast.update, outer=outer.update)
