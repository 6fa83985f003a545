"""Charts of runs and points by Plotly (an optional extra), for pages; each is a figure as JSON."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gdjax.training.markup import number, shortened
from gdjax.training.plotting import running_mean, scale_of, spacing_of
from gdjax.training.progress import require
from gdjax.training.repeats import Curve

WORST, SHADES = 0.85, 63  # end of the colour scale, whose yellow is hard to see; its steps
FAILED = "#c62828"
DISTINCT = 8  # up to so many curves are told apart by colour, and named in a legend


def plotly(module: str) -> Any:
    """Import a module of Plotly."""
    return require(f"plotly.{module}", "report", "report()")


def label(text: str, length: int = 40) -> str:
    """Return a text as Plotly shows it, where it has neither tags nor references to data."""
    return html.escape(shortened(text, length)).replace("%", "&#37;")


class Axis(NamedTuple):
    """A hyperparameter as an axis.

    Attributes:
      name: the hyperparameter.
      places: (points,), where each value lies; that of a word is its index among the words.
      log: whether the values are best seen on a logarithmic scale.
      words: the words, or None for an axis of numbers.
    """

    name: str
    places: np.ndarray
    log: bool
    words: list[str] | None

    @property
    def spread(self) -> np.ndarray:
        """(points,), places whose distances are those to be seen."""
        return np.log10(self.places) if self.log else self.places

    def ticks(self) -> tuple[list[float], list[str]]:
        """Return places and texts to show on an axis of `spread`."""
        if self.words is not None:
            last = len(self.words) - 1
            shown = np.unique(np.linspace(0, last, min(last + 1, 20)).round())
            return shown.tolist(), [self.words[int(i)] for i in shown]
        places = np.unique(self.spread)
        if len(places) > 10 or np.diff(places).min(initial=np.inf) < 0.04 * np.ptp(places):
            places = _round_ticks(places[0], places[-1], log=self.log)
        return places.tolist(), [f"{10.0**p if self.log else p:.4g}" for p in places]


def _round_ticks(low: float, high: float, log: bool) -> np.ndarray:
    """Return up to about eight places in [low, high] of round numbers, or of their logarithms."""
    if log and high - low < 2:
        whole = np.arange(np.floor(low), np.ceil(high) + 1)
        places = np.sort(np.concatenate([whole + np.log10(k) for k in (1, 2, 5)]))
        places = places[(places >= low) & (places <= high)]
        return places if len(places) > 2 else np.linspace(low, high, 5)
    step = (high - low) / 6
    size = 10.0 ** np.floor(np.log10(step))
    step = next(size * k for k in (1, 2, 5, 10) if size * k >= step * (1 - 1e-9))
    step = max(1.0, np.ceil(step)) if log else step
    return step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)


def as_axis(name: str, values: np.ndarray, known: np.ndarray | None = None) -> Axis:
    """Return an axis for the values of a hyperparameter; infinite ones and texts are words.

    Args:
      name: of the hyperparameter.
      values: (points,), numbers or objects.
      known: the same values in the order in which words are put; None is the given one.
    """
    numbers = values.dtype.kind in "fiu"
    if numbers and np.isfinite(values).all():
        return Axis(name, values.astype(float), spacing_of(values) == "log", None)
    known = np.sort(values) if numbers else values if known is None else known
    words = list(dict.fromkeys(number(v) for v in known.tolist()))
    places = [words.index(number(v)) for v in values.tolist()]
    return Axis(name, np.array(places, float), False, words)


def colours(values: np.ndarray, mode: str) -> list[str]:
    """Return a colour for each value, by its rank; red where it is not finite."""
    finite = np.isfinite(values)
    _, rank = np.unique(values[finite] * (1 if mode == "min" else -1), return_inverse=True)
    scales, out = plotly("colors"), np.full(len(values), FAILED, object)
    if len(rank) <= DISTINCT:
        palette = [c for i, c in enumerate(scales.qualitative.D3) if i != 3]  # without its red
        out[np.flatnonzero(finite)[np.argsort(rank, kind="stable")]] = palette[: len(rank)]
    else:
        shares = WORST * np.round(SHADES * rank / max(rank.max(), 1)) / SHADES
        out[finite] = scales.sample_colorscale("Viridis", shares.tolist())
    return out.tolist()


def _stepped(shown: Sequence[str]) -> tuple[list[int], dict[str, Any]]:
    """Return a number for each colour, and the scale that gives it this colour."""
    known = list(dict.fromkeys(shown))
    scale = [[(i + k) / len(known), c] for i, c in enumerate(known) for k in (0, 1)]
    ends = {"cmin": -0.5, "cmax": len(known) - 0.5}
    return [known.index(c) for c in shown], {"colorscale": scale, **ends}


def curves(
    lines: Sequence[Curve],
    points: Sequence[int],
    names: Sequence[str],
    line_colours: Sequence[str],
    what: str,
) -> str:
    """Return the curves of points, best first, with bands of a standard error.

    Args:
      lines: a curve for each point.
      points: the numbers of the points on the page.
      names: what to call each.
      line_colours: of each.
      what: was recorded.
    """
    go, traces = plotly("graph_objects"), []
    lines = [Curve(*(x[: _used(line)] for x in line)) for line in lines]
    drawn = [i for i in reversed(range(len(lines))) if len(lines[i].step)]  # the best is on top
    means = np.concatenate([line.mean for line in lines])
    log = scale_of(means) == "log" and _fall(lines)
    finite = means[np.isfinite(means)]
    least = finite.min() / 10 if log and finite.size else -np.inf  # a log axis has no 0
    few = len(lines) <= DISTINCT
    for i in drawn:
        line, kept = lines[i], np.isfinite(lines[i].mean + lines[i].error)
        if kept.any():
            up, low = line.mean + line.error, np.maximum(line.mean - line.error, least)
            traces.append(
                go.Scatter(
                    x=_whole(np.concatenate([line.step[kept], line.step[kept][::-1]])),
                    y=_small(np.concatenate([up[kept], low[kept][::-1]])),
                    fill="toself", fillcolor=_faint(line_colours[i]), mode="none",
                    hoverinfo="skip", showlegend=False, visible=few or i < 3,
                    meta={"point": points[i], "band": True, "shown": few or i < 3},
                )
            )  # fmt: skip
    for i in drawn:
        line = lines[i]
        traces.append(
            go.Scatter(
                x=_whole(line.step), y=_small(line.mean), legendrank=i,
                name=label(f"{points[i] + 1}: {names[i]}", 48),
                mode="lines" if np.isfinite(line.mean).sum() > 30 else "lines+markers",
                line={"color": line_colours[i], "width": 1.6}, marker={"size": 4}, showlegend=few,
                hovertemplate=f"{label(names[i], 200)}<br>step %{{x}}: %{{y:.5g}}<extra></extra>",
                meta={"point": points[i]},
            )
        )  # fmt: skip
    fig = _figure(traces)
    fig.update_layout(yaxis_type="log" if log else "linear", legend_title_text="point")
    return _json(fig, "step", what)


def _used(line: Curve) -> int:
    """Return how many entries there are up to the last finite one."""
    return int(np.flatnonzero(np.isfinite(line.mean)).max(initial=-1)) + 1


def _fall(lines: Sequence[Curve]) -> bool:
    """Return whether at least half of the curves do not rise."""
    finite = [line.mean[np.isfinite(line.mean)] for line in lines]
    return bool(np.median([m[-1] <= m[0] for m in finite if m.size]) >= 0.5)


def run_curve(step: np.ndarray, values: np.ndarray, what: str, width: int, most: int) -> str:
    """Return one run's curve, with its running mean if `width` > 1, at the middle of its window.

    More than `most` values are shown by the least and the greatest of equal numbers of them.
    """
    fig, smooth = _figure(), running_mean(values[None], width)[0]
    size = max(1, -(-len(values) // most))
    shown = thinned(len(values), size)
    many = np.isfinite(values).sum() > 30
    if size > 1:
        starts = np.arange(0, len(values), size)
        with np.errstate(invalid="ignore"):
            low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
        kept = np.isfinite(low) & np.isfinite(high)
        ends = step[np.minimum(starts + size, len(values)) - 1][kept]
        fig.add_scatter(
            x=_whole(np.concatenate([ends, ends[::-1]])),
            y=_small(np.concatenate([high[kept], low[kept][::-1]])), fill="toself", mode="none",
            fillcolor="rgba(31,119,180,0.25)", name=f"least to greatest of {size} steps",
            hoverinfo="skip",
        )  # fmt: skip
    else:
        fig.add_scatter(
            x=_whole(step), y=_small(values), mode="lines" if many else "lines+markers",
            name="each step" if width > 1 else label(what),
            line={"color": "rgba(31,119,180,0.4)" if width > 1 else "#1f77b4", "width": 1},
            hovertemplate="step %{x}: %{y:.5g}<extra></extra>",
        )  # fmt: skip
    if width > 1:
        middle = step - np.minimum(np.arange(len(step)), width - 1) / 2
        fig.add_scatter(
            x=_small(middle[shown]), y=_small(smooth[shown]), mode="lines",
            name=f"mean of {width} steps", line={"color": "#d6590c", "width": 2},
            hovertemplate="step %{x}: %{y:.5g}<extra></extra>",
        )  # fmt: skip
    fig.update_layout(yaxis_type=scale_of(values), showlegend=width > 1)
    fig.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return _json(fig, "step", what)


def thinned(length: int, size: int) -> np.ndarray:
    """Return the index of the last entry of every `size` of `length` entries, and of the last one.

    Example:
      >>> print(thinned(10, 4))
      [3 7 9]
    """
    return np.unique([*range(size - 1, length, size), *range(length - 1, length)]).astype(int)


def slices(
    axis: Axis, means: np.ndarray, errors: np.ndarray, names: Sequence[str],
    point_colours: Sequence[str], what: str, mode: str,
) -> str:  # fmt: skip
    """Return what all points reached against one hyperparameter; diverged ones at the edge."""
    fig, good = _figure(), np.isfinite(means)
    log = scale_of(means[good]) == "log" and mode == "min"
    texts = [label(name, 200) for name in names]

    def add(which: np.ndarray, y: np.ndarray, marker: dict[str, Any], hover: str, **more: Any):
        at = np.flatnonzero(which)
        fig.add_scatter(
            x=axis.places[at].tolist(), y=y[at].tolist(), mode="markers", marker=marker,
            text=[texts[i] for i in at], customdata=at.tolist(), hovertemplate=hover, **more,
        )  # fmt: skip

    bars = np.where(np.isfinite(errors), errors, 0.0)[good]
    edge, limit = _edge(means[good], log, mode, bars)
    if (~good).any():
        bad = np.full(len(means), edge)
        marker = {"symbol": "x", "size": 7, "color": FAILED}
        add(~good, bad, marker, "%{text}<br>no finite mean<extra></extra>")
        fig.add_annotation(
            text="✕ diverged or not finite", x=0, xref="paper", xanchor="left", y=1, yref="paper",
            yanchor="bottom", showarrow=False, font={"size": 11, "color": FAILED},
        )  # fmt: skip
    shown = [point_colours[i] for i in np.flatnonzero(good).tolist()]
    look = {"type": "data", "thickness": 1, "color": "#999", "width": 2}
    bars = {"error_y": look | {"array": bars.tolist()}} if bars.any() else {}
    marker = {"size": 7, "color": shown, "line": {"width": 0.5, "color": "white"}}
    add(good, means, marker, "%{text}<br>%{y:.5g}<extra></extra>", **bars)
    fig.update_layout(yaxis_type="log" if log else "linear", showlegend=False, hovermode="closest")
    fig.update_yaxes(range=limit)
    if axis.words is not None:
        places, words = axis.ticks()
        ends = [-0.5, len(axis.words) - 0.5]
        fig.update_xaxes(tickvals=places, ticktext=[label(w, 14) for w in words], range=ends)
    else:
        fig.update_xaxes(type="log" if axis.log else "linear")
    return _json(fig, axis.name, what)


def parallel(
    axes: Sequence[Axis], means: np.ndarray, point_colours: Sequence[str], what: str, mode: str
) -> str:
    """Return parallel coordinates of all points: hyperparameters, and what they reached."""
    good = np.isfinite(means)
    log = scale_of(means[good]) == "log" and mode == "min"
    edge, _ = _edge(means[good], log, mode)
    reached = Axis(what, means[good], log, None)
    ticks = [axis.ticks() for axis in [*axes, reached]]
    reached = reached._replace(places=np.where(good, means, edge))
    if not good.all():
        ticks[-1][0].append(float(np.log10(edge) if log else edge))
        ticks[-1][1].append("not finite")
    dimensions = []
    for axis, (places, texts) in zip([*axes, reached], ticks, strict=True):
        low, high = min(axis.spread.min(), *places), max(axis.spread.max(), *places)
        pad = 0.03 * (high - low) or 0.5
        dimensions.append(
            {
                "label": label(axis.name, 22), "range": [low - pad, high + pad],
                "values": axis.spread[::-1].tolist(),  # the best is drawn over the others
                "tickvals": places, "ticktext": [shortened(t, 16) for t in texts],  # not decoded
            }
        )  # fmt: skip
    shades, scale = _stepped(point_colours)
    lines = plotly("graph_objects").Parcoords(
        dimensions=dimensions, line={"color": shades[::-1], **scale}, tickfont_size=12,
        labelfont_size=13, labelangle=-20 if len(dimensions) > 7 else 0,
    )  # fmt: skip
    fig = _figure(lines)
    return _json(fig, "", "", margin={"l": 110, "r": 60, "t": 75, "b": 25})


def _edge(
    means: np.ndarray, log: bool, mode: str, bars: np.ndarray | float = 0.0
) -> tuple[float, list[float]]:
    """Return where points without a finite mean are put, behind the worst, and the axis' range."""
    if not means.size:
        return 1.0, [0.0, 2.0]
    ends = means + bars, np.maximum(means - bars, means / 10 if log else -np.inf)
    spread = np.log10(ends) if log else np.array(ends)
    low, high = float(spread.min()), float(spread.max())
    step = (high - low) * 0.1 or abs(high) * 0.1 or 0.1
    edge = high + step if mode == "min" else low - step
    ends = [min(low, edge) - step, max(high, edge) + step]
    return (10.0**edge if log else edge), ends


