"""How a lane starts: its point becomes parameters and an optimizer's state."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.reading import with_hyperparams
from gdjax.training.loop import Carry
from gdjax.training.places import Places
from gdjax.training.points import SEEDS, Point, columns, is_number


def make_start(
    caller: str, optimizer: Any, fixed: Point, rows: list[Point], init: Callable | None
) -> tuple[Callable, Callable]:
    """Return `start(table, params, lanes)` for lanes of one structure, and their update.

    Args:
      caller: whom errors name.
      optimizer: a factory or a pair, see `sweep`.
      fixed: what is no number in the lanes' points.
      rows: the lanes' points.
      init: makes the parameters of a key, if lanes do not start at given ones.
    """
    fixed = dict(fixed)
    optimizer = fixed.pop("optimizer", optimizer)
    if is_pair(optimizer):
        pair = with_extra_args_support(optimizer)
        if fixed:
            raise ValueError(
                f"{caller}(space=...): {next(iter(fixed))!r} is no number, and an optimizer that "
                "is built already takes only numbers. Give a factory instead, such as gdjax.adam."
            )
        return _start_program(pair, (), init), pair.update
    names = [k for k in rows[0] if k != "optimizer"]
    arguments, takes_all = _arguments(optimizer)
    name = getattr(optimizer, "__name__", "the optimizer")
    unknown = [k for k in names if k not in arguments and k not in SEEDS]
    if arguments and unknown and not takes_all:
        raise ValueError(
            f"{caller}(space=...): {name} has no argument {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(arguments)}."
        )
    missing = [k for k, needed in arguments.items() if needed and k not in names]
    if missing:
        raise ValueError(
            f"{caller}(space=...): {name} needs {', '.join(map(repr, missing))}. Put a list of one "
            "into the space, or fix it: functools.partial(factory, name=value)."
        )
    # Build some lanes from concrete values, so that one out of range is an error now.
    named = [{k: p[k] for k in names if k in arguments or k not in SEEDS} for p in _extreme(rows)]
    built = [with_extra_args_support(optimizer(**point)) for point in named]
    _check_numbers_are_in_the_state(caller, name, built, named)
    return _start_program(optimizer, tuple(fixed.items()), init), built[0].update


def is_pair(optimizer: Any) -> bool:
    """Return whether this is an optimizer, built already, and not a factory of one."""
    return isinstance(optimizer, Optimizer) or not callable(optimizer)


def _arguments(factory: Callable) -> tuple[dict[str, bool], bool]:
    """Return name -> whether it must be given, and whether it takes any other."""
    try:
        arguments = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}, True
    any_number = [p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in arguments.values()]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    return {
        k: p.default is p.empty
        for (k, p), several in zip(arguments.items(), any_number, strict=True)
        if not several
    }, takes_all


def _extreme(rows: list[Point]) -> list[Point]:
    """Return the first point, and those with the least and the greatest value of each name.

    Ranges are intervals, so if these are in them, all are; NaN counts as least and greatest.
    """
    lanes = [0]
    for values in columns(rows).values():
        if is_number(values[0]) and values.dtype != object:
            lanes += [int(np.argmin(values)), int(np.argmax(values))]
    return [rows[i] for i in dict.fromkeys(lanes)]


def _check_numbers_are_in_the_state(
    caller: str, name: str, built: list[Optimizer], points: list[Point]
) -> None:
    """Raise if lanes would silently share numbers: an update that closes over the first lane's."""
    other = next((i for i, o in enumerate(built) if o.update is not built[0].update), None)
    if other is None:
        return
    states = [built[i].init(jnp.ones(1)) for i in (0, other)]
    same = [bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, states), strict=True)]
    if points[0] != points[other] and all(same):
        raise ValueError(
            f"{caller}: {name} keeps its numbers in its update function, not in its state, so "
            "lanes cannot differ in them. Use gdjax's optimizer of that name, or inject its "
            "hyperparameters into the state."
        )


def _start_program(optimizer: Any, fixed: tuple, init: Callable | None) -> Callable:
    try:
        return _start_cached(optimizer, fixed, init)
    except TypeError:  # a structure that cannot be hashed
        return _start_cached.__wrapped__(optimizer, fixed, init)


@functools.lru_cache(maxsize=64)
def _start_cached(optimizer: Any, fixed: tuple, init: Callable | None) -> Callable:
    arguments = {} if is_pair(optimizer) else _arguments(optimizer)[0]

    def lane(numbers, params):
        if init is not None:
            seed = numbers.get("init_seed", numbers.get("seed", 0))
            params = init(jax.random.key(seed))
        numbers = {k: v for k, v in numbers.items() if k in arguments or k not in SEEDS}
        if is_pair(optimizer):
            state = with_hyperparams(optimizer.init(params), **numbers)
        else:
            state = optimizer(**numbers, **dict(fixed)).init(params)
        return Carry(params, state, jnp.asarray(-1, jnp.int32))

    def start(table, params, lanes):
        return jax.vmap(lane, in_axes=(0, None), axis_size=lanes)(table, params)

    return start


def lower_start(
    start: Callable, table: dict[str, np.ndarray], params: Any, where: Places, lanes: int
) -> tuple[Any, Carry]:
    """Return the program that makes a carry where it will live, lowered, and the carry's shapes.

    It is called with so many rows of the table and the parameters; compiled, in any thread.
    """
    rows = {k: np.resize(v, lanes) for k, v in table.items()}
    lowered = _jitted(start, where.sharding).lower(rows, params, lanes)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.sharding), lowered.out_info
    )
    return lowered, shapes


@functools.lru_cache(maxsize=64)
def _jitted(start: Callable, sharding: Any) -> Callable:
    return jax.jit(start, out_shardings=sharding, static_argnums=2)
