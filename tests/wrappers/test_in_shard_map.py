"""Inside `jax.shard_map` an optimizer does what it does on whole arrays, or raises an error."""

import functools
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import BY_NAME, CASES

import gdjax

KNOWS_PARTS = hasattr(jax, "shard_map")  # types say over which axes an array varies
SPECS = {"b": P(), "w": P("x")}


def mesh(shape=(8,), names=("x",)):
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def shard_map(function, on, in_specs, out_specs, check=True):
    if KNOWS_PARTS:
        return jax.shard_map(
            function, mesh=on, in_specs=in_specs, out_specs=out_specs, check_vma=check
        )
    from jax.experimental.shard_map import shard_map

    return shard_map(function, on, in_specs, out_specs, check_rep=False)


def trees(like):
    rng = np.random.default_rng(0)
    return [
        {k: jnp.asarray(rng.normal(0.4, 1, s), jnp.float32) for k, s in like.items()} for _ in "ab"
    ]


PARAMS, GRADS = trees({"b": (5,), "w": (16, 4)})


def extras(name):
    params, grads = ({k: np.asarray(x) for k, x in tree.items()} for tree in (PARAMS, GRADS))
    return BY_NAME[name].extras(params, grads, 1)


NAMES = {case.name for case in CASES}
RULES = [
    case.name
    for case in CASES
    if case.name.removeprefix("scale_by_") not in NAMES - {case.name}
    and not any(map(callable, extras(case.name).values()))  # refused inside
]


def steps(optimizer, params, grads, more=None, n=2):
    """Return the parameters and the state after a few steps, one program for all of them."""

    def step(carry, _):
        updates, state = optimizer.update(grads, carry[1], carry[0], **(more or {}))
        return (gdjax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=n)[0]


def specs_of_state(optimizer, params, specs, on):
    def placed(x, spec):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(on, spec))

    shardings = gdjax.state_shardings(optimizer, jax.tree.map(placed, params, specs))
    return jax.tree.map(lambda x: x.spec, shardings)


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
    of_states = {k: specs_of_state(opt, PARAMS, SPECS, mesh()) for k, opt in opts.items()}

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
            assert re.search("^[a-z0-9_]+ combines elements .* mesh axis 'x'", str(error))
            assert "gdjax.in_shard_map(optimizer, specs)" in str(error)
            refused.append(name)
        return grads

    refused = []
    jax.eval_shape(shard_map(inside, mesh(), (SPECS, SPECS), SPECS, check), GRADS, PARAMS)
    return bool(refused)


@functools.cache
def refused_rows():
    return {name for name in RULES if is_refused(name)}


# What is not refused but exchanges: a part is too short to be factored, or all leaves are joined.
BY_SHAPE = {"scale_by_factored_rms", "flatten"}
SHARES = [0, *(pytest.param(i, marks=pytest.mark.rest) for i in range(1, 6))]


def share_of(rows, share):
    return [name for name in rows if zlib.crc32(name.encode()) % 6 == share]


@pytest.mark.slow
@pytest.mark.skipif(not KNOWS_PARTS, reason="needs arrays that know where they vary")
def test_what_is_refused():
    assert refused_rows() > {"lamb", "muon", "guard", "adafactor", "soap", "came"}
    assert not refused_rows() & {"adam", "adamw", "lion", "rprop", "adamax", "momentum", "groups"}


@pytest.mark.skipif(not KNOWS_PARTS, reason="needs arrays that know where they vary")
@pytest.mark.parametrize("share", SHARES)
def test_rows_that_are_not_refused_exchange_nothing(share):
    rows = [name for name in RULES if name not in refused_rows() | BY_SHAPE]
    assert not collectives(compare(share_of(rows, share)))


@pytest.mark.parametrize("share", SHARES)
def test_rows_that_combine_elements_are_those_of_whole_arrays(share):
    rows = [name for name in RULES if not KNOWS_PARTS or name in refused_rows() | BY_SHAPE]
    compare(share_of(rows, share), check=share % 2 == 0)


def test_columns_stacks_and_two_mesh_axes_with_every_kind_of_leaf():
    on = mesh((4, 2), ("x", "y"))
    like = {"c": (4, 16), "e": (0, 3), "s": (4, 6, 3), "t": (), "w": (8, 6)}
    splits = [P(None, ("y", "x")), P(), P("x", "y"), P(), P("x", "y")]
    specs = {**dict(zip(like, splits, strict=True)), "n": None}
    params, grads = ({**tree, "n": None} for tree in trees(like))
    params["c"] = grads["c"] = params["c"].astype(jnp.bfloat16)
    wanted, outs, opts = {}, {}, {}
    for name in ("adafactor", "lamb", "muon"):
        opts[name] = opt = BY_NAME[name].make(**BY_NAME[name].numbers)
        outs[name] = specs, specs_of_state(opt, params, specs, on)
        wanted[name] = jax.jit(functools.partial(steps, opt))(params, grads)

    def inside(params, grads):
        wrapped = {k: gdjax.in_shard_map(opt, specs) for k, opt in opts.items()}
        return {k: steps(opt, params, grads) for k, opt in wrapped.items()}

    results = jax.jit(shard_map(inside, on, (specs, specs), outs))(params, grads)
    for name in opts:  # a bfloat16 that lies between two may be rounded to either
        assert_close(name, results[name], wanted[name], tol=1e-2)
        for key in "stw":
            assert_close(name, results[name][0][key], wanted[name][0][key])


