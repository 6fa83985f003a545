# ruff: noqa: F403, I001
"""gdjax under optax's names: `from gdjax.compat import optax`."""

from gdjax import *

# Names that only optax has
from gdjax.compat.optax.inject import inject_hyperparams as inject_hyperparams
from gdjax.compat.optax.multi_steps import MultiSteps as MultiSteps
from gdjax.compat.optax.multi_transform import multi_transform as multi_transform
from gdjax.compat.optax.stateful import StatefulSchedule as StatefulSchedule
from gdjax.compat.optax.stateful import WrappedSchedule as WrappedSchedule

# Types to annotate with
from gdjax.compat.optax.types import GradientTransformation as GradientTransformation
from gdjax.compat.optax.types import (
    GradientTransformationExtraArgs as GradientTransformationExtraArgs,
)
from gdjax.compat.optax.types import MaskOrFn as MaskOrFn
from gdjax.compat.optax.types import ScalarOrSchedule as ScalarOrSchedule
from gdjax.compat.optax.types import TransformInitFn as TransformInitFn
from gdjax.compat.optax.types import TransformUpdateExtraArgsFn as TransformUpdateExtraArgsFn
from gdjax.compat.optax.types import TransformUpdateFn as TransformUpdateFn
from gdjax.core.types import OptState as OptState
from gdjax.core.types import Params as Params
from gdjax.core.types import Updates as Updates

# Modules with more names here than in gdjax
from gdjax.compat.optax import schedules as schedules
from gdjax.compat.optax import transforms as transforms
