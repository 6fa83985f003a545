"""`jax.tree.map` for public functions, with errors that name their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from gdjax.core.types import PyTree


def map_named(
    call: str,
    function: Callable[..., Any],
    *,
    also: Sequence[str] = (),
    is_leaf: Callable[[Any], bool] | None = None,
    **trees: PyTree,
) -> PyTree:
    """Return `jax.tree.map(function, *trees)`; an error names the arguments of the caller.

    Args:
      call: the public function, for errors.
      function: a function of one leaf of each tree.
      also: further arguments of the public function that `function` uses.
      is_leaf: as for `jax.tree.map`.
      **trees: argument name -> tree.

    Raises:
      ValueError: if the trees differ in structure, or shapes do not fit.
      TypeError: if a leaf is of a kind that `function` cannot use.
    """
    try:
        return jax.tree.map(function, *trees.values(), is_leaf=is_leaf)
    except (TypeError, ValueError, OverflowError) as error:
        names = ", ".join(f"{name}=..." for name in (*trees, *also))
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{call}({names}): these do not fit together. {error}") from None
