"""What the documents show runs, in order, as a reader would type it; their links lead somewhere."""

import doctest
import re
from pathlib import Path

import jax
import matplotlib
import pytest

import gdjax

ROOT = Path(__file__).parent.parent
WRITTEN = [
    p for p in sorted((ROOT / "docs").rglob("*.md")) if not {"build", "generated"} & {*p.parts}
]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *WRITTEN]
SITE = "https://gdjax.readthedocs.io/en/latest/"
FILES = (
    "https://github.com/gdjax/gdjax/blob/main/",
    "https://raw.githubusercontent.com/gdjax/gdjax/main/",
)
OTHERS = (
    ROOT / "docs" / "guides" / "other-libraries.md"
)  # tests/test_interop.py runs it, section by section


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


def source(page):
    """Return the file that a page of the site is made from."""
    name = page.removesuffix(".html")
    name = name.replace("generated/tutorials/", "tutorials/").replace(
        "generated/examples/", "../examples/"
    )
    if name.startswith("generated/reference/"):
        return ROOT / "docs" / "extensions" / "reference.py"
    found = [ROOT / "docs" / f"{name}{suffix}" for suffix in (".md", ".rst", ".py")]
    return next((path for path in found if path.exists()), found[0])


def test_the_links_of_the_readme_lead_to_files_of_the_repository():
    targets = re.findall(r"\]\((https://[^)#]+)", (ROOT / "README.md").read_text())
    ours = [t for t in targets if "gdjax" in t and t != SITE]
    assert len(ours) > 10
    for target in ours:
        if target.startswith(SITE):
            path = source(target.removeprefix(SITE))
        else:
            (root,) = (root for root in FILES if target.startswith(root))
            path = ROOT / target.removeprefix(root)
        assert path.exists(), f"README.md links to {target}"


def test_the_readme_is_short_and_has_no_links_that_work_only_in_the_repository():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 250
    assert not re.findall(r"\]\((?!https://|#)", text)


def test_the_citation_has_the_version_of_the_package():
    assert f"\nversion: {gdjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
