"""Reports: what a page shows, that nothing in it runs or loads, and how it behaves in a browser."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import math
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training import figures
from gdjax.training.markup import Cell, Html, cell, sortable, sparkline
from gdjax.training.page import ALL_TIMES, importances
from gdjax.training.plotting import running_mean
from gdjax.training.result import SweepResult, final_losses
from gdjax.training.trials import columns

NAN, INF = np.nan, np.inf
HOSTILE = {"<img src=x onerror=alert(1)>": "</script><script>alert(2)</script> %{x} &amp; \"'"}


def made(configs, ends, *, steps=40, diverged=None, dropped=None, started=None, accuracy=True):
    """Return the result of a sweep whose losses fall from `ends` + 1 to about `ends`."""
    lanes, rng = len(configs), np.random.default_rng(0)
    ends = np.broadcast_to(np.asarray(ends, float), lanes)
    fall = np.exp(-np.arange(steps) / 5) + 0.01 * rng.normal(size=(lanes, steps))
    with np.errstate(invalid="ignore"):
        loss = ends[:, None] + np.abs(ends)[:, None] * fall
    taken, at = np.full(lanes, steps), np.full(lanes, -1)
    for lane, step in (diverged or {}).items():
        taken[lane] = at[lane] = step
        loss[lane, step + 1 :] = NAN
    for lane, step in (dropped or {}).items():
        taken[lane] = step
        loss[lane, step:] = NAN
    for lane in set(range(lanes)) - set(range(lanes) if started is None else started):
        taken[lane], loss[lane] = 0, NAN
    history = {"loss": loss}
    if accuracy:
        history |= {"step": np.array([steps // 2, steps]), "accuracy": np.exp(-loss[:, 19::20])}
    kept = np.setdiff1d(np.flatnonzero(taken), list(dropped or {}))
    return SweepResult(
        configs=columns(configs), params=np.zeros((len(kept), 2)), state=np.zeros(len(kept)),
        model_state=None, history=history, diverged_at=at, stopped_at=np.full(lanes, -1),
        final_loss=final_losses(loss, at, taken), seconds=2.5, steps=taken, kept=kept,
    )  # fmt: skip


def crossed(seeds=2, **space):
    configs = gdjax.grid(space)
    return [c | {"seed": s} for c in configs for s in range(seeds)] if seeds else configs


def twelve(**options):
    """Return 12 points of 2 repeats; the fifth point has a repeat that diverged."""
    configs = crossed(
        learning_rate=[1e-4, 1e-3, 1e-2, 0.1], momentum=[0.0, 0.9, 0.99], weight_decay=[0.1]
    )
    ends = [1 + abs(math.log10(c["learning_rate"]) + 2) + c["momentum"] for c in configs]
    return made(configs, ends, diverged={9: 7}, **options)


class Page(html.parser.HTMLParser):
    """What is on a page.

    Attributes:
      tags: names of tags, with their attributes.
      tables: id -> rows of texts; the first are the names of the columns.
      text: all text outside of scripts and styles.
      charts: name -> figure.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.tables, self.text, self._table = [], {}, "", []
        self._raw, self._inside, self.scripts = "", False, []
        self.feed(text)
        found = next(s for s in self.scripts if s.startswith("["))
        self.charts = {chart["name"]: chart["figure"] for chart in json.loads(found)}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""
        if tag == "table":
            self._table = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._raw = ""
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self._raw == "script":
            self.scripts.append(data)
        elif not self._raw:
            self.text += data
            if self._inside:
                self._table[-1][-1] = (self._table[-1][-1] + data).strip()


@pytest.fixture
def page(tmp_path):
    def of(result, *args, **kwargs):
        result.report(tmp_path / "page.html", *args, **kwargs)
        return Page((tmp_path / "page.html").read_text())

    return of


def numbers(array):
    """Return the numbers that plotly.js reads: a list, or base64 of an array."""
    if not isinstance(array, dict):
        return np.array(array, float)
    return np.frombuffer(base64.b64decode(array["bdata"]), "<" + array["dtype"]).astype(float)


# --- the page of a sweep ---


