"""Schedules whose lengths are in epochs, and the number of steps in one, which the data decide."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import State, is_state
from gdjax.core.checks import POSITIVE, checked, strict
from gdjax.core.hyper import FunctionSchedule, Schedule, as_array, schedule
from gdjax.core.types import Number, OptState, PyTree, ScheduleFn
from gdjax.schedules.curves import Leaf, as_integer, laps, numbers, real, since
from gdjax.schedules.join import Join, as_schedule

S = TypeVar("S")


@schedule
class InEpochs(Schedule):
    """A schedule whose lengths are in epochs; see `in_epochs`.

    Attributes:
      schedule: the schedule.
      steps_per_epoch: the number of steps in an epoch; NaN until it is known.
      first_step: the step, a whole number, at which the first epoch begins, or would have begun if
        all epochs had had as many steps as they have now.
      staircase: see `in_epochs`.
      known: whether the number of steps is known: static, so that it is an error if it is not.
      given: whether the user gave it, so that data do not change it.
    """

    unit: ClassVar[str] = "epochs"
    schedule: Any
    steps_per_epoch: Leaf
    first_step: Leaf
    staircase: bool = dataclasses.field(metadata={"static": True})
    known: bool = dataclasses.field(metadata={"static": True})
    given: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, count: Number) -> Array:
        """Return the value at `count`, in steps."""
        if not self.known:
            raise ValueError(
                "in_epochs: the number of steps in an epoch is not known. fit and sweep take it "
                "from their data; in a loop of your own give it, in_epochs(schedule, "
                "steps_per_epoch=...), or write it into the state, "
                "with_steps_per_epoch(optimizer.init(params), ...)."
            )
        per = real(self.steps_per_epoch)
        n, first = as_integer(count), jax.lax.stop_gradient(real(self.first_step))
        now = real(count) - first if n is None else n - first.astype(n.dtype)
        if self.staircase:
            epoch, _ = laps(now, per)
            if isinstance(self.schedule, FunctionSchedule):  # it may index a table
                return self.schedule(jax.lax.stop_gradient(epoch).astype(jnp.int32))
            now = epoch * per
        return stretched(self.schedule, per, 1.0)(now)


@schedule
class Stretched(Schedule):
    """A schedule that says of no field that it is a length, over a longer time."""

    schedule: Any
    factor: Leaf
    divisor: Leaf

    def __call__(self, count: Number) -> Array:
        """Return the value of the schedule at `count / (factor / divisor)`."""
        return self.schedule(real(count) * self.divisor / self.factor)


def stretched(part: Schedule, factor: Number, divisor: Number) -> Schedule:
    """Return a schedule that does the same in `factor / divisor` times as many steps.

    Its lengths are multiplied, and those of the schedules in it, as a user would do it: the values
    are those of a schedule in steps, bit for bit if those lengths are whole.
    """
    if part.lengths is None:
        return Stretched(part, factor, divisor)  # pyright: ignore[reportArgumentType]
    lengths = set(part.lengths)

    def longer(node: PyTree, is_length: bool) -> PyTree:
        if isinstance(node, Schedule):
            return stretched(node, factor, divisor)
        return _rounded_to_whole(real(node) * factor / divisor) if is_length else node

    fields: dict[str, PyTree] = {
        name: jax.tree.map(
            lambda node, name=name: longer(node, name in lengths),
            value,
            is_leaf=lambda node: isinstance(node, Schedule),
        )
        for name, value in vars(part).items()
    }
    return dataclasses.replace(part, **fields)  # pyright: ignore[reportArgumentType]


def _rounded_to_whole(length: Array) -> Array:
    """Return the nearest whole number where a length differs from it by rounding errors alone.

    One is of the number that was given, such as 3.75e10 tokens, one of the product.
    """
    difference = jax.lax.stop_gradient(jnp.round(length) - length)
    by_rounding = jnp.abs(difference) <= 2 * jnp.finfo(length.dtype).eps * jnp.abs(length)
    return length + jnp.where(by_rounding, difference, 0)


@checked(steps_per_epoch=POSITIVE._replace(optional=True))
def in_epochs(
    schedule: ScheduleFn, steps_per_epoch: Number | None = None, *, staircase: bool = False
) -> Schedule:
    """Read the lengths of a schedule in epochs; `fit` and `sweep` know the steps in an epoch.

    `in_epochs(cosine_decay_schedule(1e-3, 10))` is `cosine_decay_schedule(1e-3, 10 * n)` in a run
    of n steps per epoch, with any data and batch size: the values are the same, bit for bit.
    Lengths may be fractions, such as a warm-up of half an epoch.

    Args:
      schedule: any schedule, also joined ones: all its lengths in steps (`decay_steps`,
        `warmup_steps`, `transition_begin`, `boundaries`, ...) are taken as epochs. Numbers for a
        single step (the `gamma` of `cyclic_schedule`) stay so. A function, or a schedule of your
        own without `lengths`, is called with the epochs done, a float.
      steps_per_epoch: the number of steps in an epoch, > 0, for a loop of your own. None leaves it
        to the data: `fit`, `sweep`, the races, `lr_find` and `unroll` write it into the state,
        where it is "learning_rate.steps_per_epoch". A number that is given stays.
      staircase: whether the value changes only where an epoch begins. Then a function is called
        with an integer.

    Returns:
      A `Schedule`, for a hyperparameter or as a part of `join_schedules`. The schedule's own
      numbers are found under "schedule", as "learning_rate.schedule.peak_value", or by a shorter
      name, "peak_value", where that is unique. A run that is continued with another batch size
      continues at the same epoch.

    Raises:
      TypeError: if the schedule cannot be called, or is in epochs or tokens already.
      ValueError: for a number out of range; in a step, if the steps in an epoch are not known.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> rate = gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 2), steps_per_epoch=4)
      >>> print(rate(jnp.arange(0, 10, 2)))
      [1.   0.75 0.5  0.25 0.  ]
      >>> halves = gdjax.in_epochs(lambda epoch: 0.5**epoch, staircase=True)
      >>> x = jnp.arange(6.0)
      >>> def loss_fn(w, batch):
      ...     return jnp.mean((w - batch) ** 2)
      >>> run = gdjax.fit(loss_fn, 0.0, gdjax.sgd(halves), x, batch_size=2, epochs=2)
      >>> print({k: v.item() for k, v in gdjax.hyperparams_in_use(run.state).items()})
      {'learning_rate': 0.5}
    """
    inside = as_schedule(schedule, "in_epochs(schedule=...) must be a schedule or a function")
    check_in_steps("in_epochs", inside)
    given = steps_per_epoch is not None
    steps, first = numbers(steps_per_epoch if given else math.nan, 0.0)
    return InEpochs(inside, steps, first, staircase, known=given, given=given)


def check_in_steps(name: str, schedule: Schedule) -> None:
    """Raise if the lengths of a schedule, or of a part of it, are in another unit than steps."""
    for node in jax.tree.leaves(schedule, is_leaf=lambda node: hasattr(node, "unit")):
        if hasattr(node, "unit"):
            raise TypeError(
                f"{name}(schedule=...) must be in steps, got one that is, or has a part that is, "
                f"in {node.unit} already. Put {name} around the parts that are in steps."
            )


def _all_in_epochs(tree: PyTree) -> list[InEpochs]:
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, InEpochs))
    return [node for node in nodes if isinstance(node, InEpochs)]


def needs_steps_per_epoch(state: OptState) -> bool:
    """Return whether a state has schedules in epochs that go by the data."""
    return not all(node.given for node in _all_in_epochs(state))


@strict(steps_per_epoch=POSITIVE)
def with_steps_per_epoch(state: S, steps_per_epoch: Number) -> S:
    """Return a state in which the schedules in epochs know how many steps an epoch has.

    `fit` and `sweep` do this; call it in a loop of your own, before the first step. In a state that
    has taken steps with another number, each schedule continues where it is in its epochs, to the
    nearest step.

    Args:
      state: the state of any optimizer, chain or wrapper.
      steps_per_epoch: the number of steps in an epoch, > 0, usually examples // batch size.

    Returns:
      The new state, with the same leaves; schedules that were given a number by `in_epochs` keep
      it. A state that is read from a file into the structure of `optimizer.init(params)` needs it
      again, with the same number, as `fit` gives it.

    Raises:
      ValueError: if the number is not positive.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> optimizer = gdjax.sgd(gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 2)))
      >>> state = gdjax.with_steps_per_epoch(optimizer.init(jnp.ones(2)), 5)
      >>> _, state = optimizer.update(jnp.ones(2), state)
      >>> print(gdjax.hyperparams(state)["learning_rate"])
      0.9
    """
    return _edited(state, real(0.0), as_array("with_steps_per_epoch", steps_per_epoch))


def _edited(node: Any, count: Array, steps: Array) -> Any:
    """Return a node of a state, whose schedules are at `count`, with the steps of an epoch."""
    if isinstance(node, InEpochs):
        return node if node.given else _with_steps(node, count, steps)
    if isinstance(node, Join):
        begins = (0.0, *node.boundaries)
        parts = [
            _edited(part, jnp.maximum(since(count, begin), 0.0), steps)
            for part, begin in zip(node.schedules, begins, strict=True)
        ]
        return dataclasses.replace(node, schedules=tuple(parts))
    if is_state(node):
        count = node.count
    if node is None or jax.tree_util.all_leaves([node]):
        return node
    kinds = (State, InEpochs, Join)
    return jax.tree.map(
        lambda part: _edited(part, count, steps) if isinstance(part, kinds) else part,
        node,
        is_leaf=lambda part: part is not node and isinstance(part, kinds),
    )


def _with_steps(node: InEpochs, count: Array, steps: Array) -> InEpochs:
    old, first = real(node.steps_per_epoch), real(node.first_step)
    steps = jnp.array(jnp.broadcast_to(steps, jnp.shape(count)), copy=True)  # of several runs
    changes = (old > 0) & (old != steps)
    epochs = since(count, first) / jnp.where(changes, old, 1.0)
    first = jnp.where(changes, jnp.round(real(count) - epochs * steps), first)
    return dataclasses.replace(node, steps_per_epoch=steps, first_step=first, known=True)
