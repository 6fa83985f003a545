"""Compare optax's public names and arguments with `gdjax.compat.optax`, and print what differs.

python tests/compat/optax_names.py

`test_optax_names.py` demands that the two lists below say exactly what is printed here.
"""

import inspect
import types
import warnings

import optax

from gdjax.compat import optax as compat
from gdjax.compat.optax.left_out import hint

MODULES = (
    "", "losses", "schedules", "transforms", "projections", "tree", "perturbations", "assignment",
    "microbatching", "second_order", "contrib",
)  # fmt: skip

# Arguments that differ on purpose; docs/migrating.md says so too.
ARGUMENTS = {
    "MultiSteps": "accumulator_dtype=None is float32 or wider",
    "adadelta": "learning_rate=1.0, the paper's; None in optax, which then ascends",
    "adafactor": "dtype_momentum=None is float32 or wider",
    "add_noise": "key is required, as optax announces; seed is deprecated",
    "adopt": "the same default for clip_value_fn, another object",
    "differentially_private_aggregate": "key is required, as optax announces; seed is deprecated",
    "hutchinson_estimator_diag_hessian": "random_seed=0, which is what None means in optax",
    "lbfgs": "the same default for linesearch, another object",
    "nadam": "always Nesterov; formula= chooses between optax's and torch's",
    "nadamw": "as nadam",
    "noisy_sgd": "key=0, which is what None means in optax; seed is deprecated",
    "scale_by_adopt": "as adopt",
    "scale_by_factored_rms": "decay_rate_fn=None is the same schedule",
    "scale_by_learning_rate": "learning_rate is required; None in optax ascends at rate 1",
    "scale_by_zoom_linesearch": "approx_dec_rtol=None follows the dtype",
    "sophia": "without verbose and print_win_rate_every_n_steps; None is the same estimator",
}


def public(module):
    """Yield name and object of everything public in a module of optax except modules."""
    for name in dir(module):
        if not name.startswith("_"):
            thing = getattr(module, name)
            if not isinstance(thing, types.ModuleType):
                yield name, thing


def arguments(thing):
    """Return the parameters of a function or class; none of what has no signature."""
    try:
        return list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return []


def same(a, b):
    """Return whether two defaults are the same, functions and classes by name."""
    if type(a) is type(b) and not callable(a):
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
    """Return {module.name: why it is missing or ""} and {name: how its arguments differ}."""
    missing, different = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, which optax announces on access
        for module in MODULES:
            theirs = getattr(optax, module) if module else optax
            ours = compat if module in ("", "contrib") else getattr(compat, module, None)
            for name, thing in public(theirs):
                if not hasattr(ours, name):
                    missing[f"{module}.{name}".strip(".")] = hint(name).removeprefix("; ")
                elif found := list(differences(thing, getattr(ours, name))):
                    different[name] = ", ".join(found)
    return missing, different


if __name__ == "__main__":
    missing, different = audit()
    for name, why in missing.items():
        print(f"{name:50} {why or 'MISSING'}")
    for name, how in different.items():
        print(f"{name:50} {how} ({ARGUMENTS.get(name, 'UNEXPLAINED')})")
