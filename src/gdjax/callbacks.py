"""Callbacks of `fit`, sweeps and races: stop early, keep the best parameters, write logs.

A callback is any function of a `gdjax.Report`; a true result ends the run. In sweeps and races a
report is of several lanes, and a callback may also return (lanes,) bools: those lanes stop. All
functions here return callbacks for both.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.checks import NONNEGATIVE, check_choice, check_integer, strict
from gdjax.core.types import Number
from gdjax.training.engine import to_host
from gdjax.training.files import replace_file
from gdjax.training.progress import require
from gdjax.training.reports import Report
from gdjax.training.trials import words

R = TypeVar("R")
PathLike = str | os.PathLike[str]


# --- the best so far ------------------------------------------------------------------------------


class _Best:
    """The best value of a metric so far, of a run or of each lane."""

    remembered = ("step", "best_step", "score")  # attributes, each () or (lanes,)

    def __init__(self, caller: str, metric: str, mode: str | None, min_delta: Number = 0.0):
        """Check the arguments; `caller` is named in errors."""
        if mode is None and metric != "loss":
            raise ValueError(
                f"{caller}(metric={metric!r}) needs mode='min' or mode='max': a name does not say "
                "whether less or more is better."
            )
        if mode is not None:
            check_choice(f"{caller}(mode=...)", mode, ("min", "max"))
        self.caller, self.metric, self.mode = caller, metric, mode or "min"
        self.sign, self.min_delta = (1.0 if self.mode == "min" else -1.0), float(min_delta)
        self.step = self.best_step = np.zeros((), int)  # of the last report, and of the best one
        self.score = np.full((), np.inf)  # less is better

    @property
    def best_value(self) -> np.ndarray:
        """The best value, NaN if there is none; of shape () or (lanes,)."""
        return np.where(np.isfinite(self.score), self.sign * self.score, np.nan)

    def begin(self, names: Sequence[str], done: np.ndarray) -> np.ndarray:
        """Forget what was seen unless the run continues from there; return where that is."""
        check_choice(f"{self.caller}(metric=...)", self.metric, names)
        anew = np.full(done.shape, True)
        if self.step.shape == done.shape:
            anew = (done == 0) | (done < self.step) | (self.step == 0)
        self.step = np.where(anew, done, self._like(done, self.step))
        self.best_step = np.where(anew, -1, self._like(done, self.best_step))
        self.score = np.where(anew, np.inf, self._like(done, self.score))
        return anew

    @staticmethod
    def _like(done: np.ndarray, known: np.ndarray) -> np.ndarray:
        return known if known.shape == done.shape else np.zeros(done.shape, known.dtype)

    def note(self, report: Report) -> np.ndarray:
        """Return whether a report is better by more than `min_delta`, () or (lanes,)."""
        where = _where(report)
        seen = {"loss": report.loss, **report.metrics}
        score = self.sign * np.asarray(seen[self.metric], float)
        before = self.score[where]
        better = np.isfinite(score) & (score < before - self.min_delta)
        self.score[where] = np.where(better, score, before)
        self.best_step[where] = np.where(better, report.step, self.best_step[where])
        self.step[where] = report.step
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return what to remember, as arrays."""
        return {name: getattr(self, name).copy() for name in self.remembered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        for name in self.remembered:
            setattr(self, name, np.array(state[name], getattr(self, name).dtype))

    def lanes_state(self, lanes: np.ndarray) -> dict[str, Any]:
        """Return what to remember of some lanes, by what it is the best of."""
        return {f"{self.metric} {self.mode}": self._of_lanes(lanes)}

    def load_lanes_state(self, lanes: np.ndarray, state: Mapping[str, Any]) -> None:
        """Take what `lanes_state` gave, unless it is of another metric."""
        mine = state.get(f"{self.metric} {self.mode}")
        if mine is not None:
            self._load_lanes(lanes, mine)

    def _of_lanes(self, lanes: np.ndarray) -> dict[str, Any]:
        return {name: getattr(self, name)[lanes] for name in self.remembered}

    def _load_lanes(self, lanes: np.ndarray, state: Mapping[str, Any]) -> None:
        for name in self.remembered:
            getattr(self, name)[lanes] = state[name]


def _where(report: Report) -> Any:
    return ... if report.lanes is None else report.lanes


class EarlyStopping(_Best):
    """See `early_stopping`."""

    remembered = (*_Best.remembered, "waited")

    def __init__(self, metric: str, patience: int, mode: str | None, min_delta: Number):
        """Check the arguments."""
        super().__init__("early_stopping", metric, mode, min_delta)
        self.patience, self.waited = patience, np.zeros((), int)

    def begin(self, names: Sequence[str], done: np.ndarray) -> np.ndarray:
        """Forget what was seen unless the run continues from there."""
        anew = super().begin(names, done)
        self.waited = np.where(anew, 0, self._like(done, self.waited))
        return anew

    def __call__(self, report: Report) -> np.ndarray:
        """Return whether to stop, () or (lanes,)."""
        where, better = _where(report), self.note(report)
        self.waited[where] = np.where(better, 0, self.waited[where] + 1)
        return (self.waited[where] >= self.patience) & ~better


@strict(min_delta=NONNEGATIVE)
def early_stopping(
    metric: str = "loss",
    patience: int = 3,
    mode: str | None = None,
    min_delta: Number = 0.0,
) -> EarlyStopping:
    """End a run whose metric does not get better any more; in sweeps, each lane by itself.

    Args:
      metric: "loss", the mean over the steps since the last report, or the name of a held-out
        metric ("held_out" if `metric_fn` gives one number).
      patience: reports >= 0 in a row without improvement that end the run; 0 is 1. How many steps
        a report has is `report_every`.
      mode: "min" or "max", what is better. None is "min" for the loss; another metric needs it.
      min_delta: a value >= 0 by more than which the metric must be better than the best one so far,
        in its own unit. Values that are not finite are no improvement.

    Returns:
      A callback. A lane that it stops is frozen on the device, with its steps in
      `SweepResult.stopped_at`. The same object counts on when `fit(start=result)` continues
      from where it was, and begins anew in any other run.

    Raises:
      ValueError: for a metric other than "loss" without `mode`; when the run begins, for one that
        is not there.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> stop = early_stopping("loss", patience=2, min_delta=1e-3)
      >>> result = gdjax.fit(
      ...     lambda x, batch: jnp.mean((x - batch) ** 2), jnp.zeros(()), gdjax.sgd(0.1),
      ...     jnp.ones(4), steps=1000, report_every=10, callbacks=[stop])
      >>> result.steps
      50
    """
    patience = check_integer("early_stopping(patience=...)", patience, 0)
    return EarlyStopping(metric, patience, mode, min_delta)


class KeepBest(_Best):
    """See `keep_best`."""

    adds = ("best_params", "best_model_state", "best_step", "best_value")  # to a result

    def __init__(self, metric: str, mode: str | None):
        """Check the arguments."""
        super().__init__("keep_best", metric, mode)
        self.parts: list[tuple[np.ndarray, list[Any]]] = []  # lanes, leaves with a row for each

    def begin(self, names: Sequence[str], done: np.ndarray) -> np.ndarray:
        """Forget what was seen unless the run continues from there."""
        anew = super().begin(names, done)
        self.parts = [
            (of, x) for of, x in self.parts if not (anew[of] if anew.ndim else anew).all()
        ]
        return anew

    def __call__(self, report: Report) -> None:
        """Keep the parameters if they are the best."""
        better = self.note(report)
        lanes = np.zeros(1, int) if report.lanes is None else report.lanes
        known = self._rows(lanes)
        if not better.any() and (known is not None or report.lanes is None):
            return
        new = jax.tree.leaves((report.eval_params, report.model_state))
        if report.lanes is None or known is None or better.all():
            kept = new
        else:
            kept = _chosen(better, new, known)
        self._keep(lanes, kept)

    def _keep(self, lanes: np.ndarray, leaves: list[Any]) -> None:
        others = [(of, x) for of, x in self.parts if not np.isin(of, lanes).all()]
        self.parts = [(lanes, leaves), *others]  # the newest first

    def _rows(self, lanes: np.ndarray) -> list[Any] | None:
        """Return the leaves for some lanes, or None if not all of them are there."""
        for of, leaves in self.parts:
            if np.array_equal(of, lanes):
                return leaves
        parts = [(of, leaves) for of, leaves in self.parts if np.isin(of, lanes).any()]
        order = [lane for of, _ in parts for lane in of.tolist()]
        if not set(lanes.tolist()) <= set(order):
            return None
        rows = np.array([order.index(lane) for lane in lanes.tolist()])
        leaves = zip(*[leaves for _, leaves in parts], strict=True)
        return [jnp.concatenate(x)[rows] for x in leaves]

    def finish(self, result: R) -> R:
        """Return the result with the best parameters."""
        given: Any = result
        treedef = jax.tree.structure((given.params, given.model_state))
        single = not self.step.ndim
        lanes = np.zeros(1, int) if single else given.kept
        leaves = self._rows(lanes)
        if leaves is None:  # nothing was reported, or nothing of a single run was finite
            return result
        if not single:
            leaves = to_host(leaves)
        params, model_state = treedef.unflatten(leaves)
        return dataclasses.replace(
            given,
            best_params=params,
            best_model_state=model_state,
            best_step=int(self.best_step) if single else self.best_step.copy(),
            best_value=float(self.best_value) if single else self.best_value,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what to remember, as arrays; the trees as their leaves by number."""
        state = super().state_dict()
        if not self.parts:
            return state
        lanes = np.unique(np.concatenate([of for of, _ in self.parts]))
        leaves = self._rows(lanes)
        assert leaves is not None, "these are the lanes that are there"
        data = {k: np.array(x) for k, x in to_host(_as_data(leaves)).items()}
        return {**state, "lanes": lanes, "leaves": data}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        super().load_state_dict(state)
        self.parts = []
        if "leaves" in state:
            leaves = [jnp.asarray(x) for x in _from_data(state["leaves"])]
            self.parts = [(np.array(state["lanes"], int), leaves)]

    def _of_lanes(self, lanes: np.ndarray) -> dict[str, Any]:
        leaves = self._rows(lanes)
        return super()._of_lanes(lanes) | ({} if leaves is None else {"leaves": _as_data(leaves)})

    def _load_lanes(self, lanes: np.ndarray, state: Mapping[str, Any]) -> None:
        super()._load_lanes(lanes, state)
        if "leaves" in state:
            self._keep(lanes, _from_data(state["leaves"]))


def _as_data(leaves: Sequence[Any]) -> dict[str, Any]:
    """Return leaves by number, keys of random numbers as data with their kind in the name."""
    data = {}
    for i, x in enumerate(leaves):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data[f"{i} {jax.random.key_impl(x)}"] = jax.random.key_data(x)
        else:
            data[f"{i}"] = x
    return data


def _from_data(data: Mapping[str, Any]) -> list[Any]:
    """Return the leaves of `_as_data`."""
    leaves = {}
    for name, x in data.items():
        i, _, kind = name.partition(" ")
        leaves[int(i)] = jax.random.wrap_key_data(x, impl=kind) if kind else x
    return [leaves[i] for i in sorted(leaves)]


@jax.jit
def _chosen(better: Any, new: list[Any], known: list[Any]) -> list[Any]:
    """Return, for each lane, the row of `new` if it is better, else that of `known`."""
    return [
        jnp.where(better.reshape(-1, *[1] * (x.ndim - 1)), x, y)
        for x, y in zip(new, known, strict=True)
    ]


@strict()
def keep_best(metric: str = "loss", mode: str | None = None) -> KeepBest:
    """Keep the parameters of the report with the best metric; in sweeps, of each lane.

    Args:
      metric: as in `early_stopping`. A held-out metric is of these parameters; the loss is the mean
        over the steps before them.
      mode: as in `early_stopping`.

    Returns:
      A callback. It gives the result `best_params` (what `Report.eval_params` was, so averaged
      weights where the optimizer has such), `best_model_state`, `best_step` and `best_value`, each
      None if no value was finite. In sweeps and races the trees have a row for each lane in `kept`,
      and `best_step` and `best_value` are (lanes,): -1 and NaN for a lane that had no finite value,
      whose row is then that of its first report. Memory: once more the parameters, on the device.

    Raises:
      ValueError: as `early_stopping`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> result = gdjax.fit(
      ...     lambda x, batch: jnp.mean((x - batch) ** 2), jnp.zeros(()), gdjax.sgd(0.25),
      ...     jnp.ones(4), steps=3, report_every=1, held_out=jnp.full(2, 0.5),
      ...     callbacks=[keep_best("held_out", "min")])
      >>> print(result.best_step, result.best_params, result.params)
      1 0.5 0.875
    """
    return KeepBest(metric, mode)


# --- logs -----------------------------------------------------------------------------------------


@strict()
def logger(log: Callable[[int, dict[str, float]], object]) -> Callable[[Report], None]:
    """Write every report with a function `log(step, values)`, of any library.

    Args:
      log: a function of the number of steps done and of a dict, name -> float, which has all of
        `Report.values()`. In sweeps and races the names are "loss/lane_3" for what is of lane 3;
        groups of lanes report one by one, each from the first step on.

    Returns:
      A callback. Of several hosts, only the first one calls `log`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def log(step, values):
      ...     print(step, values["loss"], values["learning_rate"])
      >>> result = gdjax.fit(
      ...     lambda x, batch: jnp.mean((x - batch) ** 2), jnp.zeros(()), gdjax.sgd(0.25),
      ...     jnp.ones(4), steps=2, report_every=1, callbacks=[logger(log)])
      1 1.0 0.25
      2 0.25 0.25
    """

    def write(report: Report) -> None:
        values = report.values()
        if report.lanes is not None:
            rows = np.flatnonzero(report.running)
            values = {
                f"{name}/lane_{report.lanes[row]}": float(value[row])
                for name, value in values.items()
                for row in rows
            }
        if jax.process_index() == 0 and values:
            log(report.step, values)

    return write


class _Log:
    """A file of rows, one for each report, or for each report of each lane."""

    def __init__(self, caller: str, path: PathLike):
        """Take the file's path."""
        self.what, self.path = f"{caller}(path={str(path)!r})", Path(path)

    def begin(self, names: Sequence[str], done: np.ndarray) -> None:
        """Drop the rows after the steps that are done; the run writes these anew."""
        self.columns: list[str] = []
        self.anew = True
        if jax.process_index() > 0 or not self.path.exists():
            return
        rows = self.read()
        if rows is None:
            raise ValueError(
                f"{self.what}: the file is there and is not such a log. Give another path, or "
                "remove it."
            )
        kept = [row for row in rows if _is_before(row, done)]
        if kept:
            self.columns = list(dict.fromkeys(name for row in kept for name in row))
            self.replace(kept)
            self.anew = False

    def __call__(self, report: Report) -> None:
        """Write a report."""
        rows = list(_rows_of(report))
        if jax.process_index() > 0 or not rows:
            return
        new = dict.fromkeys(name for row in rows for name in row if name not in self.columns)
        self.columns += new
        if self.anew:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.replace(rows)
        elif new and self.has_header:
            self.replace([*(self.read() or ()), *rows])
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self.text(rows))
        self.anew = False

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole file, all of it or nothing."""
        text = (self.header() + self.text(rows)).encode()
        replace_file(self.path, lambda file: file.write(text))

    has_header = False

    def header(self) -> str:
        """Return what the file begins with."""
        return ""

    def text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Return rows as whole lines."""
        raise NotImplementedError

    def read(self) -> list[dict[str, Any]] | None:
        """Return the whole rows of the file, or None if it is not such a log."""
        raise NotImplementedError


def _rows_of(report: Report) -> Iterable[dict[str, Any]]:
    values = report.values()
    if report.lanes is None:
        yield {"step": report.step, **values}
        return
    configs = {k: words(v) for k, v in report.configs.items()}
    values = {f"optimizer.{k}" if k in configs else k: v for k, v in values.items()}
    for row in np.flatnonzero(report.running):
        yield {
            "step": report.step,
            "lane": int(report.lanes[row]),
            **{k: v[row : row + 1].tolist()[0] for k, v in configs.items()},
            **{k: float(v[row]) for k, v in values.items()},
        }


def _is_before(row: Mapping[str, Any], done: np.ndarray) -> bool:
    """Return whether a row is of a step that was done before a run began."""
    if (row.get("lane") is not None) != bool(done.ndim):
        return False
    if done.ndim:
        lane = int(row["lane"])
        return lane < len(done) and int(row["step"]) <= int(done[lane])
    return int(row["step"]) <= int(done)


class CsvLog(_Log):
    """See `csv_logger`."""

    has_header = True

    def header(self) -> str:
        """Return the line with the names of the columns."""
        return self._lines([self.columns])

    def text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Return rows as whole lines."""
        return self._lines([[row.get(name, "") for name in self.columns] for row in rows])

    @staticmethod
    def _lines(rows: Iterable[Sequence[Any]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()

    def read(self) -> list[dict[str, Any]] | None:
        """Return the whole rows of the file, or None if it is not such a log."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return None
        text = text[: text.rfind("\n") + 1]  # a process that was killed may have left half a line
        names, *rows = csv.reader(io.StringIO(text)) if text else [[]]
        if "step" not in names:
            return None if text.strip() else []
        rows = [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]
        return [row for row in rows if row["step"].isdecimal()]


class JsonLog(_Log):
    """See `jsonl_logger`."""

    def text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Return rows as whole lines."""
        plain = [{name: _json_value(value) for name, value in row.items()} for row in rows]
        return "".join(json.dumps(row) + "\n" for row in plain)

    def read(self) -> list[dict[str, Any]] | None:
        """Return the whole rows of the file, or None if it is not such a log."""
        rows = []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        except UnicodeDecodeError:
            return None
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                if line.endswith("\n"):
                    return None
                continue  # half a line, of a process that was killed
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                return None
            rows.append(row)
        return rows


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@strict()
def csv_logger(path: PathLike) -> CsvLog:
    """Write every report as a row of a CSV file.

    The columns are "step" and the names of `Report.values()`: loss, held-out metrics, the
    hyperparameters in use, what `gdjax.monitor` measures, seconds. In sweeps and races there is a
    row for each lane that still runs, with its number in "lane" and its config in columns of its
    own; a number in use that has the name of one of those is in "optimizer.name".

    Args:
      path: the file; folders that are missing are made.

    Returns:
      A callback. Rows are written whole, when they are reported. When a run continues, by
      `fit(start=...)` or from a directory, rows up to there stay and later ones are written anew;
      a run that begins at step 0 writes the file anew. Of several hosts, only the first one writes.

    Raises:
      ValueError: when the run begins, if there is a file that is not such a log.

    Example:
      >>> import gdjax, jax.numpy as jnp, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
      >>> result = gdjax.fit(
      ...     lambda x, batch: jnp.mean((x - batch) ** 2), jnp.zeros(()), gdjax.sgd(0.1),
      ...     jnp.ones(4), steps=20, report_every=10, callbacks=[csv_logger(path)])
      >>> print(path.read_text()[:26])
      step,loss,learning_rate,se
    """
    return CsvLog("csv_logger", path)


@strict()
def jsonl_logger(path: PathLike) -> JsonLog:
    """Write every report as a line of a JSON Lines file, an object with the names of `csv_logger`.

    Args:
      path: the file; folders that are missing are made.

    Returns:
      A callback, as that of `csv_logger`. Numbers that are not finite are null: JSON has none.

    Raises:
      ValueError: when the run begins, if there is a file that is not such a log.

    Example:
      >>> import gdjax, jax.numpy as jnp, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
      >>> result = gdjax.fit(
      ...     lambda x, batch: jnp.mean((x - batch) ** 2), jnp.zeros(()), gdjax.sgd(0.1),
      ...     jnp.ones(4), steps=20, report_every=10, callbacks=[jsonl_logger(path)])
      >>> [json.loads(line)["step"] for line in path.read_text().splitlines()]
      [10, 20]
    """
    return JsonLog("jsonl_logger", path)


class TensorBoard:
    """See `tensorboard_logger`."""

    def __init__(self, directory: PathLike):
        """Take the directory; the writer must be installed."""
        self.directory = Path(directory)
        self.module = require("tensorboardX", "tensorboard", "tensorboard_logger")
        self.done, self.writers = np.zeros((), int), {}

    def begin(self, names: Sequence[str], done: np.ndarray) -> None:
        """Note where the run begins: TensorBoard hides what is there of later steps."""
        self.done = done

    def __call__(self, report: Report) -> None:
        """Write a report, of lanes into a folder for each."""
        values = report.values()
        if jax.process_index() > 0:
            return
        if report.lanes is None:
            self._write(self.directory, int(self.done), report.step, values)
            return
        for row in np.flatnonzero(report.running):
            lane = report.lanes[row]
            folder = self.directory / f"lane_{lane:04d}"
            mine = {name: float(value[row]) for name, value in values.items()}
            self._write(folder, int(self.done[lane]), report.step, mine)

    def _write(self, folder: Path, done: int, step: int, values: Mapping[str, float]) -> None:
        if folder not in self.writers:
            self.writers[folder] = self.module.SummaryWriter(str(folder), purge_step=done + 1)
        writer = self.writers[folder]
        for name, value in values.items():
            if math.isfinite(value):  # tensorboardX would warn of each
                writer.add_scalar(name, value, step)
        writer.flush()

    def finish(self, result: R) -> R:
        """Close the files."""
        for writer in self.writers.values():
            writer.close()
        self.writers = {}
        return result


@strict()
def tensorboard_logger(directory: PathLike) -> TensorBoard:
    """Write every report for TensorBoard, by tensorboardX (`pip install "gdjax[tensorboard]"`).

    Args:
      directory: the folder that `tensorboard --logdir` is given; missing ones are made. In sweeps
        and races each lane has a folder in it, "lane_0003", so that TensorBoard lays their curves
        over one another.

    Returns:
      A callback. The scalars are those of `Report.values()` that are finite. When a run continues,
      TensorBoard hides what an earlier process wrote of later steps. Of several hosts, only the
      first one writes.

    Raises:
      ImportError: without tensorboardX.
    """
    return TensorBoard(directory)


class Printer:
    """See `print_every`."""

    def __init__(self, reports: int):
        """Take the number of reports from one line to the next."""
        self.reports, self.seen = reports, {}

    def begin(self, names: Sequence[str], done: np.ndarray) -> None:
        """Count anew."""
        self.seen = {}

    def __call__(self, report: Report) -> None:
        """Print a line if it is due."""
        group = 0 if report.lanes is None else int(report.lanes[0])
        self.seen[group] = self.seen.get(group, 0) + 1
        if self.seen[group] % self.reports:
            return
        rates = {k: v for k, v in report.hyperparams.items() if "learning_rate" in k.split(".")}
        values = {"loss": report.loss, **report.metrics, **rates}
        if report.lanes is None:
            text = ", ".join(f"{k}={v:.4g}" for k, v in values.items())
        else:
            row = int(np.argmin(np.where(np.isfinite(report.loss), report.loss, np.inf)))
            text = ", ".join(f"{k}={v[row]:.4g}" for k, v in values.items())
            running = int(report.running.sum())
            text = f"{running} of {len(report.lanes)} lanes run; lane {report.lanes[row]}: {text}"
        if jax.process_index() == 0:
            print(f"step {report.step}: {text}", flush=True)


@strict()
def print_every(reports: int = 1) -> Printer:
    """Print loss, held-out metrics and learning rate; in sweeps, those of the lane with least loss.

    Args:
      reports: the number of reports >= 1 from one line to the next.

    Returns:
      A callback.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> result = gdjax.fit(
      ...     lambda x, batch: jnp.mean((x - batch) ** 2), jnp.zeros(()), gdjax.sgd(0.25),
      ...     jnp.ones(4), steps=4, report_every=1, callbacks=[print_every(2)])
      step 2: loss=0.25, learning_rate=0.25
      step 4: loss=0.01562, learning_rate=0.25
    """
    return Printer(check_integer("print_every(reports=...)", reports))
