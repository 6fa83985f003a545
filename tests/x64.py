"""Turn float64 on for a block of code."""

import jax


def enable_x64():
    """Return the context manager, under its new or its old name."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64 as old

    return old()
