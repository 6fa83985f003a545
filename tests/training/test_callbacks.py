"""gdjax.callbacks: runs and lanes stop where they should, and nothing that is logged is lost."""

import csv
import json
import struct
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_execution import on_one_device
from test_fit import DATA, START, loss_fn
from x64 import enable_x64

import gdjax
from gdjax.callbacks import (
    csv_logger,
    early_stopping,
    jsonl_logger,
    keep_best,
    logger,
    print_every,
    tensorboard_logger,
)
from gdjax.training.files import as_arrays, nested

TRAIN, HELD = tuple(x[:300] for x in DATA), tuple(x[300:] for x in DATA)
OPTIONS = dict(batch_size=32, steps=200, report_every=5, held_out=HELD, key=3)
RATES = {"learning_rate": [0.5, 0.05, 0.01, 0.003, 1e30]}
LATE = (3, "min", 1e-3)  # patience, mode, min_delta


def fit(rate=0.05, **options):
    return gdjax.fit(loss_fn, START, gdjax.adam(rate), TRAIN, **{**OPTIONS, **options})


def sweep(**options):
    return gdjax.sweep(loss_fn, START, gdjax.adam, RATES, TRAIN, **{**OPTIONS, **options})


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# --- early stopping and the best ------------------------------------------------------------------


def expected_stop(values, patience, sign, min_delta):
    """Return the reports until the run ends, and the index of the best one."""
    best, waited, at = np.inf, 0, None
    for i, value in enumerate(values):
        if np.isfinite(value) and sign * value < best - min_delta:
            best, waited, at = sign * value, 0, i
        else:
            waited += 1
            if waited >= patience:
                return i + 1, at
    return len(values), at


@pytest.mark.parametrize("patience", [0, 1, 2, 5])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("min_delta", [0.0, 0.3])
def test_a_lane_stops_as_a_loop_by_hand_says(patience, mode, min_delta):
    rng = np.random.default_rng(patience)
    values = rng.normal(size=(12, 30))
    values[rng.random(values.shape) < 0.1] = np.nan
    values[0], values[1, 3:] = np.nan, np.inf
    sign = 1 if mode == "min" else -1
    stop = early_stopping("score", patience, mode, min_delta)
    stop.begin(("loss", "score"), np.zeros(12, int))
    ended = np.full(12, 30)
    for i in range(30):
        report = types.SimpleNamespace(
            step=i + 1, loss=values[:, i], metrics={"score": values[:, i]}, lanes=np.arange(12)
        )
        answer = stop(report)
        ended = np.where(answer & (ended == 30), i + 1, ended)
    wanted = [expected_stop(v, patience, sign, min_delta)[0] for v in values]
    assert ended.tolist() == wanted and wanted[0] == max(patience, 1)


def test_a_run_stops_and_keeps_its_best():
    whole = fit()
    reports, best = expected_stop(whole.history["held_out"], 3, 1, 1e-3)
    steps = whole.history["step"]
    kept = keep_best("held_out", "min")
    part = fit(callbacks=[early_stopping("held_out", *LATE), kept])
    assert part.steps == steps[reports - 1] < 200
    least = np.argmin(whole.history["held_out"][:reports])
    assert (part.best_step, part.best_value) == (steps[least], whole.history["held_out"][least])
    same(part.best_params, fit(steps=part.best_step).params)
    same(part.params, fit(steps=part.steps).params)
    assert fit(callbacks=[early_stopping("loss", 1000)]).steps == 200


def test_what_is_kept_is_what_is_evaluated(tmp_path):
    def loss(params, model_state, batch):
        return loss_fn(params, batch), model_state + 1

    optimizer = gdjax.tail_average(gdjax.sgd(0.2))
    kept = keep_best("held_out", "min")
    seen = []
    result = gdjax.fit(
        loss, START, optimizer, TRAIN, model_state=jnp.zeros(()), callbacks=[kept, seen.append],
        metric_fn=lambda p, _, d: loss_fn(p, d), **OPTIONS | {"steps": 40},
    )  # fmt: skip
    best = min(seen, key=lambda report: report.metrics["held_out"])
    assert result.best_step == best.step == result.best_model_state
    same(result.best_params, best.eval_params)
    assert np.any(best.params["w"] != best.eval_params["w"])
    result.save(tmp_path / "a.npz")
    like = START, result.state, jnp.zeros(())
    for loaded in (gdjax.FitResult.load(tmp_path / "a.npz", *like),
                   gdjax.FitResult.load(tmp_path / "a.npz")):  # fmt: skip
        same(loaded.best_params, result.best_params)
        assert (loaded.best_step, loaded.best_value) == (result.best_step, result.best_value)
    assert fit(steps=5).best_params is None


