"""Compare optax's names and arguments with `gdjax.compat.optax`, and print what differs.

    python tests/compat/optax_names.py         what optax has
    python tests/compat/optax_names.py --use   what public code uses of it, by repositories

`test_optax_names.py` demands that `ARGUMENTS` says exactly what the first one prints. The list of
the second one is `optax_public_use.txt`.
"""

import importlib
import inspect
import sys
import types
import warnings
from pathlib import Path

from gdjax.compat import optax as compat
from gdjax.compat.optax.private import public_names

MODULES = (
    "", "assignment", "contrib", "experimental", "experimental.aggregating", "losses",
    "microbatching", "perturbations", "projections", "schedules", "second_order", "transforms",
    "tree", "tree_utils",
)  # fmt: skip

# Arguments that differ on purpose; docs/guides/migrating.md says so too.
ARGUMENTS = {"scale_by_factored_rms": "decay_rate_fn=None is optax's default function"}

# Used by public code, but not given, with the reason.
NOT_GIVEN = {
    "_src.linesearch.zoom_linesearch": "inside scale_by_zoom_linesearch; in one file",
}


def public_use():
    """Return {name: repositories that use it}, 0 if they are not known."""
    text = Path(__file__).with_name("optax_public_use.txt").read_text()
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {name: int(count.replace("-", "0")) for name, count, *_ in lines}


def find(package, name):
    """Return what a dotted name is in a package, importing modules on the way."""
    found = importlib.import_module(package)
    for part in name.split(".") if name else ():
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


def public(module):
    """Return everything public in a module except modules, also what is deprecated."""
    names = {*dir(module), *getattr(module, "_deprecations", ())}
    found = {name: getattr(module, name, None) for name in names if not name.startswith("_")}
    return {
        name: thing
        for name, thing in sorted(found.items())
        if thing is not None and not isinstance(thing, types.ModuleType)
    }


def arguments(thing):
    """Return the parameters of a function or class; none of what has no signature."""
    try:
        return list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return []


def same(a, b):
    """Return whether two defaults are the same, functions by a value and objects by class."""
    if inspect.isfunction(a) and inspect.isfunction(b):
        try:
            return bool(a(16.0) == b(16.0))
        except TypeError:
            return a is b
    if type(a) is type(b) and not isinstance(a, tuple | type):
        return a == b
    return getattr(a, "__name__", type(a).__name__) == getattr(b, "__name__", type(b).__name__)


def differences(theirs, ours):
    """Yield what code written for `theirs` would find different in a call of `ours`."""
    theirs, ours = arguments(theirs), arguments(ours)
    keywords = {p.name: p for p in ours}
    for i, p in enumerate(theirs):
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        mine = keywords.get(p.name)
        if mine is None:
            yield f"no {p.name}"
            continue
        if p.kind is not p.KEYWORD_ONLY and (i >= len(ours) or ours[i].name != p.name):
            yield f"{p.name} at another position"
        if p.kind is p.POSITIONAL_OR_KEYWORD and mine.kind is not p.POSITIONAL_OR_KEYWORD:
            yield f"{p.name} is {mine.kind.description}"
        if p.default is not p.empty and not same(p.default, mine.default):
            yield f"{p.name}={mine.default!r}, not {p.default!r}"
    known = {p.name for p in theirs}
    for p in ours:
        if p.name not in known and p.default is p.empty and "VAR_" not in p.kind.name:
            yield f"{p.name} is required"


def audit():
    """Return names that gdjax lacks, names that optax lacks, and {name: how arguments differ}."""
    missing, more, different = [], [], {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, which optax announces on access
        for module in MODULES:
            ours, theirs = find(compat.__name__, module), public(find("optax", module))
            for name, thing in theirs.items():
                full = f"{module}.{name}".strip(".")
                if not hasattr(ours, name):
                    missing.append(full)
                elif found := list(differences(thing, getattr(ours, name))):
                    different[full] = ", ".join(found)
            mine = public_names(inspect.getsource(ours)) if module else {*dir(ours)}
            mine = {name for name in mine if not name.startswith("_")} - theirs.keys()
            if module:  # at the top level, modules too
                mine -= {n for n in mine if isinstance(getattr(ours, n), types.ModuleType)}
            else:
                mine -= {m.partition(".")[0] for m in MODULES}
            more += [f"{module}.{name}".strip(".") for name in sorted(mine)]
    return missing, more, different


def lacking():
    """Return the names that public code uses, optax has, and `gdjax.compat.optax` has not."""

    def has(package, name):
        try:
            find(package, name)
        except (AttributeError, ImportError):
            return False
        return True

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [name for name in public_use() if has("optax", name)]
        return [name for name in names if not has(compat.__name__, name)]


if __name__ == "__main__":
    if "--use" in sys.argv:
        absent = lacking()
        for name, count in sorted(public_use().items(), key=lambda item: -item[1]):
            print(f"{name:60} {count or '':4} {'MISSING' if name in absent else ''}")
    else:
        missing, more, different = audit()
        for name in missing:
            print(f"{name:60} MISSING")
        for name in more:
            print(f"{name:60} NOT IN OPTAX")
        for name, how in different.items():
            print(f"{name:60} {how} ({ARGUMENTS.get(name, 'UNEXPLAINED')})")
