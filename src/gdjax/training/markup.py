"""HTML from plain Python: escaped texts, sortable tables, sparklines, and a page for them."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Html(str):
    """A text that is HTML already; everything else is escaped when it enters a page."""


def escaped(value: object) -> Html:
    """Return HTML that shows a value as text.

    Example:
      >>> print(escaped("<b>"), escaped(Html("<b>")))
      &lt;b&gt; <b>
    """
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def shortened(text: str, length: int = 40) -> str:
    """Return a text of at most `length` characters, with an ellipsis in its middle.

    Example:
      >>> print(shortened("a_name_that_is_long", 9))
      a_na…long
    """
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - half]}…{text[-half:]}"


def number(value: Any) -> str:
    """Return a value with four digits if it is a fraction; other values as they are."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}" if not math.isnan(value) else "–"
    return str(value)


def mean_text(mean: float, error: float) -> str:
    """Return a mean with its standard error, if there is one.

    Example:
      >>> print(mean_text(0.123456, 0.0123), mean_text(2.0, float("nan")))
      0.1235 ± 0.012 2
    """
    return f"{mean:.4g} ± {error:.2g}" if math.isfinite(error) else number(mean)


def named(config: dict[str, Any]) -> str:
    """Return hyperparameters as one line of text."""
    return ", ".join(f"{k} = {number(v)}" for k, v in config.items())


# --- tables ---------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """What a cell of a table shows.

    Attributes:
      text: what is shown; escaped unless it is `Html`.
      order: what rows are sorted by: numbers come before texts; None, NaN and infinities are last,
        whether the order ascends or descends.
    """

    text: str
    order: Any = None

    def html(self) -> str:
        """Return the cell."""
        order = self.order.item() if isinstance(self.order, np.generic) else self.order
        if isinstance(order, (int, float)) and not isinstance(order, bool):
            kind = "number" if math.isfinite(order) else None
        else:
            kind = None if order is None else "text"
        sorts = f' data-{kind}="{escaped(order)}"' if kind else ""
        style = ' class="number"' if isinstance(order, (int, float)) else ""
        return f"<td{style}{sorts}>{escaped(self.text)}</td>"


def cell(value: Any) -> Cell:
    """Return a cell that shows a value and is sorted by it."""
    plain = value.item() if isinstance(value, np.generic) else value
    is_number = isinstance(plain, (int, float)) and not isinstance(plain, bool)
    return Cell(number(plain), plain if is_number else str(plain))


def sortable(
    header: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    attributes: Sequence[str] = (),
    name: str = "",
) -> Html:
    """Return a table whose rows are sorted by a click on the name of a column."""
    heads = "".join(f'<th scope="col"><button>{escaped(h)}</button></th>' for h in header)
    lines = [
        f"<tr{attributes[i] if attributes else ''}>{''.join(c.html() for c in row)}</tr>"
        for i, row in enumerate(rows)
    ]
    return Html(
        f'<div class="scroll"><table class="sortable" id="{escaped(name)}"><thead><tr>{heads}</tr>'
        f"</thead><tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Return a list of names and values."""
    lines = [f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in pairs]
    return Html(f"<dl>{''.join(lines)}</dl>")


def section(title: str, *parts: object, about: str = "") -> Html:
    """Return a part of a page; `about` explains it."""
    note = f"<p>{escaped(about)}</p>" if about else ""
    body = "".join(escaped(part) for part in parts)
    return Html(f"<section><h2>{escaped(title)}</h2>{note}{body}</section>")


def sparkline(values: np.ndarray, log: bool, width: int = 120, height: int = 22) -> Html:
    """Return a small curve of some values as SVG; nothing where they are not finite.

    More than `width` values are shown by the means of `width` equal parts of them.
    """
    values = np.asarray(values, float)
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log10(values)
    if len(values) > width:
        values = np.array([part.mean() for part in np.array_split(values, width)])
    good = np.isfinite(values)
    if not good.any():
        return Html("")
    low, high = values[good].min(), values[good].max()
    shares = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    x = np.linspace(1, width - 1, len(values)) if len(values) > 1 else np.array([width / 2])
    y = height - 2 - shares * (height - 4)
    lines = []
    for run in np.split(np.arange(len(values)), np.flatnonzero(~good)):
        run = run[good[run]]
        if len(run) == 1:  # a line of one point would not be seen
            lines.append(f'<circle cx="{x[run[0]]:.1f}" cy="{y[run[0]]:.1f}" r="1.5"/>')
        elif len(run):
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[run], y[run], strict=True))
            lines.append(f'<polyline fill="none" points="{points}"/>')
    return Html(
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'fill="currentColor" stroke="currentColor" stroke-width="1.2">{"".join(lines)}</svg>'
    )


# --- the page -------------------------------------------------------------------------------------


