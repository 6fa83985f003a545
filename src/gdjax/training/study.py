"""Optuna's part of a search: the space, the sampler, the storage, and which process runs what.

A trial that runs says which process runs it, and each process writes down every 30 seconds that it
is alive. So trials of a process that was killed are found by the others, or by the next call, and
run again.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdjax.core.checks import check_choice
from gdjax.core.kinds import shown
from gdjax.core.types import Key
from gdjax.training.checkpoint import changed_arguments
from gdjax.training.inputs import as_generator
from gdjax.training.progress import require
from gdjax.training.trials import (
    Choice,
    Config,
    Interval,
    Space,
    column,
    configs_of,
    is_number,
    words,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "gp", "cmaes", "qmc", "random", "grid")
JOURNALS = (".journal", ".log")  # suffixes of journal files; others are SQLite databases
BEAT = 30.0  # seconds between two signs of life of a process
STALE = 300.0  # seconds without one after which a process counts as dead
PLAIN = (bool, int, float, str)  # values that Optuna can store, and None
IDENTITY = "gdjax"  # the study's attribute that says what search it is


def optuna_for(what: str) -> Any:
    """Import Optuna, or say which extra installs it."""
    return require("optuna", "search", what)


# --- the space ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """A space as Optuna sees it.

    Attributes:
      caller: the function that errors name.
      space: as it was given.
      distributions: name -> Optuna's distribution, for all names but those of functions.
      options: name -> {label: value}, for choices with values that Optuna cannot store.
      floats: names whose values are floats, also where a whole number was given, so that the
        programs of all rounds have the same dtypes.
    """

    caller: str
    space: Space
    distributions: dict[str, BaseDistribution]
    options: dict[str, dict[str, Any]]
    floats: frozenset[str] = frozenset()

    def configs(self, params: Sequence[Mapping[str, Any]]) -> list[Config]:
        """Return the configs of trials, dependent values included."""

        def value(name: str, of: Mapping[str, Any]) -> Any:
            return self.options[name][of[name]] if name in self.options else of[name]

        rows = [
            [v if callable(v) else value(k, of) for k, v in self.space.items()] for of in params
        ]
        configs = configs_of(self.caller, self.space, rows)
        for config in configs:
            config |= {k: float(config[k]) for k in self.floats if is_number(config[k])}
        return configs

    def corners(self) -> list[list[Config]]:
        """Return the configs with the least and the greatest values, for all static values.

        Each list has two configs, with the same combination of values that are not numbers.
        """
        ends = {k: _ends(d) for k, d in self.distributions.items()}
        static = {k: self._labels(k) for k in ends if self._is_static(k)}
        found = []
        for labels in itertools.product(*static.values()):
            fixed = dict(zip(static, labels, strict=True))
            low, high = ({k: pair[i] for k, pair in ends.items()} | fixed for i in (0, 1))
            found.append(self.configs([low, high]))
        return found

    def described(self) -> dict[str, Any]:
        """Return what says which space it is, in a form that JSON can hold.

        Functions count by the values that they give in the corners.
        """
        to_json = optuna_for(self.caller).distributions.distribution_to_json
        given = {k: json.loads(to_json(d)) for k, d in self.distributions.items()}
        corners = [config for pair in self.corners() for config in pair]
        return {
            k: given.get(k) or words(column([c[k] for c in corners])).tolist() for k in self.space
        }

    def size(self) -> float:
        """Return how many different configs there are."""
        return math.prod(
            math.inf if lists is None else len(lists)
            for lists in (_choices(d) for d in self.distributions.values())
        )

    def _labels(self, name: str) -> Sequence[Any]:
        return _choices(self.distributions[name]) or ()

    def _is_static(self, name: str) -> bool:
        options = self.options.get(name, {})
        return not all(is_number(options.get(label, label)) for label in self._labels(name))


def as_dimensions(caller: str, space: Space) -> Dimensions:
    """Return a space as Optuna's distributions, after checking it."""
    if not space:
        raise ValueError(f"{caller}(space=...) must have at least one name, got {space!r}.")
    given: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for name, value in space.items():
        if not callable(value):
            given[name] = _distribution(caller, name, value, options)
    if not given:
        raise ValueError(f"{caller}(space=...) has only functions; there is nothing to search.")
    found = Dimensions(caller, space, given, options)
    corners = [config for pair in found.corners() for config in pair]
    floats = {k for k in space if any(isinstance(config[k], float) for config in corners)}
    for name, distribution in given.items():
        values = [options.get(name, {}).get(c, c) for c in _choices(distribution) or ()]
        if any(isinstance(value, float) for value in values):
            floats.add(name)
    return dataclasses.replace(found, floats=frozenset(floats))


