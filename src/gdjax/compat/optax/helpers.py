"""Names that are private in optax, but which public code or optax's own tests import."""

# ruff: noqa: I001

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.compat.optax.contrib.matrices import MuonDimensionNumbers

# --- line searches --------------------------------------------------------------------------------
from gdjax.compat.optax.linesearch import (
    FLAG_CURVATURE_COND_NOT_SATISFIED as FLAG_CURVATURE_COND_NOT_SATISFIED,
)
from gdjax.compat.optax.linesearch import FLAG_INTERVAL_NOT_FOUND as FLAG_INTERVAL_NOT_FOUND
from gdjax.compat.optax.linesearch import FLAG_INTERVAL_TOO_SMALL as FLAG_INTERVAL_TOO_SMALL
from gdjax.compat.optax.linesearch import FLAG_NO_STEPSIZE_FOUND as FLAG_NO_STEPSIZE_FOUND
from gdjax.compat.optax.linesearch import (
    FLAG_NOT_A_DESCENT_DIRECTION as FLAG_NOT_A_DESCENT_DIRECTION,
)
from gdjax.compat.optax.linesearch import BacktrackingLinesearchInfo as BacktrackingLinesearchInfo
from gdjax.compat.optax.linesearch import extract_fns_kwargs as _extract_fns_kwargs  # noqa: F401

# --- contrib --------------------------------------------------------------------------------------
from gdjax.compat.optax.contrib.adaptive import scale_by_sophia as scale_by_sophia
from gdjax.compat.optax.contrib.matrices import compute_muon_reshape as _compute_muon_reshape  # noqa: F401
from gdjax.compat.optax.contrib.matrices import (
    orthogonalize_via_newton_schulz as orthogonalize_via_newton_schulz,
)
from gdjax.compat.optax.contrib.matrices import STANDARD as _DEFAULT_NS_COEFFS  # noqa: F401
from gdjax.compat.optax.contrib.matrices import WeightDimNumOrFn as WeightDimNumOrFn
from gdjax.compat.optax.contrib.matrices import scale_by_shape as scale_by_shape
from gdjax.compat.optax.contrib.parameter_free import scale_by_dog as scale_by_dog
from gdjax.compat.optax.contrib.parameter_free import scale_by_dowg as scale_by_dowg
from gdjax.wrappers.complex_parts import (
    SplitRealAndImaginaryArrays as SplitRealAndImaginaryArrays,
)

# --- masks and trees ------------------------------------------------------------------------------
from gdjax.compat.optax.inject import WrappedScheduleState as WrappedScheduleState
from gdjax.compat.optax.masking import is_function as _mask_callable  # noqa: F401
from gdjax.core.hyper import Placeholder as _ParamsPlaceholder  # noqa: F401

# --- of `_src.transform`, `_src.numerics`, `_src.utils` -------------------------------------------
from gdjax.compat.optax.numerics import abs_sq as abs_sq
from gdjax.compat.optax.transform import (
    ScaleByDistanceOverGradientsState as ScaleByDistanceOverGradientsState,
)
from gdjax.compat.optax.transform import (
    ScaleByOptimisticGradientState as ScaleByOptimisticGradientState,
)
from gdjax.compat.optax.transform import ScaleByRmsWithCountState as ScaleByRmsWithCountState
from gdjax.compat.optax.transform import (
    ScaleByRStdDevWithCountState as ScaleByRStdDevWithCountState,
)
from gdjax.compat.optax.transform import precondition_by_lbfgs as _precondition_by_lbfgs  # noqa: F401
from gdjax.compat.optax.utils import MultiNormalDiagFromLogScale as MultiNormalDiagFromLogScale
from gdjax.compat.optax.utils import canonicalize_dtype as canonicalize_dtype
from gdjax.compat.optax.utils import canonicalize_key as canonicalize_key
from gdjax.compat.optax.utils import check_rank as check_rank
from gdjax.compat.optax.utils import check_shapes_equal as check_shapes_equal
from gdjax.compat.optax.utils import check_subdtype as check_subdtype
from gdjax.compat.optax.utils import set_diags as set_diags
from gdjax.compat.optax.utils import tile_second_to_last_dim as tile_second_to_last_dim
from gdjax.compat.optax.utils import x64_precision as x64_precision


# --- losses ---------------------------------------------------------------------------------------
def weighted_logsoftmax(x: ArrayLike, weights: ArrayLike) -> Array:
    """Return weights * log_softmax(x) over the last axis, which is 0 where a weight is 0."""
    log_p = jax.nn.log_softmax(x, axis=-1)
    weights = jnp.asarray(weights)
    return jnp.where(weights == 0, 0, weights * jnp.where(weights == 0, 0, log_p))


# --- `contrib._muon` ------------------------------------------------------------------------------
def _is_weight_dim_nums(x: object) -> bool:
    return isinstance(x, MuonDimensionNumbers)


def _base_ns_iterator(i: ArrayLike, x: Array, coeffs: ArrayLike) -> Array:
    """Return a x + (b A + c A**2) x with A = x x', the i-th step of Newton-Schulz."""
    a, b, c = jnp.asarray(coeffs)
    gram = x @ x.T
    return a * x + (b * gram + c * gram @ gram) @ x
