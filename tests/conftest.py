"""Strict JAX: no silent promotion of ranks; many fake CPU devices for the sharding tests.

Most of the time of the tests is XLA's compiler; without LLVM's optimizations it takes a fifth less.
XLA_FLAGS in the environment replaces both flags: `.ci/run` runs the contract with optimizations.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

collect_ignore = ["golden"]  # scripts that need other libraries
