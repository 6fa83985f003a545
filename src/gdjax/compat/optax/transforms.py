"""The names of `optax.transforms`."""

from gdjax.compat.optax.accumulation import EmaState as EmaState
from gdjax.compat.optax.accumulation import MultiSteps as MultiSteps
from gdjax.compat.optax.accumulation import MultiStepsState as MultiStepsState
from gdjax.compat.optax.accumulation import ShouldSkipUpdateFunction as ShouldSkipUpdateFunction
from gdjax.compat.optax.accumulation import TraceState as TraceState
from gdjax.compat.optax.accumulation import ema as ema
from gdjax.compat.optax.accumulation import skip_large_updates as skip_large_updates
from gdjax.compat.optax.accumulation import skip_not_finite as skip_not_finite
from gdjax.compat.optax.accumulation import trace as trace
from gdjax.compat.optax.adding import AddNoiseState as AddNoiseState
from gdjax.compat.optax.adding import add_decayed_weights as add_decayed_weights
from gdjax.compat.optax.adding import add_noise as add_noise
from gdjax.compat.optax.base import NonNegativeParamsState as NonNegativeParamsState
from gdjax.compat.optax.clipping import adaptive_grad_clip as adaptive_grad_clip
from gdjax.compat.optax.clipping import clip as clip
from gdjax.compat.optax.clipping import clip_by_block_rms as clip_by_block_rms
from gdjax.compat.optax.clipping import clip_by_global_norm as clip_by_global_norm
from gdjax.compat.optax.clipping import per_example_global_norm_clip as per_example_global_norm_clip
from gdjax.compat.optax.clipping import per_example_layer_norm_clip as per_example_layer_norm_clip
from gdjax.compat.optax.clipping import unitwise_clip as unitwise_clip
from gdjax.compat.optax.clipping import unitwise_norm as unitwise_norm
from gdjax.compat.optax.combine import PartitionState as PartitionState
from gdjax.compat.optax.combine import chain as chain
from gdjax.compat.optax.combine import named_chain as named_chain
from gdjax.compat.optax.combine import partition as partition
from gdjax.compat.optax.conditionality import ApplyIfFiniteState as ApplyIfFiniteState
from gdjax.compat.optax.conditionality import ConditionallyMaskState as ConditionallyMaskState
from gdjax.compat.optax.conditionality import (
    ConditionallyTransformState as ConditionallyTransformState,
)
from gdjax.compat.optax.conditionality import ConditionFn as ConditionFn
from gdjax.compat.optax.conditionality import apply_if_finite as apply_if_finite
from gdjax.compat.optax.conditionality import conditionally_mask as conditionally_mask
from gdjax.compat.optax.conditionality import conditionally_transform as conditionally_transform
from gdjax.compat.optax.constraining import ZeroNansState as ZeroNansState
from gdjax.compat.optax.constraining import keep_params_nonnegative as keep_params_nonnegative
from gdjax.compat.optax.constraining import zero_nans as zero_nans
from gdjax.compat.optax.flatten import flatten as flatten
from gdjax.compat.optax.masking import MaskedNode as MaskedNode
from gdjax.compat.optax.masking import MaskedState as MaskedState
from gdjax.compat.optax.masking import freeze as freeze
from gdjax.compat.optax.masking import masked as masked
from gdjax.compat.optax.masking import selective_transform as selective_transform
from gdjax.compat.optax.monitoring import MonitorState as MonitorState
from gdjax.compat.optax.monitoring import SnapshotState as SnapshotState
from gdjax.compat.optax.monitoring import measure_with_ema as measure_with_ema
from gdjax.compat.optax.monitoring import monitor as monitor
from gdjax.compat.optax.monitoring import snapshot as snapshot
from gdjax.compat.optax.private import add_private_modules

add_private_modules(
    __name__,
    "_accumulation _adding _clipping _combining _conditionality _constraining _freezing _layouts"
    " _masking _monitoring",
)
