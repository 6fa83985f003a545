"""Numbers tuned on a narrow model hold for a wide one: multipliers, sizes, and runs."""

import functools
import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

SHAPES = {  # path -> shape in the base model, shape, kind, i, o
    "conv": ((3, 3, 8, 16), (3, 3, 32, 64), "hidden", 4, 4),
    "embed": ((100, 8), (100, 32), "input", 1, 4),
    "gate": ((8, 16), (32, 16), "output", 4, 1),
    "norm": ((8,), (32,), "vector", 1, 4),
    "scalar": ((), (), "fixed", 1, 1),
    "up": ((8, 16), (32, 128), "hidden", 4, 8),
    "query/bias": ((2, 4), (8, 4), "vector", 1, 4),
    "query/kernel": ((8, 2, 4), (32, 8, 4), "hidden", 4, 4),
}


def shapes(which):
    return {k: jax.ShapeDtypeStruct(row[which], jnp.float32) for k, row in SHAPES.items()}


def test_kinds_and_multipliers_are_those_of_table_3():
    scaling = gdjax.width_scaling(shapes(1), shapes(0))
    tables = {
        "adam": lambda kind, i, o: 1 / i,
        "sgd": lambda kind, i, o: o / i,
        "muon": lambda kind, i, o: 1 / i,  # of what is no matrix of two axes; `up` is below
    }
    rates = {like: scaling.learning_rate(like).over("", shapes(1)) for like in tables}
    for n, (width, (name, row)) in enumerate(zip(scaling.widths, sorted(SHAPES.items()))):
        assert width[:6] == (name, *row), name
        for like, rate in tables.items():
            expected = math.sqrt(8 / 4) if (like, name) == ("muon", "up") else rate(*row[2:])
            np.testing.assert_allclose(rates[like][n], expected, err_msg=f"{like} {name}")
        power = {"hidden": 0.5, "output": 1}.get(width.kind, 0)
        assert width.init_scale() == row[3] ** -power


def rank_one(shape):
    """Return a gradient as a wide model has it: of one direction, with entries 1 / fan_out."""
    rng = np.random.default_rng(0)
    rows, columns = (rng.choice([-1.0, 1.0], n) for n in shape)
    return jnp.asarray(np.outer(rows, columns) / shape[1], jnp.float32)


