"""Where lanes live: how they start, how many share a program, on which devices and threads.

Lanes are the leading axis of every array. They are cut into groups; all groups of one structure run
the same compiled program. With several devices the lanes of a group are sharded over them. On a CPU
that is one device, XLA leaves cores idle on small arrays, so there groups run in a thread each.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.reading import with_hyperparams
from gdjax.training.data import as_key, is_stream
from gdjax.training.drive import Plan, lower_chunk, make_plan, run_together
from gdjax.training.loop import Carry, Run
from gdjax.training.space import Point, columns, structures

SEEDS = ("seed", "init_seed", "batch_seed")  # names in a space that are not the optimizer's
LARGE = 4096  # parameters of a lane from which on it keeps a CPU core busy by itself


class Group(NamedTuple):
    """Lanes that run in one program."""

    lanes: list[int]  # which of the sweep's lanes; rows after these are padding
    structure: int  # which of the sweep's structures
    plan: Plan
    start: Callable[[], Carry]
    avals: Carry  # of `jax.ShapeDtypeStruct`


class Places(NamedTuple):
    """What there is to run on."""

    sharding: Any  # of an array with lanes along axis 0, or None on a single device
    devices: int
    workers: int  # groups at a time

    def put(self, tree: Any) -> Any:
        """Return arrays, the same on every device."""
        if self.sharding is None:
            return tree
        return jax.device_put(tree, NamedSharding(self.sharding.mesh, PartitionSpec()))


def places() -> Places:
    """Return the devices of all hosts, or the threads of the one CPU."""
    devices = jax.devices()
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ("lanes",))
        return Places(NamedSharding(mesh, PartitionSpec("lanes")), len(devices), 1)
    return Places(None, 1, _cores() if devices[0].platform == "cpu" else 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_groups(
    caller: str,
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    points: Sequence[Point],
    data: Any,
    *,
    lanes_per_program: int | None = None,
    vectorize: bool | None = None,
    has_aux: bool = False,
    needs_key: bool = False,
    batch_size: int | None = None,
    **options: Any,
) -> tuple[list[Group], Places]:
    """Check everything and return the groups of a sweep, which `caller` names in errors."""
    if lanes_per_program is not None and lanes_per_program < 1:
        raise ValueError(f"{caller}(lanes_per_program=...) must be >= 1, got {lanes_per_program}.")
    where = places()
    init = params if callable(params) and jax.tree_util.all_leaves([params]) else None
    example = params if init is None else jax.eval_shape(init, as_key(0))
    kinds = structures(points)
    if is_stream(data) and (len(kinds) > 1 or lanes_per_program not in (None, len(points))):
        raise ValueError(
            f"{caller}(data=...): an iterable can be read only once, so all {len(points)} lanes "
            f"must be in one program; got lanes_per_program={lanes_per_program} and {len(kinds)} "
            "structures. Give arrays, or run one sweep for each structure."
        )
    if vectorize is None:
        size = sum(x.size for x in jax.tree.leaves(example))
        vectorize = size < LARGE or jax.default_backend() != "cpu"
    run = Run(loss_fn, _no_update, has_aux, needs_key, batch_size)
    run = run._replace(
        lanes="vmap" if vectorize else "map",
        own_keys="seed" in points[0] or "batch_seed" in points[0],
        shards=where.devices,
    )
    groups, plan = [], None
    for kind, (fixed, lanes) in enumerate(kinds):
        rows = [points[i] for i in lanes]
        start, update = _starter(caller, optimizer, fixed, rows, init)
        if plan is None:
            plan = make_plan(caller, run._replace(update=update), example, data, **options)
            plan = plan._replace(held_out=where.put(plan.held_out))
            if plan.examples:
                plan = plan._replace(data=where.put(plan.data))
        plan = plan._replace(run=run._replace(update=update))
        table = {k: v for k, v in columns(rows).items() if k not in fixed}
        begin = functools.partial(_begin, start, table, None if init else params, where)
        size = _group_size(plan, where, len(lanes), lanes_per_program, begin)
        for at in range(0, len(lanes), size):
            place, carry = begin(at, size)
            own = _keys(plan.key, table, where, at, size) if run.own_keys else plan.key
            inside = plan._replace(key=own)
            groups.append(Group(lanes[at : at + size], kind, inside, place.compile(), carry))
    return groups, where


def _no_update(*_: Any, **__: Any) -> Any:
    raise TypeError("a group's plan has the update of its own structure")


# --- the start of a lane --------------------------------------------------------------------------


def _starter(
    caller: str, optimizer: Any, fixed: Point, rows: list[Point], init: Callable | None
) -> tuple[Callable, Callable]:
    """Return the jitted `start(table, params)` of lanes of one structure, and their update."""
    fixed = dict(fixed)
    optimizer = fixed.pop("optimizer", optimizer)
    if isinstance(optimizer, Optimizer) or not callable(optimizer):
        pair = with_extra_args_support(optimizer)
        if fixed:
            raise ValueError(
                f"{caller}(space=...): {next(iter(fixed))!r} is no number, and an optimizer that "
                "is built already takes only numbers. Give a factory instead, such as gdjax.adam."
            )
        return _start_program(pair, (), init), pair.update
    names = [k for k in rows[0] if k != "optimizer"]
    arguments, takes_all = _arguments(optimizer)
    unknown = [k for k in names if k not in arguments and k not in SEEDS]
    if arguments and unknown and not takes_all:
        name = getattr(optimizer, "__name__", "the optimizer")
        raise ValueError(
            f"{caller}(space=...): {name} has no argument {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(arguments)}."
        )
    # Build each lane once from concrete values, so that one out of range is an error now.
    named = [{k: p[k] for k in names if k in arguments or k not in SEEDS} for p in rows]
    built = [with_extra_args_support(optimizer(**point)) for point in named]
    _check_numbers_are_in_the_state(caller, optimizer, built, named)
    return _start_program(optimizer, tuple(fixed.items()), init), built[0].update


def _arguments(factory: Callable) -> tuple[list[str], bool]:
    try:
        arguments = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return [], True
    takes_all = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    return list(arguments), takes_all


def _check_numbers_are_in_the_state(
    caller: str, factory: Callable, built: list[Optimizer], points: list[Point]
) -> None:
    """Raise if lanes would silently share numbers: an update that closes over the first lane's."""
    other = next((i for i, o in enumerate(built) if o.update is not built[0].update), None)
    if other is None:
        return
    states = [built[i].init(jnp.ones(1)) for i in (0, other)]
    same = [bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, states), strict=True)]
    if points[0] != points[other] and all(same):
        name = getattr(factory, "__name__", "the factory")
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
    is_pair = isinstance(optimizer, Optimizer)
    arguments, _ = ([], False) if is_pair else _arguments(optimizer)

    def lane(numbers, params):
        if init is not None:
            seed = numbers.get("init_seed", numbers.get("seed", 0))
            params = init(jax.random.key(seed))
        numbers = {k: v for k, v in numbers.items() if k in arguments or k not in SEEDS}
        if is_pair:
            state = with_hyperparams(optimizer.init(params), **numbers)
        else:
            state = optimizer(**numbers, **dict(fixed)).init(params)
        return Carry(params, state, jnp.asarray(-1, jnp.int32))

    def start(table, params):
        return jax.vmap(lane, in_axes=(0, None))(table, params)

    return start


