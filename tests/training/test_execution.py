"""A sweep is the same however it is cut, on however many devices, interrupted or killed."""

import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax
from gdjax.training import lanes as lanes_module
from gdjax.training.checkpoint import Checkpoints
from gdjax.training.devices import CallingThread, Devices
from gdjax.training.engine import either

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
Y = np.int32(RNG.integers(0, 3, 64))
model = gdjax.models.mlp((4, 16, 3))
PARAMS = model.init(jax.random.key(0))
RATES = {"learning_rate": np.logspace(-3, -1, 11)}
# Lanes that step together are one array, and XLA chooses the order of sums by the array's shape: an
# ulp (1.2e-7) here and there, which 12 steps carry on. Lanes that run in turn are the same bits.
ULPS = 1e-6
MORE = dict(batch_size=16, steps=12, key=1)


def loss_fn(params, batch):
    x, y = batch
    return gdjax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()


def run(**options):
    return gdjax.sweep(loss_fn, PARAMS, gdjax.adam, RATES, (X, Y), **{**MORE, **options})


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def on_one_device(monkeypatch, threads):
    monkeypatch.setattr(lanes_module, "all_devices", lambda: Devices(None, 1, threads))


def observed(optimizer):
    """Return an optimizer, and a list of the axis sizes that its update is vectorized over."""
    sizes = []

    @jax.custom_batching.custom_vmap
    def look(x):
        return x

    @look.def_vmap
    def _(axis_size, in_batched, x):
        sizes.append(axis_size)
        return look(x), in_batched[0]

    def update(updates, state, params=None, **extra):
        updates, state = optimizer.update(updates, state, params, **extra)
        return jax.tree.map(look, updates), state

    return gdjax.Optimizer(optimizer.init, update), sizes


@pytest.mark.slow
@pytest.mark.parametrize("vectorize", [True, False])
def test_results_do_not_depend_on_how_lanes_and_steps_are_cut(vectorize):
    whole = run(vectorize=vectorize)
    assert len(jax.devices()) == 8  # lanes are sharded, see conftest.py
    steps_cut = run(vectorize=vectorize, report_every=5)
    lanes_cut = run(vectorize=vectorize, lanes_per_program=8)
    for cut in (steps_cut,) if vectorize else (steps_cut, lanes_cut):
        same(whole.history["loss"], cut.history["loss"])  # bit for bit
        same((whole.params, whole.state), (cut.params, cut.state))
    np.testing.assert_allclose(whole.history["loss"], lanes_cut.history["loss"], rtol=ULPS)


@pytest.mark.slow
def test_one_device_equals_eight_and_both_ways_of_running_agree(monkeypatch):
    sharded = {v: run(vectorize=v) for v in (True, False)}
    on_one_device(monkeypatch, threads=2)
    for vectorize, eight in sharded.items():
        single = run(vectorize=vectorize)
        np.testing.assert_allclose(single.history["loss"], eight.history["loss"], rtol=ULPS)
        cut = run(vectorize=vectorize, lanes_per_program=2)  # six groups, two threads
        if not vectorize:
            same(single.history["loss"], cut.history["loss"])
        np.testing.assert_allclose(single.history["loss"], cut.history["loss"], rtol=ULPS)
    np.testing.assert_allclose(
        sharded[True].history["loss"], sharded[False].history["loss"], rtol=ULPS
    )


def test_lanes_are_really_spread_over_the_devices():
    seen = set()

    def loss(params, batch):
        jax.debug.inspect_array_sharding(
            params["linear_0"]["kernel"], callback=lambda s: seen.add(len(s.device_set))
        )
        return loss_fn(params, batch)

    gdjax.sweep(loss, PARAMS, gdjax.adam, RATES, (X, Y), steps=1, vectorize=True)
    assert seen == {8}


def test_every_group_uses_one_program():
    traced = []

    def counted(params, batch):
        traced.append(1)
        return loss_fn(params, batch)

    gdjax.sweep(counted, PARAMS, gdjax.adam, RATES, (X, Y), **MORE)
    once = len(traced)
    traced.clear()

    def again(params, batch):
        return counted(params, batch)

    gdjax.sweep(again, PARAMS, gdjax.adam, RATES, (X, Y), lanes_per_program=1, **MORE)
    assert len(traced) == once


