"""State lies where its parameters do: at `init`, as `state_shardings` says, and after a step."""

import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from registry import BY_NAME, CASES

import gdjax
from gdjax.core.keys import is_key

RULES = [
    case
    for case in CASES
    if case.name.removeprefix("scale_by_") not in BY_NAME.keys() - {case.name}
]
QUICK = {"xla_backend_optimization_level": 0}  # where state lies does not depend on it


def mesh_of(kind=AxisType.Auto, **sizes):
    sizes = sizes or {"a": 2, "b": 4}
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


def put(mesh, shape, *spec, seed=0):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def parameters(mesh):
    s, v, w = put(mesh, ()), put(mesh, 8, "b"), put(mesh, (4, 8), "a", "b")
    return {"n": None, "s": s, "v": v, "w": w}


def specs(tree):
    """Return path -> spec, without None at its end, of arrays or shardings on a mesh."""

    def spec(x):
        entries = list((x if isinstance(x, NamedSharding) else x.sharding).spec)
        while entries and entries[-1] is None:
            entries.pop()
        return tuple(entries)

    named = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): spec(x) for path, x in named}


def update_of(case, optimizer, params):
    flat = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(params))}
    more = case.extras(flat, flat, 1)
    return lambda grads, state, params: optimizer.update(grads, state, params, **more)


def abstract(state, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
    )


def check_maps(name, optimizer, params, state):
    """`tree.map_params` knows which parameter an array belongs to, also one of several."""
    letters = {key: None if x is None else key.upper() for key, x in params.items()}
    found = gdjax.tree.map_params(
        optimizer, lambda _, letter: letter, state, letters, transform_non_params=lambda _: "-"
    )
    assert jax.tree.structure(found) == jax.tree.structure(state), name
    for path, letter in jax.tree_util.tree_flatten_with_path(found)[0]:
        assert letter == "-" or f"['{letter.lower()}']" in jax.tree_util.keystr(path), name


def check_follows(name, params, state):
    """Numbers are on all devices, slots split as their parameter, or along axes that they keep."""
    like = {f"['{key}']": x for key, x in params.items() if x is not None}
    for path, x in jax.tree_util.tree_flatten_with_path(state)[0]:
        text = jax.tree_util.keystr(path)
        param = next((p for key, p in like.items() if key in text and ".slots" in text), None)
        assert len(x.sharding.device_set) == 8, (name, text)
        if x.ndim == 0 or is_key(x):
            assert x.sharding.is_fully_replicated, (name, text)
        elif param is not None and x.shape == param.shape:
            where = param.sharding
            if name == "offload_to_host":
                where = where.with_memory_kind(x.sharding.memory_kind)
            assert x.sharding.is_equivalent_to(where, x.ndim), (name, text, x.sharding)
        elif param is not None and param.ndim < 4 and x.size > 8:
            assert not x.sharding.is_fully_replicated, (name, text, x.shape)


@pytest.mark.parametrize("part", range(6))
def test_state_follows_parameters(part):
    mesh = mesh_of()
    for case in RULES[part::6]:
        params = parameters(mesh)
        if re.match("soap|kl_", case.name):
            params["k"] = put(mesh, (3, 4, 8, 5), None, "a", "b")
        optimizer = case.make(**case.numbers)
        shardings = gdjax.state_shardings(optimizer, params)
        state = optimizer.init(params)
        assert jax.tree.structure(shardings) == jax.tree.structure(state), case.name
        assert specs(shardings) == specs(state), case.name
        check_follows(case.name, params, state)
        check_maps(case.name, optimizer, params, state)
        like = [jnp.shape(x) for x in jax.tree.leaves(params)]
        factored = any(x.shape not in like for x in jax.tree.leaves(state))
        if not factored and zlib.crc32(case.name.encode()) % 4:
            continue  # of steps such as Adam's some will do
        step = update_of(case, optimizer, params)
        program = jax.jit(lambda g, s, p, step=step: step(g, s, p)[1])
        after = program.lower(params, abstract(state, shardings), params).compile(QUICK)
        named = jax.tree_util.tree_flatten_with_path(state)[0]
        found = jax.tree.leaves(after.output_shardings)
        for (path, x), new in zip(named, found, strict=True):
            where = case.name, jax.tree_util.keystr(path), x.sharding.spec, new
            assert new.is_equivalent_to(x.sharding, x.ndim), where


