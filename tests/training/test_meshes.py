"""Whole runs on meshes of devices give what one device gives, wherever the arrays lie."""

import contextlib
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.training import lanes as lanes_module
from gdjax.training.meshes import set_mesh

RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(48, n)).astype(np.float32) for n in (8, 4))
PARAMS = {
    "w1": RNG.normal(size=(8, 16)).astype(np.float32),
    "b1": np.zeros((1, 16), np.float32),
    "w2": RNG.normal(size=(16, 4)).astype(np.float32),
}
SPLIT = {"w1": P(None, "model"), "b1": P(None, "model"), "w2": P("model")}  # two matrices, one sum
FSDP = {"w1": P(None, "data"), "b1": P(None, "data"), "w2": P("data")}
MORE = dict(batch_size=16, steps=6, key=1)
RATES = {"learning_rate": [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3]}
# The order of sums differs between meshes: a few ulps (6e-8) of losses about 1, over a few steps.
CLOSE = dict(rtol=1e-5, atol=1e-5)

kinds = pytest.mark.parametrize("kind", ["Auto", "Explicit"])


def make_mesh(kind, shape=(8,), names=("data",)):
    types = (getattr(AxisType, kind),) * len(names)
    devices = jax.devices()[: np.prod(shape)]
    return jax.make_mesh(shape, names, axis_types=types, devices=devices)


def put(tree, mesh, spec):
    specs = jax.tree.map(lambda _: spec, tree) if isinstance(spec, P) else spec
    return jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), tree, specs)


def loss_fn(params, batch):
    """The mean square error; parameters on an explicit mesh are gathered for their use."""
    x, y = batch
    typed = jax.typeof(params["w1"]).sharding.mesh
    if AxisType.Explicit in typed.axis_types:
        reshard = getattr(jax.sharding, "reshard", None)
        params = jax.tree.map(lambda p: reshard(p, NamedSharding(typed, P())), params)
    return jnp.mean((jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] - y) ** 2)


def with_state(params, seen, batch, key):
    x, y = batch
    errors = (jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] - y) ** 2
    seen = {"steps": seen["steps"] + 1, "mean": 0.9 * seen["mean"] + 0.1 * x.mean(0)}
    return errors.mean(), (seen, {"by example": errors.mean(1), "mean": x.mean(0)})


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **CLOSE)


def within(mesh, inside):
    return set_mesh(mesh) if inside else contextlib.nullcontext()


def fit(params=PARAMS, data=(X, Y), loss=loss_fn, **options):
    return gdjax.fit(loss, params, gdjax.adam(1e-2), data, **{**MORE, **options})


def sweep(params=PARAMS, data=(X, Y), loss=loss_fn, **options):
    return gdjax.sweep(loss, params, gdjax.adam, RATES, data, **{**MORE, **options})


# --- single runs ---


@pytest.mark.slow
@kinds
def test_a_fit_on_split_data_equals_one_device(kind):
    mesh = make_mesh(kind)
    params, data = put(PARAMS, mesh, P()), put((X, Y), mesh, P("data"))
    more = dict(held_out=(X[:40], Y[:40]), report_every=3)
    one = fit(**more)
    for inside in (False, True):
        with within(mesh, inside):
            many = fit(params, data, **more | {"held_out": put((X[:40], Y[:40]), mesh, P("data"))})
            from_host = fit(PARAMS, data, **more)
        close((one.history, one.params, one.state), (many.history, many.params, many.state))
        close((one.history, one.params), (from_host.history, from_host.params))
        assert len(from_host.params["w1"].sharding.device_set) == 8
    close(fit(batch_size=12).history, fit(params, data, batch_size=12).history)  # 12 / 8 devices
    close(fit(batch_size=None).history, fit(params, data, batch_size=None).history)
    held_out = put((X, Y), mesh, P("data"))
    parts = dict(held_out_batch_size=20, report_every=3)  # 20, 20 and 8 examples
    close(
        fit(held_out=(X, Y), **parts).history, fit(params, data, held_out=held_out, **parts).history
    )


def test_a_batch_is_split_as_the_data_are():
    """Else every device would compute the whole batch."""
    mesh, seen = make_mesh("Auto"), set()

    def loss(params, batch):
        jax.debug.inspect_array_sharding(
            batch[0], callback=lambda s: seen.add(s.shard_shape((16, 8)))
        )
        return loss_fn(params, batch)

    fit(put(PARAMS, mesh, P()), put((X, Y), mesh, P("data")), loss, steps=1)
    assert seen == {(2, 8)}


