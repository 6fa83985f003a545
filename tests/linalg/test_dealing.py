"""Matrices dealt over a mesh: the same results as on one device, with little communication."""

import functools

import hlo
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.core.dealing import DealtTree, dealing, places

MESH = Mesh(np.array(jax.devices()), "d")
SQUARE = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
MATRICES = {".*": gdjax.MuonDimensionNumbers()}

# in each of these the columns of one half are sharded, the rows of the other
METHODS = {
    "muon": {},
    "normuon": {},
    "adamuon": {},
    "scion": {},
    "dion": {},
    "dion2": {},
    "muown": {},
    "soap": {},
    "soap_muon": {},
    "kl_shampoo": {},
    "kl_soap": {},
    "shampoo": dict(merge_dims=False, precondition_frequency=2),
    "psgd_kron": {},
}


def some_of(names, *first):
    """Return all names; those that are not named again are the rest of the family."""
    return [n if n in first else pytest.param(n, marks=pytest.mark.rest) for n in names]


def arrays(shapes, seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(0, 0.3, shape), dtype) for k, shape in shapes.items()}


def run(opt, shapes, place=lambda tree: tree, steps=2, dtype=jnp.float32):
    """Return the program of a step, parameters and state after a few steps.

    It takes no arrays but those that are sharded as the first ones were.
    """
    params = place(arrays(shapes, 0, dtype))
    state = opt.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    program = step.lower(params, state, params).compile()
    for t in range(steps):
        params, state = program(params, state, place(arrays(shapes, t + 1, dtype)))
    return program, params, state


def on(mesh, specs, shapes):
    """Return a function that puts a tree on a mesh; vectors are replicated."""
    where = {
        k: NamedSharding(mesh, specs(k) if len(shape) > 1 else P()) for k, shape in shapes.items()
    }
    return functools.partial(jax.device_put, device=where)


def assert_equal(actual, expected, tol=1e-6):
    for k, x in expected.items():
        a, b = (np.asarray(x, np.float64) for x in (actual[k], x))
        np.testing.assert_allclose(a, b, 1e-5, tol, err_msg=k)


def compare(make, shapes, specs, bound, mesh=MESH, dtype=jnp.float32, tol=1e-6, work=1.15):
    """Check results, FLOPs and bytes of a step, and that the shardings stay what they were."""
    first, expected, _ = run(make(), shapes, dtype=dtype)
    size = sum(x.nbytes for x in expected.values())
    for spec in specs:
        place = on(mesh, spec, shapes)
        program, params, state = run(make(mesh=mesh), shapes, place, dtype=dtype)
        assert_equal(params, expected, tol)
        for k, x in params.items():
            assert x.sharding.is_equivalent_to(place(expected)[k].sharding, x.ndim), k
        used, ideal = hlo.costs(program), hlo.costs(first).flops / mesh.size
        assert used.flops <= work * ideal, used.flops / ideal
        assert used.bytes <= bound * size, (used.bytes / size, used)
    return state


@pytest.mark.parametrize("name", some_of(METHODS, "muon", "dion", "soap"))
def test_like_matrices_are_dealt(name):
    """Four with rows on devices and four with columns: each device takes a whole one.

    Dion, with more to move, meets the bound only if all are sharded alike: mixed it takes 0.75.
    Muown adds sums over columns, 1/16 of such small matrices; with SOAP-Muon parameters travel too.
    """
    make = functools.partial(getattr(gdjax, name), 0.02, **METHODS[name])
    shapes = {f"{k}{i}": (16, 16) for k in "rc" for i in range(4)}
    shapes |= {"b": (16,)} if name != "shampoo" else {}
    state = compare(
        make,
        shapes,
        [lambda k: P("d") if k[0] == "r" or name == "dion" else P(None, "d")],
        {"muown": 0.6, "soap_muon": 0.65}.get(name, 0.5),
    )
    for tree in state.slots:
        if isinstance(tree, DealtTree):
            for x in jax.tree.leaves(tree.stacks):
                assert x.sharding.shard_shape(x.shape)[0] == 1


def test_one_sided_factors_are_dealt():
    options = dict(METHODS["shampoo"], one_sided=True, rcond=1e-4, eps=0.0)
    shapes = {f"{k}{i}": (16, 16) for k in "rc" for i in range(4)}
    sides = [lambda k: P("d") if k[0] == "r" else P(None, "d")]
    compare(functools.partial(gdjax.shampoo, 0.02, **options), shapes, sides, 0.5)


