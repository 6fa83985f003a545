"""Where every public name lives, and packages that import each when it is first used."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Any


def _homes() -> dict[str, str]:
    """Return public name -> module, read from the stub, as type checkers read it."""
    stub = pkgutil.get_data("gdjax", "__init__.pyi")
    assert stub is not None, "gdjax was installed without its __init__.pyi"
    return {
        alias.name: statement.module or ""
        for statement in ast.parse(stub).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


HOMES = _homes()


def load(name: str) -> Any:
    """Return what a public name stands for."""
    home = HOMES[name]
    if home == "gdjax":  # a package of its own, as gdjax.models
        return importlib.import_module(f"gdjax.{name}")
    return getattr(importlib.import_module(home), name)


class Namespace(ModuleType):
    """A package whose public names are the functions of its files."""

    def __dir__(self) -> list[str]:
        return [k for k, home in HOMES.items() if home.startswith(f"{self.__name__}.")]

    def __getattr__(self, name: str) -> Any:
        if HOMES.get(name, "").startswith(f"{self.__name__}."):
            value = load(name)
            setattr(self, name, value)
            return value
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Python sets each file that is imported as an attribute of its package. Where the file has
        # the name of the function in it, as adam.py, the function goes first.
        if isinstance(value, ModuleType) and HOMES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


def make_namespace(package: str) -> None:
    """Make a package, by its `__name__`, a `Namespace`."""
    sys.modules[package].__class__ = Namespace
