"""Plots of runs and lanes, by matplotlib (an optional extra)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdjax.training.progress import require

Columns = dict[str, np.ndarray]


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


def varying(columns: Columns) -> list[str]:
    """Return the names that lanes differ in; the first one if there is none."""
    return [k for k, v in columns.items() if len(set(v.tolist())) > 1] or [next(iter(columns))]


def draw_loss(losses: np.ndarray, ax: Any = None) -> Any:
    """Draw one run's loss over the step."""
    ax = new_axes(ax)
    ax.plot(np.arange(1, len(losses) + 1), losses, linewidth=1.2)
    ax.set(xlabel="step", ylabel="loss", yscale=scale_of(losses))
    return ax


def draw_against(
    columns: Columns,
    x: str,
    values: np.ndarray,
    marked: dict[str, np.ndarray],
    label: str,
    ax: Any = None,
    join: bool = True,
) -> Any:
    """Draw values against one hyperparameter; lanes that differ in others are a line each.

    Args:
      columns: name -> (lanes,).
      x: which of them.
      values: (lanes,), NaN where there is none.
      marked: "diverged" and "dropped", (lanes,) each.
      label: of the values.
      ax: see `new_axes`.
      join: whether to join points; those of lanes that were dropped never are.
    """
    ax, diverged, dropped = new_axes(ax), marked["diverged"], marked["dropped"]
    others = [k for k in varying(columns) if k != x]
    at: Any = columns[x]
    if at.dtype.kind not in "fiu":
        at = at.astype(str)
    lines: dict[tuple, list[int]] = {}
    for lane in range(len(values)):
        lines.setdefault(tuple(columns[k][lane] for k in others), []).append(lane)
    # Otherwise every lane is a line of its own, or lanes at different steps would be joined.
    join = join and len(lines) < len(values) and not dropped.any()
    for rest, lanes in lines.items() if join else [((), np.flatnonzero(~dropped).tolist())]:
        order = sorted(lanes, key=lambda i: at[i])
        name = ", ".join(f"{k} = {_text(v)}" for k, v in zip(others, rest, strict=False))
        ax.plot(at[order], values[order], "o-" if join else "o", markersize=3, label=name)
    if dropped.any():
        ax.plot(at[dropped], values[dropped], "x", markersize=4, color="0.6", label="dropped")
    for value in at[diverged]:
        ax.axvline(value, color="tab:red", alpha=0.3, linewidth=1)
    ax.set(xlabel=x, ylabel=label + (" (red: diverged)" if diverged.any() else ""))
    if at.dtype.kind in "fiu":
        ax.set_xscale(scale_of(at))
    ax.set_yscale(scale_of(values))
    if others and join or dropped.any():
        ax.legend(fontsize="small")
    return ax


def draw_heat_map(
    columns: Columns, names: tuple[str, ...], values: np.ndarray, label: str, mode: str, ax: Any
) -> Any:
    """Draw the best value in each cell of two hyperparameters; white where none is finite."""
    if len(names) != 2 or not set(names) <= set(columns):
        raise ValueError(
            f"SweepResult.plot(x=...) must be one or two of {', '.join(columns)}, got {names}."
        )
    ax, pair = new_axes(ax), [columns[k] for k in names]
    pair = [x.astype(str) if x.dtype == object else x for x in pair]
    (xs, column), (ys, row) = (np.unique(x, return_inverse=True) for x in pair)
    cells = np.full((len(ys), len(xs)), np.nan)
    for i, j, value in zip(row, column, values, strict=True):
        cells[i, j] = (np.fmin if mode == "min" else np.fmax)(cells[i, j], value)
    image = ax.imshow(
        cells, origin="lower", aspect="auto", norm=scale_of(cells.ravel()),
        cmap="viridis_r" if mode == "min" else "viridis",
    )  # fmt: skip
    if np.isfinite(cells).any():
        ax.figure.colorbar(image, ax=ax, label=label)
    for axis, marks in ((ax.xaxis, xs), (ax.yaxis, ys)):
        shown = np.unique(np.linspace(0, len(marks) - 1, min(len(marks), 8)).astype(int))
        axis.set_ticks(shown, [_text(marks[i]) for i in shown])
    ax.set(xlabel=names[0], ylabel=names[1])
    return ax


def draw_curves(columns: Columns, losses: np.ndarray, ax: Any = None) -> Any:
    """Draw the loss of every lane over the step.

    Up to 8 lanes are named in a legend; more are coloured by the first name that they differ in.
    """
    ax = new_axes(ax)
    names, steps = varying(columns), np.arange(1, losses.shape[1] + 1)
    ax.set(xlabel="step", ylabel="loss", yscale=scale_of(losses))
    if len(losses) <= 8:
        for lane, loss in enumerate(losses):
            text = ", ".join(f"{k} = {_text(columns[k][lane])}" for k in names)
            ax.plot(steps, loss, linewidth=1.1, label=text)
        ax.legend(fontsize="small")
        return ax
    shade = columns[names[0]]
    kinds, place = None, shade
    if shade.dtype.kind not in "fiu":
        kinds, place = np.unique(shade.astype(str), return_inverse=True)
    plt, colors = (require(f"matplotlib.{k}", "plots", "plot_curves()") for k in ("cm", "colors"))
    norm = colors.LogNorm if scale_of(place) == "log" else colors.Normalize
    colours = plt.ScalarMappable(norm(float(place.min()), float(place.max())), "viridis")
    for lane, loss in enumerate(losses):
        ax.plot(steps, loss, color=colours.to_rgba(place[lane]), linewidth=1.1)
    bar = ax.figure.colorbar(colours, ax=ax, label=names[0])
    if kinds is not None:
        bar.set_ticks(range(len(kinds)), labels=kinds)
    return ax


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else str(value)
