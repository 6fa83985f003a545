"""The names of `optax.microbatching`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.microbatching import AccumulationType as AccumulationType
from gdjax.microbatching import Accumulator as Accumulator
from gdjax.microbatching import micro_grad as micro_grad
from gdjax.microbatching import micro_vmap as micro_vmap
from gdjax.microbatching import microbatch as microbatch
from gdjax.microbatching import reshape_batch_axis as reshape_batch_axis

add_private_modules(__name__, "_microbatching")
