"""How configs become lanes: rows along the leading axis of every array, in groups.

Lanes with the same static values share a program. If they do not all fit into memory, or there is
a thread for each CPU core, they are split into groups of one size, which that program runs in turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import check_integer
from gdjax.core.host import is_on_host, to_device
from gdjax.core.hyper import rounded_off, rounding_key
from gdjax.core.kinds import check_kind, is_array_tree, shown
from gdjax.core.reading import with_hyperparams, with_rounding
from gdjax.core.remember import functions_in, remembered, weak_functions, whole
from gdjax.core.shardings import state_shardings
from gdjax.core.types import LossFn, Params, PyTree, TreeDef
from gdjax.training.devices import (
    Devices,
    all_devices,
    devices_of,
    free_memory,
    lanes_that_fit,
    memory_of,
)
from gdjax.training.engine import Carry, Run, lower_chunk
from gdjax.training.epochs import COLUMN, steps_per_epoch, with_epochs
from gdjax.training.inputs import (
    Plan,
    Program,
    as_key,
    make_plan,
    one_batch,
    traced_loss,
)
from gdjax.training.jax_details import has_convolution
from gdjax.training.meshes import placed, shape_of_rows
from gdjax.training.streams import Batches, is_stream
from gdjax.training.trials import SEEDS, Config, columns, is_number, static_parts

LARGE = 4096  # parameters: a lane with at least this many uses a whole CPU core


@dataclasses.dataclass
class Group:
    """Lanes that run in one program."""

    lanes: list[int]  # which of the sweep's lanes; rows after these are padding
    kind: int  # which of the sweep's combinations of static values
    plan: Plan
    shapes: Carry  # of `jax.ShapeDtypeStruct`
    start: Callable[[], Carry]
    run: Run | None = None  # None before it starts

    @property
    def own_keys(self) -> Any:
        """The key of each row, or None if all share one."""
        return self.plan.key if self.plan.program.own_keys else None


@dataclasses.dataclass
class Kind:
    """All lanes with the same static values, and how they start: groups of one size."""

    index: int
    lanes: list[int]
    plan: Plan  # of every group, but with the key that is the same for all lanes
    shapes: Carry  # of a group
    size: int  # rows of a group
    table: dict[str, np.ndarray]  # name -> (lanes,), the numbers that start them
    given: tuple[Params, PyTree]  # parameters and model state that they start at, or None
    start: Callable[..., Carry]  # not compiled
    begin: Callable[..., list[Any]]  # compiled for a group; gives the leaves
    functions: tuple[Callable, ...]  # static values that the state may hold
    sharding: NamedSharding | None

    def groups(
        self, done: np.ndarray, lanes: Sequence[int] | None = None, size: int | None = None
    ) -> list[Group]:
        """Return groups of lanes that have done the same number of steps.

        Args:
          done: steps, of all (lanes,) of the sweep.
          lanes: some of this kind's lanes; None is all.
          size: rows of a group; of another size than `self.size`, a group cannot start anew.
        """
        size = self.size if size is None else size
        rows = np.arange(len(self.lanes)) if lanes is None else np.searchsorted(self.lanes, lanes)
        steps = done[self.lanes][rows]
        return [
            self._group(part[at : at + size], size)
            for step in np.unique(steps)[::-1]
            for part in [rows[steps == step]]
            for at in range(0, len(part), size)
        ]

    def _group(self, rows: np.ndarray, size: int) -> Group:
        rows_padded = rows[padded_rows(0, size, len(rows))]
        numbers = jax.device_put({k: v[rows_padded] for k, v in self.table.items()})
        plan = self.plan
        if plan.program.own_keys:
            seeds = self.table["batch_seed" if "batch_seed" in self.table else "seed"][rows_padded]
            plan = plan._replace(key=_keys_of_lanes(self.sharding)(plan.key, seeds))
        structure = jax.tree.structure(self.shapes)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype, sharding=x.sharding),
            self.shapes,
        )

        def begin():
            return structure.unflatten(self.begin(numbers, self.given))

        return Group([self.lanes[i] for i in rows], self.index, plan, shapes, begin)

    def lane_shapes(self) -> Carry:
        """Return the shapes of a single lane's carry, on any device."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.shapes)

    def shardings(self, keys: bool) -> tuple[NamedSharding | None, ...]:
        """Return how the arrays of a group lie, the leaves of its carry and maybe the keys."""
        return *(x.sharding for x in jax.tree.leaves(self.shapes)), *[self.sharding] * keys

    def traced_start(self) -> Any:
        """Return the trace of the program that starts one lane, for a single device."""
        rows = {k: v[:1] for k, v in self.table.items()}
        given = jax.tree.map(lambda x: shape_of_rows(x) if placed(x) else x, self.given)
        with weak_functions(only=self.functions):
            return _jitted(self.start, None)[0].trace(rows, given, 1)


