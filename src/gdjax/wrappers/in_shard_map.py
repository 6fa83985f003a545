"""An optimizer for `jax.shard_map`, where each device holds parts of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gdjax.core.base import Optimizer, short
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import called, leaf_name, strict
from gdjax.core.host import to_memory_of
from gdjax.core.hyper import path_name
from gdjax.core.kinds import shown
from gdjax.core.parts import (
    Part,
    Repeated,
    Split,
    as_own,
    axis_size,
    local_shape,
    on_parts,
    split_of,
    unsplit,
    vary,
    varying,
)
from gdjax.core.times import other_shapes
from gdjax.core.types import OptState, Pair, Params, PyTree, TreeDef, Updates

Specs = tuple[tuple[PartitionSpec, ...], TreeDef]
PRIMES = (1, 2, 3, 5, 7, 11, 13, 17, 19)


@strict()
def in_shard_map(optimizer: Pair, specs: PyTree) -> Optimizer:
    """Let an optimizer run inside `jax.shard_map` as it runs on whole arrays.

    There each device sees a part of each parameter, and norms, means and products of matrices of a
    part are not those of the parameter. With this wrapper they are those of the whole parameter,
    up to the order of summation, for every optimizer, wrapper, rule of yours or pair of optax:
    elementwise arithmetic exchanges nothing, norms and sums exchange a number for each array, and
    what needs whole matrices (`muon`, `soap`, `galore`, ...) gathers each split matrix, is done on
    all devices, and keeps the own part. To have matrices dealt over the devices instead, call
    `update` outside of `shard_map`, on sharded arrays.

    Outside of `shard_map` it is the optimizer itself: the state is the same, and may be made there.

    Args:
      optimizer: an `(init, update)` pair.
      specs: the `PartitionSpec` of each parameter as in the `in_specs` of `jax.shard_map`: a tree
        like the parameters, or a prefix of one. Over mesh axes that the spec of a parameter does
        not name, the devices have whole arrays, which may differ from each other:
        `PartitionSpec()` for all of them says that each device trains parameters of its own.

    Returns:
      An `Optimizer` with the state of `optimizer`, split as `state_shardings` says. It needs no
      memory of its own, except for what is gathered during a step.

    Raises:
      TypeError: if a leaf of `specs` is no `PartitionSpec`, or if `update` is called with a
        function of the parameters (`value_fn=`, `obj_fn=`), which would get whole arrays.
      ValueError: if `specs` does not fit the parameters, or the state is split in another way.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
      >>> mesh = jax.make_mesh((jax.device_count(),), ("model",), axis_types=(AxisType.Auto,))
      >>> specs = {"w": P("model"), "b": P()}
      >>> places = {k: NamedSharding(mesh, spec) for k, spec in specs.items()}
      >>> params = jax.device_put({"w": jnp.ones((8, 4)), "b": jnp.ones(4)}, places)
      >>> opt = gdjax.in_shard_map(gdjax.lamb(0.1), specs)
      >>> state_specs = jax.tree.map(lambda x: x.spec, gdjax.state_shardings(opt, params))
      >>> step = jax.jit(
      ...     jax.shard_map(
      ...         lambda grads, state, params: opt.update(grads, state, params),
      ...         mesh=mesh,
      ...         in_specs=(specs, state_specs, specs),
      ...         out_specs=(specs, state_specs),
      ...     )
      ... )
      >>> updates, state = step(params, opt.init(params), params)
      >>> print(updates["w"][0])
      [-0.1 -0.1 -0.1 -0.1]
    """
    known = _read(specs)
    pair = with_extra_args_support(optimizer)

    def init(params: Params) -> OptState:
        return _init(pair.init, known, params)

    return Optimizer(init, InShardMap(pair, known, called("in_shard_map")))


class InShardMap:
    """The update function: equal to another for the same update and specs, whatever the numbers.

    So an optimizer that is built again in each step does not compile again. `init` is needed for
    the structure of the state only, and another structure is traced anew.
    """

    def __init__(self, pair: Pair, known: Specs, name: str):
        """Keep the optimizer and its specs."""
        self._pair, self._known = pair, known
        self.__name__ = self.__qualname__ = name

    def __call__(
        self, updates: Updates, state: OptState, params: Params = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        """Return `(updates, state)` after one step."""
        return _update(self._pair, self._known, updates, state, params, extra)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InShardMap) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, Specs]:
        return self._pair[1], self._known


def _as_spec(split: Split) -> PartitionSpec:
    entries = [names[0] if len(names) == 1 else names or None for names in split]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _is_spec(x: object) -> bool:
    return isinstance(x, PartitionSpec)


def _is_value(x: object) -> bool:
    return isinstance(x, (Part, Repeated))


def _read(specs: PyTree) -> Specs:
    leaves, treedef = jax.tree.flatten(specs, is_leaf=_is_spec)
    for spec in leaves:
        if not _is_spec(spec):
            raise TypeError(
                "in_shard_map(specs=...) must be a tree of jax.sharding.PartitionSpec, as in the "
                f"in_specs of jax.shard_map, got {shown(spec)}."
            )
    return tuple(leaves), treedef


def _splits(known: Specs, params: Params) -> list[Split]:
    """Return how each parameter is split."""
    specs, treedef = known
    try:
        parts = treedef.flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "in_shard_map(specs=...) must be a tree like the parameters, or a prefix of one. "
            f"{error}"
        ) from None
    found: list[Split] = []
    for spec, part in zip(specs, parts, strict=True):
        for x in jax.tree.leaves(part):
            if len(spec) > jnp.ndim(x):
                raise ValueError(
                    f"in_shard_map(specs=...): {spec} is for more axes than the parameter "
                    f"{leaf_name(params, len(found))!r} has, whose shape is {list(jnp.shape(x))}."
                )
            found.append(split_of(spec, jnp.ndim(x)))
    return found


def _is_inside(splits: Sequence[Split]) -> bool:
    """Return whether the mesh axes are manual here."""
    try:
        for names in {names for split in splits for names in split}:
            axis_size(names)
    except NameError:
        return False
    return True


def _whole_shapes(leaves: Sequence[Any], splits: Sequence[Split]) -> list[tuple[int, ...]]:
    return [Part(x, split).shape for x, split in zip(leaves, splits, strict=True)]


def _splits_of_state(
    init: Callable[[Params], OptState],
    treedef: TreeDef,
    leaves: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    splits: Sequence[Split],
) -> dict[Any, tuple[tuple[int, ...], Split]]:
    """Return the whole shape of each array of the state and how it is split, by its path.

    Which axes of the state have the length of a split axis of a parameter is seen from states for
    parameters whose split axes are a little longer, or shorter, which keeps the order of lengths
    that some methods go by; or some times as long, for the numbers of blocks.

    Args:
      init: makes the state.
      treedef: the structure of the parameters.
      leaves: the parameters, or parts of them, for their dtypes.
      shapes: of the whole parameters.
      splits: of the parameters.
    """
    ways = list(dict.fromkeys(names for split in splits for names in split if names))
    changes = (lambda n, i: n + i, lambda n, i: max(n - i, 0), lambda n, i: n * PRIMES[min(i, 8)])

    def shapes_of_state(change):
        def changed(shape, split):
            pairs = zip(shape, split, strict=True)
            return tuple(change(n, ways.index(names) + 1) if names else n for n, names in pairs)

        parts = zip(leaves, shapes, splits, strict=True)
        like = [jax.ShapeDtypeStruct(changed(s, split), x.dtype) for x, s, split in parts]
        with other_shapes():
            state = jax.eval_shape(init, treedef.unflatten(like))
        return {path: x.shape for path, x in jax.tree_util.tree_flatten_with_path(state)[0]}

    known = shapes_of_state(lambda n, i: n)
    found: dict[Any, tuple[tuple[int, ...], Split]] = {}
    for change in changes:
        if len(found) == len(known):
            break
        others = shapes_of_state(change)
        for path in known.keys() - found.keys():
            split = _split_by(known[path], others.get(path, ()), ways, change)
            if split is not None:
                found[path] = known[path], split
    return {path: (shape, unsplit(len(shape))) for path, shape in known.items()} | found


def _split_by(
    shape: tuple[int, ...],
    other: tuple[int, ...],
    ways: Sequence[tuple[str, ...]],
    change: Callable[[int, int], int],
) -> Split | None:
    """Return the split that a change of lengths shows; None if it shows something else."""
    if len(shape) != len(other):
        return None
    split: list[tuple[str, ...]] = []
    for n, m in zip(shape, other, strict=True):
        fits = (k for i, k in enumerate(ways, 1) if change(n, i) == m and n % axis_size(k) == 0)
        names = () if n == m else next(fits, None)
        if names is None:
            return None
        split.append(() if names in split else names)
    return tuple(split)


def _init(init: Callable[[Params], OptState], known: Specs, params: Params) -> OptState:
    splits = _splits(known, params)
    if not _is_inside(splits) or not any(map(any, splits)):
        return init(params)
    leaves, treedef = jax.tree.flatten(params)
    shapes = _whole_shapes(leaves, splits)
    wanted = _splits_of_state(init, treedef, leaves, shapes, splits)
    state = on_parts(init, (params,), splits)
    paths, of_state = jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_value)
    own = frozenset().union(*map(varying, leaves)) - _names(splits)  # as the next states will be
    found = ((x, wanted[path][1]) for path, x in paths)
    known_to_vary = any(map(varying, leaves))
    return of_state.unflatten(
        [vary(x.at(s), own | _names([s]) if known_to_vary else frozenset()) for x, s in found]
    )


def _names(splits: Sequence[Split]) -> frozenset[str]:
    return frozenset(name for split in splits for names in split for name in names)


def _update(
    pair: Pair,
    known: Specs,
    grads: Updates,
    state: OptState,
    params: Params,
    extra: dict[str, Any],
) -> tuple[Updates, OptState]:
    init, update = pair
    like = grads if params is None else params
    splits = _splits(known, like)
    if not _is_inside(splits) or not any(map(any, splits)):
        with as_own():
            return update(grads, state, params, **extra)
    for name, x in extra.items():
        if callable(x) and type(x) is not type(like):
            raise TypeError(
                f"in_shard_map: {name}= is a function, which would be called with whole "
                "parameters, but it is one of the parts. Call update outside of jax.shard_map, on "
                "sharded arrays."
            )
    leaves, treedef = jax.tree.flatten(like)
    of_state = _splits_of_state(init, treedef, leaves, _whole_shapes(leaves, splits), splits)
    in_state = [
        _split_here(path, x, of_state.get(path))
        for path, x in jax.tree_util.tree_flatten_with_path(state)[0]
    ]
    alike, of_extra = [jnp.shape(x) for x in leaves], []
    for x in extra.values():
        parts = jax.tree.leaves(x)
        same = jax.tree.structure(x) == treedef and [jnp.shape(y) for y in parts] == alike
        of_extra += splits if same else [unsplit(jnp.ndim(y)) for y in parts]
    new = on_parts(
        lambda grads, state, params, extra: update(grads, state, params, **extra),
        (grads, state, params, extra),
        [*splits, *in_state, *(splits if params is not None else ()), *of_extra],
    )
    values, out = jax.tree.flatten(new, is_leaf=_is_value)
    as_they_came = jax.tree.leaves((grads, state))
    placed = zip(values, [*splits, *in_state], as_they_came, strict=True)
    return out.unflatten([to_memory_of(y, vary(x.at(split), varying(y))) for x, split, y in placed])


def _split_here(path: Any, x: Any, expected: tuple[tuple[int, ...], Split] | None) -> Split:
    """Return how an array of the state is split, which its shape says; raise if it is neither."""
    shape, split = expected or (jnp.shape(x), unsplit(jnp.ndim(x)))
    here = tuple(
        () if n == m else names for n, m, names in zip(jnp.shape(x), shape, split, strict=False)
    )
    if len(here) != len(shape) or local_shape(shape, here) != jnp.shape(x):
        raise ValueError(
            f"in_shard_map: the state's {path_name(path)!r} is {short(x)}, where it should be the "
            f"part of an array of shape {list(shape)} by {_as_spec(split)}. Give jax.shard_map the "
            "state with the specs of gdjax.state_shardings, and make it with this optimizer for "
            "these parameters."
        )
    return here
