"""Every public name of optax is there, with its arguments, or says why not; so do the documents."""

import re
from pathlib import Path

import optax
import pytest
from optax_names import ARGUMENTS, EXPECTED_SOON, arguments, audit, differences

import gdjax
from gdjax.migrating import LEFT_OUT

PAGE = (Path(__file__).parent.parent / "docs" / "migrating.md").read_text()
MISSING, DIFFERENT = audit()


def test_nothing_is_missing_without_a_reason():
    unexplained = {name.rpartition(".")[-1] for name, why in MISSING.items() if not why}
    assert unexplained - EXPECTED_SOON == set(), "optax has them, gdjax not"
    assert EXPECTED_SOON - unexplained == set(), "they are there: remove them from EXPECTED_SOON"


def test_arguments_differ_only_where_a_reason_is_given():
    assert set(DIFFERENT) - set(ARGUMENTS) == set(), DIFFERENT
    assert set(ARGUMENTS) - set(DIFFERENT) == set(), "they do not differ any more"


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_is_left_out_says_what_to_use(name):
    with pytest.raises(AttributeError, match=re.escape(LEFT_OUT[name])):
        getattr(gdjax, name)
    assert f"`{name}`" in PAGE, "docs/migrating.md has to say it too"
    removed = {"monte_carlo"}  # optax itself has only an error message for it
    rooms = (optax, optax.transforms)
    assert name in removed or any(hasattr(room, name) for room in rooms), "optax has no such name"
    for advice in re.findall(r"gdjax((?:\.\w+)+)", LEFT_OUT[name]):
        thing = gdjax
        for part in advice.strip(".").split("."):
            assert hasattr(thing, part) or part in EXPECTED_SOON, f"there is no gdjax{advice}"
            thing = getattr(thing, part, None)


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
    opt = gdjax.GradientTransformation(lambda params: (), lambda updates, state, params=None: 1)
    assert isinstance(opt, gdjax.Optimizer)
    assert isinstance(gdjax.adam(0.1), gdjax.GradientTransformationExtraArgs)
    assert isinstance(gdjax.chain(opt, gdjax.adam(0.1)), gdjax.GradientTransformation)
