"""Searches with Optuna: the values are those of a sweep, one program serves all rounds."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training import study as study_module

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

KEY = jax.random.key(0)
DATA = jax.random.normal(KEY, (12, 3)) + 1
HELD = jax.random.normal(jax.random.key(1), (6, 3)) + 1
RATE = {"learning_rate": gdjax.log_uniform(1e-3, 10.0)}


def loss_fn(x, batch):
    return jnp.mean((x[None] - batch) ** 2)


def metrics(x, batch):
    return {"score": -jnp.mean((x[None] - batch) ** 2), "size": jnp.sum(x**2)}


TASK = (loss_fn, jnp.zeros(3), gdjax.sgd)
RUN = dict(steps=6, batch_size=4, key=3)


def search(space=RATE, *, trials=8, lanes=4, sampler="random", task=TASK, data=DATA, **options):
    return gdjax.search(
        *task, space, data, trials=trials, lanes=lanes, sampler=sampler, **{**RUN, **options}
    )


def sweep(result, **options):
    configs = [trial.config for trial in result.trials]
    return gdjax.sweep(*TASK, configs, DATA, **{**RUN, **options})


@pytest.fixture
def compiles():
    """Return a function that counts the programs that were compiled since it was last called."""
    seen = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            seen.append(name)

    def count():
        number = len(seen)
        seen.clear()
        return number

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    if hasattr(jax.monitoring, "unregister_event_duration_listener"):
        jax.monitoring.unregister_event_duration_listener(listen)


# --- values ---


def test_values_are_those_of_a_sweep_over_the_same_configs():
    result = search(trials=10)
    same = sweep(result)
    values = np.array([trial.value for trial in result.trials])
    np.testing.assert_allclose(values, same.final_loss, rtol=1e-5)
    assert [t.number for t in result.trials] == list(range(10))
    assert [t.value for t in result.study.trials] == values.tolist()
    lane = int(np.argmin(values))
    assert (
        result.best.number == lane and result.best.value == values[lane] == result.study.best_value
    )
    np.testing.assert_allclose(result.best.params, same.params[lane], rtol=1e-5)
    rate = gdjax.hyperparams(result.best.state)["learning_rate"]
    np.testing.assert_allclose(rate, result.best.config["learning_rate"], rtol=1e-6)
    np.testing.assert_array_equal(result.history, np.minimum.accumulate(values))


def test_the_value_of_a_trial_is_the_mean_of_its_repeats():
    result = search(trials=6, lanes=3, seeds=[5, 7], task=(loss_fn, init, gdjax.sgd))
    configs = [{**t.config, "seed": seed} for t in result.trials for seed in (5, 7)]
    same = gdjax.sweep(loss_fn, init, gdjax.sgd, configs, DATA, **RUN)
    repeats = same.final_loss.reshape(6, 2)
    assert np.ptp(repeats, 1).min() > 0
    np.testing.assert_allclose([t.value for t in result.trials], repeats.mean(1), rtol=1e-5)
    error = repeats.std(1, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose([t.error for t in result.trials], error, rtol=1e-3)
    attributes = result.study.trials[2].user_attrs
    np.testing.assert_allclose(attributes["values"], repeats[2], rtol=1e-5)
    assert attributes["error"] == result.trials[2].error and attributes["steps"] == 6
    best = result.best.number
    lane = 2 * best + int(np.argmin(repeats[best]))  # its best repeat
    np.testing.assert_allclose(result.best.params, same.params[lane], rtol=1e-5)


def init(key):
    return jax.random.normal(key, (3,))


def test_a_metric_decides_where_more_is_better():
    judged = dict(held_out=HELD, metric_fn=metrics, by="score", mode="max")
    result = search(**judged)
    same = sweep(result, held_out=HELD, metric_fn=metrics)
    np.testing.assert_allclose([t.value for t in result.trials], same.values("score"), rtol=1e-5)
    assert result.best.value == max(t.value for t in result.trials) == result.study.best_value
    assert result.history[-1] == result.best.value and (np.diff(result.history) >= 0).all()
    with pytest.raises(ValueError, match=r"search\(by='score'\) needs mode="):
        search(**{**judged, "mode": None})
    with pytest.raises(ValueError, match=r"search\(by=...\) must be one of 'loss', 'score'"):
        search(**{**judged, "by": "accuracy"})


def test_the_state_of_a_model_is_kept():
    def counted(x, count, batch):
        return loss_fn(x, batch), (count + 1, jnp.sum(x))

    def with_count(x, count, batch):
        return {"score": loss_fn(x, batch) + count}

    result = search(
        task=(lambda *args: (counted(*args)[0], (counted(*args)[1][0], ())), *TASK[1:]),
        has_aux=True, model_state=jnp.zeros(()), held_out=HELD, metric_fn=with_count, by="score",
        mode="min", trials=4,
    )  # fmt: skip
    assert result.best.model_state == 6 and result.best.value > 6


def test_trials_that_diverge_are_told_with_their_step():
    space = {"learning_rate": [0.1, 1e30, 0.2, 1e25]}
    result = search(space, trials=4, sampler="grid")
    same = sweep(result)
    for trial, frozen, at in zip(result.trials, result.study.trials, same.diverged_at, strict=True):
        diverged = trial.config["learning_rate"] > 1
        assert trial.state == ("diverged" if diverged else "complete")
        assert trial.diverged_at == (at if diverged else None) and diverged == (at >= 0)
        assert frozen.state.name == ("PRUNED" if diverged else "COMPLETE")
        assert frozen.user_attrs.get("diverged_at") == trial.diverged_at
        assert trial.value == np.inf if diverged else np.isfinite(trial.value)
    assert result.best.config["learning_rate"] < 1
    assert "diverged" in result.table().splitlines()[-1]


def test_a_search_where_all_diverge_says_so():
    result = search({"learning_rate": [1e30, 1e35]}, trials=2, sampler="grid")
    assert result.found is None and np.isnan(result.history).all() and "2 diverged" in repr(result)
    with pytest.raises(ValueError, match="no trial was completed; all diverged"):
        _ = result.best


# --- one program ---


def test_all_rounds_share_one_program(compiles):
    space = {
        "learning_rate": gdjax.log_uniform(1e-3, 1.0),
        "momentum": gdjax.choice(0, 0.5, 0.9),  # a round may sample only the integer
        "nesterov": [False, True],
    }
    options = dict(sampler="tpe", lanes=4, seeds=2)
    search(space, trials=4, **options, key=1)
    compiles()
    result = search(space, trials=23, **options)  # the last round is shorter
    assert compiles() == 0
    momenta = {trial.config["momentum"] for trial in result.trials}
    assert momenta == {0.0, 0.5, 0.9} and all(isinstance(m, float) for m in momenta)
    assert {trial.config["nesterov"] for trial in result.trials} == {False, True}


@pytest.mark.parametrize("vectorize", [True, False])
def test_trials_are_pruned_on_the_device(compiles, vectorize):
    options = dict(trials=18, lanes=9, steps=27, vectorize=vectorize, batch_size=None)
    options["space"] = {"learning_rate": gdjax.log_uniform(1e-3, 2.0)}
    result = search(pruner="halving", **options)
    compiles()
    search(pruner="halving", **options, key=5)
    assert compiles() <= 3  # of other sizes, where more of the trials are left after a rung
    full = {t.number: t for t in search(**options).trials}
    reached: dict[int, dict[int, float]] = {1: {}, 3: {}, 9: {}}
    for frozen in result.study.trials:
        for step, value in frozen.intermediate_values.items():
            reached[step][frozen.number] = value
    assert len(reached[1]) == 18
    for round_ in (range(9), range(9, 18)):  # the rule, by hand
        alive = set(round_)
        for step in (1, 3, 9):
            known = {n: v for n, v in reached[step].items() if n <= round_[-1]}
            last = sorted(known.values())[max(1, len(known) // 3) - 1]
            best = [n for n in known if known[n] <= last]
            stopped = alive - set(best)
            assert all(result.trials[n].steps == step for n in stopped)
            assert all(result.trials[n].state == "pruned" for n in stopped)
            alive &= set(best)
        for n in alive:
            assert result.trials[n].state == "complete" and result.trials[n].steps == 27
            np.testing.assert_allclose(result.trials[n].value, full[n].value, rtol=1e-4, atol=1e-7)
    assert result.best.value == min(t.value for t in result.trials if t.state == "complete")
    assert sum(t.steps for t in result.trials) < 18 * 27 / 3


def test_a_pruner_of_optuna_is_asked_at_each_rung():
    pruner = optuna.pruners.ThresholdPruner(upper=2.0)
    result = search(trials=8, pruner=pruner, rungs=[2, 4], seeds=2, task=(loss_fn, init, gdjax.sgd))
    for trial, frozen in zip(result.trials, result.study.trials, strict=True):
        reports = frozen.intermediate_values
        last = max(reports, default=None)
        if trial.state == "pruned":
            assert reports[last] > 2 and trial.steps == last and trial.value == reports[last]
        elif trial.state == "complete":
            assert list(reports) == [2, 4] and max(reports.values()) <= 2
    assert {"pruned", "complete"} <= {trial.state for trial in result.trials}


# --- the space ---


def test_a_space_becomes_distributions():
    def factory(learning_rate, momentum, decay, kind, shape, nesterov):
        return gdjax.chain(kind(learning_rate), gdjax.scale(decay * shape))

    space = {
        "learning_rate": gdjax.log_uniform(1e-3, 0.1),
        "momentum": gdjax.uniform(0.5, 2.5, whole=True),
        "decay": lambda config: config["momentum"] / 4,
        "kind": gdjax.choice(gdjax.sgd, gdjax.adam),
        "shape": np.array([0.5, 1.0], np.float32),
        "nesterov": optuna.distributions.CategoricalDistribution([True]),
    }
    result = search(space, task=(loss_fn, jnp.zeros(3), factory))
    of = result.study.trials[0].distributions
    categorical = optuna.distributions.CategoricalDistribution
    assert of["learning_rate"] == optuna.distributions.FloatDistribution(1e-3, 0.1, log=True)
    assert of["momentum"] == optuna.distributions.IntDistribution(1, 2)
    assert of["kind"] == categorical(["sgd", "adam"]) and of["shape"] == categorical([0.5, 1.0])
    assert "decay" not in of
    for trial, frozen in zip(result.trials, result.study.trials, strict=True):
        assert list(trial.config) == list(space)
        assert trial.config["decay"] == trial.config["momentum"] / 4
        assert trial.config["kind"] is {"sgd": gdjax.sgd, "adam": gdjax.adam}[frozen.params["kind"]]
    assert {row["kind"] for row in result.rows()} == {"sgd", "adam"}


def test_samplers():
    space = {"momentum": gdjax.uniform(0.0, 0.9), **RATE}
    run = functools.partial(search, space, trials=16)

    def rates(result):
        return [trial.config["learning_rate"] for trial in result.trials]

    names = ["tpe", "random", "qmc", "cmaes"]
    first = {name: rates(run(sampler=name)) for name in names}
    again = {name: rates(run(sampler=name)) for name in names}
    other = {name: rates(run(sampler=name, key=4)) for name in names}
    assert first == again and all(first[name] != other[name] for name in names)
    assert len({tuple(rates) for rates in first.values()}) == 4
    of_optuna = optuna.samplers.RandomSampler(seed=2)
    assert rates(run(sampler=of_optuna)) != first["random"]
    grid = {"learning_rate": [0.1, 0.2, 0.3], "momentum": [0.0, 0.5]}
    result = search(grid, sampler="grid", trials=100)  # it ends
    assert len({tuple(t.config.values()) for t in result.trials}) == len(result.trials) == 6
    best = search(sampler="tpe", trials=40, batch_size=None).best
    assert best.value < min(t.value for t in search(trials=40, batch_size=None).trials) * 1.01


def test_a_gaussian_process():
    pytest.importorskip("torch")
    assert len(search(sampler="gp", trials=14, lanes=2).trials) == 14


@pytest.mark.parametrize(
    "error, options",
    [
        ("trials=...*>= 1, got 0", dict(trials=0)),
        ("lanes=...*>= 1, got 0", dict(lanes=0)),
        ("sampler=...*must be one of 'tpe'", dict(sampler="bayes")),
        ("sampler=...*must be a sampler of Optuna", dict(sampler=3)),
        (r"sampler='grid'\) needs a list.*'learning_rate' is a range", dict(sampler="grid")),
        ("pruner=...*must be one of 'halving', got 'median'", dict(pruner="median")),
        ("rungs=...*no effect without a pruner", dict(rungs=[2])),
        ("rungs=...*ascending and less than the 6 steps", dict(pruner="halving", rungs=[3, 6])),
        ("eta=...*>= 2, got 1", dict(pruner="halving", eta=1)),
        (r"by='score'\) needs held_out", dict(by="score", mode="max")),
        ("needs exactly one of steps", dict(epochs=3)),
        ("batch_size=...*must be in", dict(batch_size=13)),
        ("has no argument 'rate'", dict(space={"rate": [0.1]})),
        ("needs 'learning_rate'", dict(space={"momentum": [0.1]})),
        ("at least one name", dict(space={})),
        ("only functions", dict(space={"learning_rate": lambda config: 0.1})),
        ("'learning_rate' must be a uniform", dict(space={"learning_rate": 0.1})),
        ("has an option twice", dict(space={"optimizer": [gdjax.sgd, gdjax.sgd]})),
        (
            r"space=...\): sgd\(momentum=...\) must be",
            dict(space={"learning_rate": [0.1], "momentum": gdjax.uniform(0.0, 2.0)}),
        ),
        ("data=...*must be arrays; a search reads", dict(data=iter([DATA]))),
        ("storage=...*must be .*path", dict(storage=3)),
        ("names before it are", dict(space={"momentum": lambda c: c["b"], "learning_rate": [1]})),
    ],
)
def test_errors(error, options):
    with pytest.raises((ValueError, TypeError), match="search.*" + error.replace("...*", ".*")):
        search(**options)


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'pip install "gdjax\[search\]"'):
        search()


# --- results ---


def test_tables_and_plots():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    space = {"learning_rate": [0.1, 1e30, 0.2, 0.3, 0.05], "error": lambda config: 0.0}

    def factory(learning_rate, error):
        return gdjax.sgd(learning_rate)

    result = search(
        space, trials=5, lanes=5, sampler="grid", pruner="halving", rungs=[3], eta=2,
        task=(loss_fn, jnp.zeros(3), factory),
    )  # fmt: skip
    states = [trial.state for trial in result.trials]
    assert sorted(states) == ["complete"] * 2 + ["diverged"] + ["pruned"] * 2
    frame = result.table("pandas")
    assert frame["state"].tolist() == ["complete"] * 2 + ["pruned"] * 2 + ["diverged"]
    assert frame.index[0] == result.best.number and (frame["error"] == 0).all()
    assert "error (result)" in frame and "error (result)" not in result.table()
    axes = result.plot()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == ["best so far", "complete", "diverged", "pruned"]
    assert "2 complete, 2 pruned, 1 diverged" in repr(result) and "params=float32[3]" in repr(
        result
    )


def test_progress_counts_trials(capsys):
    pytest.importorskip("tqdm")
    search(progress=True)
    assert "8/8" in capsys.readouterr().err


def test_ctrl_c_returns_what_is_finished():
    calls = []

    def sampled(study, trial, state, values):
        calls.append(1)
        if len(calls) == 6:  # while the second round of four is told
            signal.raise_signal(signal.SIGINT)

    sampler = optuna.samplers.RandomSampler(seed=0)
    sampler.after_trial = sampled
    result = search(trials=40, sampler=sampler)
    assert 4 <= len(result.trials) <= 8 and result.best.params is not None
    states = [trial.state.name for trial in result.study.trials]
    assert set(states) <= {"COMPLETE", "FAIL", "WAITING"} and "RUNNING" not in states


# --- storages ---


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_a_stored_search_goes_on(tmp_path, name):
    storage = tmp_path / "in" / name
    first = search(trials=6, storage=storage)
    whole = search(trials=14, storage=str(storage))
    assert len(whole.trials) == 14 and whole.trials[:6] == first.trials
    values = [t.config["learning_rate"] for t in whole.trials]
    assert len(set(values)) == 14  # the sampler does not begin anew
    again = search(trials=14, storage=storage)  # nothing is left to do but to train the best
    assert again.trials == whole.trials
    np.testing.assert_array_equal(again.best.params, whole.best.params)
    assert again.best[:3] == whole.best[:3]


def test_a_stored_search_is_that_search(tmp_path):
    storage = tmp_path / "study.db"
    judged = dict(storage=storage, held_out=HELD)
    search(trials=4, **judged)

    def other_loss(x, batch):
        return jnp.mean((x[None] - batch) ** 4)

    for what, changed in {
        "loss_fn": dict(task=(other_loss, *TASK[1:])),
        "optimizer": dict(task=(*TASK[:2], functools.partial(gdjax.sgd, momentum=0.9))),
        "params": dict(task=(loss_fn, jnp.ones(3), gdjax.sgd)),
        "space": dict(space={"learning_rate": gdjax.log_uniform(1e-3, 1.0)}),
        "data": dict(data=DATA + 1),
        "by": dict(by="held_out", mode="min"),
        "steps": dict(steps=7),
        "seeds": dict(seeds=2),
        "key": dict(key=9),
    }.items():
        with pytest.raises(ValueError, match=rf"holds a search with other .*\b{what}\b"):
            search(trials=8, **judged | changed)
    assert len(optuna.load_study(study_name="search", storage=f"sqlite:///{storage}").trials) == 4
    search(trials=4, task=(other_loss, *TASK[1:]), study_name="another", **judged)
    anew = search(trials=4, task=(other_loss, *TASK[1:]), resume=False, **judged)
    assert len(anew.trials) == 4
    foreign = f"sqlite:///{tmp_path / 'foreign.db'}"
    optuna.create_study(storage=foreign, study_name="search").ask()
    with pytest.raises(ValueError, match="holds a study that search did not make"):
        search(storage=foreign)


def test_what_a_dead_process_was_running_runs_again(tmp_path, monkeypatch):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    search(trials=4, storage=storage)
    study = optuna.load_study(study_name="search", storage=storage)
    distributions = study.trials[0].distributions
    child = subprocess.Popen(["true"])
    child.wait()
    here, old = study_module.socket.gethostname(), time.time() - 2 * study_module.STALE
    workers = {
        "worker dead": dict(host=here, pid=child.pid, seen=time.time()),
        "worker far": dict(host="elsewhere", pid=child.pid, seen=time.time()),
        "worker lost": dict(host="elsewhere", pid=child.pid, seen=old),
    }
    left = {}
    for worker, about in workers.items():
        study.set_user_attr(worker, about)
        trial = study.ask(distributions)
        trial.set_user_attr("worker", worker)
        left[worker] = trial
    with pytest.raises(RuntimeError, match="in use by process .* on elsewhere"):
        search(storage=storage, resume=False)
    result = search(trials=8, storage=storage)
    states = {trial.number: trial.state.name for trial in result.study.trials}
    assert [states[left[k].number] for k in workers] == ["FAIL", "RUNNING", "FAIL"]
    assert len(result.trials) == 7  # the eighth is that of the process elsewhere
    rates = [trial.config["learning_rate"] for trial in result.trials]
    for worker in ("worker dead", "worker lost"):
        assert left[worker].params["learning_rate"] in rates


PROGRAM = """
import sys, time
from pathlib import Path
import jax, jax.numpy as jnp, optuna
import gdjax

