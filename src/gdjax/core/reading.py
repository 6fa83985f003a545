"""Reading and changing the numbers of a state, by the shortest names that tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import is_state, short
from gdjax.core.checks import FINITE, NUMBER, Range, check_range, ranges_of, strict
from gdjax.core.hyper import (
    Masked,
    PerLeaf,
    Schedule,
    as_array,
    as_hyper,
    nearest,
    rounding_key,
    rounding_of,
    value_at,
)
from gdjax.core.protocols import states_in
from gdjax.core.remember import remembered, weak_functions
from gdjax.core.times import Times
from gdjax.core.types import Hyperparam, OptState, Pair, Params, PyTree, T, TreeDef

Path = tuple[Any, ...]  # keys of jax.tree_util
Entry = tuple[Path, int, PyTree, Array]  # path, depth of its shortest name, value, count


def _key(key: object) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _is_index(key: object) -> bool:
    sequence = (jax.tree_util.SequenceKey, jax.tree_util.FlattenedIndexKey)
    return isinstance(key, sequence)


BOXED = jax.tree_util.GetAttrKey("value")  # in Flax, each array may be in a box of its own


def _is_box(node: object) -> bool:
    if node is None or isinstance(node, (Schedule, PerLeaf)) or jax.tree_util.all_leaves([node]):
        return False
    return [key for key, _ in _one_level(node)[0]] == [(BOXED,)]


def _is_entry(node: object) -> bool:
    return isinstance(node, (Schedule, Masked))


def _entries(state: OptState) -> list[Entry]:
    """Return an entry for every number or schedule."""
    entries = []
    for where, node in states_in(state):
        for name, value in sorted(node.hyperparams.items()):
            path = (*where, jax.tree_util.DictKey(name))
            for sub, leaf in jax.tree_util.tree_flatten_with_path(value, is_leaf=_is_entry)[0]:
                sub = sub[:-1] if sub and sub[-1] == BOXED else sub
                entries.append((path + sub, 1 + len(sub), leaf, node.count))
    return entries


def shortest_names(paths: list[tuple[tuple, int]]) -> list[str]:
    """Return, for each path, its shortest tail of at least the given length that no other has."""
    plain = [tuple(_key(k) for k in p if not _is_index(k)) for p, _ in paths]
    twice = {p for p in plain if plain.count(p) > 1}  # only the position tells them apart
    keys = [
        tuple(map(_key, path)) if short in twice else short
        for short, (path, _) in zip(plain, paths, strict=True)
    ]
    names = []
    for path, (_, size) in zip(keys, paths, strict=True):
        while size < len(path) and sum(other[-size:] == path[-size:] for other in keys) > 1:
            size += 1
        names.append(".".join(path[-size:]))
    return names


def hyperparams(state: OptState) -> dict[str, Any]:
    """Read every hyperparameter of a state, however deeply it is nested.

    Args:
      state: the state of any optimizer, chain or wrapper, also a vmapped or traced one.

    Returns:
      A flat dict, qualified name -> current value, which is what the *next* update will use. A
      name is the shortest one that is unique in the state: "learning_rate" in plain Adam,
      "head.learning_rate" where two groups have one, "learning_rate.body" for a prefix tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1, momentum=0.9))
      >>> {k: round(float(v), 3) for k, v in gdjax.hyperparams(opt.init(jnp.ones(2))).items()}
      {'max_norm': 1.0, 'learning_rate': 0.1, 'momentum': 0.9}
    """
    entries = _entries(state)
    names = shortest_names([(path, size) for path, size, _, _ in entries])
    values = [value_at(value, count) for _, _, value, count in entries]
    return {n: v.value if isinstance(v, Masked) else v for n, v in zip(names, values, strict=True)}


def hyperparams_in_use(state: OptState) -> dict[str, Array]:
    """Read the numbers that the last update used, as a log has them beside that update's loss.

    `hyperparams` gives those of the next update; the two differ where there is a schedule.

    Args:
      state: the state of any optimizer, chain or wrapper, also a vmapped or traced one. Of other
        libraries, optax's `inject_hyperparams` is read.

    Returns:
      A flat dict, qualified name -> number, of shape (), or (runs,) for the state of several runs.
      The names are those of `hyperparams`; tables, which are several numbers, are left out. A
      schedule is evaluated at the last step that was taken, so what a guard or an accumulation
      left out does not count; before the first step, it is the value of the first one.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.sgd(gdjax.linear_schedule(1.0, 0.0, 4), momentum=0.5)
      >>> _, state = opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
      >>> {k: float(v) for k, v in gdjax.hyperparams_in_use(state).items()}
      {'learning_rate': 1.0, 'momentum': 0.5}
      >>> float(gdjax.hyperparams(state)["learning_rate"])
      0.75
    """
    numbers = [*_single_numbers(state), *_injected_numbers(state)]
    names = shortest_names([(path, size) for path, size, _, _ in numbers])
    scheduled = [(v, count) for _, _, v, count in numbers if isinstance(v, Schedule)]
    values = iter(_last_values(scheduled))
    used = {}
    for name, (_, _, value, count) in zip(names, numbers, strict=True):
        value = next(values) if isinstance(value, Schedule) else value
        if jnp.shape(value) == jnp.shape(count):
            used[name] = value
    return used


def _single_numbers(state: OptState) -> Iterator[Entry]:
    """Yield the entries of a state, those behind a mask one by one."""
    for path, size, value, count in _entries(state):
        below = value.value if isinstance(value, Masked) else value
        for sub, number in jax.tree_util.tree_flatten_with_path(below, is_leaf=_is_entry)[0]:
            yield path + sub, size + len(sub), number, count


def _is_injected(node: object) -> bool:
    fields = getattr(node, "_fields", ())
    return not is_state(node) and {"count", "hyperparams"} <= set(fields)


def _injected_numbers(state: OptState) -> Iterator[Entry]:
    """Yield the numbers that another library keeps in a state as optax's injection does."""
    for where, node in jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_injected)[0]:
        if not _is_injected(node):
            continue
        for name, value in sorted(node.hyperparams.items()):
            if jnp.issubdtype(jnp.result_type(value), jnp.number):
                yield (*where, jax.tree_util.DictKey(name)), 1, value, node.count
        yield from (
            ((*where, *path), size, value, count)
            for path, size, value, count in _injected_numbers(getattr(node, "inner_state", ()))
        )