def test_lanes_with_a_convolution_run_in_turn():
    """Small lanes without one step together. Eight devices have two lanes each, one is padding."""

    def loss(params, batch, smooth):
        return jnp.mean(smooth(params["w"] * batch) ** 2)

    def convolve(x):
        return jax.vmap(lambda row: jnp.convolve(row, jnp.ones(3), mode="same"))(x)

    rates = {"learning_rate": np.linspace(0.01, 0.1, 15)}
    for smooth, size in ((convolve, 8), (jnp.sin, 16)):
        optimizer, sizes = observed(gdjax.sgd(0.1))
        function = functools.partial(loss, smooth=smooth)
        gdjax.sweep(function, {"w": jnp.ones(())}, optimizer, rates, X, steps=1)
        assert set(sizes) == {size}


@pytest.mark.parametrize("leaves", [0, 3, 20, 70])
def test_a_step_is_taken_whole_or_not_at_all(leaves):
    new = {"rows": [jnp.full(2, i + 0.5) for i in range(leaves)]}
    old = {"rows": [jnp.full(2, -i - 0.5) for i in range(leaves)]}
    for ok in (True, False):
        same(jax.jit(either)(ok, new, old), new if ok else old)


def test_a_branch_has_no_copies_for_other_threads():
    """XLA on a CPU hands more than 8 copies at once to threads, which took half of the time."""
    new, old = ([jnp.full(2, float(i + k)) for i in range(20)] for k in (0, 1))
    program = jax.make_jaxpr(either)(True, new, old)
    branches = [len(e.outvars) for e in program.eqns if e.primitive.name == "cond"]
    assert sum(branches) == 20 and max(branches) <= 8


def test_lanes_per_program_follows_the_compiled_memory(monkeypatch):
    on_one_device(monkeypatch, threads=1)
    monkeypatch.setattr(lanes_module, "free_memory", lambda: 40_000)
    optimizer, sizes = observed(gdjax.adam(0.1))
    gdjax.sweep(loss_fn, PARAMS, optimizer, {"learning_rate": [0.1] * 40}, (X, Y), steps=1)
    tried, taken = sorted(set(sizes), reverse=True), sizes[-1]
    assert tried[0] == 40 and taken == tried[-1] and 1 < taken < 40
    lane = 4 * sum(x.size for x in jax.tree.leaves((PARAMS, gdjax.adam(0.1).init(PARAMS))))
    assert taken * lane < 40_000 < 40 * lane


def test_settings_of_the_calling_thread_hold_in_the_workers(monkeypatch):
    on_one_device(monkeypatch, threads=2)
    with enable_x64():
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), PARAMS)
        result = gdjax.sweep(loss_fn, params, gdjax.adam, RATES, (X.astype(np.float64), Y), steps=2)
        assert result.params["linear_0"]["kernel"].dtype == np.float64
        assert result.state.hyperparams["learning_rate"].dtype == np.float64


def test_the_error_of_a_thread_that_has_ended_is_raised():
    """Also if it ended before anybody waited; then it was lost, and broken lanes were read."""
    for early in (True, False):
        failed, done = Future(), Future()
        done.set_result(None)
        if early:
            failed.set_exception(OSError("the disk is gone"))
        else:
            threading.Timer(0.05, failed.set_exception, [OSError("the disk is gone")]).start()
        with pytest.raises(OSError, match="the disk is gone"):
            CallingThread().wait([done, failed])


def test_an_interrupt_returns_what_is_done():
    started = threading.Event()

    def metric(params, data):
        jax.debug.callback(started.set)
        return loss_fn(params, data)

    def press():
        started.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    result = run(
        steps=500_000, report_every=50, lanes_per_program=8, held_out=(X, Y), metric_fn=metric
    )
    presser.join()
    done = int(result.steps.max())
    assert 50 <= done < 500_000 and done % 50 == 0
    assert result.kept.tolist() == list(range(8)) and result.steps.tolist() == [done] * 8 + [0] * 3
    assert np.isnan(result.final_loss[8:]).all() and result.best().lane < 8
    straight = run(steps=done, report_every=50, lanes_per_program=8)
    same(straight.history["loss"][:8], result.history["loss"][:8])
    same(straight.params["linear_0"]["kernel"][:8], result.params["linear_0"]["kernel"])


