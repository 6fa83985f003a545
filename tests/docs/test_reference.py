"""The reference of the site: every public name has its place, every optimizer its facts."""

import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.namespace import HOMES

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs" / "extensions"))

pytest.importorskip("contourpy")  # comes with Matplotlib

import factories  # noqa: E402
import paths  # noqa: E402
import reference  # noqa: E402

METHODS = factories.FACTORIES + factories.SOLVERS
RUN = {"rate": 0.1, "points": [[-1.2, 1.0], [0.0, 0.5]]}
FOUND = {
    name: {"bytes": [4, 8], "needs": ["params"], "paths": dict.fromkeys(paths.FUNCTIONS, RUN)}
    for name in METHODS
}


@pytest.fixture(scope="module")
def written():
    return dict(reference.pages(FOUND))


def test_every_public_name_has_one_place():
    placed = [name for names in reference.contents().values() for name in names]
    twice = {name for name in placed if placed.count(name) > 1}
    assert not twice
    public = {f"gdjax.{name}" for name in HOMES}
    for package in ("tree", "projections", "microbatching"):
        mine = [n for n in homes_of(package) if n not in HOMES]
        public |= {f"gdjax.{package}.{name}" for name in mine}
    assert public <= set(placed), f"without a place: {sorted(public - set(placed))}"


def homes_of(package):
    text = (ROOT / "src" / "gdjax" / package / "__init__.py").read_text()
    return re.findall(r"^from .* import \w+ as (\w+)$", text, re.MULTILINE)


def test_the_pages_document_the_names_that_are_placed_there(written):
    for page, names in reference.contents().items():
        text = written[page]
        for name in names:
            assert re.search(
                rf"^\.\. (?:auto\w+|py:module):: {re.escape(name)}$", text, re.MULTILINE
            ), name


def test_the_table_has_every_optimizer_of_the_namespace(written):
    table = written["optimizers/index"]
    rows = re.findall(r"^   \* - :doc:`(\w+)`$", table, re.MULTILINE)
    expected = {
        name
        for name, home in HOMES.items()
        if home.startswith("gdjax.optimizers.") and not name.startswith("scale_by_")
    } - {"trace", "ademamix_schedules", "preset", "GaLoreDimensionNumbers", "MuonDimensionNumbers"}
    assert set(rows) == expected
    assert len(rows) == len(expected)
    assert "\n     - 4 to 8\n     - ``params``\n     - `paper <https://" in table
    assert "\n     - **negative**. Its gains vanish" in table


def test_every_method_states_its_evidence(written):
    for name in METHODS:
        assert factories.evidence(getattr(gdjax, name)), name
    wrappers = [name for name, home in HOMES.items() if home.startswith("gdjax.wrappers.")]
    for name in wrappers:
        document = getattr(gdjax, name).__doc__
        assert "References:" not in document or factories.evidence(getattr(gdjax, name)), name
    assert "* - `cautious`\n     - **mixed**. " in written["wrappers"]
    assert "     - **theory**. It converges linearly" in written["solvers/index"]


def with_evidence(text):
    def method():
        pass

    method.__doc__ = f"Descend.\n\nEvidence: {text}\n\nArgs:\n  none."
    return method


def test_evidence_has_a_level_and_a_source():
    found = factories.evidence(with_evidence("mixed. It is\nslow (A 2024, arXiv\n2401.00001)."))
    assert found == ("mixed", "It is slow (A 2024, arXiv 2401.00001).")
    link = "`arXiv 2401.00001 <https://arxiv.org/abs/2401.00001>`__"
    assert factories.linked(found[1]) == f"It is slow (A 2024, {link})."
    with pytest.raises(ValueError, match="must be one of .* got 'good'"):
        factories.evidence(with_evidence("good. See https://example.com."))
    with pytest.raises(ValueError, match="has no source"):
        factories.evidence(with_evidence("independent. It is fast."))


@pytest.mark.parametrize(
    ("name", "sizes", "needs"),
    [
        ("adam", [8.0], []),
        ("sgd", [0.0, 4.0], []),
        ("polyak_sgd", [0.0], ["value"]),
        ("adahessian", [8.0], ["params", "obj_fn"]),
        ("dpsgd", [0.0], []),
    ],
)
def test_memory_and_inputs_are_measured(name, sizes, needs):
    assert factories.state_bytes(getattr(gdjax, name)) == sizes
    assert factories.needed(getattr(gdjax, name)) == needs


def test_the_growth_of_the_state_of_a_solver():
    assert factories.growth(gdjax.lbfgs(memory_size=3)) == [0, 4 * (2 * 3 + 3)]
    assert factories.growth(gdjax.bfgs()) == [4, 12]


def test_numbers_have_their_ranges():
    assert factories.numbers(gdjax.lion)["b2"] == (0.99, "in (0, 1)")
    assert factories.numbers(gdjax.adam)["b2"] == (0.999, "in [0, 1)")


def test_every_optimizer_names_its_paper_and_its_deviations_are_read():
    for name in factories.FACTORIES:
        assert factories.paper(getattr(gdjax, name)).startswith("https://")
        assert factories.good_for(getattr(gdjax, name))
        assert "Papers" in factories.notes(getattr(gdjax, name))
    notes = factories.notes(gdjax.adamw)
    assert list(notes) == ["Papers", "Paper → here", "Deviations"]
    assert notes["Paper → here"].startswith("m -> mu, v -> nu")


def test_every_method_has_a_picture():
    for name in METHODS:
        assert isinstance(paths.make(name, 0.1), gdjax.Optimizer)
    for names in (paths.OPTIONS, paths.REMARKS, paths.STARTS, paths.OWN_RATE):
        assert set(names) <= set(METHODS)


def test_the_path_has_the_rate_that_ends_lowest(monkeypatch):
    monkeypatch.setattr(paths, "NOISE", 0.0)
    monkeypatch.setattr(paths, "RATES", np.array([1e-3, 0.09, 10.0]))
    bowl = paths.paths("gradient_descent")["bowl"]
    assert bowl["rate"] == 0.09  # 2 / (1 + 20) is the best rate, 10 diverges
    assert np.allclose(bowl["points"][-1], paths.LOWEST["bowl"], atol=1e-3)
    assert np.allclose(bowl["points"][0], paths.START)


def test_the_functions_have_their_minima_where_the_pictures_say():
    for bowl, function in enumerate(paths.FUNCTIONS):
        lowest = jnp.array(paths.LOWEST[function])[:, None]
        assert paths.value_of(lowest, bool(bowl)) == 0


def test_a_picture_ends_where_a_run_diverges():
    points = [[0.0, 0.0], [1.0, 1.0], [math.nan, 1.0], [0.0, 0.0]]
    svg = ElementTree.fromstring(paths.picture("bowl", points, points, "A path"))
    lines = [x.get("points") for x in svg.iter("polyline") if x.get("class") == "path"]
    assert lines == ["170.0,170.0 270.0,70.0"]


def test_terms_link_to_names_that_exist():
    text = (ROOT / "docs" / "guides" / "terms.md").read_text()
    places = {name for names in reference.contents().values() for name in names}
    names = re.findall(r"{py:obj}`~([\w.]+)`", text)
    assert len(names) > 100
    assert not set(names) - places
    for word in ("lr", "L2", "freeze layers", "param_groups", "amsgrad", "8-bit", "EMA"):
        assert f"\n{word}\n" in text, word
