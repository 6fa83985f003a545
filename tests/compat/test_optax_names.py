"""Every public name of optax is in `gdjax.compat.optax`, with its arguments, or says why not."""

import re
import subprocess
import sys
from pathlib import Path

import optax
import pytest
from optax_names import ARGUMENTS, arguments, audit, differences

import gdjax
from gdjax.compat import optax as compat
from gdjax.compat.optax.left_out import LEFT_OUT

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
MISSING, DIFFERENT = audit()


def test_nothing_is_missing_without_a_reason():
    unexplained = {name.rpartition(".")[-1] for name, why in MISSING.items() if not why}
    assert unexplained == set(), "optax has them, gdjax not"


def test_arguments_differ_only_where_a_reason_is_given():
    assert set(DIFFERENT) - set(ARGUMENTS) == set(), DIFFERENT
    assert set(ARGUMENTS) - set(DIFFERENT) == set(), "they do not differ any more"


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_is_left_out_says_what_to_use(name):
    with pytest.raises(AttributeError, match=re.escape(LEFT_OUT[name])):
        getattr(compat, name)
    with pytest.raises(AttributeError, match="optax's spellings are in gdjax.compat.optax"):
        getattr(gdjax, name)
    assert f"`{name}`" in PAGE, "docs/migrating.md has to say it too"
    removed = {"monte_carlo"}  # optax itself has only an error message for it
    modules = (optax, optax.transforms)
    assert name in removed or any(hasattr(m, name) for m in modules), "optax has no such name"
    for advice in re.findall(r"optax((?:\.\w+)+)", LEFT_OUT[name]):
        thing = compat
        for part in advice.strip(".").split("."):
            assert hasattr(thing, part), f"there is no optax{advice}"
            thing = getattr(thing, part)


def test_differences_of_arguments_are_documented():
    for name in ARGUMENTS:
        assert f"`{name}`" in PAGE


def test_the_comparison_sees_differences():
    def theirs(a, b, c=1, *, d=2): ...
    def renamed(a, other, c=1, *, d=2): ...
    def swapped(b, a, c=1, *, d=2): ...
    def narrower(a, b, *, c=1, d=3): ...
    def more(a, b, c=1, e=5, *, d=2, f): ...
    def wider(a, b=0, c=1, e=5, d=2): ...

    assert list(differences(theirs, theirs)) == list(differences(theirs, wider)) == []
    assert list(differences(theirs, renamed)) == ["no b", "other is required"]
    assert list(differences(theirs, swapped)) == ["a at another position", "b at another position"]
    assert list(differences(theirs, narrower)) == ["c is keyword-only", "d=3, not 2"]
    assert list(differences(theirs, more)) == ["f is required"]
    assert [p.name for p in arguments(theirs)] == ["a", "b", "c", "d"]


def test_one_type_serves_as_both_of_optax():
    opt = compat.GradientTransformation(lambda params: (), lambda updates, state, params=None: 1)
    assert isinstance(opt, gdjax.Optimizer)
    assert isinstance(gdjax.adam(0.1), compat.GradientTransformationExtraArgs)
    assert isinstance(gdjax.chain(opt, gdjax.adam(0.1)), compat.GradientTransformation)


OWN = """
    GradientTransformation GradientTransformationExtraArgs MaskOrFn MultiSteps OptState Params
    ScalarOrSchedule StatefulSchedule TransformInitFn TransformUpdateExtraArgsFn TransformUpdateFn
    Updates WrappedSchedule inject_hyperparams multi_transform
""".split()


def test_names_that_only_optax_has_are_not_in_gdjax():
    assert set(dir(compat)) >= {*OWN, *dir(gdjax)} - {"__version__"}
    for name in OWN:
        assert hasattr(compat, name)
        with pytest.raises(AttributeError, match="optax's spellings are in gdjax.compat.optax"):
            getattr(gdjax, name)
    with pytest.raises(AttributeError, match="'gdjax' has no attribute 'no_such_name'$"):
        gdjax.no_such_name  # noqa: B018


def test_all_other_names_are_those_of_gdjax():
    for name in set(dir(gdjax)) - {"__version__", "schedules", "transforms"}:
        assert getattr(compat, name) is getattr(gdjax, name)
    for module in ("schedules", "transforms"):
        for name in dir(getattr(compat, module)):
            if not name.startswith("_") and name in dir(gdjax):
                assert getattr(getattr(compat, module), name) is getattr(gdjax, name)


def test_names_are_imported_when_they_are_used():
    """Only then is JAX imported, too."""
    code = """
import sys
import gdjax.compat.optax
from gdjax.compat import optax
assert optax is gdjax.compat.optax and "jax" not in sys.modules
optax.MultiSteps
assert "gdjax.wrappers.accumulate" in sys.modules and "gdjax.solvers.lbfgs" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
