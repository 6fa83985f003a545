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
from gdjax.optimizers.adagrad import adagrad as adagrad
from gdjax.optimizers.adagrad import scale_by_rss as scale_by_rss
from gdjax.optimizers.adam import adam as adam
from gdjax.optimizers.adam import adamw as adamw
from gdjax.optimizers.adam import scale_by_adam as scale_by_adam
from gdjax.optimizers.adamax import adamax as adamax
from gdjax.optimizers.adamax import adamaxw as adamaxw
from gdjax.optimizers.adamax import scale_by_adamax as scale_by_adamax
from gdjax.optimizers.amsgrad import amsgrad as amsgrad
from gdjax.optimizers.amsgrad import scale_by_amsgrad as scale_by_amsgrad
from gdjax.optimizers.lion import lion as lion
from gdjax.optimizers.lion import scale_by_lion as scale_by_lion
from gdjax.optimizers.nadam import nadam as nadam
from gdjax.optimizers.nadam import nadamw as nadamw
from gdjax.optimizers.nadam import scale_by_nadam as scale_by_nadam
from gdjax.optimizers.rmsprop import rmsprop as rmsprop
from gdjax.optimizers.rmsprop import scale_by_rms as scale_by_rms
from gdjax.optimizers.rmsprop import scale_by_stddev as scale_by_stddev
from gdjax.optimizers.sgd import gradient_descent as gradient_descent
from gdjax.optimizers.sgd import sgd as sgd

# Transforms
from gdjax.transforms.clip import clip as clip
from gdjax.transforms.clip import clip_by_global_norm as clip_by_global_norm
from gdjax.transforms.scale import scale as scale
from gdjax.transforms.scale import scale_by_learning_rate as scale_by_learning_rate
from gdjax.transforms.scale import scale_by_schedule as scale_by_schedule
from gdjax.transforms.trace import trace as trace

__version__ = "0.1.0"
