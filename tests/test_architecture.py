"""The promises of docs/design.md about packages, names and words, checked on the source itself."""

import ast
import functools
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import typing
import warnings
import zipfile
from pathlib import Path
from typing import Any

import optax
import pytest

import gdjax
from gdjax.compat import optax as compat
from gdjax.namespace import HOMES

TOP = Path(__file__).parent.parent
SRC = TOP / "src"
DESIGN = (TOP / "docs" / "design.md").read_text()
FILES = sorted((SRC / "gdjax").rglob("*.py"))
NAMES = [p.relative_to(SRC).as_posix() for p in FILES]

_spec = importlib.util.spec_from_file_location("structure", TOP / "docs" / "structure.py")
assert _spec is not None and _spec.loader is not None
structure = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(structure)


# --- packages ---


def layers() -> list[list[str]]:
    listed = DESIGN.split("<!-- layers -->")[1].split("<!-- /layers -->")[0]
    return [re.findall(r"`(\w+)`", line) for line in listed.strip().splitlines()]


def test_the_packages_have_no_cycle():
    edges = structure.imports(SRC)
    for cycle in structure.cycles(edges):
        inside = [edges[a, b] for a in cycle for b in cycle if (a, b) in edges]
        pytest.fail(f"{cycle} import each other:\n" + "\n".join(sum(inside, [])))


def test_a_package_imports_only_earlier_layers():
    rank = {name: i for i, layer in enumerate(layers()) for name in layer}
    packages = {structure.package(SRC, p) for p in FILES} - {"__init__"}
    assert packages == set(rank), "docs/design.md lists other packages than src/gdjax has"
    wrong = [
        statement
        for (here, there), statements in structure.imports(SRC).items()
        if here != "__init__" and rank[here] < rank[there]
        for statement in statements
    ]
    assert not wrong, "a later layer is imported:\n" + "\n".join(wrong)


def test_cycles_are_found_through_a_third_package():
    assert structure.cycles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]
    assert structure.cycles([("a", "b"), ("b", "c"), ("a", "c")]) == []


def test_imports_are_seen_inside_of_functions_and_apart_for_types(tmp_path):
    for name, source in {
        "a/one.py": "def f():\n    from gdjax.b import two\n    from ..c import three\n",
        "b/two.py": "if TYPE_CHECKING:\n    import gdjax.a.one\n",
        "c/three.py": "from gdjax import b\n",
    }.items():
        path = tmp_path / "gdjax" / name
        path.parent.mkdir(parents=True)
        path.write_text(source)
    assert set(structure.imports(tmp_path)) == {("a", "b"), ("a", "c"), ("c", "b")}
    assert set(structure.imports(tmp_path, types=True)) == {("b", "a")}


# --- private names of JAX ---

PRIVATE_MODULES = ("jax._src", "jaxlib", "jax.interpreters")
PRIVATE_ATTRIBUTES = ("_src", "__wrapped__", "runtime_executable")


def private_names(source: str) -> list[str]:
    """Return what a source takes from JAX, or from lru_cache, that is not documented."""
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            modules = [ast.unparse(node)]
            if node.attr in PRIVATE_ATTRIBUTES:
                found.append(f"{node.lineno}: .{node.attr}")
        for name in modules:
            if any(f"{name}.".startswith(f"{module}.") for module in PRIVATE_MODULES):
                found.append(f"{node.lineno}: {name}")  # pyright: ignore[reportAttributeAccessIssue]
    return found


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_private_names_of_jax(path):
    assert private_names(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from jax._src import core",
        "import jax._src.core",
        "from jax import _src",
        "import jaxlib",
        "from jax.interpreters import partial_eval",
        "from jax.interpreters.partial_eval import DynamicJaxprTracer",
        "import jax\njax.interpreters.mlir",
        "f.__wrapped__()",
        "compiled.runtime_executable()",
    ],
)
def test_private_names_are_seen(source):
    assert private_names(source)
    assert not private_names("import jax.core, jax.extend\njax.core.Tracer, jax.extend.core")


# --- one vocabulary ---


