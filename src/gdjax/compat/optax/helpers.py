"""Names that are private in optax, but which public code or optax's own tests import."""

# ruff: noqa: I001

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
from gdjax.compat.optax.contrib.matrices import scale_by_shape as scale_by_shape
from gdjax.compat.optax.contrib.parameter_free import scale_by_dog as scale_by_dog
from gdjax.compat.optax.contrib.parameter_free import scale_by_dowg as scale_by_dowg
from gdjax.wrappers.complex_parts import (
    SplitRealAndImaginaryArrays as SplitRealAndImaginaryArrays,
)

# --- masks ----------------------------------------------------------------------------------------
from gdjax.compat.optax.masking import is_function as _mask_callable  # noqa: F401

# --- trees ----------------------------------------------------------------------------------------
from gdjax.core.hyper import Placeholder as _ParamsPlaceholder  # noqa: F401