OPTIMIZERS = {
    "adam": (gdjax.adam, dict(eps=0.0)),
    "sgd": (gdjax.sgd, {}),
    "muon": (gdjax.muon, {}),
    "muon-rms": (gdjax.muon, dict(consistent_rms=0.2)),
    "soap_muon": (gdjax.soap_muon, {}),
    "dion2": (gdjax.dion2, dict(scale="spectral")),
    "scion": (gdjax.scion, dict(radius=1.0, constrained=False)),
    **{
        f"shampoo{name}": (gdjax.shampoo, dict(precondition_frequency=1, **kwargs))
        for name, kwargs in {
            "-blocks": dict(graft=None, merge_dims=False, block_size=8),
            "-one-sided": dict(graft=None, merge_dims=False, one_sided=True, exponent=0.25),
        }.items()
    },
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_has_the_spectral_norm_of_the_condition(name):
    """It is sqrt(fan_out / fan_in) times that of the base model: of shape (8, 16) and (32, 24)."""
    factory, kwargs = OPTIMIZERS[name]
    base, params = {"w": jnp.zeros((8, 16))}, {"w": jnp.zeros((32, 24))}
    norms = []
    for tree in (base, params):
        opt = gdjax.width_scaling(tree, base, params).scaled(factory)(0.1, **kwargs)
        updates, _ = opt.update({"w": rank_one(tree["w"].shape)}, opt.init(tree), tree)
        norms.append(np.linalg.norm(updates["w"], 2))
    assert norms[0] > 0
    np.testing.assert_allclose(norms[1] / norms[0], math.sqrt((24 / 16) / (32 / 8)), rtol=2e-3)


def test_the_numbers_of_adamw():
    params, base = shapes(1), shapes(0)
    opt = gdjax.width_scaling(params, base).scaled(gdjax.adamw)(0.1, weight_decay=0.01)
    state = opt.init(jax.tree.map(lambda x: jnp.zeros(x.shape), params))
    rates, decays, eps = (
        state.hyperparams[k].over("", params) for k in ("learning_rate", "weight_decay", "eps")
    )
    np.testing.assert_allclose(np.multiply(rates, decays), 1e-3, rtol=1e-6)
    names = sorted(SHAPES)
    np.testing.assert_allclose(rates[names.index("up")], 0.1 / 4, rtol=1e-6)
    np.testing.assert_allclose(eps, [1e-8 / SHAPES[name][4] for name in names], rtol=1e-6)
    numbers = gdjax.hyperparams(state)
    assert numbers["learning_rate"] == np.float32(0.1)
    assert numbers["learning_rate.multipliers.hidden"] == 0.25
    state = gdjax.with_hyperparams(state, learning_rate=0.2)
    rates = state.hyperparams["learning_rate"].over("", params)
    np.testing.assert_allclose(rates[names.index("gate")], 0.05, rtol=1e-6)


def test_partial_factories_have_the_rule_of_their_arguments():
    """Shampoo without a graft needs no multiplier here, with that of Adam 1/4."""
    params, base = {"w": jnp.ones((32, 32))}, {"w": jnp.ones((8, 8))}
    scaling = gdjax.width_scaling(params, base)
    ungrafted = functools.partial(gdjax.shampoo, merge_dims=False, graft=None)
    for factory, rate in (
        (scaling.scaled(ungrafted), 1.0),
        (scaling.scaled(functools.partial(ungrafted, graft="adam")), 0.25),
    ):
        numbers = gdjax.hyperparams(factory(0.1).init(params))
        assert numbers["learning_rate.multipliers.hidden"] == rate
    with_rate = scaling.scaled(functools.partial(gdjax.adam, 0.1))
    assert "learning_rate" not in inspect.signature(with_rate).parameters
    assert gdjax.hyperparams(with_rate().init(params))["learning_rate.multipliers.hidden"] == 0.25


def test_muon_takes_hidden_matrices_and_adam_the_rest():
    trees = [
        {k: jnp.full(row[n], 0.5) for k, row in SHAPES.items() if k in ("up", "embed", "gate")}
        for n in (1, 0)
    ]
    opt = gdjax.width_scaling(*trees).scaled(gdjax.muon)(
        0.1, adam_learning_rate=0.01, nesterov=False
    )
    updates, _ = opt.update(trees[0], opt.init(trees[0]), trees[0])
    np.testing.assert_allclose(updates["embed"], -0.01, rtol=1e-4)
    np.testing.assert_allclose(updates["gate"], -0.01 / 4, rtol=1e-4)
    width = np.linalg.norm(updates["up"], 2) / (0.1 * math.sqrt(8 / 4) * 1.0)
    assert 0.6 < width < 1.3  # the polar factor of Keller's coefficients


def test_initial_sizes_do_not_depend_on_the_initializer():
    rng = np.random.default_rng(0)
    names = ("embed", "gate", "norm", "up")
    base, params = (
        {k: jnp.asarray(size * rng.normal(size=SHAPES[k][n]), dtype) for k in names}
        for n, size, dtype in ((0, 1.0, jnp.float32), (1, 7.0, jnp.bfloat16))
    )
    new = gdjax.width_scaling(params, base).init(params, base)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(new))

    def rms(x):
        return np.sqrt(np.mean(np.square(np.asarray(x, np.float32))))

    for name, factor in {"up": 0.5, "embed": 1.0, "gate": 0.25}.items():
        np.testing.assert_allclose(rms(new[name]), factor * rms(base[name]), rtol=5e-3)
    np.testing.assert_array_equal(new["norm"], params["norm"])
    zero = {"w": jnp.zeros((8, 8))}
    np.testing.assert_array_equal(gdjax.width_scaling(zero, zero).init(zero, zero)["w"], 0.0)