def _last_values(scheduled: list[tuple[Schedule, Array]]) -> list[Array]:
    """Return what schedules gave one before their counts, all in one program."""
    with weak_functions() as functions:
        leaves = jax.tree.leaves(scheduled)
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        return _before(scheduled)
    if not scheduled:
        return []
    with weak_functions():
        return _program_of(tuple(functions))(scheduled)


def _before(scheduled: list[tuple[Schedule, Array]]) -> list[Array]:
    return [value_at(value, jnp.maximum(count - 1, 0)) for value, count in scheduled]


@remembered
def _program_of(functions: tuple[Callable, ...]) -> Callable:
    """Return the program for schedules that hold these functions."""
    return jax.jit(lambda scheduled: _before(scheduled))


def the_only(what: str, state: OptState, name: str) -> tuple[PyTree, Array]:
    """Return the one hyperparameter of that name in a state, and the count that it goes by."""
    found = [(n.hyperparams[name], n.count) for _, n in states_in(state) if name in n.hyperparams]
    if len(found) != 1:
        raise ValueError(
            f"{what} needs an optimizer with exactly one {name}, got {len(found)} among "
            f"{', '.join(hyperparams(state)) or 'no hyperparameters'}. Wrap the parts one by one."
        )
    return found[0]


def with_hyperparams(state: T, **values: Hyperparam) -> T:
    """Return a new state in which some hyperparameters have new values.

    Args:
      state: the state of any optimizer, chain or wrapper.
      **values: qualified name -> number, array or schedule. Names are those that `hyperparams`
        gives, or any longer or shorter tail that is unique, and reach into schedules:
        `**{"learning_rate.peak_value": 3e-3}`. A number in place of a schedule replaces it (which
        changes the state's structure, so the next step compiles once more); a number in place of a
        number compiles nothing.

    Raises:
      ValueError: for an unknown or ambiguous name, with the names there are; for a shape that
        does not fit; for a number outside of the range that the optimizer's factory allows.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> state = gdjax.adam(1e-3).init(jnp.ones(2))
      >>> state = gdjax.with_hyperparams(state, learning_rate=3e-4)
      >>> print(gdjax.hyperparams(state)["learning_rate"])
      0.0003
    """
    targets = {
        _resolve(state, name): (f"with_hyperparams({name}=...)", value)
        for name, value in values.items()
    }

    def edit_states(tree, path):
        def edit(where, node):
            if not is_state(node):
                return node
            here = path + where
            new, lost, ranges = {}, dict(node.rounding), ranges_of(node)
            for k, v in node.hyperparams.items():
                at = (*here, jax.tree_util.DictKey(k))
                check(v, at, ranges.get(k, NUMBER))
                new[k] = edit_value(v, at, replacement)
                if (key := rounding_key(k)) in lost:
                    lost[key] = edit_value(lost[key], at, _replaced_rounding)
            slots = edit_states(node.slots, here)
            return node._replace(hyperparams=new, slots=slots, rounding=lost)

        return jax.tree_util.tree_map_with_path(edit, tree, is_leaf=is_state)

    def check(old, at, allowed):
        for path, (what, value) in targets.items():
            below = _range_below(old, path[len(at) :], allowed) if path[: len(at)] == at else None
            if below is not None and not (value is None and (below.optional or old is None)):
                check_range(what, value, below)

    def edit_value(old, path, put):
        if path in targets:
            return put(*targets[path], old)
        below = any(target[: len(path)] == path for target in targets)
        if not below or jax.tree_util.all_leaves([old]):
            return old
        children, treedef = _one_level(old)
        return treedef.unflatten([edit_value(child, path + key, put) for key, child in children])

    return edit_states(state, ())


