"""A directory of a sweep gives that sweep's results or an error, whatever happens to it."""

import functools
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training import files
from gdjax.training import lanes as lanes_module
from gdjax.training.checkpoint import Checkpoints, digest_of_text
from gdjax.training.devices import Devices

DATA = np.linspace(-1, 1, 8).astype(np.float32)
SPACE = {"learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5]}
RUN = dict(steps=12, report_every=3, lanes_per_program=2, batch_size=2, key=3)


def loss_towards(target):
    return lambda params, batch: jnp.mean((params["w"] * batch - target) ** 2)


LOSS, START = loss_towards(1.0), {"w": np.float32(0.5)}


def run(directory=None, loss=LOSS, params=START, optimizer=gdjax.sgd, space=SPACE, data=DATA, **o):
    return gdjax.sweep(loss, params, optimizer, space, data, directory=directory, **{**RUN, **o})


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def same_results(a, b):
    drop = dict(seconds=0, configs=0)
    same(vars(a) | drop, vars(b) | drop)


class Killed(BaseException):
    """What `kill -9` is, as far as files are concerned."""


def die_at(monkeypatch, write):
    """Let the process die at its n-th write: before the file has its name, or right after."""
    count, replace = itertools.count(), os.replace

    def dying(*names):
        now = next(count)
        if now == 2 * write // 2 and write % 2 == 0:
            raise Killed
        replace(*names)
        if now == write:
            raise Killed

    monkeypatch.setattr(files.os, "replace", dying)


@pytest.fixture
def quick(monkeypatch):
    """Run on one device, and do not wait for a disk."""
    monkeypatch.setattr(lanes_module, "all_devices", lambda: Devices(None, 1, 1))
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)


def half_done(directory, monkeypatch, write=9):
    with monkeypatch.context() as patch:
        die_at(patch, write)
        with pytest.raises(Killed):
            run(directory)


# --- which sweep it is ---

CHANGES = {
    "loss_fn": dict(loss=loss_towards(9.0)),
    "loss_fn, with another array in it": dict(
        loss=lambda p, b: jnp.mean((p["w"] * b - np.float32([0, 1])) ** 2)
    ),
    "params": dict(params={"w": np.float32(0.25)}),
    "params, of another dtype": dict(params={"w": np.float16(0.5)}),
    "params, of another name": dict(
        loss=lambda p, b: jnp.mean((p["v"] * b - 1.0) ** 2), params={"v": np.float32(0.5)}
    ),
    "params, a function": dict(params=lambda key: {"w": jnp.float32(0.5)}),
    "optimizer": dict(optimizer=gdjax.adam),
    "optimizer, with a fixed number": dict(optimizer=functools.partial(gdjax.sgd, momentum=0.0)),
    "optimizer, built": dict(optimizer=gdjax.sgd(0.3, momentum=0.9)),
    "space": dict(space={"learning_rate": [0.1, 0.2, 0.3, 0.4, 0.6]}),
    "space, in another order": dict(space={"learning_rate": [0.2, 0.1, 0.3, 0.4, 0.5]}),
    "space, with seeds": dict(seeds=[0]),
    "data": dict(data=DATA + 1),
    "data, of another dtype": dict(data=DATA.astype(np.float16)),
    "data, of another shape": dict(data=DATA[:, None]),
    "batch_size": dict(batch_size=4),
    "key": dict(key=4),
    "key, of another kind": dict(key=jax.random.key(3, impl="rbg")),
    "report_every": dict(report_every=4),
    "held_out": dict(held_out=DATA[:3]),
    "has_aux": dict(loss=lambda p, b: (LOSS(p, b), b), has_aux=True),
    "needs_key": dict(loss=lambda p, b, key: LOSS(p, b), needs_key=True),
    "vectorize": dict(vectorize=False),
}


@pytest.mark.parametrize("done", [True, False])
def test_another_sweep_is_refused(tmp_path, monkeypatch, quick, done):
    if done:
        whole = run(tmp_path)
    else:
        half_done(tmp_path, monkeypatch)
        whole = run()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
    for what, change in CHANGES.items():
        with pytest.raises(ValueError, match=r"resume=False") as error:
            run(tmp_path, **change)
            pytest.fail(what)
        assert what.split(",")[0] in str(error.value) and str(tmp_path) in str(error.value), what
        now = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
        assert now == before, what
    same_results(run(tmp_path, loss=loss_towards(1.0)), whole)  # the same, but defined again
    anew = run(tmp_path, loss=loss_towards(9.0), resume=False)
    same_results(anew, run(loss=loss_towards(9.0)))


