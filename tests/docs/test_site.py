"""The built site: links, formulas, search and widths, in headless Chromium; after `make docs`."""

import base64
import functools
import http.server
import json
import re
import shutil
import threading
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

SITE = Path(__file__).parent.parent.parent / "docs" / "build" / "html"
PAGES = sorted(
    p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PHONE, DESK = (390, 844), (1280, 900)

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not PAGES, reason="the site is not built: make docs"),
]

# What a page shows, as soon as its formulas are set, or after ten seconds.
LOOK = """
const done = arguments[0], start = Date.now();
(function look() {
  const formulas = document.querySelectorAll(".math").length;
  const set = document.querySelectorAll("mjx-container").length;
  if (set < formulas && Date.now() < start + 10_000) return setTimeout(look, 50);
  done({
    formulas, set,
    width: document.documentElement.scrollWidth,
    wrong: document.querySelectorAll("mjx-merror").length,
    requests: performance.getEntriesByType("resource").map(entry => entry.name),
  });
})();
"""
# The texts whose contrast with what lies behind them is less than the argument, as WCAG counts it.
FAINT = """
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
function behind(element) {
  for (; element; element = element.parentElement) {
    const color = numbers(getComputedStyle(element).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
}
const found = [], options = {opacityProperty: true, visibilityProperty: true};
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].filter(n => n.nodeType === Node.TEXT_NODE);
  const text = own.map(n => n.data.trim()).join("");
  if (!text || !element.checkVisibility(options)) continue;
  if (element.closest("mjx-container, .headerlink, [disabled]")) continue;
  const style = getComputedStyle(element);
  const inSvg = element instanceof SVGElement;
  const [a, b] = [numbers(inSvg ? style.fill : style.color), behind(element)].map(luminance);
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < arguments[0]) found.push([text.slice(0, 40), Math.round(contrast * 10) / 10]);
}
return found;
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    """Serve the site on loopback."""
    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium(address):
    """Return a browser; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
        "disable-background-networking", "disable-component-update", "disable-dev-shm-usage",
    ):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium, address):
    """Return functions that set the size and theme of the window, and open a page of the site."""

    def size(shape):
        width, height = shape
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            dict(width=width, height=height, deviceScaleFactor=1, mobile=shape == PHONE),
        )

    def theme(name):
        features = [{"name": "prefers-color-scheme", "value": name}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    chromium.size, chromium.theme = size, theme
    chromium.open = lambda page: chromium.get(address + page)
    chromium.size(DESK)
    chromium.theme("light")
    chromium.get_log("browser")  # forgets what other tests did
    return chromium


# --- without a browser ---


def links(page):
    """Return what a page links to or loads, and the names of its anchors."""
    text = re.sub(
        r"(<script\b[^>]*>).*?</script>", r"\1", (SITE / page).read_text(), flags=re.DOTALL
    )
    found = re.findall(r'<\w[^>]*?\s(?:href|src)="([^"]*)"', text)
    return found, set(re.findall(r'<\w[^>]*?\s(?:id|name)="([^"]*)"', text))


def test_links_and_anchors_within_the_site_resolve():
    names, missing = {page: links(page)[1] for page in PAGES}, set()
    for page in PAGES:
        for link in links(page)[0]:
            link = urllib.parse.urlsplit(link.replace("&amp;", "&"))
            if link.scheme or link.netloc:
                continue
            target = urllib.parse.unquote(urllib.parse.urljoin(page, link.path)) or page
            target = target if link.path else page
            anchor = urllib.parse.unquote(link.fragment)
            if (
                not (SITE / target).is_file()
                or anchor
                and anchor not in names.get(target, [anchor])
            ):
                missing.add((page, target, anchor))
    assert not missing, sorted(missing)


def test_nothing_is_loaded_from_elsewhere():
    loads = re.compile(
        r'<(?:script|img|iframe|link rel="stylesheet")[^>]*?\s(?:src|href)="(\w+:)?//'
    )
    assert [page for page in PAGES if loads.search((SITE / page).read_text())] == []


@pytest.fixture(scope="module")
def explored():
    """Return the learning rates, and the losses at the end, by function and optimizer."""
    text = (SITE / "_static" / "explore_paths.js").read_text()
    data = json.loads(text[text.index("{") : text.rindex("}") + 1])
    functions, optimizers = ([x["name"] for x in data[k]] for k in ("functions", "optimizers"))
    shape = len(functions), len(optimizers), len(data["rates"]), data["steps"] + 1, 3
    codes = np.frombuffer(base64.b64decode(data["paths"]), "<u2").reshape(shape)[..., 2]
    low, high = data["decades"]
    losses = np.where(codes == 65535, np.inf, 10 ** (low + codes / 65534 * (high - low)))
    found = {f: dict(zip(optimizers, losses[i])) for i, f in enumerate(functions)}
    rates = {f["name"]: f["leastRate"] * np.array(data["rates"]) for f in data["functions"]}
    return rates, found


def test_what_explore_says_of_its_paths_is_true(explored):
    rates, losses = explored
    at = {f: {round(r, 4): i for i, r in enumerate(rates[f])} for f in rates}
    end = {f: {o: x[..., -20:].mean(-1) for o, x in of.items()} for f, of in losses.items()}
    for name, least in {"gradient descent": 0.0063, "momentum": 0.0039}.items():
        np.testing.assert_array_equal(np.isfinite(end["valley"][name]), rates["valley"] < least)
    for of in end.values():
        assert all(np.isfinite(of[name]).all() for name in ("RMSProp", "Adam", "Lion"))
    i = at["stretched"][0.0251]
    assert end["stretched"]["Adam"][i] < 1e-6 and 0.4 < end["turned"]["Adam"][i] < 0.6
    for name, x in losses["stretched"].items():
        same = np.allclose(x[:12, :60], losses["turned"][name][:12, :60], rtol=0.1, atol=1e-4)
        assert same == (name not in ("RMSProp", "Adam", "Lion")), name
    i = at["saddle"][0.0158]
    saddle = {name: x[i] for name, x in losses["saddle"].items()}
    assert saddle["gradient descent"][-1] > 0.24 and saddle["schedule-free"][-1] > 0.24
    assert max(saddle[name][-1] for name in ("RMSProp", "Adam", "Lion")) < 0.02
    noisy = {name: x for name, x in end["noisy"].items() if name != "L-BFGS"}
    best = {name: x.argmin() for name, x in noisy.items()}
    assert min(noisy, key=lambda name: noisy[name].min()) == "schedule-free"
    ratio = rates["noisy"][best["schedule-free"]] / rates["noisy"][best["gradient descent"]]
    assert abs(ratio - 10) < 0.1
    after = noisy["gradient descent"][best["gradient descent"] :]
    assert (np.diff(after[np.isfinite(after)]) > 0).all()
    steps = {f: int(np.argmax(of["L-BFGS"][0] < 1e-6)) for f, of in losses.items()}
    assert steps["valley"] == 34 and max(steps[f] for f in ("saddle", "stretched", "turned")) < 10


# --- in a browser ---


def messages(browser):
    """Return what the console has, but for the driver of graphics and the report's missing icon."""
    log = [entry for entry in browser.get_log("browser") if entry["source"] != "rendering"]
    return [entry["message"] for entry in log if "/favicon.ico" not in entry["message"]]


@pytest.mark.parametrize("half", [0, 1])
def test_every_page_on_a_phone(browser, address, half):
    """No error, formulas set, nothing wider than the window, no request to elsewhere."""
    pages = [p for p in PAGES if not p.startswith("_modules/")]
    pages += [p for p in PAGES if p.startswith("_modules/")][::20]  # source code, all set alike
    browser.size(PHONE)
    wrong = {}
    for page in pages[half::2]:
        browser.open(page)
        seen = browser.execute_async_script(LOOK)
        errors = messages(browser)
        outside = [r for r in seen["requests"] if not r.startswith((address, "data:", "blob:"))]
        unset = seen["formulas"] > seen["set"] or seen["wrong"]
        if errors or outside or unset or seen["width"] > PHONE[0]:
            wrong[page] = errors, outside, unset and "formulas", seen["width"]
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser, theme):
    browser.theme(theme)
    guides = [p for p in PAGES if p.startswith(("guides/", "generated/tutorials/t"))]
    adam = "generated/reference/optimizers/adam.html"
    faint = {}
    for page in ["index.html", "explore.html", adam, *guides[::6]]:
        browser.open(page)
        background = browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )
        assert (min(map(int, re.findall(r"\d+", background)[:3])) > 127) == (theme == "light")
        least = 4.5 if page == "explore.html" else 3  # code is coloured by Pygments
        if found := browser.execute_script(FAINT, least):
            faint[page] = found
    assert not faint, json.dumps(faint, indent=1)