@strict()
def with_hyperparams_of(state: T, optimizer: Pair, params: Params) -> T:
    """Return a state in which the hyperparameters are those that an optimizer was made with.

    The numbers of an optimizer are in its state, so `adam(3e-4).update` with a state of `adam(1.0)`
    takes steps of 1.0. This is for code that makes the optimizer anew and means its numbers, as
    optax's users do: a resumed run with another rate, or a population that builds its optimizers
    inside of the step.

    Args:
      state: a state of an optimizer of the same kind, which may have other numbers, or that of
        several runs, which all get these. Counts and slots are kept.
      optimizer: has the numbers, which may be traced.
      params: the parameters, or their shapes: masks and patterns are evaluated with them.

    Raises:
      TypeError: if `optimizer` is no pair.
      ValueError: if the state is that of another kind of optimizer, or for other parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.ones(2)
      >>> state = gdjax.adam(1.0).init(params)
      >>> optimizer = gdjax.adam(3e-4)
      >>> state = gdjax.with_hyperparams_of(state, optimizer, params)
      >>> print(optimizer.update(params, state, params)[0])
      [-0.0003 -0.0003]
    """

    def part(fresh, old):
        if not is_state(fresh):
            return old
        if not is_state(old) or fresh.hyperparams.keys() != old.hyperparams.keys():
            raise ValueError(f"it is {short(old)}, where the optimizer has {short(fresh)}.")
        runs = jnp.shape(old.count)

        def slot(new, was):
            if jnp.shape(was) != runs + jnp.shape(new):
                raise ValueError(f"a slot is {short(was)}, for these parameters {short(new)}.")

        def for_all(number):
            return jnp.broadcast_to(number, runs + jnp.shape(number)) if runs else number

        slots = jax.tree.map(part, fresh.slots, old.slots, is_leaf=is_state)
        jax.tree.map(
            lambda new, was: None if is_state(new) else slot(new, was),
            fresh.slots,
            old.slots,
            is_leaf=is_state,
        )
        hyper, rounding = jax.tree.map(for_all, (fresh.hyperparams, fresh.rounding))
        return old._replace(hyperparams=hyper, rounding=rounding, slots=slots)

    init, _ = optimizer
    try:
        return jax.tree.map(part, init(params), state, is_leaf=is_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "with_hyperparams_of(state=...) is not a state of the optimizer, for these parameters: "
            f"{error}"
        ) from None


def _one_level(node: PyTree) -> tuple[list[Any], TreeDef]:
    return jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)


