"""New parameters of updates, and slow copies of parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.compat.optax.base import Params, Updates
from gdjax.core import chain
from gdjax.core.numerics import is_inexact
from gdjax.targets import incremental_update as incremental_update
from gdjax.targets import periodic_update as periodic_update


def apply_updates(params: Params, updates: Updates) -> Params:
    """Add updates to parameters; see `gdjax.apply_updates`.

    Integers stay integers: a sum that is none is rounded towards 0. What is None stays None,
    whatever the update is.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> print(*optax.apply_updates([jnp.ones(2), 3], [jnp.array([0.5, -1.0]), 0.75]))
      [1.5 0. ] 3
    """
    try:
        return chain.apply_updates(params, updates)
    except (TypeError, ValueError):
        none = lambda x: x is None  # noqa: E731
        if not any(x is None or _is_integer(x) for x in jax.tree.leaves(params, is_leaf=none)):
            raise

    def of_its_kind(param: Any, update: Any) -> Any:
        if param is None:
            return None
        if update is None or not _is_integer(param) or not is_inexact(jnp.result_type(update)):
            return update
        return jnp.asarray(param + update).astype(jnp.result_type(param)) - param

    updates = jax.tree.map(of_its_kind, params, updates, is_leaf=none)
    return chain.apply_updates(params, updates)


def _is_integer(x: Any) -> bool:
    return isinstance(x, int) or jnp.issubdtype(getattr(x, "dtype", float), jnp.integer)
