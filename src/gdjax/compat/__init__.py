"""The names and habits of other libraries, for code that was written for them."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_OURS = "gdjax.compat.optax"


class _Distribution(importlib.metadata.Distribution):
    """Says which version of optax it is, to packages that ask `importlib.metadata`."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        version = importlib.import_module(_OURS).__version__
        return f"Metadata-Version: 2.1\nName: optax\nVersion: {version}\n"

    def locate_file(self, path: Any) -> Path:
        return Path(__file__).parent / path


class _Loader(importlib.abc.Loader):
    """Gives the module of `gdjax.compat.optax` for a module of `optax`."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return importlib.import_module(_OURS + spec.name.removeprefix("optax"))

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has been imported, under its own name."""


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `optax` and its modules, also the private ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "optax" and not fullname.startswith("optax."):
            return None
        return importlib.machinery.ModuleSpec(fullname, _Loader(), is_package=True)

    def find_distributions(self, context: Any = None) -> Iterable[importlib.metadata.Distribution]:
        return [_Distribution()] if getattr(context, "name", None) == "optax" else []


def install() -> None:
    """Let `import optax` give `gdjax.compat.optax` from here on, in this process.

    Packages that were written for optax then run on gdjax, whether or not optax is installed. Call
    it before the first of them is imported. Modules below optax work as well, also private ones:
    `import optax.contrib`, `from optax._src import base`. Calling it twice does nothing more.

    Raises:
      RuntimeError: if something has imported the real optax already: it would still use that one.

    Example:
      >>> import gdjax.compat, sys
      >>> gdjax.compat.install()  # doctest: +SKIP
      >>> import optax  # doctest: +SKIP
      >>> optax  # doctest: +SKIP
      <module 'gdjax.compat.optax' ...>
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    loaded: Any = sys.modules.get("optax")
    if loaded is not None:
        raise RuntimeError(
            f"gdjax.compat.install: optax has been imported already, from {loaded.__file__}. Call "
            "install() at the start of the program, before packages that import optax."
        )
    sys.meta_path.insert(0, _Finder())
    importlib.import_module("optax")
