"""Plots of runs and sweeps, by matplotlib (an optional extra)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gdjax.training.progress import require

Columns = dict[str, np.ndarray]
FEW = 8  # lines that a legend can name
BAD, GREY = "tab:red", "0.6"


class Drawing(NamedTuple):
    """What is drawn of the points of a sweep.

    Attributes:
      columns: name -> (points,), the hyperparameters: numbers, or texts and other values.
      lanes: of each point.
      mean: (points,), NaN where a repeat diverged or none has a value.
      error: (points,), the standard errors, NaN where there is none.
      rest: (points,), the mean of the repeats that did not diverge, where another did; or NaN.
      failed: (points,), whether a repeat diverged.
      dropped: (points,), whether a race dropped it.
      best: the index of the best point that was kept, or None.
      by: what the values are, "loss" or a metric.
      mode: "min" or "max".
    """

    columns: Columns
    lanes: Sequence[np.ndarray]
    mean: np.ndarray
    error: np.ndarray
    rest: np.ndarray
    failed: np.ndarray
    dropped: np.ndarray
    best: int | None
    by: str
    mode: str

    @property
    def repeated(self) -> bool:
        """Whether a point has several repeats."""
        return any(len(lanes) > 1 for lanes in self.lanes)

    @property
    def label(self) -> str:
        """What the axis of the values shows."""
        return f"final {self.by}" + (", mean ± standard error" if self.repeated else "")

    @property
    def diverged_label(self) -> str:
        """What a mark of a failed point says."""
        return "a repeat diverged" if self.repeated else "diverged"

    def named(self, index: int, names: Sequence[str] | None = None) -> str:
        """Return a point's hyperparameters as text."""
        names = varying(self.columns) if names is None else names
        return ", ".join(f"{k} = {_text(self.columns[k][index])}" for k in names)

    def best_label(self) -> str:
        """Return the best point's hyperparameters, what it reached, and by which criterion."""
        assert self.best is not None, "there is no best point to name"
        value = f"{self.mean[self.best]:.3g}"
        if np.isfinite(self.error[self.best]):
            value += f" ± {self.error[self.best]:.1g}"
        least = "least" if self.mode == "min" else "greatest"
        tied = self.named(self.best).replace(" = ", "\xa0=\xa0")  # lines break elsewhere
        lines = "\n".join(textwrap.wrap(tied, 44)).replace("\xa0", " ")
        return f"{least} final {self.by}, {value}:\n{lines}"


def new_axes(ax: Any = None) -> Any:
    """Return the given matplotlib axes, or new ones."""
    plt = require("matplotlib.pyplot", "plots", "plot()")
    return plt.figure(layout="constrained").add_subplot() if ax is None else ax


def scale_of(values: np.ndarray) -> str:
    """Return the scale that numbers are best seen on: "log" if positive, over a decade or more."""
    if values.dtype.kind not in "fiu":
        return "linear"
    values = values[np.isfinite(values)]
    wide = values.size and (values > 0).all() and values.max() >= 10 * values.min()
    return "log" if wide else "linear"


def spacing_of(values: np.ndarray) -> str:
    """Return the scale on which a hyperparameter's values are more evenly spread."""
    if scale_of(values) == "linear":
        return "linear"
    places = [np.unique(values.astype(float)), np.log(np.unique(values.astype(float)))]
    off = [abs(np.median(x) - (x[0] + x[-1]) / 2) / (x[-1] - x[0]) for x in places]
    return "log" if off[1] <= off[0] else "linear"


def limits(values: np.ndarray, mode: str) -> tuple[float, float]:
    """Return the least and greatest value to show; extremely bad ones are cut off.

    On a logarithmic scale these are 1000 times worse than the median, on a linear one worse by 100
    times the distance from the median to the better quartile.
    """
    values = values[np.isfinite(values)]
    least, most = float(values.min()), float(values.max())
    low, middle, high = (float(np.quantile(values, q)) for q in (0.25, 0.5, 0.75))
    if scale_of(values) == "log":
        worst = middle / 1e3, middle * 1e3
    else:
        worst = middle - 100 * (high - middle), middle + 100 * (middle - low)
    if mode == "min":
        return least, most if worst[1] == middle else min(most, worst[1])
    return least if worst[0] == middle else max(least, worst[0]), most


