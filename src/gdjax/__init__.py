"""Optimizers for JAX in which every number is a leaf of the state.

An optimizer is a pair of pure functions, `init` and `update`; see `gdjax.Optimizer`.

The public names are listed in `__init__.pyi`, as type checkers read them. Each is imported when it
is first used, so that `import gdjax` costs next to nothing.
"""

from typing import Any

from gdjax.namespace import HOMES as _HOMES
from gdjax.namespace import load as _load

__version__ = "0.1.0"
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        hint = ""
        if not name.startswith("_"):
            from gdjax.migrating import hint as hint_of

            hint = hint_of(name)
        raise AttributeError(f"module 'gdjax' has no attribute {name!r}{hint}")
    value = globals()[name] = _load(name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