def _distribution(
    caller: str, name: str, value: Any, options: dict[str, dict[str, Any]]
) -> BaseDistribution:
    """Return Optuna's distribution; objects that it cannot store go into `options`."""
    module = optuna_for(caller).distributions
    if isinstance(value, module.BaseDistribution):
        return value
    if isinstance(value, Interval):
        if not value.whole:
            return module.FloatDistribution(value.low, value.high, log=value.log)
        low, high = math.ceil(value.low), math.floor(value.high)
        if low > high:
            raise ValueError(f"{caller}(space=...): {name!r} has no whole number in {value}.")
        return module.IntDistribution(low, high, log=value.log)
    if isinstance(value, Choice):
        values = list(value.options)
    elif isinstance(value, (list, tuple, range)):
        values = list(value)
    elif isinstance(value, np.ndarray) and value.ndim == 1 or hasattr(value, "tolist"):
        values = np.atleast_1d(np.asarray(value)).tolist() if np.ndim(value) == 1 else None
    else:
        values = None
    if not values:
        raise ValueError(
            f"{caller}(space=...): {name!r} must be a uniform, a log_uniform, a choice, a list or "
            f"1-d array of values, a distribution of Optuna, or a function of the config, got "
            f"{shown(value)}. A fixed value is a list of one."
        )
    values = [np.asarray(v).item() if _is_scalar(v) else v for v in values]
    if all(v is None or type(v) in PLAIN for v in values):
        return module.CategoricalDistribution(values)
    labels = [str(label) for label in words(column(values))]
    options[name] = dict(zip(labels, values, strict=True))
    if len(options[name]) < len(values):
        raise ValueError(f"{caller}(space=...): {name!r} has an option twice: {labels}.")
    return module.CategoricalDistribution(labels)


def _is_scalar(value: Any) -> bool:
    return hasattr(value, "dtype") and np.ndim(value) == 0


def _ends(distribution: Any) -> tuple[Any, Any]:
    """Return the least and the greatest value; of options the first and the last number."""
    choices = _choices(distribution)
    if choices is None:
        return distribution.low, distribution.high
    numbers = sorted(filter(is_number, choices)) or choices[:1]
    return numbers[0], numbers[-1]


def _choices(distribution: Any) -> Sequence[Any] | None:
    return getattr(distribution, "choices", None)


# --- samplers and storages ------------------------------------------------------------------------


def check_sampler(caller: str, sampler: str | BaseSampler, dimensions: Dimensions) -> None:
    """Raise unless this is a sampler, or the name of one that this space can have."""
    module = optuna_for(caller).samplers
    if isinstance(sampler, module.BaseSampler):
        return
    if not isinstance(sampler, str):
        raise TypeError(
            f"{caller}(sampler=...) must be a sampler of Optuna or one of "
            f"{', '.join(map(repr, SAMPLERS))}, got {shown(sampler)}."
        )
    check_choice(f"{caller}(sampler=...)", sampler, SAMPLERS)
    if sampler == "gp":
        if importlib.util.find_spec("torch") is None:
            raise ImportError(f"{caller}(sampler='gp') needs torch: pip install torch")
        require("scipy", "sweeps", f"{caller}(sampler='gp')")
    if sampler == "cmaes":
        require("cmaes", "search", f"{caller}(sampler='cmaes')")
    if sampler == "qmc":
        require("scipy", "sweeps", f"{caller}(sampler='qmc')")
    if sampler == "grid" and not math.isfinite(dimensions.size()):
        name = next(k for k, d in dimensions.distributions.items() if _choices(d) is None)
        raise ValueError(
            f"{caller}(sampler='grid') needs a list of values for each name, but {name!r} is a "
            "range. Give a list, such as numpy.logspace(-4, -1, 7)."
        )


def _sampler(caller: str, name: str, seed: int, dimensions: Dimensions) -> BaseSampler:
    optuna = optuna_for(caller)
    module = optuna.samplers
    with warnings.catch_warnings():  # some arguments are called experimental in some versions
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":  # trials that run count as bad ones, so that a round spreads
            return module.TPESampler(seed=seed, constant_liar=True)
        if name == "gp":
            return module.GPSampler(seed=seed)
        if name == "cmaes":
            return module.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if name == "qmc":
            return module.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
        if name == "random":
            return module.RandomSampler(seed=seed)
        lists = {k: list(_choices(d) or ()) for k, d in dimensions.distributions.items()}
        return module.GridSampler(lists, seed=seed)


