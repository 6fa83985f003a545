"""The registry: one row for each optimizer; the contract and oracle tests run over all of them.

A row stands beside the oracle that it is compared with, in `CASES` of tests/oracles/NAME.py.
"""

import importlib
import pkgutil

import oracles
from oracles.case import Case

__all__ = ["BY_NAME", "CASES", "Case"]

FILES = [
    importlib.import_module(f"oracles.{file.name}")
    for file in pkgutil.iter_modules(oracles.__path__)
]
CASES: list[Case] = [case for file in FILES for case in getattr(file, "CASES", [])]
BY_NAME = {case.name: case for case in CASES}