def make_kinds(
    caller: str,
    loss_fn: LossFn,
    params: Params | Callable[..., Params],
    optimizer: Any,
    configs: Sequence[Config],
    data: PyTree,
    devices: Devices,
    *,
    lanes_per_program: int | None = None,
    vectorize: bool | None = None,
    has_aux: bool = False,
    needs_key: bool = False,
    model_state: PyTree | Callable[..., PyTree] = None,
    batch_size: int | None = None,
    held_out: PyTree = None,
    **options: Any,
) -> list[Kind]:
    """Check everything and return the lanes of a sweep, which `caller` names in errors.

    `options` are those of `make_plan`.
    """
    if lanes_per_program is not None:
        check_integer(f"{caller}(lanes_per_program=...)", lanes_per_program)
    params, model_state, data, held_out = (
        _on_devices(f"{caller}({name}=...)", tree, devices)
        for name, tree in (
            ("params", params), ("model_state", model_state),
            ("data", data), ("held_out", held_out),
        )
    )  # fmt: skip
    inits, given, example = zip(
        _beginning(f"{caller}(params=...)", params),
        _beginning(f"{caller}(model_state=...)", model_state),
        strict=True,
    )
    if inits == (None, None) and "init_seed" in configs[0]:
        raise ValueError(
            f"{caller}(space=...): 'init_seed' has no effect, as all lanes start at the given "
            "params. Give a function of a key instead, such as model.init."
        )
    parts = static_parts(configs)
    if is_stream(data) and (len(parts) > 1 or lanes_per_program not in (None, len(configs))):
        raise ValueError(
            f"{caller}(data=...): an iterable is read once for all lanes, so all {len(configs)} "
            f"must be in one program; got lanes_per_program={lanes_per_program} and {len(parts)} "
            "combinations of static values. Give arrays, or run one sweep for each combination."
        )
    program = Program(
        loss_fn, _no_update, has_aux, needs_key, model_state is not None, batch_size,
        shards=devices.count, own_keys="seed" in configs[0] or "batch_seed" in configs[0],
        lanes_axis=devices.lanes_axis,
    )  # fmt: skip
    kinds, plan = [], None
    for index, (static, lanes) in enumerate(parts):
        rows = [configs[i] for i in lanes]
        start, update = make_start(caller, optimizer, static, rows, inits)
        table = {k: v for k, v in columns(rows).items() if k not in static}
        table |= {rounding_key(k): rounded_off(v) for k, v in table.items() if v.dtype.kind == "f"}
        if (steps := steps_per_epoch(data, batch_size)) is not None:
            table[COLUMN] = np.full(len(rows), steps, np.float32)
        if plan is None:
            plan = make_plan(
                caller, program._replace(update=update), example[0], data, model_state=example[1],
                state=functools.partial(_state_of_a_lane, start, table, given), held_out=held_out,
                **options,
            )  # fmt: skip
            if not is_stream(plan.held_out):
                plan = plan._replace(held_out=devices.replicate(plan.held_out))
            if plan.examples:
                plan = plan._replace(data=devices.replicate(plan.data))
            if devices.lanes_axis is not None:
                program = program._replace(places=plan.program.places)
            together = _together(plan, example) if vectorize is None else vectorize
            program = program._replace(lanes="vmap" if together else "map")
        plan = plan._replace(program=program._replace(update=update))
        functions = tuple(filter(callable, static.values()))
        shardings = _shardings_of_a_carry(start, table, given, devices)
        lower = functools.cache(
            functools.partial(lower_start, caller, start, table, given, shardings, functions)
        )
        size = _group_size(plan, devices, len(lanes), lanes_per_program, lower)
        lowered, shapes = lower(size)
        program_with = plan.program._replace(functions=functions_in(shapes))
        plan = plan._replace(program=program_with)
        kinds.append(
            Kind(
                index, lanes, plan, shapes, size, table, given, start, lowered.compile(),
                functions, devices.sharding,
            )
        )  # fmt: skip
    return kinds


def devices_for(caller: str, mesh: Mesh | None, lanes_axis: str | None) -> Devices:
    """Return what lanes run on: the mesh, or all devices."""
    return devices_of(caller, mesh, lanes_axis) or all_devices()


