"""Functions of trees by their old names, with `tree_` before those of `optax.tree`."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from gdjax.compat.optax.private import add_private_modules
from gdjax.compat.optax.tree import norm as tree_norm
from gdjax.tree import NamedTupleKey as NamedTupleKey
from gdjax.tree import add_scale as tree_add_scale
from gdjax.tree import scale as tree_scale

_DEPRECATED = {
    "tree_scalar_mul": ("tree_scale", tree_scale),
    "tree_add_scalar_mul": ("tree_add_scale", tree_add_scale),
    "tree_l1_norm": ("tree_norm(..., ord=1)", functools.partial(tree_norm, ord=1)),
    "tree_l2_norm": ("tree_norm", functools.partial(tree_norm, ord=2)),
    "tree_linf_norm": ('tree_norm(..., ord="inf")', functools.partial(tree_norm, ord="inf")),
}


def __getattr__(name: str) -> Any:
    if name not in _DEPRECATED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    instead, function = _DEPRECATED[name]
    message = f"optax.tree_utils.{name} is deprecated: use optax.tree_utils.{instead}."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return function


add_private_modules(__name__, "_casting _random _state_utils _tree_math")
