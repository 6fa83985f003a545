"""Names that are private in optax, but which public code or optax's own tests import."""

# --- masks ----------------------------------------------------------------------------------------

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
from gdjax.compat.optax.masking import is_function as _mask_callable  # noqa: F401