def test_nothing_finite_is_no_best():
    result = fit(steps=10, metric_fn=lambda p, d: jnp.nan, callbacks=[keep_best("held_out", "max")])
    assert result.best_params is None and result.best_step is None


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def without_times(rows):
    return [{k: v for k, v in r.items() if k not in ("seconds", "steps_per_second")} for r in rows]


def stored(callback):
    """Return what another process would read: arrays from a file, the rest from JSON."""
    state = callback.state_dict()
    plain = {k: v for k, v in state.items() if not jax.tree.leaves(v)}
    arrays = nested(as_arrays({k: v for k, v in state.items() if k not in plain}))
    return {**arrays, **json.loads(json.dumps(plain))}


def test_a_run_that_was_killed_goes_on(tmp_path):
    def callbacks(name):
        return [
            early_stopping("held_out", *LATE), keep_best("held_out", "min"),
            csv_logger(tmp_path / f"{name}.csv"), jsonl_logger(tmp_path / f"{name}.jsonl"),
        ]  # fmt: skip

    whole = fit(callbacks=callbacks("whole"))
    before = callbacks("part")
    half = fit(steps=15, callbacks=before)
    states = [stored(c) for c in before[:2]]
    fit(steps=5, start=half, callbacks=before)  # what the killed process had done since
    with (tmp_path / "part.csv").open("a") as file:
        file.write("25,0.4")  # and half a line
    with (tmp_path / "part.jsonl").open("a") as file:
        file.write('{"step": 2')
    after = callbacks("part")
    for callback, state in zip(after[:2], states, strict=True):
        callback.load_state_dict(state)
    rest = fit(steps=185, start=half, callbacks=after)
    assert (rest.steps, rest.best_step) == (whole.steps, whole.best_step)
    same((rest.params, rest.best_params), (whole.params, whole.best_params))
    a, b = (without_times(rows_of(tmp_path / f"{n}.csv")) for n in ("part", "whole"))
    assert a == b and len(a) == whole.steps // 5
    a, b = (
        without_times(map(json.loads, (tmp_path / f"{n}.jsonl").read_text().splitlines()))
        for n in ("part", "whole")
    )
    assert a == b


def test_the_same_object_goes_on_or_begins_anew():
    stop, best = early_stopping("held_out", *LATE), keep_best("held_out", "min")
    first = fit(callbacks=[stop, best])
    again = fit(callbacks=[stop, best])
    assert (again.steps, again.best_step) == (first.steps, first.best_step)
    part = fit(steps=20, callbacks=[stop, best])
    waited = int(stop.waited)
    rest = fit(steps=180, start=part, callbacks=[stop, best])
    assert rest.steps == first.steps and waited > 0
    earlier = fit(steps=180, start=part, callbacks=[stop])  # its last report is later than that
    assert earlier.steps > part.steps
    swept = sweep(callbacks=[stop, best], steps=10)
    assert swept.best_step.shape == (5,)


# --- lanes ----------------------------------------------------------------------------------------


@pytest.fixture(params=["devices", "threads"])
def machine(request, monkeypatch):
    if request.param == "threads":
        on_one_device(monkeypatch, threads=2)


