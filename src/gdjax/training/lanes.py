"""Lanes, the leading axis of every array, cut into groups that share one compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.training.data import as_key, is_stream
from gdjax.training.drive import lower_chunk
from gdjax.training.loop import Carry, Run
from gdjax.training.places import Places, free_memory, lanes_that_fit, memory_of, places
from gdjax.training.plan import Plan, make_plan
from gdjax.training.points import Point, columns, structures
from gdjax.training.starts import lower_start, make_start

LARGE = 4096  # parameters of a lane from which on it keeps a CPU core busy by itself


class Group(NamedTuple):
    """Lanes that run in one program."""

    lanes: list[int]  # which of the sweep's lanes; rows after these are padding
    structure: int  # which of the sweep's structures
    plan: Plan
    start: Callable[[], Carry]
    avals: Carry  # of `jax.ShapeDtypeStruct`


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
    if lanes_per_program is not None and (
        not isinstance(lanes_per_program, (int, np.integer)) or lanes_per_program < 1
    ):
        raise ValueError(
            f"{caller}(lanes_per_program=...) must be an integer >= 1, got {lanes_per_program}."
        )
    where = places()
    init = params if callable(params) and jax.tree_util.all_leaves([params]) else None
    example = params if init is None else jax.eval_shape(init, as_key(0))
    if init is None and "init_seed" in points[0]:
        raise ValueError(
            f"{caller}(space=...): 'init_seed' has no effect, as all lanes start at the given "
            "params. Give a function of a key instead, such as model.init."
        )
    kinds = structures(points)
    if is_stream(data) and (len(kinds) > 1 or lanes_per_program not in (None, len(points))):
        raise ValueError(
            f"{caller}(data=...): an iterable can be read only once, so all {len(points)} lanes "
            f"must be in one program; got lanes_per_program={lanes_per_program} and {len(kinds)} "
            "structures. Give arrays, or run one sweep for each structure."
        )
    run = Run(loss_fn, _no_update, has_aux, needs_key, batch_size)
    run = run._replace(
        own_keys="seed" in points[0] or "batch_seed" in points[0], shards=where.devices
    )
    given = None if init else jax.tree.map(jnp.asarray, params)
    groups, plan = [], None
    for kind, (fixed, lanes) in enumerate(kinds):
        rows = [points[i] for i in lanes]
        start, update = make_start(caller, optimizer, fixed, rows, init)
        if plan is None:
            plan = make_plan(caller, run._replace(update=update), example, data, **options)
            plan = plan._replace(held_out=where.put(plan.held_out))
            if plan.examples:
                plan = plan._replace(data=where.put(plan.data))
            together = _together(plan, example) if vectorize is None else vectorize
            run = run._replace(lanes="vmap" if together else "map")
        plan = plan._replace(run=run._replace(update=update))
        table = {k: v for k, v in columns(rows).items() if k not in fixed}
        starting = functools.cache(functools.partial(lower_start, start, table, given, where))
        size = _group_size(plan, where, len(lanes), lanes_per_program, starting)
        lowered, carry = starting(size)
        begin = lowered.compile()
        for at in range(0, len(lanes), size):
            part = _padded(at, size, len(lanes))
            numbers = jax.device_put({k: v[part] for k, v in table.items()})
            own = _keys(plan.key, table, where, part) if run.own_keys else plan.key
            inside = plan._replace(key=own)
            begin_part = functools.partial(begin, numbers, given)
            groups.append(Group(lanes[at : at + size], kind, inside, begin_part, carry))
    return groups, where


def _no_update(*_: Any, **__: Any) -> Any:
    raise TypeError("a group's plan has the update of its own structure")


def _together(plan: Plan, params: Any) -> bool:
    """Return whether lanes step together, and not in turn.

    On a CPU, a large lane keeps a core busy by itself, and alone it stays in the cache; and
    convolutions by many kernels at once, which XLA groups, take twice as long (see bench/).
    """
    if jax.default_backend() != "cpu":
        return True
    return sum(x.size for x in jax.tree.leaves(params)) < LARGE and not plan.convolves


def _padded(at: int, size: int, lanes: int) -> np.ndarray:
    """Return the rows of a group; those after the last lane repeat it."""
    return np.minimum(np.arange(at, at + size), lanes - 1)


def _keys(key: Any, table: dict[str, np.ndarray], where: Places, lanes: np.ndarray) -> Any:
    seeds = table.get("batch_seed", table.get("seed"))
    assert seeds is not None
    return _fold_in(where.sharding)(key, seeds[lanes])


@functools.lru_cache(maxsize=8)
def _fold_in(sharding: Any) -> Callable:
    def keys(key, seeds):
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(as_key(key), seeds)

    return jax.jit(keys, out_shardings=sharding)


def _group_size(
    plan: Plan,
    where: Places,
    lanes: int,
    given: int | None,
    starting: Callable[[int], tuple[Any, Carry]],
) -> int:
    """Return the lanes of a group, a multiple of the devices."""
    if given is not None:
        return where.whole(min(given, lanes))
    if not plan.examples:
        return where.whole(lanes)
    limit, length = free_memory() // where.workers, min(plan.length, plan.total or plan.length)

    def used(size):
        start, carry = starting(size)
        keys = plan.key
        if plan.run.own_keys:
            dtype = jax.eval_shape(as_key, plan.key).dtype
            keys = jax.ShapeDtypeStruct((size,), dtype, sharding=where.sharding)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(start.compile)  # needed next; the chunk's trace takes one core
            return memory_of(lower_chunk(plan._replace(key=keys), carry, length).compile())

    return where.whole(lanes_that_fit(used, where.share(lanes), limit))
