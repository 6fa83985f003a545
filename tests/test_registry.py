"""No optimizer without a row in the registry: its oracle, the contract and two real problems."""

import functools
import inspect

import pytest
from registry import CASES

import gdjax
from gdjax.namespace import HOMES


def makes_an_optimizer(name):
    function = getattr(gdjax, name)
    try:
        returned = inspect.signature(function).return_annotation
    except (TypeError, ValueError):
        return False
    return inspect.isfunction(function) and str(returned).startswith("Optimizer")


def names_of(case):
    """Return the name of a row and that of the factory that it calls."""
    make = case.make
    while isinstance(make, functools.partial):
        make = make.func
    return {case.name, case.of, getattr(make, "factory", make).__name__}


TESTED = {name for case in CASES for name in names_of(case)}
PACKAGES = ("gdjax.optimizers.", "gdjax.wrappers.")
NAMES = [  # other transforms have a contract of their own, and solvers, too
    name
    for name, home in HOMES.items()
    if home.startswith(PACKAGES)
    or (home.startswith("gdjax.transforms.") and name.startswith("scale_by_"))
    if makes_an_optimizer(name)
]


@pytest.mark.parametrize("name", NAMES)
def test_has_a_row(name):
    assert name in TESTED, f"{name} has no row in CASES of tests/oracles/*.py"


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(names) == len({*names})
