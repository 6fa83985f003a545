"""Wrong values at every argument of every public function: each is meant, or named in the error.

The functions come from the public names, the arguments from the signatures, so a new function is
tested as soon as it exists; tests/fuzz_cases.py says how to call it. A value is either taken on
purpose, which is that the result can be used, or refused with the argument's name, by gdjax itself.
Nothing is compiled: what would compute is traced by `jax.eval_shape`.
"""

import contextlib
import inspect
import re
import sys
import traceback
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzz_cases import BY_NAME, KEY, OWN, PARAMS, loss_of

import gdjax
from gdjax.namespace import HOMES

MODULES = ("projections", "proximal", "perturbations", "assignment", "second_order", "models")
MODULES += ("microbatching", "tree")


def public_functions():
    """Return name -> function, for all that are not classes."""
    found = {name: getattr(gdjax, name) for name in HOMES}
    found = {k: v for k, v in found.items() if callable(v)}
    known = set(map(id, found.values()))
    for module in MODULES:
        place = getattr(gdjax, module)
        for name in dir(place):
            value = getattr(place, name)
            home = getattr(value, "__module__", None) or ""
            if name[0] == "_" or not callable(value) or id(value) in known:
                continue
            if home.startswith(f"gdjax.{module}"):
                found[f"{module}.{name}"] = value
    return {k: v for k, v in found.items() if not inspect.isclass(v)}


FUNCTIONS = public_functions()
SKIPPED = {name for name, own in OWN.items() if own is None}

BAD = {
    "None": None,
    "str": "a",
    "empty str": "",
    "bytes": b"a",
    "True": True,
    "np.bool": np.bool_(True),
    "nan": float("nan"),
    "inf": float("inf"),
    "-1": -1,
    "-0.0": -0.0,
    "2.5": 2.5,
    "10**400": 10**400,
    "complex": 1j,
    "object": object(),
    "dict": {},
    "list": [],
    "wrong tree": {"wrong": 1.0},
    "tree of str": {"w": "no", "b": "no"},
    "int array": jnp.arange(3),
    "0-d": jnp.asarray(0.5),
    "0-d bool": np.asarray(True),
    "object array": np.array([object()]),
    "array": jnp.full((2, 5), 0.5),
}


def base_call(name):
    """Return the arguments of a valid call, by name."""
    own = OWN.get(name, {})
    given = dict(own)
    for p in inspect.signature(FUNCTIONS[name]).parameters.values():
        if p.name not in given and p.default is p.empty and p.kind is not p.VAR_KEYWORD:
            given[p.name] = BY_NAME[p.name]
    return given


def call(name, given):
    """Call a function by argument names, also where these are positional only, or starred."""
    args, kwargs = [], dict(given)
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    starred = any(p.kind is p.VAR_POSITIONAL and p.name in given for p in parameters)
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL and p.name in kwargs:
            args.append(kwargs.pop(p.name))
        elif p.kind is p.POSITIONAL_ONLY or starred and p.kind is p.POSITIONAL_OR_KEYWORD:
            if p.name in kwargs:
                args.append(kwargs.pop(p.name))
    return FUNCTIONS[name](*args, **kwargs)


EXTRAS = dict(
    value=jnp.ones(()),
    grad=PARAMS,
    value_fn=loss_of,
    grad_fn=lambda p, *_: p,
    obj_fn=loss_of,
    key=KEY,
    max_logits=None,
    residual_fn=lambda p, *_: p["b"],
    output_fn=lambda p: p["b"],
    sampled_obj_fn=lambda params, *_: loss_of(params),
    batch_size=4,
)
PER_EXAMPLE = {"dpsgd", "differentially_private_aggregate"}


def use(name, result):
    """Use what a call returned."""
    if isinstance(result, gdjax.Optimizer):
        state = result.init(PARAMS)
        grads = PARAMS
        if name in PER_EXAMPLE:
            grads = jax.tree.map(lambda x: x[None], PARAMS)
        return result.update(grads, state, PARAMS, **EXTRAS)[0]
    if isinstance(result, gdjax.Schedule):
        return result(jnp.asarray(3))
    return None


