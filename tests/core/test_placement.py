"""Arrays that lie where a parameter lies, in and out of traces, without communication."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gdjax.core.placement import placed_along, replicated_like, zeros_along, zeros_like

P = PartitionSpec


def param_on(kind, *spec, shape=(8, 4)):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(kind,) * 2)
    return jax.device_put(np.ones(shape, np.float32), NamedSharding(mesh, P(*spec)))


def spec(x):
    entries = list(x.sharding.spec)
    while entries and entries[-1] is None:
        entries.pop()
    return tuple(entries)


def made(param):
    """Return arrays along the last axes of a parameter, which may have lost its first to vmap."""
    row, column = range(param.ndim)[:-1], param.ndim - 1
    n = param.shape[-1]
    return {
        "like": zeros_like(param, jnp.bfloat16),
        "row": zeros_along(param, (*param.shape[:-1], 1), row, jnp.float32),
        "square": placed_along(jnp.eye(n), param, (column,)),
        "twice": zeros_along(param, (n, n), (column, column), jnp.float32),
        "uneven": zeros_along(param, (3,), (column,), jnp.float32),
        "numbers": replicated_like((jnp.int32(1), jnp.array(True), jax.random.key(0)), param),
    }


WANT = {
    "like": ("a", "b"), "row": ("a",), "square": ("b",), "twice": ("b",), "uneven": (),
    "numbers": ((), (), ()),
}  # fmt: skip


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_concrete_parameters(kind):
    param = param_on(kind, "a", "b")
    found = made(param)
    assert jax.tree.map(spec, found) == WANT
    assert (found["square"] == np.eye(4)).all() and found["numbers"][0] == 1
    abstract = jax.ShapeDtypeStruct(param.shape, param.dtype, sharding=param.sharding)
    assert jax.tree.map(spec, made(abstract) if kind == AxisType.Auto else found) == WANT
    alone = made(jnp.ones((8, 4)))
    assert all(not x.committed for x in jax.tree.leaves(alone))


def test_traces_on_an_explicit_mesh():
    param = param_on(AxisType.Explicit, "a", "b")
    program = jax.jit(made)
    assert jax.tree.map(spec, program(param)) == WANT  # also outside of `jax.set_mesh`
    text = program.lower(param).compile().as_text()
    assert not any(name in text for name in ("all-reduce", "all-gather", "all-to-all"))
    lanes = jax.vmap(made)(param)  # over the axis that is split along "a"
    assert spec(lanes["like"]) == ("a", "b") and spec(lanes["square"]) == ("a", "b")
    assert spec(lanes["numbers"][0]) == ("a",)


def test_traces_on_an_automatic_mesh_are_left_to_the_compiler():
    program = jax.make_jaxpr(made)(param_on(AxisType.Auto, "a", "b"))
    assert "reshard" not in str(program) and "sharding_constraint" not in str(program)


def test_axes_that_several_mesh_axes_split():
    param = param_on(AxisType.Auto, ("a", "b"), shape=(16, 4))
    assert spec(zeros_along(param, (8,), (0,), jnp.float32)) == (("a", "b"),)
    assert spec(zeros_along(param, (2,), (0,), jnp.float32)) == ("a",)  # as many as divide it
    both = param_on(AxisType.Auto, "a", "b")
    assert spec(zeros_along(both, (8, 3), ((0, 1),), jnp.float32)) == (("a", "b"),)
    assert spec(zeros_along(both, (3, 4), (1, 1), jnp.float32)) == (None, "b")
