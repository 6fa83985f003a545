"""Compile a program as for users, where rounding decides and the flags of conftest.py matter."""

import os


def options_of_users():
    """Return the `compiler_options` for `jax.jit` that undo what conftest.py sets for speed."""
    changed = "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]
    return {"xla_cpu_use_fusion_emitters": True} if changed else None