def running_mean(rows: np.ndarray, width: int) -> np.ndarray:
    """Return the means of the last `width` entries of each row; NaN where the entry is not finite.

    Fewer entries count at the start, and those that are not finite do not.

    Example:
      >>> print(running_mean(np.array([[1.0, 3.0, 5.0, np.nan]]), 2))
      [[ 1.  2.  4. nan]]
    """
    good = np.isfinite(rows)
    sums, counts = (_window_sums(x, width) for x in (np.where(good, rows, 0.0), good.astype(int)))
    return np.where(good, sums / np.maximum(counts, 1), np.nan)


def _window_sums(rows: np.ndarray, width: int) -> np.ndarray:
    """Return the sums of the last `width` entries, without differences of sums, which cancel.

    A window is the end of one block of `width` entries and the beginning of the next.
    """
    lanes, length = rows.shape
    width = min(width, max(length, 1))
    blocks = np.pad(rows, ((0, 0), (0, -length % width))).reshape(lanes, -1, width)
    sums, ends = np.cumsum(blocks, 2), np.cumsum(blocks[:, :, ::-1], 2)[:, :, ::-1]
    sums[:, 1:, :-1] += ends[:, :-1, 1:]
    return sums.reshape(lanes, -1)[:, :length]


def smoothing(steps: int) -> int:
    """Return over how many steps a plot averages the loss, a fiftieth of the run."""
    return max(1, steps // 50)


def varying(columns: Columns) -> list[str]:
    """Return the names that points differ in; the first one if there is none."""
    return [k for k, v in columns.items() if len(set(v.tolist())) > 1] or list(columns)[:1]


# --- one run --------------------------------------------------------------------------------------


def draw_loss(losses: np.ndarray, ax: Any = None) -> Any:
    """Draw one run's loss over the step, and its running mean where the run is long enough."""
    ax, width = new_axes(ax), smoothing(len(losses))
    steps = np.arange(1, len(losses) + 1)
    marker = "o" if len(losses) == 1 else ""
    faint = dict(color="C0", alpha=0.3, linewidth=0.8) if width > 1 else dict(linewidth=1.2)
    ax.plot(steps, losses, marker=marker, markersize=4, label="loss", **faint)
    if width > 1:
        mean = running_mean(np.asarray(losses, float)[None], width)[0]
        ax.plot(steps, mean, color="C0", linewidth=1.4, label=f"mean of {width} steps")
        ax.legend(fontsize="small")
    ax.set(xlabel="step", ylabel="loss", yscale=scale_of(losses))
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def draw_fit(history: Mapping[str, Any], metrics: Sequence[str], ax: Any = None) -> Any:
    """Draw one run: the loss, and each held-out metric in a panel below it.

    Args:
      history: as in `FitResult`.
      metrics: the names in it that are held-out metrics.
      ax: axes for the loss alone; None makes a figure with all.

    Returns:
      The axes of the loss.
    """
    losses = np.asarray(history["loss"])
    if ax is not None or not metrics:
        return draw_loss(losses, ax)
    plt = require("matplotlib.pyplot", "plots", "plot()")
    heights = [2.0, *(1.2 for _ in metrics)]
    fig = plt.figure(figsize=(6.4, 1.2 + 1.3 * sum(heights)), layout="constrained")
    first, *others = fig.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    draw_loss(losses, first)
    first.set_xlabel("")
    for i, (panel, name) in enumerate(zip(others, metrics, strict=True)):
        values = np.asarray(history[name], float)
        marker = "o" if len(values) <= 50 else ""
        panel.plot(history["step"], values, marker=marker, markersize=3, color=f"C{i + 1}")
        panel.set(ylabel=name, yscale=scale_of(values))
    others[-1].set_xlabel("step")
    return first


# --- points against hyperparameters ---------------------------------------------------------------


def draw_against(
    data: Drawing, x: str, ax: Any = None, color: str | None = None, alone: bool = True
) -> Any:
    """Draw the values of points against one hyperparameter.

    Points that differ only in it are joined, unless a race dropped some of them at other steps.

    Args:
      data: the points.
      x: the hyperparameter.
      ax: see `new_axes`.
      color: the hyperparameter that colours show; None is the first other one that points differ
        in.
      alone: whether it is a plot of its own, with lines, colours and a legend.
    """
    _check_color(color, data.columns)
    ax, at = new_axes(ax), _positions(data.columns[x])
    others = [k for k in varying(data.columns) if k != x] if alone else []
    lines = _grouped(data.columns, others)
    join = alone and len(lines) < len(at) and not data.dropped.any()
    named = join and bool(others) and color is None and len(lines) <= FEW
    values = data.mean if np.isfinite(data.mean).any() else data.rest
    values = values[np.isfinite(values)]
    bottom, top = limits(values, data.mode) if values.size else (0.0, 1.0)
    inside = (bottom <= data.mean) & (data.mean <= top)
    seen = inside & ~data.dropped
    if named or not others and color is None:
        colours = _line_colours(len(at), lines)
    else:
        colours = _colours(ax, data.columns, color or others[0])
    for points in lines if join else []:
        order = points[np.argsort(at[points], kind="stable")]
        name = data.named(points[0], others) if named else None
        ax.plot(at[order], data.mean[order], color=colours[points[0]], linewidth=1.1, label=name)
    shown = values[(bottom <= values) & (values <= top)]
    error = np.where(np.isfinite(data.error), data.error, 0.0)
    low, high = data.mean - error, np.minimum(data.mean + error, top)
    low = np.maximum(low, bottom / 2 if scale_of(shown) == "log" else -np.inf)
    bars = seen & (high > low)
    ax.vlines(at[bars], low[bars], high[bars], colors=colours[bars], linewidth=1.0, alpha=0.7)
    ax.scatter(at[seen], data.mean[seen], c=colours[seen], s=12, zorder=3)
    ax.set(xlabel=x, ylabel=data.label)
    _set_limits(ax, shown, low[bars], high[bars])
    _mark_failures(ax, data, at, inside)
    _name_positions(ax, "x", data.columns[x])
    _mark_best(ax, data, at)
    if alone and ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small")
    return ax


def _set_limits(ax: Any, *shown: np.ndarray) -> None:
    """Set the scale and the limits of the y axis to what is shown of the values, the first."""
    values = np.concatenate(shown)
    if not values.size:
        ax.set_yticks([])
        return
    log = scale_of(shown[0]) == "log"
    low, high = float(values.min()), float(values.max())
    if log:
        margin = (high / low) ** 0.06
        low, high = low / margin, high * margin
    else:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - margin, high + margin
    ax.set(yscale="log" if log else "linear", ylim=(low, high))


def _mark_failures(ax: Any, data: Drawing, at: np.ndarray, inside: np.ndarray) -> None:
    """Mark what was dropped, diverged, or lies beyond the axis."""
    low, high = ax.get_ylim()
    part = data.failed & np.isfinite(data.rest)
    edge = ax.get_xaxis_transform()
    beyond, place = ("^", 1.0) if data.mode == "min" else ("v", 0.0)
    for which, y, style in (
        (data.dropped & inside, data.mean, dict(marker="x", color=GREY, label="dropped")),
        (
            np.isfinite(data.mean) & ~inside,
            np.full(len(at), place),
            dict(marker=beyond, color=GREY, transform=edge, label="beyond the axis"),
        ),
        (
            part,
            np.clip(data.rest, low, high),
            dict(
                marker="o", markerfacecolor="none", color=BAD,
                label="a repeat diverged: mean of the others",
            ),
        ),
        (
            data.failed & ~part,
            np.ones(len(at)),
            dict(marker="v", color=BAD, transform=edge, label="diverged"),
        ),
    ):  # fmt: skip
        if which.any():
            ax.plot(
                at[which], y[which], linestyle="none", markersize=5, clip_on=False, zorder=4,
                **style,
            )  # fmt: skip
    ax.set_ylim(low, high)


def draw_all(data: Drawing, names: Sequence[str], plt: Any) -> Any:
    """Draw the values of points against each of some hyperparameters; return the figure."""
    across = min(len(names), 3 if len(names) in (5, 6) else 4)
    down = math.ceil(len(names) / across)
    fig = plt.figure(figsize=(4 * across, 3.4 * down), layout="constrained")
    axes = fig.subplots(down, across, sharey=True, squeeze=False).ravel()
    for i, (ax, name) in enumerate(zip(axes, names, strict=False)):
        draw_against(data, name, ax, alone=False)
        if i % across:
            ax.set_ylabel("")
    for ax in axes[len(names) :]:
        ax.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        fig.legend(
            handles, labels, loc="outside upper center", fontsize="small", ncols=min(3, across)
        )
    return fig


def _mark_best(ax: Any, data: Drawing, x: np.ndarray, y: np.ndarray | None = None) -> None:
    """Mark the best point by a star, named in the legend."""
    if data.best is not None and np.isfinite(data.mean[data.best]):
        ax.scatter(
            x[data.best], (data.mean if y is None else y)[data.best], marker="*", s=130, zorder=5,
            color="gold", edgecolors="black", linewidth=0.8, label=data.best_label(),
        )  # fmt: skip


def draw_pair(data: Drawing, names: tuple[str, ...], ax: Any = None) -> Any:
    """Draw the best value for each pair of two hyperparameters, coloured.

    Pairs that form a grid are cells; others, such as sampled ones, are points in the plane.
    """
    if len(names) != 2 or not set(names) <= set(data.columns):
        raise ValueError(
            f"SweepResult.plot(x=...) must be one or two of {', '.join(data.columns)}, got {names}."
        )
    ax, pair = new_axes(ax), [data.columns[k] for k in names]
    kinds = [list(dict.fromkeys(_sorted(x))) for x in pair]
    sparse = 2 * len(_grouped(data.columns, names)) < len(kinds[0]) * len(kinds[1])
    if sparse:
        _draw_plane(data, pair, ax)
    else:
        _draw_cells(data, pair, kinds, ax)
    ax.set(xlabel=names[0], ylabel=names[1])
    return ax


def _draw_cells(data: Drawing, pair: list[np.ndarray], kinds: list[list[Any]], ax: Any) -> None:
    column, row = (
        np.array([marks.index(v) for v in x.tolist()]) for x, marks in zip(pair, kinds, strict=True)
    )
    cells = np.full((len(kinds[1]), len(kinds[0])), np.nan)
    better = np.fmin if data.mode == "min" else np.fmax
    for i, j, value in zip(row, column, data.mean, strict=True):
        cells[i, j] = better(cells[i, j], value)
    ax.imshow(cells, origin="lower", aspect="auto", **_value_colours(ax, data, cells.ravel()))
    for which, marks in zip("xy", kinds, strict=True):
        _name_places(ax, which, [_text(mark) for mark in marks], 8)
    bad = data.failed & np.isnan(cells[row, column])
    _mark_pairs(ax, data, bad, column, row)


def _draw_plane(data: Drawing, pair: list[np.ndarray], ax: Any) -> None:
    x, y = map(_positions, pair)
    good = np.isfinite(data.mean)
    ax.scatter(x[good], y[good], c=data.mean[good], s=28, **_value_colours(ax, data, data.mean))
    for which, values in zip("xy", pair, strict=True):
        _name_positions(ax, which, values)
    _mark_pairs(ax, data, data.failed, x, y)


def _value_colours(ax: Any, data: Drawing, values: np.ndarray) -> dict[str, Any]:
    """Return the colours of values as arguments of matplotlib, and explain them beside the axes."""
    cm, colors = (require(f"matplotlib.{k}", "plots", "plot()") for k in ("cm", "colors"))
    cmap = "viridis_r" if data.mode == "min" else "viridis"
    if not np.isfinite(values).any():
        return {"cmap": cmap}
    low, high = limits(values, data.mode)
    norm = (colors.LogNorm if scale_of(values) == "log" else colors.Normalize)(low, high)
    finite = values[np.isfinite(values)]
    ends = ["neither", "max", "min", "both"][(finite.max() > high) + 2 * (finite.min() < low)]
    scale = cm.ScalarMappable(norm, cmap)
    ax.figure.colorbar(scale, ax=ax, label=f"final {data.by}", extend=ends)
    return {"cmap": cmap, "norm": norm}


def _mark_pairs(ax: Any, data: Drawing, failed: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    if failed.any():
        ax.scatter(x[failed], y[failed], marker="x", s=20, color=BAD, label=data.diverged_label)
    _mark_best(ax, data, x, y)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2)


# --- curves ---------------------------------------------------------------------------------------


def draw_curves(
    data: Drawing,
    step: np.ndarray,
    curves: tuple[np.ndarray, np.ndarray],
    label: str,
    ax: Any = None,
    color: str | None = None,
) -> Any:
    """Draw the curve of every point over the step, with a band of one standard error.

    Few curves are named in a legend; more are coloured by a hyperparameter.

    Args:
      data: the points.
      step: (times,).
      curves: the means and their errors, (points, times) each; NaN where there is none.
      label: of the values.
      ax: see `new_axes`.
      color: the hyperparameter that colours show; None is the first one that points differ in.
    """
    _check_color(color, data.columns)
    ax, names = new_axes(ax), varying(data.columns)
    shown = _some(len(step), 1000)
    step, (mean, error) = step[shown], (c[:, shown] for c in curves)
    few = len(mean) <= FEW and color is None
    if few:
        colours = [f"C{i}" for i in range(len(mean))]
    else:
        colours = _colours(ax, data.columns, color or names[0])
    effects = require("matplotlib.patheffects", "plots", "plot()")
    bands, marker = 0.2 if few else 0.07, "o" if len(step) == 1 else ""
    best = data.best if len(mean) > 1 else None
    for i, line in enumerate(mean):
        name = data.named(i, names) if few and i != best and len(mean) > 1 else None
        wide = dict(linewidth=1.1, zorder=2) if i != best else dict(linewidth=2.2, zorder=4)
        if i == best:
            name = data.best_label()
        (drawn,) = ax.plot(
            step, line, color=colours[i], label=name, marker=marker, markersize=4, **wide
        )
        if i == best and not few:
            drawn.set_path_effects([effects.withStroke(linewidth=3.6, foreground="black")])
        if np.isfinite(error[i]).any():
            ax.fill_between(
                step, line - error[i], line + error[i], color=colours[i], alpha=bands, linewidth=0
            )
    whole = mean[~data.failed] if np.isfinite(mean[~data.failed]).any() else mean
    whole = whole[np.isfinite(whole)]  # a curve that diverges would leave the others no height
    ax.set(xlabel="step", ylabel=label)
    ax.xaxis.get_major_locator().set_params(integer=True)
    low, high = limits(whole, data.mode) if whole.size else (0.0, 1.0)
    _set_limits(ax, whole[(low <= whole) & (whole <= high)])
    _mark_ends(ax, data, step, mean)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small")
    return ax


def _mark_ends(ax: Any, data: Drawing, step: np.ndarray, mean: np.ndarray) -> None:
    """Mark where curves end before the run: red where a repeat diverged, grey where dropped."""
    for which, style in (
        (data.failed, dict(marker="x", color=BAD, label=data.diverged_label)),
        (data.dropped & ~data.failed, dict(marker=".", color=GREY, label="dropped")),
    ):
        ends = [(i, np.flatnonzero(np.isfinite(mean[i]))) for i in np.flatnonzero(which)]
        ends = [(step[seen[-1]], mean[i, seen[-1]]) for i, seen in ends if seen.size]
        if ends:
            x, y = np.array(ends).T
            y = np.clip(y, *ax.get_ylim())
            ax.scatter(x, y, s=28, zorder=5, clip_on=False, linewidth=1.2, **style)


# --- colours, positions, texts --------------------------------------------------------------------


def _rgba(name: str) -> tuple[float, float, float, float]:
    return require("matplotlib.colors", "plots", "plot()").to_rgba(name)


def _line_colours(count: int, lines: list[np.ndarray]) -> np.ndarray:
    """Return (points, 4): a colour for each of some lines of points."""
    colours = np.tile(_rgba("C0"), (count, 1))
    for i, points in enumerate(lines):
        colours[points] = _rgba(f"C{i}")
    return colours


def _check_color(color: str | None, columns: Columns) -> None:
    if color is not None and color not in columns:
        raise ValueError(
            f"SweepResult: color={color!r} must be one of {', '.join(columns)}, a hyperparameter."
        )


def _colours(ax: Any, columns: Columns, name: str) -> np.ndarray:
    """Return (points, 4), colours by one hyperparameter, and explain them beside the axes."""
    cm, colors = (require(f"matplotlib.{k}", "plots", "plot()") for k in ("cm", "colors"))
    values, cmap = columns[name], "viridis"
    place, kinds = _positions(values), []
    low, high = float(place.min()), float(place.max())
    if values.dtype.kind in "fiu":
        norm = (colors.LogNorm if spacing_of(values) == "log" else colors.Normalize)(low, high)
    else:
        kinds = [_text(value) for value in dict.fromkeys(values.tolist())]
        norm = colors.BoundaryNorm(np.arange(len(kinds) + 1) - 0.5, len(kinds))
        names = [f"C{i}" for i in range(len(kinds))]
        spread = require("matplotlib.pyplot", "plots", "plot()").get_cmap("viridis", len(kinds))
        cmap = colors.ListedColormap(names) if len(kinds) <= 10 else spread
    scale = cm.ScalarMappable(norm, cmap)
    bar = ax.figure.colorbar(scale, ax=ax, label=name)
    if kinds:
        shown = _some(len(kinds), 12)
        bar.set_ticks(shown, labels=[kinds[i] for i in shown])
    return scale.to_rgba(place)


def _some(count: int, most: int) -> np.ndarray:
    """Return at most so many of the indices below `count`, evenly, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _sorted(values: np.ndarray) -> list[Any]:
    """Return numbers in ascending order, and other values as they come."""
    return np.sort(values).tolist() if values.dtype.kind in "fiu" else values.tolist()


def _positions(values: np.ndarray) -> np.ndarray:
    """Return numbers as they are, and 0, 1, ... for other values in their order."""
    if values.dtype.kind in "fiu":
        return values
    kinds = list(dict.fromkeys(values.tolist()))
    return np.array([kinds.index(value) for value in values.tolist()])


def _name_positions(ax: Any, which: str, values: np.ndarray) -> None:
    """Set the scale of the "x" or "y" axis of `_positions`, or its names."""
    if values.dtype.kind in "fiu":
        ax.set(**{f"{which}scale": spacing_of(values)})
    else:
        _name_places(ax, which, [_text(value) for value in dict.fromkeys(values.tolist())], 12)


def _name_places(ax: Any, which: str, names: Sequence[str], most: int) -> None:
    """Name the places 0, 1, ... of an axis, at most so many of them."""
    axis, shown = getattr(ax, f"{which}axis"), _some(len(names), most)
    axis.set_ticks(shown, [names[i] for i in shown])
    if which == "x" and sum(len(names[i]) for i in shown) > 40:
        axis.set_tick_params(rotation=30)


def _grouped(columns: Columns, names: Sequence[str]) -> list[np.ndarray]:
    """Return the points that agree in some hyperparameters, together."""
    lists = [columns[k].tolist() for k in names]
    groups: dict[tuple, list[int]] = {}
    for i in range(len(next(iter(columns.values()), ()))):
        groups.setdefault(tuple(v[i] for v in lists), []).append(i)
    return [np.array(points) for points in groups.values()]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else str(value)