class _Start(NamedTuple):
    """Makes the carry of some lanes where they will live."""

    lowered: Any
    arguments: tuple

    def compile(self) -> Callable[[], Carry]:
        """Return a function that can be called in any thread."""
        return functools.partial(self.lowered.compile(), *self.arguments)


def _begin(
    start: Callable, table: dict, params: Any, where: Places, at: int, size: int
) -> tuple[_Start, Carry]:
    """Return the start of a group and the carry's shapes; rows after the last one repeat it."""
    part = {k: jnp.asarray(v[_rows(v, at, size)]) for k, v in table.items()}
    arguments = part, jax.tree.map(jnp.asarray, params)
    lowered = _jitted(start, where.sharding).lower(*arguments)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.sharding),
        jax.eval_shape(start, *arguments),
    )
    return _Start(lowered, arguments), shapes


def _rows(column: np.ndarray, at: int, size: int) -> np.ndarray:
    return np.minimum(np.arange(at, at + size), len(column) - 1)


@functools.lru_cache(maxsize=64)
def _jitted(start: Callable, sharding: Any) -> Callable:
    return jax.jit(start, out_shardings=sharding)


def _keys(key: Any, table: dict, where: Places, at: int, size: int) -> Any:
    seeds = table.get("batch_seed", table.get("seed"))
    assert seeds is not None
    seeds = jnp.asarray(seeds[_rows(seeds, at, size)])
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(as_key(key), seeds)
    return keys if where.sharding is None else jax.device_put(keys, where.sharding)


