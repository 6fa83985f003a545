"""Pictures of many lanes, with matplotlib (an optional extra)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdjax.training.report import require

Columns = dict[str, np.ndarray]


def new_axes(ax: Any = None) -> Any:
    """Return the given matplotlib axes, or new ones."""
    plt = require("matplotlib.pyplot", "plots", "plot()")
    return plt.figure(layout="constrained").add_subplot() if ax is None else ax


def is_log(values: np.ndarray) -> bool:
    """Return whether numbers are better seen on a log scale: positive, over more than a decade."""
    if values.dtype.kind not in "fiu":
        return False
    values = values[np.isfinite(values)]
    return bool(values.size and (values > 0).all() and values.max() > 10 * values.min())


def text_of(value: Any) -> str:
    """Return a short text for a value in a legend."""
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else str(value)


def draw_against(
    columns: Columns,
    x: str,
    values: np.ndarray,
    diverged: np.ndarray,
    label: str,
    ax: Any = None,
    join: bool = True,
) -> Any:
    """Draw values against one hyperparameter; lanes that differ in others are a line each."""
    ax = new_axes(ax)
    others = [k for k in columns if k != x and len(set(columns[k].tolist())) > 1]
    at = columns[x]
    if at.dtype.kind not in "fiu":
        at = at.astype(str)
    lines: dict[tuple, list[int]] = {}
    for lane in range(len(values)):
        lines.setdefault(tuple(columns[k][lane] for k in others), []).append(lane)
    join = join and len(lines) < len(values)  # else every lane is a line of its own
    for rest, lanes in lines.items() if join else [((), list(range(len(values))))]:
        order = sorted(lanes, key=lambda i: at[i])
        name = ", ".join(f"{k} = {text_of(v)}" for k, v in zip(others, rest, strict=False))
        ax.plot(at[order], values[order], "o-" if join else "o", markersize=3, label=name)
    for value in at[diverged]:
        ax.axvline(value, color="tab:red", alpha=0.3, linewidth=1)
    if at.dtype.kind in "fiu" and (at > 0).all():
        ax.set_xscale("log")
    if (values[np.isfinite(values)] > 0).all():
        ax.set_yscale("log")
    ax.set(xlabel=x, ylabel=label + (" (red: diverged)" if diverged.any() else ""))
    if others and join:
        ax.legend(fontsize="small")
    return ax


def draw_heat_map(
    columns: Columns, names: tuple[str, ...], values: np.ndarray, label: str, ax: Any = None
) -> Any:
    """Draw the least value in each cell of two hyperparameters; white where none is finite."""
    if len(names) != 2 or not set(names) <= set(columns):
        raise ValueError(f"plot(x=...) must be one or two of {', '.join(columns)}, got {names}.")
    ax = new_axes(ax)
    (xs, column), (ys, row) = (np.unique(columns[k], return_inverse=True) for k in names)
    cells = np.full((len(ys), len(xs)), np.nan)
    for i, j, value in zip(row, column, values, strict=True):
        cells[i, j] = np.fmin(cells[i, j], value)
    logarithmic = "log" if is_log(cells.ravel()) else "linear"
    image = ax.imshow(cells, origin="lower", aspect="auto", norm=logarithmic, cmap="viridis_r")
    ax.figure.colorbar(image, ax=ax, label=label)
    for axis, marks in ((ax.xaxis, xs), (ax.yaxis, ys)):
        shown = np.unique(np.linspace(0, len(marks) - 1, min(len(marks), 8)).astype(int))
        axis.set_ticks(shown, [text_of(marks[i]) for i in shown])
    ax.set(xlabel=names[0], ylabel=names[1])
    return ax


def draw_curves(columns: Columns, losses: np.ndarray, ax: Any = None) -> Any:
    """Draw the loss of every lane over the step, coloured by the first hyperparameter."""
    ax = new_axes(ax)
    plt = require("matplotlib.pyplot", "plots", "plot_curves()")
    name = next(iter(columns))
    shade, few = columns[name], len(losses) <= 8
    numeric = shade.dtype.kind in "fiu"
    place = shade if numeric else np.unique(shade, return_inverse=True)[1]
    scale = "log" if is_log(place) else "linear"
    colours = plt.cm.ScalarMappable(cmap="viridis")
    colours.set_norm(_norm(scale, float(place.min()), float(place.max())))
    for lane, loss in enumerate(losses):
        text = ", ".join(f"{k} = {text_of(v[lane])}" for k, v in columns.items())
        steps = np.arange(1, len(loss) + 1)
        ax.plot(steps, loss, color=colours.to_rgba(place[lane]), linewidth=1.1, label=text)
    if (losses[np.isfinite(losses)] > 0).all():
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="loss")
    if few:
        ax.legend(fontsize="small")
    elif numeric:
        ax.figure.colorbar(colours, ax=ax, label=name)
    return ax


def _norm(scale: str, low: float, high: float) -> Any:
    colors = require("matplotlib.colors", "plots", "plot()")
    return (colors.LogNorm if scale == "log" else colors.Normalize)(low, high)
