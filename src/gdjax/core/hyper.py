"""Numbers are data: how a hyperparameter enters the state, is read in a step, and is changed.

A hyperparameter is a number, a `Schedule`, or a prefix tree of those over the parameters; two
nodes, `ByPath` and `Masked`, say per leaf which number holds. All of them are pytrees whose
numbers are leaves; everything else about them (patterns, masks, functions) is structure.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import State, is_state
from gdjax.core.numerics import scalar_dtype

# --- schedules ----------------------------------------------------------------------------------


class Schedule:
    """A pytree that is a function of the step count. The first update uses `schedule(0)`.

    Subclass with the `schedule` decorator; the fields are leaves, and so may be traced, vmapped and
    differentiated. Fields made with `dataclasses.field(metadata={"static": True})` are structure.

    Example:
      >>> import gdjax, jax
      >>> @gdjax.schedule
      ... class Inverse(gdjax.Schedule):
      ...     peak: float
      ...     def __call__(self, count):
      ...         return self.peak / (1 + count)
      >>> print(Inverse(1.0)(3), jax.tree.leaves(Inverse(1.0)))
      0.25 [1.0]
    """

    def __call__(self, count: Any) -> Array:
        """Return the value for update number `count`, where 0 is the first."""
        raise TypeError(f"{type(self).__name__} does not define __call__(count)")


def schedule(cls: type) -> Any:
    """Make `cls` a frozen dataclass that JAX knows as a pytree; its fields are leaves."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    static = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]
    data = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(cls, data, static)


@schedule
class FunctionSchedule(Schedule):
    """A user's own callable: a plain function has no leaves, a callable pytree keeps its own."""

    function: Any

    def __call__(self, count: Any) -> Array:
        """Return `function(count)`."""
        return self.function(count)


def is_schedule(node: Any) -> bool:
    """Return whether `node` is a schedule."""
    return isinstance(node, Schedule)


# --- one number per leaf --------------------------------------------------------------------------


class PerLeaf:
    """Base of nodes that say for each parameter leaf which value holds there."""

    def per_leaf(self, names: tuple[str, ...]) -> list[Any]:
        """Return one value for each parameter, whose paths are `names`."""
        raise TypeError(f"{type(self).__name__} does not define per_leaf")


@jax.tree_util.register_pytree_with_keys_class
class ByPath(PerLeaf):
    """Pattern -> value; see `by_path`."""

    def __init__(self, patterns: tuple[str, ...], values: tuple[Any, ...]):
        self.patterns, self.values = patterns, values

    def tree_flatten_with_keys(self):
        """Return the values as children, the patterns as structure."""
        keys = map(jax.tree_util.DictKey, self.patterns)
        return tuple(zip(keys, self.values, strict=True)), self.patterns

    @classmethod
    def tree_unflatten(cls, patterns, values):
        """Rebuild from structure and children."""
        return cls(patterns, tuple(values))

    def per_leaf(self, names: tuple[str, ...]) -> list[Any]:
        """Return the value of the first pattern that matches, for each path."""
        return [self.values[self._match(name)] for name in names]

    def _match(self, name: str) -> int:
        bare = name.removesuffix("/value")  # Flax NNX has each parameter in a box of that name
        for i, pattern in enumerate(self.patterns):
            if re.fullmatch(pattern, name) or re.fullmatch(pattern, bare):
                return i
        raise ValueError(
            f"by_path: no pattern of {list(self.patterns)} matches the parameter {name!r}. "
            'Add a last rule, with the pattern r".*", for the rest.'
        )

    def __repr__(self) -> str:
        """Show patterns and values as a dict."""
        return f"by_path({dict(zip(self.patterns, self.values, strict=True))})"


@jax.tree_util.register_pytree_with_keys_class
class Masked(PerLeaf):
    """One value for the leaves where `mask` is true, None (no such term) for the others."""

    def __init__(self, value: Any, mask: tuple[bool, ...]):
        self.value, self.mask = value, mask

    def tree_flatten_with_keys(self):
        """Return the value as the only child, the mask as structure."""
        return ((jax.tree_util.GetAttrKey("value"), self.value),), self.mask

    @classmethod
    def tree_unflatten(cls, mask, children):
        """Rebuild from structure and child."""
        return cls(children[0], mask)

    def choose(self, values: list[Any]) -> list[Any]:
        """Return the value or None for each leaf, given the values without the mask."""
        if len(values) != len(self.mask):
            raise ValueError(f"the mask has {len(self.mask)} leaves, the tree {len(values)}")
        return [value if on else None for value, on in zip(values, self.mask, strict=True)]