def test_flags_functions_and_metrics_count(tmp_path, quick):
    nesterov = dict(optimizer=functools.partial(gdjax.sgd, momentum=0.5, nesterov=True))
    plain = dict(optimizer=functools.partial(gdjax.sgd, momentum=0.5))
    score = dict(held_out=DATA, metric_fn=lambda p, d: p["w"])
    other = dict(held_out=DATA, metric_fn=lambda p, d: p["w"] + 1)
    longer = dict(held_out=DATA + 1, metric_fn=score["metric_fn"])
    half = dict(space={"learning_rate": [lambda t: 0.5 / (1 + t)]})
    third = dict(space={"learning_rate": [lambda t: 0.3 / (1 + t)]})
    for i, (first, second, named) in enumerate(
        [
            (plain, nesterov, "optimizer"), (score, other, "metric_fn"),
            (score, longer, "held_out"), (half, third, "optimizer"),
        ]
    ):  # fmt: skip
        run(tmp_path / str(i), **first)
        with pytest.raises(ValueError, match=f"other {named}"):
            run(tmp_path / str(i), **second)


def test_another_version_of_jax_is_told(tmp_path, quick):
    whole, file = run(tmp_path), tmp_path / "run.json"
    before = json.loads(file.read_text())
    before["versions"]["jaxlib"] = "0.1.0"
    del before["checksum"]
    file.write_text(json.dumps(before | {"checksum": digest_of_text(before)}))
    with pytest.warns(UserWarning, match="was begun with .*0.1.0.*may differ by rounding"):
        same_results(run(tmp_path), whole)


# --- faults ---


def damage(folder, foreign, dice):
    """Do something to the files of a folder; return what."""
    ours = sorted(p for p in folder.iterdir() if p.name != "lock")
    one, two = dice.choice(ours), dice.choice(ours)
    text = one.read_bytes()
    kind = dice.choice(
        ["flip", "flip", "flip", "cut", "empty", "delete", "swap", "copy", "rename", "foreign"]
        + ["several", "zeros", "append", "twice", "foreign in its place"]
    )
    if kind == "flip" and text:
        at = dice.randrange(len(text))
        one.write_bytes(text[:at] + bytes([text[at] ^ 1 << dice.randrange(8)]) + text[at + 1 :])
    elif kind == "cut":
        one.write_bytes(text[: dice.randrange(len(text) or 1)])
    elif kind == "empty":
        one.write_bytes(b"")
    elif kind == "delete":
        one.unlink()
    elif kind == "swap":
        one.write_bytes(two.read_bytes())
        two.write_bytes(text)
    elif kind == "copy":
        two.write_bytes(text)
    elif kind == "rename":
        one.rename(one.with_name(two.name))
    elif kind == "foreign":
        shutil.copy(dice.choice(foreign), folder)
    elif kind == "foreign in its place":
        shutil.copy(dice.choice(foreign), one)
    elif kind == "several":
        for path in dice.sample(ours, min(3, len(ours))):
            path.unlink()
    elif kind == "zeros":
        one.write_bytes(bytes(len(text)))
    elif kind == "append":
        one.write_bytes(text + b"more")
    else:
        return f"{kind}: {damage(folder, foreign, dice)}, {damage(folder, foreign, dice)}"
    return f"{kind} {one.name} {two.name}"


FAULTS = {  # what is run, how results are compared, kills, faults
    "sweep": (lambda *a, **o: run(*a, **o), 25, 225),
    "fit": (lambda *a, **o: one_run(*a, **FITS["everything"] | o), 9, 50),
    "race": (lambda *a, **o: race("successive_halving", *a, **o), 12, 24),
    "population": (lambda *a, **o: race("population_based_training", *a, **o), 12, 24),
}


@pytest.mark.parametrize("what", FAULTS)
def test_no_fault_gives_a_wrong_result(tmp_path, monkeypatch, quick, what):
    """After each of many kills and faults: the right bits, or an error that names a file."""
    go, kills, faults = FAULTS[what]
    dice, whole, told = random.Random(0), go(), []
    alike = same_fits if what == "fit" else same_results
    run(tmp_path / "foreign", loss=loss_towards(9.0))
    foreign = sorted(p for p in (tmp_path / "foreign").iterdir() if p.name != "lock")
    states = []
    for write in range(1, kills):
        states.append(tmp_path / f"state{write}")
        with monkeypatch.context() as patch:
            die_at(patch, write)
            with pytest.raises(Killed):
                go(states[-1])
    states.append(tmp_path / "whole")
    go(states[-1])
    for case in range(kills + faults):
        folder = tmp_path / f"case{case}"
        shutil.copytree(
            dice.choice(states) if case >= kills else states[case % len(states)], folder
        )
        done = damage(folder, foreign, dice) if case >= kills else "killed"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = go(folder)
            except ValueError as error:
                told.append("error")
                assert str(folder) in str(error) and "resume=False" in str(error), done
                assert "foreign" in done, (done, error)
                result = go(folder, resume=False)
        if caught:
            told.append("warning")
            assert all(str(folder) in str(w.message) for w in caught), done
        assert case >= kills or not caught, (done, caught[0].message)
        alike(result, whole)
        assert not list(folder.glob(f".*{files.PART}"))
        shutil.rmtree(folder)
    assert told.count("error") > faults // 25 and told.count("warning") > faults // 3


