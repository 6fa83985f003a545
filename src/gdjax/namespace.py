"""Where every public name lives, and packages that import each when it is first used."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def homes(package: str) -> dict[str, str]:
    """Return public name -> module for a package, read from its stub, as type checkers read it."""
    stub = pkgutil.get_data(package, "__init__.pyi")
    assert stub is not None, f"{package} was installed without its __init__.pyi"
    return {
        alias.name: statement.module or ""
        for statement in ast.parse(stub).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if alias.name != "*"
    }


HOMES = homes("gdjax")


def load(package: str, name: str, where: Mapping[str, str] = HOMES) -> Any:
    """Return what a public name of a package stands for.

    Args:
      package: the package.
      name: one of its public names.
      where: the package's names and their modules, as `homes` returns them.
    """
    if where[name] == package:  # a module of the package itself, as gdjax.models
        return importlib.import_module(f"{package}.{name}")
    return getattr(importlib.import_module(where[name]), name)


class Namespace(ModuleType):
    """A package whose public names are the functions of its files."""

    def __dir__(self) -> list[str]:
        return [k for k, home in HOMES.items() if home.startswith(f"{self.__name__}.")]

    def __getattr__(self, name: str) -> Any:
        if HOMES.get(name, "").startswith(f"{self.__name__}."):
            value = load("gdjax", name)
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