def test_lanes_stop_where_runs_of_their_own_do(machine, tmp_path):
    callers, reports = set(), []

    def look(report):
        callers.add(threading.get_ident())
        reports.append(report)

    swept = sweep(
        vectorize=False,
        callbacks=[
            early_stopping("held_out", *LATE), keep_best("held_out", "min"), look,
            csv_logger(tmp_path / "a.csv"),
        ],
    )  # fmt: skip
    assert callers == {threading.get_ident()}
    ends, best = [], []
    for lane, rate in enumerate(RATES["learning_rate"][:4]):
        one = fit(rate, callbacks=[early_stopping("held_out", *LATE), keep_best("held_out", "min")])
        ends.append(one.steps)
        best.append(one.best_step)
        same((one.params, one.state), swept.lane(lane)[:2])
        same(one.best_params, jax.tree.map(lambda x, i=lane: x[i], swept.best_params))
        tail = one.history["loss"][-max(1, one.steps // 10) :].mean()
        np.testing.assert_allclose(swept.final_loss[lane], tail, rtol=1e-6)
    assert len(set(ends)) > 2
    assert swept.steps.tolist() == swept.stopped_at.tolist() == [*ends, 15]
    assert swept.best_step.tolist() == [*best, -1] and np.isnan(swept.best_value[4])
    assert np.isnan(swept.history["loss"][1, ends[1] :]).all()
    rows = rows_of(tmp_path / "a.csv")
    taken = [max(int(r["step"]) for r in rows if r["lane"] == str(i)) for i in range(5)]
    assert taken == swept.steps.tolist() and len(rows) == swept.steps.sum() // 5
    for report in reports:
        assert report.params["w"].shape == (len(report.lanes), 10)
        rates = [RATES["learning_rate"][i] for i in report.lanes]
        assert report.configs["learning_rate"].tolist() == rates
        np.testing.assert_array_equal(report.hyperparams["learning_rate"], np.float32(rates))
    assert f"stopped at step {ends[1]}" in swept.table()
    assert swept.rows()[1]["stopped at"] == ends[1]


def test_vectorized_lanes_stop_and_results_are_kept_in_files(tmp_path):
    swept = sweep(
        vectorize=True, lanes_per_program=8,
        callbacks=[lambda r: r.lanes == 1, lambda r: r.step == 30, keep_best()],
    )  # fmt: skip
    assert swept.stopped_at.tolist() == swept.steps.tolist() == [30, 5, 30, 30, 30]
    assert swept.history["loss"].shape == (5, 30)
    swept.save(tmp_path / "a.npz")
    for loaded in (gdjax.SweepResult.load(tmp_path / "a.npz", START),
                   gdjax.SweepResult.load(tmp_path / "a.npz")):  # fmt: skip
        same(loaded.best_params, swept.best_params)
        same(loaded.best_step, swept.best_step)


def test_other_callbacks_compile_nothing():
    traced = []

    def loss(params, batch):
        traced.append(1)
        return loss_fn(params, batch)

    options = {**OPTIONS, "steps": 50}
    for run in (
        lambda c: gdjax.fit(loss, START, gdjax.adam(0.1), TRAIN, callbacks=c, **options),
        lambda c: gdjax.sweep(loss, START, gdjax.adam, RATES, TRAIN, callbacks=c, **options),
    ):
        run([early_stopping("held_out", 2, "min", 0.1), keep_best()])
        traced.clear()
        run([early_stopping("held_out", 1, "min", 0.2), keep_best("held_out", "max")])
        assert not traced


def test_repeats_stop_one_by_one_and_double_precision_stays(monkeypatch):
    on_one_device(monkeypatch, threads=2)
    with enable_x64():
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), START)
        result = gdjax.sweep(
            loss_fn, params, gdjax.adam, {"learning_rate": [0.05]}, TRAIN, seeds=3,
            vectorize=False, callbacks=[early_stopping("held_out", *LATE), keep_best()], **OPTIONS,
        )  # fmt: skip
    assert result.best_params["w"].dtype == np.float64
    assert (result.stopped_at > 0).all()


def test_races(tmp_path):
    options = {**OPTIONS, "steps": 27}
    del options["report_every"]
    space = {"learning_rate": np.logspace(-3, -0.3, 9)}
    seen = []
    race = gdjax.successive_halving(
        loss_fn, START, gdjax.adam, space, TRAIN, min_steps=9,
        callbacks=[keep_best("held_out", "min"), csv_logger(tmp_path / "a.csv"), seen.append],
        **options,
    )  # fmt: skip
    assert race.best_params["w"].shape == (len(race.kept), 10)
    assert [r.step for r in seen][-1] == 27 and sum(map(len, (r.lanes for r in seen[:1]))) <= 9
    for row, lane in enumerate(race.kept):
        at = np.nanargmin(race.history["held_out"][lane])
        assert race.best_step[lane] == race.history["step"][at]
        if race.best_step[lane] == 27:
            np.testing.assert_array_equal(race.best_params["w"][row], race.params["w"][row])
    stopped = gdjax.successive_halving(
        loss_fn, START, gdjax.adam, space, TRAIN, min_steps=9,
        callbacks=[lambda r: r.step >= 9], **options,
    )  # fmt: skip
    assert stopped.steps.max() == 9
    pbt = gdjax.population_based_training(
        loss_fn, START, gdjax.adam, space, TRAIN, every=9, callbacks=[lambda r: r.lanes == 0],
        **options,
    )  # fmt: skip
    parents = pbt.history["exchanges"]["parent"]
    assert parents[0, 0] == 0 or pbt.steps[0] > 9
    assert (pbt.steps[1:] == 27).all()


