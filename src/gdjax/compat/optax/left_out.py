"""Names of optax that gdjax leaves out, and what to use: for the message of an AttributeError."""

from __future__ import annotations

_TREE = "an alias; use optax.tree."
_ONE_STATE = "the state of every optimizer is optax.State; find its parts with optax.tree.get"

LEFT_OUT = {
    "ApplyEvery": _ONE_STATE,
    "ConditionFn": "any function of the step will do",
    "LookaheadParams": "lookahead takes the plain parameters; read with optax.eval_params",
    "MaskedNode": "what is masked out is None, which is not a leaf",
    "MultiTransformState": _ONE_STATE,
    "ShouldSkipUpdateFunction": "any function of that signature will do",
    "ZoomLinesearchInfo": _ONE_STATE,
    "bias_correction": _TREE + "bias_correction",
    "contrib": "there is no contrib: its names are at the top level, as optax.prodigy",
    "convex_kl_divergence": "an alias; use optax.generalized_kl_divergence",
    "experimental": "nothing in it is public in optax",
    "global_norm": "deprecated by optax; use optax.tree.norm",
    "inject_stateful_hyperparams": "deprecated by optax; use optax.inject_hyperparams",
    "monte_carlo": "removed from optax",
    "safe_int32_increment": "an alias; use optax.safe_increment",
    "tree_map_params": _TREE + "map_params",
    "tree_utils": "deprecated by optax; use optax.tree, without the prefix tree_",
    "update_infinity_moment": _TREE + "update_infinity_moment",
    "update_moment": _TREE + "update_moment",
    "update_moment_per_elem_norm": _TREE + "update_moment_per_elem_norm",
}


def hint(name: str) -> str:
    """Return what to say about a name that gdjax does not have, or nothing.

    Example:
      >>> hint("global_norm")
      '; deprecated by optax; use optax.tree.norm'
    """
    remedy = _ONE_STATE if name.endswith("State") else LEFT_OUT.get(name)
    return f"; {remedy}" if remedy else ""