def test_the_table_is_that_of_the_points(page):
    result = twelve()
    points, shown = result.points(), page(result)
    head, *rows = shown.tables["points"]
    assert head == [
        "", "learning_rate", "momentum", "loss", "accuracy", "repeats", "steps", "what happened"
    ]  # fmt: skip
    assert len(rows) == len(points) == 12
    accuracy = result.history["accuracy"][:, -1]
    for i, (row, point) in enumerate(zip(rows, points, strict=True)):
        assert row[0] == str(i + 1) and row[5:7] == ["2", "40"]
        assert row[1:3] == [f"{v:.4g}" for v in list(point.config.values())[:2]]
        if not point.diverged:
            assert row[3] == f"{point.mean:.4g} ± {point.error:.2g}" and row[7] == ""
            a = accuracy[point.lanes]
            assert row[4] == f"{a.mean():.4g} ± {a.std(ddof=1) / 2**0.5:.2g}"
    assert rows[-1][3:] == ["1 of 2 repeats diverged", "–", "2", "40", "diverged at step 7"]
    assert "best pointlearning_rate = 0.01, momentum = 0, weight_decay = 0.1" in shown.text
    assert f"its loss{points[0].mean:.4g} ± {points[0].error:.2g}" in shown.text
    assert "weight_decay = 0.1" in shown.text.split("the same in all")[1]
    assert shown.tables["ends"][1][-2:] == ["diverged", "7"]


def test_curves_are_means_with_bands_of_a_standard_error(page):
    result = twelve()
    points, charts = result.points(), page(result).charts
    traces = {
        (t["meta"]["point"], bool(t["meta"].get("band"))): t for t in charts["curve-0"]["data"]
    }
    for i, point in enumerate(points):
        rows = result.history["loss"][point.lanes]
        mean, error = rows.mean(0), rows.std(0, ddof=1) / 2**0.5
        last = np.flatnonzero(np.isfinite(mean)).max() + 1
        line, band = traces[i, False], traces[i, True]
        np.testing.assert_array_equal(numbers(line["x"]), np.arange(1, last + 1))
        np.testing.assert_allclose(numbers(line["y"]), mean[:last], rtol=1e-6)
        up, low = np.split(numbers(band["y"]), 2)
        np.testing.assert_allclose(up, (mean + error)[:last], rtol=1e-6)
        np.testing.assert_allclose(low[::-1], (mean - error)[:last], rtol=1e-6)
    assert len(numbers(traces[11, False]["x"])) == 8  # its repeat diverged at step 7
    assert len(charts["curve-1"]["data"]) == 24 - 2  # that point has no accuracy


