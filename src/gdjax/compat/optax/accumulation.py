"""Sums and means of gradients, over all steps or over the batches of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import gdjax
from gdjax.compat.optax.adapter import on_gdjax
from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    Updates,
    with_extra_args_support,
)
from gdjax.compat.optax.conditionality import run_if
from gdjax.core.checks import WHOLE, check_range
from gdjax.core.numerics import cast, cast_like, compute_dtype, safe_increment
from gdjax.core.types import DType, FloatDType, PyTree
from gdjax.wrappers.shared.skipping import ask

skip_not_finite = gdjax.skip_not_finite
skip_large_updates = gdjax.skip_large_updates


class TraceState(NamedTuple):
    """The decaying sum of the updates, shaped like the parameters."""

    trace: Params


def trace(
    decay: Any, nesterov: bool = False, accumulator_dtype: FloatDType = None
) -> GradientTransformation:
    """Replace the updates by their decaying sum; see `gdjax.trace`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.trace(decay=0.5)
      >>> updates, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
      >>> print(tx.update(jnp.ones(1), state)[0], state.trace)
      [1.5] [1.]
    """
    return on_gdjax(gdjax.trace(decay, nesterov, accumulator_dtype), TraceState, takes_params=False)


class EmaState(NamedTuple):
    """The running mean of the updates.

    Attributes:
      count: number of updates so far, int32.
      ema: the mean without its correction for the start at zero, shaped like the parameters.
    """

    count: Array
    ema: Params


def ema(
    decay: Any, debias: bool = True, accumulator_dtype: FloatDType = None
) -> GradientTransformation:
    """Replace the updates by their running mean; see `gdjax.ema`."""
    return on_gdjax(gdjax.ema(decay, debias, accumulator_dtype), EmaState, takes_params=False)


# --- one step for several batches -----------------------------------------------------------------


class ShouldSkipUpdateFunction(Protocol):
    """A test of the updates, for `MultiSteps`: `skip_not_finite` is one."""

    def __call__(
        self, updates: Updates, gradient_step: ArrayLike, params: Params | None
    ) -> tuple[Array, PyTree]:
        """Return whether to leave the updates out, a boolean array, and a tree to remember."""
        ...


class MultiStepsState(NamedTuple):
    """What `MultiSteps` remembers.

    Attributes:
      mini_step: updates accumulated for the next step, int32.
      gradient_step: steps of the optimizer so far, int32.
      inner_opt_state: its state.
      acc_grads: mean or sum of the updates accumulated, zero after a step.
      skip_state: what the test returned for the last updates.
    """

    mini_step: Array
    gradient_step: Array
    inner_opt_state: OptState
    acc_grads: Updates
    skip_state: PyTree = ()


def _never(updates: Updates, gradient_step: ArrayLike, params: Params) -> tuple[Array, PyTree]:
    return jnp.array(False), ()


class MultiSteps:
    """Take a step of an optimizer for every k calls of `update`; in the others, updates are zero.

    The optimizer runs in the k-th call only, and sees the mean unrounded, where optax runs it in
    each call, drops what it did, and rounds the mean to the updates' dtype.

    Args:
      opt: an optimizer, of optax or of gdjax.
      every_k_schedule: k, a number or a function of the steps of the optimizer so far.
      use_grad_mean: whether it sees the mean of the k updates, or else their sum.
      should_skip_update_fn: a test; updates that it rejects are left out, as if the call had not
        been made.
      accumulator_dtype: dtype in which real updates are accumulated, and complex ones in the
        corresponding complex dtype; None is that of the parameters, at least float32.

    Raises:
      ValueError: if k is no whole number >= 1; in `update`, if the test returns no boolean array.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.MultiSteps(optax.adam(0.1), every_k_schedule=2)
      >>> state = tx.init(jnp.ones(1))
      >>> _, state = tx.update(jnp.ones(1), state)
      >>> print(tx.has_updated(state), state.mini_step, state.acc_grads)
      False 1 [1.]
    """

    def __init__(
        self,
        opt: GradientTransformation,
        every_k_schedule: ArrayLike | Callable[[Array], ArrayLike],
        use_grad_mean: bool = True,
        should_skip_update_fn: ShouldSkipUpdateFunction | None = None,
        accumulator_dtype: DType = jnp.float32,
    ):
        check_range("MultiSteps(every_k_schedule=...)", every_k_schedule, WHOLE)
        self._opt = with_extra_args_support(opt)
        self._k = every_k_schedule
        self._use_grad_mean = use_grad_mean
        self._should_skip = should_skip_update_fn or _never
        self._dtype = accumulator_dtype

    @property
    def inner_opt(self) -> GradientTransformationExtraArgs:
        """The optimizer that takes the steps."""
        return self._opt

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """Yield `init` and `update`: `init, update = tx` works as for other pairs."""
        return iter((self.init, self.update))

    def init(self, params: Params) -> MultiStepsState:
        """Return the state for these parameters."""
        n, done = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        zeros = jax.tree.map(jnp.zeros_like, params)
        skip_state = ask(self._should_skip, zeros, done, params)[1]
        acc_grads = jax.tree.map(self._zeros, params)
        return MultiStepsState(n, done, self._opt.init(params), acc_grads, skip_state)

    def _zeros(self, param: Array) -> Array:
        param = jnp.asarray(param)
        dtype = jnp.dtype(self._dtype or compute_dtype(param))
        if jnp.iscomplexobj(param):
            dtype = jnp.promote_types(dtype, jnp.complex64)
        return jnp.zeros_like(param, dtype=dtype)

    def update(
        self,
        updates: Updates,
        state: MultiStepsState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[Updates, MultiStepsState]:
        """Return the optimizer's updates in the k-th call, else zeros, and the next state."""
        updates = jax.tree.map(jnp.asarray, updates)
        n, done = state.mini_step, state.gradient_step
        k = self._k(done) if callable(self._k) else self._k
        skip, skip_state = ask(self._should_skip, updates, done, params)

        def add(grad, acc):
            wide = cast(grad, compute_dtype(grad, acc))
            new = acc + (wide - acc) / (n + 1) if self._use_grad_mean else acc + wide
            return jnp.where(skip, acc, new)

        total = jax.tree.map(add, updates, state.acc_grads)
        due = (n + 1 >= k) & ~skip
        inner = state.inner_opt_state
        new, inner = run_if(due, self._opt.update, total, inner, params, extra_args, like=updates)
        left = jax.tree.map(lambda x: jnp.where(due, 0, x), total)
        return new, MultiStepsState(
            mini_step=jnp.where(due, 0, jnp.where(skip, n, n + 1)),
            gradient_step=jnp.where(due, safe_increment(done), done),
            inner_opt_state=inner,
            acc_grads=cast_like(left, state.acc_grads),
            skip_state=skip_state,
        )

    def has_updated(self, state: MultiStepsState) -> Array:
        """Return whether the last call of `update` took a step.

        It did not if the test left its updates out, for tests that remember "should_skip" as
        `skip_not_finite` does (optax: still true right after a step).
        """
        stepped = (state.mini_step == 0) & (state.gradient_step > 0)
        if isinstance(state.skip_state, dict) and "should_skip" in state.skip_state:
            stepped &= ~state.skip_state["should_skip"]
        return stepped

    def gradient_transformation(self) -> GradientTransformationExtraArgs:
        """Return the pair of `init` and `update`."""
        return GradientTransformationExtraArgs(self.init, self.update)
