"""Progress: a bar in a terminal, a few whole lines in a log, the same numbers in both."""

import contextlib
import io
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training import progress
from gdjax.training.progress import Bar, LaneDisplay, learning_rates

X = jnp.linspace(-1.0, 1.0, 16)


def loss_fn(w, batch):
    return jnp.mean((w * batch - 3.0 * batch) ** 2)


class Screen(io.StringIO):
    def isatty(self):
        return True


class Log:
    """What was printed; pytest replaces `sys.stderr` after fixtures are made, so no patch holds."""

    def __init__(self, capsys):
        self.capsys, self.text = capsys, ""

    def getvalue(self):
        self.text += self.capsys.readouterr().err
        return self.text

    def lines(self):
        return self.getvalue().splitlines()


@pytest.fixture
def log(capsys):
    return Log(capsys)


@contextlib.contextmanager
def on_screen():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", Screen())
        yield sys.stderr


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run_of(log, clock, total, seconds_per_step, every=1, steps=None):
    with Bar(total, True, "fit") as bar:
        for done in range(every, (steps or total) + 1, every):
            clock[0] = done * seconds_per_step
            bar.show(done, loss=1.0 / done)
    assert "\r" not in log.getvalue() and log.getvalue().endswith("\n")
    return log.lines()


def test_a_short_run_is_two_lines_in_a_log(log, clock):
    lines = run_of(log, clock, 20, 0.1)
    assert [line.split(" ")[1] for line in lines] == ["1/20", "20/20"]
    assert lines[1].startswith("fit: 20/20 steps (100%), 0:00:02 elapsed, 10 steps/s, loss=0.05")


def test_a_line_for_each_tenth_but_at_most_every_ten_seconds(log, clock):
    lines = run_of(log, clock, 100, 1.0)
    assert [line.split("/")[0][5:] for line in lines] == ["1", *map(str, range(11, 100, 10)), "100"]
    assert "0:01:29 left" in lines[1] and "left" not in lines[-1]
    log.text = ""
    assert len(run_of(log, clock, 1000, 0.03)) == 4  # 30 s: at the start, 10, 20 and 30 s


def test_a_line_a_minute_in_a_long_run_and_in_a_stream(log, clock):
    assert len(run_of(log, clock, 100_000, 1.0, steps=600)) == 11
    log.text = ""
    lines = run_of(log, clock, None, 1.0, steps=130)
    assert [line.split(",")[0] for line in lines] == [
        *("fit: 1 steps", "fit: 61 steps", "fit: 121 steps", "fit: 130 steps")
    ]
    assert not any("left" in line or "%" in line for line in lines)


def test_time_left_leaves_out_compilation_and_what_was_done_before(log, clock):
    with Bar(100, True) as bar:
        bar.begin(40)
        clock[0] = 20.0  # 10 steps, most of the time for compiling
        bar.show(50)
        clock[0] = 30.0
        bar.show(70)
    first, second = log.lines()
    assert first.startswith("50/100 steps (50%)") and "0.5 steps/s" in first
    assert "0:00:15 left, 2 steps/s" in second


def test_what_was_reached_is_shown_after_an_exception(log, clock):
    with pytest.raises(KeyboardInterrupt), Bar(10, True) as bar:
        bar.show(1)
        bar.show(2)
        raise KeyboardInterrupt
    assert [line.split(" ")[0] for line in log.lines()] == ["1/10", "2/10"]


def test_a_bar_on_a_screen_is_closed_after_an_exception():
    def stop(report):
        if report.step == 2:
            raise RuntimeError("enough")

    rate = gdjax.linear_schedule(0.4, 0.0, 4)
    with on_screen() as screen, pytest.raises(RuntimeError, match="enough"):
        gdjax.fit(
            loss_fn, jnp.zeros(()), gdjax.sgd(rate), X, steps=4, report_every=1,
            progress=True, callbacks=[stop],
        )  # fmt: skip
    shown = screen.getvalue()
    last = shown.split("\r")[-1]
    assert shown.endswith("\n") and last.startswith("fit:  50%") and "2/4" in last
    assert "learning_rate=0.3" in last and "loss=" in last


def test_no_screen_needs_no_tqdm_but_a_screen_and_a_notebook_do(monkeypatch, log):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    Bar(3, True)
    Bar(3, False).show(1, loss=0.0)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    with pytest.raises(ImportError, match=r'progress=True needs tqdm: pip install "gdjax\[progr'):
        Bar(3, True)
    monkeypatch.setattr(sys, "stderr", None)  # as without any console
    Bar(3, True).show(1)