@pytest.mark.parametrize("name", some_of(["dion", "soap"], "dion"))
def test_replicated_matrices_are_gathered_once(name):
    make = functools.partial(getattr(gdjax, name), 0.02)
    shapes = {f"w{i}": (16, 16) for i in range(8)}
    compare(make, shapes, [lambda k: P()], 2.2)


@pytest.mark.parametrize("name", some_of(["muon", "dion"], "muon"))
def test_stacks_sharded_over_layers_stay(name):
    key, stacks = "muon_weight_dimension_numbers", gdjax.MuonDimensionNumbers(1, 2)
    make = functools.partial(
        getattr(gdjax, name), 0.02, **{key: gdjax.by_path({"b": None, ".*": stacks})}
    )
    shapes = {"u": (8, 16, 16), "v": (16, 16, 16), "b": (16,)}
    compare(make, shapes, [lambda k: P("d")], 0.02)


@pytest.mark.slow
def test_counts_that_do_not_divide():
    """Tall and wide ones, more and fewer than devices, a huge one, a stack, an empty one; None."""
    shapes = {f"a{i}": (4, 8) for i in range(4)} | {f"t{i}": (8, 4) for i in range(3)}
    shapes |= {f"c{i}": (4, 4) for i in range(9)} | {"huge": (12, 16), "b": (8,), "z": (0, 8)}
    shapes |= {"s": (11, 4, 4)}
    stack = {"b": None, "s": gdjax.MuonDimensionNumbers(1, 2)}
    spec = gdjax.by_path(stack | MATRICES)
    make = functools.partial(gdjax.muon, 0.02, muon_weight_dimension_numbers=spec)
    _, expected, _ = run(make(), shapes)
    for mesh, given in ((MESH, MESH), (SQUARE, (SQUARE, "data"))):
        place = on(mesh, lambda k: P(), shapes)
        assert_equal(run(make(mesh=given), shapes, place)[1], expected)
    del shapes["s"]
    for dtype, tol in ((jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)):
        _, expected, plain = run(gdjax.soap(0.02), shapes, dtype=dtype)
        place = on(MESH, lambda k: P(), shapes)
        _, params, state = run(gdjax.soap(0.02, mesh=MESH), shapes, place, dtype=dtype)
        assert_equal(params, expected, tol)
        whole = gdjax.undealt(state)
        assert jax.tree.structure(whole) == jax.tree.structure(plain)
        for x, y in zip(
            jax.tree.leaves(whole.factors), jax.tree.leaves(plain.factors), strict=True
        ):
            np.testing.assert_allclose(x, y, 1e-4, 1e-5)


def test_two_axes_of_a_mesh():
    shapes = {f"w{i}": (16, 16) for i in range(8)}
    make = functools.partial(gdjax.muon, 0.02)
    specs = [P("data", "model"), P(("data", "model"))]
    compare(make, shapes, [lambda k, spec=spec: spec for spec in specs], 0.6, SQUARE)


def test_every_device_gets_its_share():
    assert [p.depth for p in places([7, 9, 0, 8], [1.0] * 4, 8)] == [1, 2, 0, 1]
    found = places([1, 3, 2], [1.0, 10.0, 4.0], 6)
    assert sorted(d for p in found for d in p.last) == list(range(6))
    huge, small = places([1, 15], [100.0, 1.0], 8)
    assert not set(huge.last) & set(small.last)


def test_a_mesh_that_is_none_is_named():
    with pytest.raises(TypeError, match=r"muon\(mesh=...\) must be a jax.sharding.Mesh"):
        gdjax.muon(0.1, mesh="d")
    with pytest.raises(ValueError, match=r"muon\(mesh=...\) must name axes of the mesh"):
        gdjax.muon(0.1, mesh=(MESH, "model"))
    assert dealing("muon(mesh=...)", Mesh(jax.devices()[:1], "d")) is None


# --- state that lives dealt -----------------------------------------------------------------------


SMALL = {f"w{i}": (4, 4) for i in range(9)} | {"b": (3,), "v": (4, 2)}


def soaps(**more):
    numbers = gdjax.by_path({"w[0-4]": 0.02, ".*": 0.05})
    b1 = gdjax.by_path({"w[1-3]": 0.8, ".*": 0.9})
    mask = gdjax.by_path({"w.*": True, ".*": False})
    return gdjax.soap(numbers, b1, mask=mask, **more)


