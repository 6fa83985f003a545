"""The names of `optax.transforms`: some of them are wrappers or part of the core in gdjax."""

from gdjax.compat.optax.multi_steps import MultiSteps as MultiSteps
from gdjax.core.chain import chain as chain
from gdjax.core.chain import named_chain as named_chain
from gdjax.optimizers.sgd import trace as trace
from gdjax.transforms.adaptive_clip import adaptive_grad_clip as adaptive_grad_clip
from gdjax.transforms.adaptive_clip import unitwise_clip as unitwise_clip
from gdjax.transforms.adaptive_clip import unitwise_norm as unitwise_norm
from gdjax.transforms.clip import clip as clip
from gdjax.transforms.clip import clip_by_block_rms as clip_by_block_rms
from gdjax.transforms.clip import clip_by_global_norm as clip_by_global_norm
from gdjax.transforms.constrain import keep_params_nonnegative as keep_params_nonnegative
from gdjax.transforms.constrain import zero_nans as zero_nans
from gdjax.transforms.decay import add_decayed_weights as add_decayed_weights
from gdjax.transforms.ema import ema as ema
from gdjax.transforms.measure import measure_with_ema as measure_with_ema
from gdjax.transforms.measure import snapshot as snapshot
from gdjax.transforms.noise import add_noise as add_noise
from gdjax.transforms.per_example import (
    per_example_global_norm_clip as per_example_global_norm_clip,
)
from gdjax.transforms.per_example import per_example_layer_norm_clip as per_example_layer_norm_clip
from gdjax.wrappers.conditional import conditionally_mask as conditionally_mask
from gdjax.wrappers.conditional import conditionally_transform as conditionally_transform
from gdjax.wrappers.finite import apply_if_finite as apply_if_finite
from gdjax.wrappers.flatten import flatten as flatten
from gdjax.wrappers.groups import partition as partition
from gdjax.wrappers.guard import skip_large_updates as skip_large_updates
from gdjax.wrappers.guard import skip_not_finite as skip_not_finite
from gdjax.wrappers.masked import freeze as freeze
from gdjax.wrappers.masked import masked as masked
from gdjax.wrappers.masked import selective_transform as selective_transform
from gdjax.wrappers.monitor import monitor as monitor