def importance(shares: dict[str, float]) -> str:
    """Return the importance of each hyperparameter as bars."""
    go, names = plotly("graph_objects"), list(shares)[::-1]
    values = [shares[k] for k in names]
    bars = go.Bar(
        x=values, y=list(range(len(names))), orientation="h", marker_color="#1f77b4",
        text=[f"{v:.1%}" for v in values], textposition="outside", cliponaxis=False,
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    fig = _figure(bars)
    fig.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[label(k) + " " for k in names], automargin=True
    )
    fig.update_xaxes(range=[0, max([*values, 0.01]) * 1.15], tickformat=".0%")
    return _json(fig, "share of the variance", "")


def _figure(traces: Any = ()) -> Any:
    """Return a figure without Plotly's template, which is 7 KB in each."""
    layout = {
        "template": "none", "font": {"size": 12, "color": "#2a3f5f"},
        "margin": {"l": 70, "r": 20, "t": 30, "b": 50},
        "hoverlabel": {"align": "left", "namelength": -1},
    }  # fmt: skip
    return plotly("graph_objects").Figure(traces, layout)


def _json(fig: Any, x: str, y: str, **layout: Any) -> str:
    look = {"exponentformat": "power", "gridcolor": "#e8edf3", "zeroline": False}
    fig.update_xaxes(title={"text": label(x), "standoff": 8}, **look)
    fig.update_yaxes(title={"text": label(y), "standoff": 8}, **look)
    return fig.update_layout(**layout).to_json()


def _whole(step: np.ndarray) -> np.ndarray:
    return np.asarray(step).astype(np.int32)


def _small(values: np.ndarray) -> np.ndarray:
    """Return values in float32, if they do not over- or underflow there."""
    values = np.asarray(values, float)
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    limits = np.finfo(np.float32)
    fits = not size.size or size.min() > limits.tiny and size.max() < limits.max
    return values.astype(np.float32) if fits else values


def _faint(colour: str) -> str:
    """Return a colour, "#rrggbb" or "rgb(r, g, b)", that lets others through."""
    if colour.startswith("#"):
        rgb = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    else:
        rgb = colour.removeprefix("rgb(").removesuffix(")")
    return f"rgba({rgb}, 0.15)"
