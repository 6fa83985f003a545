"""Names that are private in optax, but which public code or optax's own tests import."""

# --- masks ----------------------------------------------------------------------------------------

from gdjax.compat.optax.masking import is_function as _mask_callable  # noqa: F401