@kinds
def test_split_parameters_stay_split(kind):
    if kind == "Explicit" and not hasattr(jax.sharding, "reshard"):
        pytest.skip("jax.sharding.reshard needs JAX 0.7")
    mesh = make_mesh(kind)
    result = fit(put(PARAMS, mesh, FSDP), put((X, Y), mesh, P("data")), report_every=2)
    close((fit().history["loss"], fit().params), (result.history["loss"], result.params))
    for tree in (result.params, result.state.mu, result.state.nu):
        for name, spec in FSDP.items():
            place = NamedSharding(mesh, spec)
            assert tree[name].sharding.is_equivalent_to(place, tree[name].ndim)


@kinds
def test_model_state_aux_and_callbacks_on_a_mesh(kind):
    mesh, start = make_mesh(kind), {"steps": jnp.zeros(()), "mean": jnp.zeros(8)}
    seen = []
    more = dict(loss=with_state, model_state=start, has_aux=True, needs_key=True, report_every=3)
    one = fit(**more)
    callbacks = [gdjax.callbacks.keep_best("loss"), lambda r: seen.append(r.params["w1"].sharding)]
    with within(mesh, True):
        many = fit(PARAMS, put((X, Y), mesh, P("data")), **more, callbacks=callbacks)
    close((one.history, one.model_state), (many.history, many.model_state))
    close(one.params, many.best_params)
    assert {len(sharding.device_set) for sharding in seen} == {8}


@pytest.mark.slow
@kinds
def test_batches_of_a_stream_lie_on_the_mesh(kind, tmp_path):
    mesh = make_mesh(kind)
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in (0, 16, 32)] + [(X[:12], Y[:12])]
    more = dict(batch_size=None, steps=None, epochs=2, report_every=3)
    one = fit(data=batches, held_out=batches, **more)
    for prefetch in (None, 1):  # several batches for one call, and one
        place = NamedSharding(mesh, P("data"))
        stream = gdjax.batches(batches, sharding=place, prefetch=prefetch)
        many = fit(data=stream, held_out=stream, **more)
        close((one.history, one.params), (many.history, many.params))
        assert len(many.params["w1"].sharding.device_set) == 8
    fit(data=stream, held_out=stream, directory=tmp_path, **more | {"epochs": 1, "report_every": 2})
    smaller = NamedSharding(make_mesh(kind, (4,)), P("data"))
    stream = gdjax.batches(batches, sharding=smaller)
    resumed = fit(data=stream, held_out=stream, directory=tmp_path, **more | {"report_every": 2})
    close((one.history["loss"], one.params), (resumed.history["loss"], resumed.params))
    assert len(resumed.params["w1"].sharding.device_set) == 4
    with pytest.raises(TypeError, match=r"batches\(sharding=...\) must be"):
        gdjax.batches(batches, sharding="data")


@pytest.mark.slow
@kinds
def test_a_fit_on_split_data_goes_on_on_fewer_devices(kind, tmp_path):
    more = dict(report_every=2, directory=tmp_path)
    for size, steps in ((8, 2), (4, 4), (2, 6)):
        mesh = make_mesh(kind, (size,))
        with within(mesh, size == 4):
            result = fit(
                put(PARAMS, mesh, P()), put((X, Y), mesh, P("data")), **more | {"steps": steps}
            )
        assert result.steps == steps and len(result.params["w1"].sharding.device_set) == size
    close((fit().history["loss"], fit().params), (result.history["loss"], result.params))


def test_other_functions_take_split_data():
    mesh = make_mesh("Explicit")
    params, data = put(PARAMS, mesh, P()), put((X, Y), mesh, P("data"))
    tests = [
        gdjax.lr_find(loss_fn, p, gdjax.adam, d, batch_size=16, steps=12, high=0.1)
        for p, d in ((PARAMS, (X, Y)), (params, data), (PARAMS, data))
    ]
    for test in tests[1:]:
        np.testing.assert_allclose(test.losses, tests[0].losses, **CLOSE)
    half = fit(params, data, steps=3)
    close(fit().params, fit(params, data, steps=3, start=half).params)


def test_two_meshes_are_an_error_that_names_both():
    mesh, other = make_mesh("Explicit"), make_mesh("Explicit", (4,))
    params, data = put(PARAMS, mesh, P()), put((X, Y), mesh, P("data"))
    elsewhere = put((X, Y), other, P("data"))
    with pytest.raises(ValueError, match=r"params=.*data: 8, explicit.*data=.*data: 4, explicit"):
        fit(params, elsewhere)
    with pytest.raises(ValueError, match=r"held_out=.*One program needs one mesh"):
        fit(params, data, held_out=elsewhere)
    if hasattr(jax.sharding, "get_mesh"):
        with set_mesh(other), pytest.raises(ValueError, match=r"inside jax.set_mesh"):
            fit(params, data)


