"""Run optax's own tests, from where optax is installed, on `gdjax.compat.optax`.

    python tests/compat/optax_suite.py            all of them, on gdjax
    python tests/compat/optax_suite.py masking    only files whose path contains a word
    python tests/compat/optax_suite.py --real     on optax itself

A test counts if it passes on optax itself. `optax_suite_failures.py` lists those that do not, and
says for each one that passes there but not here why. Each file runs in a process of its own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import NamedTuple

from optax_suite_failures import FAILURES, NOT_ON_OPTAX


@functools.cache  # before gdjax takes optax's place
def folder() -> Path:
    """Return where optax is installed, without importing it."""
    where = importlib.metadata.distribution("optax").locate_file("optax/__init__.py")
    return Path(str(where)).parent


def files(words: list[str]) -> list[Path]:
    found = sorted(folder().rglob("*_test.py"))
    return [p for p in found if not words or any(w in str(p) for w in words)]


def load(name: str, path: Path):
    """Import a file as a module of this name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Results(unittest.TestResult):
    """Test -> None if it passed, "skipped", or the last line of its error."""

    def __init__(self):
        super().__init__()
        self.found, self.started = {}, 0.0

    def startTest(self, test):
        super().startTest(test)
        self.found.setdefault(test.id(), None)

    def addSkip(self, test, reason):
        name = getattr(test, "test_case", test).id()  # of a subtest: the test's
        self.found[name] = self.found.get(name) or "skipped"

    def note(self, test, error):
        if error is not None:
            kind, value, _ = error
            lines = [line for line in str(value).splitlines() if line.strip()] or [""]
            self.found[getattr(test, "test_case", test).id()] = f"{kind.__name__}: {lines[0]}"[:300]

    addError = addFailure = note

    def addSubTest(self, test, subtest, error):
        self.note(test, error)


def run_file(path: Path, real: bool) -> dict[str, str | None]:
    """Run a file's tests in this process."""
    from absl import flags

    flags.FLAGS(["test"])
    folder()
    if not real:
        import gdjax.compat

        gdjax.compat.install()
        load("optax._src.test_utils", folder() / "_src" / "test_utils.py")
        import optax._src

        optax._src.test_utils = sys.modules["optax._src.test_utils"]
        if path.name in ("_common_test.py", "_schedule_test.py"):  # take data from another test
            load("optax._src.alias_test", folder() / "_src" / "alias_test.py")
            optax._src.alias_test = sys.modules["optax._src.alias_test"]
    name = str(path.relative_to(folder()).with_suffix("")).replace("/", ".")
    try:
        module = load(f"suite.{name}", path)
    except Exception as error:
        return {f"{name}: import": f"{type(error).__name__}: {error}"}
    results = Results()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(results)
    return {short(test): how for test, how in results.found.items()}


def short(test: str) -> str:
    """Return a test's name without its arguments, which its number stands for."""
    return test.removeprefix("suite.").split(" (")[0]


def run_apart(path: Path, real: bool) -> dict[str, str | None]:
    """Run a file's tests in a process of its own."""
    command = [sys.executable, __file__, "--file", str(path), *(["--real"] if real else [])]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {f"{path.name}: process": done.stderr[-2000:] or "no result"}


def run_all(words: list[str], real: bool, workers: int) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for part in pool.map(lambda path: run_apart(path, real), files(words)):
            found |= part
    return found


class Report(NamedTuple):
    """How tests that pass on optax itself fared here: lists of names, but for the dict."""

    passed: list[str]
    listed: list[str]
    unlisted: dict[str, str]
    listed_but_passed: list[str]

    def __str__(self) -> str:
        counted = len(self.passed) + len(self.listed) + len(self.unlisted)
        lines = [
            f"{len(self.passed)} passed of {counted} that pass on optax; {len(self.listed)} fail "
            "as listed."
        ]
        if self.unlisted:
            lines.append("These fail unlisted:")
            lines += [f"  {test}\n      {how}" for test, how in self.unlisted.items()]
        if self.listed_but_passed:
            lines += ["These are listed but pass:", *(f"  {t}" for t in self.listed_but_passed)]
        return "\n".join(lines)


def compared(found: dict[str, str | None]) -> Report:
    """Compare what was found here with the lists of `optax_suite_failures.py`."""
    counted = {test: how for test, how in found.items() if test not in NOT_ON_OPTAX}
    passed = [test for test, how in counted.items() if how is None]
    failed = {test: how for test, how in counted.items() if how is not None}
    return Report(
        passed,
        [test for test in failed if test in FAILURES],
        {test: how for test, how in failed.items() if test not in FAILURES},
        [test for test in passed if test in FAILURES],
    )


def of_optax(found: dict[str, str | None]) -> str:
    """Say what `NOT_ON_OPTAX` must have, and has not, after a run on optax itself."""
    lines = [
        f"{test}\n    {how}"
        for test, how in found.items()
        if how is not None and test not in NOT_ON_OPTAX
    ]
    lines += [f"{t} passes, but is listed" for t in found if found[t] is None and t in NOT_ON_OPTAX]
    passed = sum(how is None for how in found.values())
    return "\n".join([*lines, f"{passed} passed of {len(found)} on optax itself."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--real", action="store_true", help="on optax itself")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write test -> error here")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        print("\n" + json.dumps(run_file(options.file, options.real)))
        return
    start = time.time()
    found = run_all(options.words, options.real, options.workers)
    print(of_optax(found) if options.real else compared(found))
    print(f"{time.time() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
