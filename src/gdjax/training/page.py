"""Results as pages: `report()` of a sweep or a run, and what a notebook shows of them.

A page is one HTML file that needs no network. What it shows is computed here; how it looks is in
markup.py and figures.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import short
from gdjax.core.reading import hyperparams
from gdjax.core.types import PyTree
from gdjax.training import figures
from gdjax.training.files import replace_file
from gdjax.training.inputs import RESERVED
from gdjax.training.markup import (
    Cell,
    Html,
    cell,
    chart_place,
    escaped,
    facts,
    mean_text,
    named,
    number,
    page,
    section,
    sortable,
    sparkline,
)
from gdjax.training.plotting import scale_of, smoothing
from gdjax.training.progress import require
from gdjax.training.repeats import Curve, Point, mean_and_error
from gdjax.training.trials import SEEDS, column, words

if TYPE_CHECKING:
    from gdjax.training.fit import FitResult
    from gdjax.training.result import Best, SweepResult

R = TypeVar("R")
Place = Callable[[str, str, int], Html]  # adds a chart, given its name, the figure and its height
CURVES = 100  # points whose curves a page shows
TIMES = 2000  # of a curve that are shown
ALL_TIMES = 60_000  # of all curves of a chart together
FEWEST = 8  # points that the importance is computed from
CHARTS = 24  # of what a run recorded


def sweep_page(
    path: str | os.PathLike[str],
    result: SweepResult,
    points: Sequence[Point],
    by: str,
    mode: str | None,
    title: str | None,
) -> None:
    """Write the page of a sweep.

    Args:
      path: the file; it is written completely or not at all.
      result: of the sweep.
      points: its points, best first.
      by: what they are compared by.
      mode: "min" or "max"; None is "min".
      title: of the page.
    """
    file, title = _checked("SweepResult.report", path, title)
    plotly_js = figures.plotly("offline").get_plotlyjs()
    mode, charts = mode or "min", []
    best = _best_point(result, points)
    columns = _columns(result, points)
    varying = {k: v for k, v in columns.items() if len(set(v.tolist())) > 1}
    means, errors = (np.array([getattr(p, k) for p in points]) for k in ("mean", "error"))
    colours = figures.colours(means, mode)
    names = [
        named({k: v[i] for k, v in varying.items()}) or "the point" for i in range(len(points))
    ]
    ends = {lane: (what, step) for lane, what, step in _ends(result)}

    def place(name: str, figure: str, height: int, log: bool = False) -> Html:
        charts.append((name, figure))
        return chart_place(name, height, log)

    body = [facts(_sweep_facts(result, points, columns, varying, best, by, mode))]
    body.append(
        section(
            "Points",
            _points_table(result, points, varying, colours, best, by, ends),
            about="A click on the name of a column sorts by it; points without a finite mean are "
            "last. A click on a row, a curve or a marker makes the point stand out in all charts.",
        )
    )
    ran = [i for i, p in enumerate(points) if p.steps or p.diverged]
    for k, metric in enumerate(result.metrics()):
        figure, log, about = _curves(result, points, ran, names, colours, metric)
        chart = [place(f"curve-{k}", figure, 440, log)] if figure else []
        body.append(section(f"Learning curves: {metric}", *chart, about=about))
    order = np.argsort([p.lanes[0] for p in points])  # as the space was written
    body += _hyperparameter_sections(varying, order, means, errors, names, colours, by, mode, place)
    if ends:
        body.append(section("Lanes that did not finish", _ends_table(result, ends)))
    title = title or "Sweep"
    _write(file, page(title, "\n".join(body), charts, plotly_js))


def fit_page(path: str | os.PathLike[str], result: FitResult, title: str | None) -> None:
    """Write the page of one run."""
    file, title = _checked("FitResult.report", path, title)
    plotly_js = figures.plotly("offline").get_plotlyjs()
    charts, body = [], [facts(_fit_facts(result))]
    recorded = _recorded(result.history)
    for i, (name, step, values) in enumerate(recorded[:CHARTS]):
        width = smoothing(len(values)) if len(step) == len(result.history["loss"]) else 1
        figure = figures.run_curve(step, values, name, width, TIMES)
        charts.append((f"curve-{i}", figure))
        log = _may_be_log(values)
        body.append(section(name, chart_place(f"curve-{i}", 400 if not i else 300, log)))
    if len(recorded) > CHARTS:
        body.append(Html(f"<p>{len(recorded) - CHARTS} more were recorded.</p>"))
    numbers = _numbers(result.state)
    if numbers:
        rows = [[cell(k), Cell(v, v)] for k, v in numbers]
        about = "What the next step would use; a schedule's value at the step that was reached."
        body.append(
            section(
                "Hyperparameters", sortable(["name", "value"], rows, name="numbers"), about=about
            )
        )
    _write(file, page(title or "Run", "\n".join(body), charts, plotly_js))


# --- notebooks ------------------------------------------------------------------------------------


def shown_in_notebook(view: Callable[[R], str], result: R) -> str | None:
    """Return what a view makes of a result, or None, so that the notebook shows its `repr`."""
    try:
        return view(result)
    except Exception:
        return None


def sweep_view(result: SweepResult) -> str:
    """Return the ten best points of a sweep as HTML, with their curves."""
    points = result.points()
    shown, columns = points[:10], _columns(result, points)
    varying = [k for k, v in columns.items() if len(set(v.tolist())) > 1]
    log = scale_of(np.asarray(result.history["loss"])) == "log"
    rows = [
        [*(number(columns[k][i]) for k in varying), _reached(p), len(p.lanes), p.steps,
         sparkline(result.curve(p.lanes).mean, log)]
        for i, p in enumerate(shown)
    ]  # fmt: skip
    more = f"<p>and {len(points) - 10} more</p>" if len(points) > 10 else ""
    head = f"{len(points)} points, {len(result.steps)} lanes, {result.seconds:.3g} s"
    header = [*varying, "final loss", "repeats", "steps", "loss"]
    return f"<div><p>{head}</p>{_plain_table(header, rows)}{more}</div>"


def best_view(best: Best) -> str:
    """Return the best point of a sweep as HTML."""
    config = {k: words(column([v]))[0] for k, v in best.config.items()}
    rows: list[Sequence[object]] = [[k, number(v)] for k, v in config.items()]
    rows += [["value", mean_text(best.value, best.error)], ["lane", best.lane]]
    rows += [["repeats", len(best.lanes)]] if len(best.lanes) > 1 else []
    rows += [["diverged", best.diverged]] if best.diverged else []
    rows += [["params", short(best.params)], ["state", short(best.state)]]
    return f"<div>{_plain_table(['best point', ''], rows)}</div>"


def fit_view(result: FitResult) -> str:
    """Return a run as HTML, with its loss."""
    losses = np.asarray(result.history["loss"])
    rows = [*_fit_facts(result), ("loss", sparkline(losses, scale_of(losses) == "log", 240, 44))]
    return f"<div>{_plain_table(['run', ''], rows)}</div>"


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    heads = "".join(f"<th>{escaped(h)}</th>" for h in header)
    lines = [f"<tr>{''.join(f'<td>{escaped(x)}</td>' for x in row)}</tr>" for row in rows]
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


# --- parts of the page of a sweep -----------------------------------------------------------------


def _best_point(result: SweepResult, points: Sequence[Point]) -> int | None:
    """Return which of the points `best` returns, or None if there is none."""
    kept = [np.isin(p.lanes, result.kept) & np.isfinite(p.values) for p in points]
    return next((i for i, good in enumerate(kept) if good.any()), None)


def _columns(result: SweepResult, points: Sequence[Point]) -> dict[str, np.ndarray]:
    """Return name -> (points,), numbers or texts."""
    first = [int(p.lanes[0]) for p in points]
    return {k: words(v)[first] for k, v in result.configs.items() if k not in SEEDS}


def _sweep_facts(
    result: SweepResult,
    points: Sequence[Point],
    columns: dict[str, np.ndarray],
    varying: dict[str, np.ndarray],
    best: int | None,
    by: str,
    mode: str,
) -> list[tuple[str, object]]:
    repeats = sorted({len(p.lanes) for p in points})
    each = " to ".join(map(str, [repeats[0], repeats[-1]] if len(repeats) > 1 else repeats))
    what = "the mean of the last tenth of the losses" if by == "loss" else f"the last {by}"
    over = ", mean over the repeats" if repeats[-1] > 1 else ""
    lanes, ends = len(result.steps), [what for _, what, _ in _ends(result)]
    pairs: list[tuple[str, object]] = []
    if best is not None:
        config = named({k: v[best] for k, v in columns.items()}) or "the only one"
        pairs.append(("best point", Html(f"<strong>{escaped(config)}</strong>")))
        pairs.append((f"its {by}", _reached(points[best])))
    else:
        pairs.append(("best point", "none: every lane diverged"))
    order = "less" if mode == "min" else "more"
    pairs += [
        ("criterion", f"{what}{over}; {order} is better"),
        ("points", f"{len(points)}" + (f" of {each} repeats, {lanes} lanes" if over else "")),
        ("steps", f"{result.steps.max():,} at most, {result.steps.sum():,} of all lanes"),
        ("time", f"{result.seconds:.3g} s, with compilation"),
    ]
    pairs += [(f"lanes {what}", ends.count(what)) for what in dict.fromkeys(ends)]
    fixed = {k: v[0] for k, v in columns.items() if k not in varying}
    if fixed:
        pairs.append(("the same in all", named(fixed)))
    return pairs


def _reached(point: Point) -> str:
    if point.diverged:
        count = len(point.lanes)
        return "diverged" if count == 1 else f"{point.diverged} of {count} repeats diverged"
    return mean_text(point.mean, point.error)


def _ends(result: SweepResult) -> list[tuple[int, str, int]]:
    """Return (lane, what happened, step) for each lane that did not take all steps."""
    out, last = [], int(result.steps.max())
    for lane, steps in enumerate(result.steps.tolist()):
        diverged, stopped = int(result.diverged_at[lane]), int(result.stopped_at[lane])
        if diverged >= 0:
            out.append((lane, "diverged", diverged))
        elif stopped >= 0:
            out.append((lane, "stopped", stopped))
        elif steps == 0:
            out.append((lane, "never started", 0))
        elif lane not in result.kept:
            out.append((lane, "dropped", steps))
        elif steps < last:
            out.append((lane, "interrupted", steps))
    return out


def _points_table(
    result: SweepResult,
    points: Sequence[Point],
    varying: dict[str, np.ndarray],
    colours: Sequence[str],
    best: int | None,
    by: str,
    ends: dict[int, tuple[str, int]],
) -> Html:
    others = [k for k in result.metrics() if k != by]
    reached = {k: np.where(result.diverged_at >= 0, np.nan, result.values(k)) for k in others}
    started = (result.steps > 0) | (result.diverged_at >= 0)
    rows = []
    for i, point in enumerate(points):
        swatch = Html(f'<span class="swatch" style="background:{colours[i]}"></span> {i + 1}')
        row = [Cell(swatch, i + 1), *(cell(v[i]) for v in varying.values())]
        row.append(Cell(_reached(point), point.mean))
        ran = point.lanes[started[point.lanes]]
        for name in others:
            mean, error = mean_and_error(reached[name][ran]) if ran.size else (np.nan, np.nan)
            row.append(Cell(mean_text(float(mean), float(error)), float(mean)))
        row += [cell(len(point.lanes)), cell(point.steps)]
        if ends:
            text = _happened([ends[lane] for lane in point.lanes.tolist() if lane in ends])
            row.append(Cell(text, text or None))
        rows.append(row)
    header = ["", *varying, by, *others, "repeats", "steps", *(["what happened"] if ends else [])]
    marks = [
        f'{" class=best" if i == best else ""} data-point="{i}" tabindex="0"'
        for i in range(len(points))
    ]
    return sortable(header, rows, marks, "points")


def _happened(ends: Sequence[tuple[str, int]]) -> str:
    """Return one text for what happened to the repeats of a point."""
    steps: dict[str, list[int]] = {}
    for what, step in ends:
        steps.setdefault(what, []).append(step)
    return ", ".join(
        what if what == "never started" else f"{what} at step {', '.join(map(str, at))}"
        for what, at in steps.items()
    )


def _ends_table(result: SweepResult, ends: dict[int, tuple[str, int]]) -> Html:
    texts = {k: words(v) for k, v in result.configs.items()}
    rows = [
        [cell(lane), *(cell(v[lane]) for v in texts.values()), cell(what), cell(step)]
        for lane, (what, step) in ends.items()
    ]
    return sortable(["lane", *texts, "what happened", "at step"], rows, name="ends")


def _curves(
    result: SweepResult,
    points: Sequence[Point],
    ran: Sequence[int],
    names: Sequence[str],
    colours: Sequence[str],
    metric: str,
) -> tuple[str | None, bool, str]:
    """Return (the figure if there is one, whether it may have a log axis, what it shows)."""
    shown = ran[:CURVES]
    times = np.asarray(result.history[metric]).shape[1]
    width = smoothing(times) if metric == "loss" else 1
    most = max(100, min(TIMES, ALL_TIMES // max(len(shown), 1)))
    size = max(1, -(-times // most))
    width, lines = max(size, width), []
    for i in shown:
        curve = result.curve(points[i].lanes, metric, smooth=width)
        at = figures.thinned(len(curve.step), size)
        lines.append(Curve(*(x[at] for x in curve)))
    means = np.concatenate([line.mean for line in lines] or [np.zeros(0)])
    if not np.isfinite(means).any():
        return None, False, "No point has a value that is finite in all of its repeats."
    figure = figures.curves(
        lines, shown, [names[i] for i in shown], [colours[i] for i in shown], metric
    )
    what = "steps" if metric == "loss" else "reports"
    about = [f"Each is the mean over the last {width} {what}." if width > 1 else ""]
    if any(np.isfinite(line.error).any() for line in lines):
        about.append("Bands are a standard error of the mean over the repeats to each side.")
        about += (
            ["They are shown for the best three, and for points that are chosen."]
            if len(shown) > figures.DISTINCT
            else []
        )
    about += [f"Only the best {CURVES} points are shown."] if len(ran) > CURVES else []
    return figure, _may_be_log(means), " ".join(filter(None, about))


def _may_be_log(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    return bool((values >= 0).all() and (values > 0).any())


def _hyperparameter_sections(
    varying: dict[str, np.ndarray],
    order: np.ndarray,
    means: np.ndarray,
    errors: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    by: str,
    mode: str,
    place: Place,
) -> list[Html]:
    if not varying:
        return []
    axes = [figures.as_axis(k, v, v[order]) for k, v in varying.items()]
    shown = ~np.isnan(means)  # those that started
    if not shown.any():
        return []
    picked, out = [axis._replace(places=axis.places[shown]) for axis in axes], []
    at = np.flatnonzero(shown).tolist()
    shades, texts = [colours[i] for i in at], [names[i] for i in at]
    if np.isfinite(means).any():
        figure = figures.parallel(picked, means[at], shades, by, mode)
        about = "A line is a point. Drag along an axis to see only the points of a range."
        out.append(section("Parallel coordinates", place("parallel", figure, 420), about=about))
    parts = (means[at], errors[at], texts, shades, by, mode)
    charts = [
        place(f"slice-{i}", figures.slices(axis, *parts), 320) for i, axis in enumerate(picked)
    ]
    out.append(section("Each hyperparameter", Html(f'<div class="charts">{"".join(charts)}</div>')))
    out.append(_importance_section(axes, means, by, mode, place))
    return out


def _importance_section(
    axes: Sequence[figures.Axis], means: np.ndarray, by: str, mode: str, place: Place
) -> Html:
    title, good = "Importance", np.isfinite(means)
    if good.sum() < FEWEST:
        text = f"It needs {FEWEST} points with a finite mean; there are {good.sum()}."
        return section(title, about=text)
    values, log = means[good], ""
    if mode == "min" and scale_of(values) == "log":
        values, log = np.log10(values), "the logarithm of "
    try:
        shares = importances([a._replace(places=a.places[good]) for a in axes], values)
    except ImportError as error:
        return section(title, about=str(error))
    missing = len(means) - good.sum()
    return section(
        title,
        place("importance", figures.importance(shares), 90 + 28 * len(shares)),
        about=f"The share of the variance of {log}{by} that each hyperparameter explains by itself "
        "(fANOVA by Optuna, on a random forest)."
        + (f" {missing} points without a finite mean are left out." if missing else ""),
    )


def importances(axes: Sequence[figures.Axis], reached: np.ndarray) -> dict[str, float]:
    """Return name -> the share of the variance of what points reached that it explains by itself.

    Hutter et al. (2014), http://proceedings.mlr.press/v32/hutter14.html, by Optuna.

    Args:
      axes: the hyperparameters, each with a place for each point.
      reached: (points,), what they reached, finite.
    """
    optuna = require("optuna", "report", "The importance of hyperparameters")
    require("sklearn.ensemble", "report", "The importance of hyperparameters")
    distributions, columns = {}, []
    for i, axis in enumerate(axes):
        if axis.words is not None:
            distribution = optuna.distributions.CategoricalDistribution(range(len(axis.words)))
            values = axis.places.astype(int).tolist()
        else:  # fANOVA does not take logarithms by itself
            values = axis.spread.tolist()
            distribution = optuna.distributions.FloatDistribution(min(values), max(values))
        distributions[str(i)] = distribution
        columns.append(values)
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(level)
    for row, value in zip(zip(*columns, strict=True), reached.tolist(), strict=True):
        params = {str(i): v for i, v in enumerate(row)}
        study.add_trial(
            optuna.create_trial(params=params, distributions=distributions, value=value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {axes[int(k)].name: float(v) for k, v in found.items()}


# --- parts of the page of a run -------------------------------------------------------------------


def _fit_facts(result: FitResult) -> list[tuple[str, object]]:
    losses = np.asarray(result.history["loss"])
    rate = f", {result.steps / result.seconds:.4g} steps a second" if result.seconds > 0 else ""
    pairs: list[tuple[str, object]] = [
        ("steps", f"{result.steps:,}{' (ended by Ctrl-C)' if result.interrupted else ''}"),
        ("time", f"{result.seconds:.3g} s{rate}, with compilation"),
    ]
    if len(losses):
        tail = float(losses[-max(1, len(losses) // 10) :].mean())
        pairs.append(("first loss", number(float(losses[0]))))
        pairs.append(("final loss", f"{number(tail)}, mean of the last tenth of the steps"))
    for name, _, values in _recorded(result.history)[1:]:
        if name in result.history and len(values):
            pairs.append((f"last {name}", number(float(values[-1]))))
    if result.diverged_at is not None:
        pairs.append(("diverged", f"at step {result.diverged_at}, which was not taken"))
    if result.first_nonfinite is not None:
        pairs.append(("first nonfinite", f"at step {result.first_nonfinite}"))
    pairs += [("parameters", short(result.params)), ("optimizer state", short(result.state))]
    return pairs


def _recorded(history: dict[str, Any]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (name, steps, values) for the loss and for all other numbers in a history."""
    losses = np.asarray(history["loss"], float)
    out = [("loss", np.arange(1, len(losses) + 1), losses)]
    for name, values in history.items():
        if name not in RESERVED and name != "loss" and np.ndim(values) == 1:
            out.append((name, np.asarray(history["step"]), np.asarray(values, float)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(history.get("aux")):
        if np.ndim(leaf) == 1 and not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            values = np.asarray(leaf, float)
            out.append((f"aux{jax.tree_util.keystr(path)}", np.arange(1, len(values) + 1), values))
    return out


def _numbers(state: PyTree) -> list[tuple[str, str]]:
    """Return the hyperparameters in a state, as texts."""
    return [(k, short(v)) for k, v in hyperparams(state).items()]


# --- files ----------------------------------------------------------------------------------------


def _checked(
    caller: str, path: str | os.PathLike[str], title: str | None
) -> tuple[Path, str | None]:
    """Return the file to write and the title, or raise before anything is computed."""
    if title is not None and not isinstance(title, str):
        raise TypeError(f"{caller}(title=...) must be a string or None, got {title!r}.")
    file = Path(path)
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(
            f"{caller}(path=...) must be a file in a folder that exists, got {os.fspath(path)!r}."
        )
    return file, title


def _write(file: Path, text: str) -> None:
    data = text.encode()
    replace_file(file, lambda out: out.write(data))
