"""Spaces: grids, samples, dependent values, structure, seeds, and any name of any nesting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training.trials import column, words

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
START = {"w": jnp.full(3, 0.1), "b": jnp.zeros(())}


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def test_grid_crosses_axes_and_computes_dependent_values_in_order():
    configs = gdjax.grid(
        {
            "learning_rate": gdjax.log_uniform(1e-4, 1e-2),
            "steps": gdjax.uniform(0, 10, whole=True),
            "warmup": lambda config: 0.1 * config["steps"],
        },
        resolution=3,
    )
    rates = sorted({c["learning_rate"] for c in configs})
    np.testing.assert_allclose(rates, [1e-4, 1e-3, 1e-2], rtol=1e-12)
    assert len(configs) == 9 and {c["steps"] for c in configs} == {0, 5, 10}
    assert all(c["warmup"] == 0.1 * c["steps"] for c in configs)


@pytest.mark.parametrize("method", ["sobol", "halton", "random"])
def test_samples_fill_the_space_evenly(method):
    space = {"rate": gdjax.log_uniform(1e-4, 1.0), "kind": gdjax.choice("a", "b"), "m": [0.0, 0.9]}
    configs = gdjax.sample(space, 64, key=1, method=method)
    assert configs == gdjax.sample(space, 64, key=1, method=method) and len(configs) == 64
    assert configs != gdjax.sample(space, 64, key=2, method=method)
    exponents = np.log10([c["rate"] for c in configs])
    assert exponents.min() >= -4 and exponents.max() <= 0
    counts = np.histogram(exponents, 4, (-4, 0))[0]
    if method == "sobol":  # a (0, 6)-net: each quarter has exactly a quarter, in every coordinate
        assert counts.tolist() == [16] * 4
        assert sum(c["kind"] == "a" for c in configs) == 32
    assert counts.min() >= 8 and {c["kind"] for c in configs} == {"a", "b"}


def test_structure_is_a_program_each_behind_one_call():
    def make(optimizer, learning_rate, nesterov):
        return {"sgd": gdjax.sgd(learning_rate, 0.9, nesterov), "adam": gdjax.adam(learning_rate)}[
            optimizer
        ]

    def factory(kind, learning_rate, nesterov):
        return make(kind, learning_rate, nesterov)

    space = {"kind": ["sgd", "adam"], "learning_rate": [0.01, 0.1], "nesterov": [True, False]}
    result = gdjax.sweep(loss_fn, START, factory, space, (X, Y), steps=5, lanes_per_program=1)
    for lane in range(8):
        single = gdjax.fit(loss_fn, START, factory(**result.config(lane)), (X, Y), steps=5)
        params, state, _ = result.lane(lane)
        np.testing.assert_allclose(params["w"], single.params["w"], rtol=1e-5)
        assert jax.tree.structure(state) == jax.tree.structure(single.state)
        chosen = gdjax.hyperparams(state)["learning_rate"]
        np.testing.assert_allclose(chosen, result.config(lane)["learning_rate"], rtol=1e-6)
    assert len(result.state) == 4


def test_optimizers_as_choices():
    space = {"optimizer": gdjax.choice(gdjax.adam, gdjax.sgd), "learning_rate": [0.01, 0.1]}
    result = gdjax.sweep(loss_fn, START, None, space, (X, Y), steps=5)
    for lane, make in enumerate([gdjax.adam, gdjax.adam, gdjax.sgd, gdjax.sgd]):
        rate = result.config(lane)["learning_rate"]
        single = gdjax.fit(loss_fn, START, make(rate), (X, Y), steps=5)
        np.testing.assert_allclose(result.final_loss[lane], single.history["loss"][-1], rtol=1e-5)
    assert "adam" in result.table() and "sgd" in result.to_csv()


def test_a_space_may_be_all_structure_or_only_seeds():
    rates = [gdjax.cosine_decay_schedule(0.1, 10), {"w": 0.1, "b": 0.01}, 0.1]
    result = gdjax.sweep(loss_fn, START, gdjax.sgd, {"learning_rate": rates}, (X, Y), steps=5)
    for lane, rate in enumerate(rates):
        single = gdjax.fit(loss_fn, START, gdjax.sgd(rate), (X, Y), steps=5)
        np.testing.assert_allclose(result.lane(lane)[0]["w"], single.params["w"], rtol=1e-5)
    assert "CosineDecay(init_value=0.1" in result.table()
    result = gdjax.sweep(
        loss_fn, START, gdjax.sgd(0.1), {}, (X, Y), seeds=np.int64(2), batch_size=8, steps=5
    )
    assert result.configs["seed"].tolist() == [0, 1]
    assert (result.history["loss"][0] != result.history["loss"][1]).all()


def test_values_that_are_no_numbers_have_texts_that_differ_and_last():
    def named():
        pass

    values = [lambda x: x, lambda x: -x, named, None, gdjax.adam(0.1), 0.5]
    values += [functools.partial(gdjax.adamw, weight_decay=0.1), values[0]]
    texts = ["<lambda> 1", "<lambda> 2", "named", None, "Optimizer", 0.5]
    texts += ["adamw(weight_decay=0.1)", "<lambda> 1"]
    texts[:3] = [f"{t}" for t in texts[:3]]
    assert words(column(values)).tolist() == texts


def test_names_reach_groups_schedules_and_chains():
    opt = gdjax.chain(
        gdjax.clip_by_global_norm(1.0),
        gdjax.adamw(
            gdjax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 50),
            weight_decay=gdjax.by_path({"b": 0.0, ".*": 0.1}),
        ),
    )
    names = ["learning_rate.peak_value", "learning_rate.warmup_steps", "weight_decay.b", "max_norm"]
    values = [[0.1, 0.2], [2, 5], [0.0, 0.3], [0.5]]
    result = gdjax.sweep(
        loss_fn, START, opt, dict(zip(names, values, strict=True)), (X, Y), steps=8
    )
    assert len(result.final_loss) == 8
    for lane in (0, 5, 7):
        state = gdjax.with_hyperparams(opt.init(START), **result.config(lane))
        single = gdjax.fit(loss_fn, START, opt, (X, Y), steps=8, state=state)
        np.testing.assert_allclose(result.history["loss"][lane], single.history["loss"], rtol=1e-5)
    assert len(set(result.final_loss.tolist())) == 8


def test_seeds_are_of_initialization_and_of_batches():
    def init(key):
        return {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}

    more = dict(batch_size=8, steps=10)
    result = gdjax.sweep(
        loss_fn, init, gdjax.adam, {"learning_rate": [0.1]}, (X, Y), key=7, seeds=2, **more
    )
    assert result.configs["seed"].tolist() == [0, 1]
    for seed in range(2):
        single = gdjax.fit(
            loss_fn, init(jax.random.key(seed)), gdjax.adam(0.1), (X, Y),
            key=jax.random.fold_in(jax.random.key(7), seed), **more,
        )  # fmt: skip
        np.testing.assert_allclose(result.history["loss"][seed], single.history["loss"], rtol=1e-5)
    apart = {"learning_rate": [0.1], "init_seed": [0, 0, 1], "batch_seed": [3, 4]}
    result = gdjax.sweep(loss_fn, init, gdjax.adam, apart, (X, Y), **more)
    loss = result.history["loss"]
    np.testing.assert_array_equal(loss[0], loss[2])
    assert (loss[0] != loss[1]).all() and loss[0, 0] != loss[4, 0]
    shared = gdjax.sweep(
        loss_fn, init, gdjax.adam, {"learning_rate": [0.1], "init_seed": [0, 1]}, (X, Y), **more
    )
    single = gdjax.fit(loss_fn, init(jax.random.key(1)), gdjax.adam(0.1), (X, Y), **more)
    np.testing.assert_allclose(shared.history["loss"][1], single.history["loss"], rtol=1e-5)


def test_an_optimizer_that_hides_its_numbers_is_an_error_not_a_wrong_answer():
    import optax

    space = {"learning_rate": [0.01, 0.1]}
    with pytest.raises(ValueError, match="adam keeps its numbers in its update function"):
        gdjax.sweep(loss_fn, START, optax.adam, space, (X, Y), steps=2)

    def injected(learning_rate):
        return optax.inject_hyperparams(optax.sgd)(learning_rate)

    result = gdjax.sweep(loss_fn, START, injected, space, (X, Y), steps=3)
    ours = gdjax.sweep(loss_fn, START, gdjax.sgd, space, (X, Y), steps=3)
    np.testing.assert_allclose(result.final_loss, ours.final_loss, rtol=1e-5)


def swept(space, **more):
    rates = {} if "b1" in space else {"learning_rate": [0.1]}
    return gdjax.sweep(loss_fn, START, gdjax.adam, rates | space, (X, Y), steps=1, **more)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gdjax.uniform(1.0, 1.0), "low < high, got 1.0, 1.0"),
        (lambda: gdjax.log_uniform(0.0, 1.0), "must be > 0, got 0.0"),
        (lambda: gdjax.choice(), "at least one option"),
        (lambda: gdjax.grid({"a": gdjax.uniform(0, 1)}, 0), "must be an integer >= 1, got 0"),
        (lambda: gdjax.sample({"a": [1]}, 0), "must be an integer >= 1, got 0"),
        (lambda: gdjax.sample({"a": [1]}, 2, method="typo"), "'sobol', 'halton', 'random'"),
        (lambda: gdjax.grid({"a": []}), r"grid\(space=...\) has no values"),
        (lambda: gdjax.grid({"a": np.ones((2, 2))}), r"grid\(space=.*1-d array"),
        (lambda: gdjax.sample({"a": np.ones((2, 2))}, 1), r"sample\(space=.*1-d array"),
        (lambda: gdjax.grid({"a": lambda c: c["b"], "b": [1]}), "'a' reads 'b', but.*before it"),
        (lambda: swept({"b1": [0.5]}), "adam needs 'learning_rate'.*partial"),
        (lambda: swept({"init_seed": [0, 1]}), "'init_seed' has no effect.*model.init"),
        (lambda: swept({"seed": [0.5]}), "'seed' must be integers: 0.5"),
        (lambda: swept({"seed": [0, 1]}, seeds=2), "'seed' is in the space already"),
        (
            lambda: swept({}, seeds=1.5),
            r"sweep\(seeds=...\) must be an integer, a sequence of integers or None, got 1.5",
        ),
        (
            lambda: swept({}, lanes_per_program=1.5),
            r"sweep\(lanes_per_program=...\) must be an integer or None, got 1.5",
        ),
        (
            lambda: gdjax.sweep(loss_fn, START, gdjax.sgd, [{"momentum": 0}, {"b1": 0}], X),
            "choice.gdjax.adam, lambda",
        ),
    ],
)
def test_bad_spaces_are_named_at_once(build, message):
    with pytest.raises(ValueError, match=message):
        build()
