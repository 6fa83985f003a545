"""Functions of trees by their old names, with `tree_` before those of `optax.tree`."""

from gdjax import tree as _tree
from gdjax.compat.optax.private import add_private_modules
from gdjax.tree import NamedTupleKey as NamedTupleKey

for _name in dir(_tree):
    _value = getattr(_tree, _name)
    if callable(_value) and not isinstance(_value, type):
        globals()[f"tree_{_name}"] = _value

add_private_modules(__name__, "_casting _random _state_utils _tree_math")