def test_a_lost_chunk_does_not_shift_the_history(tmp_path, quick):
    whole = run(tmp_path)
    for path in tmp_path.glob("chunk-00000003-*"):
        path.unlink()
    with pytest.warns(UserWarning, match="is lost.*lanes 0-4 go back to step 0"):
        same_results(run(tmp_path), whole)


def test_leftovers_cost_one_chunk_at_most(tmp_path, quick, monkeypatch):
    whole = run(tmp_path)
    (newest,) = tmp_path.glob("carry-00000012-000002-*")
    newest.write_bytes(b"")
    steps, save = [], Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda *a: (steps.append((a[1].lanes, a[2].done)), save(*a))
    )
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged.*lanes 2-3 go back to step 9"):
        same_results(run(tmp_path), whole)
    assert steps == [([2, 3], 12)]


# --- races ---

LANES = {"learning_rate": [0.1, 0.2, 1e30, 0.4, 0.5, 0.05, 0.02]}
RACES = {
    "successive_halving": (
        gdjax.successive_halving, dict(steps=12, eta=2, min_steps=3), dict(eta=3)
    ),
    "successive_halving, two programs": (
        gdjax.successive_halving,
        dict(
            steps=12, eta=2, min_steps=3, by="w", mode="max", lanes_per_program=3, has_aux=True,
            space={"learning_rate": [0.1, 0.2, 0.3], "nesterov": [False, True], "momentum": [0.9]},
            loss=lambda p, b: (LOSS(p, b), {"batch": b}), held_out=DATA,
            metric_fn=lambda p, d: {"w": p["w"], "sum": p["w"] * d.sum()},
        ),
        dict(mode="min"),
    ),
    "hyperband": (
        gdjax.hyperband,
        dict(
            steps=9, min_steps=1, method="random", lanes_per_program=4,
            space={"learning_rate": gdjax.log_uniform(0.01, 1.0)},
        ),
        dict(by="held_out", mode="min", held_out=DATA),
    ),
    "median_stop": (gdjax.median_stop, dict(steps=12, every=3, seeds=2), dict(grace=6)),
    "population_based_training": (
        gdjax.population_based_training, dict(steps=20, every=4, share=0.4), dict(share=0.2)
    ),
    "population_based_training, of momentum": (
        gdjax.population_based_training,
        dict(
            steps=12, every=4, by="held_out", mode="min", held_out=DATA, lanes_per_program=3,
            space=[{"learning_rate": 0.1, "momentum": m} for m in (0.0, 0.5, 0.9, 0.95, 0.99)],
            perturb={"momentum": (0.9, 1.01)},
        ),
        dict(perturb={"momentum": (0.9, 1.0)}),
    ),
}  # fmt: skip


def race(name, directory=None, loss=LOSS, space=LANES, **more):
    function, options, _ = RACES[name]
    options = dict(lanes_per_program=2, batch_size=2, key=3, loss=loss, space=space) | options
    options |= more
    loss, space = options.pop("loss"), options.pop("space")
    return function(loss, START, gdjax.sgd, space, DATA, directory=directory, **options)


def half_raced(name, folder, monkeypatch, write):
    """Kill a race at a write; return whether it got there."""
    with monkeypatch.context() as patch:
        die_at(patch, write)
        try:
            race(name, folder)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("name", RACES)
def test_a_killed_race_goes_on(tmp_path, monkeypatch, quick, name):
    whole, saved, save = race(name), [], Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda *a: (saved.append((tuple(a[1].lanes), a[2].done)), save(*a))
    )
    same_results(race(name, tmp_path / "whole"), whole)
    chunks = len(saved)
    assert chunks == len(set(saved)) > 5
    for write in [*range(1, 4 * chunks, 9), 4 * chunks - 1]:
        folder = tmp_path / str(write)
        saved.clear()
        if not half_raced(name, folder, monkeypatch, write):
            break
        before = set(saved[:-2])  # the last chunk was not written, and maybe one after it
        saved.clear()
        same_results(race(name, folder), whole)
        again = before & set(saved)
        assert not again or len(again) < 4 and "population" in name, (write, again)
        saved.clear()
        same_results(race(name, folder), whole)
        assert not saved
    function, options, change = RACES[name]
    with pytest.raises(ValueError, match=f"holds a run with other .*{next(iter(change))}"):
        race(name, tmp_path / "whole", **change)
    with pytest.raises(ValueError, match="holds a run with other function"):
        run(tmp_path / "whole")


