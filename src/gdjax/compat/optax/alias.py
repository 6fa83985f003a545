"""optax's optimizers, each the chain of transformations that it is there."""

from __future__ import annotations

from typing import Any

from gdjax.compat.optax.base import GradientTransformationExtraArgs, ScalarOrSchedule
from gdjax.compat.optax.combine import chain
from gdjax.compat.optax.transform import scale_by_adam, scale_by_learning_rate


def adam(
    learning_rate: ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """Adam; see `gdjax.adam`."""
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
