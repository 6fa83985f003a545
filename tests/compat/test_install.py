"""gdjax.compat.install: `import optax` gives the names of `gdjax.compat.optax`."""

import subprocess
import sys

import pytest

PROGRAMS = {
    "every way to import": """
        import gdjax.compat
        gdjax.compat.install()
        gdjax.compat.install()
        import optax, optax.contrib, optax.tree_utils as tree_utils
        import optax.transforms._masking
        from optax import losses, schedules
        from optax._src import base, transform
        from optax._src.numerics import safe_increment
        from optax._src.alias import adam
        from optax.contrib._muon import MuonDimensionNumbers
        import gdjax.compat.optax as ours
        assert optax is ours and adam is ours.adam and losses is ours.losses
        assert base.EmptyState is ours.EmptyState and optax.__version__ == "0.2.8"
        assert optax.transforms._masking.MaskedNode is ours.MaskedNode
        assert transform.ScaleByAdamState is ours.ScaleByAdamState
    """,
    "the version, for those who ask the installer": """
        import importlib.metadata, gdjax.compat
        gdjax.compat.install()
        assert importlib.metadata.version("optax") == "0.2.8"
        assert importlib.metadata.version("jax")
    """,
    "native pairs are optax's": """
        import gdjax, gdjax.compat, jax.numpy as jnp
        gdjax.compat.install()
        import optax
        assert isinstance(gdjax.adam(1e-3), optax.GradientTransformation)
        assert isinstance(optax.adam(1e-3), optax.GradientTransformationExtraArgs)
        assert not isinstance((1, 2), optax.GradientTransformation)
    """,
    "a name that optax does not have": """
        import gdjax.compat
        gdjax.compat.install()
        import optax
        for name, error in {"no_such": ImportError, "_src.no_such": ImportError}.items():
            package, _, leaf = f"optax.{name}".rpartition(".")
            try:
                exec(f"from {package} import {leaf}")
            except error:
                continue
            raise AssertionError(name)
    """,
    "reloading, as notebooks do": """
        import importlib, gdjax.compat
        gdjax.compat.install()
        import optax, optax.contrib
        for module in (optax, optax.contrib):
            name = module.__name__
            assert importlib.reload(module) is module and module.__name__ == name
        assert optax.sgd(0.1) and optax.contrib.prodigy() and optax.lion(0.1)
    """,
    "modules that there are not": """
        import importlib.util, gdjax.compat
        gdjax.compat.install()
        assert importlib.util.find_spec("optax.nope") is None
        assert importlib.util.find_spec("optax").origin.endswith("__init__.py")
        assert importlib.util.find_spec("optax._src.base") is not None
        try:
            import optax.nope
        except ModuleNotFoundError as error:
            assert error.name == "optax.nope", error
    """,
    "jax is not imported": """
        import sys, gdjax.compat
        gdjax.compat.install()
        import optax
        assert "jax" not in sys.modules
    """,
    "the real optax is there already": """
        import optax, gdjax.compat
        try:
            gdjax.compat.install()
        except RuntimeError as error:
            assert "install() at the start of the program" in str(error)
        else:
            raise AssertionError
        assert isinstance(optax.adam(1e-3), optax.GradientTransformation)
    """,
}


@pytest.mark.processes
@pytest.mark.parametrize("name", PROGRAMS)
def test_install(name):
    lines = [line[8:] for line in PROGRAMS[name].splitlines()]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