# --- one run ---


def with_everything(params, model_state, batch, key):
    noise = 0.1 * jax.random.normal(key)
    loss = jnp.mean((params["w"] * batch - 1 + noise) ** 2) + jnp.sum(params["v"] ** 2)
    return loss, ({"mean": 0.9 * model_state["mean"] + batch.mean()}, {"seen": batch, "n": noise})


FITS = {
    "plain": dict(optimizer=gdjax.sgd(gdjax.linear_schedule(0.5, 0.1, 12))),
    "everything": dict(
        optimizer=gdjax.tail_average(gdjax.chain(gdjax.scale_by_adam(), gdjax.noisy_sgd(0.05))),
        loss=with_everything, has_aux=True, needs_key=True, held_out=DATA, key=jax.random.key(5),
        params={"w": np.float32(0.5), "v": jnp.ones(3, jnp.bfloat16)},
        model_state={"mean": jnp.zeros(())}, on_nonfinite="stop",
        metric_fn=lambda p, m, d: {"a/b": p["w"] + m["mean"], "mean": jnp.mean(d) + p["w"]},
    ),
    "diverges": dict(optimizer=gdjax.sgd(1e25), on_nonfinite="stop"),
}  # fmt: skip


def one_run(directory=None, **more):
    options = dict(
        loss=LOSS, params=START, optimizer=gdjax.adam(0.1), data=DATA, steps=11, report_every=3,
        batch_size=2, key=3,
    ) | more  # fmt: skip
    given = [options.pop(k) for k in ("loss", "params", "optimizer", "data")]
    return gdjax.fit(*given, directory=directory, **options)


def same_fits(a, b):
    def bits(x):
        is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    left, right = (jax.tree.map(bits, vars(r) | dict(seconds=0, position=0)) for r in (a, b))
    same(left, right)
    assert a.position == b.position
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)


@pytest.fixture
def saves(monkeypatch):
    """The steps at which something was saved."""
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *a: (saved.append(a[2].done), save(*a))[1])
    return saved