def by_path(rules: Mapping[str, Any]) -> ByPath:
    r"""Set a hyperparameter per parameter, by regular expressions over the parameters' paths.

    Args:
      rules: pattern -> number or schedule, or None to switch the term off there. A parameter's path
        joins its keys with "/": `params["layers"][0]["bias"]` is "layers/0/bias". The first pattern
        that matches the whole path wins. A last "/value", as in Flax NNX, may be left out.

    Returns:
      A value for any hyperparameter of any optimizer; the numbers in it are leaves of the state.

    Raises:
      ValueError: at `init`, if a parameter matches no pattern.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
      >>> opt = gdjax.sgd(gdjax.by_path({r".*bias": 0.0, r".*": 0.1}))
      >>> updates, _ = opt.update(params, opt.init(params), params)
      >>> print(updates["kernel"], updates["bias"])
      [-0.1 -0.1] [-0. -0.]
    """
    if not rules:
        raise ValueError("by_path(rules=...) must have at least one rule, got {}.")
    for pattern in rules:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"by_path: {pattern!r} is not a regular expression: {error}") from None
    return ByPath(tuple(rules), tuple(rules.values()))


# --- into the state -------------------------------------------------------------------------------


def is_value(node: Any) -> bool:
    """Return whether `node` is one value of a prefix tree: None, a schedule, or a function."""
    return node is None or is_schedule(node) or jax.tree_util.all_leaves([node]) and callable(node)


def _strong(what: str, x: Any) -> Array:
    if isinstance(x, (bool, str, bytes)):
        raise TypeError(f"{what} must be a number, an array or a schedule, got {x!r}.")
    try:  # a copy: the state may be donated, the user's own array not
        x = jnp.array(x, scalar_dtype(), copy=True)
    except TypeError:
        raise TypeError(
            f"{what} must be a number, an array or a schedule, got {type(x).__name__}."
        ) from None
    return x


def _scalar(what: str, x: Any) -> Array:
    x = _strong(what, x)
    if x.ndim:
        raise ValueError(
            f"{what} must be one number, got an array of shape {x.shape}. For a grid of values "
            "vmap over init: jax.vmap(lambda h: optimizer(h).init(params))(values)."
        )
    return x


def as_hyper(what: str, value: Any, params: Any = None) -> Any:
    """Return the form in which `value` lives in the state: strong arrays of at least float32.

    `what` names the argument in errors. `params`, if given, says which pytrees are prefix trees
    over the parameters, and is checked against them.
    """
    if value is None:
        return None
    if is_schedule(value):
        return jax.tree.map(lambda x: _strong(what, x), value)
    if isinstance(value, PerLeaf):
        return jax.tree.map(lambda x: as_hyper(what, x), value, is_leaf=lambda x: x is not value)
    if jax.tree_util.all_leaves([value]):
        if callable(value):
            return FunctionSchedule(jax.tree_util.Partial(value))
        return _scalar(what, value)
    if callable(value) and type(value) is not type(params):
        return FunctionSchedule(jax.tree.map(lambda x: _strong(what, x), value))
    if params is not None:
        spread(what, value, params)
    return jax.tree.map(lambda x: as_hyper(what, x), value, is_leaf=is_value)


@jax.tree_util.register_pytree_node_class
class Placeholder:
    """Stands for a whole tree of parameters: `init` of one says where in a state such trees are."""

    def tree_flatten(self):
        """Return no children: what maps over leaves keeps the node."""
        return (), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """Rebuild from nothing."""
        return cls()


def spread(what: str, value: Any, tree: Any) -> list[Any]:
    """Return the value of a prefix tree for each leaf of `tree`."""
    if isinstance(tree, Placeholder):
        return []
    values: list[Any] = []
    try:
        jax.tree.map(
            lambda v, part: values.extend([v] * len(jax.tree.leaves(part))),
            value, tree, is_leaf=is_value,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{what} is a tree that is no prefix of the parameters: "
            f"{jax.tree.structure(value, is_leaf=is_value)} over {jax.tree.structure(tree)}. "
            f"{error}"
        ) from None
    return values


# --- in a step ------------------------------------------------------------------------------------


def in_force(value: Any, count: Array) -> Any:
    """Return `value` with every schedule in it replaced by what it gives at `count`."""

    def evaluate(node):
        return jnp.asarray(node(count), scalar_dtype()) if is_schedule(node) else node

    return jax.tree.map(evaluate, value, is_leaf=is_schedule)


def leaf_values(what: str, value: Any, tree: Any) -> list[Any]:
    """Return the number for each leaf of `tree`; None where off."""
    if value is None or jax.tree_util.all_leaves([value]) or is_schedule(value):
        return [value] * len(jax.tree.leaves(tree))
    if isinstance(value, Masked):  # over a number, a schedule, or again one number per leaf
        return value.choose(leaf_values(what, value.value, tree))
    if isinstance(value, PerLeaf):
        paths = jax.tree_util.tree_flatten_with_path(tree)[0]
        return value.per_leaf(tuple(path_name(path) for path, _ in paths))
    return spread(what, value, tree)


