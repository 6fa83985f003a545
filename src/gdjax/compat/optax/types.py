"""optax's types, to annotate with.

One type serves both kinds of transformation, since every `update` of gdjax takes extra arguments,
and `chain` makes a foreign one accept them.
"""

from __future__ import annotations

from typing import TypeAlias

from gdjax.core.base import InitFn, Optimizer, UpdateFn
from gdjax.core.types import Mask, Scalar

GradientTransformation: TypeAlias = Optimizer
GradientTransformationExtraArgs: TypeAlias = Optimizer
TransformInitFn: TypeAlias = InitFn
TransformUpdateFn: TypeAlias = UpdateFn
TransformUpdateExtraArgsFn: TypeAlias = UpdateFn
ScalarOrSchedule: TypeAlias = Scalar
MaskOrFn: TypeAlias = Mask
