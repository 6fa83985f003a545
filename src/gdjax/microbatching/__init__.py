"""Evaluate a function of a batch in microbatches, of which only one is in memory at a time.

A batch of n rows in microbatches of m rows takes n / m calls, one after the other in a
`lax.fori_loop`. A microbatch consists of every (n / m)-th row, not of neighbouring rows. So a batch
that is sharded over devices along its rows keeps its sharding, and every device works on every
microbatch.
"""

from gdjax.microbatching.accumulators import AccumulationType as AccumulationType
from gdjax.microbatching.accumulators import Accumulator as Accumulator
from gdjax.microbatching.loop import microbatch as microbatch
from gdjax.microbatching.loop import reshape_batch_axis as reshape_batch_axis
from gdjax.microbatching.per_example import micro_grad as micro_grad
from gdjax.microbatching.per_example import micro_vmap as micro_vmap
