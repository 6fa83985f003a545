"""Arrays of a run that lie on a mesh: all on one, and batches split as the data are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gdjax.core.checks import leaf_name
from gdjax.core.placement import replicated_like, sharding_of
from gdjax.core.types import PyTree
from gdjax.training.foreign import is_iterator

set_mesh: Any = getattr(jax, "set_mesh", None) or getattr(jax.sharding, "use_mesh", None)
NO_MESH = Mesh(np.empty((), object), ())  # as the context: as outside of `set_mesh`
Places = tuple[NamedSharding | None, ...]  # where the arrays of a tree lie; () is like all None


def placed(x: Any) -> NamedSharding | None:
    """Return the sharding of an array on a mesh of several devices, or with explicit axes."""
    sharding = None if isinstance(x, jax.core.Tracer) else sharding_of(x)
    if not isinstance(sharding, NamedSharding):
        return None
    return sharding if sharding.mesh.size > 1 or is_explicit(sharding.mesh) else None


def is_explicit(mesh: Any) -> bool:
    """Return whether shardings on this mesh are part of the types of arrays."""
    return AxisType.Explicit in mesh.axis_types


def on_the_mesh(caller: str, moved: Mapping[str, PyTree], others: Mapping[str, PyTree]) -> list:
    """Return trees with what lies on one device on all those of the mesh that other arrays lie on.

    A step that is compiled for a mesh gives arrays on it, so they must lie there before the first.

    Args:
      caller: the function that the user called.
      moved: its arguments by name, the trees that are returned.
      others: more arguments, which may lie on the mesh.

    Raises:
      ValueError: if there are several meshes.
    """
    check_one_mesh(caller, {**moved, **others})
    for x in jax.tree.leaves((dict(moved), dict(others)), is_leaf=is_iterator):
        if (sharding := placed(x)) is not None:
            like = jax.ShapeDtypeStruct((), np.float32, sharding=_whole(sharding.mesh))
            move = replicated_like if sharding.mesh.size > 1 else _to_the_device
            return [move(tree, like) for tree in moved.values()]
    return list(moved.values())


def _to_the_device(tree: PyTree, like: Any) -> PyTree:
    """Return a tree with the type of arrays on a mesh of one device."""
    return jax.tree.map(lambda x: x if placed(x) else jax.device_put(x, like.sharding), tree)


def _whole(mesh: Any) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_one_mesh(caller: str, trees: Mapping[str, PyTree]) -> None:
    """Raise unless all arrays that lie on a mesh lie on the same one.

    Args:
      caller: the function that the user called.
      trees: its arguments by name.
    """
    known = None
    for name, tree in trees.items():
        for i, x in enumerate(jax.tree.leaves(tree, is_leaf=is_iterator)):
            if (sharding := placed(x)) is None:
                continue
            here = f"{name}=..., at {leaf_name(tree, i)!r}", sharding.mesh
            known = known or here
            if not _go_together(known[1], here[1]):
                raise ValueError(
                    f"{caller}: {known[0]}, is on the mesh {described(known[1])}, and {here[0]}, "
                    f"on {described(here[1])}. One program needs one mesh: move one of them by "
                    "jax.device_put(tree, NamedSharding(mesh, spec))."
                )
    context = context_mesh()
    if known is None or context is None or not (is_explicit(context) or is_explicit(known[1])):
        return
    if not _go_together(known[1], context):
        raise ValueError(
            f"{caller}: {known[0]}, is on the mesh {described(known[1])}, and the call is inside "
            f"jax.set_mesh with {described(context)}. Use the same mesh for both."
        )


def _go_together(one: Any, other: Any) -> bool:
    if is_explicit(one) or is_explicit(other):
        return one == other
    return one.devices.flatten().tolist() == other.devices.flatten().tolist()


def context_mesh() -> Mesh | None:
    """Return the mesh of `jax.set_mesh`, or None: before JAX 0.7 and in a trace it is not known."""
    try:
        mesh = jax.sharding.get_mesh()
    except (AttributeError, ValueError):  # before JAX 0.7, and in a trace
        return None
    return None if mesh.empty else mesh


def contexts_of_programs(arrays: PyTree) -> list[Mesh]:
    """Return meshes, the contexts to try when a program is written only to see what it is.

    Without a mesh it is written in the same way wherever it runs. If it names axes, it needs a mesh
    with these, of one device. With explicit axes, which are part of types, it needs that mesh.

    Args:
      arrays: what the program is given, or shapes.
    """
    explicit = (p.mesh for p in map(placed, jax.tree.leaves(arrays)) if p and is_explicit(p.mesh))
    mesh = next(explicit, None) or jax.sharding.get_abstract_mesh()
    if not mesh.empty and is_explicit(mesh):
        return [mesh] if isinstance(mesh, Mesh) else []
    one = np.array(jax.devices()[:1]).reshape((1,) * len(mesh.axis_names))
    return [NO_MESH] if mesh.empty else [NO_MESH, Mesh(one, mesh.axis_names)]


def automatic(mesh: Any) -> Mesh:
    """Return the mesh with all axes automatic."""
    return Mesh(mesh.devices, mesh.axis_names)


def axes_of(entry: Any) -> tuple[str, ...]:
    """Return the names of the axes in an entry of a `PartitionSpec`."""
    return entry if isinstance(entry, tuple) else (entry,) if entry is not None else ()


def described(mesh: Any) -> str:
    """Return a mesh as a few words: its axes, their kinds and how many devices it has.

    Example:
      >>> described(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)))
      '(data: 1, auto)'
    """
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    axes = [f"{name}: {mesh.shape[name]}, {kind.name.lower()}" for name, kind in kinds]
    return f"({'; '.join(axes)})"


# --- batches --------------------------------------------------------------------------------------


def places_of(data: PyTree) -> Places:
    """Return how arrays lie on a mesh; empty if none does."""
    places = tuple(map(placed, jax.tree.leaves(data)))
    return places if any(places) else ()


def fitting(sharding: NamedSharding, shape: Sequence[int]) -> NamedSharding | None:
    """Return a sharding without the axes that the devices do not divide; None if none is left.

    An array on an explicit mesh keeps a sharding, which is part of its type.
    """
    sizes, spec = sharding.mesh.shape, []
    for size, names in zip(shape, sharding.spec, strict=False):
        parts = [sizes[name] for name in axes_of(names)]
        spec.append(names if parts and size % int(np.prod(parts)) == 0 else None)
    if not any(spec) and not is_explicit(sharding.mesh):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*spec), memory_kind=sharding.memory_kind)


def rows_of(data: PyTree, rows: Array, places: Places) -> PyTree:
    """Return some rows of each array, in a trace, which lie as the arrays do.

    Along axis 0 they are split only if the devices divide their number.

    Args:
      data: arrays with the examples along axis 0.
      rows: (batch,), their numbers.
      places: of the data, by `places_of`.
    """
    leaves, treedef = jax.tree.flatten(data)
    places = places or (None,) * len(leaves)
    return treedef.unflatten(
        _rows_of(x, rows, place) for x, place in zip(leaves, places, strict=True)
    )


def _rows_of(x: Array, rows: Array, place: NamedSharding | None) -> Array:
    place = place and fitting(place, (len(rows), *x.shape[1:]))
    if place is None:
        return jnp.take(x, rows, axis=0, mode="clip")
    if is_explicit(place.mesh):
        return x.at[rows].get(mode="clip", out_sharding=place)
    return jax.lax.with_sharding_constraint(jnp.take(x, rows, axis=0, mode="clip"), place)


def on_mesh(x: Any, sharding: NamedSharding, stacked: bool) -> Array:
    """Return an array on a mesh; of several processes, each gives its own part.

    Args:
      x: a batch; scalars are whole on each device.
      sharding: of its first axes; an axis that the devices do not divide is not split.
      stacked: whether there is a further axis before these, which is not split.
    """
    spec = (None, *sharding.spec) if stacked else sharding.spec
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec[: x.ndim]))
    if jax.process_count() > 1:
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))
    return jax.device_put(x, fitting(sharding, x.shape) or _whole(sharding.mesh))


def shape_of_rows(x: Array, rows: int | None = None) -> jax.ShapeDtypeStruct:
    """Return the type of some rows of an array, as `rows_of` gives them, or of all of it."""
    shape, place = x.shape if rows is None else (rows, *x.shape[1:]), placed(x)
    place = fitting(place, shape) if place is not None and is_explicit(place.mesh) else None
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=place)


def in_types(places: Places) -> Places:
    """Return the shardings if they are part of the types of arrays: these decide a program."""
    return places if any(p is not None and is_explicit(p.mesh) for p in places) else ()
