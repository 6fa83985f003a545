"""Gradients in, gradients out.

As a namespace this room has the names of `optax.transforms`, also those that live with the wrappers
or in core: `gdjax.transforms.chain` is `gdjax.chain`.
"""

from typing import Any

from gdjax.transforms.adaptive_clip import adaptive_grad_clip as adaptive_grad_clip
from gdjax.transforms.adaptive_clip import unitwise_clip as unitwise_clip
from gdjax.transforms.adaptive_clip import unitwise_norm as unitwise_norm
from gdjax.transforms.apply_every import apply_every as apply_every
from gdjax.transforms.centralize import centralize as centralize
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
from gdjax.transforms.normalize import normalize_by_update_norm as normalize_by_update_norm
from gdjax.transforms.per_example import (
    per_example_global_norm_clip as per_example_global_norm_clip,
)
from gdjax.transforms.per_example import per_example_layer_norm_clip as per_example_layer_norm_clip
from gdjax.transforms.scale import scale as scale
from gdjax.transforms.scale import scale_by_learning_rate as scale_by_learning_rate
from gdjax.transforms.scale import scale_by_schedule as scale_by_schedule
from gdjax.transforms.stateless import set_to_zero as set_to_zero
from gdjax.transforms.stateless import stateless as stateless
from gdjax.transforms.stateless import stateless_with_tree_map as stateless_with_tree_map


def __getattr__(name: str) -> Any:
    import gdjax
    from gdjax.namespace import HOMES

    home = HOMES.get(name, "gdjax.")
    if home.startswith(
        ("gdjax.transforms.", "gdjax.wrappers.", "gdjax.core.", "gdjax.optimizers.sgd")
    ):
        return getattr(gdjax, name)
    raise AttributeError(f"module 'gdjax.transforms' has no attribute {name!r}")
