"""What the documents show runs, in order, as a reader would type it; the table is up to date."""

import doctest
import re
import runpy
from pathlib import Path

import jax
import matplotlib
import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = ROOT / "docs" / "guides" / "other-libraries.md"  # tests/test_interop.py runs it, section by section


def blocks(text):
    """Yield every Python block, with empty lines before it so that its line numbers are right."""
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text[: match.start(1)].count("\n") + match[1]


@pytest.fixture
def same_precision():
    """Set float64 back to what it was; a document may turn it on."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.slow
@pytest.mark.usefixtures("same_precision")
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p != OTHERS], ids=lambda p: p.name)
def test_the_code_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace = {"__name__": "reader"}
    with jax.numpy_rank_promotion("allow"):  # as for readers
        for block in blocks(path.read_text()):
            exec(compile(block, str(path), "exec"), namespace)


def test_the_skeleton_of_an_optimizer_does_what_it_says():
    (block,) = blocks((ROOT / "CONTRIBUTING.md").read_text())
    namespace = {"__name__": "reader"}
    exec(block, namespace)
    (example,) = doctest.DocTestFinder().find(namespace["signum"], globs=namespace)
    result = doctest.DocTestRunner(verbose=False).run(example)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_to_files(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_table_is_up_to_date():
    make_table = runpy.run_path(str(ROOT / "docs" / "make_table.py"))
    text = (ROOT / "README.md").read_text()
    assert make_table["refreshed"](text) == text, "run `make table`"