def test_long_curves_are_means_of_parts(page):
    configs = crossed(seeds=2, learning_rate=np.logspace(-3, 0, 40).tolist())
    result = made(configs, np.arange(80) + 1.0, steps=30_007)
    result.history["accuracy"] = np.arange(80.0)[:, None] + result.history["loss"]
    result.history["step"] = np.arange(30_007) + 1
    shown = page(result)
    size, lanes = -(-30_007 // (ALL_TIMES // 40)), result.points()[0].lanes
    for metric, chart, width in (("loss", "curve-0", 600), ("accuracy", "curve-1", size)):
        (line,) = [t for t in shown.charts[chart]["data"] if t["meta"] == {"point": 0}]
        x = numbers(line["x"])
        np.testing.assert_array_equal(x, [*range(size, 30_007, size), 30_007])
        rows = running_mean(result.history[metric][lanes], width)
        np.testing.assert_allclose(numbers(line["y"]), rows.mean(0)[x.astype(int) - 1], rtol=1e-6)
        assert f"the last {width} " in shown.text
    assert len(json.dumps(shown.charts)) < 8e6


def test_many_points_have_few_curves_and_a_row_each(page):
    result = made(crossed(0, learning_rate=np.logspace(-3, 0, 150).tolist()), np.arange(150) + 1.0)
    shown = page(result)
    assert len(shown.tables["points"]) == 151 and "Only the best 100 points" in shown.text
    assert len(shown.charts["curve-0"]["data"]) == 100  # no bands: each ran once
    assert len(shown.charts["parallel"]["data"][0]["dimensions"][0]["values"]) == 150


def test_axes_of_hyperparameters_and_of_what_was_reached(page):
    result = made(
        crossed(0, learning_rate=[1e-30, 1e-3, 1.0], limit=[1.0, INF], kind=["a", None, True]),
        np.arange(18) + 1.0, diverged={3: 5}, started=range(17),
    )  # fmt: skip
    shown = page(result)
    rate, limit, kind, loss = shown.charts["parallel"]["data"][0]["dimensions"]
    np.testing.assert_allclose(sorted(set(rate["values"])), [-30, -3, 0])
    assert rate["ticktext"] == ["1e-30", "0.001", "1"] and limit["ticktext"] == ["1", "inf"]
    assert kind["ticktext"] == ["a", "None", "True"] and set(kind["values"]) == {0, 1, 2}
    assert len(loss["values"]) == 17 and loss["ticktext"][-1] == "not finite"
    assert max(loss["values"]) == loss["tickvals"][-1] > sorted(loss["values"])[-2]
    assert [kind["ticktext"][int(p)] for p in kind["values"]] == [
        row[3] for row in shown.tables["points"][17:0:-1]
    ]
    bad, good = shown.charts["slice-0"]["data"]
    assert bad["customdata"] == [16] and len(good["customdata"]) == 16
    assert shown.charts["slice-0"]["layout"]["xaxis"]["type"] == "log"
    assert shown.charts["slice-2"]["layout"]["xaxis"]["ticktext"] == ["a", "None", "True"]


@pytest.mark.parametrize(
    "result, present, absent",
    [
        (made(crossed(0, rate=[0.1]), 1.0), ["curve-0"], ["parallel", "slice-0", "importance"]),
        (made(crossed(2, rate=[0.1, 0.2]), 1.0), ["curve-1", "parallel", "slice-0"], []),
        (
            made(crossed(1, rate=[1.0, 2.0]), 1.0, diverged={0: 0, 1: 3}),
            ["curve-0", "slice-0"], ["curve-1", "parallel", "importance"],
        ),
        (made(crossed(0, rate=[-1.0, 0.0, 1.0]), [-1e-300, 0.0, 1e300]), ["parallel"], []),
        (made(crossed(2, rate=[0.1, 0.2]), 1.0, started=[0]), ["curve-1", "parallel"], []),
        (made(crossed(0, rate=[0.1, 0.2]), [NAN, INF]), ["slice-0"], ["parallel", "curve-0"]),
        (made([{"seed": s} for s in range(3)], 1.0), ["curve-0"], ["parallel"]),  # only seeds
        (
            made(crossed(1, rate=[0.1, 0.2]), 1.0, dropped={0: 9}, accuracy=False),
            ["curve-0", "parallel"], ["curve-1"],
        ),
    ],
    ids=["one", "two", "diverged", "huge", "started", "nonfinite", "seeds", "dropped"],
)  # fmt: skip
def test_small_and_broken_sweeps(page, result, present, absent):
    shown = page(result)
    assert not set(present) - set(shown.charts) and not set(absent) & set(shown.charts)
    places = [attrs["id"] for tag, attrs in shown.tags if tag == "div" and "id" in attrs]
    assert places == list(shown.charts)
    if not np.isfinite(result.final_loss).any():
        assert "none: every lane diverged" in shown.text


def test_what_happened_to_lanes(page):
    result = made(crossed(2, rate=[0.1, 0.2, 0.3]), 1.0, dropped={0: 9, 1: 9}, diverged={2: 3})
    result.stopped_at[3] = result.steps[3] = 20
    shown = page(result)
    ends = {int(row[0]): row[-2:] for row in shown.tables["ends"][1:]}
    assert ends == {
        0: ["dropped", "9"], 1: ["dropped", "9"], 2: ["diverged", "3"], 3: ["stopped", "20"]
    }  # fmt: skip
    happened = {row[1]: row[-1] for row in shown.tables["points"][1:]}
    assert happened == {
        "0.1": "dropped at step 9, 9", "0.2": "diverged at step 3, stopped at step 20", "0.3": ""
    }  # fmt: skip


def test_a_metric_needs_its_mode_and_is_what_points_are_judged_by(page):
    result = twelve()
    with pytest.raises(ValueError, match="SweepResult.report.*needs mode"):
        page(result, by="accuracy")
    shown = page(result, by="accuracy", mode="max", title="<Mine>")
    best = result.best("accuracy", "max")
    assert shown.tables["points"][0][3:5] == ["accuracy", "loss"]
    assert shown.tables["points"][1][3] == f"{best.value:.4g} ± {best.error:.2g}"
    assert "more is better" in shown.text and shown.text.count("<Mine>") == 2


def test_importance_is_that_of_the_function():
    rng = np.random.default_rng(0)
    a, b, c = rng.uniform(size=(3, 60))
    axes = [figures.as_axis(k, v) for k, v in zip("abc", (a, b, c), strict=True)]
    shares = importances(axes, 3 * a + b)
    # The variances of 3 a and b are as 9 to 1; the forest finds them roughly.
    assert list(shares)[0] == "a" and 0.75 < shares["a"] and 0.02 < shares["b"] < 0.2
    assert shares["c"] < 0.05 and sum(shares.values()) == pytest.approx(1)
    kinds = figures.as_axis("kind", np.array(["x", "y"] * 30, object))
    rates = figures.as_axis("rate", 10.0 ** (6 * a - 6))
    assert rates.log and kinds.words == ["x", "y"]
    shares = importances([kinds, rates], np.where(kinds.places == 0, 0.0, 1.0))
    assert shares["kind"] > 0.95


@pytest.mark.parametrize("missing, extra", [("optuna", "report"), ("sklearn.ensemble", "report")])
def test_without_optuna_the_page_says_what_to_install(page, monkeypatch, missing, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    shown = page(twelve())
    assert f'pip install "gdjax[{extra}]"' in shown.text and "importance" not in shown.charts
    assert "parallel" in shown.charts


def test_without_plotly_the_error_says_what_to_install(page, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"gdjax\[report\]"):
        page(twelve())


# --- safety ---


def test_nothing_in_names_becomes_a_tag_or_a_script(page):
    (name, value), *_ = HOSTILE.items()
    configs = [{name: value + str(i), "rate": 0.1} for i in range(9)]
    result = made(configs, np.arange(9) + 1.0, diverged={8: 2})
    result.history["<b>metric</b>"] = result.history["accuracy"]
    plain = page(twelve())
    shown = page(result, title=value)
    kinds = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in shown.tags} <= kinds and "img" not in kinds
    assert len([tag for tag, _ in shown.tags if tag == "script"]) == 3
    assert shown.tables["points"][1][1] == value + "0" and name in shown.tables["points"][0]
    names = [t["hovertemplate"] for t in shown.charts["curve-0"]["data"]]
    assert all("<b>" not in n and "<img" not in n and n.count("%{") == 2 for n in names)
    axis = shown.charts["curve-2"]["layout"]["yaxis"]["title"]["text"]
    assert axis == "&lt;b&gt;metric&lt;/b&gt;"


def test_the_page_loads_nothing_and_may_load_nothing(page):
    shown = page(twelve())
    for tag, attrs in shown.tags:
        assert not {"src", "href", "srcset", "data", "action"} & set(attrs), (tag, attrs)
    (policy,) = [a["content"] for t, a in shown.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; ") and "http" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_the_same_result_gives_the_same_bytes(tmp_path):
    result = twelve()
    result.report(tmp_path / "a.html")
    result.report(tmp_path / "b.html")
    result.save(tmp_path / "r.npz")
    SweepResult.load(tmp_path / "r.npz").report(tmp_path / "c.html")
    a, b, c = ((tmp_path / f"{k}.html").read_bytes() for k in "abc")
    assert a == b == c and str(tmp_path).encode() not in a
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html", "c.html", "r.npz"]


def test_functions_have_names_and_no_addresses(page, tmp_path):
    configs = [{"kind": kind, "rate": 0.1} for kind in (gdjax.adam, lambda r: gdjax.sgd(r))]
    result = dataclasses.replace(made(configs, [1.0, 2.0]), state=(np.zeros(1), np.zeros(1)))
    shown = page(result)
    assert "kind = adam, rate = 0.1" in shown.text
    assert [row[1] for row in shown.tables["points"][1:]] == ["adam", "<lambda>"]
    text = (tmp_path / "page.html").read_text()
    assert not re.search(r"function [\w.<>]+ at 0x|&lt;function", text)
    assert (
        "<td>adam</td>" in result._repr_html_() and "<td>adam</td>" in result.best()._repr_html_()
    )


def test_bars_of_errors_are_inside_of_the_axis(page):
    result = made(crossed(2, rate=[0.1, 0.2]), [1.0, 9.0, 2.0, 2.5], diverged={2: 3})
    chart = page(result).charts["slice-0"]
    (bad, good), ends = chart["data"], chart["layout"]["yaxis"]["range"]
    mean, error = good["y"][0], good["error_y"]["array"][0]
    assert ends[0] < mean - error and mean + error < bad["y"][0] < ends[1]


def test_bad_arguments_are_named_before_anything_is_written(tmp_path):
    result = twelve()
    for path in (tmp_path, tmp_path / "no" / "a.html"):
        with pytest.raises(ValueError, match="SweepResult.report.path=....*a folder that exists"):
            result.report(path)
    with pytest.raises(TypeError, match="title=...."):
        result.report(tmp_path / "a.html", title=3)
    with pytest.raises(ValueError, match="by='speed' is not recorded"):
        result.report(tmp_path / "a.html", by="speed", mode="max")
    assert not list(tmp_path.iterdir())


# --- the page of a run ---


def loss_fn(params, batch):
    error = batch[0] @ params - batch[1]
    return jnp.mean(error**2), {"largest <b>": jnp.max(jnp.abs(error)), "each": error}


def metric_fn(params, batch):
    return {"mse": loss_fn(params, batch)[0]}


@pytest.fixture(scope="module")
def run():
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    return gdjax.fit(
        loss_fn, jnp.zeros(4), gdjax.adam(gdjax.cosine_decay_schedule(0.1, 5000)), (x, x.sum(1)),
        batch_size=4, steps=5000, has_aux=True, held_out=(x, x.sum(1)), metric_fn=metric_fn,
    )  # fmt: skip


def test_the_page_of_a_run(page, run):
    shown = page(run)
    assert [a["id"] for t, a in shown.tags if t == "div" and "id" in a] == list(shown.charts)
    titles = [f["layout"]["yaxis"]["title"]["text"] for f in shown.charts.values()]
    assert titles == ["loss", "mse", "aux[&#x27;largest &lt;b&gt;&#x27;]"]
    assert ["b1", "0.9"] in shown.tables["numbers"]
    band, smooth = shown.charts["curve-0"]["data"]
    assert band["name"] == "least to greatest of 3 steps" and smooth["name"] == "mean of 100 steps"
    high, low = np.split(numbers(band["y"]), 2)
    losses = run.history["loss"]
    parts = [losses[i : i + 3] for i in range(0, 5000, 3)]
    np.testing.assert_array_equal(high, [p.max() for p in parts])
    np.testing.assert_array_equal(low[::-1], [p.min() for p in parts])
    mean = running_mean(losses[None].astype(float), 100)[0]
    np.testing.assert_allclose(numbers(smooth["y"])[-1], mean[-1], rtol=1e-6)
    np.testing.assert_array_equal(numbers(smooth["x"])[-1], 5000 - 99 / 2)
    np.testing.assert_array_equal(
        numbers(shown.charts["curve-1"]["data"][0]["y"]), run.history["mse"]
    )


def test_a_run_that_diverged_at_once_and_one_without_steps(page, run):
    losses = {"loss": np.array([NAN], np.float32)}
    broken = dataclasses.replace(
        run, history=losses, steps=0, diverged_at=0, first_nonfinite=0, interrupted=True
    )
    text = page(broken, title="mine").text
    assert "at step 0, which was not taken" in text and "Ctrl-C" in text and "mine" in text
    empty = dataclasses.replace(run, history={"loss": np.zeros(0, np.float32)}, steps=0)
    assert "first loss" not in page(empty).text


# --- notebooks ---


def test_notebooks_show_results_without_plotly(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    result = twelve()
    shown = result._repr_html_()
    assert shown.count("<tr>") == 11 and "and 2 more" in shown and shown.count("<svg") == 10
    best = result.best()
    assert f"{best.value:.4g} ± {best.error:.2g}" in shown and "0.01" in best._repr_html_()
    assert "<svg" in run._repr_html_() and "last mse" in run._repr_html_()
    configs = [{k: v + str(i) for k, v in HOSTILE.items()} for i in range(2)]
    shown = made(configs, 1.0)._repr_html_()
    assert "<img" not in shown and "<script" not in shown and "&lt;img" in shown


def test_notebooks_get_nothing_where_a_result_is_broken(run):
    assert dataclasses.replace(twelve(), history={})._repr_html_() is None
    assert dataclasses.replace(run, history=None)._repr_html_() is None
    assert twelve().best()._replace(config=None)._repr_html_() is None


def test_sparklines():
    def points(text):
        found = re.findall(r'points="([^"]*)"', text)
        return [[tuple(map(float, p.split(","))) for p in run.split()] for run in found]

    (line,) = points(sparkline(np.array([1.0, 2.0, 3.0]), False))
    assert line[0][1] > line[1][1] > line[2][1] and line[1][0] == 60
    assert line[1][1] == pytest.approx((line[0][1] + line[2][1]) / 2)
    first, second = points(sparkline(np.array([1.0, 2.0, NAN, 3.0, INF, 1.0, 1.0, NAN]), False))
    assert len(first) == 2 and len(second) == 2  # single values are dots
    assert "circle" in sparkline(np.array([NAN, 2.0]), False)
    assert sparkline(np.array([NAN]), True) == "" == sparkline(np.zeros(0), False)
    (long,) = points(sparkline(np.arange(1, 1e5), True))
    assert len(long) == 120


def test_cells_say_how_they_are_sorted():
    table = sortable(["a"], [[cell(v)] for v in (1e-30, 3, True, "x<", NAN, INF, None)])
    cells = re.findall(r"<td([^>]*)>([^<]*)</td>", table)
    assert cells == [
        (' class="number" data-number="1e-30"', "1e-30"), (' class="number" data-number="3"', "3"),
        (' data-text="True"', "True"), (' data-text="x&lt;"', "x&lt;"), (' class="number"', "–"),
        (' class="number"', "inf"), (' data-text="None"', "None"),
    ]  # fmt: skip
    assert "<b>" in Cell(Html("<b>")).html()


# --- in a browser ---

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

# It runs before the page's own scripts, and says at the end what it has seen.
CHECK = """
const seen = {errors: [], steps: {}};
addEventListener("error", event => seen.errors.push(event.message));
addEventListener("securitypolicyviolation", event => seen.errors.push(event.violatedDirective));
for (const kind of ["error", "warn"]) console[kind] = (...args) => seen.errors.push(args.join(" "));
const column = at => [...document.querySelectorAll("#points tbody tr")].map(
  row => row.cells[at].textContent.trim());
function look() {
  const heads = [...document.querySelectorAll("#points th button")];
  seen.tables = {start: heads.map((_, at) => column(at))};
  for (const [at, head] of heads.entries()) {
    head.click();
    seen.steps[at] = [column(at)];
    head.click();
    seen.steps[at].push(column(at));
  }
  const charts = [...document.querySelectorAll(".js-plotly-plot")];
  seen.traces = Object.fromEntries(charts.map(place => [place.id, place.data.length]));
  seen.drawn = Object.fromEntries(charts.map(place => [place.id,
    place.querySelectorAll(".scatterlayer .trace, .barlayer .point, canvas").length]));
  seen.sizes = charts.map(place => [place.clientWidth, place._fullLayout.width]);
  const curves = document.getElementById("curve-0");
  seen.axis = [curves.layout.yaxis.type];
  document.querySelector("button[data-axis]").click();
  seen.axis.push(curves.layout.yaxis.type);
  const row = document.querySelector('tr[data-point="2"]');
  if (row) {
    row.click();
    seen.chosen = curves.data.map(t => [t.meta.point, Boolean(t.meta.band), t.opacity, t.visible]);
    seen.marked = document.getElementById("slice-0").data.map(t => t.selectedpoints);
    row.click();
    seen.free = curves.data.map(t => t.opacity);
  }
  seen.tags = ["img", "iframe", "link", "b"].map(tag => document.querySelectorAll(tag).length);
  seen.requests = performance.getEntriesByType("resource").map(entry => entry.name);
  seen.text = document.querySelector("dl").textContent;
  seen.wide = document.documentElement.scrollWidth - innerWidth;
}
addEventListener("load", () => setTimeout(() => {
  try {
    look();
  } catch (error) {
    seen.errors.push(String(error));
  }
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
}, 500));
"""


def in_browser(tmp_path, file):
    """Open a page in a browser without network, and return what the check has seen."""
    text = file.read_text()
    digest = base64.b64encode(hashlib.sha256(CHECK.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    text = text.replace("<title>", f"<script>{CHECK}</script><title>", 1)
    checked = tmp_path / "checked.html"
    checked.write_text(text)
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader",
        f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=20000", "--window-size=1400,1000", "--dump-dom", checked.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.mark.processes
@browser
def test_a_sweep_in_a_browser(tmp_path):
    (name, value), *_ = HOSTILE.items()
    result = twelve()
    kinds = [value, "b"] * 12
    result = dataclasses.replace(result, configs=result.configs | {name: np.array(kinds, object)})
    seeds = result.configs["seed"]
    seeds[:] = 0  # now each lane is a point
    result.report(tmp_path / "page.html")
    seen = in_browser(tmp_path, tmp_path / "page.html")
    assert seen["errors"] == [] and seen["requests"] == [] and seen["tags"] == [0, 0, 0, 0]
    assert seen["wide"] <= 0
    # 24 points, of which one diverged; each chart has what its figure has.
    expected = {"curve-0": 24, "curve-1": 23, "parallel": 1, "importance": 1}
    expected |= {"slice-0": 2, "slice-1": 2, "slice-2": 2}
    assert seen["traces"] == expected
    assert seen["drawn"]["curve-0"] == 24 and seen["drawn"]["slice-0"] == 2
    assert seen["drawn"]["importance"] == 3 and seen["drawn"]["parallel"] >= 1
    assert all(abs(place - chart) <= 1 for place, chart in seen["sizes"])
    best = result.points()[0]
    assert f"learning_rate = {best.config['learning_rate']:.4g}" in seen["text"]
    assert f"{best.mean:.4g}" in seen["text"] and name in seen["text"]
    # Sorting: by number, the diverged one last in both directions.
    rates = [f"{v:.4g}" for v in sorted(result.configs["learning_rate"])]
    assert seen["steps"]["1"][0] == rates and seen["steps"]["1"][1] == rates[::-1]
    up, down = seen["steps"]["4"]
    assert up[-1] == down[-1] == "diverged" and up[:-1] == down[:-1][::-1]
    assert [float(v) for v in up[:-1]] == sorted(float(v) for v in up[:-1])
    assert seen["steps"]["3"][0] == sorted(kinds)
    # The button changes the scale, a click on a row makes its curve stand out, and another ends it.
    assert seen["axis"][0] != seen["axis"][1]
    assert [c[2] for c in seen["chosen"] if c[0] == 2] == [1]
    assert {c[2] for c in seen["chosen"] if c[0] != 2} == {0.12}
    assert seen["free"] == [1] * 24
    assert sum(len(m) for m in seen["marked"]) == 1


@pytest.mark.processes
@browser
def test_a_run_in_a_browser(tmp_path, run):
    run.report(tmp_path / "page.html")
    seen = in_browser(tmp_path, tmp_path / "page.html")
    assert seen["errors"] == [] and seen["requests"] == [] and seen["tags"] == [0, 0, 0, 0]
    assert seen["traces"] == {"curve-0": 2, "curve-1": 1, "curve-2": 2}
    assert seen["drawn"] == seen["traces"] and seen["axis"] == ["linear", "log"]