def _on_devices(what: str, tree: Any, devices: Devices) -> Any:
    """Return a tree, or an iterable of batches, whose arrays on a mesh are on that of the lanes."""
    if not is_stream(tree):
        return tree if callable(tree) else devices.moved(what, tree)
    if not isinstance(tree, Batches) or (sharding := tree.sharding) is None:
        return tree
    if devices.lanes_axis is None or devices.sharding is None:
        raise ValueError(
            f"{what}: batches(sharding=...) needs mesh=... and lanes_axis=...: without, lanes lie "
            "along all devices, and each of them takes whole batches."
        )
    devices.check_place(what, sharding)
    return dataclasses.replace(tree, sharding=NamedSharding(devices.sharding.mesh, sharding.spec))


def _beginning(what: str, tree: Any) -> tuple[Callable | None, PyTree, PyTree]:
    """Return where lanes start: a function of a key or None, a tree or None, an example."""
    if callable(tree) and jax.tree_util.all_leaves([tree]):
        return tree, None, jax.eval_shape(tree, as_key(0))
    if not is_array_tree(tree):
        raise TypeError(
            f"{what} must be a tree of arrays, or a function of a key that makes one, got "
            f"{shown(tree)}."
        )
    tree = jax.tree.map(jnp.asarray, tree)
    return None, tree, tree


def _state_of_a_lane(
    start: Callable, table: dict[str, np.ndarray], given: tuple[Params, PyTree]
) -> PyTree:
    """Return the shapes of the optimizer's state of one lane."""
    rows = {k: v[:1] for k, v in table.items()}
    carry = jax.eval_shape(lambda *args: start(*args, 1), rows, given)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), carry.state)


def padded_rows(start: int, size: int, lanes: int) -> np.ndarray:
    """Return the lane of each row of a group; rows after the last lane repeat it."""
    return np.minimum(np.arange(start, start + size), lanes - 1)


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Say in errors of other functions what the user called."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{what}: {error}") from error


def _no_update(*_: Any, **__: Any) -> Any:
    raise TypeError("a group's plan has the update of its own optimizer")


@functools.lru_cache(maxsize=8)
def _keys_of_lanes(sharding: NamedSharding | None) -> Any:
    def keys(key, seeds):
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(as_key(key), seeds)

    return jax.jit(keys, out_shardings=sharding)


# --- how many lanes step together -----------------------------------------------------------------


def _together(plan: Plan, trees: tuple[Params, PyTree]) -> bool:
    """Return whether lanes step together (`vmap`), or run in turn.

    On a CPU, a large lane alone uses a whole core and stays in the cache; and convolutions with
    many kernels together, which XLA groups, take twice as long (see bench/).
    """
    if jax.default_backend() != "cpu":
        return True
    if sum(x.size for x in jax.tree.leaves(trees[0])) >= LARGE:
        return False
    if not plan.examples:
        return True
    batch = one_batch(plan.data, plan.program.batch_size)
    return not has_convolution(traced_loss(plan.program, *trees, batch).jaxpr)