def page(title: str, body: str, charts: Sequence[tuple[str, str]], plotly_js: str) -> str:
    """Return a whole page.

    Its policy forbids the browser to load anything, and to run any script but its own two.

    Args:
      title: of the page.
      body: HTML; a chart is drawn in the `chart_place` of its name.
      charts: (name, figure as JSON) for each.
      plotly_js: the source of plotly.js.
    """
    figures = ",\n".join(f'{{"name": "{name}", "figure": {figure}}}' for name, figure in charts)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()) for s in (plotly_js, SCRIPT)]
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in hashes)
    return PAGE.substitute(
        title=escaped(title),
        style=STYLE,
        allowed=allowed,
        body=body,
        figures=figures.replace("<", "\\u003c"),  # "</script>" in a name must not end the data
        plotly=plotly_js,
        script=SCRIPT,
    )


def chart_place(name: str, height: int, log: bool = False) -> Html:
    """Return the place of a chart; `log` adds a button for the scale of its y axis."""
    button = f'<button data-axis="{name}">log / linear</button>' if log else ""
    return Html(
        f'<div class="chart">{button}<div id="{name}" style="height:{height}px"></div></div>'
    )


# plotly.js compiles functions from texts, so scripts may do that; none comes from a network.
PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-eval' $allowed; style-src 'unsafe-inline'; img-src data: blob:; \
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<noscript><p>The charts need JavaScript.</p></noscript>
$body
<script type="application/json" id="figures">[$figures]</script>
<script>$plotly</script>
<script>$script</script>
</body>
</html>
""")

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1400px; margin: 0 auto;
  padding: 0 20px 40px; }
h1 { font-size: 1.6em; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin: 1.6em 0 0.3em; }
p { margin: 0.3em 0 0.6em; color: #555; max-width: 75em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow: auto; max-height: 560px; border: 1px solid #ddd; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #f4f4f4; text-align: left; padding: 0; }
th button { all: unset; box-sizing: border-box; cursor: pointer; font-weight: 600;
  padding: 5px 10px; width: 100%; min-width: 4em; max-width: 22em; overflow-wrap: anywhere; }
th button:focus-visible { outline: 2px solid #06c; outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td { padding: 3px 10px; border-top: 1px solid #eee; max-width: 24em; overflow-wrap: anywhere; }
td.number { white-space: nowrap; }
td:not(.number) { min-width: 6em; }
tr[data-point] { cursor: pointer; }
tr[data-point]:hover { background: #f2f7ff; }
tr.best td { font-weight: 600; background: #fdf6dd; }
tr.chosen td { background: #d7e8ff; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 2px; }
.charts { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
.chart { position: relative; min-width: 0; }
.chart > button { position: absolute; right: 10px; bottom: 4px; z-index: 1; font-size: 12px; }
"""

SCRIPT = """
"use strict";
function key(cell) {
  if (cell.dataset.number !== undefined) return Number(cell.dataset.number);
  return cell.dataset.text === undefined ? null : cell.dataset.text;
}
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -sign : sign;
  return a < b ? -sign : a > b ? sign : 0;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const rows = [...body.rows].map(row => [row, key(row.cells[column])]);
    rows.sort((a, b) => compare(a[1], b[1], sign));
    body.append(...rows.map(row => row[0]));
  }));
}

const drawn = [];
for (const {name, figure} of JSON.parse(document.getElementById("figures").textContent)) {
  const place = document.getElementById(name);
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false,
    modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d"]});
  drawn.push(place);
  place.on("plotly_click", event => {
    const point = event.points[0];
    choose(point.customdata ?? point.data.meta?.point);
  });
}
for (const button of document.querySelectorAll("button[data-axis]")) {
  button.addEventListener("click", () => {
    const place = document.getElementById(button.dataset.axis);
    const now = place.layout.yaxis.type === "log";
    Plotly.relayout(place, {"yaxis.type": now ? "linear" : "log", "yaxis.autorange": true});
  });
}

// A click on a row, a curve or a marker chooses a point, or no longer; what is chosen stands out.
const rows = [...document.querySelectorAll("tr[data-point]")];
for (const row of rows) {
  row.addEventListener("click", () => choose(Number(row.dataset.point)));
  row.addEventListener("keydown", event => {
    if (event.key === "Enter") choose(Number(row.dataset.point));
  });
}
function choose(point) {
  const row = rows.find(row => Number(row.dataset.point) === point);
  if (!row) return;
  row.classList.toggle("chosen");
  const chosen = new Set(
    rows.filter(row => row.classList.contains("chosen")).map(row => Number(row.dataset.point)));
  for (const place of drawn) {
    const data = place.data;
    if (data.some(trace => trace.meta?.point !== undefined)) {
      const here = trace => chosen.has(trace.meta.point);
      Plotly.restyle(place, {
        opacity: data.map(trace => !chosen.size || here(trace) ? 1 : 0.12),
        visible: data.map(trace =>
          trace.meta.band ? (chosen.size ? here(trace) : trace.meta.shown) : true),
      }, data.map((_, i) => i));
    } else if (data[0].customdata) {
      Plotly.restyle(place, {selectedpoints: data.map(trace => chosen.size
        ? [...trace.customdata].flatMap((point, i) => chosen.has(point) ? [i] : []) : null)},
        data.map((_, i) => i));
    }
  }
}
"""