def test_a_number_that_is_not_finite_is_found_in_a_part():
    data = put((X, np.where(np.arange(48)[:, None] == 37, np.nan, Y)), make_mesh("Auto"), P("data"))
    with pytest.raises(ValueError, match=r"got nan at index \(37, 0\)"):
        fit(data=data)


# --- lanes on all devices, within the mesh of somebody else ---


@kinds
def test_a_sweep_inside_set_mesh_is_that_outside(kind):
    mesh = make_mesh(kind)
    seen, contexts = [], []

    def tell(report):
        contexts.append(jax.sharding.get_abstract_mesh().axis_names)
        seen.append(report.loss)

    outside = sweep(seeds=1, report_every=3)
    with set_mesh(mesh):
        inside = sweep(
            put(PARAMS, mesh, P()), put((X, Y), mesh, P("data")), seeds=1, report_every=3,
            callbacks=[tell],
        )  # fmt: skip
        race = gdjax.successive_halving(loss_fn, PARAMS, gdjax.adam, RATES, (X, Y), **MORE)
    for x, y in zip(*map(jax.tree.leaves, (outside.params, inside.params)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert race.steps.max() == 6 and len(seen) == 2
    if hasattr(jax.sharding, "get_mesh"):
        assert set(contexts) == {("data",)}  # a callback is called where the sweep was


# --- lanes along one axis, the model along another ---


@pytest.mark.parametrize("vectorize", [True, False])
@kinds
def test_lanes_and_models_share_a_mesh(kind, vectorize):
    mesh = make_mesh(kind, (4, 2), ("lanes", "model"))
    params, data = put(PARAMS, mesh, SPLIT), put((X, Y), mesh, P("model"))
    seen = set()

    def loss(params, batch):
        jax.debug.inspect_array_sharding(params["w1"], callback=lambda s: seen.add(s.spec))
        w1 = jax.lax.with_sharding_constraint(params["w1"], P(None, "model"))
        return loss_fn({**params, "w1": w1}, batch)

    more = dict(vectorize=vectorize, seeds=2, held_out=(X, Y), held_out_batch_size=20)
    one = sweep(report_every=3, **more)
    with within(mesh, kind == "Explicit"):
        many = sweep(params, data, report_every=3, mesh=mesh, lanes_axis="lanes", **more)
        sweep(params, data, loss, vectorize=vectorize, steps=1, mesh=mesh, lanes_axis="lanes")
    close((one.history, one.params, one.state), (many.history, many.params, many.state))
    assert seen == {P("lanes", None, "model")}


def test_the_state_of_a_lane_is_split_as_its_parameters():
    mesh = make_mesh("Auto", (4, 2), ("lanes", "model"))
    kinds_of_lanes = lanes_module.make_kinds(
        "sweep", loss_fn, put(PARAMS, mesh, SPLIT), gdjax.adam,
        [{"learning_rate": rate} for rate in RATES["learning_rate"]], (X, Y),
        lanes_module.devices_for("sweep", mesh, "lanes"), steps=1,
    )  # fmt: skip
    (kind,) = kinds_of_lanes
    assert kind.size == 8  # a multiple of four for six lanes
    for tree in (
        kind.shapes.params,
        kind.shapes.state.mu,
        kind.groups(np.zeros(6, int))[0].start().state.nu,
    ):
        assert tuple(tree["w1"].sharding.spec) == ("lanes", None, "model")
    assert tuple(kind.shapes.state.count.sharding.spec) == ("lanes",)


def test_the_memory_plan_tries_multiples_of_the_lanes_axis(monkeypatch):
    mesh, sizes = make_mesh("Auto", (4, 2), ("lanes", "model")), []

    def memory(compiled):
        sizes.append(compiled.input_shardings)
        return 1000 * (4 - len(sizes))

    monkeypatch.setattr(lanes_module, "memory_of", memory)
    monkeypatch.setattr(lanes_module, "free_memory", lambda: 1500)
    rates = {"learning_rate": np.linspace(0.01, 0.1, 22)}
    result = gdjax.sweep(
        loss_fn, PARAMS, gdjax.sgd, rates, (X, Y), steps=1, mesh=mesh, lanes_axis="lanes"
    )
    assert len(sizes) == 2 and result.final_loss.shape == (22,)


@pytest.mark.slow
def test_races_searches_and_streams_on_such_a_mesh():
    mesh = make_mesh("Auto", (4, 2), ("lanes", "model"))
    params, data = put(PARAMS, mesh, SPLIT), put((X, Y), mesh, P("model"))
    ways = ((PARAMS, (X, Y), {}), (params, data, dict(mesh=mesh, lanes_axis="lanes")))
    rates, short, results = {"learning_rate": [1e-3, 1e-2, 0.1]}, MORE | dict(steps=3), []
    for start, xy, more in ways:
        args = loss_fn, start, gdjax.adam, rates, xy
        race = gdjax.successive_halving(*args, **short, **more)
        population = gdjax.population_based_training(*args, every=1, **short, **more)
        results.append((race.final_loss, population.params, population.state))
        assert sorted(race.steps) == [1, 1, 3]
    close(*results)
    space = {"learning_rate": [0.01, 0.02]}
    search = gdjax.search(loss_fn, params, gdjax.adam, space, data, trials=2, **short, **ways[1][2])
    assert np.isfinite(search.best.value) and search.best.params["w1"].shape == (8, 16)
    batches = [(X[:16], Y[:16]), (X[16:32], Y[16:32])]
    stream = gdjax.batches(batches, sharding=NamedSharding(mesh, P("model")))
    more = dict(steps=None, epochs=2, batch_size=None)
    many = sweep(params, stream, mesh=mesh, lanes_axis="lanes", **more)
    close(sweep(data=batches, **more).params, many.params)
    with pytest.raises(ValueError, match=r"batches\(sharding=...\) needs mesh=... and lanes_axis"):
        sweep(PARAMS, stream, **more)


def test_wrong_meshes_for_lanes_are_errors():
    mesh = make_mesh("Auto", (4, 2), ("lanes", "model"))
    other = make_mesh("Auto", (4, 2), ("a", "model"))
    both = dict(mesh=mesh, lanes_axis="lanes")
    for options, error in (
        (dict(mesh=mesh), r"lanes_axis=...\) must be .* 'lanes', 'model', got None"),
        (dict(lanes_axis="lanes"), r"lanes_axis='lanes'\) needs mesh=..."),
        (dict(mesh=mesh, lanes_axis="x"), r"lanes_axis=...\) must be .* got 'x'"),
        (both | dict(data=put((X, Y), other, P("a"))), r"data=...\) at '0' is on the mesh \(a: 4"),
        (both | dict(data=put((X, Y), mesh, P("lanes"))), r"data=.*split along lanes_axis='lanes'"),
        (
            both | dict(params=PARAMS | put({"w1": PARAMS["w1"]}, mesh, P("lanes"))),
            r"params=.*split along lanes_axis",
        ),
        (both | dict(held_out=put((X, Y), mesh, P(("model", "lanes")))), r"held_out=.*split along"),
    ):
        with pytest.raises(ValueError, match=error):
            sweep(**options)
    with pytest.raises(TypeError, match="mesh"):
        sweep(mesh="data", lanes_axis="lanes")


def resumable(directory, shape, steps):
    """One of the calls of the test below: on a mesh, or on all devices."""
    more = dict(directory=directory, report_every=2, vectorize=True, steps=steps)
    if shape is None:
        return sweep(**more)
    mesh = make_mesh("Auto", shape, ("lanes", "model"))
    params, data = put(PARAMS, mesh, SPLIT), put((X, Y), mesh, P("model"))
    return sweep(params, data, mesh=mesh, lanes_axis="lanes", **more)


SCRIPT = """
    import os, signal, sys
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
    import conftest, test_meshes
    from gdjax.training.checkpoint import Checkpoints
    old = Checkpoints.save
    def save(self, group, run, *more):
        old(self, group, run, *more)
        if run.done == 4:
            self.writer.wait(group.lanes[0])
            os.kill(os.getpid(), signal.SIGKILL)
    Checkpoints.save = save
    test_meshes.resumable(sys.argv[2], (4, 2), 8)
"""


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_sweep_resumes_on_another_mesh(tmp_path):
    here = os.path.dirname(__file__)
    script = [sys.executable, "-c", textwrap.dedent(SCRIPT), here, str(tmp_path)]
    assert subprocess.run(script, timeout=120).returncode == -9
    assert any(tmp_path.glob("carry-*.npz"))
    six = resumable(tmp_path, (2, 2), 6)
    assert six.steps.tolist() == [6] * 6
    result, straight = resumable(tmp_path, None, 8), sweep(steps=8, vectorize=True)
    close((straight.history, straight.params), (result.history, result.params))
