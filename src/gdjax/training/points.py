"""Points: one dict of plain values for each run, and how they become the lanes of programs.

Numbers differ between the lanes of one program; anything else (booleans, strings, None, functions,
schedules) is structure, and every combination of it a program of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from gdjax.core.base import Optimizer

Point = dict[str, Any]
SEEDS = ("seed", "init_seed", "batch_seed")  # names in a space that are not the optimizer's


def with_seeds(points: Sequence[Point], seeds: Any) -> list[Point]:
    """Return the points of a sweep after checking them, each with every seed if there are any."""
    for i, point in enumerate(points):
        if set(point) != set(points[0]):
            raise ValueError(
                f"sweep(space=...): all points must have the same names, got {list(point)} at "
                f"index {i} and {list(points[0])} at index 0. Fix what only some optimizers have "
                "inside of functions: choice(gdjax.adam, lambda learning_rate: gdjax.sgd(...))."
            )
        for name in SEEDS:
            if name in point and not isinstance(point[name], (int, np.integer)):
                raise ValueError(f"sweep(space=...): {name!r} must be integers: {point[name]!r}.")
    if seeds is None:
        return list(points)
    if "seed" in points[0]:
        raise ValueError("sweep: 'seed' is in the space already; leave out seeds=... .")
    return [{**point, "seed": seed} for point in points for seed in _seeds(seeds)]


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, (int, np.integer)) and not isinstance(seeds, bool):
        seeds = range(seeds)
    numbers = list(seeds) if np.iterable(seeds) else [seeds]
    if not all(isinstance(s, (int, np.integer)) for s in numbers):
        raise ValueError(f"sweep(seeds=...) must be an integer or a list of them, got {seeds!r}.")
    if not numbers:
        raise ValueError(f"sweep(seeds=...) must name at least one seed, got {seeds!r}.")
    return [int(seed) for seed in numbers]


def columns(points: Sequence[Point]) -> dict[str, np.ndarray]:
    """Return name -> (lanes,): an array of numbers, or of objects for structure."""
    return {name: column([point[name] for point in points]) for name in points[0]}


def column(values: Sequence[Any]) -> np.ndarray:
    """Return an array of numbers, or of objects."""
    if all(map(is_number, values)):
        return np.asarray(values)
    out = np.empty(len(values), object)
    out[:] = values
    return out


def is_number(value: Any) -> bool:
    """Return whether a value may differ between the lanes of one program."""
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, (int, float, np.number)) or _is_scalar_array(value)


def _is_scalar_array(value: Any) -> bool:
    return hasattr(value, "dtype") and np.ndim(value) == 0 and value.dtype != bool


def structures(points: Sequence[Point]) -> list[tuple[Point, list[int]]]:
    """Return (what is no number, the lanes that have it), in order of first appearance."""
    found: list[tuple[Point, list[int]]] = []
    for lane, point in enumerate(points):
        fixed = {k: v for k, v in point.items() if not is_number(v)}
        for known, lanes in found:
            if known == fixed:
                lanes.append(lane)
                break
        else:
            found.append((fixed, [lane]))
    return found


# --- as text --------------------------------------------------------------------------------------


def words(values: np.ndarray) -> np.ndarray:
    """Return numbers as they are, other values as texts, which differ where the values do."""
    if values.dtype != object:
        return values
    named: dict[str, list[Any]] = {}
    for value in values:
        known = named.setdefault(str(_word(value)), [])
        if value not in known:
            known.append(value)

    def text(value):
        same = named[str(_word(value))]
        return _word(value) if len(same) == 1 else f"{_word(value)} {same.index(value) + 1}"

    return column([text(value) for value in values])


def _word(value: Any) -> Any:
    """Return a value that JSON can hold, and the same one in another process."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Optimizer):
        return "Optimizer"
    if isinstance(value, functools.partial):
        given = [*map(str, map(_word, value.args))]
        given += [f"{k}={_word(v)}" for k, v in value.keywords.items()]
        return f"{_word(value.func)}({', '.join(given)})"
    return getattr(value, "__name__", None) or re.sub(r" at 0x[0-9a-f]+", "", str(value))
