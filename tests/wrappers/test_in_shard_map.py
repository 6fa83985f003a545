"""Inside `jax.shard_map` an optimizer does what it does on whole arrays, or raises an error."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from registry import BY_NAME, CASES

import gdjax

KNOWS_PARTS = hasattr(jax, "shard_map")  # types say over which axes an array varies
CALL_FUNCTIONS = {"adahessian", "adahessian_averaged", "sam", "sam_adversary"}
NAMES = {case.name for case in CASES}
RULES = [
    case.name
    for case in CASES
    if case.name.removeprefix("scale_by_") not in NAMES - {case.name}
    and case.name not in CALL_FUNCTIONS
]
SPECS = {"b": P(), "w": P("x")}


def mesh(shape=(8,), names=("x",)):
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def shard_map(function, on, in_specs, out_specs, check=True):
    if KNOWS_PARTS:
        known = dict(mesh=on, in_specs=in_specs, out_specs=out_specs, check_vma=check)
        return jax.shard_map(function, **known)
    from jax.experimental.shard_map import shard_map

    return shard_map(function, on, in_specs, out_specs, check_rep=False)


def trees(like):
    rng = np.random.default_rng(0)
    return [{k: jnp.asarray(rng.normal(0.4, 1, s), jnp.float32) for k, s in like.items()} for _ in "ab"]


PARAMS, GRADS = trees({"b": (5,), "w": (16, 4)})


def extras(name):
    params, grads = ({k: np.asarray(x) for k, x in tree.items()} for tree in (PARAMS, GRADS))
    return BY_NAME[name].extras(params, grads, 1)


def steps(optimizer, params, grads, more=None, n=2):
    """Return the parameters and the state after a few steps, one program for all of them."""

    def step(carry, _):
        updates, state = optimizer.update(grads, carry[1], carry[0], **(more or {}))
        return (gdjax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=n)[0]


def collectives(program):
    found = r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    return re.findall(found, program.as_text())


def numbers(tree):
    return [
        np.asarray(x, np.float64)
        for x in jax.tree.leaves(tree)
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    ]


def assert_close(name, out, wanted, tol=1e-5):
    assert jax.tree.structure(out) == jax.tree.structure(wanted)
    for x, y in zip(numbers(out), numbers(wanted), strict=True):
        assert x.shape == y.shape
        bound = tol * (1e-3 + np.abs(y[np.isfinite(y)]).max(initial=0))
        np.testing.assert_allclose(x, y, rtol=0, atol=bound, err_msg=name)


def compare(names, check=True):
    """Assert that rows do inside what they do on whole arrays; return the compiled program."""
    opts = {k: BY_NAME[k].make(**BY_NAME[k].numbers) for k in names}
    more = {k: extras(k) for k in names}
    of_states = {k: gdjax.state_specs(opt, PARAMS, SPECS) for k, opt in opts.items()}

    def inside(params, grads):
        wrapped = {k: gdjax.in_shard_map(opt, SPECS) for k, opt in opts.items()}
        return {k: steps(opt, params, grads, more[k]) for k, opt in wrapped.items()}

    outs = {k: (SPECS, of_states[k]) for k in names}
    part = shard_map(inside, mesh(), (SPECS, SPECS), outs, check)
    program = jax.jit(part).lower(PARAMS, GRADS).compile()
    on_whole = jax.jit(
        lambda params, grads: {k: steps(opts[k], params, grads, more[k]) for k in names}
    )
    results, wanted = program(PARAMS, GRADS), on_whole(PARAMS, GRADS)
    for k in names:
        assert_close(k, results[k], wanted[k])
    return program


def is_refused(name, check=True):
    """Return whether the optimizer itself raises, which says what to do instead."""
    opt, more = BY_NAME[name].make(**BY_NAME[name].numbers), extras(name)

    def inside(grads, params):
        try:
            opt.update(grads, opt.init(params), params, **more)
        except RuntimeError as error:
            assert re.search("^[a-z_]+ combines elements .* mesh axis 'x'", str(error))
            assert "gdjax.in_shard_map(optimizer, specs)" in str(error)
            refused.append(name)
        return grads

    refused = []
    jax.eval_shape(shard_map(inside, mesh(), (SPECS, SPECS), SPECS, check), GRADS, PARAMS)
    return bool(refused)


@functools.cache
def refused_rows():
    return {name for name in RULES if is_refused(name)}


def batches(names, size=10):
    rows = iter(names)
    return iter(lambda: list(itertools.islice(rows, size)), [])


@pytest.mark.skipif(not KNOWS_PARTS, reason="needs arrays that know where they vary")
def test_rows_that_are_not_refused_exchange_nothing():
    rows = [name for name in RULES if name not in refused_rows()]
    assert {"adam", "adamw", "lion", "sgd", "rprop", "adamax"} <= set(rows)
    assert not {"lamb", "muon", "clip", "guard", "adafactor"} & set(rows)
    for names in batches(rows, 20):
        assert not collectives(compare(names))


@pytest.mark.parametrize("share", range(4))
def test_rows_that_combine_elements_are_those_of_whole_arrays(share):
    rows = [name for name in RULES if not KNOWS_PARTS or name in refused_rows()]
    for names in batches(rows[share::4]):
        compare(names, check=share % 2 == 0)
