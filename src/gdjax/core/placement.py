"""Where state lies: slots like their parameter, numbers on all devices of its mesh.

A concrete array says by its sharding where it lies. In a trace only the axes of an explicit mesh
are known, from the type of the array; on an automatic mesh the compiler decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from gdjax.core.types import DType, PyTree, T

AxisOf: TypeAlias = int | tuple[int | None, ...] | None  # an axis of an array, as that of another


def sharding_of(x: Any) -> Sharding | None:
    """Return how an array, tracer or `jax.ShapeDtypeStruct` is placed; None if nobody chose it.

    A tracer has a sharding only on a mesh with explicit axes.
    """
    if isinstance(x, jax.core.Tracer):
        sharding = jax.typeof(x).sharding
        return sharding if AxisType.Explicit in sharding.mesh.axis_types else None
    return None if getattr(x, "committed", True) is False else getattr(x, "sharding", None)


def mesh_of(tree: PyTree) -> Mesh | AbstractMesh | None:
    """Return the mesh of the first leaf that lies on one of more than one device, or None."""
    for x in jax.tree.leaves(tree):
        sharding = sharding_of(x)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return sharding.mesh
    return None


def sharding_along(param: Any, shape: Sequence[int], axes: Sequence[AxisOf]) -> Sharding | None:
    """Return the sharding of an array of `shape` whose axis i lies along `axes[i]` of `param`.

    Args:
      param: an array, a tracer or a `jax.ShapeDtypeStruct`.
      shape: of the new array.
      axes: for each of its axes that of `param`, several if it was made of them, or None if it is
        not split; the last ones may be left out. An axis is split over as many of the first axes
        of the mesh as divide it; an axis of `param` that is named a second time splits nothing.

    Returns:
      None if nobody chose where `param` lies.
    """
    sharding = sharding_of(param)
    if not isinstance(sharding, NamedSharding):
        alike = sharding is not None and sharding.num_devices == 1
        return sharding if alike or tuple(shape) == param.shape else None
    split = (*sharding.spec, *[None] * (len(param.shape) - len(sharding.spec)))
    spec, used = [], set()
    for size, axis in zip(shape, axes, strict=False):
        several = axis if isinstance(axis, tuple) else (axis,)
        new = [i for i in several if i is not None and i not in used]
        names = tuple(name for i in new for name in names_of(split[i]))
        while size % math.prod(sharding.mesh.shape[name] for name in names):
            names = names[:-1]
        spec.append(names[0] if len(names) == 1 else names or None)
        used.update(new if names else ())
    kind = sharding.memory_kind
    return NamedSharding(sharding.mesh, PartitionSpec(*spec), memory_kind=kind)


def names_of(entry: Any) -> tuple[str, ...]:
    """Return the names of the mesh axes in an entry of a `PartitionSpec`.

    Example:
      >>> names_of(None), names_of("data"), names_of(("data", "model"))
      ((), ('data',), ('data', 'model'))
    """
    return (entry,) if isinstance(entry, str) else entry if isinstance(entry, tuple) else ()


def zeros_along(param: Any, shape: Sequence[int], axes: Sequence[AxisOf], dtype: DType) -> Array:
    """Return zeros of `shape` whose axis i lies along axis `axes[i]` of `param`.

    Args:
      param: a parameter. A concrete array or a `jax.ShapeDtypeStruct` gives a concrete array with
        its mesh; a tracer on an explicit mesh one with this type; otherwise these are plain zeros.
      shape: that of the zeros.
      axes: for each axis that of `param`, or None for one that is not split; see `sharding_along`.
      dtype: that of the zeros.

    Returns:
      An array; for a `jax.ShapeDtypeStruct` on an abstract mesh another `jax.ShapeDtypeStruct`.

    Example:
      >>> zeros_along(jnp.ones((2, 3)), (2, 1), (0, None), jnp.float32).shape
      (2, 1)
    """
    shape = tuple(shape)
    sharding = sharding_along(param, shape, axes)
    concrete = not isinstance(getattr(sharding, "mesh", None), AbstractMesh)
    if concrete and not isinstance(param, jax.core.Tracer):
        return jnp.zeros(shape, dtype, device=sharding)  # no device holds all of it
    return placed_along(jnp.zeros(shape, dtype), param, axes)


def placed_along(x: Array, param: Any, axes: Sequence[AxisOf]) -> Array:
    """Return an array, equal in all processes, whose axis i lies along axis `axes[i]` of `param`.

    The arguments are those of `zeros_along`.
    """
    sharding = sharding_along(param, x.shape, axes)
    return x if sharding is None else _placed(x, sharding, param)


def zeros_like(x: Array, dtype: DType = None) -> Array:
    """Return zeros of the type of `x`, which lie where it lies.

    In a trace `jnp.zeros_like` may drop how `x` is sharded, or varies over a manual axis.
    """
    dtype = x.dtype if dtype is None else dtype
    if isinstance(x, jax.core.Tracer) and sharding_of(x) is None:
        nothing = jnp.zeros((), dtype)
        return jnp.where(x == x, nothing, nothing)
    return zeros_along(x, x.shape, range(len(x.shape)), dtype)


def replicated_like(tree: T, params: PyTree) -> T:
    """Return the tree with each leaf that lies on a single device on all those of the parameters.

    Args:
      tree: arrays that are equal in all processes, such as a fresh state.
      params: the parameters. If they do not lie on a mesh of several devices, nothing changes.

    Returns:
      The tree; in a trace on an explicit mesh, these leaves have the type of replicated arrays.
    """
    param = next((x for x in jax.tree.leaves(params) if mesh_of(x) is not None), None)
    if param is None:
        return tree

    def replicated(x: Any) -> Any:
        sharding = sharding_of(x) if hasattr(x, "dtype") else None
        several = sharding is not None and sharding.num_devices > 1
        return x if several or not hasattr(x, "dtype") else placed_along(x, param, ())

    return jax.tree.map(replicated, tree)


def _placed(x: Any, sharding: Sharding, param: Any) -> Any:
    """Return `x` placed; in a trace it then depends on `param`.

    Without an argument in it the program `jit(init)(params)` would have no devices.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _placed(jax.random.key_data(x), sharding, param)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if isinstance(param, jax.core.Tracer):
        nothing = jax.lax.slice(param, (0,) * param.ndim, (0,) * param.ndim)
        nothing = jnp.any((nothing != nothing) & False)
        return _reshard(x | nothing if x.dtype == bool else x + nothing.astype(x.dtype), sharding)
    if isinstance(getattr(sharding, "mesh", None), AbstractMesh):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    if isinstance(x, jax.core.Tracer):
        return x
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    host = np.asarray(x)  # equal in all processes, which `device_put` would verify
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _reshard(x: Any, sharding: Sharding) -> Any:
    if hasattr(jax.sharding, "reshard"):
        return jax.sharding.reshard(x, sharding)  # pyright: ignore[reportArgumentType]
    from jax.experimental import shard  # before JAX 0.7  # pyright: ignore

    return shard.reshard(x, sharding)
