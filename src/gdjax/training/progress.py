"""What a user sees and does during a run: a progress bar, and Ctrl-C."""

from __future__ import annotations

import datetime
import importlib
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from gdjax.core.reading import hyperparams_in_use
from gdjax.core.types import OptState


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional package, or say which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise ImportError(f'{what} needs {name}: pip install "gdjax[{extra}]".') from error


LINE_SECONDS = 10.0  # least time between two lines of a log
LINE_SHARE = 0.1  # of the steps: once so many are done, the next line is due,
LONGEST_SILENCE = 60.0  # and after so many seconds in any case
MOST_RATES = 2  # that a bar shows one by one


class Bar:
    """The progress of steps: a bar by tqdm (an optional extra), or lines where there is no screen.

    In a terminal and in a notebook it is tqdm's bar. Anywhere else, as in the file of a batch job,
    it prints a line to stderr now and then: the first one, one when a tenth more is done but at
    most every 10 seconds, one a minute at least, and the last one.
    """

    def __init__(self, total: int | None, show: bool, title: str = "", unit: str = "step"):
        """Open it.

        Args:
          total: the number of steps; None if it is not known.
          show: whether to show anything at all.
          title: the name of the run.
          unit: what a step is called.
        """
        screen = sys.stderr  # None without a console
        self.shown = show and screen is not None
        self.total, self.title, self.unit = total, title, unit
        self.lock = threading.RLock()  # groups of lanes report from threads of their own
        self._bar: Any = None
        self._lines: _Lines | None = None
        if show and screen is not None and (screen.isatty() or "ipykernel" in sys.modules):
            tqdm = require("tqdm.auto", "progress", "progress=True").tqdm
            self._bar = tqdm(
                total=total, unit=unit, desc=title or None, dynamic_ncols=True, miniters=1
            )
        elif self.shown:
            self._lines = _Lines(total, title, unit)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            if self._bar is not None:
                self._bar.close()
            if self._lines is not None:
                self._lines.close()

    def begin(self, done: int) -> None:
        """Say where a continued run begins: these steps took none of its time."""
        with self.lock:
            if self._bar is not None:
                self._bar.initial = self._bar.n = self._bar.last_print_n = done
                self._bar.refresh()
            if self._lines is not None:
                self._lines.begin(done)

    def show(self, done: int, /, **values: Any) -> None:
        """Move to `done` steps and show some numbers."""
        if not self.shown:
            return
        texts = {k: _as_text(v) for k, v in values.items()}
        with self.lock:
            if self._bar is not None:
                self._bar.set_postfix(texts, refresh=False)
                self._bar.update(done - self._bar.n)
            if self._lines is not None:
                self._lines.show(done, texts)