def spoiled(name):
    """Yield (argument, what, value) for every argument of a function."""
    for p in inspect.signature(FUNCTIONS[name]).parameters.values():
        if p.kind is not p.VAR_KEYWORD:
            for what, value in BAD.items():
                if what != "list" or (name, p.name) not in EMPTY:
                    yield p.name, what, value


def verdict(name, argument, value):
    """Return None if a value is taken and works, or refused by name; else what is wrong."""
    given = base_call(name) | {argument: value}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(name, given)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(map(str, error.args))
        if "/gdjax/" not in last.filename.replace("\\", "/"):
            return f"{type(error).__name__} from {last.filename}:{last.lineno}: {text[:160]}"
        if not isinstance(error, (ValueError, TypeError, NotImplementedError)):
            return f"{type(error).__name__}: {text[:160]}"
        names = {argument, *ALSO.get(argument, ()), *ALSO.get((name, argument), ())}
        if not any(re.search(rf"\b{word}\b", text) for word in names):
            return f"does not name the argument: {text[:160]}"
    return None


# What errors call an argument, if not by its name: as the state does, or by what it is of.
ALSO = {
    "params": ["parameters"],
    "updates": ["gradients"],
    "grads": ["gradients"],
    ("sm3", "momentum"): ["b1"],
    ("lr_find", "name"): ["space"],
    ("dpsgd", "momentum"): ["decay"],
    "betas": ["b1", "b2"],
    "scaling": ["a number"],  # of a proximal operator
    "l1reg": ["a number"],
    "l2reg": ["a number"],
    ("sophia", "weight_decay_mask"): ["mask"],
    ("scale_by_schedule", "step_size_fn"): ["step_size"],
    ("schedule_free", "learning_rate"): ["weight_learning_rate"],
    ("projected_gradient", "numbers"): ["reg"],
    "hyperparams": ["rule", "tree_rule", "tree"],  # those of the user's rule
    "logits": ["axis"],  # the axis that they do not have
    "labels": ["axis"],
}

# An empty list is a tree without arrays, where these want one array.
EMPTY = {("nnls", "A"), ("nnls", "b"), ("power_iteration", "matrix")}
EMPTY |= {("matrix_inverse_pth_root", "matrix"), ("safe_norm", "axis")}

# Whole runs, of which the test sees all up to where the program is compiled; and plain Python.
RUNS = ["fit", "sweep", "successive_halving", "hyperband", "median_stop", "lr_find"]
RUNS += ["population_based_training", "search", "coordinate_check"]
PYTHON = ["grid", "sample", "uniform", "log_uniform", "choice"]


class _ReachedTheRun(Exception):
    """All that a run does before its program is compiled has been done."""


def _stop(*args, **kwargs):
    raise _ReachedTheRun


def run(name, given):
    if name in RUNS:
        with pytest.MonkeyPatch.context() as patch:
            for module in ("fit", "lr_find", "pool"):
                patch.setattr(sys.modules[f"gdjax.training.{module}"], "execute", _stop)
            patch.setattr(sys.modules["gdjax.training.pool"], "compile_plan", _stop)
            patch.setattr(sys.modules["gdjax.training.coordinate_check"], "_run", _stop)
            with contextlib.suppress(_ReachedTheRun):
                call(name, given)
    elif name in PYTHON:
        call(name, given)
    else:
        jax.eval_shape(lambda: (use(name, call(name, given)), 0)[1])


def problems(name):
    return {
        f"{name}({argument}={what})": problem
        for argument, what, value in spoiled(name)
        if (problem := verdict(name, argument, value)) is not None
    }


@pytest.fixture(autouse=True)
def whole_tracebacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for directory="a"
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


def test_every_public_function_is_here():
    assert {"adam", "fit", "tree.add", "projections.projection_box"} <= FUNCTIONS.keys()
    assert OWN.keys() <= FUNCTIONS.keys(), "tests/fuzz_cases.py names functions that do not exist"
    assert SKIPPED == {"schedule", "apply_updates"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - SKIPPED))
def test_wrong_values_are_named(name):
    given = base_call(name)  # a new argument that is required needs a value in tests/fuzz_cases.py
    run(name, given)
    found = problems(name)
    assert not found, "\n".join(f"{k}: {v}" for k, v in found.items())