@pytest.mark.slow
def test_numbers_by_path_staggered_inside_wrappers_and_eagerly():
    def wrapped(**more):
        inner = gdjax.groups({"v": gdjax.sgd(0.1), ".*": soaps(stagger=True, **more)})
        return gdjax.guard(gdjax.accumulate(inner, 2), gdjax.skip_not_finite)

    _, expected, plain = run(wrapped(), SMALL, steps=4)
    opt, place = wrapped(mesh=MESH), on(MESH, lambda k: P(), SMALL)
    _, params, state = run(opt, SMALL, place, steps=4)
    assert_equal(params, expected)
    whole = jax.tree.leaves(gdjax.undealt(state))
    assert [x.shape for x in whole] == [x.shape for x in jax.tree.leaves(plain)]
    params = place(arrays(SMALL, 0))
    state = opt.init(params)
    for t in range(4):
        updates, state = opt.update(place(arrays(SMALL, t + 1)), state, params)
        params = gdjax.apply_updates(params, updates)
    assert_equal(params, expected)
    assert gdjax.metrics(state) == gdjax.metrics(plain)
    state = gdjax.with_hyperparams(state, b2=0.5)
    assert gdjax.hyperparams(state)["b2"] == 0.5


@pytest.mark.slow
def test_a_state_goes_on_with_other_devices():
    place = on(MESH, lambda k: P(), SMALL)
    make = functools.partial(gdjax.soap, 0.02)
    _, expected, _ = run(make(), SMALL, steps=5)
    _, params, state = run(make(mesh=MESH), SMALL, place, steps=3)
    four = Mesh(np.array(jax.devices()[:4]), "d")
    opt, place = make(mesh=four), on(four, lambda k: P(), SMALL)
    params = place(params)
    with pytest.raises(ValueError, match=r"dealt over 8 devices, not over 4 as soap\(mesh=...\)"):
        opt.update(params, state, params)
    whole = jax.device_get(gdjax.undealt(state))
    state = gdjax.dealt_like(whole, opt.init(params))
    for t in (3, 4):
        updates, state = opt.update(place(arrays(SMALL, t + 1)), state, params)
        params = gdjax.apply_updates(params, updates)
    assert_equal(params, expected)


@pytest.mark.slow
def test_scan_vmap_and_shapes_of_dealt_states():
    opt, params = gdjax.psgd_kron(0.02, mesh=MESH), arrays(SMALL, 0)
    state = opt.init(params)
    shapes = jax.eval_shape(opt.init, params)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    named = gdjax.tree.map_params(
        opt, lambda _, name: name, state, {k: k for k in params}, transform_non_params=lambda _: ""
    )
    assert named.mu.rest["b"] == "b" and set(named.mu.stacks) == {""}

    def loss(params):
        return sum(jnp.sum((x - 0.3) ** 2) for x in jax.tree.leaves(params))

    def train(rate, opt=opt):
        def step(carry, _):
            params, state = carry
            updates, state = opt.update(jax.grad(loss)(params), state, params)
            return (gdjax.apply_updates(params, updates), state), None

        state = gdjax.with_hyperparams(opt.init(params), learning_rate=rate)
        return jax.lax.scan(step, (params, state), length=3)[0][0]

    rates = jnp.array([0.01, 0.03])
    lanes = jax.jit(jax.vmap(train))(rates)
    plain = jax.jit(lambda rate: train(rate, gdjax.psgd_kron(0.02)))(rates[1])
    assert_equal(jax.tree.map(lambda x: x[1], lanes), plain, 1e-5)


@pytest.mark.skipif(not hasattr(jax, "typeof"), reason="JAX has no explicit meshes")
@pytest.mark.parametrize("name", some_of(["muon", "soap"], "muon"))
def test_explicit_meshes(name):
    """Muon deals by itself there; the state of SOAP does so if it is told to."""
    types = (jax.sharding.AxisType.Explicit,)
    mesh = jax.make_mesh((8,), ("d",), axis_types=types)
    shapes = {f"w{i}": (16, 16) for i in range(8)} | {"b": (16,)}
    make = functools.partial(getattr(gdjax, name), 0.02)
    _, expected, _ = run(make(), shapes)
    place = on(mesh, lambda k: P("d") if k < "w4" else P(None, "d"), shapes)
    opt = make() if name == "muon" else make(mesh=mesh)
    program, params, state = run(opt, shapes, place)
    assert_equal(params, expected)
    used = hlo.costs(program)
    assert used.bytes <= 0.5 * sum(x.nbytes for x in expected.values()), used
    if name == "soap":
        shardings = gdjax.state_shardings(opt, params)
        same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, shardings)
        assert all(jax.tree.leaves(same)), same
