"""Names that are private in optax, but which public code or optax's own tests import."""