def _group_size(
    plan: Plan,
    devices: Devices,
    lanes: int,
    given: int | None,
    lower: Callable[[int], tuple[Any, Carry]],
) -> int:
    """Return the lanes of a group, a multiple of the devices."""
    if given is not None:
        return devices.padded(min(given, lanes))
    if not plan.examples:
        return devices.padded(lanes)
    length = min(plan.length, plan.total or plan.length)

    def used(size):
        lowered, carry = lower(size)
        key = plan.key
        if plan.program.own_keys:
            dtype = jax.eval_shape(as_key, key).dtype
            key = jax.ShapeDtypeStruct((size,), dtype, sharding=devices.sharding)
        program = plan.program._replace(functions=functions_in(carry))
        known = _known_memory(program)
        with weak_functions():
            leaves, treedef = jax.tree.flatten((carry, plan.data, key))
        shapes = (
            treedef,
            length,
            *((x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves),
        )
        if shapes not in known:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lowered.compile)  # needed next; the chunk's trace takes one core
                chunk = lower_chunk(plan._replace(key=key, program=program), carry, length)
                known[shapes] = memory_of(chunk.compile())
        return known[shapes]

    limit, count = free_memory() // devices.workers, devices.count
    return count * lanes_that_fit(lambda n: used(count * n), devices.share(lanes) // count, limit)


@remembered
def _known_memory(program: Program) -> dict[Hashable, int]:
    """Return shapes of the arguments -> bytes of a chunk, which XLA takes milliseconds to count."""
    return {}


# --- initialization -------------------------------------------------------------------------------


def make_start(
    caller: str,
    optimizer: Any,
    static: Config,
    rows: list[Config],
    inits: tuple[Callable | None, Callable | None] = (None, None),
) -> tuple[Callable, Callable]:
    """Return `start(table, given, lanes)` for lanes with the same static values, and their update.

    Args:
      caller: the function that errors name.
      optimizer: a factory or a pair, see `sweep`.
      static: the static values in the lanes' configs.
      rows: the lanes' configs.
      inits: make the parameters and the model state of a key, if lanes do not start at given ones.
    """
    static = dict(static)
    optimizer = static.pop("optimizer", optimizer)
    if is_pair(optimizer):
        check_kind(f"{caller}(optimizer=...)", "Pair", optimizer)
        pair = with_extra_args_support(optimizer)
        if static:
            raise ValueError(
                f"{caller}(space=...): {next(iter(static))!r} is not a number, and an optimizer "
                "that is built already takes only numbers. Give a factory instead, such as "
                "gdjax.adam."
            )
        return _start_function(pair, (), inits), pair.update
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
    named = [{k: c[k] for k in names if k in arguments or k not in SEEDS} for c in _extreme(rows)]
    with naming(f"{caller}(space=...)"):
        built = [with_extra_args_support(optimizer(**config)) for config in named]
    _check_numbers_are_in_the_state(caller, name, built, named)
    return _start_function(optimizer, tuple(static.items()), inits), built[0].update


def is_pair(optimizer: Any) -> bool:
    """Return whether this is an optimizer, built already, and not a factory of one."""
    return isinstance(optimizer, Optimizer) or not callable(optimizer)


def _arguments(factory: Callable) -> tuple[dict[str, bool], bool]:
    """Return name -> whether it must be given, and whether the factory takes any other."""
    try:
        arguments = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}, True
    kinds = {k: p.kind for k, p in arguments.items()}
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {k: p.default is p.empty for k, p in arguments.items() if p.kind not in several}
    return named, inspect.Parameter.VAR_KEYWORD in kinds.values()


def _extreme(rows: list[Config]) -> list[Config]:
    """Return the first config, and those with the least and the greatest value of each name.

    Ranges are intervals, so if these are in them, all are; NaN counts as least and greatest.
    """
    lanes = [0]
    for values in columns(rows).values():
        if is_number(values[0]) and values.dtype != object:
            lanes += [int(np.argmin(values)), int(np.argmax(values))]
    return [rows[i] for i in dict.fromkeys(lanes)]


def _check_numbers_are_in_the_state(
    caller: str, name: str, built: list[Optimizer], configs: list[Config]
) -> None:
    """Raise if lanes would silently share numbers: an update that closes over the first lane's."""
    other = next((i for i, o in enumerate(built) if o.update != built[0].update), None)
    if other is None:
        return
    states = [built[i].init(jnp.ones(1)) for i in (0, other)]
    same = [bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, states), strict=True)]
    if configs[0] != configs[other] and all(same):
        raise ValueError(
            f"{caller}: {name} keeps its numbers in its update function, not in its state, so "
            "lanes cannot differ in them. Use gdjax's optimizer of that name, or inject its "
            "hyperparameters into the state."
        )


def _check_closures(factory: Any, state: PyTree) -> None:
    """Raise if a schedule that is a plain function closes over a number of its lane."""
    for function in functions_in(state):
        cells = getattr(function, "__closure__", None) or ()
        kept = [x.cell_contents for x in cells], getattr(function, "__defaults__", None)
        if isinstance(function, functools.partial):
            kept = function.args, function.keywords
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(kept)):
            raise ValueError(
                f"{getattr(factory, '__name__', 'the optimizer')} has a number of the space in "
                f"the function {getattr(function, '__name__', 'partial')}, not in its state, so "
                "that lanes cannot differ in it. Give it to a schedule of gdjax, such as "
                "exponential_decay(learning_rate, 1000, 0.5), or multiply a function by it, "
                "gdjax.times(learning_rate, lambda t: 1 / (t + 1))."
            )