SCRIPT = """
    import sys
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
    import test_execution
    test_execution.resumable(sys.argv[2])
"""


def resumable(directory):
    more = dict(steps=60, report_every=10, lanes_per_program=8)
    return run(directory=directory, held_out=(X, Y), **more)


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_sweep_resumes_where_it_was(tmp_path, monkeypatch):
    script, here = textwrap.dedent(SCRIPT), os.path.dirname(__file__)
    hold = "import gdjax.training.checkpoint as c, time; old = c.Checkpoints.save\n"
    hold += "def save(*a):\n    old(*a)\n"
    hold += "    if a[1].lanes[0] == 8 and a[2].done == 20:\n"
    hold += "        a[0].writer.wait(8), open(HELD, 'w'), time.sleep(1000)\n"
    held, tmp_path = tmp_path / "held", tmp_path / "sweep"
    hold = f"HELD = {str(held)!r}\n{hold}"
    process = subprocess.Popen(
        [sys.executable, "-c", hold + "c.Checkpoints.save = save\n" + script, here, str(tmp_path)]
    )
    deadline = time.time() + 120
    while not held.exists():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    process.kill()  # SIGKILL, in the middle of the second group
    process.wait()
    saved, steps = Checkpoints.save, []

    def counting(self, group, run):
        steps.append((group.lanes[0], run.done))
        saved(self, group, run)

    monkeypatch.setattr(Checkpoints, "save", counting)
    result = resumable(tmp_path)
    assert steps == [(8, 30), (8, 40), (8, 50), (8, 60)]  # nothing twice
    whole = run(steps=60, lanes_per_program=8, report_every=10, held_out=(X, Y))
    same(whole.history, result.history)
    same((whole.params, whole.state), (result.params, result.state))
    steps.clear()
    same(resumable(tmp_path).history, whole.history)
    assert steps == []
    with pytest.raises(ValueError, match="holds a run with other key"):
        run(directory=tmp_path, steps=70, report_every=10, lanes_per_program=8, key=2)


def test_results_as_files_and_tables(tmp_path):
    space = [
        {"learning_rate": 0.01, "momentum": None, "nesterov": False},
        {"learning_rate": 0.1, "momentum": None, "nesterov": False},
        {"learning_rate": 1e30, "momentum": None, "nesterov": False},
    ]
    result = gdjax.sweep(loss_fn, PARAMS, gdjax.sgd, space, (X, Y), steps=6, held_out=(X, Y))
    (_, step), = result.diverged()  # fmt: skip
    lines = result.to_csv(tmp_path / "t.csv").splitlines()
    assert lines[0] == "learning_rate,momentum,nesterov,final loss,held_out,steps,diverged at"
    assert lines[3].endswith(f",{step},{step}") and (tmp_path / "t.csv").read_text() == "\n".join(
        [*lines, ""]
    )
    data = json.loads(result.to_json(tmp_path / "t.json"))
    assert data["lanes"][2]["final loss"] is None and data["lanes"][2]["diverged at"] == step
    np.testing.assert_allclose(data["history"]["loss"][0], result.history["loss"][0], rtol=1e-6)
    result.save(tmp_path / "r.npz")
    state = gdjax.sgd(0.1).init(PARAMS)
    again = gdjax.SweepResult.load(tmp_path / "r.npz", PARAMS, state)
    same(vars(result) | {"configs": 0}, vars(again) | {"configs": 0})
    assert again.best().config == result.best().config
    assert jax.tree.structure(again.best().state) == jax.tree.structure(state)
    plain = gdjax.SweepResult.load(tmp_path / "r.npz")
    same(plain.best().params["linear_0"]["kernel"], result.best().params["linear_0"]["kernel"])
    with pytest.raises(ValueError, match="'text', 'pandas'"):
        result.table("html")