def open_storage(caller: str, storage: str | os.PathLike[str] | BaseStorage | None) -> Any:
    """Return Optuna's storage, or None for memory."""
    optuna = optuna_for(caller)
    if storage is None or isinstance(storage, optuna.storages.BaseStorage):
        return storage
    if not isinstance(storage, (str, os.PathLike)):
        raise TypeError(
            f"{caller}(storage=...) must be the path of a file, a URL or a storage of Optuna, got "
            f"{shown(storage)}."
        )
    url = os.fspath(storage)
    if "://" not in url:
        path = Path(url)
        if path.is_dir():
            raise ValueError(f"{caller}(storage=...) must be the path of a file, got {url!r}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in JOURNALS:
            from optuna.storages.journal import JournalFileBackend

            return optuna.storages.JournalStorage(JournalFileBackend(url))
        url = f"sqlite:///{url}"
    more = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for last in (False, False, False, True):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=more)
        except Exception:  # two processes that make the same tables at the same time
            if last or not url.startswith("sqlite"):
                raise
            time.sleep(1)


# --- the study ------------------------------------------------------------------------------------


class Asking:
    """A study of Optuna, and the trials of it that this process runs.

    Attributes:
      study: Optuna's.
      exhausted: whether the sampler has no more trials to give.
    """

    def __init__(
        self,
        dimensions: Dimensions,
        identity: Mapping[str, Any] | None,
        *,
        storage: Any,
        study_name: str | None,
        sampler: str | BaseSampler,
        pruner: BasePruner | None,
        mode: str,
        key: Key | None,
        resume: bool,
    ):
        """Create or load the study.

        Args:
          dimensions: the space.
          identity: what decides the numbers of trials; None if the study is not stored.
          storage: of `open_storage`.
          study_name: see `search`.
          sampler: see `search`.
          pruner: Optuna's, or None.
          mode: "min" or "max".
          key: see `search`.
          resume: see `search`.
        """
        self.caller, self.dimensions = dimensions.caller, dimensions
        self.optuna = optuna = optuna_for(dimensions.caller)
        self.states = optuna.trial.TrialState
        self.shared, self.exhausted = storage is not None, False
        self.mine: dict[int, Trial] = {}  # number -> trial that runs here
        self.worker = f"worker {uuid.uuid4().hex[:12]}"
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        name = study_name or "search"
        self.what = f"{self.caller}(storage=..., study_name={name!r})"
        options = dict(storage=storage, study_name=name, pruner=pruner)
        direction = "minimize" if mode == "min" else "maximize"
        if self.shared and not resume:
            self._delete(options)
        try:
            self.study: Study = optuna.create_study(direction=direction, **options)
            new = True
        except optuna.exceptions.DuplicatedStudyError:
            self.study, new = optuna.load_study(**options), False
        before = self._workers()
        if identity is not None:
            self._check(identity)
            self._register()
        if not isinstance(sampler, str):
            self.study.sampler = sampler
            if not new:  # with its seed it would give what it has given already
                sampler.reseed_rng()
            return
        # Another process needs other numbers; the next call after this one ended gets its own.
        count = 0 if new else 1 + len(before)
        random = as_generator(key)
        if any(map(_is_alive, before.values())):
            random = np.random.default_rng(uuid.uuid4().int)
        seed = int(random.integers(2**32, size=count + 1)[-1])
        self.study.sampler = _sampler(self.caller, sampler, seed, dimensions)

    def _delete(self, options: dict[str, Any]) -> None:
        try:
            self.study = self.optuna.load_study(**options)
        except KeyError:
            return
        for worker in self._workers().values():
            if _is_alive(worker):
                raise RuntimeError(
                    f"{self.what} is in use by process {worker['pid']} on {worker['host']}, so it "
                    "cannot be deleted (resume=False). Wait until that has ended, or give another "
                    "study_name."
                )
        self.optuna.delete_study(study_name=options["study_name"], storage=options["storage"])

    def _check(self, identity: Mapping[str, Any]) -> None:
        """Raise if the study is that of another search; write down which one it is."""
        now = json.loads(json.dumps(dict(identity)))
        before = self.study.user_attrs.get(IDENTITY)
        anew = (
            f"To start anew, give another study_name, or {self.caller}(..., resume=False), which "
            "deletes the study that is there."
        )
        if before is None:
            if any(t.state != self.states.WAITING for t in self.study.get_trials(deepcopy=False)):
                raise ValueError(
                    f"{self.what} holds a study that {self.caller} did not make. {anew}"
                )
            self.study.set_user_attr(IDENTITY, now)
        elif changed := changed_arguments(before, now):
            raise ValueError(f"{self.what} holds a search with other {', '.join(changed)}. {anew}")

    # --- who runs what ---

    def _workers(self) -> dict[str, dict[str, Any]]:
        return {k: v for k, v in self.study.user_attrs.items() if k.startswith("worker ")}

    def _register(self) -> None:
        """Write down that this process is alive, now and every 30 seconds."""
        about = {"host": socket.gethostname(), "pid": os.getpid()}

        def beat() -> None:
            self.study.set_user_attr(self.worker, about | {"seen": time.time()})

        def beats() -> None:
            while not self._closed.wait(BEAT):
                try:
                    beat()
                except Exception as error:  # a database that is busy; the next one may be written
                    warnings.warn(f"{self.what}: no sign of life written: {error}", stacklevel=2)

        beat()
        self._thread = threading.Thread(target=beats, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of the trials that still run here: they are failed, and enqueued again."""
        for number, trial in list(self.mine.items()):
            self._again(number, trial.params)
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self.study.set_user_attr(self.worker, {**self._workers()[self.worker], "seen": 0.0})

    def adopt(self) -> None:
        """Enqueue again what processes that have died were running."""
        if not self.shared:
            return
        workers, now = self._workers(), time.time()
        for trial in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            if trial.number in self.mine:
                continue
            worker = workers.get(trial.user_attrs.get("worker", ""))
            if worker is None:  # it was killed right after it had asked, or is about to sign
                started = trial.datetime_start
                dead = started is None or now - started.timestamp() > STALE
            else:
                dead = not _is_alive(worker)
            if dead:
                self._again(trial.number, trial.params)

    def _again(self, number: int, params: Mapping[str, Any]) -> None:
        try:
            self._tell(number, state=self.states.FAIL)
        except ValueError:  # it has ended after all, or another process was faster
            return
        self.study.enqueue_trial(dict(params))

    def _tell(self, number: int, **outcome: Any) -> None:
        try:
            self.study.tell(number, **outcome)
        except RuntimeError as error:  # after it has been told; for `Study.optimize` only
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True
        finally:
            self.mine.pop(number, None)

    # --- ask and tell ---

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that are done, of all processes, by number."""
        done = (self.states.COMPLETE, self.states.PRUNED)
        return sorted(self.study.get_trials(deepcopy=False, states=done), key=lambda t: t.number)

    def ask(self, lanes: int, total: int) -> list[Trial]:
        """Return the next trials, at most `lanes`, so that all processes run `total` of them."""
        self.adopt()
        wanted = min(lanes, total - len(self._counted()))
        if self.exhausted or wanted <= 0:
            return []
        for _ in range(wanted):
            trial = self.study.ask(self.dimensions.distributions)
            self.mine[trial.number] = trial
            if self.shared:
                trial.set_user_attr("worker", self.worker)
        if self.shared:  # another process may have asked at the same time
            for number in self._counted()[total:]:
                if number in self.mine:
                    self._tell(number, state=self.states.FAIL)
        return list(self.mine.values())

    def _counted(self) -> list[int]:
        """Return the numbers of all trials that run or are done."""
        no = (self.states.WAITING, self.states.FAIL)
        return sorted(t.number for t in self.study.get_trials(deepcopy=False) if t.state not in no)

    def tell(
        self,
        trial: Trial,
        steps: int,
        values: np.ndarray,
        error: float,
        diverged_at: int | None,
        pruned: bool,
    ) -> None:
        """Tell the study how a trial ended.

        Args:
          trial: the trial.
          steps: that it took.
          values: of its repeats.
          error: the standard error of their mean.
          diverged_at: the step at which a repeat diverged, or None.
          pruned: whether it was stopped early.
        """
        trial.set_user_attr("steps", steps)
        if diverged_at is not None:
            trial.set_user_attr("diverged_at", diverged_at)
        if len(values) > 1 and diverged_at is None:
            trial.set_user_attr("values", values.tolist())
            trial.set_user_attr("error", error)
        try:
            if pruned or diverged_at is not None:
                self._tell(trial.number, state=self.states.PRUNED)
            else:
                self._tell(trial.number, values=float(values.mean()))
        except ValueError:  # another process took this one for dead, and has enqueued it again
            warnings.warn(
                f"{self.what}: trial {trial.number} was given to another process, as this one gave "
                f"no sign of life for {STALE:g} s; its value is not kept.",
                stacklevel=2,
            )


def _is_alive(worker: Mapping[str, Any]) -> bool:
    """Return whether a process that wrote this down still runs."""
    if time.time() - worker["seen"] > STALE:
        return False
    if worker["host"] != socket.gethostname() or sys.platform == "win32":
        return True
    try:
        os.kill(worker["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
