"""Packages that import optax train alike on it and on `gdjax.compat.optax` in its place.

The scripts are in tests/interop: each trains something small for 200 steps, by the package's own
code, and is run twice, in processes of its own. They compute in 64 bits, where only a difference of
what is computed can be seen: in 32 bits optax's 1 - b2 alone is wrong by 1e-5, relatively.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "interop"
SCRIPTS = sorted(FOLDER.glob("with_*.py"))


def losses(path, *options):
    """Run a script in a process of its own and return its losses and its tolerance."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "run_script.py"), *options, path.stem],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return np.array(found["losses"]), found["rtol"]


def imported(path):
    """Return the packages that a script imports."""
    return set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE))


def test_there_are_twelve_packages():
    assert len(set().union(*map(imported, SCRIPTS)) - {"jax", "optax", "warnings"}) >= 12


# Those that take the longest to import and to compile, of which CI runs none.
LONG = """
    with_blackjax with_evosax with_flowjax with_gpjax with_netket with_numpyro with_ott
""".split()


@pytest.mark.interop
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in LONG else ())
        for path in SCRIPTS
    ],
)
def test_the_losses_are_those_on_optax(path):
    for name in imported(path):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    theirs, rtol = losses(path)
    ours, _ = losses(path, "--compat")
    assert np.all(np.isfinite(theirs)) and len(set(theirs)) > 10
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)
