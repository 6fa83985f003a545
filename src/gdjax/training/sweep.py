"""Train many models at once: a grid of hyperparameters is data, so a sweep is one program."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.hyper import with_hyperparams
from gdjax.training.drive import execute, make_plan
from gdjax.training.loop import Run
from gdjax.training.report import Bar, plot_curves, require


class Best(NamedTuple):
    """The winning lane of a sweep."""

    lane: int
    point: dict[str, float]
    value: float
    params: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What `sweep` returns: plain arrays, lanes along axis 0.

    Attributes:
      points: name -> (lanes,), the hyperparameters of each lane.
      params: the trained parameters, each leaf with a leading axis of lanes.
      state: the optimizers' states, likewise.
      history: "loss" is (lanes, steps), NaN after a lane has diverged; "aux" likewise; held-out
        metrics are (lanes, reports) with their steps in "step".
      diverged_at: (lanes,), the step (0 is the first) that would have made the lane's parameters
        nonfinite and was not taken, or -1.
      final_loss: (lanes,), the mean loss over the last tenth of the steps; infinite if diverged.
      seconds: wall time, compilation included.
    """

    points: dict[str, np.ndarray]
    params: Any
    state: Any
    history: dict[str, Any]
    diverged_at: np.ndarray
    final_loss: np.ndarray
    seconds: float

    def point(self, lane: int) -> dict[str, float]:
        """Return the hyperparameters of one lane."""
        return {k: v[lane].item() for k, v in self.points.items()}

    def values(self, by: str = "loss") -> np.ndarray:
        """Return one number for each lane: the final loss, or the last value of a metric."""
        if by == "loss":
            return self.final_loss
        if by not in self.history or by in ("aux", "step"):
            known = ["loss", *(k for k in self.history if k not in ("loss", "aux", "step"))]
            raise ValueError(f"by={by!r} is not recorded; there is {', '.join(known)}.")
        return self.history[by][:, -1]

    def best(self, by: str = "loss", mode: str = "min") -> Best:
        """Return the best lane that did not diverge.

        Args:
          by: "loss" or the name of a held-out metric.
          mode: "min" or "max".

        Raises:
          ValueError: if every lane diverged.
        """
        values = self.values(by) * (1 if mode == "min" else -1)
        values = np.where((self.diverged_at >= 0) | ~np.isfinite(values), np.inf, values)
        lane = int(np.argmin(values))
        if not np.isfinite(values[lane]):
            raise ValueError("every lane of the sweep diverged; try smaller learning rates.")
        params, state = jax.tree.map(lambda x: x[lane], (self.params, self.state))
        return Best(lane, self.point(lane), float(self.values(by)[lane]), params, state)

    def diverged(self) -> list[tuple[dict[str, float], int]]:
        """Return (point, step) for each lane that diverged."""
        return [(self.point(i), int(at)) for i, at in enumerate(self.diverged_at) if at >= 0]

    def table(self) -> str:
        """Return a table of points and results as text, best first (needs tabulate)."""
        tabulate = require("tabulate", "progress", "table()").tabulate
        metrics = [k for k in self.history if k not in ("loss", "aux", "step")]
        rows = []
        for i in np.argsort(self.final_loss, kind="stable"):
            at = self.diverged_at[i]
            row = [*self.point(i).values(), self.final_loss[i]]
            row += [self.history[k][i, -1] for k in metrics]
            rows.append([*row, f"diverged at step {at}" if at >= 0 else ""])
        return tabulate(rows, [*self.points, "final loss", *metrics, ""], floatfmt=".4g")

    def plot(self, x: str | None = None, by: str = "loss", ax: Any = None) -> Any:
        """Draw the final value of each lane against a hyperparameter; return the axes.

        Args:
          x: the hyperparameter; None is the first one. Lanes that differ in others are a line each.
          by: "loss" or the name of a held-out metric.
          ax: matplotlib axes; None makes new ones.
        """
        plt = require("matplotlib.pyplot", "plots", "plot()")
        ax = plt.figure(layout="constrained").add_subplot() if ax is None else ax
        x = x or next(iter(self.points))
        others = [k for k in self.points if k != x]
        values = np.where(self.diverged_at >= 0, np.nan, self.values(by))
        lines: dict[tuple, list[int]] = {}
        for lane in range(len(values)):
            lines.setdefault(tuple(self.points[k][lane] for k in others), []).append(lane)
        for rest, lanes in lines.items():
            order = sorted(lanes, key=lambda i: self.points[x][i])
            name = ", ".join(f"{k} = {v:.3g}" for k, v in zip(others, rest, strict=True))
            ax.plot(self.points[x][order], values[order], "o-", markersize=3, label=name)
        for value in self.points[x][self.diverged_at >= 0]:
            ax.axvline(value, color="tab:red", alpha=0.3, linewidth=1)
        if (self.points[x] > 0).all():
            ax.set_xscale("log")
        if (values[np.isfinite(values)] > 0).all():
            ax.set_yscale("log")
        ax.set(xlabel=x, ylabel=f"final {by}" + (" (red: diverged)" if self.diverged() else ""))
        if others:
            ax.legend(fontsize="small")
        return ax

    def plot_curves(self, ax: Any = None) -> Any:
        """Draw the loss of every lane against the step; return the matplotlib axes."""
        curves = {}
        for lane, loss in enumerate(self.history["loss"]):
            name = ", ".join(f"{k} = {v:.2g}" for k, v in self.point(lane).items())
            curves[name] = loss
        return plot_curves(curves, ax)


