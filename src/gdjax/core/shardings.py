"""The shardings of a state, before there is one: for `out_shardings`, checkpoints and ZeRO-1."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.host import memory_kind
from gdjax.core.hyper import path_name
from gdjax.core.placement import names_of, sharding_of
from gdjax.core.types import ArrayTree, Pair, PyTree


@strict()
def state_shardings(
    optimizer: Pair,
    params: ArrayTree,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    zero1: str | None = None,
) -> PyTree:
    """Return the shardings of an optimizer's state, a tree of `NamedSharding` like the state.

    Slots lie where their parameter does, factored ones along the axes that they keep, and numbers
    on all devices: as `optimizer.init(params)` places them. Nothing is allocated.

    With `zero1` the slots are also split along an axis of the mesh over which the parameters are
    replicated, each on its largest dimension that can be split evenly (ZeRO, stage 1). Each device
    then holds 1/n of their bytes and computes 1/n of an elementwise step; it costs one all-gather
    of each parameter in a step, in addition to the sum of the gradients. The results are the same.
    Give the shardings to the step too, as `out_shardings`, so that the state stays split.

    Args:
      optimizer: an `(init, update)` pair.
      params: arrays or `jax.ShapeDtypeStruct` objects, with shardings of one mesh. Those without
        one are taken as replicated.
      mesh: the mesh of the result. None is that of the parameters; another one must have all the
        axes that their shardings name, as in restoring on other devices.
      zero1: the name of the axis of the mesh along which slots are split, or None.

    Returns:
      The tree, for `jax.jit(optimizer.init, out_shardings=...)`, `jax.device_put` and
      `jax.ShapeDtypeStruct(..., sharding=...)`. All are in the default memory of the devices, save
      those of `offload_to_host`; see `NamedSharding.with_memory_kind` for others.

    Raises:
      ValueError: if there is no mesh, if it lacks an axis, or if it does not divide a parameter.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
      >>> split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "model"))
      >>> params = {"w": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=split)}
      >>> shardings = gdjax.state_shardings(gdjax.adam(1e-3), params)
      >>> tuple(shardings.mu["w"].spec), tuple(shardings.count.spec)
      ((None, 'model'), ())
      >>> tuple(gdjax.state_shardings(gdjax.adam(1e-3), params, zero1="data").mu["w"].spec)
      ('data', 'model')

    References:
      Rajbhandari et al. (2020), "ZeRO: memory optimizations toward training trillion parameter
      models", Section 5.1.
    """
    init = with_extra_args_support(optimizer).init
    named, treedef = jax.tree_util.tree_flatten_with_path(params)
    found = mesh or next((m for _, x in named if (m := _mesh_of(x)) is not None), None)
    if found is None:
        raise ValueError(
            "state_shardings(mesh=...) must be given if no parameter has a NamedSharding. The mesh "
            "is what the arrays are spread over, e.g. jax.make_mesh((8,), ('data',))."
        )
    if zero1 is not None and zero1 not in found.shape:
        raise ValueError(
            f"state_shardings(zero1=...) must be an axis of the mesh, which are "
            f"{tuple(found.axis_names)}, got {zero1!r}."
        )
    sizes, names = tuple(found.shape.values()), tuple(found.axis_names)
    typed = AbstractMesh(sizes, names, axis_types=(AxisType.Explicit,) * len(names))
    leaves = [_abstract(path_name(path), x, typed) for path, x in named]
    with _context(typed):
        program, shapes = jax.make_jaxpr(init, return_shape=True)(treedef.unflatten(leaves))
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    specs = [_full_spec(x) for x in program.out_avals]
    if zero1 is not None:
        specs = [
            spec if _is_number(path, x) else _with_axis(spec, x.shape, found, zero1)
            for spec, (path, x) in zip(specs, paths, strict=True)
        ]
    return structure.unflatten(
        [
            NamedSharding(found, PartitionSpec(*spec), memory_kind=memory_kind(x))
            for spec, x in zip(specs, program.out_avals, strict=True)
        ]
    )


def _mesh_of(x: Any) -> Mesh | AbstractMesh | None:
    sharding = sharding_of(x)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def _abstract(name: str, x: Any, mesh: AbstractMesh) -> jax.ShapeDtypeStruct:
    """Return a parameter as a type on a mesh with explicit axes."""
    sharding = sharding_of(x)
    spec = sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()
    shape = jnp.shape(x)
    for size, entry in zip(shape, spec, strict=False):
        lacking = [axis for axis in names_of(entry) if axis not in mesh.shape]
        parts = math.prod(mesh.shape.get(axis, 1) for axis in names_of(entry))
        if lacking or size % parts:
            what = f"lacks {lacking[0]!r}" if lacking else f"splits {size} into {parts} parts"
            raise ValueError(
                f"state_shardings: the parameter {name!r} of shape {shape} has the sharding "
                f"{spec}, but the mesh of {dict(mesh.shape)} {what}. Give it a sharding that fits."
            )
    return jax.ShapeDtypeStruct(
        shape, jnp.result_type(x), sharding=NamedSharding(mesh, PartitionSpec(*spec))
    )


def _context(mesh: AbstractMesh) -> contextlib.AbstractContextManager[Any]:
    if hasattr(jax.sharding, "use_abstract_mesh"):
        return jax.sharding.use_abstract_mesh(mesh)
    return contextlib.nullcontext()  # before JAX 0.7 types carry their mesh without it


def _full_spec(x: Any) -> list[Any]:
    spec = list(x.sharding.spec)
    return spec + [None] * (len(x.shape) - len(spec))


def _is_number(path: tuple[Any, ...], x: Any) -> bool:
    """Return whether a leaf of a state is a hyperparameter, or a key."""
    names = [getattr(key, "name", None) for key in path]
    return "hyperparams" in names or jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _with_axis(
    spec: list[Any], shape: tuple[int, ...], mesh: Mesh | AbstractMesh, axis: str
) -> list[Any]:
    """Return a spec that also splits the largest dimension that `axis` divides, unsplit if any."""
    if any(axis in names_of(entry) for entry in spec):
        return spec
    parts = [math.prod(mesh.shape[name] for name in names_of(entry)) for entry in spec]
    fits = [i for i, n in enumerate(shape) if n and n % (parts[i] * mesh.shape[axis]) == 0]
    if not fits:
        return spec
    best = max(fits, key=lambda i: (parts[i] == 1, shape[i]))
    names = (*names_of(spec[best]), axis)
    return [*spec[:best], names[0] if len(names) == 1 else names, *spec[best + 1 :]]
