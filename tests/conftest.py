"""Strict JAX: no silent promotion of ranks; many fake CPU devices for the sharding tests.

Nearly all the time of the tests is XLA's compiler, and half of that its fusion emitters for CPUs
(measured: 7.6 s with, 4.0 s without, for the contract of `adam` and `amsgrad`; no other flag saves
more than a tenth). So tests run without them. XLA_FLAGS in the environment replaces these flags:
.ci/run tests the contract and the oracles as users compile, with the lowest and newest versions.
"""

import collections
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def is_accepted(flags):
    """Return whether XLA starts with these flags; one that it does not know ends the process."""
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(start, env=environment, capture_output=True).returncode == 0


if "XLA_FLAGS" not in os.environ:  # the workers of pytest-xdist find it set
    devices = "--xla_force_host_platform_device_count=8"
    fast = f"{devices} --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = fast if is_accepted(fast) else devices
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

collect_ignore = ["golden", "interop"]  # scripts that need other libraries

# `make quick`: all of these, and of the other tests every 25th, by a hash of its name.
QUICK = ("core/", "test_registry.py", "test_oracles.py", "tree/", "test_assignment.py")
NOT_QUICK = ("slow", "rest", "interop", "processes", "site")


def pytest_addoption(parser):
    parser.addoption("--share", type=int, default=1, help="run every n-th test, by a hash")
    parser.addoption("--cases", type=int, default=1, help="run every n-th case of each test")
    parser.addoption("--turn", type=int, default=0, help="which of the n shares, from 0 on")


def keep(config, items, kept):
    """Leave all other items out."""
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def nth(item, n, turn=0):
    """Return 0 for every n-th item, by a hash of its name; other ones in other turns."""
    return (zlib.crc32(item.nodeid.encode()) + turn) % n


def pytest_collection_modifyitems(config, items):
    """Mark what `make quick` runs; keep a share of all tests if only that is wanted."""
    turn = config.getoption("--turn", 0)
    if (n := config.getoption("--share", 1)) > 1:
        keep(config, items, {item for item in items if nth(item, n, turn) == 0})
    if (n := config.getoption("--cases", 1)) > 1:  # at least one of each test that is not slow
        cases = collections.defaultdict(list)
        for item in items:
            if not item.get_closest_marker("slow"):
                cases[item.nodeid.partition("[")[0]].append(item)
        least = {min(found, key=lambda item: nth(item, n, turn)) for found in cases.values()}
        keep(config, items, {item for item in items if nth(item, n, turn) == 0} | least)
    here = Path(__file__).parent
    for item in items:
        if not item.path.is_relative_to(here) or any(map(item.get_closest_marker, NOT_QUICK)):
            continue
        file = item.path.relative_to(here).as_posix()
        if file.startswith(QUICK) or nth(item, 25) == 0:
            item.add_marker(pytest.mark.quick)