@remembered
def _start_function(optimizer: Any, static: tuple, inits: tuple) -> Callable:
    arguments = {} if is_pair(optimizer) else _arguments(optimizer)[0]

    def begin(seed, given):
        key = jax.random.key(seed)
        return tuple(
            x if init is None else init(key) for x, init in zip(given, whole(inits), strict=True)
        )

    def lane(numbers, started):
        numbers, (params, model_state) = dict(numbers), started
        per_epoch = numbers.pop(COLUMN, None)
        lost = {k: numbers[rounding_key(k)] for k in numbers if rounding_key(k) in numbers}
        numbers = {k: v for k, v in numbers.items() if k not in map(rounding_key, lost)}
        numbers = {k: v for k, v in numbers.items() if k in arguments or k not in SEEDS}
        if is_pair(optimizer):
            state = with_hyperparams(optimizer.init(params), **numbers)
        else:
            state = optimizer(**numbers, **dict(whole(static))).init(params)
            _check_closures(optimizer, state)
        state = with_epochs("sweep", with_rounding(state, numbers, lost), per_epoch)
        state = jax.tree.map(lambda x: to_device(x) if is_on_host(x) else x, state)
        never = jnp.asarray(-1, jnp.int32)
        return Carry(params, state, model_state, never, never)

    def start(table, given, lanes, in_turn=False):
        seeds = table.get("init_seed", table.get("seed", jnp.zeros(lanes, jnp.int32)))
        each = None
        if whole(inits) != (None, None):
            each = 0
            if in_turn:
                given = jax.lax.map(lambda seed: begin(seed, given), seeds)
            else:
                given = jax.vmap(begin, in_axes=(0, None))(seeds, given)
        return jax.vmap(lane, in_axes=(0, each), axis_size=lanes)(table, given)

    return start


def _shardings_of_a_carry(
    start: Callable, table: dict[str, np.ndarray], given: tuple[Params, PyTree], devices: Devices
) -> tuple[NamedSharding, ...] | NamedSharding | None:
    """Return how the arrays of a group lie: one sharding for all, or one for each leaf."""
    if devices.lanes_axis is None or devices.sharding is None:
        return devices.sharding
    rows, mesh = {k: v[:1] for k, v in table.items()}, devices.sharding.mesh
    carry = Optimizer(lambda given: start(rows, given, 1), _no_update)
    places = jax.tree.leaves(state_shardings(carry, given, mesh=mesh))
    specs = [PartitionSpec(devices.lanes_axis, *place.spec[1:]) for place in places]
    return tuple(NamedSharding(mesh, spec) for spec in specs)


def lower_start(
    caller: str,
    start: Callable,
    table: dict[str, np.ndarray],
    given: tuple[Params, PyTree],
    shardings: tuple[NamedSharding, ...] | NamedSharding | None,
    functions: tuple[Callable, ...],
    lanes: int,
) -> tuple[Any, Carry]:
    """Return the lowered program that makes a carry on its devices, and the carry's shapes.

    Its arguments are rows of the table, one for each lane, and what all lanes start at. Once
    compiled, it can run in any thread.
    """
    rows = {k: np.resize(v, lanes) for k, v in table.items()}
    jitted, structures = _jitted(start, shardings)
    with (
        naming(f"{caller}(space=...)"),  # a name that is no hyperparameter of the state
        weak_functions(only=functions),
    ):
        lowered = jitted.lower(rows, given, lanes)
    leaves = jax.tree.leaves(lowered.out_info)
    places = shardings if isinstance(shardings, tuple) else [shardings] * len(leaves)
    shapes = structures[_form(rows, given, lanes)].unflatten(
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
        for x, place in zip(leaves, places, strict=True)
    )
    return lowered, shapes


@remembered
def _jitted(
    start: Callable, shardings: tuple[NamedSharding, ...] | NamedSharding | None
) -> tuple[Any, dict[Hashable, TreeDef]]:
    """Return the program, which gives leaves, and their structures by the form of the arguments.

    JAX remembers permanently what structures it has seen along with `out_shardings`.
    """
    structures: dict[Hashable, TreeDef] = {}

    one = jax.devices()[:1] if shardings is None else getattr(shardings, "device_set", ())
    # XLA's compiler for CPUs takes 2 to 3 times longer for draws with several keys
    in_turn = [device.platform for device in one] == ["cpu"]

    def leaves(table, given, lanes):
        flat, treedef = jax.tree.flatten(start(table, given, lanes, in_turn))
        structures[_form(table, given, lanes)] = treedef
        return flat

    places = list(shardings) if isinstance(shardings, tuple) else shardings
    return jax.jit(leaves, out_shardings=places, static_argnums=2), structures


def _form(*arguments: Any) -> Hashable:
    leaves, treedef = jax.tree.flatten(arguments)
    return treedef, tuple(map(np.shape, leaves)), arguments[-1]