def _as_text(value: Any) -> str:
    if isinstance(value, str) or np.ndim(value):
        return str(value)
    value = np.asarray(value).item()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Lines:
    """Progress in a log: whole lines, few of them."""

    def __init__(self, total: int | None, title: str, unit: str):
        self.total, self.title, self.unit = total, title, unit
        self.started = time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first report came, and its steps
        self.printed: tuple[float, int] | None = None
        self.begun, self.done, self.texts = 0, 0, {}

    def begin(self, done: int) -> None:
        self.begun = self.done = done

    def show(self, done: int, texts: dict[str, str]) -> None:
        self.done, self.texts = done, texts
        now = time.monotonic()
        if self.first is None:
            self.first = now, done
        if self.printed is None or self._is_due(now, *self.printed):
            self._print(now)

    def _is_due(self, now: float, then: float, before: int) -> bool:
        passed, step = now - then, LINE_SHARE * (self.total or np.inf)
        tenth = self.done - before >= step and passed >= LINE_SECONDS
        return tenth or passed >= LONGEST_SILENCE

    def close(self) -> None:
        if self.first is not None and (self.printed is None or self.printed[1] != self.done):
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self.printed = now, self.done
        steps = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        parts = [f"{steps} {self.unit}s"]
        if self.total:
            parts[0] += f" ({self.done / self.total:.0%})"
        elapsed, pace = now - self.started, self._pace(now)
        parts.append(f"{_clock(elapsed)} elapsed")
        if pace and self.total is not None and self.done < self.total:
            parts.append(f"{_clock((self.total - self.done) / pace)} left")
        if pace:
            parts.append(f"{pace:.3g} {self.unit}s/s")
        parts += [f"{name}={text}" for name, text in self.texts.items()]
        print(f"{self.title}: " * bool(self.title) + ", ".join(parts), file=sys.stderr, flush=True)

    def _pace(self, now: float) -> float:
        """Return steps per second, after the first report if there are several: it compiled."""
        assert self.first is not None, "a line is printed after a report"
        then, before = self.first
        if self.done <= before:
            then, before = self.started, self.begun
        return (self.done - before) / (now - then) if now > then else 0.0


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def learning_rates(state: OptState) -> dict[str, Array]:
    """Return the learning rates in use by name: what bars show of a state.

    Those of several groups have their names; if there are more than two, only the least and the
    greatest are there.
    """
    used = hyperparams_in_use(state)
    rates = {k: v for k, v in used.items() if re.search(r"(^|\.)learning_rate(\.|$)", k)}
    if len(rates) <= MOST_RATES:
        return rates
    values = jnp.stack(list(rates.values()))
    return {"least_learning_rate": values.min(0), "greatest_learning_rate": values.max(0)}


class LaneDisplay:
    """What a bar shows of all groups of lanes: mean steps, lanes alive, and the best lane."""

    def __init__(self, bar: Bar, sizes: Sequence[int], start: int = 0):
        """Begin at step `start`, with groups of these sizes."""
        self.bar, self.sizes, self.alive = bar, list(sizes), list(sizes)
        self.done = [start] * len(sizes)
        self.best: list[tuple[float, dict[str, Any]]] = [(np.inf, {})] * len(sizes)

    def begin(self, group: int, done: int) -> None:
        """Say where a group begins that is read from a file."""
        with self.bar.lock:
            if done != self.done[group]:
                self.done[group] = done
                self.bar.begin(sum(self.done) // len(self.done))

    def show(
        self,
        group: int,
        done: int,
        losses: np.ndarray,
        ended_at: np.ndarray,
        values: Mapping[str, np.ndarray],
    ) -> None:
        """Note what a group has reached, and show the whole.

        Args:
          group: its index.
          done: the steps it has done.
          losses: (rows, steps), the losses of its lanes, and below them of rows that fill it up.
          ended_at: (rows,), negative for a lane that has neither diverged nor been stopped.
          values: name -> (rows,), what to show of the best lane: metrics, learning rates.
        """
        lanes = slice(self.sizes[group])
        alive, last = ended_at[lanes] < 0, losses[lanes, -1]
        finite = np.where(alive & np.isfinite(last), last, np.inf)
        row = int(np.argmin(finite))
        with self.bar.lock:
            self.done[group], self.alive[group] = done, int(alive.sum())
            if np.isfinite(finite[row]):  # else what the last lanes had reached
                self.best[group] = float(finite[row]), {k: v[row] for k, v in values.items()}
            best, of_best = min(self.best, key=lambda pair: pair[0])
            self.bar.show(
                sum(self.done) // len(self.done),
                lanes=f"{sum(self.alive)}/{sum(self.sizes)}",
                best_loss=best,
                **of_best,
            )


class Interrupt:
    """While this is open, the first Ctrl-C only sets `asked`; the second raises as usual.

    Outside of the main thread, where Python handles no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    @property
    def asked(self) -> bool:
        """Whether to stop; hosts that run together must ask together, and stop together."""
        if jax.process_count() == 1:
            return self._asked
        return bool(multihost_utils.process_allgather(np.asarray(self._asked)).any())

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, self._before)
