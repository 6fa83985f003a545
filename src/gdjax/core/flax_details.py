"""What `flax.serialization` needs to know of the nodes of states: how a node becomes a dict.

It knows NamedTuples, dicts, lists and tuples by itself. gdjax does not import flax: the nodes are
made known to it at `init` and `update` if the program has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import jax
import jax.core

from gdjax.core.types import PyTree

C = TypeVar("C", bound=type)
_nodes: list[type] = []  # all classes that may be nodes in a state
_known_to_flax: set[type] = set()


def serialized(cls: C) -> C:
    """Let `flax.serialization` know a class of nodes, which JAX knows already, once it is imported.

    The children of a node are saved under the names of their keys; what is static is that of the
    state into which the saved one is restored, as in `flax.struct.dataclass`.
    """
    _nodes.append(cls)
    return cls


def tell_flax() -> None:
    """Let `flax.serialization` know all classes of nodes, if the program has imported it."""
    flax = sys.modules.get("flax.serialization")
    register = getattr(flax, "register_serialization_state", None)
    if register is None or len(_known_to_flax) > len(_nodes):
        return
    with jax.ensure_compile_time_eval():
        key = type(jax.random.key(0))  # arrays of keys are of a class of their own
    for cls in (*_nodes, key):
        if cls not in _known_to_flax:
            _known_to_flax.add(cls)
            ways = (_key_to_dict, _key_from_dict) if cls is key else (_to_dict, _from_dict)
            if not flax.is_serializable(cls):  # pyright: ignore[reportOptionalMemberAccess]
                register(cls, *ways)


def _children(node: PyTree) -> dict[str, PyTree]:
    found = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    return {jax.tree_util.keystr(path[:1], simple=True): child for path, child in found}


def _to_dict(node: PyTree) -> dict[str, Any]:
    flax: Any = sys.modules["flax.serialization"]
    return {name: flax.to_state_dict(child) for name, child in _children(node).items()}


def _from_dict(node: PyTree, saved: dict[str, Any]) -> PyTree:
    flax: Any = sys.modules["flax.serialization"]
    children = _children(node)
    if not isinstance(saved, dict) or saved.keys() != children.keys():
        names = ", ".join(saved) if isinstance(saved, dict) else type(saved).__name__
        raise ValueError(
            f"the saved {type(node).__name__} at {flax.current_path()} has {names or 'nothing'}, "
            f"this state has {', '.join(children) or 'nothing'} there: it is of another optimizer."
        )
    structure = jax.tree.structure(node, is_leaf=lambda x: x is not node)
    new = [flax.from_state_dict(x, saved[name], name=name) for name, x in children.items()]
    return jax.tree.unflatten(structure, new)


def _key_to_dict(key: jax.Array) -> dict[str, Any]:
    if isinstance(key, jax.core.Tracer):
        raise TypeError("a key that is traced cannot be saved.")
    return {"impl": str(jax.random.key_impl(key)), "data": jax.random.key_data(key)}


def _key_from_dict(key: jax.Array, saved: dict[str, Any]) -> jax.Array:
    return jax.random.wrap_key_data(saved["data"], impl=saved["impl"])