def sweep(
    loss_fn: Callable,
    params: Any,
    optimizer: Any,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    data: Any,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    key: Any = None,
    has_aux: bool = False,
    needs_key: bool = False,
    held_out: Any = None,
    metric_fn: Callable | None = None,
    report_every: int | None = None,
    progress: bool = False,
) -> SweepResult:
    """Train one model for each point of a space of hyperparameters, all in one compiled program.

    Each point is a lane of one `vmap`ped training loop. All lanes start at the same parameters and
    see the same batches. A lane that diverges is frozen at its last finite parameters and reported;
    the others do not notice.

    Args:
      loss_fn: as in `fit`.
      params: as in `fit`; where every lane starts.
      optimizer: a factory, called with a point's values by name (`gdjax.adam`, or any function that
        builds an optimizer), or an optimizer whose hyperparameters are then replaced by qualified
        name, as `with_hyperparams` does (`{"learning_rate.peak_value": ...}`).
      space: name -> 1-d array, for all combinations of them; or a list of points, each a dict.
      data: as in `fit`; a batch goes to all lanes.
      batch_size: as in `fit`.
      steps: as in `fit`.
      epochs: as in `fit`.
      key: as in `fit`.
      has_aux: as in `fit`.
      needs_key: as in `fit`.
      held_out: as in `fit`.
      metric_fn: as in `fit`, for one lane.
      report_every: as in `fit`.
      progress: whether to show a bar, with the lanes alive and the best loss.

    Returns:
      A `SweepResult`. Memory: lanes * (parameters + state + gradients), and the loss history.

    Raises:
      ValueError: for an empty space, a value out of range, a name that the optimizer does not have.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> space = {"learning_rate": jnp.array([1e-3, 0.1, 1e12]), "momentum": jnp.array([0.0, 0.9])}
      >>> result = gdjax.sweep(loss_fn, jnp.zeros(()), gdjax.sgd, space, jnp.ones(4), steps=50)
      >>> best = result.best()
      >>> print({k: round(v, 3) for k, v in best.point.items()}, len(result.diverged()))
      {'learning_rate': 0.1, 'momentum': 0.0} 2
    """
    points = as_points(space)
    (copies, states, diverged_at), update = _start(params, optimizer, points)
    plan = make_plan(
        "sweep",
        Run(loss_fn, update, has_aux, needs_key, batch_size, lanes=True),
        params,
        data,
        steps=steps,
        epochs=epochs,
        key=key,
        held_out=held_out,
        metric_fn=metric_fn,
        report_every=report_every,
        reports=progress,
    )
    started = time.perf_counter()
    with Bar(plan.total, progress) as bar:

        def on_report(done, carry, losses, metrics):
            if progress:
                alive = np.asarray(carry.diverged_at) < 0
                best = np.min(np.asarray(losses[-1]), where=alive, initial=np.inf)
                bar.show(done, lanes=int(alive.sum()), best_loss=float(best))

        outcome = execute(plan, copies, states, diverged_at, on_report)
    losses, aux = jax.tree.map(lambda x: np.moveaxis(x, 0, 1), (outcome.loss, outcome.aux))
    history = {k: v if k == "step" else np.moveaxis(v, 0, 1) for k, v in outcome.reports.items()}
    history = {"loss": losses, **history} | ({"aux": aux} if has_aux else {})
    diverged_at = np.asarray(outcome.carry.diverged_at)
    tail = losses[:, -max(1, losses.shape[1] // 10) :]
    final = np.where((diverged_at >= 0) | np.isnan(tail).any(1), np.inf, tail.mean(1))
    seconds = time.perf_counter() - started
    carry = outcome.carry
    return SweepResult(points, carry.params, carry.state, history, diverged_at, final, seconds)


def as_points(space: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return name -> (lanes,) from axes, to be crossed, or from a list of points."""
    if isinstance(space, Mapping):
        axes = {name: np.asarray(values) for name, values in space.items()}
        for name, axis in axes.items():
            if axis.ndim != 1 or not np.issubdtype(axis.dtype, np.number):
                raise ValueError(
                    f"sweep(space=...): {name!r} must be a 1-d array of numbers, got "
                    f"{axis.dtype}{list(axis.shape)}. Structure (booleans, strings) cannot be a "
                    "lane: run one sweep for each."
                )
        rows = list(itertools.product(*axes.values()))
        names = list(axes)
    else:
        names = list(space[0]) if len(space) else []
        for i, point in enumerate(space):
            if set(point) != set(names):
                raise ValueError(
                    f"sweep(space=...): all points must have the same names, got {list(point)} at "
                    f"index {i} and {names} at index 0."
                )
        rows = [[point[name] for name in names] for point in space]
    if not rows or not names:
        raise ValueError(f"sweep(space=...) has no points: the grid is empty, got {space!r}.")
    return {name: np.asarray(column) for name, column in zip(names, zip(*rows), strict=True)}


def _start(params: Any, optimizer: Any, points: dict[str, np.ndarray]) -> tuple[tuple, Callable]:
    """Return the lanes' (params, state, diverged_at), and the one update function."""
    if isinstance(optimizer, Optimizer) or not callable(optimizer):
        init, update = with_extra_args_support(optimizer)
        state = init(params)
        return _lanes(lambda p, point: with_hyperparams(state, **point), params, points), update
    try:
        arguments = inspect.signature(optimizer).parameters
    except (TypeError, ValueError):
        arguments = {}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    unknown = [name for name in points if name not in arguments]
    if arguments and unknown and not takes_all:
        name = getattr(optimizer, "__name__", "the optimizer")
        raise ValueError(
            f"sweep(space=...): {name} has no argument {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(arguments)}."
        )
    # Build each lane once from concrete values, so that one out of range is an error now.
    rows = zip(*points.values(), strict=True)
    built = [optimizer(**{k: v.item() for k, v in zip(points, row, strict=True)}) for row in rows]
    _, update = with_extra_args_support(built[0])
    factory: Any = optimizer
    return _lanes(lambda p, point: factory(**point).init(p), params, points), update


def _lanes(init: Callable, params: Any, points: dict[str, np.ndarray]) -> tuple:
    def lane(point, params):
        return params, init(params, point), jnp.asarray(-1, jnp.int32)

    return jax.jit(jax.vmap(lane, in_axes=(0, None)))(points, params)  # one program, not dozens
