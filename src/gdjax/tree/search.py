"""Find, replace and map over parts of optimizer states, by name, at any depth.

Names are fields of NamedTuples ("mu", "count"), keys of dicts ("learning_rate") and class names of
NamedTuples ("Moments"). Two rules are specific to states of gdjax, where every number is a leaf:

- A scheduled hyperparameter is read as its current value, as in `gdjax.hyperparams`. A replaced
  hyperparameter becomes an array without a weak type, as in `gdjax.with_hyperparams`.
- Every part of a chain counts its steps, also transforms without any other state. If more than one
  "count" is found, `get` ignores those of parts without other state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.base import State, is_state
from gdjax.core.checks import strict
from gdjax.core.codecs import Encoded, is_encoded, stored
from gdjax.core.dealing import DealtTree, Place
from gdjax.core.hyper import Masked, Placeholder, value_at
from gdjax.core.reading import replacement
from gdjax.core.types import OptState, Pair, PyTree, TreeDef

Path = tuple[Hashable, ...]  # keys of `jax.tree_util` and `NamedTupleKey`s
Found = tuple[Path, PyTree, PyTree]  # path, node, innermost state that contains it
Filter = Callable[[Path, Any], bool]
LEAF = jax.tree.structure(0)


@dataclasses.dataclass(frozen=True)
class NamedTupleKey:
    """A key of a path that refers to a field of a NamedTuple.

    Attributes:
      tuple_name: name of the class.
      name: name of the field.
    """

    tuple_name: str
    name: str

    def __str__(self) -> str:
        """Return the key as it is written in an expression."""
        return f"{self.tuple_name}.{self.name}"


def _is_named_tuple(node: PyTree) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _children(node: PyTree) -> list[tuple[Hashable, PyTree]]:
    """Return (key, child) for the children of a node; a leaf has none."""
    if _is_named_tuple(node):
        name = type(node).__name__
        return [(NamedTupleKey(name, field), getattr(node, field)) for field in node._fields]
    if isinstance(node, dict):
        return [(jax.tree_util.DictKey(key), child) for key, child in node.items()]
    if node is None or jax.tree_util.all_leaves([node]):
        return []
    below = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    return [(path[0], child) for path, child in below]


def _name(key: Any) -> Hashable:
    """Return the name of a key that can be searched for, else None."""
    if isinstance(key, NamedTupleKey):
        return key.name
    return key.key if isinstance(key, jax.tree_util.DictKey) else None


def _walk(node: PyTree, path: Path = (), owner: PyTree = None) -> Iterator[Found]:
    """Yield all nodes of a tree, outermost first."""
    yield path, node, owner
    for key, child in _children(node):
        yield from _walk(child, (*path, key), node if is_state(node) else owner)


def _matches(path: Path, node: PyTree, key: Hashable) -> bool:
    if _is_named_tuple(node) and type(node).__name__ == key:
        return True
    return bool(path) and type(_name(path[-1])) is type(key) and _name(path[-1]) == key


def _is_hyperparameter(path: Path) -> bool:
    return len(path) > 1 and path[-2] == NamedTupleKey(State.__name__, "hyperparams")


def _read(path: Path, node: PyTree, owner: PyTree) -> PyTree:
    if not (_is_hyperparameter(path) and is_state(owner)):
        return node
    value = value_at(node, owner.count)
    return value.value if isinstance(value, Masked) else value


def _find(tree: PyTree, key: Hashable, filtering: Filter | None) -> list[Found]:
    walked = list(_walk(tree))
    found = [
        (path, _read(path, node, owner), owner)
        for path, node, owner in walked
        if _matches(path, node, key)
    ]
    if len(found) > 1:  # first what is directly in a node, then what is in its children
        place = {path: i for i, (path, _, _) in enumerate(walked)}
        parents = {path[:-1] for path, _, _ in found}

        def order(f: Found) -> list[tuple[bool, int]]:
            within = [i for i in range(len(f[0]) - 1) if f[0][:i] in parents]
            return [*((True, place[f[0][: i + 1]]) for i in within), (False, place[f[0]])]

        found.sort(key=order)
    return [f for f in found if filtering is None or filtering(f[0], f[1])]


@strict()
def get_all_with_path(
    tree: PyTree, key: Hashable, filtering: Filter | None = None
) -> list[tuple[Path, PyTree]]:
    """Return all parts of a tree with a given name, and their paths.

    Args:
      tree: any tree, usually a state.
      key: a field or class name of a NamedTuple, or a key of a dict.
      filtering: `filtering(path, value) -> bool` selects what to return. A path is a tuple of keys
        of `jax.tree_util` and `NamedTupleKey` objects, which also contain the name of the class.

    Returns:
      A list of `(path, value)`, in the order of the tree, but a part of a node comes before others
      deeper in the same node; `jax.tree_util.keystr(path)` formats a path.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> state = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1)).init(jnp.ones(2))
      >>> for path, value in gdjax.tree.get_all_with_path(state, "count"):
      ...     print(jax.tree_util.keystr(path), value)
      [0]State.count 0
      [1]State.count 0
    """
    return [(path, value) for path, value, _ in _find(tree, key, filtering)]


@strict()
def get(
    tree: PyTree, key: Hashable, default: Any = None, filtering: Filter | None = None
) -> PyTree:
    """Return the only part of a tree with a given name.

    Args:
      tree: any tree, usually a state.
      key: see `get_all_with_path`.
      default: the result if nothing has that name.
      filtering: see `get_all_with_path`.

    Returns:
      The value. Of several counts, that of the only part with other state.

    Raises:
      KeyError: if several parts have that name; the message has their paths.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.chain(gdjax.clip(1.0), gdjax.adam(gdjax.linear_schedule(0.1, 0.0, 10)))
      >>> _, state = opt.update(jnp.array([0.5]), opt.init(jnp.ones(1)))
      >>> print(gdjax.tree.get(state, "mu"), gdjax.tree.get(state, "count"))
      [0.05] 1
      >>> rate = gdjax.tree.get(state, "learning_rate")  # what the next update will use
      >>> print(round(float(rate), 3))
      0.09
    """
    found = _find(tree, key, filtering)
    if key == "count":
        found = [f for f in found if not (is_state(f[2]) and f[2].slots == ())] or found
    if len(found) > 1:
        paths = ", ".join(jax.tree_util.keystr(path) for path, _, _ in found)
        raise KeyError(
            f"tree.get: {key!r} is found {len(found)} times: {paths}. Choose one with "
            "filtering=lambda path, value: ..., or use get_all_with_path."
        )
    return found[0][1] if found else default


@strict()
def set(tree: PyTree, filtering: Filter | None = None, /, **kwargs: Any) -> PyTree:
    """Return a copy of a tree with new values for all parts with the given names.

    These are all parts that `get_all_with_path` finds, at any depth. (optax misses parts nested in
    lists or tuples below another match.)

    Args:
      tree: any tree, usually a state.
      filtering: see `get_all_with_path`.
      **kwargs: name -> new value. If it replaces an array, a number or array of the same shape is
        cast to its dtype (optax: unchanged), so that the next step does not compile again. A slot
        with codes (see `with_slot_dtypes`) is given as arrays, which are encoded.

    Raises:
      KeyError: if nothing has that name.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> state = gdjax.tree.set(gdjax.adam(0.1).init(jnp.ones(2)), learning_rate=0.5, count=7)
      >>> print(gdjax.tree.get(state, "learning_rate"), repr(gdjax.tree.get(state, "count")))
      0.5 Array(7, dtype=int32)
    """
    for key in kwargs:
        if not _find(tree, key, filtering):
            more = " that the filter selects" if filtering else ""
            raise KeyError(f"tree.set: nothing is named {key!r}{more}.")

    def replace(node, path, owner):
        for key, new in kwargs.items():
            value = _read(path, node, owner)
            if _matches(path, node, key) and (filtering is None or filtering(path, value)):
                if _is_hyperparameter(path) and is_state(owner):
                    return replacement(f"tree.set({key}=...)", new, node)
                return _fitting(new, node)
        below = _children(node)
        if not below:
            return node
        owner = node if is_state(node) else owner
        new = [replace(child, (*path, key), owner) for key, child in below]
        if _is_named_tuple(node):
            return type(node)(*new)
        if isinstance(node, dict):
            return type(node)(zip(node, new, strict=True))
        return jax.tree.structure(node, is_leaf=lambda x: x is not node).unflatten(new)

    return replace(tree, (), None)


def _fitting(new: PyTree, old: PyTree) -> PyTree:
    if any(map(is_encoded, jax.tree.leaves(old, is_leaf=is_encoded))):
        return stored(new, old)
    if not (isinstance(old, jax.Array) and jax.tree_util.all_leaves([new])):
        return new
    if callable(new) or isinstance(new, str) or jnp.shape(new) != old.shape:
        return new
    return new if jnp.issubdtype(old.dtype, jax.dtypes.extended) else jnp.asarray(new, old.dtype)


@strict()
def map_params(
    initable: Pair | Callable[..., OptState],
    f: Callable[..., Any],
    state: OptState,
    /,
    *rest: PyTree,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> PyTree:
    """Map over the parts of a state that are shaped like the parameters, e.g. to give names.

    For shardings see `gdjax.state_shardings`, which also knows where factored slots lie.

    Args:
      initable: the optimizer that made the state, or its `init`.
      f: `f(leaf, *rest_leaves)`, for each leaf of each such part. If the state has several arrays
        for a parameter, such as its factors, or the codes and the scales of a slot (see
        `with_slot_dtypes`), it is called for each of them with what the other trees have for it.
      state: the state.
      *rest: trees with the structure of the parameters, or prefixes of it.
      transform_non_params: applied to every other leaf (counts, numbers, stacks of the slots of
        several parameters); None leaves them unchanged.
      is_leaf: as in `jax.tree.map`, for the parts shaped like the parameters.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt, params = gdjax.adam(0.1), {"w": jnp.ones(2)}
      >>> specs = gdjax.tree.map_params(
      ...     opt, lambda _, spec: spec, opt.init(params), {"w": "rows"},
      ...     transform_non_params=lambda _: "all")
      >>> print(specs.count, specs.slots.mu, specs.hyperparams["b1"])
      all {'w': 'rows'} all
    """
    init = getattr(initable, "init", None) or (initable if callable(initable) else initable[0])
    template = init(Placeholder())

    def other(node):
        return node if transform_non_params is None else jax.tree.map(transform_non_params, node)

    def not_there(leaf):  # the state has no such part for this parameter by itself
        return leaf is None or isinstance(leaf, Place)

    def mapped(leaf, *others):
        if is_encoded(leaf):
            scales = None if leaf.scales is None else f(leaf.scales, *others)
            return Encoded(f(leaf.codes, *others), scales, other(leaf.key), leaf.codec)
        return leaf if not_there(leaf) else f(leaf, *others)

    def stops(node):
        return not_there(node) or is_encoded(node) or (is_leaf is not None and is_leaf(node))

    def visit(part, node):
        if _is_placeholder(part) and isinstance(node, DealtTree):
            return dataclasses.replace(node, stacks=other(node.stacks), rest=visit(part, node.rest))
        if _is_placeholder(part):
            return _map_below(mapped, stops, node, rest)
        if any(map(_is_placeholder, jax.tree.leaves(part, is_leaf=_is_placeholder))):
            return jax.tree.map(visit, part, node, is_leaf=lambda x: x is not part)
        return other(node)

    try:
        return visit(template, state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "tree.map_params(state=..., rest=...) must be a state of this optimizer, and trees "
            f"like its parameters. {error}"
        ) from error


def _map_below(
    f: Callable[..., Any], stops: Callable[[Any], bool], node: PyTree, rest: tuple[PyTree, ...]
) -> PyTree:
    """Map over a tree and others, whose leaves may stand where it has several arrays, or none."""
    children, treedef = _one_level(stops, node)
    if treedef == LEAF:
        return f(node, *rest)
    columns = []
    for tree in rest:
        below, other = _one_level(stops, tree)
        if other not in (treedef, LEAF):
            raise ValueError(f"The state has {treedef} where another tree has {other}.")
        columns.append(below if other == treedef else [tree] * len(children))
    rows = zip(*columns, strict=True) if rest else [()] * len(children)
    parts = zip(children, rows, strict=True)
    return treedef.unflatten([_map_below(f, stops, child, row) for child, row in parts])


def _one_level(stops: Callable[[Any], bool], node: PyTree) -> tuple[list[PyTree], TreeDef]:
    """Return the children of a node and its structure, that of a leaf if `stops(node)`."""
    return jax.tree.flatten(node, is_leaf=lambda x: x is not node or stops(x))


def _is_placeholder(node: PyTree) -> bool:
    return isinstance(node, Placeholder)
