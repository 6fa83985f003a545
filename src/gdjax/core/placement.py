"""Where state lies: slots like their parameter, numbers on all devices of its mesh.

A concrete array says by its sharding where it lies. In a trace only the axes of an explicit mesh
are known, from the type of the array; on an automatic mesh the compiler decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from gdjax.core.types import DType, PyTree, T


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


def sharding_along(
    param: Any, shape: Sequence[int], axes: Sequence[int | None]
) -> NamedSharding | None:
    """Return the sharding of an array of `shape` whose axis i lies along `axes[i]` of `param`.

    Args:
      param: an array, a tracer or a `jax.ShapeDtypeStruct`.
      shape: of the new array.
      axes: for each of its axes that of `param`, or None for an axis that is not split. An axis
        that the devices do not divide, or that is named a second time, is not split either.

    Returns:
      None if `param` does not lie on a mesh.
    """
    sharding = sharding_of(param)
    if not isinstance(sharding, NamedSharding):
        return None
    split = (*sharding.spec, *[None] * (len(param.shape) - len(sharding.spec)))
    sizes, spec, used = sharding.mesh.shape, [], set()
    for size, axis in zip(shape, axes, strict=True):
        names = None if axis is None or axis in used else split[axis]
        names = names if isinstance(names, tuple) else (names,) if isinstance(names, str) else ()
        divides = size % int(np.prod([sizes[n] for n in names], dtype=int)) == 0
        used.add(axis)
        spec.append(names if names and divides else None)
    spec = [names[0] if names and len(names) == 1 else names for names in spec]
    kind = sharding.memory_kind
    return NamedSharding(sharding.mesh, PartitionSpec(*spec), memory_kind=kind)


def zeros_along(
    param: Any, shape: Sequence[int], axes: Sequence[int | None], dtype: DType
) -> Array:
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
    shape, axes = tuple(shape), tuple(axes)
    sharding = sharding_along(param, shape, axes)
    if sharding is None:
        sharding = sharding_of(param)  # of a single device
        alike = sharding is not None and (len(sharding.device_set) == 1 or shape == param.shape)
        return jnp.zeros(shape, dtype, device=sharding if alike else None)
    if isinstance(param, jax.core.Tracer):
        return _typed(param, jnp.zeros(shape, dtype), sharding)
    if isinstance(sharding.mesh, AbstractMesh):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # pyright: ignore
    return jnp.zeros(shape, dtype, device=sharding)


def zeros_like(param: Any, dtype: DType = None) -> Array:
    """Return zeros that lie where `param` lies; `jnp.zeros_like` drops the type in a trace."""
    return zeros_along(param, param.shape, range(len(param.shape)), dtype or param.dtype)


def replicated_like(tree: T, params: PyTree) -> T:
    """Return the tree with each leaf that lies on a single device on all those of the parameters.

    Args:
      tree: arrays that are equal in all processes, such as a fresh state.
      params: the parameters. If they do not lie on a mesh of several devices, nothing changes.

    Returns:
      The tree; in a trace on an explicit mesh, these leaves have the type of replicated arrays.
    """
    mesh = mesh_of(params)
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    anchor = next(x for x in jax.tree.leaves(params) if mesh_of(x) is not None)

    def put(x: Any) -> Any:
        if not hasattr(x, "dtype") or mesh_of(x) is not None:
            return x
        if isinstance(anchor, jax.core.Tracer):
            return _typed(anchor, x, sharding)
        if isinstance(mesh, AbstractMesh):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        return _put(x, sharding)

    return jax.tree.map(put, tree)


def _put(x: Any, sharding: NamedSharding) -> Any:
    if isinstance(x, jax.core.Tracer) or len(getattr(sharding_of(x), "device_set", ())) > 1:
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    host = np.asarray(x)  # equal in all processes, which `device_put` would verify
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _typed(anchor: Array, x: Array, sharding: NamedSharding) -> Any:
    """Return `x` on the mesh of `anchor`, from which 0 is taken to add it.

    Without an argument in it the program `jit(init)(params)` would have no devices.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _typed(anchor, jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    nothing = jax.lax.slice(anchor, (0,) * anchor.ndim, (0,) * anchor.ndim)
    nothing = jnp.any((nothing != nothing) & False)
    return _reshard(x | nothing if x.dtype == bool else x + nothing.astype(x.dtype), sharding)


def _reshard(x: Any, sharding: NamedSharding) -> Any:
    if hasattr(jax.sharding, "reshard"):
        return jax.sharding.reshard(x, sharding)
    from jax.experimental.shard import reshard  # before JAX 0.7

    return reshard(x, sharding)
