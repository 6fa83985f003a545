"""Strict JAX: no silent promotion of ranks; many fake CPU devices for the sharding tests.

Nearly all the time of the tests is XLA's compiler, and half of that its fusion emitters for CPUs
(measured: 7.6 s with, 4.0 s without, for the contract of `adam` and `amsgrad`; no other flag saves
more than a tenth). So tests run without them. XLA_FLAGS in the environment replaces these flags:
.ci/run tests the contract and the oracles as users compile, with the lowest and newest versions.
"""

import mmap
import os
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def known_to_xla(flag):
    """Return whether jaxlib has a flag; one that it does not know ends the process."""
    (folder,) = find_spec("jaxlib").submodule_search_locations
    for path in Path(folder).glob("*.so"):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as binary:
            if binary.find(flag.encode()) >= 0:
                return True
    return False


if "XLA_FLAGS" not in os.environ:
    flags = ["--xla_force_host_platform_device_count=8"]
    if known_to_xla("xla_cpu_use_fusion_emitters"):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

collect_ignore = ["golden"]  # scripts that need other libraries

# `make quick`: all of these, and of the other tests every 25th, by a hash of its name.
QUICK = ("core/", "test_registry.py", "test_oracles.py", "tree/", "test_assignment.py")
NOT_QUICK = ("slow", "interop", "processes")


def pytest_collection_modifyitems(items):
    """Mark what `make quick` runs."""
    here = Path(__file__).parent
    for item in items:
        if not item.path.is_relative_to(here) or any(map(item.get_closest_marker, NOT_QUICK)):
            continue
        file = item.path.relative_to(here).as_posix()
        if file.startswith(QUICK) or zlib.crc32(item.nodeid.encode()) % 25 == 0:
            item.add_marker(pytest.mark.quick)
