"""Optimizers for JAX in which every number is a leaf of the state.

An optimizer is a pair of pure functions, `init` and `update`; see `gdjax.Optimizer`.

The public names are listed in `__init__.pyi`, as type checkers read them. Each is imported when it
is first used, so that `import gdjax` costs next to nothing.
"""

from typing import Any

from gdjax.namespace import HOMES as _HOMES
from gdjax.namespace import load as _load

__version__ = "0.2.0"
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gdjax' has no attribute {name!r}{_pointer(name)}")
    value = globals()[name] = _load("gdjax", name)
    return value


def _pointer(name: str) -> str:
    """Return where a name of optax is that gdjax itself does not have, or nothing."""
    if name.startswith("_"):  # what Python and its tools look for
        return ""
    from gdjax.compat.optax.private import home_of

    home = home_of(name)
    return f"; optax's is {home}.{name}" if home else ""


def __dir__() -> list[str]:
    return sorted(__all__)
