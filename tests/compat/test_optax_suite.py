"""optax's own tests on `gdjax.compat.optax`; `optax_suite.py` runs all of them, these are some."""

import optax_suite
import pytest
from optax_suite_failures import FAILURES, NOT_ON_OPTAX

QUICK_AND_TELLING = """
    _src/base_test _src/combine_test transforms/_masking_test transforms/_freezing_test
    tree_utils/_state_utils_test
""".split()


@pytest.mark.interop
def test_optax_passes_its_own_tests_here():
    report = optax_suite.compared(optax_suite.run_all(QUICK_AND_TELLING, real=False, workers=1))
    assert not report.unlisted, str(report)
    assert not report.listed_but_passed, str(report)
    assert len(report.passed) > 60


def test_a_failure_is_listed_or_not():
    listed, of_optax = next(iter(FAILURES)), next(iter(NOT_ON_OPTAX))
    report = optax_suite.compared(
        {"a": None, "b": "ValueError: no", listed: "skipped", of_optax: "skipped"}
    )
    assert report.passed == ["a"] and report.listed == [listed]
    assert report.unlisted == {"b": "ValueError: no"}
    assert str(report).startswith("1 passed of 3 that pass on optax; 1 fail as listed.")
    assert optax_suite.compared({listed: None}).listed_but_passed == [listed]


def test_every_listed_test_has_one_reason():
    assert not FAILURES.keys() & NOT_ON_OPTAX
    names = {path.stem for path in optax_suite.files([])}
    assert {test.split(".")[-3] for test in [*FAILURES, *NOT_ON_OPTAX]} <= names