optuna.logging.set_verbosity(optuna.logging.WARNING)
storage, trials, pause, workers = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]

class Slow(optuna.samplers.RandomSampler):
    def before_trial(self, study, trial):  # all begin before one goes on
        if workers:
            Path(workers[0]).touch()
        while not all(map(Path.exists, map(Path, workers))):
            time.sleep(0.01)

    def after_trial(self, study, trial, state, values):
        time.sleep(pause)

def loss_fn(x, batch):
    return jnp.mean((x - batch) ** 2)

space = {"learning_rate": gdjax.log_uniform(1e-3, 1.0)}
sampler = Slow() if pause else "random"
print("begin", flush=True)
result = gdjax.search(
    loss_fn, jnp.zeros(3), gdjax.sgd, space, jnp.ones((4, 3)), trials=trials, lanes=4, steps=5,
    sampler=sampler, storage=storage)
print(len(result.trials), result.best.value, result.best.params.tolist())
"""


def start(storage, trials, pause=0.0, workers=()):
    """Starts a search; `workers` are files, of which it makes the first and waits for all."""
    code = [sys.executable, "-c", PROGRAM, *map(str, (storage, trials, pause, *workers))]
    source = Path(gdjax.__file__).parent.parent
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": ""}
    return subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.processes
def test_a_search_that_was_killed_goes_on(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    process = start(storage, 20, pause=0.2)
    while True:
        time.sleep(0.1)
        assert process.poll() is None, "it ended before it was killed"
        try:
            trials = optuna.load_study(study_name="search", storage=storage).trials
        except Exception:  # it is not there yet
            continue
        if sum(trial.state.name == "COMPLETE" for trial in trials) >= 6:
            break
    process.kill()
    process.communicate()
    trials = optuna.load_study(study_name="search", storage=storage).trials
    done = [t.number for t in trials if t.state.name == "COMPLETE"]
    lost = [t.params for t in trials if t.state.name == "RUNNING"]
    assert lost and len(done) >= 6
    out, _ = start(storage, 20).communicate(timeout=120)
    assert out.split()[1] == "20"
    study = optuna.load_study(study_name="search", storage=storage)
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    assert len(complete) == 20 and {*done} <= {t.number for t in complete}
    assert "RUNNING" not in {t.state.name for t in study.trials}
    for params in filter(None, lost):
        assert params in [t.params for t in complete]
    assert json.loads(out[out.index("[") :]) == pytest.approx([1.0] * 3, abs=1.0)


@pytest.mark.processes
@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_two_processes_share_a_study(tmp_path, name):
    storage = tmp_path / name
    workers = [tmp_path / "one", tmp_path / "other"]
    both = [start(storage, 24, pause=0.02, workers=order) for order in (workers, workers[::-1])]
    outs = [process.communicate(timeout=120)[0] for process in both]
    assert all(process.returncode == 0 for process in both)
    place = study_module.open_storage("search", storage)
    trials = optuna.load_study(study_name="search", storage=place).trials
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    assert len(complete) == 24 and all(t.state.name in ("COMPLETE", "FAIL") for t in trials)
    assert len({t.user_attrs["worker"] for t in complete}) == 2
    assert len({t.params["learning_rate"] for t in complete}) == 24
    assert any(out.split()[1] == "24" for out in outs)
