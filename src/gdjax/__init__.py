"""Optimizers for JAX in which every number is a leaf of the state.

An optimizer is a pair of pure functions, `init` and `update`; see `gdjax.Optimizer`.
"""

# The contract
from gdjax.core.base import Optimizer as Optimizer
from gdjax.core.base import State as State
from gdjax.core.chain import apply_updates as apply_updates
from gdjax.core.chain import chain as chain
from gdjax.core.chain import identity as identity
from gdjax.core.chain import named_chain as named_chain
from gdjax.core.chain import with_extra_args_support as with_extra_args_support
from gdjax.core.hyper import Schedule as Schedule
from gdjax.core.hyper import by_path as by_path
from gdjax.core.hyper import hyperparams as hyperparams
from gdjax.core.hyper import schedule as schedule
from gdjax.core.hyper import with_hyperparams as with_hyperparams
from gdjax.core.lift import descend as descend
from gdjax.core.lift import leafwise as leafwise
from gdjax.core.lift import treewise as treewise

# Optimizers
from gdjax.optimizers.adam import adam as adam
from gdjax.optimizers.adam import adamw as adamw
from gdjax.optimizers.adam import scale_by_adam as scale_by_adam
from gdjax.optimizers.sgd import gradient_descent as gradient_descent
from gdjax.optimizers.sgd import sgd as sgd

# Transforms
from gdjax.transforms.clip import clip as clip
from gdjax.transforms.clip import clip_by_global_norm as clip_by_global_norm
from gdjax.transforms.scale import scale as scale
from gdjax.transforms.scale import scale_by_learning_rate as scale_by_learning_rate
from gdjax.transforms.scale import scale_by_schedule as scale_by_schedule

__version__ = "0.1.0"