def test_a_table_of_pandas_best_metric_first():
    pytest.importorskip("pandas")
    space = {"learning_rate": [0.01, 0.1, 1e30], "nesterov": [False]}
    result = gdjax.sweep(
        loss_fn, PARAMS, gdjax.sgd, space, (X, Y), steps=6, held_out=(X, Y),
        metric_fn=lambda p, d: {"score": -loss_fn(p, d)},
    )  # fmt: skip
    table = result.table("pandas", by="score", mode="max")
    assert table.index.tolist() == [1, 0, 2] and table.index[0] == result.best("score", "max").lane
    assert table.columns.tolist() == [
        "learning_rate", "nesterov", "final loss", "score", "steps", "diverged at"
    ]  # fmt: skip
    np.testing.assert_array_equal(table.loc[[0, 1, 2], "final loss"], result.final_loss)
    assert table["diverged at"].isna().tolist() == [True, True, False]
    assert "over learning_rate, nesterov; 2 did not diverge" in repr(result)


def test_pictures_of_many_lanes():
    import matplotlib

    matplotlib.use("Agg")
    space = {"learning_rate": [0.01, 0.1, 1e30], "momentum": [0.0, 0.5, 0.9]}
    result = gdjax.sweep(loss_fn, PARAMS, gdjax.sgd, space, (X, Y), steps=6)
    ax = result.plot(("learning_rate", "momentum"))
    cells = np.asarray(ax.images[0].get_array().filled(np.nan))
    np.testing.assert_allclose(cells[:, :2], result.final_loss.reshape(3, 3)[:2].T, rtol=1e-6)
    assert np.isnan(cells[:, 2]).all()
    assert len(result.plot_all().axes) == 2 and len(result.plot_curves().lines) == 9
    for typo in ("typo", ("learning_rate", "typo")):
        with pytest.raises(ValueError, match="one or two of learning_rate, momentum"):
            result.plot(typo)
    assert ax.get_xlabel() == "learning_rate" and result.plot("momentum").get_xscale() == "linear"
    few = gdjax.sweep(
        loss_fn, PARAMS, gdjax.sgd, {"learning_rate": [0.1], "momentum": [0.0, 0.9]}, (X, Y),
        steps=6,
    )  # fmt: skip
    assert few.plot().get_xlabel() == "momentum"  # what lanes differ in
    lines = few.plot_curves().lines
    assert lines[0].get_color() != lines[1].get_color() and lines[0].get_label() == "momentum = 0"
    space = {"learning_rate": [1e30, 1e31], "nesterov": [False, True], "momentum": [0.9]}
    gone = gdjax.sweep(loss_fn, PARAMS, gdjax.sgd, space, (X, Y), steps=6)
    for x in ("learning_rate", ("learning_rate", "nesterov")):
        gone.plot(x).figure.canvas.draw()
    gone.plot_curves().figure.canvas.draw()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lanes_per_program=0), "lanes_per_program=.*>= 1, got 0"),
        (dict(seeds=[]), "at least one seed"),
        (
            dict(held_out=(X, Y), metric_fn=lambda p, d: {"loss": loss_fn(p, d)}),
            "history has an entry 'loss' already.*'held_out_loss'",
        ),
    ],
)
def test_bad_execution_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_held_out_data_need_a_metric_without_a_key():
    with pytest.raises(ValueError, match="metric_fn=.*must be given: loss_fn needs a key"):
        gdjax.sweep(
            lambda p, b, key: loss_fn(p, b), PARAMS, gdjax.adam, RATES, (X, Y), needs_key=True,
            held_out=(X, Y), steps=1,
        )  # fmt: skip


def test_streams_need_one_program():
    stream = iter([(X, Y)] * 3)
    with pytest.raises(ValueError, match="is read once for all lanes"):
        gdjax.sweep(loss_fn, PARAMS, gdjax.adam, RATES, stream, lanes_per_program=2)
    with pytest.raises(ValueError, match="directory=.*needs arrays"):
        gdjax.sweep(loss_fn, PARAMS, gdjax.adam, RATES, stream, directory="unused")
