"""Rows of equal shapes dealt over the devices of a mesh: each device processes whole ones.

A bucket of rows is stacked; one all-to-all shards the stack over its first axis (none is needed if
it was sharded so), a function goes over each device's part under `shard_map`, and another
all-to-all brings the results to where they are used. All devices get equally many rows of each
bucket; of those left over, each goes to a device with least to do, and the others do nothing
meanwhile.

How the rows are sharded is not known on meshes with automatic axes, and need not be: constraints
that leave all but the first axis open let XLA move one axis of the mesh at a time, which it can do
without gathering.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import strict
from gdjax.core.explicit import axes_here, explicit_mesh
from gdjax.core.kinds import shown
from gdjax.core.remember import register_node, remembered
from gdjax.core.types import Params, PyTree, T, TreeDef

# the devices to deal over: those of a mesh, or along some of its axes; None for no dealing
Devices: TypeAlias = Mesh | tuple[Mesh, str | tuple[str, ...]] | None
OPEN = PartitionSpec.UNCONSTRAINED


class Dealing(NamedTuple):
    """A mesh, and the axes over which rows are dealt."""

    mesh: Mesh
    axes: tuple[str, ...]
    in_turn: bool = False  # whether a device goes over its rows one by one; on a CPU it always does

    @property
    def devices(self) -> int:
        """The number of devices that get different rows."""
        return math.prod(self.mesh.shape[name] for name in self.axes)


def dealing(what: str, mesh: Devices, in_turn: bool = False) -> Dealing | None:
    """Return how to deal over a mesh, from the argument of a factory; None for one device.

    Args:
      what: the argument's name, for errors.
      mesh: a mesh, or a pair of it and the name of an axis or several.
      in_turn: see `Dealing`.

    Example:
      >>> dealing("muon(mesh=...)", jax.sharding.Mesh(jax.devices()[:1], "data")) is None
      True
    """
    if mesh is None:
        return None
    given, names = mesh if isinstance(mesh, tuple) and len(mesh) == 2 else (mesh, None)
    if not hasattr(given, "axis_names"):
        raise TypeError(
            f"{what} must be a jax.sharding.Mesh, or a pair of it and the names of some of its "
            f"axes, got {shown(mesh)}."
        )
    known = given.axis_names
    # Shardings name the axes of a mesh in its order. The axis that varies fastest can be moved
    # without a permutation, so it is moved first and varies slowest in a stack.
    axes = known[::-1] if names is None else (names,) if isinstance(names, str) else names
    if not axes or len(set(axes)) < len(axes) or not set(axes) <= set(known):
        raise ValueError(f"{what} must name axes of the mesh, {known}, got {shown(names)}.")
    if isinstance(given, Mesh):  # where an update runs, all axes are automatic
        given = Mesh(given.devices, known)
    over = Dealing(given, tuple(axes), in_turn)
    return over if over.devices > 1 else None


def dealing_here(over: Dealing | None) -> Dealing | None:
    """Return how to deal in an update that runs now.

    If the factory was not told, over the axes of an explicit mesh that shard gradients, parameters
    or state.
    """
    mesh, axes = axes_here()
    if over is not None or not axes:
        return over
    over = Dealing(mesh, axes[::-1])
    return over if over.devices > 1 else None


# --- which row goes where -------------------------------------------------------------------------


class Places(NamedTuple):
    """Where the rows of a bucket are: position k of device d is row d * depth + k of a stack."""

    full: int  # positions of each device that are all taken
    last: tuple[int, ...]  # devices that have one row more; the others have an unused position

    @property
    def depth(self) -> int:
        """The positions of each device."""
        return self.full + bool(self.last)


def places(counts: Sequence[int], costs: Sequence[float], devices: int) -> list[Places]:
    """Return the places of each bucket, so that all devices have about the same work.

    Args:
      counts: the number of rows of each bucket.
      costs: what one of them costs.
      devices: the number of devices.

    Example:
      >>> places([9, 2, 1], [1.0, 8.0, 27.0], 4)
      [Places(full=2, last=(3,)), Places(full=0, last=(1, 2)), Places(full=0, last=(0,))]
    """
    load = [0.0] * devices
    found: dict[int, Places] = {}
    for i in sorted(range(len(counts)), key=lambda i: -costs[i]):
        full, rest = divmod(counts[i], devices)
        last = tuple(sorted(sorted(range(devices), key=load.__getitem__)[:rest]))
        for device in last:
            load[device] += costs[i]
        found[i] = Places(full, last)
    return [found[i] for i in range(len(counts))]


# --- rows into stacks and back --------------------------------------------------------------------


def stacked(rows: Sequence[Array], at: Places, over: Dealing, stacks: bool = False) -> Array:
    """Return rows as one array [devices * depth, ...], sharded over its first axis.

    Args:
      rows: arrays of one shape; if `stacks`, of one shape without the first axis.
      at: their places. Unused ones are 0.
      over: the devices.
      stacks: whether each is itself a stack of rows. Of a stack that is sharded over its first axis
        each device keeps its part.
    """
    devices, parts, single = over.devices, [], []
    for row in rows if stacks else ():
        whole = len(row) // devices * devices
        if whole:
            part = _dealt_out(row[:whole] if whole < len(row) else row, over)
            parts.append(part.reshape(devices, -1, *row.shape[1:]))
        single += [row[i] for i in range(whole, len(row))]
    single = single if stacks else list(rows)
    whole = len(single) // devices * devices
    if whole:
        part = _dealt_out(_together(single[:whole], over), over)
        parts.append(part.reshape(devices, -1, *part.shape[1:]))
    if at.last:
        none = jnp.zeros_like(single[0])
        rest = dict(zip(at.last, single[whole:], strict=True))
        filled = [rest.get(device, none) for device in range(devices)]
        parts.append(_dealt_out(_together(filled, over), over)[:, None])
    x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)
    return _constrained(x.reshape(-1, *x.shape[2:]), over, over.axes)


def unstacked(
    x: Array, sizes: Sequence[int], at: Places, over: Dealing, stacks: bool = False
) -> list[Array]:
    """Return the rows of a stack, sharded as they are used: the inverse of `stacked`.

    Args:
      x: an array [devices * depth, ...].
      sizes: the number of rows that each result has; ignored unless `stacks`.
      at: the places.
      over: the devices.
      stacks: see `stacked`.
    """
    devices, begin = over.devices, 0
    x = x.reshape(devices, at.depth, *x.shape[1:])
    sizes = sizes if stacks else [1] * len(sizes)
    whole: list[Array | None] = []
    for size in sizes:
        end = begin + (size // devices if stacks else 0)
        part = x[:, begin:end].reshape(-1, *x.shape[2:])
        whole.append(_collected(part, over, True) if end > begin else None)
        begin = end
    single: list[Array] = []
    if at.full > begin:
        part = _collected(x[:, begin : at.full].reshape(-1, *x.shape[2:]), over)
        single += [part[i] for i in range(len(part))]
    if at.last:
        part = _collected(x[:, at.full], over)
        single += [part[device] for device in at.last]
    if not stacks:
        return single
    rest, out = iter(single), []
    for size, part in zip(sizes, whole, strict=True):
        more = list(itertools.islice(rest, size % devices))
        pieces = ([] if part is None else [part]) + ([jnp.stack(more)] if more else [])
        out.append(pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces))
    return out


def _together(rows: Sequence[Array], over: Dealing) -> Array:
    """Return rows stacked, so that no device has whole ones only: each is sharded as before."""
    return _constrained(jnp.stack(rows), over, None)


def _dealt_out(x: Array, over: Dealing) -> Array:
    for i in range(len(over.axes)):
        x = _constrained(x, over, over.axes[: i + 1])
    return x


def _collected(x: Array, over: Dealing, stack: bool = False) -> Array:
    for i in reversed(range(1, len(over.axes))):
        x = _constrained(x, over, over.axes[:i])
    return _constrained(x, over, OPEN if stack else None)


def laid_out(x: Array, over: Dealing, spec: PartitionSpec) -> Array:
    """Return a new array of a state, sharded so; on an explicit mesh this is its type."""
    if (mesh := explicit_mesh([x])) is not None:
        return jax.sharding.reshard(x, NamedSharding(mesh, spec))
    return jax.lax.with_sharding_constraint(x, NamedSharding(_mesh_here(over), spec))


def _constrained(x: Array, over: Dealing, first: Any) -> Array:
    """Return x with its first axis sharded over axes of the mesh, none, or as XLA likes."""
    spec = PartitionSpec(first, *[OPEN] * (x.ndim - 1))
    mesh = _mesh_here(over)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def sharded_like(x: Array, like: Array) -> Array:
    """Return x, sharded as `like` is, on versions of JAX that can say so (`shard_alike`, to 0.11).

    For stacks, whose first axis may be sharded or not. On later versions a stack that is not
    sharded over the axes of the mesh may become so.
    """
    try:
        from jax.experimental.shard_alike import shard_alike
    except ImportError:
        return x
    return shard_alike(x, like)[0]


# --- a function over dealt rows -------------------------------------------------------------------


def on_devices(
    function: Callable[..., Any],
    moved: PyTree,
    kept: PyTree,
    shared: tuple[Any, ...],
    at: Places,
    over: Dealing,
) -> tuple[PyTree, PyTree]:
    """Return `function(row, kept row, *shared)` = (result, kept row) for each row of a bucket.

    Args:
      function: a function of one row; it must close over no array.
      moved: arrays [devices * depth, ...], from `stacked`.
      kept: likewise, what stays on the devices. An unused position does not change.
      shared: the same for all rows.
      at: the places of the rows.
      over: the devices.

    Returns:
      Two trees of arrays [devices * depth, ...]; the first is 0 at unused positions.
    """
    used = np.zeros(over.devices, bool)
    used[list(at.last)] = True
    in_turn = over.in_turn or jax.default_backend() == "cpu"
    mapped = _mapped(function, at.full, bool(at.last), in_turn, _mesh_here(over), over.axes)
    return mapped(moved, kept, shared, used)


@remembered
def _mapped(
    function: Callable, full: int, more: bool, in_turn: bool, mesh: Mesh, axes: tuple[str, ...]
) -> Callable:
    def of_one_device(moved, kept, shared, used):
        def one(row):
            return function(*row, *shared)

        parts = []
        if full:
            row = _rows((moved, kept), slice(full))
            if full == 1:
                parts.append(jax.tree.map(lambda x: x[None], one(_rows(row, 0))))
            else:
                parts.append(jax.lax.map(one, row) if in_turn else jax.vmap(one)(row))
        if more:
            row = _rows((moved, kept), full)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, row)[0])
            last = jax.lax.cond(used[0], one, lambda row: (zeros, row[1]), row)
            parts.append(jax.tree.map(lambda x: x[None], last))
        return parts[0] if len(parts) == 1 else jax.tree.map(_joined, *parts)

    dealt, whole = PartitionSpec(axes), PartitionSpec()
    specs = dict(in_specs=(dealt, dealt, whole, dealt), out_specs=dealt)
    return jax.jit(_shard_map(of_one_device, mesh, **specs))


def _rows(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)


def _joined(*parts: Array) -> Array:
    return jnp.concatenate(parts)


def _shard_map(function: Callable, mesh: Mesh, **specs: Any) -> Callable:
    """Return `jax.shard_map` of a function: under that name it is in JAX from 0.7 on."""
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, mesh=mesh, check_vma=False, **specs)
    from jax.experimental.shard_map import shard_map

    return shard_map(function, mesh=mesh, check_rep=False, **specs)


def _mesh_here(over: Dealing) -> Any:
    """Return the mesh with its axes as they are at this point of a program."""
    here = getattr(jax.sharding, "get_abstract_mesh", lambda: None)()
    if here is None or not set(over.axes) <= set(here.axis_names):
        return over.mesh
    return here


# --- state that lives dealt -----------------------------------------------------------------------


@functools.partial(register_node, data_fields=[], meta_fields=["bucket", "at"])
@dataclasses.dataclass(frozen=True)
class Place:
    """Stands for a parameter whose slots are in a stack."""

    bucket: int
    at: int


@functools.partial(register_node, data_fields=["stacks", "rest"], meta_fields=["places"])
@dataclasses.dataclass(frozen=True)
class DealtTree:
    """A slot of all parameters, of which some are dealt over the devices of a mesh.

    Attributes:
      stacks: for each bucket of like parameters the slot with one axis more, of length devices *
        depth, sharded over the devices.
      rest: a tree like the parameters: the slots of the others; a `Place` where one is in a stack.
      places: for each bucket how its rows lie.
    """

    stacks: tuple[PyTree, ...]
    rest: PyTree
    places: tuple[Places, ...]

    def whole(self) -> PyTree:
        """Return the slot as a tree like the parameters, as it is without dealing."""

        def one(node):
            if not isinstance(node, Place):
                return node
            return jax.tree.map(lambda x: x[node.at], self.stacks[node.bucket])

        return jax.tree.map(one, self.rest, is_leaf=lambda x: isinstance(x, Place))


class Buckets(NamedTuple):
    """Which leaves are in stacks, for the update of a leafwise optimizer."""

    members: list[list[int]]  # for each bucket the indices of its leaves
    places: tuple[Places, ...]
    rest: list[int]  # the other leaves


def buckets_in(slots: Any, treedef: TreeDef) -> Buckets | None:
    """Return the buckets of a state's slots, or None if nothing in them is dealt."""
    tree = slots[0] if isinstance(slots, tuple) and slots else None
    if not isinstance(tree, DealtTree):
        return None
    members: list[list[int]] = [[] for _ in tree.places]
    rest = []
    for i, node in enumerate(treedef.flatten_up_to(tree.rest)):
        if isinstance(node, Place):
            members[node.bucket].append(i)
        else:
            rest.append(i)
    return Buckets(members, tree.places, rest)


