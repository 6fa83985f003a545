"""Names of optax that gdjax leaves out, and what to use: for the message of an AttributeError."""

from __future__ import annotations

_TREE = "an alias; use gdjax.tree."
_FOLDED = "the state of every optimizer is gdjax.State; find its parts with gdjax.tree.get"

LEFT_OUT = {
    "ApplyEvery": _FOLDED,
    "ConditionFn": "any function of the step will do",
    "LookaheadParams": "lookahead takes the plain parameters; read with gdjax.eval_params",
    "MaskedNode": "what is masked out is None, which is no leaf",
    "MultiTransformState": _FOLDED,
    "ShouldSkipUpdateFunction": "any function of that signature will do",
    "ZoomLinesearchInfo": _FOLDED,
    "bias_correction": _TREE + "bias_correction",
    "contrib": "there is no contrib: its names are those of gdjax itself, as gdjax.prodigy",
    "convex_kl_divergence": "an alias; use gdjax.generalized_kl_divergence",
    "experimental": "nothing in it is public in optax",
    "global_norm": "deprecated by optax; use gdjax.tree.norm",
    "inject_stateful_hyperparams": "deprecated by optax; use gdjax.inject_hyperparams",
    "monte_carlo": "removed from optax",
    "safe_int32_increment": "an alias; use gdjax.safe_increment",
    "tree_map_params": _TREE + "map_params",
    "tree_utils": "deprecated by optax; use gdjax.tree, without the prefix tree_",
    "update_infinity_moment": _TREE + "update_infinity_moment",
    "update_moment": _TREE + "update_moment",
    "update_moment_per_elem_norm": _TREE + "update_moment_per_elem_norm",
}


def hint(name: str) -> str:
    """Return what to say of a name that gdjax does not have, or nothing.

    Example:
      >>> hint("global_norm")
      '; deprecated by optax; use gdjax.tree.norm'
    """
    remedy = _FOLDED if name.endswith("State") else LEFT_OUT.get(name)
    return f"; {remedy}" if remedy else ""