def vocabulary() -> dict[str, str]:
    """Return spelling that is not used -> the one that is, from the table in docs/design.md."""
    section = DESIGN.split("### Vocabulary")[1].split("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {bad: row[0].strip() for row in rows for bad in re.findall(r"`(\w+)`", row[2])}


# Names that stand for something else in one function -> the reason.
OTHER_MEANING: dict[tuple[str, str], str] = {}


def of_optax(name: str):
    """Return optax's thing of this name, wherever it is, or None."""
    places = (optax, optax.contrib, optax.tree, optax.losses, optax.projections, optax.schedules)
    places += (optax.perturbations, optax.transforms, optax.second_order, optax.assignment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # optax has moved some names
        return next((getattr(place, name) for place in places if hasattr(place, name)), None)


def parameters(thing) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return {}


@functools.cache
def functions() -> dict[str, object]:
    found = {name: getattr(gdjax, name) for name, home in HOMES.items() if home != "gdjax"}
    return {k: v for k, v in found.items() if callable(v)}


def test_arguments_have_the_names_of_the_vocabulary():
    banned = vocabulary()
    assert "inner" in banned and "betas" in banned and "optimizer" not in banned
    wrong = [
        f"{name}({argument}=...): call it {banned[argument]}"
        for name, function in functions().items()
        for argument in parameters(function)
        if argument in banned
        and argument not in parameters(of_optax(name))
        and (name, argument) not in OTHER_MEANING
    ]
    assert not wrong, "\n".join(wrong)


def test_nesterov_is_given_by_name():
    for name, function in functions().items():
        mine = parameters(function).get("nesterov")
        theirs = parameters(of_optax(name)).get("nesterov")
        if mine is not None and (theirs is None or theirs.kind is theirs.KEYWORD_ONLY):
            assert mine.kind is mine.KEYWORD_ONLY, f"{name}(nesterov=...) is positional"


# --- annotations ---


def test_public_functions_are_annotated():
    bare = []
    for name, function in functions().items():
        if not inspect.isfunction(function):
            continue
        bare += [
            f"{name}({p.name})"
            for p in parameters(function).values()
            if p.annotation is p.empty and p.name != "self"
        ]
        if inspect.signature(function).return_annotation is inspect.Signature.empty:
            bare.append(f"{name} -> ?")
    assert not bare, "\n".join(bare)


def test_annotations_can_be_evaluated():
    """Tools that build configs from signatures do so."""
    packages = {"gdjax": gdjax, "optax": compat, "optax.contrib": compat.contrib}
    for package, module in packages.items():
        for name in dir(module):
            function = getattr(module, name)
            if inspect.isfunction(function) and name != "search":  # it names a class of Optuna
                assert typing.get_type_hints(function) is not None, f"{package}.{name}"


# What may be anything: axes of matplotlib, a default to return, data of a user's function.
ANYTHING = {"ax", "default", "hyperparams", "inputs", "targets"}


def test_public_arguments_say_what_they_may_be():
    vague = [
        f"{name}({p.name})"
        for name, function in functions().items()
        if inspect.isfunction(function)
        for p in parameters(function).values()
        if p.annotation in ("Any", Any)
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in ANYTHING
    ]
    assert not vague, "\n".join(vague)


# --- imports ---

ZIPPED = """
import gdjax, jax.numpy as jnp
assert ".zip" in gdjax.__file__, gdjax.__file__
init, update = gdjax.adam(0.1)
updates, _ = update(jnp.ones(2), init(jnp.ones(2)))
print(round(float(updates[0]), 3))
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_zip_file_of_the_package_works(tmp_path):
    with zipfile.ZipFile(tmp_path / "gdjax.zip", "w") as archive:
        for path in (*FILES, *(SRC / "gdjax").rglob("*.pyi")):
            archive.write(path, path.relative_to(SRC))
    assert run(ZIPPED, PYTHONPATH=str(tmp_path / "gdjax.zip")) == "-0.1"


def test_dir_lists_public_names():
    assert set(dir(gdjax)) == {*HOMES, "__version__"}
    assert {"adam", "muon", "sgd"} <= set(dir(gdjax.optimizers))
    for package in (gdjax.optimizers, gdjax.wrappers, gdjax.solvers):
        assert all(not name.startswith("_") for name in dir(package))
        assert all(callable(getattr(package, name)) for name in dir(package))


def test_a_file_does_not_hide_the_function_of_its_name():
    code = "import gdjax.optimizers.adam, gdjax; print(gdjax.optimizers.adam is gdjax.adam)"
    assert run(code, PYTHONPATH=str(SRC)) == "True"


# --- words ---

# Only words and phrases that are never right here: "structure" of a tree, a saddle "point" are.
WORDS = re.compile(
    r"\b(rooms?|herds?|of late|for good|besides|in force|goes on|led along|likeness|foretold"
    r"|for ever|lets? all else wait|of equal rights)\b",
    re.IGNORECASE,
)
TEXTS = [*FILES, *sorted((TOP / "docs").rglob("*.md")), TOP / "README.md"]


@pytest.mark.parametrize("path", TEXTS, ids=[p.relative_to(TOP).as_posix() for p in TEXTS])
def test_plain_words(path):
    found = [
        f"{path.name}:{i}: {match.group()}"
        for i, line in enumerate(path.read_text().splitlines(), 1)
        for match in WORDS.finditer(line)
    ]
    assert not found, "\n".join(found)
