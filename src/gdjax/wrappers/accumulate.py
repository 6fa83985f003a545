"""Accumulate the gradients of k mini-batches, then take one step with their mean.

The optimizer runs once in k calls, under `lax.cond`; its schedules count its own steps.
mean_i = mean_(i-1) + (g_i - mean_(i-1)) / i (Welford 1962, https://doi.org/10.2307/1266577)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer, State
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import WHOLE, checked
from gdjax.core.every import as_interval
from gdjax.core.hyper import as_hyper, value_at
from gdjax.core.numerics import compute_dtype, safe_increment
from gdjax.core.protocols import states_in
from gdjax.core.trees import map_leaves
from gdjax.core.treewise import treewise
from gdjax.wrappers.guard import ask, fresh_skip_state, tally, unless


class Accumulated(NamedTuple):
    """What accumulation remembers."""

    steps: State  # every_k; its count is that of the steps of the optimizer
    mini_step: Array  # gradients gathered for the next step, int32
    updated: Array  # whether the last call took a step
    acc_grads: Any  # mean or sum of the gradients of this step or the last; None if k is always 1
    skipped: Array  # mini-batches left out so far, int32
    skip_state: Any  # what `should_skip_update_fn` had to say of the last gradients
    inner: Any  # state of the optimizer

    def skipped_steps(self):
        """Return how many mini-batches were left out."""
        return self.skipped


def _mean(mean, grad, n, skip):
    new = jnp.where(n == 0, grad, mean + (grad - mean) / (n + 1))
    return new if skip is None else jnp.where(skip > 0, mean, new)


def _sum(sum_, grad, n, skip):
    new = jnp.where(n == 0, grad, sum_ + grad)
    return new if skip is None else jnp.where(skip > 0, sum_, new)


def _accumulate(grads, slots, params, count, *, use_grad_mean, should_skip, inner, **extra):
    steps, n = slots.steps, slots.mini_step
    skip, skip_state = None, ()
    if should_skip is not None:
        skip, skip_state = ask(should_skip, grads, steps.count, params)
    gathered, due = grads, jnp.array(True)
    if slots.acc_grads is not None:
        add = _mean if use_grad_mean else _sum
        (gathered,) = map_leaves(add, 1, (slots.acc_grads, grads), n, skip)
        k = as_interval(value_at(steps.hyperparams["every_k"], steps.count), n)
        due = n + 1 >= k
    skip = jnp.array(False) if skip is None else skip
    due &= ~skip
    updates, state = unless(~due, inner, gathered, slots.inner, params, extra)
    return updates, Accumulated(
        steps._replace(count=jnp.where(due, safe_increment(steps.count), steps.count)),
        jnp.where(due, 0, jnp.where(skip, n, n + 1)),
        due,
        None if slots.acc_grads is None else gathered,
        tally(skip, slots.skipped, n)[0],
        skip_state,
        state,
    )


def _fresh(init, every_k, should_skip, dtype, params) -> Accumulated:
    numbers, acc_grads = {}, None
    if every_k is not None:
        numbers = dict(every_k=as_hyper("accumulate(every_k=...)", every_k))
        acc_grads = jax.tree.map(
            lambda x: jnp.zeros_like(x, dtype=dtype or compute_dtype(x)), params
        )
    skip_state = () if should_skip is None else fresh_skip_state(should_skip, params)
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    steps = State(zero(), numbers, ())
    start = jnp.array(False)
    return Accumulated(steps, zero(), start, acc_grads, zero(), skip_state, init(params))


@checked(every_k=WHOLE)
def accumulate(
    optimizer: Any,
    every_k: Any,
    use_grad_mean: bool = True,
    should_skip_update_fn: Callable | None = None,
    accumulator_dtype: Any = None,
) -> Optimizer:
    """Take one step for every `every_k` gradients, along their mean; until then updates are zero.

    It is as if the optimizer had seen the mean over the larger batch: also in its counts and
    schedules, and, for low-precision gradients, with a mean that is never rounded.

    optax, in `MultiSteps`, runs the optimizer at each call and drops what it did, and rounds the
    mean to the gradients' dtype.

    Args:
      optimizer: any `(init, update)` pair. Of extra arguments such as `value`, it sees those of the
        last of the k calls.
      every_k: number of gradients >= 1 for a step: a number, or a schedule of the steps done. As a
        leaf of the state it may be changed at any time; the number 1 is structure, and costs no
        memory.
      use_grad_mean: whether to step along the mean, or else along the sum.
      should_skip_update_fn: a test as for `guard`, without further numbers; a gradient that it
        rejects is left out, as if the call had not been made.
      accumulator_dtype: dtype of the gathered gradients; None is float32, or float64 for float64
        parameters (optax: always float32).

    Returns:
      An `Optimizer`. State: 4 bytes for each element besides the optimizer's, none for `every_k=1`;
      `slots.updated` says whether the last call took a step.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.accumulate(gdjax.sgd(0.1), every_k=2)
      >>> state = opt.init(jnp.ones(1))
      >>> for grad in (1.0, 3.0, 5.0, 7.0):
      ...     updates, state = opt.update(jnp.full(1, grad), state)
      ...     print(updates, state.slots.updated)
      [0.] False
      [-0.2] True
      [0.] False
      [-0.6] True
    """
    init, update = with_extra_args_support(optimizer)
    if isinstance(every_k, int) and every_k == 1:
        every_k = None
    slots = functools.partial(_fresh, init, every_k, should_skip_update_fn, accumulator_dtype)
    return treewise(
        _accumulate, slots, use_grad_mean=use_grad_mean, should_skip=should_skip_update_fn,
        inner=update,
    )  # fmt: skip


class MultiSteps(Optimizer):
    """`accumulate` as a class with optax's arguments and methods; it is an `(init, update)` pair.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.MultiSteps(gdjax.sgd(0.1), every_k_schedule=2)
      >>> state = opt.init(jnp.ones(1))
      >>> _, state = opt.update(jnp.ones(1), state)
      >>> print(opt.has_updated(state))
      False
    """

    inner_opt: Optimizer  # the pair that takes the steps

    def __new__(
        cls,
        opt: Any,
        every_k_schedule: Any,
        use_grad_mean: bool = True,
        should_skip_update_fn: Callable | None = None,
        accumulator_dtype: Any = None,
    ):
        """Make the pair; for the arguments see `accumulate`."""
        pair = accumulate(
            opt, every_k_schedule, use_grad_mean, should_skip_update_fn, accumulator_dtype
        )
        made = super().__new__(cls, *pair)
        made.inner_opt = with_extra_args_support(opt)
        return made

    def has_updated(self, state: Any) -> Array:
        """Return whether the last call of `update` took a step of the optimizer."""
        for _, node in states_in(state):
            if isinstance(node.slots, Accumulated):
                return node.slots.updated
        raise ValueError("MultiSteps.has_updated(state=...) must be a state of MultiSteps.")

    def gradient_transformation(self) -> Optimizer:
        """Return the plain pair."""
        return Optimizer(self.init, self.update)
