"""The names of `optax.transforms`."""

from gdjax.compat.optax.private import add_private_modules

add_private_modules(
    __name__,
    "_accumulation _adding _clipping _combining _conditionality _constraining _freezing _layouts"
    " _masking _monitoring",
)
