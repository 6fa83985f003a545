"""The optimizers of `optax.contrib`."""

from gdjax.compat.optax.private import add_private_modules

add_private_modules(
    __name__,
    "_acprop _ademamix _adopt _cocob _complex_valued _dadapt_adamw _dog _galore _madgrad _mechanic"
    " _momo _muon _privacy _prodigy _reduce_on_plateau _sam _schedule_free _sophia",
)
