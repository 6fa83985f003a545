"""Accumulate the gradients of k mini-batches, then take one step along their mean.

The optimizer runs once in k calls, under `lax.cond`; its schedules count its own steps.
mean_i = mean_(i-1) + (g_i - mean_(i-1)) / i (Welford 1962, https://doi.org/10.2307/1266577)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer, State
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import WHOLE, checked, remember_ranges
from gdjax.core.every import as_interval
from gdjax.core.hyper import as_hyper, value_at
from gdjax.core.lift import treewise
from gdjax.core.numerics import compute_dtype, safe_increment
from gdjax.core.protocols import also_took_step
from gdjax.core.trees import map_leaves
from gdjax.core.types import FloatDType, OptState, Pair, Params, PyTree, Scalar, Updates
from gdjax.wrappers.shared.skipping import ShouldSkip, ask, fresh_skip_state, tally, unless


class Accumulated(NamedTuple):
    """What accumulation remembers."""

    steps: State  # every_k; its count is that of the steps of the optimizer
    mini_step: Array  # gradients accumulated for the next step, int32
    updated: Array  # whether the last call took a step
    acc_grads: Updates  # mean or sum of the gradients of this step or the last; None if k is 1
    skipped: Array  # mini-batches left out so far, int32
    skip_state: PyTree  # what `should_skip_update_fn` returned for the last gradients
    inner: OptState  # state of the optimizer

    def skipped_steps(self) -> Array:
        """Return how many mini-batches were left out."""
        return self.skipped

    def stepped(self) -> Array:
        """Return whether the last call took a step."""
        return also_took_step(self.updated, self.inner)


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
    total, due = grads, jnp.array(True)
    if slots.acc_grads is not None:
        add = _mean if use_grad_mean else _sum
        (total,) = map_leaves(add, 1, (slots.acc_grads, grads), n, skip)
        k = as_interval(value_at(steps.hyperparams["every_k"], steps.count), n)
        due = n + 1 >= k
    skip = jnp.array(False) if skip is None else skip
    due &= ~skip
    updates, state = unless(~due, inner, total, slots.inner, params, extra)
    return updates, Accumulated(
        steps._replace(count=jnp.where(due, safe_increment(steps.count), steps.count)),
        jnp.where(due, 0, jnp.where(skip, n, n + 1)),
        due,
        None if slots.acc_grads is None else total,
        tally(skip, slots.skipped, n)[0],
        skip_state,
        state,
    )


def _no_count() -> Array:
    return jnp.zeros((), jnp.int32)


def _fresh(
    init: InitFn,
    what: str,
    every_k: Scalar | None,
    should_skip: ShouldSkip | None,
    dtype: FloatDType,
    params: Params,
) -> Accumulated:
    numbers, ranges, acc_grads = {}, {}, None
    if every_k is not None:
        numbers, ranges = dict(every_k=as_hyper(what, every_k)), dict(every_k=WHOLE)
        acc_grads = jax.tree.map(
            lambda x: jnp.zeros_like(x, dtype=dtype or compute_dtype(x)), params
        )
    return Accumulated(
        steps=remember_ranges(State(_no_count(), numbers, ()), ranges),
        mini_step=_no_count(),
        updated=jnp.array(False),
        acc_grads=acc_grads,
        skipped=_no_count(),
        skip_state=() if should_skip is None else fresh_skip_state(should_skip, params),
        inner=init(params),
    )


def accumulated(
    name: str,
    optimizer: Pair,
    every_k: tuple[str, Scalar],
    use_grad_mean: bool,
    should_skip: ShouldSkip | None,
    dtype: FloatDType,
) -> Optimizer:
    """Return `accumulate` under another name.

    Args:
      name: what the user called, for errors.
      optimizer: as all further arguments, see `accumulate`.
      every_k: how the argument is called in errors, and its value.
      use_grad_mean: see `accumulate`.
      should_skip: see `accumulate`.
      dtype: see `accumulate`.
    """
    init, update = with_extra_args_support(optimizer)
    what, k = every_k
    k = None if isinstance(k, int) and k == 1 else k
    slots = functools.partial(_fresh, init, what, k, should_skip, dtype)
    return treewise(
        _accumulate,
        slots,
        name=name,
        use_grad_mean=use_grad_mean,
        should_skip=should_skip,
        inner=update,
    )


@checked(every_k=WHOLE)
def accumulate(
    optimizer: Pair,
    every_k: Scalar,
    use_grad_mean: bool = True,
    should_skip_update_fn: ShouldSkip | None = None,
    accumulator_dtype: FloatDType = None,
) -> Optimizer:
    r"""Take one step for every `every_k` gradients, along their mean; until then updates are zero.

    The optimizer sees, in every k-th call,

    .. math::

       \bar g_t = \frac 1 k \sum_{i=0}^{k-1} g_{t-i}

    as if that were the mean over the larger batch, also in its counts and schedules. For
    low-precision gradients, the mean is not rounded.

    Differences: optax, in `MultiSteps`, runs the optimizer at each call and drops what it did, and
    rounds the mean to the gradients' dtype.

    Args:
      optimizer: any `(init, update)` pair. Of extra arguments such as `value`, it sees those of the
        last of the k calls.
      every_k: :math:`k` >= 1, number of gradients for a step: a number, or a schedule of the steps
        done. As a leaf of the state it may be changed at any time; the Python integer 1 is static,
        and costs no memory.
      use_grad_mean: whether to step along the mean, or else along the sum.
      should_skip_update_fn: a test as for `guard`, without further numbers; a gradient that it
        rejects is left out, as if the call had not been made.
      accumulator_dtype: dtype of the accumulated gradients; None is float32, or float64 for float64
        parameters (optax: always float32).

    Returns:
      An `Optimizer`.
      State: 4 bytes for each element in addition to the optimizer's, none for `every_k=1`;
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
    return accumulated(
        "accumulate",
        optimizer,
        ("accumulate(every_k=...)", every_k),
        use_grad_mean,
        should_skip_update_fn,
        accumulator_dtype,
    )