def check_dealing(name: str, slots: Any, over: Dealing | None) -> Dealing:
    """Return the devices; raise unless dealt slots can be processed on them.

    Args:
      name: what the user called.
      slots: of the state, dealt.
      over: the devices that the factory was given.
    """
    sizes = [(len(jax.tree.leaves(s)[0]), at) for s, at in zip(slots[0].stacks, slots[0].places)]
    devices = 1 if over is None else over.devices
    if over is None or any(size != devices * at.depth for size, at in sizes):
        size, at = sizes[0]
        raise ValueError(
            f"{name}: the state is dealt over {size // at.depth} devices, not over {devices} as "
            f"{name}(mesh=...) says. Convert it by gdjax.dealt_like(state, optimizer.init(params))."
        )
    return over


def dealt_init(
    optimizer: Optimizer, over: Dealing | None, numbers: Callable[..., Any]
) -> Optimizer:
    """Return an optimizer whose state is dealt, see `init_dealt`; as it is for no devices."""
    if over is None:
        return optimizer
    init = functools.partial(init_dealt, optimizer.init, over, numbers)
    return Optimizer(init, optimizer.update)


def init_dealt(
    init: Callable[[Params], State], over: Dealing, numbers: Callable[..., Any], params: Params
) -> State:
    """Return `init(params)` with the slots of expensive parameters dealt over devices.

    Args:
      init: the `init` of a leafwise optimizer, whose class of slots has a method `cost`: what a
        step of one parameter costs, or 0 if it is elementwise.
      over: the devices.
      numbers: `numbers(state, params)` returns for each leaf what leaves of one bucket must share.
      params: the parameters.
    """
    state = init(params)
    leaves, treedef = jax.tree.flatten(params)
    columns = [treedef.flatten_up_to(tree) for tree in state.slots] if leaves else []
    rows = [type(state.slots)(*row) for row in zip(*columns, strict=True)]
    groups: dict[Hashable, list[int]] = {}
    for i, (row, number) in enumerate(
        zip(rows, numbers(state, params) if rows else (), strict=True)
    ):
        if row.cost():
            arrays, structure = jax.tree.flatten(row)
            avals = tuple((x.shape, x.dtype) for x in arrays)
            groups.setdefault((leaves[i].dtype, structure, avals, number), []).append(i)
    if not groups:
        return state
    members = list(groups.values())
    costs = [rows[m[0]].cost() for m in members]
    found = tuple(places([len(m) for m in members], costs, over.devices))
    where = {}
    for bucket, (m, at) in enumerate(zip(members, found, strict=True)):
        where |= {i: Place(bucket, position) for i, position in zip(m, _positions(at, over))}
    fields = []
    for column in columns:
        stacks = tuple(
            jax.tree.map(lambda *xs, at=at: _first_stack(xs, at, over), *(column[i] for i in m))
            for m, at in zip(members, found, strict=True)
        )
        rest = treedef.unflatten([where.get(i, x) for i, x in enumerate(column)])
        fields.append(DealtTree(stacks, rest, found))
    return state._replace(slots=type(state.slots)(*fields))


