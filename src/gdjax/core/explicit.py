"""Meshes with explicit axes (`jax.make_mesh`): there the sharding of an array is part of its type.

JAX then refuses what it could shard in several ways, such as a product of two sharded matrices, and
a loop whose carry changes its sharding. So the arithmetic of an optimizer runs in a region where
these axes are automatic: XLA chooses the shardings inside, as on a mesh with automatic axes, and
all that leaves the region has the type that it came with. Elementwise arithmetic needs no
communication for this. Manual axes (`shard_map`) stay manual. On versions of JAX without explicit
axes nothing is done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.placement import names_of
from gdjax.core.types import OptState, Params, PyTree, Updates

SUPPORTED = hasattr(jax, "typeof") and hasattr(jax.sharding, "use_abstract_mesh")


def explicit_mesh(leaves: Iterable[Any]) -> Any:
    """Return the abstract mesh of the first array that has explicit axes; None if there is none."""
    explicit = filter(is_explicit, leaves if SUPPORTED else ())
    return next((jax.typeof(x).sharding.mesh for x in explicit), None)


_region: ContextVar[Region | None] = ContextVar("_region", default=None)


def is_explicit(x: Any) -> TypeGuard[Array]:
    """Return whether `x` is an array on a mesh with explicit axes, for which JAX has these."""
    if not isinstance(x, Array):
        return False
    return jax.sharding.AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def automatic(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return an update that runs with automatic axes if it is called with arrays on explicit ones.

    Updates return with the shardings of the gradients, and the state with those that it had.
    Functions among the extras are called outside of the region, with trees like the parameters
    sharded as the parameters are.
    """
    if not SUPPORTED:
        return update

    @functools.wraps(update)
    def run(
        updates: Updates, state: OptState, params: Params = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        mesh = explicit_mesh(jax.tree.leaves((updates, params)))
        if mesh is None:
            return update(updates, state, params, **extra)
        region = Region(mesh, updates if params is None else params)
        inside = [region.enter(tree) for tree in (updates, state, params)]
        extra = {name: region.enter_extra(x) for name, x in extra.items()}
        token = _region.set(region)
        try:
            with jax.sharding.use_abstract_mesh(region.mesh):
                new, after = update(*inside, **extra)
        finally:
            _region.reset(token)
        return region.leave(new, updates, params), region.leave(after, state)

    return run


def axes_here() -> tuple[Any, tuple[str, ...]]:
    """Return the mesh of the update that runs here, and the axes that shard its arrays.

    None and no axes, if these are not on a mesh with explicit axes.
    """
    region = _region.get()
    if region is None:
        return None, ()
    return region.mesh, tuple(name for name in region.mesh.axis_names if name in region.used)


def automatically(function: Callable[..., Any], *trees: PyTree) -> Any:
    """Return `function(*trees)`, computed with automatic axes if arrays are on explicit ones.

    Functions among `trees` are called outside. In the result, trees of the structure and shapes of
    the first argument are sharded as it is, other arrays as an argument of their shape, and if
    there is none, they are replicated.

    Example:
      >>> import jax.numpy as jnp
      >>> print(automatically(lambda tree: jnp.concatenate(tree), [jnp.ones(2), jnp.zeros(1)]))
      [1. 1. 0.]
    """
    mesh = explicit_mesh(jax.tree.leaves(trees))
    if mesh is None:
        return function(*trees)
    region = Region(mesh, trees[0])
    inside = [region.enter_extra(x) for x in trees]
    with jax.sharding.use_abstract_mesh(region.mesh):
        out = function(*inside)
    return region.leave_like_params(out)


class Region:
    """A part of a program in which the explicit axes of a mesh are automatic.

    Args:
      mesh: the abstract mesh outside.
      params: a tree; functions that are called from inside get trees of its structure and shapes
        sharded as it is.

    Attributes:
      mesh: the abstract mesh inside, the context to trace in.
      used: the axes that shard what has entered.
    """

    def __init__(self, mesh: Any, params: PyTree):
        """Prepare the mesh; nothing enters yet."""
        kinds = jax.sharding.AxisType
        names = zip(mesh.axis_names, mesh.axis_types, strict=True)
        changed = {name: kinds.Auto for name, kind in names if kind == kinds.Explicit}
        self.mesh, self._outside = mesh.update_axis_types(changed), mesh
        self._context = jax.sharding.get_abstract_mesh()
        self._params = params
        self.used: set[str] = set()
        self._origins: dict[int, tuple[Array, Array]] = {}  # id -> an array inside, that outside

    def enter(self, tree: PyTree) -> PyTree:
        """Return a tree as it is inside."""
        return jax.tree.map(self._enter, tree)

    def enter_extra(self, x: Any) -> Any:
        """Return an extra as it is inside: a tree, or a function that is called outside.

        A callable of the parameters' class is a tree.
        """
        is_function = callable(x) and type(x) is not type(self._params)
        return self._from_inside(x) if is_function else self.enter(x)

    def leave(self, tree: PyTree, *like: PyTree) -> PyTree:
        """Return a tree from inside, each array sharded as that of its shape in a `like` tree."""
        leaves, treedef = jax.tree.flatten(tree)
        columns = [jax.tree.leaves(x) for x in like]
        rows = zip(*(c for c in columns if len(c) == len(leaves)), strict=True)
        rows = list(rows) or [()] * len(leaves)
        return treedef.unflatten(map(self._leave, leaves, rows))

    def leave_like_params(self, tree: PyTree) -> PyTree:
        """Return a tree from inside; parts of the structure of `params` are sharded as these.

        Other arrays are sharded as one that entered and has their shape.
        """
        shapes, structure = self._shapes(self._params), jax.tree.structure(self._params)
        entered = {x.shape: x for _, x in reversed(self._origins.values())}

        def like_params(x: PyTree) -> bool:
            return jax.tree.structure(x) == structure and self._shapes(x) == shapes

        def outside(x: PyTree) -> PyTree:
            return self.leave(x, self._params if like_params(x) else entered.get(jnp.shape(x)))

        return jax.tree.map(outside, tree, is_leaf=like_params)

    @staticmethod
    def _shapes(tree: PyTree) -> list[tuple[int, ...]]:
        return [jnp.shape(x) for x in jax.tree.leaves(tree)]

    def _enter(self, x: Any) -> Any:
        if not is_explicit(x):
            return x
        inside = _resharded(x, self.mesh)
        self.used.update(name for part in jax.typeof(x).sharding.spec for name in names_of(part))
        self._origins[id(inside)] = inside, x
        return inside

    def _leave(self, x: Any, like: tuple[Any, ...]) -> Any:
        x = self._origins.get(id(x), (x, x))[1]
        if not isinstance(x, Array) or any(x is y for y in like):
            return x
        for y in like:
            if is_explicit(y) and y.shape == x.shape:
                return _resharded(x, self._outside, *jax.typeof(y).sharding.spec)
        return x if is_explicit(x) else _resharded(x, self._outside)

    def _from_inside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self.leave_like_params((args, kwargs))
            with jax.sharding.use_abstract_mesh(self._context):
                out = function(*args, **kwargs)
            return self.enter(out)

        return call


def _resharded(x: Array, mesh: Any, *spec: Any) -> Array:
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    return jax.sharding.reshard(x, sharding)
