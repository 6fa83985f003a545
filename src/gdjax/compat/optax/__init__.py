"""gdjax under optax's names: `from gdjax.compat import optax`.

The names that only optax has are defined in this package and listed in `__init__.pyi`. All other
names are those of gdjax. Each is imported when it is first used.
"""

from typing import Any

from gdjax.namespace import HOMES as _HOMES
from gdjax.namespace import homes as _homes
from gdjax.namespace import load as _load

_OWN = _homes(__name__)


def __getattr__(name: str) -> Any:
    if name in _OWN:
        value = _load(__name__, name, _OWN)
    elif name in _HOMES:
        value = _load("gdjax", name)
    else:
        from gdjax.compat.optax.left_out import hint

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint(name)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_OWN, *_HOMES})
