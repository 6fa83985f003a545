"""Spaces of hyperparameters: what may vary, and how the configs of trials are taken from them.

A space is a dict, name -> what the value may be: a list or array, a `uniform`, `log_uniform` or
`choice`, or a function of the config so far (a dependent value). A config is a dict of plain
values, one for each trial. Numbers become lanes of one program; anything else (booleans, strings,
None, functions, schedules) is static, and every combination of static values is a program of its
own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gdjax.core.base import Optimizer
from gdjax.core.checks import check_choice, check_integer, strict
from gdjax.core.types import Key, Number
from gdjax.training.inputs import as_generator, check_seed, refuse_tracers
from gdjax.training.progress import require

Config: TypeAlias = dict[str, Any]  # name -> value, of one trial
Space: TypeAlias = Mapping[str, Any]  # name -> what the value may be
SEEDS = ("seed", "init_seed", "batch_seed")  # names in a space that are not the optimizer's


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, evenly spread in themselves or in their logarithm."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float:
        """Return the value at a share in [0, 1] of the way."""
        if self.log:
            value = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            value = self.low * (1 - share) + self.high * share
        value = min(max(value, self.low), self.high)  # exp and log round
        return round(value) if self.whole else value

    def axis(self, resolution: int) -> list[float]:
        """Return evenly spread values, both ends included."""
        values = [self.at(i / max(resolution - 1, 1)) for i in range(resolution)]
        return list(dict.fromkeys(values))


@dataclasses.dataclass(frozen=True)
class Choice:
    """Any of some values."""

    options: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """Return the option at a share in [0, 1) of the way."""
        return self.options[min(int(share * len(self.options)), len(self.options) - 1)]

    def axis(self, resolution: int) -> list[Any]:
        """Return all options."""
        return list(self.options)


def _interval(name: str, low: Any, high: Any, log: bool, whole: bool) -> Interval:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name}(low, high) must be finite with low < high, got {low}, {high}.")
    if log and low <= 0:
        raise ValueError(f"{name}(low=...) must be > 0, got {low}. Use uniform for a range with 0.")
    return Interval(float(low), float(high), log, whole)


@strict()
def uniform(low: Number, high: Number, *, whole: bool = False) -> Interval:
    """Say that a hyperparameter may be any number from `low` to `high`.

    Args:
      low: the least value, finite.
      high: the greatest value, finite and > low.
      whole: whether to round to whole numbers, as for a number of steps.

    Returns:
      A part of a space, for `grid`, `sample` or `sweep`.

    Example:
      >>> print(grid({"momentum": uniform(0.0, 1.0)}, resolution=3))
      [{'momentum': 0.0}, {'momentum': 0.5}, {'momentum': 1.0}]
    """
    return _interval("uniform", low, high, False, whole)


@strict()
def log_uniform(low: Number, high: Number, *, whole: bool = False) -> Interval:
    """Say that a hyperparameter may be any number from `low` to `high`, evenly in its logarithm.

    Args:
      low: the least value, finite and > 0.
      high: the greatest value, finite and > low.
      whole: whether to round to whole numbers.

    Returns:
      A part of a space, for `grid`, `sample` or `sweep`.

    Example:
      >>> configs = grid({"learning_rate": log_uniform(1e-3, 1e-1)}, resolution=3)
      >>> print([round(c["learning_rate"], 6) for c in configs])
      [0.001, 0.01, 0.1]
    """
    return _interval("log_uniform", low, high, True, whole)


def choice(*options: Any) -> Choice:
    """Say that a hyperparameter may be any of some values, of any type.

    Numbers are lanes of one program. Booleans, strings, None and functions are static: `sweep` runs
    a program for each of them. Under the name "optimizer" the
    options are factories of optimizers.

    Args:
      *options: the values, at least one.

    Example:
      >>> print(grid({"nesterov": choice(False, True), "momentum": [0.9]}))
      [{'nesterov': False, 'momentum': 0.9}, {'nesterov': True, 'momentum': 0.9}]
    """
    if not options:
        raise ValueError("choice(*options) needs at least one option, got none.")
    return Choice(options)


@strict()
def grid(space: Space, resolution: int = 5) -> list[Config]:
    """Return all combinations of the values that a space allows.

    Args:
      space: name -> list, array, `uniform`, `log_uniform`, `choice`, or a function of the config so
        far, which is called with a dict of the values of the names before it.
      resolution: values >= 1 taken from each `uniform` and `log_uniform`, both ends included.

    Returns:
      A list of configs; the last name varies fastest.

    Raises:
      ValueError: if there is no config.

    Example:
      >>> space = {"b1": [0.8, 0.9], "b2": lambda config: 1 - (1 - config["b1"]) ** 2}
      >>> print([round(c["b2"], 2) for c in grid(space)])
      [0.96, 0.99]
    """
    check_integer("grid(resolution=...)", resolution)
    return _grid("grid", space, resolution)


def _grid(caller: str, space: Space, resolution: int = 5) -> list[Config]:
    axes = [
        [value] if callable(value) else _axis(caller, name, value, resolution)
        for name, value in space.items()
    ]
    return configs_of(caller, space, itertools.product(*axes) if axes else ())


@strict()
def sample(
    space: Space, count: int, *, key: Key | None = None, method: str = "sobol"
) -> list[Config]:
    """Return configs spread over a space.

    Args:
      space: as in `grid`; lists and arrays are choices.
      count: number of configs >= 1. Sobol points are most even when it is a power of two.
      key: an integer or a key of `jax.random`; another one gives other configs. None is 0.
      method: "sobol" (scrambled) or "halton" for quasi-random configs, which leave no gaps (SciPy's
        `qmc`: `pip install "gdjax[sweeps]"`), or "random" for independent ones.

    Returns:
      A list of configs.

    Example:
      >>> configs = sample({"learning_rate": log_uniform(1e-4, 1.0)}, 64, method="random")
      >>> 25 < sum(c["learning_rate"] < 1e-2 for c in configs) < 39
      True
    """
    return sampled("sample", space, check_integer("sample(count=...)", count), key, method)


def sampled(
    caller: str, space: Space, count: int, key: Key | None = None, method: str = "sobol"
) -> list[Config]:
    """Return configs spread over a space, for a function that errors name; see `sample`."""
    check_choice(f"{caller}(method=...)", method, ("sobol", "halton", "random"))
    varying = {k: _as_varying(caller, k, v) for k, v in space.items()}
    size = sum(not callable(v) for v in varying.values())
    random = as_generator(key)
    if method == "random" or not size:
        shares = random.random((count, max(size, 1)))
    else:
        qmc = require("scipy.stats.qmc", "sweeps", f"{caller}(method={method!r})")
        if method == "sobol":
            engine = qmc.Sobol(size, seed=random)
            shares = engine.random_base2(max(count - 1, 0).bit_length())[:count]
        else:
            shares = qmc.Halton(size, seed=random).random(count)
    rows = []
    for row in shares:
        share = iter(row)
        rows.append([v if callable(v) else v.at(next(share)) for v in varying.values()])
    return configs_of(caller, space, rows)


def _axis(caller: str, name: str, value: Any, resolution: int) -> list[Any]:
    if isinstance(value, (Interval, Choice)):
        return value.axis(resolution)
    if isinstance(value, (list, tuple, range)):
        return list(value)
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(
            f"{caller}(space=...): {name!r} must be a 1-d array of numbers, a list, a uniform, a "
            f"log_uniform, a choice or a function of the config, got {value!r}. A fixed value is a "
            "list of one."
        )
    return array.tolist()


def _as_varying(caller: str, name: str, value: Any) -> Any:
    """Return an `Interval` or `Choice`, or a function of the config."""
    if isinstance(value, (Interval, Choice)) or callable(value):
        return value
    return Choice(tuple(_axis(caller, name, value, 1)))


def configs_of(caller: str, space: Space, rows: Iterable[Sequence[Any]]) -> list[Config]:
    """Return the configs of rows of values, with a function in place of each dependent value."""
    configs = []
    for row in rows:
        config: Config = {}
        for (name, what), value in zip(space.items(), row, strict=True):
            config[name] = _dependent(caller, name, what, config) if callable(what) else value
        configs.append({k: v.item() if isinstance(v, np.generic) else v for k, v in config.items()})
    if not configs:
        raise ValueError(f"{caller}(space=...) has no values to combine, got {space!r}.")
    return configs


def _dependent(caller: str, name: str, function: Callable[[Config], Any], config: Config) -> Any:
    try:
        return function(dict(config))
    except KeyError as error:
        raise ValueError(
            f"{caller}(space=...): the function of {name!r} reads {error}, but the names before it "
            f"are {list(config)}. Put it after those that it depends on."
        ) from error


# --- the configs of a sweep -----------------------------------------------------------------------


def as_configs(
    caller: str, space: Space | Sequence[Space], seeds: int | Sequence[int] | None = None
) -> list[Config]:
    """Return the configs of a sweep: a space is crossed, a list of configs is taken as it is.

    Each is repeated with every seed if there are any.
    """
    refuse_tracers(caller, space)
    if isinstance(space, Mapping):
        configs = _grid(caller, space) if space or seeds is None else [{}]  # only seeds may vary
    else:
        configs = [dict(config) for config in space]
        if not configs or not configs[0] and seeds is None:
            raise ValueError(f"{caller}(space=...) has no configs, got {space!r}.")
    for i, config in enumerate(configs):
        if set(config) != set(configs[0]):
            raise ValueError(
                f"{caller}(space=...): all configs must have the same names, got {list(config)} at "
                f"index {i} and {list(configs[0])} at index 0. Fix what only some optimizers have "
                "inside of functions: choice(gdjax.adam, lambda learning_rate: gdjax.sgd(...))."
            )
        for name in SEEDS:
            if name in config and not _is_integer(config[name]):
                raise ValueError(
                    f"{caller}(space=...): {name!r} must be integers: {config[name]!r}."
                )
            if name in config:
                check_seed(f"{caller}(space=...): {name!r}", int(config[name]))
    if seeds is None:
        return configs
    if "seed" in configs[0]:
        raise ValueError(f"{caller}: 'seed' is in the space already; leave out seeds=... .")
    return [{**c, "seed": seed} for c in configs for seed in _as_seeds(caller, seeds)]


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _as_seeds(caller: str, seeds: Any) -> list[int]:
    seeds = range(seeds) if _is_integer(seeds) else seeds
    numbers = list(seeds) if np.iterable(seeds) else [seeds]
    if not all(map(_is_integer, numbers)):
        raise ValueError(
            f"{caller}(seeds=...) must be an integer or a list of them, got {seeds!r}."
        )
    if not numbers:
        raise ValueError(f"{caller}(seeds=...) must name at least one seed, got {seeds!r}.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(
            f"{caller}(seeds=...) must differ, as equal ones are the same run, got {seeds!r}."
        )
    for seed in numbers:
        check_seed(f"{caller}(seeds=...)", int(seed))
    return [int(seed) for seed in numbers]


def columns(configs: Sequence[Config]) -> dict[str, np.ndarray]:
    """Return name -> (lanes,): an array of numbers, or of objects for static values."""
    return {name: column([config[name] for config in configs]) for name in configs[0]}


def column(values: Sequence[Any]) -> np.ndarray:
    """Return an array of numbers, or of objects."""
    if all(map(is_number, values)):
        return np.asarray(values)
    out = np.empty(len(values), object)
    out[:] = values
    return out


def is_number(value: Any) -> bool:
    """Return whether a value may differ between the lanes of one program."""
    if hasattr(value, "dtype"):
        return np.ndim(value) == 0 and value.dtype != bool
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def static_parts(configs: Sequence[Config]) -> list[tuple[Config, list[int]]]:
    """Return (static values, the lanes that have them), in order of first appearance."""
    found: list[tuple[Config, list[int]]] = []
    for lane, config in enumerate(configs):
        static = {k: v for k, v in config.items() if not is_number(v)}
        for known, lanes in found:
            if known == static:
                lanes.append(lane)
                break
        else:
            found.append((static, [lane]))
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