def path_name(path: Any) -> str:
    """Return the path of a leaf as a string, keys joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


# --- reading and changing ------------------------------------------------------------------------


def _key(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _is_index(key: Any) -> bool:
    sequence = (jax.tree_util.SequenceKey, jax.tree_util.FlattenedIndexKey)
    return isinstance(key, sequence)


def states_in(tree: Any, path: tuple = ()) -> Iterator[tuple[tuple, State]]:
    """Yield the path and the state of every optimizer in a tree, the outer before the inner."""
    for where, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_state)[0]:
        if is_state(node):
            yield path + where, node
            yield from states_in(node.slots, path + where)


BOXED = jax.tree_util.GetAttrKey("value")  # in Flax, each array may be in a box of its own


def _is_box(node: Any) -> bool:
    if node is None or isinstance(node, (Schedule, PerLeaf)) or jax.tree_util.all_leaves([node]):
        return False
    return [key for key, _ in _one_level(node)[0]] == [(BOXED,)]


def _is_entry(node: Any) -> bool:
    return is_schedule(node) or isinstance(node, Masked)


def _entries(state: Any) -> list[tuple[tuple, int, Any, Array]]:
    """Return (path, depth of its shortest name, value, count) for every number or schedule."""
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


def hyperparams(state: Any) -> dict[str, Any]:
    """Read every hyperparameter of a state, however deeply it is nested.

    Args:
      state: the state of any optimizer, chain or wrapper, also a vmapped or traced one.

    Returns:
      A flat dict, qualified name -> value in force, which is what the *next* update will use. A
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
    values = [in_force(value, count) for _, _, value, count in entries]
    return {n: v.value if isinstance(v, Masked) else v for n, v in zip(names, values, strict=True)}


def the_only(what: str, state: Any, name: str) -> tuple[Any, Array]:
    """Return the one hyperparameter of that name in a state, and the count that it goes by."""
    found = [(n.hyperparams[name], n.count) for _, n in states_in(state) if name in n.hyperparams]
    if len(found) != 1:
        raise ValueError(
            f"{what} needs an optimizer with exactly one {name}, got {len(found)} among "
            f"{', '.join(hyperparams(state)) or 'no hyperparameters'}. Wrap the parts one by one."
        )
    return found[0]


def with_hyperparams(state: Any, **values: Any) -> Any:
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
        does not fit.

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
            new = {
                k: edit_value(v, (*here, jax.tree_util.DictKey(k)))
                for k, v in node.hyperparams.items()
            }
            return node._replace(hyperparams=new, slots=edit_states(node.slots, here))

        return jax.tree_util.tree_map_with_path(edit, tree, is_leaf=is_state)

    def edit_value(old, path):
        if path in targets:
            return replacement(*targets[path], old)
        if not any(target[: len(path)] == path for target in targets):
            return old
        children, treedef = _one_level(old)
        return treedef.unflatten([edit_value(child, path + key) for key, child in children])

    return edit_states(state, ())


def _one_level(node: Any) -> tuple[list, Any]:
    return jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)


def _places(state: Any) -> list[tuple]:
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


def _resolve(state: Any, name: str) -> tuple:
    places = _places(state)

    def fits(path):  # with or without the positions in chains
        names = (".".join(_key(k) for k in path if not _is_index(k)), ".".join(map(_key, path)))
        return any(full == name or full.endswith("." + name) for full in names)

    found = [path for path in places if fits(path)]
    if len(found) == 1:
        return found[0]
    entries = [(path, size) for path, size, _, _ in _entries(state)]
    names = shortest_names(entries)
    if name in names:
        return entries[names.index(name)][0]
    problem = "is ambiguous" if found else "is not a hyperparameter of this state"
    raise ValueError(f"with_hyperparams: {name!r} {problem}; it has {', '.join(names) or 'none'}.")


def replacement(what: str, value: Any, old: Any) -> Any:
    """Return the form in which a new value takes the place of an old one in the state."""
    if _is_box(old):
        ((_, inside),), treedef = _one_level(old)
        return treedef.unflatten([replacement(what, value, inside)])
    if isinstance(old, Masked) and not isinstance(value, PerLeaf):
        return Masked(replacement(what, value, old.value), old.mask)
    if callable(value) or not jax.tree_util.all_leaves([value]):
        return as_hyper(what, value)
    if not jax.tree_util.all_leaves([old]):  # in place of a schedule or a tree
        return _scalar(what, value)
    new, shape = _strong(what, value), jnp.asarray(old).shape
    if new.shape not in ((), shape):
        raise ValueError(
            f"{what} must have shape {shape} or (), got {new.shape}. For a grid of values vmap: "
            "jax.vmap(lambda h: with_hyperparams(state, ...=h))(values)."
        )
    return jnp.broadcast_to(new, shape)
