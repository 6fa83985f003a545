"""`gdjax.accumulate` as optax's class."""

from __future__ import annotations

from typing import Any

from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import WHOLE, check_range
from gdjax.core.protocols import states_in
from gdjax.core.types import FloatDType, OptState, Pair, Scalar
from gdjax.wrappers.accumulate import Accumulated, accumulated
from gdjax.wrappers.shared.skipping import ShouldSkip


class MultiSteps(Optimizer):
    """`accumulate` as a class with optax's arguments and methods; it is an `(init, update)` pair.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> opt = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2)
      >>> state = opt.init(jnp.ones(1))
      >>> _, state = opt.update(jnp.ones(1), state)
      >>> print(opt.has_updated(state))
      False
    """

    inner_opt: Optimizer  # the pair that takes the steps
    arguments: tuple[Any, ...]  # those that it was made with, for `copy`

    def __new__(
        cls,
        opt: Pair,
        every_k_schedule: Scalar,
        use_grad_mean: bool = True,
        should_skip_update_fn: ShouldSkip | None = None,
        accumulator_dtype: FloatDType = None,
    ):
        """Make the pair; for the arguments see `accumulate`."""
        what = "MultiSteps(every_k_schedule=...)"
        check_range(what, every_k_schedule, WHOLE)
        pair = accumulated(
            "MultiSteps",
            opt,
            (what, every_k_schedule),
            use_grad_mean,
            should_skip_update_fn,
            accumulator_dtype,
        )
        made = super().__new__(cls, *pair)
        made.inner_opt = with_extra_args_support(opt)
        made.arguments = (
            opt,
            every_k_schedule,
            use_grad_mean,
            should_skip_update_fn,
            accumulator_dtype,
        )
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return what `copy.copy` and `copy.deepcopy` make it of."""
        return self.arguments

    def has_updated(self, state: OptState) -> Array:
        """Return whether the last call of `update` took a step of the optimizer."""
        for _, node in states_in(state):
            if isinstance(node.slots, Accumulated):
                return node.slots.updated
        raise ValueError("MultiSteps.has_updated(state=...) must be a state of MultiSteps.")

    def gradient_transformation(self) -> Optimizer:
        """Return the plain pair."""
        return Optimizer(self.init, self.update)
