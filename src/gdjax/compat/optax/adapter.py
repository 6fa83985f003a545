"""From a pair of gdjax to one of optax: the numbers leave the state, which gets optax's fields.

In gdjax the numbers of an optimizer are in its state; in optax they belong to the pair. Here the
pair keeps them, and gives them to the same program in each step: another number needs no compile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp

from gdjax.compat.optax.base import (
    EmptyState,
    GradientTransformation,
    init_empty_state,
)
from gdjax.core.base import Optimizer, State
from gdjax.core.hyper import Placeholder, Schedule
from gdjax.core.numerics import is_inexact, scalar_dtype
from gdjax.core.trees import derived

Pair = TypeVar("Pair", bound=GradientTransformation)


def on_gdjax(
    optimizer: Optimizer,
    state_class: type[Any] = EmptyState,
    fields: Mapping[str, str] | None = None,
    *,
    init: Callable[[Any], Any] | None = None,
    read: Callable[[State], Any] | None = None,
    write: Callable[[State, Any], State] | None = None,
    kind: type[Pair] = GradientTransformation,
    takes_params: bool = True,
) -> Pair:
    """Return an optimizer of gdjax as a pair of optax, with optax's state.

    As in optax, leaves may be integers, which count as float32, and an update may be None where
    the parameter is not: that parameter and its part of the state then stay as they are.

    Args:
      optimizer: has one `State`, with the numbers that the pair is to have.
      state_class: a NamedTuple. `EmptyState` for what remembers nothing, neither slots nor a count.
      fields: field of `state_class` -> where it is in gdjax's state: "count", or a slot. Those that
        are not named here have the same name there. Slots that have no field must be constant.
        Without a field for the count, no update counts as the first one, and no number may be a
        schedule.
      init: gives optax's first state of the parameters, in place of the optimizer's own.
      read: gives optax's state of gdjax's, in place of `fields`.
      write: gives gdjax's state, from one with the pair's numbers and optax's state.
      kind: the class of the pair: whether optax's takes extra arguments.
      takes_params: whether the parameters matter in an update; others may then be of any kind.
    """
    of_optax: tuple[str, ...] = state_class._fields
    names = {field: (fields or {}).get(field, field) for field in of_optax}
    fresh = _Fresh(optimizer, counts="count" in names.values())
    read = read or (lambda state: state_class(*(_of(state, name) for name in names.values())))
    write = write or (lambda state, theirs: _written(state, theirs, names, state_class))

    make = init or (lambda params: read(optimizer.init(params)))

    def first(params):
        try:
            return make(params)
        except TypeError:
            if (floats := _as_floats(params)) is params:
                raise
            return make(floats)

    def step(updates, state, params, extra):
        params = params if takes_params else None
        try:
            return optimizer.update(updates, state, params, **extra)
        except (TypeError, ValueError):
            if (given := _leniently(updates, state, params)) is None:
                raise
            merge = functools.partial(_where_given_if_like, updates)
            new, part = optimizer.update(*given, **extra)
            return new, part._replace(slots=_of_slots(merge, part.slots, state.slots))

    def update(updates, state, params=None, **extra):
        updates, new = step(updates, write(fresh(), state), params, extra)
        return updates, read(new)

    def update_empty(updates, state, params=None, **extra):
        if updates is None:
            return None, state
        return step(updates, fresh(), params, extra)[0], state

    if state_class is EmptyState:
        return kind(init_empty_state, _Opaque(update_empty))
    return kind(_Opaque(first), _Opaque(update))


class _Opaque:
    """A function whose closure is its own affair.

    Optimistix makes pytrees of the closures of functions, and needs leaves that can be hashed.
    """

    def __init__(self, function: Callable[..., Any]):
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def _of(state: State, name: str) -> Any:
    return state.count if name == "count" else getattr(state.slots, name)


def _written(state: State, of_optax: Any, names: Mapping[str, str], kind: type) -> State:
    try:
        new = {name: getattr(of_optax, field) for field, name in names.items()}
    except AttributeError:
        raise AttributeError(
            f"update(state=...) must be a {kind.__name__}, got {type(of_optax).__name__}: the "
            "state of another transformation, or the states of a chain in another order."
        ) from None
    count = new.pop("count", state.count)
    return state._replace(count=count, slots=state.slots._replace(**new) if new else state.slots)


class _Fresh:
    """The first state for no parameters, which has the pair's numbers. Outside a trace it is kept.

    Without `counts` it is that after the first update.
    """

    def __init__(self, optimizer: Optimizer, counts: bool):
        self._init, self._counts, self._kept = optimizer.init, counts, {}

    def __call__(self) -> State:
        dtype = scalar_dtype()  # with or without x64
        if dtype in self._kept:
            return self._kept[dtype]
        state = self._init(Placeholder())
        if not self._counts:
            for name, value in state.hyperparams.items():
                if any(map(_is_schedule, jax.tree.leaves(value, is_leaf=_is_schedule))):
                    raise TypeError(
                        f"{name}=... is a schedule, but this transformation does not count its "
                        "updates: use inject_hyperparams, or scale_by_schedule for a factor."
                    )
            state = state._replace(count=jnp.ones((), jnp.int32))
        if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(state)):
            self._kept[dtype] = state
        return state


def _is_schedule(value: object) -> bool:
    return isinstance(value, Schedule)


# --- leaves that gdjax does not take --------------------------------------------------------------


def _leniently(updates: Any, state: State, params: Any) -> tuple[Any, State, Any] | None:
    """Return all without what belongs to updates that are None, and without integers.

    It is None if there is nothing of that kind.
    """
    try:
        some = None if params is None else _where_given(updates, params)
    except ValueError:  # trees of another structure
        return None
    slots = _of_slots(functools.partial(_where_given_if_like, updates), state.slots)
    as_they_are = jax.tree.structure((slots, some)) == jax.tree.structure((state.slots, params))
    new = _as_floats(updates), _as_floats(some)
    if as_they_are and new[0] is updates and new[1] is some:
        return None
    return new[0], state._replace(slots=slots), new[1]


def _of_slots(function: Callable[..., Any], *slots: Any) -> Any:
    if not hasattr(slots[0], "_fields"):
        return slots[0]
    return type(slots[0])(*map(function, *slots))


def _where_given_if_like(updates: Any, tree: Any, *other: Any) -> Any:
    try:
        return _where_given(updates, tree, *other)
    except ValueError:  # a slot that is not shaped like the parameters
        return tree


def _where_given(updates: Any, tree: Any, *other: Any) -> Any:
    """Return the parts of a tree whose update is not None, and where it is, those of `other`."""

    def choose(update, part, instead=None):
        return instead if update is None else part

    return jax.tree.map(choose, updates, tree, *other, is_leaf=lambda x: x is None)


def _as_floats(tree: Any) -> Any:
    """Return integers and booleans as float32; the same tree if there are none."""
    leaves, treedef = jax.tree.flatten(tree)
    new = [_as_float(x) for x in leaves]
    return tree if all(a is b for a, b in zip(new, leaves, strict=True)) else treedef.unflatten(new)


def _as_float(x: Any) -> Any:
    if isinstance(x, int):
        return jnp.asarray(x, jnp.float32)
    if not hasattr(x, "dtype") or is_inexact(x.dtype):
        return x
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        return x  # a random key, a gradient of an integer
    return derived(lambda x: jnp.asarray(x, jnp.float32), x)