# --- how many share a program ---------------------------------------------------------------------


def _group_size(
    plan: Plan,
    where: Places,
    lanes: int,
    given: int | None,
    begin: Callable[[int, int], tuple[_Start, Carry]],
) -> int:
    """Return the lanes of a group, a multiple of the devices."""

    def whole(n):
        return -(-n // where.devices) * where.devices

    if given is not None:
        return whole(min(given, lanes))
    share = whole(-(-lanes // where.workers))
    if not plan.examples:
        return whole(lanes)
    limit, length = _free_memory() // where.workers, min(plan.length, plan.total or plan.length)

    def used(size):
        start, carry = begin(0, size)
        keys = plan.key
        if plan.run.own_keys:
            dtype = jax.eval_shape(as_key, plan.key).dtype
            keys = jax.ShapeDtypeStruct((size,), dtype, sharding=where.sharding)
        chunk = lower_chunk(plan._replace(key=keys), carry, length)
        both = run_together([chunk.compile, start.lowered.compile], 2)  # it is needed next
        return memory_of(both[0])

    return whole(lanes_that_fit(used, share, limit))


def lanes_that_fit(used: Callable[[int], int], lanes: int, limit: int) -> int:
    """Return how many lanes one program may have.

    Args:
      used: the bytes that the compiled program for so many lanes needs on a device.
      lanes: the most.
      limit: the bytes there are.

    Example:
      >>> lanes_that_fit(lambda lanes: 1000 + 10 * lanes, 4096, limit=5000)
      390
    """
    while lanes > 1:
        bytes_used = used(lanes)
        if bytes_used <= limit:
            break
        lanes = max(1, min(lanes - 1, int(0.95 * lanes * limit / bytes_used)))
    return lanes


def memory_of(compiled: Any) -> int:
    """Return the bytes that a compiled program needs on each device while it runs, by XLA."""
    m = compiled.memory_analysis()
    if m is None:
        return 0
    return (
        m.argument_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
        + m.temp_size_in_bytes
    )


def _free_memory() -> int:
    """Return the bytes that lanes may use on each device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.9 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**40  # unknown: no limit
    return free // 2 // len(jax.local_devices())


# --- from one set of lanes to another -------------------------------------------------------------


def rows_of(tree: Any, rows: Any) -> Any:
    """Return some rows of every array."""
    return jax.tree.map(lambda x: x[np.asarray(rows)], tree)


def joined(trees: Sequence[Any]) -> Any:
    """Return the rows of several trees, one after the other."""
    if len(trees) == 1:
        return trees[0]

    def join(*parts):
        if jnp.issubdtype(parts[0].dtype, jax.dtypes.prng_key):
            return jnp.concatenate(parts)
        return np.concatenate(parts)

    return jax.tree.map(join, *trees)