def _positions(at: Places, over: Dealing) -> list[int]:
    """Return the positions in a stack of all rows of a bucket, in their order."""
    full = [d * at.depth + k for d in range(over.devices) for k in range(at.full)]
    return full + [d * at.depth + at.full for d in at.last]


def _first_stack(rows: Sequence[Array], at: Places, over: Dealing) -> Array:
    """Return the first slots of a bucket; those at unused positions are copies."""
    order = [0] * (over.devices * at.depth)
    for i, position in enumerate(_positions(at, over)):
        order[position] = i
    if explicit_mesh(rows) is not None:  # of one type, as a stack needs them
        rows = [laid_out(x, over, PartitionSpec()) for x in rows]
    return laid_out(jnp.stack([rows[i] for i in order]), over, PartitionSpec(over.axes))


@strict()
def undealt(state: T) -> T:
    """Return a state with the slots of each parameter by themselves, as without `mesh=`.

    That is the layout to keep in a file which shall be read with another number of devices; see
    `dealt_like` for the way back.

    Args:
      state: the state of any optimizer, or a tree with states inside.

    Example:
      >>> import gdjax
      >>> state = gdjax.soap(0.1).init(jnp.ones((2, 2)))
      >>> jax.tree.structure(undealt(state)) == jax.tree.structure(state)
      True
    """
    return jax.tree.map(
        lambda x: x.whole() if isinstance(x, DealtTree) else x,
        state,
        is_leaf=lambda x: isinstance(x, DealtTree),
    )


