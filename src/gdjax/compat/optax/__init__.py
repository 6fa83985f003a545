"""optax's names on gdjax: `from gdjax.compat import optax`.

The names are listed in `__init__.pyi`, and each is imported when it is first used. `_src` and other
private paths that public code imports are in `private.py`.
"""

import sys as _sys
from types import ModuleType as _ModuleType
from typing import Any

from gdjax.namespace import HOMES as _OF_GDJAX
from gdjax.namespace import homes as _homes
from gdjax.namespace import load as _load

__version__ = "0.2.8"  # of the optax whose names and habits these are

_NAMES = _homes(__name__)
__all__ = sorted(name for name in _NAMES if not name.startswith("_"))


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_hint(name)}")
    value = globals()[name] = _load(__name__, name, _NAMES)
    return value


def _hint(name: str) -> str:
    return f"; optax has no such name. It is gdjax.{name}" if name in _OF_GDJAX else ""


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(_ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Python sets each file that is imported as an attribute of its package. Where the file has
        # the name of the function in it, as lookahead.py, the function takes precedence.
        if isinstance(value, _ModuleType) and _NAMES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
