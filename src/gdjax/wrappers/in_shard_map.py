"""An optimizer for `jax.shard_map`, where each device holds parts of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.lift import compiled
from gdjax.core.parts import Split, as_own, axis_size, on_parts, split_of, unsplit
from gdjax.core.remember import remembered_with_owners
from gdjax.core.types import OptState, Pair, Params, PyTree

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


@strict()
def in_shard_map(optimizer: Pair, specs: PyTree) -> Optimizer:
    """Let an optimizer run inside `jax.shard_map`, equal to its steps on whole arrays.
    """
    leaves, treedef = jax.tree.flatten(specs, is_leaf=_is_spec)
    for spec in leaves:
        if not _is_spec(spec):
            raise TypeError(
                "in_shard_map(specs=...) must be a tree of jax.sharding.PartitionSpec like the "
                f"in_specs of jax.shard_map, got {spec!r}."
            )
    init, update = with_extra_args_support(optimizer)
    known = tuple(leaves), treedef

    def wrapped(params: Params) -> OptState:
        splits = _splits(known, params)
        if not _is_inside(splits):
            return init(params)
        with as_own():
            state = on_parts(init, (params,), splits)
        wanted = _of_state(init, params, splits)
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x.at(wanted.get(path, unsplit(len(x.shape)))), state, is_leaf=_is_value
        )

    return Optimizer(wrapped, _update(update, init, known))


def state_specs(optimizer: Pair, params: Params, specs: PyTree) -> PyTree:
    """Return the `PartitionSpec` of each array of a state, for the specs of `jax.shard_map`."""
    leaves, treedef = jax.tree.flatten(specs, is_leaf=_is_spec)
    init = with_extra_args_support(optimizer).init
    state = jax.eval_shape(init, params)
    splits = _splits((tuple(leaves), treedef), params)
    known = _of_state(init, params, splits, axis_size=lambda names: 1)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: _as_spec(known.get(path, ())), state
    )


def _as_spec(split: Split) -> PartitionSpec:
    entries = [names[0] if len(names) == 1 else names or None for names in split]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _is_spec(x: object) -> bool:
    return isinstance(x, PartitionSpec)


def _is_value(x: object) -> bool:
    return hasattr(x, "at") and hasattr(x, "split")


def _splits(known: tuple, params: Params) -> list[Split]:
    specs, treedef = known
    try:
        parts = treedef.flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "in_shard_map(specs=...) must be a tree like the parameters, or a prefix of one. "
            f"{error}"
        ) from None
    pairs = zip(specs, parts, strict=True)
    return [split_of(spec, jnp.ndim(x)) for spec, part in pairs for x in jax.tree.leaves(part)]


def _is_inside(splits: list[Split]) -> bool:
    try:
        for split in splits:
            for names in split:
                axis_size(names)
    except NameError:
        return False
    return True


def _of_state(
    init: Callable, params: Params, splits: list[Split], axis_size: Callable = axis_size
) -> dict[Any, Split]:
    """Return the split of each array of the state, by its path.

    An axis of the state is split like that axis of the parameters with whose length it grows.
    """
    names = list(dict.fromkeys(n for split in splits for n in split if n))
    factors = dict(zip(names, PRIMES, strict=False))
    leaves, treedef = jax.tree.flatten(params)
    shapes: list[tuple[int, ...]] = []
    larger: list[tuple[int, ...]] = []
    lengths: set[tuple[Any, int]] = set()
    for x, split in zip(leaves, splits, strict=True):
        sizes = [(n * axis_size(names), names) for n, names in zip(x.shape, split, strict=True)]
        shapes.append(tuple(n for n, _ in sizes))
        larger.append(tuple(n * factors.get(names, 1) for n, names in sizes))
        lengths |= {(names, n) for n, names in sizes}

    def of(shapes):
        like = [jax.ShapeDtypeStruct(s, x.dtype) for s, x in zip(shapes, leaves, strict=True)]
        state = jax.eval_shape(init, treedef.unflatten(like))
        return {path: x.shape for path, x in jax.tree_util.tree_flatten_with_path(state)[0]}

    grown, known = of(larger), {}
    for path, shape in of(shapes).items():
        split = []
        for n, m in zip(shape, grown.get(path, ()), strict=False):
            at = next((k for k, f in factors.items() if n * f == m and (k, n) in lengths), ())
            split.append(at if n else ())
        used = [k for k in split if k]
        fits = len(split) == len(shape) and len(set(used)) == len(used)
        known[path] = tuple(split) if fits else unsplit(len(shape))
    return known


@remembered_with_owners
def _update(update: Callable, init: Callable, known: tuple) -> Callable:
    def in_shard_map(grads, state, params=None, **extra):
        splits = _splits(known, grads if params is None else params)
        if not _is_inside(splits) or not any(map(any, splits)):
            with as_own():
                return update(grads, state, params, **extra)
        functions = [k for k, v in extra.items() if callable(v)]
        if functions:
            raise TypeError(
                f"in_shard_map: {functions[0]}= is a function of the parameters, ...")
        by_path = _of_state(init, grads if params is None else params, splits)
        in_state = [
            by_path.get(path, unsplit(jnp.ndim(x)))
            for path, x in jax.tree_util.tree_flatten_with_path(state)[0]
        ]
        args = grads, state, params, extra
        treedef = jax.tree.structure(grads)
        more = []
        for x in extra.values():
            alike = jax.tree.structure(x) == treedef
            more += splits if alike else [unsplit(jnp.ndim(y)) for y in jax.tree.leaves(x)]
        each = [*splits, *in_state, *(splits if params is not None else ()), *more]
        with as_own():
            out = on_parts(lambda g, s, p, e: update(g, s, p, **e), args, each)
        new = jax.tree.leaves(out, is_leaf=_is_value)
        placed = [x.at(split) for x, split in zip(new, [*splits, *in_state], strict=True)]
        return jax.tree.unflatten(jax.tree.structure((grads, state)), placed)

    return compiled(in_shard_map, "in_shard_map")
