"""Find, replace and map over what states hold, by name, at any depth.

Names are fields of NamedTuples ("mu", "count"), keys of dicts ("learning_rate") and class names of
NamedTuples ("Moments"). Two things are special in states of gdjax, where every number is a leaf:

- A hyperparameter that is a schedule reads as its value in force, as in `gdjax.hyperparams`; and
  replacing it puts in strong arrays, as `gdjax.with_hyperparams` does.
- Every part of a chain counts its steps, also transforms that remember nothing else. `get` leaves
  the counts of those out if more than one "count" is found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.base import State, is_state
from gdjax.core.hyper import Masked, Placeholder, value_at
from gdjax.core.reading import replacement

Filter = Callable[[tuple, Any], bool]


@dataclasses.dataclass(frozen=True)
class NamedTupleKey:
    """A step of a path, into a field of a NamedTuple.

    Attributes:
      tuple_name: name of the class.
      name: name of the field.
    """

    tuple_name: str
    name: str

    def __str__(self) -> str:
        """Show the step as in an expression."""
        return f"{self.tuple_name}.{self.name}"


def _is_named_tuple(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _children(node: Any) -> list[tuple[Any, Any]]:
    """Return (step, child) one level below a node; none below a leaf."""
    if _is_named_tuple(node):
        name = type(node).__name__
        return [(NamedTupleKey(name, field), getattr(node, field)) for field in node._fields]
    if isinstance(node, dict):
        return [(jax.tree_util.DictKey(key), child) for key, child in node.items()]
    if node is None or jax.tree_util.all_leaves([node]):
        return []
    below = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    return [(path[0], child) for path, child in below]


def _name(step: Any) -> Any:
    """Return what a step is called, for those that can be searched for."""
    if isinstance(step, NamedTupleKey):
        return step.name
    return step.key if isinstance(step, jax.tree_util.DictKey) else None


def _walk(node: Any, path: tuple = (), owner: Any = None) -> Iterator[tuple[tuple, Any, Any]]:
    """Yield (path, node, the nearest state that holds it), outermost first."""
    yield path, node, owner
    for step, child in _children(node):
        yield from _walk(child, (*path, step), node if is_state(node) else owner)


def _matches(path: tuple, node: Any, key: Any) -> bool:
    if _is_named_tuple(node) and type(node).__name__ == key:
        return True
    return bool(path) and type(_name(path[-1])) is type(key) and _name(path[-1]) == key


def _is_hyperparameter(path: tuple) -> bool:
    return len(path) > 1 and path[-2] == NamedTupleKey(State.__name__, "hyperparams")


def _read(path: tuple, node: Any, owner: Any) -> Any:
    if not (_is_hyperparameter(path) and is_state(owner)):
        return node
    value = value_at(node, owner.count)
    return value.value if isinstance(value, Masked) else value


def _find(tree: Any, key: Any, filtering: Filter | None) -> list[tuple[tuple, Any, Any]]:
    found = [
        (path, _read(path, node, owner), owner)
        for path, node, owner in _walk(tree)
        if _matches(path, node, key)
    ]
    return [f for f in found if filtering is None or filtering(f[0], f[1])]


def get_all_with_path(
    tree: Any, key: Any, filtering: Filter | None = None
) -> list[tuple[tuple, Any]]:
    """Return everything of that name in a tree, with the paths to it.

    Args:
      tree: any tree, usually a state.
      key: a field or class name of a NamedTuple, or a key of a dict.
      filtering: `filtering(path, value) -> bool` says what to keep. A path is a tuple of keys of
        `jax.tree_util` and of `NamedTupleKey`s, which tell the class too.

    Returns:
      A list of `(path, value)`; `jax.tree_util.keystr(path)` reads well.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> state = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1)).init(jnp.ones(2))
      >>> for path, value in gdjax.tree.get_all_with_path(state, "count"):
      ...     print(jax.tree_util.keystr(path), value)
      [0]State.count 0
      [1]State.count 0
    """
    return [(path, value) for path, value, _ in _find(tree, key, filtering)]


def get(tree: Any, key: Any, default: Any = None, filtering: Filter | None = None) -> Any:
    """Return the one thing of that name in a tree.

    Args:
      tree: any tree, usually a state.
      key: see `get_all_with_path`.
      default: what to return if there is nothing of that name.
      filtering: see `get_all_with_path`.

    Returns:
      The value. Of several counts, that of the one part which remembers more than its count.

    Raises:
      KeyError: if there are several, with the paths to them.

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
    if key == "count" and len(found) > 1:
        found = [f for f in found if not (is_state(f[2]) and f[2].slots == ())] or found
    if len(found) > 1:
        paths = ", ".join(jax.tree_util.keystr(path) for path, _, _ in found)
        raise KeyError(
            f"tree.get: {key!r} is there {len(found)} times: {paths}. Choose with "
            "filtering=lambda path, value: ..., or take all with get_all_with_path."
        )
    return found[0][1] if found else default


