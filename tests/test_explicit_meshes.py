"""On meshes with explicit axes (`jax.make_mesh`) everything is as on one device."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from registry import CASES

import gdjax
from gdjax.core.explicit import SUPPORTED

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this JAX has no explicit axes")

# like shapes, so that a rule is traced once; not split, columns, rows and columns
SPLIT = {"b": (None,), "c": (None, "b"), "rc": ("a", "b")}
SHAPES = {"b": (8,), "c": (8, 8), "rc": (8, 8)}
FAST = {"xla_backend_optimization_level": 0}
PARTS = 12
NAMES = {case.name for case in CASES}


def mesh_of(kind="Explicit", **sizes):
    sizes = sizes or {"a": 4, "b": 2}
    kinds = (getattr(jax.sharding.AxisType, kind),) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds)


def parameters():
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(0.4, 1.0, s), jnp.float32) for k, s in SHAPES.items()}


def put(mesh, x, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def split(mesh, tree):
    axes = mesh.axis_names
    specs = {k: [n if n in axes else None for n in SPLIT[k]] for k in tree}
    return {k: put(mesh, x, *specs[k]) for k, x in tree.items()}


def types(tree):
    return [str(jax.typeof(x)) for x in jax.tree.leaves(tree)]


def slope(params, i=0):
    return jax.tree.map(lambda x: x + jnp.cos(3.0 * x), params)


def three_steps(opt, params, **extra):
    """Return the parameters, and what to evaluate with, after three steps in a scan."""

    def step(carry, _):
        params, state = carry
        updates, state = opt.update(slope(params), state, params, **extra)
        return (gdjax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, opt.init(params)), length=3)
    return params, gdjax.eval_params(state, params)


def run_all(runs, params):
    out = {}
    for name, run in runs.items():
        try:
            out[name] = run(params)
        except Exception as error:
            error.add_note(f"in {name}")
            raise
    return out


def fast(function, *args):
    return jax.jit(function).lower(*args).compile(FAST)(*args)


def check_like_one_device(runs):
    """Check that each function of the parameters is what it is on one device, in one program.

    A scan refuses a carry that changes its type, that is also its sharding.
    """
    one, run = parameters(), functools.partial(run_all, runs)
    many = split(mesh_of(), one)
    expected, actual = fast(run, one), fast(run, many)
    for name in runs:
        for a, b in zip(*map(jax.tree.leaves, (actual[name], expected[name])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
        for out in actual[name]:
            assert types(out) == types(many), name


def check_types_in_context(runs):
    """Check that they can be traced with `jax.set_mesh`, and the types of what they return."""
    mesh = mesh_of()
    many = split(mesh, parameters())
    with jax.set_mesh(mesh):
        for name, outs in jax.eval_shape(functools.partial(run_all, runs), many).items():
            for out in outs:
                assert [x.sharding.spec for x in jax.tree.leaves(out)] == [
                    jax.typeof(x).sharding.spec for x in jax.tree.leaves(many)
                ], name


def is_variant(name):
    """Return whether it is a row with other options, or the direction alone, of another one."""
    others = NAMES - {name}
    return name.removeprefix("scale_by_") in others or any(
        name.startswith(f"{other}_") for other in others
    )


@pytest.mark.parametrize("part", range(PARTS))
def test_every_optimizer_is_as_on_one_device(part):
    runs, flat = {}, {k: np.ones(s) for k, s in SHAPES.items()}
    for case in CASES[part::PARTS]:
        extra, opt = case.extras(flat, flat, 1), case.make(**case.numbers)
        runs[case.name] = lambda p, opt=opt, extra=extra: three_steps(opt, p, **extra)
    check_like_one_device({name: run for name, run in runs.items() if not is_variant(name)})
    check_types_in_context({name: run for name, run in runs.items() if is_variant(name)})


# each around the next one, and the last around the first
WRAPPERS = {
    "lookahead": lambda opt: gdjax.lookahead(opt, 2),
    "flatten": gdjax.flatten,
    "sam, opaque": lambda opt: gdjax.sam(opt, opaque_mode=True),
    "mars": gdjax.mars,
    "masked": lambda opt: gdjax.selective_transform(
        opt, freeze_mask=gdjax.by_path({"b": True, ".*": False})
    ),
    "average": lambda opt: gdjax.average(opt, 0.5),
    "accumulate": lambda opt: gdjax.accumulate(opt, 2),
    "schedule_free": lambda opt: gdjax.schedule_free(opt, 0.1),
    "clip": lambda opt: gdjax.chain(gdjax.clip_by_global_norm(1.0), opt),
    "guard": lambda opt: gdjax.guard(opt, gdjax.skip_large_updates, max_squared_norm=1e3),
    "cautious": gdjax.cautious,
    "groups": lambda opt: gdjax.groups({"c|b": opt, ".*": gdjax.sgd(0.1)}),
    "mechanize": lambda opt: gdjax.mechanize(opt, s_init=0.1),
    "sam": gdjax.sam,
    "noise": lambda opt: gdjax.chain(gdjax.add_noise(0.01, 0.5, key=0), gdjax.centralize(), opt),
    "skip_spikes": gdjax.skip_spikes,
    "gpa": gdjax.gpa,
    "ema_nesterov": gdjax.ema_nesterov,
    "agc": lambda opt: gdjax.chain(gdjax.adaptive_grad_clip(0.5), opt),
    "hyperball": lambda opt: gdjax.hyperball(opt, 0.01),
    "split_real_and_imaginary": gdjax.split_real_and_imaginary,
    "monitor": gdjax.monitor,
}


@pytest.mark.parametrize("part", range(3))
def test_wrappers_around_wrappers_are_as_on_one_device(part):
    names, runs = list(WRAPPERS), {}
    for i in range(part, len(names), 3):
        outer, inner = names[i], names[(i + 1) % len(names)]
        base = gdjax.muon(0.01) if i % 2 else gdjax.adam(0.01)
        opt = WRAPPERS[outer](WRAPPERS[inner](base))
        runs[f"{outer}({inner})"] = lambda p, opt=opt: three_steps(
            opt, p, grad_fn=slope, value=jnp.float32(2.0)
        )
    if part:
        check_types_in_context(runs)
    else:
        check_like_one_device(runs)


SOLVERS = {
    "lbfgs": lambda loss, r, p: gdjax.minimize(loss, p),
    "nonlinear_cg": lambda loss, r, p: gdjax.minimize(loss, p, gdjax.nonlinear_cg()),
    "newton_cg": lambda loss, r, p: gdjax.minimize(loss, p, gdjax.newton_cg()),
    "least_squares": lambda loss, r, p: gdjax.least_squares(r, p),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_call_functions_of_explicit_arrays(name):
    mesh, rng = mesh_of(), np.random.default_rng(1)
    a, y = (rng.normal(size=s).astype(np.float32) for s in ((24, 8), 24))
    rows, target = put(mesh, a, "a"), put(mesh, y, "a")
    like_target = NamedSharding(mesh, PartitionSpec("a"))

    def residuals(p):
        return jnp.einsum("ij,j->i", rows, p["w"], out_sharding=like_target) - target, p["m"] - 0.3

    def loss(p):
        return sum(jnp.sum(r**2) for r in residuals(p)) / 2

    start = {"w": put(mesh, jnp.zeros(8), "a"), "m": put(mesh, jnp.zeros((4, 2)), "a", "b")}
    with jax.set_mesh(mesh) if name == "lbfgs" else contextlib.nullcontext():
        result = SOLVERS[name](loss, residuals, start)
    assert result.converged and types(result.params) == types(start)
    np.testing.assert_allclose(result.params["w"], np.linalg.lstsq(a, y)[0], atol=1e-3)
    np.testing.assert_allclose(result.params["m"], 0.3, atol=1e-3)


def mixed(tree):
    return gdjax.projections.projection_simplex(tree), gdjax.second_order.hessian_diag(
        lambda p, x, y: sum(jnp.sum(x**4) for x in jax.tree.leaves(p)), tree, None, None
    )


def in_chunks(tree):
    labels = jnp.zeros(8, jnp.int32) + (tree["b"] > 0)
    return jax.grad(
        lambda p: jnp.sum(
            gdjax.losses.chunked_softmax_cross_entropy(p["c"], p["rc"], labels, chunk_size=4)
        )
    )(tree)


def pairs(tree):
    labels = jnp.arange(8) // 2
    return jax.grad(lambda p: gdjax.losses.ntxent(p["rc"], labels))(tree), gdjax.polar(tree["c"])


def eigenvector(tree):
    return tree, gdjax.power_iteration(abs(tree["c"])), gdjax.power_iteration(abs(tree["rc"]))


@pytest.mark.parametrize("function", [mixed, in_chunks, pairs, eigenvector])
def test_functions_that_mix_all_elements(function):
    one = parameters()
    many = split(mesh_of(), one)
    actual, expected = fast(function, many), fast(function, one)
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    like = jax.tree.leaves(actual)[: len(many)]
    assert types(like) == types(many)


def test_lanes_on_an_axis_of_their_own():
    mesh = mesh_of(a=4, lanes=2)
    x = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)

    def run(x):
        return three_steps(gdjax.muon(0.1), x)[0]

    many = put(mesh, x, "lanes", "a")
    out = fast(jax.vmap(run), many)
    assert jax.typeof(out) == jax.typeof(many)
    np.testing.assert_allclose(out, fast(jax.vmap(run), x), atol=1e-5)


def test_gradients_pass():
    one = parameters()

    def length(params):
        opt = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1, 0.5))
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(three_steps(opt, params)[0]))

    actual = fast(jax.grad(length), split(mesh_of(), one))
    for a, b in zip(*map(jax.tree.leaves, (actual, fast(jax.grad(length), one))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# --- communication --------------------------------------------------------------------------------

COLLECTIVE = re.compile(
    r" = (\S+|\(.*?\)) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)


def collectives(optimizers, kind):
    """Return the shapes of the outputs of all collectives in a step of optimizers on one axis."""
    mesh = mesh_of(kind, a=8)
    params = {"b": put(mesh, jnp.ones(8)), "r": put(mesh, jnp.ones((8, 16)), "a")}
    states = [opt.init(params) for opt in optimizers]

    def step(grads, states, params):
        steps = [opt.update(grads, s, params) for opt, s in zip(optimizers, states, strict=True)]
        return [gdjax.apply_updates(params, updates) for updates, _ in steps], [s for _, s in steps]

    text = jax.jit(step).lower(params, states, params).compile().as_text()
    return [f"{name} {shape}" for shape, name in COLLECTIVE.findall(text)]


ELEMENTWISE = [
    gdjax.sgd(0.1, momentum=0.9),
    gdjax.adamw(0.1),
    gdjax.lion(0.1),
    gdjax.adopt(0.1),
    gdjax.lookahead(gdjax.adam(0.1)),
    gdjax.schedule_free_adamw(0.1),
    gdjax.accumulate(gdjax.adam(0.1), 2),
    gdjax.groups({"r": gdjax.rmsprop(0.1), ".*": gdjax.adagrad(0.1)}),
]
OF_NORMS = [
    gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(0.1)),
    gdjax.lamb(0.1),
    gdjax.novograd(0.1),
    gdjax.apply_if_finite(gdjax.adam(0.1), 5),
]


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_elementwise_methods_do_not_communicate(kind):
    assert collectives(ELEMENTWISE, kind) == []


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_norms_take_one_sum_of_numbers(kind):
    found = collectives(OF_NORMS, kind)
    assert 0 < len(found) <= len(OF_NORMS)  # XLA joins what does not depend on each other
    for one in found:
        assert one.startswith("all-reduce") and not re.search(r"\[\d", one), one
