"""What a sweep gives: plain arrays plus names, and what one wants to see of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax.core.checks import check_choice
from gdjax.training.pictures import draw_against, draw_curves, draw_heat_map, varying
from gdjax.training.plan import RESERVED
from gdjax.training.points import column, structures, words
from gdjax.training.report import require
from gdjax.training.store import as_arrays, from_arrays, nested, write_arrays


class Best(NamedTuple):
    """The winning lane of a sweep."""

    lane: int
    point: dict[str, Any]
    value: float
    params: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What `sweep` returns: plain NumPy arrays, lanes along axis 0.

    Attributes:
      points: name -> (lanes,), the hyperparameters of each lane; objects where they are no numbers.
      params: the trained parameters, each leaf with a leading axis of the lanes in `kept`.
      state: the optimizers' states, likewise; for a space with several structures a tuple of such
        trees, one for each, in the order in which they appear in `points`, None if it has no lane
        in `kept`.
      history: "loss" is (lanes, steps), NaN where a lane took no step; "aux" likewise; held-out
        metrics are (lanes, reports) with their steps in "step".
      diverged_at: (lanes,), the step (0 is the first) that would have made the lane's parameters
        nonfinite and was not taken, or -1.
      final_loss: (lanes,), the mean loss over the last tenth of the lane's steps; infinite if it
        diverged, NaN if it never started.
      seconds: wall time, compilation included.
      steps: (lanes,), the steps that the lane took part in.
      kept: the lanes that `params` and `state` have rows for; all of them, unless the lanes raced
        or the sweep was interrupted.
    """

    points: dict[str, np.ndarray]
    params: Any
    state: Any
    history: dict[str, Any]
    diverged_at: np.ndarray
    final_loss: np.ndarray
    seconds: float
    steps: np.ndarray
    kept: np.ndarray

    def __repr__(self) -> str:
        alive = int((self.diverged_at < 0).sum())
        text = f"SweepResult of {len(self.steps)} lanes over {', '.join(self.points)}"
        return f"<{text}; {alive} did not diverge; {self.seconds:.1f} s>"

    def point(self, lane: int) -> dict[str, Any]:
        """Return the hyperparameters of one lane."""
        return {k: _plain(v[lane]) for k, v in self.points.items()}

    def metrics(self) -> list[str]:
        """Return the names of what `values` can give."""
        return ["loss", *(k for k in self.history if k not in RESERVED)]

    def values(self, by: str = "loss") -> np.ndarray:
        """Return one number for each lane: the final loss, or the last value of a metric."""
        if by == "loss":
            return self.final_loss
        if by not in self.metrics():
            raise ValueError(f"by={by!r} is not recorded; there is {', '.join(self.metrics())}.")
        metric, lanes = self.history[by], np.arange(len(self.steps))
        seen = np.sum(self.history["step"] <= self.steps[:, None], 1)
        return np.where(seen > 0, metric[lanes, np.maximum(seen - 1, 0)], np.nan)

    def best(self, by: str = "loss", mode: str = "min") -> Best:
        """Return the best of the kept lanes that did not diverge.

        Args:
          by: "loss" or the name of a held-out metric.
          mode: "min" or "max".

        Raises:
          ValueError: if every lane diverged.
        """
        order = self._order(by, mode)
        lane = next((int(i) for i in order if i in self.kept), None)
        if lane is None or self.diverged_at[lane] >= 0:
            raise ValueError("every lane of the sweep diverged; try smaller learning rates.")
        params, state = self.lane(lane)
        return Best(lane, self.point(lane), float(self.values(by)[lane]), params, state)

    def _order(self, by: str, mode: str) -> np.ndarray:
        """Return all lanes, best first; last those that diverged or have no value."""
        check_choice("mode=...", mode, ("min", "max"))
        values = self.values(by) * (1.0 if mode == "min" else -1.0)
        bad = (self.diverged_at >= 0) | ~np.isfinite(values)
        return np.lexsort((np.where(bad, np.inf, values), self.diverged_at >= 0))

    def lane(self, lane: int) -> tuple[Any, Any]:
        """Return (params, state) of one lane that was kept."""
        if lane not in self.kept:
            raise ValueError(f"lane {lane} was not kept; there is {self.kept.tolist()}.")
        (row,) = np.flatnonzero(self.kept == lane)
        params, state = jax.tree.map(lambda x: x[row], self.params), self.state
        kinds = structures([self.point(i) for i in range(len(self.final_loss))])
        if len(kinds) > 1:
            kind = next(i for i, (_, lanes) in enumerate(kinds) if lane in lanes)
            row = sum(other in kinds[kind][1] for other in self.kept[:row])
            state = state[kind]
        return params, jax.tree.map(lambda x: x[row], state)

    def diverged(self) -> list[tuple[dict[str, Any], int]]:
        """Return (point, step) for each lane that diverged."""
        return [(self.point(i), int(at)) for i, at in enumerate(self.diverged_at) if at >= 0]

    # --- tables ---

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each lane: point, final loss, last metrics, steps, divergence."""
        names, points = self.metrics()[1:], self._words()
        metrics = {k: self.values(k) for k in names}
        return [
            {
                **{k: _plain(v[i]) for k, v in points.items()},
                "final loss": float(self.final_loss[i]),
                **{k: float(metrics[k][i]) for k in names},
                "steps": int(self.steps[i]),
                "diverged at": int(self.diverged_at[i]) if self.diverged_at[i] >= 0 else None,
            }
            for i in range(len(self.final_loss))
        ]

    def table(self, format: str = "text", by: str = "loss", mode: str = "min") -> Any:
        """Return a table of points and results, best first.

        Args:
          format: "text" (needs tabulate), or "pandas" for a DataFrame (needs pandas), with the
            lanes as its index.
          by: "loss" or the name of a held-out metric.
          mode: "min" or "max".
        """
        check_choice("table(format=...)", format, ("text", "pandas"))
        order, rows = self._order(by, mode), self.rows()
        rows = [rows[i] for i in order]
        if format == "pandas":
            return require("pandas", "sweeps", 'table("pandas")').DataFrame(rows, index=order)
        tabulate = require("tabulate", "progress", "table()").tabulate
        same = len({row["steps"] for row in rows}) == 1
        any_diverged = (self.diverged_at >= 0).any()
        for row in rows:
            at = row.pop("diverged at")
            if same:
                del row["steps"]
            if any_diverged:
                row[""] = f"diverged at step {at}" if at is not None else ""
        return tabulate(rows, "keys", floatfmt=".4g")

    def to_csv(self, path: Any = None) -> str:
        """Return the table of lanes as CSV text, and write it to a file if one is given."""
        text = io.StringIO()
        rows = self.rows()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return _written(text.getvalue(), path)

    def to_json(self, path: Any = None) -> str:
        """Return lanes and loss curves as JSON text, and write it to a file if one is given.

        Numbers that are not finite are null, since JSON has none.
        """
        curves = {k: self.history[k] for k in self.metrics()}
        if "step" in self.history:
            curves["step"] = self.history["step"]
        data = {
            "lanes": self.rows(),
            "history": {k: np.asarray(v, np.float64).tolist() for k, v in curves.items()},
            "seconds": self.seconds,
        }
        return _written(json.dumps(_finite(data)), path)

    # --- pictures ---

    def plot(
        self,
        x: str | Sequence[str] | None = None,
        by: str = "loss",
        ax: Any = None,
        mode: str = "min",
    ) -> Any:
        """Draw the final value of each lane against hyperparameters; return the axes.

        Args:
          x: a hyperparameter; lanes that differ in others are a line each. A pair of them gives a
            heat map of the best value in each cell. None is the first one that lanes differ in.
          by: "loss" or the name of a held-out metric.
          ax: matplotlib axes; None makes new ones.
          mode: "min" or "max", what is best in a cell.
        """
        check_choice("plot(mode=...)", mode, ("min", "max"))
        points, values = self._words(), self._shown(by)
        x = varying(points)[0] if x is None else x
        if not isinstance(x, str):
            return draw_heat_map(points, tuple(x), values, f"final {by}", mode, ax)
        if x not in points:
            raise ValueError(f"plot(x=...) must be one or two of {', '.join(points)}, got {x!r}.")
        return draw_against(points, x, values, self._marked(), f"final {by}", ax)

    def plot_all(self, by: str = "loss") -> Any:
        """Draw the final value against every hyperparameter, side by side; return the figure."""
        plt = require("matplotlib.pyplot", "plots", "plot_all()")
        points, values = self._words(), self._shown(by)
        names = varying(points)
        fig = plt.figure(figsize=(4 * len(names), 3.4), layout="constrained")
        for ax, name in zip(fig.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            draw_against(points, name, values, self._marked(), f"final {by}", ax, join=False)
        return fig

    def plot_curves(self, ax: Any = None) -> Any:
        """Draw the loss of every lane against the step; return the matplotlib axes."""
        return draw_curves(self._words(), self.history["loss"], ax)

    def _words(self) -> dict[str, np.ndarray]:
        return {k: words(v) for k, v in self.points.items()}

    def _shown(self, by: str) -> np.ndarray:
        return np.where(self.diverged_at >= 0, np.nan, self.values(by))

    def _marked(self) -> dict[str, np.ndarray]:
        diverged = self.diverged_at >= 0
        dropped = ~np.isin(np.arange(len(diverged)), self.kept) & ~diverged
        return {"diverged": diverged, "dropped": dropped}

    # --- files ---

    def save(self, path: Any) -> None:
        """Write everything to one .npz file: arrays by name, no Python objects."""
        data = {k: v for k, v in vars(self).items() if k not in ("points", "seconds")}
        points = {k: v.tolist() for k, v in self._words().items()}
        about = json.dumps({"points": points, "seconds": self.seconds})
        write_arrays(Path(path), {"about": np.array(about), **as_arrays(data)})

    @classmethod
    def load(cls, path: Any, params: Any = None, state: Any = None) -> SweepResult:
        """Read what `save` wrote.

        Args:
          path: the file.
          params: a tree with the structure of one lane's parameters, such as `sweep` was given;
            None gives nested dicts.
          state: a tree with the structure of one lane's state, such as `optimizer.init(params)` (a
            tuple of them for several structures); None gives nested dicts.

        Returns:
          The result; what was no number in a point (a function) is its name, a string.
        """
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            arrays = {k: file[k] for k in file.files if k != "about"}
        points = {k: column(v) for k, v in about["points"].items()}
        fields = nested(arrays)
        for name, like in (("params", params), ("state", state)):
            if like is not None:
                fields[name] = from_arrays(arrays, f"/{name}", like)
        fields.setdefault("params", {})
        fields.setdefault("state", {})
        return cls(points=points, seconds=about["seconds"], **fields)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _written(text: str, path: Any) -> str:
    if path is not None:
        Path(path).write_text(text)
    return text


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _finite(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_finite(v) for v in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
