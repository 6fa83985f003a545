"""Evaluate a function of a batch part by part, so that only one part is in memory at a time.

A batch of n rows in parts of m is n / m calls, one after the other in a `lax.fori_loop`. A part
takes every (n / m)-th row, not neighbours: so a batch that is sharded over devices along its rows
stays so, with each device at work in every part.
"""

from gdjax.microbatching.accumulators import AccumulationType as AccumulationType
from gdjax.microbatching.accumulators import Accumulator as Accumulator
from gdjax.microbatching.loop import microbatch as microbatch
from gdjax.microbatching.loop import reshape_batch_axis as reshape_batch_axis
from gdjax.microbatching.per_example import micro_grad as micro_grad
from gdjax.microbatching.per_example import micro_vmap as micro_vmap