def _places(state: OptState) -> list[Path]:
    """Return the path of everything that can be set: values, trees of values, schedule fields."""

    def below(node, path):
        yield path
        if not jax.tree_util.all_leaves([node]) and node is not None:
            for key, child in _one_level(node)[0]:
                yield from below(child, path + key)

    return [
        place
        for where, node in states_in(state)
        for name, value in node.hyperparams.items()
        for place in below(value, (*where, jax.tree_util.DictKey(name)))
    ]


def _resolve(state: OptState, name: str) -> Path:
    found = _fitting(state, name)
    if len(found) == 1:
        return found[0]
    entries = [(path, size) for path, size, _, _ in _entries(state)]
    names = shortest_names(entries)
    if name in names:
        return entries[names.index(name)][0]
    raise _no_number("with_hyperparams", state, name, found)


def _fitting(state: OptState, name: str) -> list[Path]:
    """Return the paths that end as `name` does, with or without the positions in chains."""

    def fits(path):
        names = (".".join(_key(k) for k in path if not _is_index(k)), ".".join(map(_key, path)))
        return any(full == name or full.endswith("." + name) for full in names)

    return [path for path in _places(state) if fits(path)]


def _no_number(call: str, state: OptState, name: str, found: list[Path]) -> ValueError:
    problem = "is ambiguous" if found else "is not a hyperparameter of this state"
    entries = [(path, size) for path, size, _, _ in _entries(state)]
    names, known = shortest_names(entries), {path for path, _ in entries}
    inside = [".".join(map(_key, path[-3:])) for path in _places(state) if path not in known]
    more = f" Inside these are {nearest(name, inside, 4)}." if inside else ""
    return ValueError(f"{call}: {name!r} {problem}; it has {', '.join(names) or 'none'}.{more}")


class Place(NamedTuple):
    """Where a number is in a state.

    Attributes:
      name: the shortest one that no other of the numbers that were asked for has.
      leaf: its index among the leaves of the state.
      rounding: the index of what rounding took from it; None if the state does not keep that.
      allowed: its range; None if it was not declared.
    """

    name: str
    leaf: int
    rounding: int | None
    allowed: Range | None


def places_of(call: str, state: OptState, names: Sequence[str]) -> list[list[Place]]:
    """Return for each name the numbers of a state that it means.

    A name of `hyperparams` means that number. Another one that fits several numbers means all of
    them, and that of a tree all numbers in it.

    Args:
      call: what the user called, for errors.
      state: the state of an optimizer, chain or wrapper.
      names: as for `with_hyperparams`.
    """
    leaves, treedef = jax.tree.flatten(state)
    at = treedef.unflatten(range(len(leaves)))
    found: dict[str, list[tuple[Path, int, Place]]] = {name: [] for name in names}

    def walk(value, lost, path, size, allowed, name, inside):
        inside = inside or path in targets[name]
        if value is None or not (inside or any(t[: len(path)] == path for t in targets[name])):
            return
        if jax.tree_util.all_leaves([value]):
            lost = lost if isinstance(lost, int) else None
            found[name].append((path, size, Place("", value, lost, allowed)))
            return
        children, treedef = _one_level(value)
        if isinstance(value, Schedule) and inside:
            fields = ", ".join(f"{name}.{_key(key[0])}" for key, _ in children)
            can = f"name its numbers: {fields}." if fields else "it has no numbers."
            raise ValueError(f"{call}: {name!r} is a schedule, {type(value).__name__}; {can}")
        same = lost is not None and jax.tree.structure(lost) == jax.tree.structure(value)
        others = [x for _, x in _one_level(lost)[0]] if same else [None] * len(children)
        for (key, child), other in zip(children, others, strict=True):
            own = allowed
            if isinstance(value, Schedule):  # a value of the schedule has the range of the number
                own = ranges_of(value).get(_key(key[0]), allowed)
                own = allowed if own is FINITE else own
            deeper = size + (key != (BOXED,))
            walk(child, other, path + key, deeper, own, name, inside)

    entries = [(path, size) for path, size, _, _ in _entries(at)]
    known = dict(zip(shortest_names(entries), (path for path, _ in entries), strict=True))
    targets = {name: set(_fitting(at, name)) for name in names}
    targets |= {name: {known[name]} for name in names if name in known}
    for where, node in states_in(at):
        for k, value in sorted(node.hyperparams.items()):
            path, lost = (*where, jax.tree_util.DictKey(k)), node.rounding.get(rounding_key(k))
            for name in names:
                walk(value, lost, path, 1, ranges_of(node).get(k), name, False)
    for name in names:
        if not found[name]:
            raise _no_number(call, state, name, [])
    every = [(path, size) for group in found.values() for path, size, _ in group]
    labels = iter(shortest_names(every))
    return [[place._replace(name=next(labels)) for _, _, place in found[name]] for name in names]


