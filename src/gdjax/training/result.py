"""What a sweep returns: plain arrays with names, and tables, plots and files of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax.core.base import short
from gdjax.core.checks import check_choice, check_integer
from gdjax.core.evaluation import eval_params
from gdjax.core.types import OptState, Params, PyTree
from gdjax.training.files import (
    as_arrays,
    from_arrays,
    nested,
    part_of,
    read_record,
    write_record,
)
from gdjax.training.inputs import RESERVED
from gdjax.training.page import best_view, shown_in_notebook, sweep_page, sweep_view
from gdjax.training.plotting import (
    Drawing,
    draw_against,
    draw_all,
    draw_curves,
    draw_pair,
    running_mean,
    smoothing,
    varying,
)
from gdjax.training.progress import require
from gdjax.training.repeats import (
    Curve,
    Point,
    checked_mode,
    lanes_of_points,
    mean_and_error,
    rank,
    without_seeds,
)
from gdjax.training.trials import SEEDS, Config, column, static_parts, words

PathLike = str | os.PathLike[str]
NOTHING = (math.nan, math.nan)  # a mean and its error


class Best(NamedTuple):
    """The best point of a sweep, and its best repeat.

    Attributes:
      lane: the repeat with the best value of those that were kept, whose `params` and `state` these
        are.
      config: the hyperparameters, without the seeds.
      value: the mean of the repeats; infinite if one of them diverged, as then in every point.
      params: the trained parameters of that lane.
      state: the optimizer's state of that lane.
      model_state: the model's state of that lane, or None.
      error: the standard error of the mean; NaN for a single repeat.
      lanes: (repeats,), the lanes of the point.
      diverged: how many of them diverged.
    """

    lane: int
    config: Config
    value: float
    params: Params
    state: OptState
    model_state: PyTree
    error: float
    lanes: np.ndarray
    diverged: int

    @property
    def eval_params(self) -> Params:
        """The parameters that held-out metrics are of, see `gdjax.eval_params`."""
        return eval_params(self.state, self.params)

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        sizes = f"params={short(self.params)}, state={short(self.state)}"
        value = f"{self.value:.6g}"
        if len(self.lanes) > 1:
            value += f" ± {self.error:.2g}, lanes={self.lanes.tolist()}"
            value += f", diverged={self.diverged}" if self.diverged else ""
        return f"Best(lane={self.lane}, config={self.config}, value={value}, {sizes})"

    def _repr_html_(self) -> str | None:
        return shown_in_notebook(best_view, self)


class Lane(NamedTuple):
    """Where one lane of a sweep ended."""

    params: Params
    state: OptState
    model_state: PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult:
    """What `sweep` returns: plain NumPy arrays, lanes along axis 0.

    Attributes:
      configs: name -> (lanes,), the hyperparameters of each lane; objects where they are static.
      params: the trained parameters, each leaf with a leading axis of the lanes in `kept`.
      state: the optimizers' states, likewise; for a space with several combinations of static
        values a tuple of such trees, one for each, in the order in which they appear in `configs`,
        None if it has no lane in `kept`.
      model_state: the states of the models, as `params`; None if the loss function has none.
      history: "loss" is (lanes, steps), NaN where a lane took no step; "aux" likewise; held-out
        metrics are (lanes, reports) with their steps in "step".
      diverged_at: (lanes,), the step (0 is the first) that would have made the lane's parameters
        nonfinite and was not taken, or -1.
      stopped_at: (lanes,), the steps that a lane had taken when a callback stopped it, or -1.
      final_loss: (lanes,), the mean loss over the last tenth of the lane's steps; infinite if it
        diverged, NaN if it never started.
      seconds: wall time, compilation included.
      steps: (lanes,), the steps that the lane took part in.
      kept: the lanes that `params` and `state` have rows for; all of them, unless the lanes raced
        or the sweep was interrupted.
      best_params: see `gdjax.callbacks.keep_best`, rows as in `params`; None without it, as all
        below.
      best_model_state: the states of the models that belong to them.
      best_step: (lanes,), the steps that they have taken.
      best_value: (lanes,), their metric.
    """

    configs: dict[str, np.ndarray]
    params: Params
    state: OptState
    history: dict[str, Any]
    model_state: PyTree
    diverged_at: np.ndarray
    stopped_at: np.ndarray
    final_loss: np.ndarray
    seconds: float
    steps: np.ndarray
    kept: np.ndarray
    best_params: Params = None
    best_model_state: PyTree = None
    best_step: np.ndarray | None = None
    best_value: np.ndarray | None = None

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        points, alive = self.points(), int((self.diverged_at < 0).sum())
        best, count = points[0], f"{len(self.steps)} lanes"
        least = f"{best.mean:.6g}" if math.isfinite(best.mean) else "none"
        if len(points) < len(self.steps):
            count += f", repeats of {len(points)} points,"
            least += f" ± {best.error:.2g}" if math.isfinite(best.error) else ""
        return (
            f"SweepResult({count} over {', '.join(self.configs)}; {alive} did not diverge,\n"
            f"  {self.steps.sum()} steps in {self.seconds:.3g} s, best final loss {least},\n"
            f"  params={short(self.params)}, state={short(self.state)},\n"
            f"  history: {', '.join(self.history)})"
        )

    def _repr_html_(self) -> str | None:
        return shown_in_notebook(sweep_view, self)

    def config(self, lane: int) -> Config:
        """Return the hyperparameters of one lane."""
        return {k: _plain(v[lane]) for k, v in self.configs.items()}

    def metrics(self) -> list[str]:
        """Return the names of what `values` can give."""
        return ["loss", *(k for k in self.history if k not in RESERVED)]

    def values(self, by: str = "loss") -> np.ndarray:
        """Return one number for each lane: the final loss, or the last value of a metric."""
        self._check_recorded(by)
        if by == "loss":
            return self.final_loss
        metric, lanes = self.history[by], np.arange(len(self.steps))
        seen = np.sum(self.history["step"] <= self.steps[:, None], 1)
        return np.where(seen > 0, metric[lanes, np.maximum(seen - 1, 0)], np.nan)

    def _check_recorded(self, by: str) -> None:
        if by not in self.metrics():
            known = ", ".join(self.metrics())
            raise ValueError(f"SweepResult: by={by!r} is not recorded; there is {known}.")

    def points(self, by: str = "loss", mode: str | None = None, seeds: str = "mean") -> list[Point]:
        """Return the points of the sweep, best first: configs, and what their repeats reached.

        Repeats are lanes that differ only in "seed", "init_seed" and "batch_seed"; a run that is
        there twice, with its seeds, counts as two points. Points without a diverged repeat come
        first, by their mean; then those with some, by the share of them; then those that never
        started.

        Args:
          by: "loss", for the mean over the last tenth of the steps, or the name of a held-out
            metric, for its last value.
          mode: "min" or "max"; None is "min" for "loss", and an error for a metric, as it cannot be
            known whether more of it is better.
          seeds: "mean" over the repeats of a point, or "each" for a point of every lane, whose
            config has the seeds, too.

        Example:
          >>> import gdjax, jax.numpy as jnp
          >>> space = {"learning_rate": [0.01, 0.1]}
          >>> result = gdjax.sweep(
          ...     lambda x, batch: jnp.mean((x - batch) ** 2), jnp.zeros(()), gdjax.sgd, space,
          ...     jnp.arange(8.0), batch_size=2, steps=30, seeds=4)
          >>> for point in result.points():
          ...     print(point.config, point.lanes, f"{point.mean:.2f} ± {point.error:.2f}")
          {'learning_rate': 0.1} [4 5 6 7] 6.38 ± 0.72
          {'learning_rate': 0.01} [0 1 2 3] 7.55 ± 1.36
        """
        return self._points("SweepResult.points", by, mode, seeds)

    def best(self, by: str = "loss", mode: str | None = None, seeds: str = "mean") -> Best:
        """Return the best point that was kept, by the mean of its repeats.

        Args:
          by: as in `points`.
          mode: as in `points`.
          seeds: as in `points`; "each" for the best single lane.

        Returns:
          A `Best`, with the parameters of the repeat that has the best value. Points with a
          diverged repeat count only if there are no others.

        Raises:
          ValueError: if every lane diverged, or `by` is a metric and there is no `mode`.
        """
        for point in self._points("SweepResult.best", by, mode, seeds):
            values = np.where(np.isin(point.lanes, self.kept), point.values, np.nan)
            if not np.isfinite(values).any():
                continue
            pick = np.nanargmin if mode != "max" else np.nanargmax
            lane = int(point.lanes[pick(np.where(np.isfinite(values), values, np.nan))])
            return Best(
                lane, point.config, point.mean, *self.lane(lane), point.error, point.lanes,
                point.diverged,
            )  # fmt: skip
        raise ValueError(
            "SweepResult.best: every lane of the sweep diverged; try smaller learning rates."
        )

    def curve(self, lanes: Sequence[int] | np.ndarray, by: str = "loss", smooth: int = 1) -> Curve:
        """Return the mean curve of some lanes, such as a point's, with its standard error.

        Args:
          lanes: which of them; those that never started are left out.
          by: "loss", recorded at each step, or the name of a held-out metric, at each report.
          smooth: entries >= 1 of a lane's running mean; the mean over lanes is of those.
        """
        check_integer("SweepResult.curve(smooth=...)", smooth)
        self._check_recorded(by)
        count, lanes = len(self.steps), np.asarray(lanes, int)
        if not ((lanes >= 0) & (lanes < count)).all():
            raise ValueError(
                f"SweepResult.curve(lanes=...) must be in [0, {count - 1}], got {lanes.tolist()}."
            )
        lanes = lanes[self._started()[lanes]]
        rows = np.asarray(self.history[by], float)[lanes]
        step = np.arange(1, rows.shape[1] + 1)
        if by != "loss":  # a frozen lane is measured at later reports, too
            step = self.history["step"]
            rows = np.where(step > self.steps[lanes, None], np.nan, rows)
        if not lanes.size:
            return Curve(step, *np.full((2, len(step)), np.nan))
        return Curve(step, *mean_and_error(running_mean(rows, smooth)))

    def _points(self, caller: str, by: str, mode: str | None, seeds: str) -> list[Point]:
        values, sign = self.values(by), 1.0 if checked_mode(caller, by, mode) == "min" else -1.0
        check_choice(f"{caller}(seeds=...)", seeds, ("mean", "each"))
        values = np.where(self.diverged_at >= 0, sign * np.inf, values.astype(float))
        started = self._started()
        scores = np.where(np.isfinite(values), sign * values, np.inf)
        scores = np.where(started, scores, np.nan)
        # A population's numbers may become equal; its points are what they were at the start.
        tracks = {k: v[:, 0] for k, v in self.history.get("exchanges", {}).items() if k != "parent"}
        points = lanes_of_points(self.configs | tracks, seeds)
        order = rank([scores[lanes] for lanes in points])
        return [self._point(points[i], values, started, seeds) for i in order]

    def _point(
        self, lanes: np.ndarray, values: np.ndarray, started: np.ndarray, seeds: str
    ) -> Point:
        config = self.config(int(lanes[0]))
        ran = lanes[started[lanes]]
        mean, error = mean_and_error(values[ran]) if ran.size else NOTHING
        return Point(
            config=config if seeds == "each" else without_seeds(config),
            lanes=lanes,
            values=np.where(started, values, np.nan)[lanes],
            mean=float(mean),
            error=float(error),
            diverged=int((self.diverged_at[lanes] >= 0).sum()),
            steps=int(self.steps[lanes].max()),
            kept=bool(np.isin(lanes, self.kept).any()),
        )

    def _started(self) -> np.ndarray:
        return (self.steps > 0) | (self.diverged_at >= 0)

    def lane(self, lane: int) -> Lane:
        """Return (params, state, model_state) of one lane that was kept."""
        if lane not in self.kept:
            kept = self.kept.tolist()
            raise ValueError(f"SweepResult: lane {lane} was not kept; there is {kept}.")
        (row,) = np.flatnonzero(self.kept == lane)
        params, model_state = jax.tree.map(lambda x: x[row], (self.params, self.model_state))
        state = self.state
        kinds = static_parts([self.config(i) for i in range(len(self.final_loss))])
        if len(kinds) > 1:
            kind = next(i for i, (_, lanes) in enumerate(kinds) if lane in lanes)
            row = sum(other in kinds[kind][1] for other in self.kept[:row])
            state = state[kind]
        return Lane(params, jax.tree.map(lambda x: x[row], state), model_state)

    def diverged(self) -> list[tuple[Config, int]]:
        """Return (config, step) for each lane that diverged."""
        return [(self.config(i), int(at)) for i, at in enumerate(self.diverged_at) if at >= 0]

    # --- tables ---

    def rows(self, seeds: str = "each") -> list[dict[str, Any]]:
        """Return a dict for each lane: config, final loss, last metrics, steps, divergence.

        Args:
          seeds: "each" for lanes; "mean" for points, in the order of their first lanes, with means
            and, if any point has repeats, their standard errors. A mean over repeats of which one
            diverged is infinite for the loss and NaN for metrics.
        """
        points = self._points("SweepResult.rows", "loss", None, seeds)
        return self._rows(sorted(points, key=lambda point: point.lanes[0]), seeds)

    def _rows(self, points: list[Point], seeds: str) -> list[dict[str, Any]]:
        configs, values = self._words(), {"final loss": self.final_loss}
        values |= {name: self.values(name) for name in self.metrics()[1:]}
        started, several = self._started(), any(len(point.lanes) > 1 for point in points)
        rows = []
        for point in points:
            first, ran = int(point.lanes[0]), point.lanes[started[point.lanes]]
            at = self.diverged_at[point.lanes]
            config = {k: _plain(v[first]) for k, v in configs.items()}
            row = {}
            for name, of_lanes in values.items():
                known = ran.size and (seeds == "each" or not point.diverged or name == "final loss")
                mean, error = mean_and_error(of_lanes[ran].astype(float)) if known else NOTHING
                row[name] = (float(mean), float(error))
            more: dict[str, Any] = {}
            for name, (mean, error) in row.items():
                more[name] = mean
                if several:
                    more[f"{name} error"] = error
            if several:
                more["repeats"] = len(point.lanes)
            more["steps"] = point.steps
            if several:
                more["diverged"] = point.diverged
            more["diverged at"] = int(at[at >= 0].min()) if point.diverged else None
            stopped = self.stopped_at[point.lanes]
            if (self.stopped_at >= 0).any():
                more["stopped at"] = min((int(x) for x in stopped if x >= 0), default=None)
            config = config if seeds == "each" else without_seeds(config)
            rows.append({**config, **{_beside(config, k): v for k, v in more.items()}})
        return rows

    def table(
        self,
        format: str = "text",
        by: str = "loss",
        mode: str | None = None,
        seeds: str = "mean",
    ) -> Any:
        """Return a table of configs and results, best first.

        Args:
          format: "text" (needs tabulate), or "pandas" for a DataFrame (needs pandas), whose index
            is the lane, of a point its first.
          by: as in `points`.
          mode: as in `points`.
          seeds: "mean" for a row of each point, with means ± standard errors over its repeats;
            "each" for a row of each lane.
        """
        check_choice("SweepResult.table(format=...)", format, ("text", "pandas"))
        points = self._points("SweepResult.table", by, mode, seeds)
        rows = self._rows(points, seeds)
        if format == "pandas":
            pandas = require("pandas", "sweeps", 'table("pandas")')
            index = pandas.Index([int(point.lanes[0]) for point in points], name="lane")
            return pandas.DataFrame(rows, index=index)
        tabulate = require("tabulate", "progress", "table()").tabulate
        same = len({point.steps for point in points}) == 1
        texts, measured = [], ["final loss", *self.metrics()[1:]]
        for point, row in zip(points, rows, strict=True):
            at, stopped, text = row.pop("diverged at"), row.pop("stopped at", None), {}
            row.pop("diverged", None)
            errors = {_beside(point.config, k): f"{k} error" for k in measured}
            errors = {k: row.pop(_beside(point.config, v), math.nan) for k, v in errors.items()}
            for name, value in row.items():
                if math.isfinite(error := errors.get(name, math.nan)):
                    value = f"{value:.4g} ± {error:.2g}"
                text[name] = value
            if same:
                text.pop("steps", None)
            if ((self.diverged_at >= 0) | (self.stopped_at >= 0)).any():
                text[""] = _how_diverged(point, at)
                if not text[""] and stopped is not None:
                    text[""] = f"stopped at step {stopped}"
            texts.append(text)
        return tabulate(texts, "keys", floatfmt=".4g")

    def to_csv(self, path: PathLike | None = None, seeds: str = "each") -> str:
        """Return `rows(seeds)` as CSV text, and write it to a file if one is given."""
        text = io.StringIO()
        rows = self.rows(seeds)
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return _written(text.getvalue(), path)

    def to_json(self, path: PathLike | None = None) -> str:
        """Return lanes, points and curves as JSON text, and write it to a file if one is given.

        "lanes" and "points" are `rows("each")` and `rows("mean")`, "history" the losses and metrics
        of each lane. Numbers that are not finite are null, since JSON has none.
        """
        curves = {k: self.history[k] for k in self.metrics()}
        if "step" in self.history:
            curves["step"] = self.history["step"]
        data = {
            "lanes": self.rows(),
            "points": self.rows("mean"),
            "history": {k: np.asarray(v, np.float64).tolist() for k, v in curves.items()},
            "seconds": self.seconds,
        }
        return _written(json.dumps(_finite(data)), path)

    # --- plots ---

    def plot(
        self,
        x: str | Sequence[str] | None = None,
        by: str = "loss",
        ax: Any = None,
        mode: str | None = None,
        seeds: str = "mean",
        color: str | None = None,
    ) -> Any:
        """Draw the final value of each point against hyperparameters; return the axes.

        The best point that was kept has a star, named in the legend. Repeats are drawn as their
        mean with a bar of one standard error to each side. Points with a diverged repeat are red
        triangles at the top, or, if some of their repeats did not diverge, red rings at the mean of
        those; points that a race dropped are grey crosses.

        Args:
          x: a hyperparameter; points that differ only in it are joined. A pair of them gives a
            heat map of the best value in each cell, or coloured points where they form no grid.
            None is the first one that points differ in.
          by: as in `points`.
          ax: matplotlib axes; None makes new ones.
          mode: as in `points`.
          seeds: as in `points`.
          color: the hyperparameter that colours show; None is the first one other than `x` that
            points differ in. With a pair of hyperparameters, colours show the value.
        """
        data = self._drawing("SweepResult.plot", by, mode, seeds)
        x = self._hyperparameters("plot", data)[0] if x is None else x
        if not isinstance(x, str):
            return draw_pair(data, tuple(x), ax)
        if x not in data.columns:
            raise ValueError(
                f"SweepResult.plot(x=...) must be one or two of {', '.join(data.columns)}, "
                f"got {x!r}."
            )
        return draw_against(data, x, ax, color)

    def plot_all(self, by: str = "loss", mode: str | None = None, seeds: str = "mean") -> Any:
        """Draw the final value against every hyperparameter, side by side; return the figure.

        Args:
          by: as in `points`.
          mode: as in `points`.
          seeds: as in `points`.
        """
        plt = require("matplotlib.pyplot", "plots", "plot_all()")
        data = self._drawing("SweepResult.plot_all", by, mode, seeds)
        return draw_all(data, self._hyperparameters("plot_all", data), plt)

    def plot_curves(
        self,
        by: str = "loss",
        ax: Any = None,
        mode: str | None = None,
        seeds: str = "mean",
        color: str | None = None,
        smooth: int | None = None,
    ) -> Any:
        """Draw the curve of every point against the step; return the matplotlib axes.

        Repeats are drawn as their mean with a band of one standard error to each side. The best
        point that was kept is drawn wider and named in the legend. A curve ends where the first of
        its repeats diverged (marked by a red cross) or was dropped (a grey dot).

        Args:
          by: "loss", or the name of a held-out metric.
          ax: matplotlib axes; None makes new ones.
          mode: as in `points`; it decides which point is the best.
          seeds: as in `points`.
          color: the hyperparameter that colours show; None is the first one that points differ in.
            Up to 8 curves have colours of their own instead, and names in the legend.
          smooth: entries >= 1 of the running mean that is drawn of each lane; None is a fiftieth of
            the steps for the loss, and 1 for a metric.
        """
        data = self._drawing("SweepResult.plot_curves", by, mode, seeds)
        if smooth is None:
            smooth = smoothing(self.history["loss"].shape[1]) if by == "loss" else 1
        curves = [self.curve(lanes, by, smooth) for lanes in data.lanes]
        means, errors = (np.array([getattr(c, k) for c in curves]) for k in ("mean", "error"))
        notes = [f"running mean of {smooth}"] if smooth > 1 else []
        notes += ["mean ± standard error"] if np.isfinite(errors).any() else []
        label = by + (f" ({', '.join(notes)})" if notes else "")
        return draw_curves(data, curves[0].step, (means, errors), label, ax, color)

    def _drawing(self, caller: str, by: str, mode: str | None, seeds: str) -> Drawing:
        ranked = self._points(caller, by, mode, seeds)
        points = sorted(ranked, key=lambda point: point.lanes[0])
        first, columns = [int(point.lanes[0]) for point in points], self._words()
        mean, failed = (np.array([getattr(p, k) for p in points]) for k in ("mean", "diverged"))
        values = [point.values[np.isfinite(point.values)] for point in points]
        rest = [
            v.mean() if bad and v.size else np.nan for v, bad in zip(values, failed, strict=True)
        ]
        kept = np.array([point.kept for point in points])
        ran = np.array([point.steps > 0 for point in points])
        best = next((p for p in ranked if p.kept and math.isfinite(p.mean)), None)
        return Drawing(
            columns={k: v[first] for k, v in columns.items() if seeds == "each" or k not in SEEDS},
            lanes=[point.lanes for point in points],
            mean=np.where(np.isfinite(mean), mean, np.nan),
            error=np.array([point.error for point in points]),
            rest=np.array(rest),
            failed=(failed > 0) | ran & ~np.isfinite(mean),
            dropped=~kept & np.isfinite(mean),
            best=None if best is None else first.index(int(best.lanes[0])),
            by=by,
            mode=checked_mode(caller, by, mode),
        )

    def _hyperparameters(self, caller: str, data: Drawing) -> list[str]:
        if not data.columns:
            raise ValueError(
                f"SweepResult.{caller}: lanes differ only in their seeds; give seeds='each' to "
                "draw each of them."
            )
        return varying(data.columns)

    def _words(self) -> dict[str, np.ndarray]:
        return {k: words(v) for k, v in self.configs.items()}

    # --- files ---

    def report(
        self, path: PathLike, by: str = "loss", mode: str | None = None, title: str | None = None
    ) -> None:
        """Write a page of everything to look at: one HTML file that opens without network.

        It has a table of the points that a click sorts, learning curves with bands, parallel
        coordinates, a chart for each hyperparameter, their importance, and what happened to lanes
        that did not finish. The same result gives the same bytes. It needs Plotly, and for the
        importance Optuna and scikit-learn: `pip install "gdjax[report]"`. About 5 MB, nearly all of
        it plotly.js.

        Args:
          path: the file, in a folder that exists; it is written completely or not at all.
          by: what points are compared by, as in `points`.
          mode: as in `points`.
          title: of the page.

        Raises:
          ValueError: for a metric without `mode`, or a folder that does not exist.
          ImportError: if Plotly is not installed.
        """
        points = self._points("SweepResult.report", by, mode, "mean")
        sweep_page(path, self, points, by, mode, title)

    def save(self, path: PathLike) -> None:
        """Write everything to one .npz file: arrays by name, no Python objects."""
        data = {k: v for k, v in vars(self).items() if k not in ("configs", "seconds")}
        configs = {k: v.tolist() for k, v in self._words().items()}
        about = {"configs": configs, "seconds": self.seconds}
        write_record(Path(path), about, as_arrays(data))

    @classmethod
    def load(
        cls,
        path: PathLike,
        params: Params = None,
        state: OptState = None,
        model_state: PyTree = None,
    ) -> SweepResult:
        """Read what `save` wrote.

        Args:
          path: the file.
          params: a tree with the structure of one lane's parameters, such as `sweep` was given;
            None gives nested dicts.
          state: a tree with the structure of one lane's state, such as `optimizer.init(params)` (a
            tuple of them for several combinations of static values); None gives nested dicts.
          model_state: likewise.

        Returns:
          The result; a static value that JSON lacks (a function) is its name, a string.

        Raises:
          ValueError: if the file is damaged, or the trees have another structure than it.
        """
        likes = {"params": params, "state": state, "model_state": model_state}
        likes |= {"best_params": params, "best_model_state": model_state}
        about, arrays = read_record(Path(path))
        configs = {k: column(v) for k, v in about["configs"].items()}
        fields = {}
        for field in dataclasses.fields(cls):
            part, like = part_of(arrays, field.name), likes.get(field.name)
            if like is not None and (part or not field.name.startswith("best_")):
                fields[field.name] = from_arrays(part, like, f"SweepResult.load({field.name}=...)")
            elif part:
                fields[field.name] = part[""] if "" in part else nested(part)
        fields.setdefault("params", {})
        fields.setdefault("state", {})
        fields.setdefault("model_state", None)
        return cls(configs=configs, seconds=about["seconds"], **fields)


def final_losses(losses: np.ndarray, diverged_at: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the mean loss over the last tenth of each lane's steps; infinite if it diverged."""
    out = np.full(len(losses), np.nan)
    for done in np.unique(steps):
        lanes = np.flatnonzero((steps == done) & (diverged_at < 0))
        if done and lanes.size:
            tail = losses[lanes, done - max(1, done // 10) : done].mean(1)
            out[lanes] = np.where(np.isnan(tail), np.inf, tail)
    return np.where(diverged_at >= 0, np.inf, out)


def _how_diverged(point: Point, at: int | None) -> str:
    if not point.diverged:
        return ""
    if len(point.lanes) == 1:
        return f"diverged at step {at}"
    return f"{point.diverged} of {len(point.lanes)} diverged, first at step {at}"


def _beside(config: Config, name: str) -> str:
    """Return the name of a column of results, which no hyperparameter has."""
    return f"{name} (result)" if name in config else name


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _written(text: str, path: PathLike | None) -> str:
    if path is not None:
        Path(path).write_text(text)
    return text


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _finite(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_finite(v) for v in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
