"""How sphinx-gallery runs the tutorials and examples."""

import os
from pathlib import Path

import jax


def arguments(gallery, script):
    """Return the command line of a script: examples are short if the whole build is."""
    example = Path(script["src_file"]).parent.name == "examples"
    return ["--quick"] if example and os.environ.get("DOCS") == "quick" else []


def reset_jax(gallery, name):
    """Let no script see the configuration or the programs that another one left."""
    jax.config.update("jax_enable_x64", False)
    jax.clear_caches()