def with_rounding(state: T, numbers: dict[str, Array], lost: dict[str, Array]) -> T:
    """Return a state with what rounding took from its decays, where a traced number became one.

    Args:
      state: a state that was made from traced numbers, which are rounded already.
      numbers: argument name, maybe qualified -> the rounded number.
      lost: the same names -> what rounding took from it. It is used where the state has just
        that number as a decay of that name.
    """

    def edit(node):
        if not is_state(node):
            return node
        new = dict(node.rounding)
        for name in lost:
            own = name.rpartition(".")[2]
            key, value = rounding_key(own), node.hyperparams.get(own)
            if value is None or key not in new:
                continue
            if jax.tree_util.all_leaves([value, new[key]]):
                same = value == jnp.asarray(numbers[name], value.dtype)
                new[key] = jnp.where(same, jnp.asarray(lost[name], value.dtype), new[key])
        return node._replace(rounding=new, slots=with_rounding(node.slots, numbers, lost))

    return jax.tree.map(edit, state, is_leaf=is_state)


def _range_below(value: PyTree, path: Path, allowed: Range | None) -> Range | None:
    """Return the range of what is at `path` in a hyperparameter whose own range is `allowed`."""
    if not path:
        return allowed
    if isinstance(value, Schedule):
        allowed = ranges_of(value).get(_key(path[0]))
    child = next((x for key, x in _one_level(value)[0] if key == path[:1]), None)
    return _range_below(child, path[1:], allowed)


def _replaced_rounding(what: str, value: Hyperparam, old: PyTree) -> PyTree:
    """Return what rounding takes from a new value, in the structure of `replacement`."""
    if _is_box(old):
        ((_, inside),), treedef = _one_level(old)
        return treedef.unflatten([_replaced_rounding(what, value, inside)])
    if isinstance(old, Times) and not isinstance(value, Times):
        return Times(_replaced_rounding(what, value, old.value), old.multipliers)
    lost = rounding_of(value)
    if isinstance(old, Times) or not jax.tree_util.all_leaves([old, lost]):
        return lost
    return jnp.broadcast_to(lost, jnp.shape(old))


def _other_table(what: str, value: Any, old: Schedule) -> Schedule:
    """Return a hyperparameter that is an array, such as Muon's coefficients, with other numbers."""
    ((_, table),), treedef = _one_level(old)
    check_range(what, value, FINITE)
    new = as_array(what, np.asarray(value) if isinstance(value, (list, tuple)) else value)
    if new.shape != jnp.shape(table):
        raise ValueError(f"{what} must have shape {jnp.shape(table)}, got {new.shape}.")
    return treedef.unflatten([new])


def replacement(what: str, value: Hyperparam, old: PyTree) -> PyTree:
    """Return the form in which a new value takes the place of an old one in the state."""
    if _is_box(old):
        ((_, inside),), treedef = _one_level(old)
        return treedef.unflatten([replacement(what, value, inside)])
    if isinstance(old, Masked) and not isinstance(value, PerLeaf):
        return Masked(replacement(what, value, old.value), old.mask)
    if isinstance(old, Times) and not isinstance(value, Times):
        return Times(replacement(what, value, old.value), old.multipliers)
    if isinstance(old, Schedule) and not old.one_number and not callable(value):
        return _other_table(what, value, old)
    if callable(value) or not jax.tree_util.all_leaves([value]):
        return as_hyper(what, value)
    if not jax.tree_util.all_leaves([old]):  # in place of a schedule or a tree
        return as_array(what, value, scalar=True)
    new, shape = as_array(what, value), jnp.asarray(old).shape
    if new.shape not in ((), shape):
        shapes = f"{shape} or ()" if shape else "()"
        raise ValueError(
            f"{what} must have shape {shapes}, got {new.shape}. For a grid of values vmap: "
            "jax.vmap(lambda h: with_hyperparams(state, ...=h))(values)."
        )
    return jnp.broadcast_to(new, shape)
