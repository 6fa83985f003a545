"""Optimizers for JAX in which every number is a leaf of the state.

An optimizer is a pair of pure functions, `init` and `update`; see `gdjax.Optimizer`.

The public names are listed in `__init__.pyi`, as type checkers read them. Each is imported when it
is first used, so that `import gdjax` costs next to nothing.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HOME = {
    alias.name: statement.module or ""
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text()).body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from gdjax.migrating import hint

        raise AttributeError(f"module 'gdjax' has no attribute {name!r}{hint(name)}")
    home = _HOME[name]
    if home == __name__:  # a room of its own, as gdjax.models
        return importlib.import_module(f"{home}.{name}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