def nested():
    """Return wrappers around each other, over groups of which one has no array on its own."""
    moments = gdjax.accumulate(gdjax.lookahead(gdjax.adamw(gdjax.linear_schedule(0.1, 0.0, 9))), 2)
    return gdjax.chain(
        gdjax.clip_by_global_norm(1.0),
        gdjax.groups(
            {
                r"w": moments,
                r"v": gdjax.schedule_free_sgd(0.1),
                "x.*": gdjax.soap(0.1),
                r".*": None,
            },
            allow_unused=True,
        ),
        gdjax.masked(gdjax.noisy_sgd(0.1), {"n": None, "s": False, "v": False, "w": True}),
    )


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_fresh_state_of_nested_wrappers_goes_into_a_step(kind):
    params, optimizer = parameters(mesh_of(kind)), nested()
    shardings = gdjax.state_shardings(optimizer, params)
    state = optimizer.init(params)
    assert specs(shardings) == specs(state)
    check_follows("nested", params, state)
    where = jax.tree.map(lambda x: x.sharding, params), shardings
    step = jax.jit(lambda g, s, p: optimizer.update(g, s, p), out_shardings=where)
    _, after = step(params, state, params)
    assert specs(after) == specs(state)
    fresh = jax.jit(optimizer.init, out_shardings=shardings)(params)
    for x, y in zip(jax.tree.leaves(fresh), jax.tree.leaves(state), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
        assert is_key(x) or (x == y).all()


def test_a_state_on_one_device_is_left_alone():
    for params in (
        {"w": jnp.ones((4, 8))},
        jax.device_put({"w": jnp.ones((4, 8))}, jax.devices()[3]),
    ):
        device = params["w"].sharding
        for name in ("adamw", "soap", "shampoo", "dion"):
            case = BY_NAME[name]
            state = case.make(**case.numbers).init(params)
            slots = [x for x in jax.tree.leaves(state.slots) if x.ndim]
            assert all(x.sharding == device for x in slots), name
            assert not state.count.committed


# --- state_shardings ------------------------------------------------------------------------------


def test_shardings_of_abstract_parameters_on_another_mesh():
    there = AbstractMesh((8, 2), ("b", "more"))
    params, optimizer = parameters(mesh_of(a=1, b=8)), gdjax.soap(0.1)
    params["w"] = put(mesh_of(a=1, b=8), (4, 8), None, "b")
    types = abstract(params, jax.tree.map(lambda x: x.sharding, params))
    here = gdjax.state_shardings(optimizer, types)
    moved = gdjax.state_shardings(optimizer, types, mesh=there)
    assert specs(here) == specs(moved) == specs(optimizer.init(params))
    assert {x.mesh for x in jax.tree.leaves(moved)} == {there}
    bare = gdjax.state_shardings(optimizer, {"w": np.ones((4, 8))}, mesh=there)
    assert set(specs(bare).values()) == {()}


def test_unusable_meshes_are_named():
    params, adam = parameters(mesh_of()), gdjax.adam(0.1)
    with pytest.raises(ValueError, match=r"state_shardings\(mesh=...\) must be given"):
        gdjax.state_shardings(adam, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"zero1=...\) must be an axis of the mesh.*'a', 'b'.*'c'"):
        gdjax.state_shardings(adam, params, zero1="c")
    with pytest.raises(ValueError, match="parameter 'v'.*lacks 'b'"):
        gdjax.state_shardings(adam, params, mesh=mesh_of(a=8))
    with pytest.raises(ValueError, match="parameter 'w'.*splits 4 into 8 parts"):
        gdjax.state_shardings(adam, params, mesh=mesh_of(a=8, b=1))
    with pytest.raises(TypeError, match="pair"):
        gdjax.state_shardings(None, params)


def loss_fn(params, x):
    hidden = jnp.tanh(x @ params["in"] + params["bias"][None])
    return jnp.mean(jnp.square(hidden @ params["out"] - 1))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_zero1_splits_state_and_gathers_each_parameter_once(name, kind):
    mesh, optimizer = mesh_of(kind, data=8), getattr(gdjax, name)(0.01)
    params = {"bias": put(mesh, 24), "in": put(mesh, (16, 24)), "out": put(mesh, (24, 8))}
    x = put(mesh, (64, 16), "data", seed=1)

    def step(params, state, x):
        updates, state = optimizer.update(jax.grad(loss_fn)(params, x), state, params)
        return gdjax.apply_updates(params, updates), state

    shardings = gdjax.state_shardings(optimizer, params, zero1="data")
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    slots = jax.tree.leaves(state.slots)
    assert all(8 * x.addressable_shards[0].data.nbytes == x.nbytes for x in slots)
    assert specs(state)[".slots.mu['in']"] == (None, "data")  # along its larger axis
    where = jax.tree.map(lambda x: x.sharding, params), shardings
    program = jax.jit(step, out_shardings=where).lower(params, state, x).compile()
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", program.as_text())
    assert sorted(gathered) == ["16,24", "24", "24,8"]
    assert not re.search(r"all-to-all\(|collective-permute\(", program.as_text())
    alone = jax.tree.map(np.asarray, (params, optimizer.init(params), x))
    for _ in range(3):
        params, state = program(params, state, x)
        alone = (*jax.jit(step)(*alone), alone[2])
    for a, b in zip(jax.tree.leaves((params, state)), jax.tree.leaves(alone[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_zero1_splits_dimensions_that_are_free_first():
    mesh = AbstractMesh((2, 4), ("data", "model"))

    def param(shape, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    params = {
        "free": param((6, 16), None, "model"), "only": param((3, 16), None, "model"),
        "both": param((4, 8), "data", "model"), "odd": param((3, 5)),
    }  # fmt: skip
    found = specs(gdjax.state_shardings(gdjax.adam(0.1), params, zero1="data").slots.mu)
    assert found == {
        "['free']": ("data", "model"), "['only']": (None, ("model", "data")),
        "['both']": ("data", "model"), "['odd']": (),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["shampoo", "soap", "soap_muon"])
def test_staggered_phases_lie_on_all_devices(name):
    mesh = mesh_of(a=8)
    params = put(mesh, (8, 8), "a")
    optimizer = getattr(gdjax, name)(0.1, stagger=True)
    phases = optimizer.init(params).phase
    assert len(jax.tree.leaves(phases)[0].sharding.device_set) == 8
    assert specs(gdjax.state_shardings(optimizer, params).phase) == specs(phases)