def test_axes_that_are_stored_otherwise():
    base = {"embed": jnp.ones((50, 8)), "experts": jnp.ones((2, 16, 8)), "none": None}
    params = {"embed": jnp.ones((50, 16)), "experts": jnp.ones((4, 64, 16)), "none": None}
    numbers = {
        r"embed": gdjax.MuonDimensionNumbers(0, 1),
        "experts": gdjax.MuonDimensionNumbers(2, 1),
    }
    scaling = gdjax.width_scaling(params, base, layout="out_in", dimension_numbers=numbers)
    assert [w.kind for w in scaling.widths] == ["input", "hidden"]
    assert scaling.widths[1][4:6] == (2.0, 4.0)
    weight = gdjax.width_scaling(jnp.ones((32, 8)), jnp.ones((8, 8)), layout="out_in")
    assert weight.widths[0].kind == "input"
    vector = gdjax.width_scaling(
        {"g": jnp.ones((4, 32))}, {"g": jnp.ones((4, 8))}, dimension_numbers={"g": None}
    )
    assert vector.widths[0].kind == "vector"


AMBIGUOUS = {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(3)}  # as in Haiku


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: gdjax.width_scaling({"w": jnp.ones((4, 4, 4))}, {"w": jnp.ones((2, 2, 2))}),
            "more than two axes of 'w' differ, (2, 2, 2) and (4, 4, 4)",
        ),
        (
            lambda: gdjax.width_scaling({"w": jnp.ones(4)}, {"w": jnp.ones((2, 2))}),
            "'w' has the shape (4,), in base_params (2, 2), in wide_params (4,); the number",
        ),
        (
            lambda: gdjax.width_scaling({"w": jnp.ones(4)}, {"v": jnp.ones(4)}),
            "base_params=...) must be a tree like params",
        ),
        (
            lambda: gdjax.width_scaling(jnp.ones(4), jnp.ones(4), dimension_numbers={"x": None}),
            "the pattern 'x' is the first match of no parameter",
        ),
        (
            lambda: gdjax.width_scaling(jnp.ones((4, 4)), jnp.ones((4, 4))).scaled(gdjax.muon)(0.1),
            "which are hidden matrices is not known. Pass the parameters of a wider model",
        ),
        (
            lambda: gdjax.width_scaling(jnp.ones(4), jnp.ones(4)).scaled(gdjax.prodigy),
            "got 'prodigy', whose steps are of unknown size",
        ),
        (
            lambda: gdjax.width_scaling(jnp.ones(4), jnp.ones(4)).scaled(3.0),
            "got 3.0, whose steps are of unknown size",
        ),
        (
            lambda: gdjax.width_scaling(jnp.ones(4), jnp.ones(4)).scaled(
                functools.wraps(gdjax.shampoo)(lambda rate: gdjax.shampoo(rate, graft=None))
            ),
            "must be gdjax.shampoo itself, got another function of that name",
        ),
        (
            lambda: (
                gdjax.width_scaling({"a": jnp.ones(4)}, {"a": jnp.ones(4)})
                .scaled(gdjax.sgd)(0.1)
                .init({"b": jnp.ones(4)})
            ),
            "width_scaling: there was no parameter 'b', only 'a'",
        ),
        (
            lambda: gdjax.width_scaling(AMBIGUOUS, AMBIGUOUS),
            "width_scaling: the parameters have the path 'a/b' twice",
        ),
        (
            lambda: gdjax.coordinate_check(
                lambda width, key: (
                    lambda p, b: (jnp.sum(p["a/b"]), p),
                    AMBIGUOUS,
                    gdjax.sgd(0.1),
                ),
                [2, 4],
                None,
            ),
            "coordinate_check(setup=...): the activations have the path 'a/b' twice",
        ),
        (
            lambda: (
                gdjax.width_scaling({"a": jnp.ones((8, 4))}, {"a": jnp.ones((4, 4))})
                .scaled(gdjax.adam)(0.1)
                .init({"a": jnp.ones((16, 4))})
            ),
            "width_scaling: the parameter 'a' had the shape (8, 4), and now has (16, 4)",
        ),
        (
            lambda: gdjax.width_scaling(jnp.ones(4), jnp.ones(4)).scaled(gdjax.adam)(-1.0),
            "adam(learning_rate=...) must be finite and >= 0, got -1.0",
        ),
        (
            lambda: gdjax.width_scaling(jnp.ones(4), jnp.ones(4)).init(jnp.ones(3), jnp.ones(4)),
            "must have the shapes that width_scaling was called with",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# --- runs ----------------------------------------------------------------------------------------

X = jax.random.normal(jax.random.key(0), (64, 16))
Y = jnp.argmax(jnp.tanh(X @ jax.random.normal(jax.random.key(1), (16, 16))) @ X[:16, :8], -1)
BASE = 32


@functools.cache
def model(width):
    return gdjax.models.mlp([16, width, width, 8], bias_scale=0.0)


def start(width, helper, factory=gdjax.adam):
    params = model(width).init(jax.random.key(width))
    if not helper:
        return params, factory
    base = model(BASE).init(jax.random.key(BASE))
    wide = jax.eval_shape(model(2 * BASE).init, jax.random.key(0))
    scaling = gdjax.width_scaling(params, base, wide)
    return scaling.init(params, base), scaling.scaled(factory)


def best_rate(width, helper, factory=gdjax.adam):
    """Return the rate of the least mean logarithm of the loss, between the rates of a grid."""
    params, factory = start(width, helper, factory)
    rates = np.geomspace(4e-3, 0.5, 15)

    def loss_fn(params):
        losses = gdjax.softmax_cross_entropy_with_integer_labels(model(width).apply(params, X), Y)
        return losses.mean()

    @jax.jit
    @jax.vmap
    def train(rate):
        opt = factory(rate)

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params)
            updates, state = opt.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), jnp.log(loss)

        return jax.lax.scan(step, (params, opt.init(params)), length=25)[1].mean()

    score = np.asarray(train(jnp.asarray(rates)))
    i = int(np.argmin(score))
    assert 2 <= i <= len(rates) - 3, "the grid does not surround the best rate"
    near = slice(i - 2, i + 3)
    a, b, _ = np.polyfit(np.log(rates[near]), score[near], 2)
    return math.exp(-b / (2 * a))


