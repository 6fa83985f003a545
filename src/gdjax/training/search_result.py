"""What a search returns: a table of its trials, the best of them, and Optuna's study."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gdjax.core.base import short
from gdjax.core.checks import check_choice
from gdjax.core.types import OptState, Params, PyTree
from gdjax.training.plotting import new_axes, scale_of
from gdjax.training.progress import require
from gdjax.training.trials import Config, column, words

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from gdjax.training.study import Dimensions


class SearchTrial(NamedTuple):
    """One trial of a search.

    Attributes:
      number: Optuna's.
      config: the hyperparameters, dependent values included.
      value: the mean over the repeats; of a pruned trial at its last rung; infinite (minus infinity
        where more is better) if it diverged.
      error: the standard error of the mean, NaN without repeats.
      steps: that it took.
      state: "complete", "pruned" or "diverged".
      diverged_at: the step that was not taken, or None.
    """

    number: int
    config: Config
    value: float
    error: float
    steps: int
    state: str
    diverged_at: int | None


class BestTrial(NamedTuple):
    """The best trial of a search, with the parameters and the states of its best repeat.

    These are None after Ctrl-C if another process, or an earlier call, ran the trial.
    """

    number: int
    config: Config
    value: float
    error: float
    params: Params
    state: OptState
    model_state: PyTree

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        error = f" ± {self.error:.2g}" if math.isfinite(self.error) else ""
        return (
            f"BestTrial(number={self.number}, config={self.config}, value={self.value:.6g}{error}, "
            f"params={short(self.params)}, state={short(self.state)})"
        )


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult:
    """What `search` returns.

    Attributes:
      study: Optuna's study, for its plots (`optuna.visualization`), importances and storage.
      trials: all that are finished, by number, of all calls and processes.
      by: what decided.
      mode: "min" or "max".
      found: the best trial, or None if none was completed; see `best`.
      seconds: wall time of this call, compilation included.
    """

    study: Study
    trials: list[SearchTrial]
    by: str
    mode: str
    found: BestTrial | None
    seconds: float

    def __repr__(self) -> str:
        """Show the numbers; of the trees, how large they are."""
        states = [trial.state for trial in self.trials]
        counts = [f"{states.count(k)} {k}" for k in ("complete", "pruned", "diverged")]
        return (
            f"SearchResult({len(states)} trials: {', '.join(counts)}; {self.seconds:.3g} s,\n"
            f"  best {self.by}: {self.found})"
        )

    @property
    def best(self) -> BestTrial:
        """The best of the trials that were completed.

        Raises:
          ValueError: if there is none.
        """
        if self.found is None:
            raise ValueError(
                "SearchResult.best: no trial was completed; all diverged or were pruned. Try a "
                "space with smaller learning rates."
            )
        return self.found

    @property
    def history(self) -> np.ndarray:
        """The best value so far after each trial, (trials,); NaN before the first complete one."""
        sign = 1.0 if self.mode == "min" else -1.0
        values = [sign * t.value if t.state == "complete" else np.inf for t in self.trials]
        best = np.minimum.accumulate(np.array(values, float))
        return np.where(np.isinf(best), np.nan, sign * best)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each trial: config, value, error, steps, state."""
        names = self.trials[0].config if self.trials else {}
        configs = {k: words(column([t.config[k] for t in self.trials])) for k in names}
        rows = []
        for i, trial in enumerate(self.trials):
            config = {k: v[i].item() if hasattr(v[i], "item") else v[i] for k, v in configs.items()}
            results = (trial.value, trial.error, trial.steps, trial.state, trial.diverged_at)
            rows.append(
                {
                    "trial": trial.number,
                    **config,
                    **dict(zip(self._results(), results, strict=True)),
                }
            )
        return rows

    def _results(self) -> list[str]:
        """Return the names of results in tables, none of which is a hyperparameter."""
        names = self.trials[0].config if self.trials else {}
        results = (self.by, "error", "steps", "state", "diverged at")
        return [f"{k} (result)" if k in names else k for k in results]

    def table(self, format: str = "text") -> Any:
        """Return a table of configs and results, best first; then pruned ones, then diverged ones.

        Args:
          format: "text" (needs tabulate), or "pandas" for a DataFrame (needs pandas).
        """
        check_choice("SearchResult.table(format=...)", format, ("text", "pandas"))
        sign = 1.0 if self.mode == "min" else -1.0

        def place(i: int) -> tuple[bool, bool, int, float]:
            t = self.trials[i]
            later = -t.steps if t.state == "pruned" else 0
            return t.state == "diverged", t.state == "pruned", later, sign * t.value

        rows = self.rows()
        rows = [rows[i] for i in sorted(range(len(rows)), key=place)]
        if format == "pandas":
            pandas = require("pandas", "sweeps", 'table("pandas")')
            return pandas.DataFrame(rows).set_index("trial") if rows else pandas.DataFrame()
        tabulate = require("tabulate", "progress", "table()").tabulate
        _, error, _, _, at = self._results()
        hidden = [] if any(math.isfinite(trial.error) for trial in self.trials) else [error]
        hidden += [at] if all(trial.diverged_at is None for trial in self.trials) else []
        shown = [{k: v for k, v in row.items() if k not in hidden} for row in rows]
        return tabulate(shown, "keys", floatfmt=".4g")

    def plot(self, ax: Any = None) -> Any:
        """Draw the value of each trial and the best one so far; return the matplotlib axes.

        Crosses are pruned trials, red triangles at the edge diverged ones.

        Args:
          ax: matplotlib axes; None makes new ones.
        """
        ax = new_axes(ax)
        number = np.array([trial.number for trial in self.trials], int)
        state = np.array([trial.state for trial in self.trials], object)
        value = np.array([trial.value for trial in self.trials], float)
        error = np.array([trial.error for trial in self.trials], float)
        done, pruned, diverged = (state == k for k in ("complete", "pruned", "diverged"))
        bars = np.where(np.isfinite(error), error, 0.0)[done]
        ax.errorbar(number[done], value[done], bars, fmt="o", markersize=4, label="complete")
        if pruned.any():
            ax.plot(number[pruned], value[pruned], "x", color="0.6", label="pruned")
        if diverged.any():
            top = np.full(diverged.sum(), 0.98 if self.mode == "min" else 0.02)
            mark = "^" if self.mode == "min" else "v"
            ax.plot(number[diverged], top, mark, color="tab:red", label="diverged",
                    transform=ax.get_xaxis_transform())  # fmt: skip
        ax.step(
            number, self.history, where="post", color="black", linewidth=1.2, label="best so far"
        )
        ax.set(xlabel="trial", ylabel=self.by, yscale=scale_of(value[~diverged]))
        ax.legend(fontsize="small")
        return ax


def as_trials(
    dimensions: Dimensions, trials: Sequence[FrozenTrial], mode: str
) -> list[SearchTrial]:
    """Return finished trials as `SearchResult` has them."""
    worst = math.inf if mode == "min" else -math.inf
    configs = dimensions.configs([t.params for t in trials]) if trials else []
    table = []
    for trial, config in zip(trials, configs, strict=True):
        more, state = trial.user_attrs, trial.state.name.lower()
        at = more.get("diverged_at")
        table.append(
            SearchTrial(
                trial.number,
                config,
                worst if at is not None or trial.value is None else float(trial.value),
                float(more.get("error", math.nan)),
                int(more.get("steps", 0)),
                state if at is None else "diverged",
                at,
            )
        )
    return table


def best_of(trials: Sequence[SearchTrial], mode: str) -> SearchTrial | None:
    """Return the best of the complete trials, the first of equal ones; None if there is none."""
    sign = 1.0 if mode == "min" else -1.0
    complete = [trial for trial in trials if trial.state == "complete"]
    return min(complete, key=lambda trial: sign * trial.value, default=None)
