"""`gdjax.compat.optax` has exactly the public names of optax, with their arguments."""

import copy
import inspect
import pydoc
import re
import subprocess
import sys
import typing
import warnings
from pathlib import Path

import pytest
from optax_names import (
    ARGUMENTS,
    NOT_GIVEN,
    arguments,
    audit,
    differences,
    find,
    lacking,
    public_use,
)

import gdjax
from gdjax.compat import optax as compat

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "migrating.md").read_text()
MISSING, MORE, DIFFERENT = audit()


def test_no_public_name_is_missing():
    assert MISSING == []


def test_there_are_no_others():
    assert MORE == []


def test_what_public_code_uses_is_there():
    assert lacking() == list(NOT_GIVEN)
    assert len(public_use()) > 200


@pytest.mark.parametrize("name", ["_src.base.NO_PARAMS_MSG", "contrib._muon.scale_by_muon"])
def test_the_list_has_private_names(name):
    assert name in public_use()
    assert find("gdjax.compat.optax", name) is not None
    with pytest.raises(ImportError):
        find("gdjax.compat.optax", "_src.no_such_module.adam")
    with pytest.raises((ImportError, AttributeError)):
        find("gdjax.compat.optax", "_src.base.no_such_name")


def test_arguments_differ_only_where_a_reason_is_given():
    assert set(DIFFERENT) - set(ARGUMENTS) == set(), DIFFERENT
    assert set(ARGUMENTS) - set(DIFFERENT) == set(), "they do not differ any more"


def test_differences_of_arguments_are_documented():
    for name in ARGUMENTS:
        assert f"`{name.rpartition('.')[-1]}" in PAGE


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


@pytest.mark.parametrize(
    "module, name",
    [
        ("", "MultiSteps"),
        ("", "ScaleByAdamState"),
        ("", "global_norm"),
        (".contrib", "ProdigyState"),
        (".transforms", "ConditionFn"),
        (".tree_utils", "tree_add"),
        (".losses", "convex_kl_divergence"),
    ],
)
def test_gdjax_says_where_a_name_of_optax_is(module, name):
    if name == "convex_kl_divergence":  # which is at the top level, too
        module = ""
    with pytest.raises(AttributeError, match=f"; optax's is gdjax.compat.optax{module}.{name}$"):
        getattr(gdjax, name)
    assert hasattr(find("gdjax.compat.optax", module.strip(".")), name)


def test_other_names_have_no_pointer():
    for name in ("no_such_name", "add_private_modules", "annotations"):
        with pytest.raises(AttributeError, match=f"'gdjax' has no attribute '{name}'$"):
            getattr(gdjax, name)
    with pytest.raises(AttributeError, match="optax has no such name. It is gdjax.fit$"):
        compat.fit  # noqa: B018


def test_functions_can_be_inspected():
    for make in (compat.adamw, compat.contrib.acprop):
        annotation = inspect.signature(make).parameters["learning_rate"].annotation
        assert annotation == compat.ScalarOrSchedule == typing.get_type_hints(make)["learning_rate"]
        assert "learning_rate" in pydoc.render_doc(make)
        assert copy.copy(make) is make


def test_deprecated_names_warn():
    with pytest.warns(DeprecationWarning, match="use optax.tree_utils.tree_norm"):
        norm = compat.tree_utils.tree_l2_norm
    assert norm({"a": 3.0, "b": 4.0}) == 5.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compat.tree_utils.tree_scale(2, 3) == 6


def test_the_program_with_install_on_the_page():
    (program,) = re.findall(r"^``` python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    assert shown == "gdjax.compat.optax 0.2.8\n"


def test_names_are_imported_when_they_are_used():
    """Only then is JAX imported, too; also not to say where a name is."""
    code = """
import sys
import gdjax.compat.optax
from gdjax.compat import optax
assert optax is gdjax.compat.optax
assert not hasattr(gdjax, "ProdigyState")
assert not hasattr(optax, "fit") and not hasattr(optax, "x")
assert set(optax.__all__) < set(dir(optax))
assert "jax" not in sys.modules
optax.constant_schedule
assert "gdjax.schedules" in sys.modules and "gdjax.solvers.lbfgs" not in sys.modules
names = {}
exec("from gdjax.compat.optax import *", names)
assert set(optax.__all__) | {"__builtins__"} == set(names)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_annotations_are_what_they_name():
    """Tools compare them with `base.ScalarOrSchedule`, to see what may be scheduled."""
    for factory in (compat.sgd, compat.adamw, compat.contrib.muon):
        annotation = inspect.signature(factory).parameters["learning_rate"].annotation
        assert annotation == compat.ScalarOrSchedule
