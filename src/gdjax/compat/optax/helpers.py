"""Names that are private in optax, but which public code or optax's own tests import."""

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