def test_fit_shows_rates_and_metrics_in_a_log(log):
    optimizer = gdjax.groups({r".*b": gdjax.sgd(0.125), r".*": gdjax.sgd(0.25)})

    def loss(params, batch):
        return jnp.mean((params["w"] * batch + params["b"]) ** 2)

    gdjax.fit(
        loss, {"w": 1.0, "b": 1.0}, optimizer, X, steps=4, report_every=2, progress=True,
        held_out=X, metric_fn=lambda p, x: {"size": p["w"] ** 2},
    )  # fmt: skip
    last = log.lines()[-1]
    assert last.startswith("fit: 4/4 steps (100%)")
    assert "loss=0.3827, .*.learning_rate=0.25, .*b.learning_rate=0.125, size=0.1873" in last


def test_a_continued_run_begins_where_it_was(log):
    options = dict(batch_size=4, progress=True, report_every=5)
    first = gdjax.fit(loss_fn, jnp.zeros(()), gdjax.sgd(0.1), X, steps=10, **options)
    gdjax.fit(loss_fn, jnp.zeros(()), gdjax.sgd(0.1), X, start=first, steps=10, **options)
    begins = [line.split(" (")[0] for line in log.lines()]
    assert begins == [f"fit: {n} steps" for n in ("5/10", "10/10", "15/20", "20/20")]


def test_a_stream_of_unknown_length():
    with on_screen() as screen:
        gdjax.fit(loss_fn, jnp.zeros(()), gdjax.sgd(0.1), iter([X] * 3), progress=True)
    assert "3step" in screen.getvalue()


def test_rates_of_many_groups_are_two_numbers():
    state = gdjax.sgd(gdjax.by_path({"a": 0.1, "b": 0.2, "c": 0.4})).init(dict(a=1.0, b=1.0, c=1.0))
    rates = {k: round(float(v), 3) for k, v in learning_rates(state).items()}
    assert rates == {"least_learning_rate": 0.1, "greatest_learning_rate": 0.4}
    assert learning_rates(gdjax.clip(1.0).init(X)) == {}


def test_a_sweep_shows_its_best_lane(log):
    space = {"learning_rate": [0.1, 0.5, 1e30]}
    with np.errstate(all="ignore"):
        gdjax.sweep(loss_fn, jnp.zeros(()), gdjax.sgd, space, X, steps=40, progress=True)
    last = log.lines()[-1]
    assert last.startswith("sweep: 40/40 steps") and "lanes=2/3, best_loss=" in last
    assert last.endswith("learning_rate=0.5")


def test_groups_of_lanes_share_a_bar_and_padding_is_not_shown(log, clock):
    with Bar(10, True) as bar:
        display = LaneDisplay(bar, [2, 1])
        rates = np.array([0.1, 0.2])
        losses = np.array([[3.0], [2.0]])
        display.show(0, 4, losses, np.array([-1, 3]), {"rate": rates})
        clock[0] = 60.0
        losses = np.array([[2.5], [0.0]])  # the second row is padding
        display.show(1, 10, losses, np.array([-1, -1]), {"rate": rates})
    first, second = log.lines()
    assert first.startswith("2/10") and first.endswith("lanes=2/3, best_loss=3, rate=0.1")
    assert second.startswith("7/10") and second.endswith("lanes=2/3, best_loss=2.5, rate=0.1")


def test_a_group_that_goes_on_from_a_file_took_no_time():
    with on_screen(), Bar(10, True) as bar:
        display = LaneDisplay(bar, [1, 1])
        display.begin(0, 6)
        display.begin(1, 8)
        assert (bar._bar.n, bar._bar.initial) == (7, 7)
        display.show(0, 10, np.ones((1, 1)), -np.ones(1), {})
        assert bar._bar.n == 9


@pytest.mark.parametrize("race", ["population_based_training", "successive_halving"])
def test_races_use_the_same_bar(race, log):
    space = {"learning_rate": [0.05, 0.1, 0.2, 0.5]}
    options = dict(every=4) if race.startswith("pop") else {}
    getattr(gdjax, race)(
        loss_fn, jnp.zeros(()), gdjax.sgd, space, X, steps=16, progress=True, **options
    )
    lines = log.lines()
    assert lines[-1].split(" ")[1] == "16/16" and "lanes=" in lines[-1]