@pytest.mark.parametrize("name", FITS)
def test_a_killed_fit_goes_on(tmp_path, monkeypatch, quick, saves, name):
    options = FITS[name]
    whole = one_run(**options)
    same_fits(one_run(tmp_path / "whole", **options), whole)
    chunks = list(saves)
    assert chunks == [3, 6, 9, 11] if name != "diverges" else chunks == [3]
    for write in range(1 + 2 * len(chunks)):  # run.json, and a chunk and a carry each time
        folder = tmp_path / str(write)
        with monkeypatch.context() as patch:
            die_at(patch, write)
            with pytest.raises(Killed) as killed:
                one_run(folder, **options)
        assert not write or killed.value.result.steps <= whole.steps
        saves.clear()
        same_fits(one_run(folder, **options), whole)
        assert saves == chunks[max(0, write - 1) // 2 :], write
        saves.clear()
        same_fits(one_run(folder, **options), whole)
        assert not saves and len(list(folder.glob("carry-*"))) <= 2


def test_a_fit_can_be_made_longer(tmp_path, quick, saves):
    for options in (dict(), dict(report_every=None)):
        for first, second in ((11, 25), (12, 13), (1, 25)):
            folder = tmp_path / f"{first}-{second}-{len(options)}"
            more = dict(held_out=DATA) | options
            one_run(folder, steps=first, **more)
            length = max(saves[0], 1) if options else 3
            saves.clear()
            longer = one_run(folder, steps=second, **more)
            assert saves[0] == min(first // length * length + length, second)
            same_fits(longer, one_run(steps=second, **more | dict(report_every=length)))
            saves.clear()
            with pytest.raises(ValueError, match=f"has taken {second} steps already, more than"):
                one_run(folder, steps=second - 1, **more)
    sweep = dict(steps=7, held_out=DATA)
    run(tmp_path / "sweep", **sweep)
    same_results(run(tmp_path / "sweep", held_out=DATA), run(held_out=DATA))


CHANGED_FITS = {
    "loss_fn": dict(loss=loss_towards(9.0)),
    "params": dict(params={"w": np.float32(0.25)}),
    "optimizer": dict(optimizer=gdjax.adam(0.2)),
    "optimizer, its flags": dict(optimizer=gdjax.adam(0.1, nesterov=True)),
    "state": dict(state=gdjax.adam(0.1).init(START)),
    "data": dict(data=DATA + 1),
    "batch_size": dict(batch_size=4),
    "key": dict(key=4),
    "report_every": dict(report_every=4),
    "held_out": dict(held_out=DATA[:3]),
    "has_aux": dict(loss=lambda p, b: (LOSS(p, b), b), has_aux=True),
    "needs_key": dict(loss=lambda p, b, key: LOSS(p, b), needs_key=True),
    "model_state": dict(
        loss=lambda p, m, b: (LOSS(p, b), m), model_state=jnp.zeros(2), held_out=DATA,
        metric_fn=lambda p, m, d: p["w"],
    ),
}  # fmt: skip


def test_another_fit_is_refused(tmp_path, quick):
    whole = one_run(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
    for what, change in [*CHANGED_FITS.items(), ("start", dict(start=one_run(steps=1)))]:
        with pytest.raises(ValueError, match=r"resume=False") as error:
            one_run(tmp_path, **change)
            pytest.fail(what)
        assert what.split(",")[0] in str(error.value) and str(tmp_path) in str(error.value), what
        now = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
        assert now == before, what
    same_fits(one_run(tmp_path, loss=loss_towards(1.0)), whole)  # the same, but defined again
    with pytest.raises(ValueError, match="other function .fit, now sweep"):
        run(tmp_path)
    same_fits(one_run(tmp_path, key=4, resume=False), one_run(key=4))


class Counting:
    """A callback with a state of every kind, that ends the run when it has seen enough."""

    def __init__(self, end=99):
        self.seen, self.end = [], end
        self.state = {}

    def __call__(self, report):
        self.seen.append(report.step)
        self.state = {
            "seen": self.seen, "text": ["é", None, True, 0.1, -float("inf")], "bytes": b"\0x",
            "w": report.params["w"], 3: {"~array": (jnp.ones(2, jnp.bfloat16), np.float64(0.1))},
            "key": jax.random.key(report.step), "a/b": {}, "empty": np.zeros((0, 2)),
        }  # fmt: skip
        return len(self.seen) >= self.end

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state, self.seen = state, state["seen"]


def test_callbacks_go_on(tmp_path, monkeypatch, quick, saves):
    def plain(report):
        pass

    whole = Counting()
    result = one_run(callbacks=[plain, whole])
    for write in range(9):
        folder, first, second = tmp_path / str(write), Counting(), Counting()
        with monkeypatch.context() as patch:
            die_at(patch, write)
            with pytest.raises(Killed):
                one_run(folder, callbacks=[plain, first])
        same_fits(one_run(folder, callbacks=[plain, second]), result)
        assert second.seen == [3, 6, 9, 11]
        last = Counting()
        same_fits(one_run(folder, callbacks=[plain, last]), result)
        assert last.state["text"] == whole.state["text"] and last.state["bytes"] == b"\0x"
        assert last.state["w"] == whole.state["w"] and last.state["a/b"] == {}
        ones, tenth = last.state[3]["~array"]
        assert ones.dtype == jnp.bfloat16 and tenth == np.float64(0.1) and tenth.dtype == np.float64
        assert last.state["key"] == jax.random.key(11) and last.state["empty"].shape == (0, 2)
    ended = one_run(tmp_path / "ended", callbacks=[Counting(2)])
    saves.clear()
    same_fits(one_run(tmp_path / "ended", callbacks=[Counting(2)]), ended)
    assert ended.steps == 6 and not saves

    def fail(report):
        if report.step == 9:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        one_run(tmp_path / "failed", callbacks=[fail])
    assert raised.value.result.steps == 9
    saves.clear()
    same_fits(one_run(tmp_path / "failed"), result)
    assert saves == [9, 11]


def test_a_fit_that_continues_a_result_goes_on(tmp_path, monkeypatch, quick, saves):
    start, whole = one_run(steps=4), one_run()
    for write in range(7):
        folder = tmp_path / str(write)
        with monkeypatch.context() as patch:
            die_at(patch, write)
            with pytest.raises(Killed):
                one_run(folder, steps=7, start=start)
        saves.clear()
        result = one_run(folder, steps=7, start=start)
        same(vars(result) | dict(seconds=0), vars(whole) | dict(seconds=0))
        assert saves == [7, 10, 11][max(0, write - 1) // 2 :]
    longer = one_run(folder, steps=9, start=start)
    same(longer.history, one_run(steps=13).history)
    saves.clear()
    assert one_run(folder, steps=9, start=start).steps == 13 and not saves


class Shuffled:
    """A loader that shuffles each pass by a generator of its own, and says where it stands."""

    def __init__(self):
        self.passes, self.read, self.resumed = 0, 0, None

    def __iter__(self):
        self.passes, self.read = self.passes + 1, 0
        if self.resumed is not None:
            (self.passes, self.read), self.resumed = self.resumed, None
        order = np.random.default_rng(self.passes).permutation(8).reshape(4, 2)
        for rows in order[self.read :]:
            self.read += 1
            yield {"x": DATA[rows], "ids": (rows,)}

    def __len__(self):
        return 4

    def state_dict(self):
        return {"at": [self.passes, self.read]}

    def load_state_dict(self, state):
        self.resumed = state["at"]


class Reader:
    """An iterator that can be told where to go, as Grain's can."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return {"x": DATA[[self.at % 8, self.at % 5]], "ids": (np.array([self.at, 0]),)}

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


LOADERS = {
    "list": lambda: [{"x": DATA[i : i + 2], "ids": (np.array([i, i + 1]),)} for i in range(5)],
    "state_dict": Shuffled,
    "get_state": Reader,
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_fit_on_a_loader_goes_on(tmp_path, monkeypatch, quick, saves, kind):
    def go(directory, more=0.0, **options):
        def loss(params, batch):
            return LOSS(params, batch["x"]) + more, {"seen": batch["ids"]}

        options |= dict(batch_size=None, has_aux=True, data=LOADERS[kind]())
        return one_run(directory, loss=loss, **options)

    whole = go(tmp_path / "whole")
    assert len(np.unique(whole.history["aux"]["seen"][0][:4])) > 4
    for write in (2, 3, 5, 6, 8):
        folder = tmp_path / str(write)
        with monkeypatch.context() as patch:
            die_at(patch, write)
            with pytest.raises(Killed):
                go(folder)
        saves.clear()
        same_fits(go(folder), whole)
        assert saves == [3, 6, 9, 11][(write - 1) // 2 :]
        saves.clear()
        same_fits(go(folder), whole)
        assert not saves
    same(go(folder, steps=13).history, go(tmp_path / "long", steps=13).history)
    with pytest.raises(ValueError, match="holds a run with other loss_fn"):
        go(folder, more=1.0)
    with pytest.raises(ValueError, match="iterator without get_state"):
        one_run(tmp_path / "new", data=iter([DATA, DATA]), batch_size=None)


# --- the thread that writes ---


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch, quick):
    trained, replace = threading.Event(), os.replace

    def slow(*names):
        if "chunk-00000003" in names[1].name:
            assert trained.wait(60)
        replace(*names)

    monkeypatch.setattr(files.os, "replace", slow)
    one_run(tmp_path, callbacks=[lambda report: report.step == 6 and trained.set()])
    assert trained.is_set() and list(tmp_path.glob("carry-00000011-*"))


@pytest.mark.parametrize("failing", ["chunk-00000006", "carry-00000011"])
def test_errors_of_the_thread_are_raised(tmp_path, monkeypatch, quick, failing):
    replace, written = os.replace, []

    def full(*names):
        written.append(names[1].name)
        if failing in names[1].name:
            raise OSError("no space left on device")
        replace(*names)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(OSError, match="no space left") as raised:
            one_run(tmp_path)
        assert raised.value.result.steps >= int(failing[-2:]) and failing in written[-1]
        with pytest.raises(OSError, match="no space left"):
            run(tmp_path / "sweep", lanes_per_program=None, steps=11)
    same_fits(one_run(tmp_path), one_run())


# --- other meshes ---


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_fit_goes_on_on_another_mesh(tmp_path, kind):
    def loss(params, batch):
        return jnp.mean((jnp.tanh(batch @ params["a"]) - 1) ** 2)

    def go(devices, directory, steps):
        params = {"a": jnp.linspace(-1, 1, 32).reshape(4, 8)}
        types = (getattr(jax.sharding.AxisType, kind),)
        mesh = jax.make_mesh((devices,), ("m",), devices=jax.devices()[:devices], axis_types=types)
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "m"))
        params = jax.device_put(params, place)
        data = np.linspace(0, 1, 32, dtype=np.float32).reshape(8, 4)
        with (
            jax.sharding.use_mesh(mesh) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(mesh)
        ):
            result = gdjax.fit(
                loss, params, gdjax.adam(0.1), data, steps=steps, report_every=3,
                directory=directory, batch_size=4,
            )  # fmt: skip
        assert result.params["a"].sharding.is_equivalent_to(place, 2)
        return result

    first = go(8, tmp_path, 6)
    again = go(4, tmp_path, 6)
    same_fits(first, again)  # moved, and not one bit is another
    longer, whole = go(2, tmp_path, 12), go(2, None, 12)
    np.testing.assert_array_equal(longer.history["loss"][:6], first.history["loss"])
    np.testing.assert_allclose(longer.history["loss"], whole.history["loss"], rtol=1e-5)
    kept = go(2, tmp_path, 12)
    same_fits(kept, longer)


# --- other devices, other groups ---


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_sweep_resumes_on_other_devices_and_in_other_groups(tmp_path, monkeypatch, vectorize):
    more = dict(vectorize=vectorize, held_out=DATA, seeds=2)
    sharding = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[:2]), ("lanes",)),
        jax.sharding.PartitionSpec("lanes"),
    )
    ways = [Devices(None, 1, 1), Devices(sharding, 2, 1), Devices(None, 1, 2)]
    sizes = [3, 4, None]
    whole = {}
    for first, second in [(0, 1), (1, 2), (2, 0), (0, 0)]:
        folder = tmp_path / f"{first}{second}"
        with monkeypatch.context() as patch:
            patch.setattr(lanes_module, "all_devices", lambda way=ways[first]: way)
            if not whole:
                whole = run(**more)
            die_at(patch, 11)
            with pytest.raises(Killed):
                run(folder, lanes_per_program=sizes[first], **more)
        monkeypatch.setattr(lanes_module, "all_devices", lambda way=ways[second]: way)
        result = run(folder, lanes_per_program=sizes[second], **more)
        if vectorize:  # XLA orders sums by the number of lanes
            a, b = (jax.tree.leaves((r.params, r.state, r.history)) for r in (whole, result))
            for x, y in zip(a, b, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
        else:
            same_results(result, whole)


# --- several processes ---

HOLDER = """
import sys, time
sys.path[:0] = [{here!r}, {here!r} + "/.."]
import test_stores
from gdjax.training.checkpoint import Checkpoints
save = Checkpoints.save
def slow(*a):
    save(*a)
    if a[2].done == 6:
        sys.stdout.write("held\\n")
        sys.stdout.flush()
        time.sleep(1000)
Checkpoints.save = slow
test_stores.{call}
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("call", ["run({!r})", "race('successive_halving', {!r})"])
def test_a_second_process_is_told_and_a_killed_one_forgotten(tmp_path, call):
    script = HOLDER.format(here=os.path.dirname(__file__), call=call.format(str(tmp_path)))
    again = functools.partial(race, "successive_halving") if "race" in call else run
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONHASHSEED": "7", "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(RuntimeError, match=f"in use by process {process.pid} on"):
                again(tmp_path)
        finally:
            process.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob("chunk-*"))
    result, whole = again(tmp_path), again()  # on eight devices, after one
    np.testing.assert_array_equal(result.steps, whole.steps)
    np.testing.assert_allclose(result.history["loss"], whole.history["loss"], rtol=1e-6)
    assert not [w for w in tmp_path.glob(f".*{files.PART}")]


def test_two_threads_do_not_share_a_directory(tmp_path, quick):
    entered, leave, errors = threading.Event(), threading.Event(), []

    def metric(params, data):
        return jax.pure_callback(
            lambda x: (entered.set(), leave.wait(60), x)[2], jax.ShapeDtypeStruct((), np.float32),
            params["w"], vmap_method="sequential",
        )  # fmt: skip

    def first():
        run(tmp_path, held_out=DATA, metric_fn=metric)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(60)
    try:
        run(tmp_path)
    except RuntimeError as error:
        errors.append(str(error))
    leave.set()
    thread.join()
    assert len(errors) == 1 and f"in use by process {os.getpid()}" in errors[0]


def test_files_of_two_writers_have_names_of_their_own(tmp_path):
    seen = []

    def write(file):
        seen.append(file.name)
        if len(seen) < 20:
            files.replace_file(tmp_path / "x.npz", write)
        file.write(b"whole")

    files.replace_file(tmp_path / "x.npz", write)
    assert len(set(seen)) == 20 and [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    with pytest.raises(ZeroDivisionError):
        files.replace_file(tmp_path / "x.npz", lambda file: 1 / 0)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"whole"]


# --- paths ---


@jax.tree_util.register_pytree_with_keys_class
class Odd:
    """A node whose keys are alike as text."""

    keys = (
        jax.tree_util.GetAttrKey("a"), jax.tree_util.DictKey("a"), jax.tree_util.DictKey(0),
        jax.tree_util.DictKey("0"), jax.tree_util.SequenceKey(0), jax.tree_util.DictKey((0,)),
        jax.tree_util.DictKey("~s0"), jax.tree_util.DictKey("a\0b"), jax.tree_util.DictKey("a\0c"),
        jax.tree_util.DictKey("w"), jax.tree_util.DictKey("w.npy"), jax.tree_util.DictKey(""),
        jax.tree_util.DictKey("/"), jax.tree_util.DictKey("ä"), jax.tree_util.DictKey("\ud800"),
        jax.tree_util.DictKey("a\\b"), jax.tree_util.DictKey(True), jax.tree_util.DictKey("True"),
    )  # fmt: skip

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return tuple(zip(self.keys, self.children, strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_every_leaf_has_a_file_of_its_own(tmp_path):
    tree = {
        "a": {"b": 0.0, "": {"": 1.0}}, "a/b": 2.0, "a/": {"/": 3.0}, "/a": {"b/c": 4.0},
        "linear/~/w": {"x": 5.0}, "file": 6.0, "list": [7.0, {"0": 8.0}, (9.0,)],
        "ordered": OrderedDict([(0, 10.0), ("0", 11.0)]),
        "odd": Odd(*range(12, 12 + len(Odd.keys))),
    }  # fmt: skip
    tree = jax.tree.map(jnp.float32, tree)
    arrays = files.as_arrays(tree)
    files.write_record(tmp_path / "x.npz", {"é": [1]}, arrays)
    about, again = files.read_record(tmp_path / "x.npz")
    assert about == {"é": [1]} and len(again) == len(jax.tree.leaves(tree))
    same(files.from_arrays(again, tree), tree)
    del tree["odd"], tree["ordered"]
    back = files.nested(files.as_arrays(tree))
    assert back["a"]["b"] == 0 and back["a/b"] == 2 and back["linear/~/w"]["x"] == 5
    assert back["list"] == {0: 7, 1: {"0": 8}, 2: {0: 9}}
    with pytest.raises(ValueError, match=r"'w'.*not in the file, and lacks .*'v'"):
        files.from_arrays(files.as_arrays({"v": jnp.ones(2)}), {"w": jnp.ones(2)}, "x")
    with pytest.raises(ValueError, match=r"shape \(3,\) at 'w', the file \(2,\)"):
        files.from_arrays(files.as_arrays({"w": jnp.ones(2)}), {"w": jnp.ones(3)}, "x")


def test_dtypes_survive(tmp_path):
    kinds = ["bfloat16", "float8_e4m3fn", "float16", "int4", "bool", "complex64", "uint32"]
    arrays = {k: np.arange(3).astype(jnp.dtype(k)) for k in kinds} | {
        "none": np.zeros((0, 2), jnp.bfloat16), "scalar": np.asarray(jnp.bfloat16(2))
    }  # fmt: skip
    files.write_record(tmp_path / "x.npz", {}, arrays)
    for name, x in files.read_record(tmp_path / "x.npz")[1].items():
        assert x.dtype == arrays[name].dtype and x.shape == arrays[name].shape
        np.testing.assert_array_equal(x, arrays[name])
    with pytest.raises(TypeError, match="Python objects"):
        files.write_record(tmp_path / "x.npz", {}, {"o": np.array([object()])})


def test_names_with_slashes_resume_and_load(tmp_path, monkeypatch, quick):
    params = {"a": {"b": np.float32(1)}, "a/b": np.float32(2), "c": np.zeros(2, jnp.bfloat16)}

    def loss(p, b):
        return (p["a"]["b"] - 3) ** 2 + (p["a/b"] + 5) ** 2 + (p["c"] ** 2).sum() + 0 * b.sum()

    more = dict(loss=loss, params=params, optimizer=gdjax.adam, held_out=DATA)
    more["metric_fn"] = lambda p, d: {"a/b": p["a/b"], "a": p["a"]["b"]}
    whole = run(**more)
    with monkeypatch.context() as patch:
        die_at(patch, 7)
        with pytest.raises(Killed):
            run(tmp_path / "d", **more)
    result = run(tmp_path / "d", **more)
    same_results(result, whole)
    result.save(tmp_path / "r.npz")
    again = gdjax.SweepResult.load(tmp_path / "r.npz", params, gdjax.adam(0.1).init(params))
    same_results(again, whole)
    plain = gdjax.SweepResult.load(tmp_path / "r.npz")
    same(plain.params, whole.params)
    assert plain.params["c"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"load\(params=...\) has another structure"):
        gdjax.SweepResult.load(tmp_path / "r.npz", {"a": params["a"]})
    text = (tmp_path / "r.npz").read_bytes()
    for bad in (text[:-1], text[:100], b"", text.replace(b"params", b"qarams", 1)):
        (tmp_path / "r.npz").write_bytes(bad)
        with pytest.raises(ValueError, match=r"r\.npz is damaged"):
            gdjax.SweepResult.load(tmp_path / "r.npz")