class Killed(Exception):
    pass


def killed_after(reports):
    """Return a callback that ends the call at a report, before its chunk is kept."""
    left = [reports]

    def kill(report):
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return kill


def remembering(path):
    return [
        early_stopping("held_out", 2, "min"), keep_best("held_out", "min"), csv_logger(path),
    ]  # fmt: skip


def sorted_rows(path):
    rows = without_times(rows_of(path))
    return sorted(rows, key=lambda row: (int(row["lane"]), int(row["step"])))


def until_stopped(result):
    """Return the history of each lane's steps: a group reports until all its lanes have ended."""
    loss, reported = result.history["loss"], result.history["step"]
    return [
        (loss[lane, :steps], result.history["held_out"][lane, : np.sum(reported <= steps)])
        for lane, steps in enumerate(result.steps)
    ]


def assert_same_result(result, expected):
    for name in ("params", "state", "steps", "stopped_at", "diverged_at", "kept"):
        same(getattr(result, name), getattr(expected, name))
    for name in ("best_params", "best_step", "best_value"):
        same(getattr(result, name), getattr(expected, name))
    same(until_stopped(result), until_stopped(expected))


def test_lanes_remember_in_a_directory(machine, tmp_path):
    options = dict(steps=60, vectorize=False)
    whole = sweep(callbacks=remembering(tmp_path / "whole.csv"), **options)
    assert (whole.stopped_at >= 0).sum() > 1 and len(np.unique(whole.best_step)) > 2
    rows = sorted_rows(tmp_path / "whole.csv")
    options["directory"] = tmp_path / "run"
    for kills in ([1], [3], [2, 4], [3, 1, 1]):
        path = tmp_path / f"{kills}.csv"
        options["resume"] = False
        for i, reports in enumerate(kills):
            with pytest.raises(Killed):
                sweep(
                    callbacks=[*remembering(path), killed_after(reports)],
                    lanes_per_program=1 + i % 3, **options,
                )  # fmt: skip
            options["resume"] = True
        result = sweep(callbacks=[print_every(1000), *remembering(path)], **options)
        assert_same_result(result, whole)
        assert sorted_rows(path) == rows
    again = sweep(callbacks=remembering(path), lanes_per_program=2, **options)
    assert_same_result(again, whole)
    assert sorted_rows(path) == rows
    longer = sweep(callbacks=[early_stopping("loss", 1)], **{**options, "steps": 65})
    assert (longer.steps >= whole.steps).all()  # nothing is known of another metric


@pytest.mark.parametrize("race", [gdjax.successive_halving, gdjax.population_based_training])
def test_lanes_of_a_race_remember_in_a_directory(race, tmp_path):
    options = {**OPTIONS, "steps": 32, "vectorize": False}
    del options["report_every"]
    if race is gdjax.successive_halving:
        options |= dict(min_steps=4, eta=2)
    else:
        options |= dict(every=4)
    space = {"learning_rate": np.logspace(-3, 0, 6)}

    def run(callbacks, **more):
        return race(
            loss_fn, START, gdjax.adam, space, TRAIN, callbacks=callbacks, **options, **more
        )

    def callbacks(name):
        return remembering(tmp_path / name)

    whole = run(callbacks("whole.csv"))
    assert len(np.unique(whole.best_step)) > 1 and (whole.stopped_at >= 0).any()
    for reports in (1, 4, 6):
        name, directory = f"{reports}.csv", tmp_path / f"{reports}"
        with pytest.raises(Killed):
            run([*callbacks(name), killed_after(reports)], directory=directory, lanes_per_program=2)
        result = run(callbacks(name), directory=directory, lanes_per_program=3)
        assert_same_result(result, whole)
        assert sorted_rows(tmp_path / name) == sorted_rows(tmp_path / "whole.csv")


def test_a_callback_without_a_memory_of_lanes_is_told(tmp_path):
    class Own:
        def __call__(self, report):
            pass

        def state_dict(self):
            return {}

    sweep(directory=tmp_path, steps=5)
    with pytest.warns(UserWarning, match="does not keep what .*Own.* remembers"):
        sweep(directory=tmp_path, steps=10, callbacks=[Own()])


# --- logs -----------------------------------------------------------------------------------------