@strict()
def dealt_like(state: T, like: T) -> T:
    """Return a state in the layout of another one of the same optimizer: the inverse of `undealt`.

    Args:
      state: a state, dealt over any number of devices or over none.
      like: what `init` of the optimizer returns for the parameters.

    Raises:
      ValueError: if they are not states of one optimizer.

    Example:
      >>> import gdjax
      >>> state = gdjax.soap(0.1).init(jnp.ones((2, 2)))
      >>> again = dealt_like(undealt(state), state)
      >>> jax.tree.structure(again) == jax.tree.structure(state)
      True
    """

    def one(known: Any, plain: Any) -> Any:
        if not isinstance(known, DealtTree):
            return plain
        flat, treedef = jax.tree.flatten(known.rest, is_leaf=lambda x: isinstance(x, Place))
        values = treedef.flatten_up_to(plain)
        rows: list[dict[int, PyTree]] = [{} for _ in known.stacks]
        for i, (place, value) in enumerate(zip(flat, values, strict=True)):
            if isinstance(place, Place):
                rows[place.bucket][place.at] = value
                values[i] = place
        stacks = [
            jax.tree.map(lambda x, *new, at=tuple(found): _filled(x, at, new), x, *found.values())
            for x, found in zip(known.stacks, rows, strict=True)
        ]
        return DealtTree(tuple(stacks), treedef.unflatten(values), known.places)

    try:
        return jax.tree.map(one, like, undealt(state), is_leaf=lambda x: isinstance(x, DealtTree))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "dealt_like(state=..., like=...) must be two states of one optimizer, for parameters "
            f"of one structure. {error}"
        ) from None


def _filled(stack: Array, at: tuple[int, ...], rows: Sequence[Array]) -> Array:
    """Return a stack with rows at some positions, where it lies."""
    new = dict(zip(at, rows, strict=True))
    filled = jnp.stack([new[i] if i in new else stack[i] for i in range(len(stack))])
    return filled if isinstance(stack, jax.core.Tracer) else jax.device_put(filled, stack.sharding)