QUERIES = [
    "lr", "learning rate", "L2", "freeze layers", "momentum", "weight decay", "warmup",
    "clip gradients", "early stopping", "EMA", "param_groups", "ReduceLROnPlateau", "MultiSteps",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_search_finds_what_people_ask_for(browser, query):
    browser.open("search.html?" + urllib.parse.urlencode({"q": query}))
    results = """
    const done = arguments[0], start = Date.now();
    (function look() {
      const found = [...document.querySelectorAll("#search-results li a")].map(a => a.pathname);
      const text = document.querySelector("#search-results p")?.textContent ?? "";
      if (/found|did not match/.test(text) || Date.now() - start > 8000) done(found);
      else setTimeout(look, 50);
    })();
    """
    found = browser.execute_async_script(results)
    assert "/guides/terms.html" in found[:5]


def test_explore_by_keyboard(browser):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    browser.open("explore.html")

    def part(name):
        return browser.find_element("css selector", f"#explore [data-part='{name}']")

    def shown():
        """Return the class and the number of points of each path, and the class of each cross."""
        return browser.execute_script("""
        const drawn = document.querySelectorAll("[data-part=map] svg :is(polyline, .cross)");
        return [...drawn].map(
          e => [e.getAttribute("class"), e.getAttribute("points")?.split(" ").length ?? 0]);
        """)

    def rows():
        return [row.text.replace("\n", " ") for row in part("rows").find_elements("tag name", "tr")]

    # The function that shades the picture is the one whose values are recorded.
    differences = browser.execute_script("""
    const {values, runs, functions, optimizers} = document.getElementById("explore").paths;
    return functions.flatMap((f, i) => optimizers.flatMap((_, o) => runs(i, o).flatMap(run =>
      run.points.map((p, k) => p && run.losses[k] > 1
        ? Math.abs(values[f.name](...p) / run.losses[k] - 1) : 0))));
    """)
    assert len(differences) > 100_000 and max(differences) < 0.05  # positions are rounded
    assert shown() == [[f"curve optimizer-{o}", 201] for o in (0, 1, 4, 5)]
    part("rate").send_keys(Keys.ARROW_RIGHT)
    assert part("rate-value").text == "0.0025" and "momentum 0.0025 0.0025" in rows()
    part("rate").send_keys(Keys.END)
    crosses = [kind for kind, _ in shown() if kind.startswith("cross")]
    assert crosses == ["cross optimizer-0", "cross optimizer-1"]
    assert "diverged at step" in rows()[0] and "diverged" not in rows()[4]
    part("best").send_keys(Keys.SPACE)
    assert rows()[0].startswith("gradient descent 0.004 ") and not part("rate").is_enabled()
    part("step").send_keys(Keys.HOME)
    assert [points for _, points in shown()] == [1] * 4
    part("forward").send_keys(Keys.ENTER)
    assert [points for _, points in shown()] == [2] * 4
    part("play").send_keys(Keys.ENTER)
    assert part("play").text == "Pause"
    wait = "const done = arguments[0]; setTimeout(done, 300)"
    browser.execute_async_script(wait)
    part("play").send_keys(Keys.ENTER)
    assert part("play").text == "Play" and 3 < len(shown()) and shown()[0][1] > 3
    Select(part("function")).select_by_visible_text("A quadratic with noisy gradients")
    assert "needs exact gradients" in rows()[7]
    assert messages(browser) == []