def test_values_are_what_was_used_and_measured():
    schedule = gdjax.linear_schedule(0.1, 0.0, 20)
    optimizer = gdjax.monitor(gdjax.chain(gdjax.clip_by_global_norm(0.25), gdjax.sgd(schedule)))
    reports, logged = [], []
    gdjax.fit(
        loss_fn, START, optimizer, TRAIN, steps=10, report_every=5, held_out=HELD,
        metric_fn=lambda p, d: {"max_norm": 7.0, "score": loss_fn(p, d)},
        callbacks=[reports.append, logger(lambda *row: logged.append(row))],
    )  # fmt: skip
    (_, first), (step, values) = logged
    assert step == 10 and all(type(v) is float for v in values.values())
    np.testing.assert_allclose(values["learning_rate"], 0.1 * (1 - 9 / 20), rtol=1e-6)
    np.testing.assert_allclose(values["update_norm"], 0.25 * values["learning_rate"], rtol=1e-5)
    assert (values["max_norm"], values["optimizer.max_norm"]) == (7.0, 0.25)
    assert values["grad_norm"] > 0.25 and values["steps_per_second"] > 0
    assert first["seconds"] < values["seconds"]
    report = reports[0]  # kept until after the run
    np.testing.assert_allclose(loss_fn(report.params, HELD), report.metrics["score"], rtol=1e-6)
    assert report.hyperparams["learning_rate"] == first["learning_rate"]
    assert report.measurements["grad_norm"] == first["grad_norm"]


def test_a_report_that_nobody_keeps_is_not_copied(monkeypatch):
    from gdjax.training.reports import Report

    copied = []
    keep, copy = Report.keep, Report._copied
    monkeypatch.setattr(Report, "keep", lambda self: copied.append("kept") or keep(self))
    monkeypatch.setattr(Report, "_copied", lambda self, t: copied.append("tree") or copy(self, t))
    fit(steps=10, callbacks=[lambda report: report.values() and None])
    assert copied == []
    kept = []
    fit(steps=10, callbacks=[kept.append])
    assert copied.count("kept") == 2


def test_files_are_not_overwritten_by_mistake(tmp_path):
    for name, make in (("a.csv", csv_logger), ("a.jsonl", jsonl_logger)):
        path = tmp_path / name
        path.write_text("x,y\n1,2\n")
        with pytest.raises(ValueError, match="not such a log"):
            fit(callbacks=[make(path)])
        assert path.read_text() == "x,y\n1,2\n"
        path = tmp_path / "new" / name
        for _ in range(2):
            fit(steps=10, callbacks=[make(path)])
            assert path.read_text().count("\n") == 2 + (make is csv_logger)


def test_columns_that_come_later_are_added(tmp_path):
    result = gdjax.sweep(
        loss_fn, START, None, {"optimizer": [gdjax.sgd, gdjax.adam], "learning_rate": [0.1]},
        TRAIN, steps=4, report_every=2, callbacks=[csv_logger(tmp_path / "a.csv")],
    )  # fmt: skip
    rows = rows_of(tmp_path / "a.csv")
    assert len(rows) == 4 and result.steps.tolist() == [4, 4]
    for row in rows:
        assert row["optimizer"] in ("sgd", "adam")
        assert (row["b2"] == "") == (row["optimizer"] == "sgd")
        assert None not in row


def test_numbers_that_json_lacks_are_null(tmp_path):
    path = tmp_path / "a.jsonl"
    sweep(steps=10, callbacks=[jsonl_logger(path)])
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert {row["lane"] for row in rows} == set(range(5))
    assert all(row["held_out"] is None for row in rows if row["lane"] == 4)


def test_log_and_print_of_lanes(capsys):
    logged = {}
    sweep(
        steps=10, lanes_per_program=8,
        callbacks=[logger(lambda step, values: logged.update({step: values})), print_every(2)],
    )  # fmt: skip
    assert set(logged) == {5, 10} and logged[5]["learning_rate/lane_1"] == np.float32(0.05)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step 10: 5 of 5 lanes run; lane ") and "learning_rate=" in line
    fit(steps=15, callbacks=[print_every(2)])
    assert capsys.readouterr().out.startswith("step 10: loss=0.")


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    def events(folder):
        for path in sorted(folder.glob("events*")):
            data = path.read_bytes()
            while data:
                (size,) = struct.unpack("<Q", data[:8])
                yield Event.FromString(data[12 : 12 + size])
                data = data[16 + size :]

    result = fit(steps=10, callbacks=[tensorboard_logger(tmp_path / "run")])
    found = [
        (e.step, v.simple_value) for e in events(tmp_path / "run") for v in e.summary.value
        if v.tag == "held_out"
    ]  # fmt: skip
    assert found == list(zip([5, 10], result.history["held_out"].tolist(), strict=True))
    fit(steps=5, start=result, callbacks=[tensorboard_logger(tmp_path / "run")])
    starts = [e.step for e in events(tmp_path / "run") if e.session_log.status == 1]
    assert starts[-1] == 11  # TensorBoard hides what came after step 10
    sweep(steps=5, callbacks=[tensorboard_logger(tmp_path / "lanes")])
    assert len(list((tmp_path / "lanes").iterdir())) == 5