def set(tree: Any, filtering: Filter | None = None, /, **kwargs: Any) -> Any:
    """Return a copy of a tree in which everything of the given names has a new value.

    It is everything that `get_all_with_path` finds, however deep. (optax misses what is nested in
    lists or tuples below another match.)

    Args:
      tree: any tree, usually a state.
      filtering: see `get_all_with_path`.
      **kwargs: name -> new value. In place of an array, a number or array of the same shape takes
        its dtype (optax: goes in as it is), so that the next step compiles nothing anew.

    Raises:
      KeyError: if there is nothing of that name.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> state = gdjax.tree.set(gdjax.adam(0.1).init(jnp.ones(2)), learning_rate=0.5, count=7)
      >>> print(gdjax.tree.get(state, "learning_rate"), repr(gdjax.tree.get(state, "count")))
      0.5 Array(7, dtype=int32)
    """
    for key in kwargs:
        if not _find(tree, key, filtering):
            more = " that the filter keeps" if filtering else ""
            raise KeyError(f"tree.set: there is nothing of the name {key!r}{more}.")

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
        new = [replace(child, (*path, step), owner) for step, child in below]
        if _is_named_tuple(node):
            return type(node)(*new)
        if isinstance(node, dict):
            return type(node)(zip(node, new, strict=True))
        return jax.tree.structure(node, is_leaf=lambda x: x is not node).unflatten(new)

    return replace(tree, (), None)


def _fitting(new: Any, old: Any) -> Any:
    if not (isinstance(old, jax.Array) and jax.tree_util.all_leaves([new])):
        return new
    if callable(new) or isinstance(new, str) or jnp.shape(new) != old.shape:
        return new
    return new if jnp.issubdtype(old.dtype, jax.dtypes.extended) else jnp.asarray(new, old.dtype)


def map_params(
    initable: Any,
    f: Callable[..., Any],
    state: Any,
    /,
    *rest: Any,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Map over the trees shaped like the parameters in a state, for example to give shardings.

    Args:
      initable: the optimizer that made the state, or its `init`.
      f: `f(leaf, *rest_leaves)`, for each leaf of each such tree.
      state: the state.
      *rest: trees with the structure of the parameters.
      transform_non_params: applied to every other leaf: counts, numbers; None leaves them.
      is_leaf: as in `jax.tree.map`, for the trees shaped like the parameters.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt, params = gdjax.adam(0.1), {"w": jnp.ones(2)}
      >>> specs = gdjax.tree.map_params(
      ...     opt, lambda _, spec: spec, opt.init(params), {"w": "rows"},
      ...     transform_non_params=lambda _: "all")
      >>> print(specs.count, specs.slots.mu, specs.hyperparams["b1"])
      all {'w': 'rows'} all
    """
    init = initable.init if hasattr(initable, "init") else initable
    places = init(Placeholder())

    def mapped(leaf, *others):  # None: no such part of the state for that parameter
        return None if leaf is None else f(leaf, *others)

    def stops(node):
        return node is None or (is_leaf is not None and is_leaf(node))

    def visit(place, node):
        if isinstance(place, Placeholder):
            return jax.tree.map(mapped, node, *rest, is_leaf=stops)
        if not any(isinstance(x, Placeholder) for x in jax.tree.leaves(place, is_leaf=_is_place)):
            return (
                node if transform_non_params is None else jax.tree.map(transform_non_params, node)
            )
        return jax.tree.map(visit, place, node, is_leaf=lambda x: x is not place)

    return visit(places, state)


def _is_place(node: Any) -> bool:
    return isinstance(node, Placeholder)
