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
from gdjax.core.checks import check_choice
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
from gdjax.training.plotting import draw_against, draw_curves, draw_heat_map, varying
from gdjax.training.progress import require
from gdjax.training.trials import Config, column, static_parts, words

PathLike = str | os.PathLike[str]


class Best(NamedTuple):
    """The winning lane of a sweep."""

    lane: int
    config: Config
    value: float
    params: Params
    state: OptState
    model_state: PyTree = None

    @property
    def eval_params(self) -> Params:
        """The parameters that held-out metrics are of, see `gdjax.eval_params`."""
        return eval_params(self.state, self.params)

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        sizes = f"params={short(self.params)}, state={short(self.state)}"
        return f"Best(lane={self.lane}, config={self.config}, value={self.value:.6g}, {sizes})"


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
        alive, finite = int((self.diverged_at < 0).sum()), np.isfinite(self.final_loss)
        least = f"{self.final_loss[finite].min():.6g}" if finite.any() else "none"
        return (
            f"SweepResult({len(self.steps)} lanes over {', '.join(self.configs)}; {alive} did not "
            f"diverge,\n"
            f"  {self.steps.sum()} steps in {self.seconds:.3g} s, best final loss {least},\n"
            f"  params={short(self.params)}, state={short(self.state)},\n"
            f"  history: {', '.join(self.history)})"
        )

    def config(self, lane: int) -> Config:
        """Return the hyperparameters of one lane."""
        return {k: _plain(v[lane]) for k, v in self.configs.items()}

    def metrics(self) -> list[str]:
        """Return the names of what `values` can give."""
        return ["loss", *(k for k in self.history if k not in RESERVED)]

    def values(self, by: str = "loss") -> np.ndarray:
        """Return one number for each lane: the final loss, or the last value of a metric."""
        if by == "loss":
            return self.final_loss
        if by not in self.metrics():
            known = ", ".join(self.metrics())
            raise ValueError(f"SweepResult: by={by!r} is not recorded; there is {known}.")
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
            raise ValueError(
                "SweepResult.best: every lane of the sweep diverged; try smaller learning rates."
            )
        return Best(lane, self.config(lane), float(self.values(by)[lane]), *self.lane(lane))

    def _order(self, by: str, mode: str) -> np.ndarray:
        """Return all lanes, best first; last those that diverged or have no value."""
        check_choice("SweepResult: mode=...", mode, ("min", "max"))
        values = self.values(by) * (1.0 if mode == "min" else -1.0)
        bad = (self.diverged_at >= 0) | ~np.isfinite(values)
        return np.lexsort((np.where(bad, np.inf, values), self.diverged_at >= 0))

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

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each lane: config, final loss, last metrics, steps, divergence."""
        names, configs = self.metrics()[1:], self._words()
        metrics = {k: self.values(k) for k in names}
        return [
            {
                **{k: _plain(v[i]) for k, v in configs.items()},
                "final loss": float(self.final_loss[i]),
                **{k: float(metrics[k][i]) for k in names},
                "steps": int(self.steps[i]),
                "diverged at": int(self.diverged_at[i]) if self.diverged_at[i] >= 0 else None,
                "stopped at": int(self.stopped_at[i]) if self.stopped_at[i] >= 0 else None,
            }
            for i in range(len(self.final_loss))
        ]

    def table(self, format: str = "text", by: str = "loss", mode: str = "min") -> Any:
        """Return a table of configs and results, best first.

        Args:
          format: "text" (needs tabulate), or "pandas" for a DataFrame (needs pandas), with the
            lanes as its index.
          by: "loss" or the name of a held-out metric.
          mode: "min" or "max".
        """
        check_choice("SweepResult.table(format=...)", format, ("text", "pandas"))
        order, rows = self._order(by, mode), self.rows()
        rows = [rows[i] for i in order]
        if format == "pandas":
            return require("pandas", "sweeps", 'table("pandas")').DataFrame(rows, index=order)
        tabulate = require("tabulate", "progress", "table()").tabulate
        same = len({row["steps"] for row in rows}) == 1
        any_ended = ((self.diverged_at >= 0) | (self.stopped_at >= 0)).any()
        for row in rows:
            ends = {how: row.pop(f"{how} at") for how in ("diverged", "stopped")}
            if same:
                del row["steps"]
            if any_ended:
                told = [f"{how} at step {at}" for how, at in ends.items() if at is not None]
                row[""] = "".join(told[:1])
        return tabulate(rows, "keys", floatfmt=".4g")

    def to_csv(self, path: PathLike | None = None) -> str:
        """Return the table of lanes as CSV text, and write it to a file if one is given."""
        text = io.StringIO()
        rows = self.rows()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return _written(text.getvalue(), path)

    def to_json(self, path: PathLike | None = None) -> str:
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

    # --- plots ---

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
        check_choice("SweepResult.plot(mode=...)", mode, ("min", "max"))
        configs, values = self._words(), self._shown(by)
        x = varying(configs)[0] if x is None else x
        if not isinstance(x, str):
            return draw_heat_map(configs, tuple(x), values, f"final {by}", mode, ax)
        if x not in configs:
            raise ValueError(
                f"SweepResult.plot(x=...) must be one or two of {', '.join(configs)}, got {x!r}."
            )
        return draw_against(configs, x, values, self._marked(), f"final {by}", ax)

    def plot_all(self, by: str = "loss") -> Any:
        """Draw the final value against every hyperparameter, side by side; return the figure."""
        plt = require("matplotlib.pyplot", "plots", "plot_all()")
        configs, values = self._words(), self._shown(by)
        names = varying(configs)
        fig = plt.figure(figsize=(4 * len(names), 3.4), layout="constrained")
        for ax, name in zip(fig.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            draw_against(configs, name, values, self._marked(), f"final {by}", ax, join=False)
        return fig

    def plot_curves(self, ax: Any = None) -> Any:
        """Draw the loss of every lane against the step; return the matplotlib axes."""
        return draw_curves(self._words(), self.history["loss"], ax)

    def _words(self) -> dict[str, np.ndarray]:
        return {k: words(v) for k, v in self.configs.items()}

    def _shown(self, by: str) -> np.ndarray:
        return np.where(self.diverged_at >= 0, np.nan, self.values(by))

    def _marked(self) -> dict[str, np.ndarray]:
        diverged = self.diverged_at >= 0
        dropped = ~np.isin(np.arange(len(diverged)), self.kept) & ~diverged
        return {"diverged": diverged, "dropped": dropped}

    # --- files ---

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