# --- errors ---------------------------------------------------------------------------------------


class Closing:
    def __init__(self):
        self.finished = []

    def __call__(self, report):
        pass

    def finish(self, result):
        self.finished.append(result)
        return result


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_of_a_callback_carries_the_lanes(machine, kind):
    def fail(report):
        if report.step == 10 and 0 in report.lanes:
            raise kind("of mine")

    closing = Closing()
    with pytest.raises(kind, match="of mine") as caught:
        sweep(callbacks=[closing, fail], steps=100_000, vectorize=False, lanes_per_program=8)
    result = caught.value.result
    assert closing.finished == [result] and result.steps[0] == 10 and result.steps.max() < 100_000
    done = int(result.steps[0])
    straight = sweep(steps=done, vectorize=False, lanes_per_program=8)
    np.testing.assert_array_equal(result.params["w"][0], straight.params["w"][0])


def test_an_exception_in_a_race_or_a_loader_carries_what_is_done():
    def fail(report):
        if report.step > 3:
            raise RuntimeError("of mine")

    space = {"learning_rate": np.logspace(-3, -0.3, 9)}
    with pytest.raises(RuntimeError, match="of mine") as caught:
        gdjax.successive_halving(
            loss_fn, START, gdjax.adam, space, TRAIN, steps=27, batch_size=32, callbacks=[fail]
        )
    assert caught.value.result.steps.max() == 6 and len(caught.value.result.kept) == 3

    def batches():
        yield from [TRAIN] * 4
        raise OSError("the disk")

    closing = Closing()
    with pytest.raises(OSError, match="the disk") as caught:
        gdjax.sweep(
            loss_fn, START, gdjax.adam, RATES, batches(), steps=9, report_every=2,
            callbacks=[closing],
        )  # fmt: skip
    assert caught.value.result.steps.tolist() == [4] * 4 + [4]
    assert closing.finished == [caught.value.result]


def test_streams_stop():
    stop = early_stopping("held_out", 1, "min", 10.0)
    options = dict(steps=50, report_every=5, held_out=HELD)
    one = gdjax.fit(
        loss_fn, START, gdjax.adam(0.1), iter([TRAIN] * 50), callbacks=[stop], **options
    )
    assert one.steps == 10
    many = gdjax.sweep(
        loss_fn, START, gdjax.adam, RATES, iter([TRAIN] * 50), callbacks=[lambda r: r.lanes == 2],
        **options,
    )  # fmt: skip
    assert many.steps.tolist() == [50, 50, 5, 50, 50]


def test_mistakes(tmp_path):
    for make in (early_stopping, keep_best):
        with pytest.raises(ValueError, match=r"metric='accuracy'\) needs mode='min' or mode='max'"):
            make("accuracy")
        with pytest.raises(ValueError, match="mode"):
            make("loss", mode="least")
        for run in (fit, sweep):
            with pytest.raises(ValueError, match="must be one of 'loss', 'held_out', got 'acc'"):
                run(callbacks=[make("acc", mode="max")])
    with pytest.raises(ValueError, match="patience"):
        early_stopping(patience=-1)
    with pytest.raises(ValueError, match="min_delta"):
        early_stopping(min_delta=-1.0)
    with pytest.raises(ValueError, match="best_params"):
        fit(callbacks=[keep_best(), keep_best("held_out", "min")])
    stop = early_stopping()
    with pytest.raises(ValueError, match="twice"):
        fit(callbacks=[stop, stop])
    for run in (fit, sweep):
        with pytest.raises(TypeError, match="must be a list of functions"):
            run(callbacks=[3])
    with pytest.raises(ValueError, match=r"must return a bool or an array of bools \(5,\)"):
        sweep(callbacks=[lambda report: np.array([True, False])], lanes_per_program=8)
    closing = Closing()
    closing.finish = lambda result: None
    with pytest.raises(TypeError, match=r"finish\(result\).*must return the FitResult") as caught:
        fit(steps=5, callbacks=[closing])
    assert caught.value.result.steps == 5
