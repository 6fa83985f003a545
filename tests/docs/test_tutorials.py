"""Tutorials are pages and notebooks; here they are only read. `make docs` runs them."""

import ast
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("t*.py"))


def imported(tree):
    """Yield every module that a script imports, with what it takes from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_there_are_tutorials_in_an_order():
    numbers = [path.name[:4] for path in TUTORIALS]
    assert len(numbers) >= 7 and len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_has_a_title_and_uses_public_names_only(path):
    text = path.read_text()
    tree = ast.parse(text)
    title, line = ast.get_docstring(tree).splitlines()[:2]
    assert title and set(line) == {"="} and len(line) == len(title), "a title, underlined by ="
    attributes = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    used = [name for name in (*imported(tree), *attributes) if name.startswith("gdjax.")]
    inner = [name for name in used if name.startswith("gdjax.core") or "._" in name]
    assert not inner, "tutorials use what users may use"
    compares = "_from_" in path.stem  # pages that put two libraries side by side need no picture
    assert compares or ".show()" in text, "a picture"
