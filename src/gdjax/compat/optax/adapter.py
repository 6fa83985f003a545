"""From a pair of gdjax to one of optax: the numbers leave the state, which gets optax's fields.

In gdjax the numbers of an optimizer are in its state; in optax they belong to the pair. Here the
pair keeps them, and gives them to the same program in each step: another number needs no compile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.core

from gdjax.compat.optax.base import (
    EmptyState,
    GradientTransformation,
    GradientTransformationExtraArgs,
    init_empty_state,
)
from gdjax.core.base import Optimizer, State
from gdjax.core.hyper import Placeholder
from gdjax.core.numerics import scalar_dtype

S = TypeVar("S", bound=tuple[Any, ...])


def on_gdjax(
    optimizer: Optimizer,
    state_class: type[Any] = EmptyState,
    fields: Mapping[str, str] | None = None,
    *,
    read: Callable[[State], Any] | None = None,
    write: Callable[[State, Any], State] | None = None,
    extra_args: bool = False,
) -> GradientTransformation:
    """Return an optimizer of gdjax as a pair of optax, with optax's state.

    Args:
      optimizer: has one `State`, with the numbers that the pair is to have.
      state_class: a NamedTuple. `EmptyState` for what remembers nothing, neither slots nor a count.
      fields: field of `state_class` -> where it is in gdjax's state: "count", or a slot. Those that
        are not named here have the same name there. Slots that have no field must be constant.
      read: gives optax's state of gdjax's, in place of `fields`.
      write: gives gdjax's state, from one with the pair's numbers and optax's state.
      extra_args: whether optax's pair takes extra arguments.
    """
    kind = GradientTransformationExtraArgs if extra_args else GradientTransformation
    fresh = _Fresh(optimizer)
    names = {field: (fields or {}).get(field, field) for field in state_class._fields}
    read = read or (lambda state: state_class(*(_of(state, name) for name in names.values())))
    write = write or (lambda state, of_optax: _written(state, of_optax, names, state_class))

    def init(params):
        return read(optimizer.init(params))

    def update(updates, state, params=None, **extra):
        updates, new = optimizer.update(updates, write(fresh(), state), params, **extra)
        return updates, read(new)

    def update_empty(updates, state, params=None, **extra):
        return optimizer.update(updates, fresh(), params, **extra)[0], state

    if state_class is EmptyState:
        return kind(init_empty_state, update_empty)
    return kind(init, update)


def _of(state: State, name: str) -> Any:
    return state.count if name == "count" else getattr(state.slots, name)


def _written(state: State, of_optax: Any, names: Mapping[str, str], kind: type) -> State:
    try:
        new = {name: getattr(of_optax, field) for field, name in names.items()}
    except AttributeError:
        raise AttributeError(
            f"update(state=...) must be a {kind.__name__}, got {type(of_optax).__name__}: the state "
            "of another transformation, or the states of a chain in another order."
        ) from None
    count = new.pop("count", state.count)
    return state._replace(count=count, slots=state.slots._replace(**new) if new else state.slots)


class _Fresh:
    """The first state for no parameters, which has the pair's numbers. Outside a trace it is kept."""

    def __init__(self, optimizer: Optimizer):
        self._init, self._kept = optimizer.init, {}

    def __call__(self) -> State:
        dtype = scalar_dtype()  # with or without x64
        if dtype in self._kept:
            return self._kept[dtype]
        state = self._init(Placeholder())
        if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(state)):
            self._kept[dtype] = state
        return state