@pytest.mark.slow
@pytest.mark.parametrize("factory", [gdjax.adam, gdjax.muon], ids=["adam", "muon"])
def test_the_best_rate_is_that_of_the_base_model(factory):
    """Within a factor of 1.5 at 4 times the width; bench/width_transfer.py has the measurement."""
    narrow, wide = (best_rate(width, True, factory) for width in (BASE, 4 * BASE))
    assert 1 / 1.5 < wide / narrow < 1.5
    if factory is gdjax.adam:
        assert best_rate(4 * BASE, helper=False) / narrow < 1 / 3


def test_the_coordinate_check_tells_the_two_apart():
    def setup(helper, width, key):
        def loss_fn(params, batch):
            hidden = jax.nn.relu(X @ params["linear_0"]["kernel"])
            hidden2 = jax.nn.relu(hidden @ params["linear_1"]["kernel"])
            out = hidden2 @ params["linear_2"]["kernel"]
            losses = gdjax.softmax_cross_entropy_with_integer_labels(out, Y)
            return losses.mean(), {"hidden": hidden2, "out": out}

        params, factory = start(width, helper)
        return loss_fn, params, factory(1e-3)

    widths, kwargs = [128, 32], dict(steps=1, seeds=1)
    with_helper = gdjax.coordinate_check(functools.partial(setup, True), widths, None, **kwargs)
    without = gdjax.coordinate_check(functools.partial(setup, False), widths, None, **kwargs)
    assert with_helper.widths == (32, 128) and with_helper.sizes["out"].shape == (2, 2)
    assert all(abs(s) < 0.25 for s in with_helper.slopes(0).values())
    assert all(s > 0.7 for s in without.slopes(0).values())
    assert re.search(r"change of +32 +128 +slope", repr(without))
    for change, size in zip(without.changes["out"], without.sizes["out"]):
        assert 0.1 < change[0] / abs(size[1] - size[0]) < 100


def test_the_coordinate_check_names_bad_input():
    with pytest.raises(ValueError, match=r"widths=...\) must be two or more widths >= 1, got \[4"):
        gdjax.coordinate_check(lambda width, key: None, [4, 4], None)
    with pytest.raises(TypeError, match=r"must return \(loss_fn, params, optimizer\), got None"):
        gdjax.coordinate_check(lambda width, key: None, [2, 4], None)
    with pytest.raises(TypeError, match=r"must return \(loss, activations\), got"):
        parts = (lambda p, b: p.sum(), jnp.ones(2), gdjax.sgd(0.1))
        gdjax.coordinate_check(lambda width, key: parts, [2, 4], None)