def test_a_mesh_of_one_device():
    """The shape of a part does not say then whether it is one."""
    on, opt = mesh((1,)), gdjax.lamb(0.1)
    specs = {k: P("x") for k in PARAMS}
    state = opt.init(PARAMS)
    of_state = specs_of_state(opt, PARAMS, specs, on)
    inside = shard_map(
        gdjax.in_shard_map(opt, specs).update, on, (specs, of_state, specs), (specs, of_state)
    )
    wanted = jax.jit(opt.update)(GRADS, state, PARAMS)
    assert_close("lamb", jax.jit(inside)(GRADS, state, PARAMS), wanted)


def test_a_stack_that_is_split_over_its_layers_needs_no_exchange():
    specs, params = (
        P("x"),
        jnp.asarray(np.random.default_rng(0).normal(size=(8, 6, 3)), jnp.float32),
    )
    opt, on = gdjax.muon(0.1), mesh()
    out = specs, specs_of_state(opt, params, specs, on)

    def inside(params, grads):
        return steps(gdjax.in_shard_map(opt, specs), params, grads)

    part = shard_map(inside, on, (specs, specs), out)
    program = jax.jit(part).lower(params, params).compile()
    assert not collectives(program)
    assert_close(
        "muon", program(params, params), jax.jit(functools.partial(steps, opt))(params, params)
    )


def test_each_device_may_train_parameters_of_its_own():
    opt = gdjax.lamb(0.1)
    own = gdjax.in_shard_map(opt, P())

    def inside(params, grads):
        one = functools.partial(jax.tree.map, lambda x: x[0])
        updates, _ = own.update(one(grads), own.init(one(params)), one(params))
        return jax.tree.map(lambda x: x[None], updates)

    params, grads = ({"w": x["w"].reshape(8, 2, 4)} for x in (PARAMS, GRADS))
    program = (
        jax.jit(shard_map(inside, mesh(), (P("x"), P("x")), P("x"))).lower(params, grads).compile()
    )
    assert not collectives(program)
    wanted = jax.vmap(lambda p, g: opt.update(g, opt.init(p), p)[0])(params, grads)
    assert_close("lamb", program(params, grads), wanted)


def test_outside_it_is_the_optimizer_itself():
    opt = gdjax.lamb(0.1)
    wrapped = gdjax.in_shard_map(opt, SPECS)
    state, wanted = wrapped.init(PARAMS), opt.init(PARAMS)
    assert_close("lamb", state, wanted, tol=0)
    assert_close(
        "lamb", wrapped.update(GRADS, state, PARAMS), opt.update(GRADS, wanted, PARAMS), 1e-7
    )


def test_errors_say_what_to_do():
    with pytest.raises(TypeError, match=r"specs=.*PartitionSpec"):
        gdjax.in_shard_map(gdjax.lamb(0.1), {"w": "x"})
    with pytest.raises(ValueError, match=r"tree like the parameters"):
        gdjax.in_shard_map(gdjax.lamb(0.1), {"w": P("x")}).init(PARAMS)
    with pytest.raises(ValueError, match=r"more axes than the parameter 'b'"):
        gdjax.in_shard_map(gdjax.lamb(0.1), {"b": P(None, "x"), "w": P()}).init(PARAMS)
    opt = gdjax.in_shard_map(gdjax.lamb(0.1), SPECS)
    state = opt.init({"b": PARAMS["b"], "w": PARAMS["w"][:8]})

    def inside(grads, params, **extra):
        return opt.update(grads, state, params, **extra)[0]

    with pytest.raises(ValueError, match=r"slots.mu.w.*gdjax.state_shardings"):
        jax.eval_shape(shard_map(inside, mesh(), (SPECS, SPECS), SPECS), GRADS, PARAMS)
    with pytest.raises(TypeError, match=r"value_fn= is a function"):
        value_fn = functools.partial(inside, value_fn=lambda params: 0.0)
        jax.eval_shape(shard_map(value_fn, mesh(), (SPECS, SPECS), SPECS), GRADS, PARAMS)


@pytest.mark.parametrize("check", [True, False])
def test_rates_of_width_scaling_are_for_the_whole_parameters(check):
    """They are checked by shape, and parts, and states that are looked at, have others."""
    params = {"w": jnp.linspace(-1.0, 1.0, 64).reshape(16, 4)}
    scaling = gdjax.width_scaling(params, {"w": jnp.ones((4, 4))})
    opt, specs = scaling.scaled(gdjax.adamw)(0.1), {"w": P("x")}
    wrapped = gdjax.in_shard_map(opt, specs)

    def step(params):
        return wrapped.update(params, wrapped.init(params), params)[0]

    whole = jax.device_put(params, NamedSharding(mesh(), P("x")))
    found = jax.jit(shard_map(step, mesh(), (specs,), specs, check))(whole)
    right = opt.update(params, opt.init(params), params)[0]
    np.testing.assert_allclose(found["w"], right["w"], rtol=1e-6)
