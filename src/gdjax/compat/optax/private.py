"""Modules whose names are an implementation detail of optax, but which public code imports.

Each of them has every public name of optax, wherever that is, and those private names that are in
`gdjax.compat.optax.helpers`: where optax keeps a name has changed from version to version.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Any

SEARCHED = (
    "", "contrib", "tree_utils", "losses", "schedules", "transforms", "projections",
    "perturbations", "assignment", "second_order", "microbatching", "experimental",
    "aggregating", "base", "helpers",
)  # fmt: skip
ROOT = "gdjax.compat.optax"


def home_of(name: str) -> str | None:
    """Return the module of a public name, as `gdjax.compat.optax.contrib`, without importing it.

    Args:
      name: a name, as it is in its module.

    Returns:
      The first module that has it, or None.
    """
    stub = {"": "__init__.pyi", "contrib": "contrib/__init__.py"}
    for part in SEARCHED[: SEARCHED.index("base")]:
        source = pkgutil.get_data(ROOT, stub.get(part, f"{part}.py")) or b""
        if name in public_names(source):
            return f"{ROOT}.{part}".rstrip(".")
    return None


def public_names(source: str | bytes) -> set[str]:
    """Return what a module defines, and what it imports for others, as `from m import a as a`."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            names |= {a.asname for a in node.names if a.asname is not None}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


class PrivateModule(ModuleType):
    """A module that has the names of all others."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for part in SEARCHED:
            module = importlib.import_module(f"{ROOT}.{part}".rstrip("."))
            if hasattr(module, name):
                value = getattr(module, name)
                setattr(self, name, value)
                return value
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def add_private_modules(package: str, names: str) -> None:
    """Let `package` have private modules, as attributes and to import from.

    Args:
      package: the name of a module of `gdjax.compat.optax`.
      names: those of the modules, with spaces between.
    """
    parent = sys.modules[package]
    vars(parent).setdefault("__path__", [])  # a package, maybe without files
    for name in names.split():
        module = PrivateModule(f"{package}.{name}")
        sys.modules[module.__name__] = module
        setattr(parent, name, module)
