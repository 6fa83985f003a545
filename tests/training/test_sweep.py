"""sweep: every lane equals its single run; one program; diverged lanes frozen and named."""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training.pool import Pool

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=64)).astype(np.float32)
DATA = (X, Y)
START = {"w": jnp.full(3, 0.1), "b": jnp.zeros(())}
RATES = np.array([1e-3, 1e-2, 0.1])


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def test_every_lane_equals_its_single_run():
    more = dict(batch_size=8, steps=20, key=5)
    result = gdjax.sweep(loss_fn, START, gdjax.adam, {"learning_rate": RATES}, DATA, **more)
    for lane, rate in enumerate(RATES):
        single = gdjax.fit(loss_fn, START, gdjax.adam(rate), DATA, **more)
        np.testing.assert_allclose(result.history["loss"][lane], single.history["loss"], rtol=2e-5)
        np.testing.assert_allclose(
            result.params["w"][lane], single.params["w"], rtol=2e-5, atol=1e-6
        )


def test_axes_are_crossed_and_a_list_is_taken_as_it_is():
    space = {"learning_rate": [0.1, 0.2], "momentum": [0.0, 0.5, 0.9]}
    result = gdjax.sweep(loss_fn, START, gdjax.sgd, space, DATA, steps=2)
    assert result.configs["learning_rate"].tolist() == [0.1] * 3 + [0.2] * 3
    assert result.configs["momentum"].tolist() == [0.0, 0.5, 0.9] * 2
    configs = [{"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": 0.2, "momentum": 0.0}]
    listed = gdjax.sweep(loss_fn, START, gdjax.sgd, configs, DATA, steps=2)
    assert [listed.config(i) for i in range(2)] == configs
    np.testing.assert_allclose(listed.params["w"][0], result.params["w"][2], rtol=1e-6)


def test_an_optimizer_is_swept_by_qualified_names():
    opt = gdjax.chain(
        gdjax.clip_by_global_norm(1.0), gdjax.sgd(gdjax.cosine_decay_schedule(0.1, 100))
    )
    space = {"learning_rate.init_value": [0.01, 0.1], "max_norm": [0.5, 1.0]}
    result = gdjax.sweep(loss_fn, START, opt, space, DATA, steps=5)
    single = gdjax.fit(loss_fn, START, opt, DATA, steps=5)
    np.testing.assert_allclose(result.params["w"][3], single.params["w"], rtol=1e-5)
    assert len({float(w) for w in result.params["w"][:, 0]}) == 4


def test_a_factory_may_be_any_function():
    def factory(peak, warmup):
        return gdjax.adamw(gdjax.warmup_cosine_decay_schedule(0.0, peak, warmup, 50))

    space = {"peak": [0.01, 0.1], "warmup": [0, 5, 10]}
    result = gdjax.sweep(loss_fn, START, factory, space, DATA, steps=10)
    single = gdjax.fit(loss_fn, START, factory(0.1, 5), DATA, steps=10)
    np.testing.assert_allclose(result.history["loss"][4], single.history["loss"], rtol=1e-5)


def quartic(params, batch):
    return jnp.sum(params**4)


def test_a_diverged_lane_is_frozen_named_and_disturbs_nobody():
    rates = [0.01, 10.0, 0.02]
    result = gdjax.sweep(quartic, jnp.ones(2), gdjax.sgd, {"learning_rate": rates}, X, steps=30)
    (config, step), = result.diverged()  # fmt: skip
    assert config == {"learning_rate": 10.0} and 0 < step < 10
    assert np.isfinite(result.params).all()
    assert np.isnan(result.history["loss"][1, step + 1 :]).all() and np.isinf(result.final_loss[1])
    healthy = gdjax.sweep(
        quartic, jnp.ones(2), gdjax.sgd, {"learning_rate": [0.01, 0.015, 0.02]}, X, steps=30
    )
    np.testing.assert_array_equal(result.history["loss"][[0, 2]], healthy.history["loss"][[0, 2]])
    assert result.best().config == {"learning_rate": 0.02}
    with pytest.raises(gdjax.NonfiniteError) as error:
        gdjax.fit(quartic, jnp.ones(2), gdjax.sgd(10.0), X, steps=30)
    np.testing.assert_array_equal(result.params[1], error.value.result.params)


def test_all_lanes_diverged():
    result = gdjax.sweep(
        quartic, jnp.ones(2), gdjax.sgd, {"learning_rate": [10.0, 20.0]}, X, steps=30
    )
    with pytest.raises(ValueError, match="every lane"):
        result.best()


def test_the_sweep_is_traced_once():
    traced = []

    def counted(params, batch):
        traced.append(1)
        return loss_fn(params, batch)

    gdjax.sweep(
        counted, START, gdjax.adam, {"learning_rate": RATES}, DATA, steps=30, report_every=10
    )
    before = len(traced)
    more = dict(steps=30, report_every=10)
    gdjax.sweep(counted, START, gdjax.adam, {"learning_rate": RATES / 2}, DATA, **more)
    assert before > 0 and len(traced) == before


def test_held_out_metrics_aux_and_best_by_metric():
    result = gdjax.sweep(
        lambda p, b: (loss_fn(p, b), p["b"]), START, gdjax.adam, {"learning_rate": RATES}, DATA,
        batch_size=16, steps=20, has_aux=True, held_out=DATA, report_every=5,
        metric_fn=lambda p, d: {"score": -loss_fn(p, d)},
    )  # fmt: skip
    assert result.history["score"].shape == (3, 4) and result.history["step"].tolist() == [
        5,
        10,
        15,
        20,
    ]
    assert result.history["aux"].shape == (3, 20)
    best = result.best(by="score", mode="max")
    assert best.lane == int(np.argmax(result.history["score"][:, -1]))
    np.testing.assert_allclose(-loss_fn(best.params, DATA), best.value, rtol=1e-5)
    with pytest.raises(ValueError, match="loss, score"):
        result.best(by="accuracy")


def test_a_stream_feeds_all_lanes():
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 64, 8)]
    result = gdjax.sweep(loss_fn, START, gdjax.sgd, {"learning_rate": RATES}, iter(batches))
    single = gdjax.fit(loss_fn, START, gdjax.sgd(RATES[2]), iter(batches))
    np.testing.assert_allclose(result.history["loss"][2], single.history["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "space", "message"),
    [
        (gdjax.adam, {}, r"sweep\(space=...\) has no values to combine, got {}"),
        (gdjax.adam, {"learning_rate": []}, r"sweep\(space=...\) has no values to combine"),
        (gdjax.adam, [], r"sweep\(space=...\) has no configs"),
        (gdjax.adam, {"lr": [0.1]}, "adam has no argument 'lr'; it has learning_rate, b1"),
        (
            gdjax.adam,
            {"learning_rate": [0.1, -0.1]},
            r"sweep\(space=\.\.\.\): adam\(learning_rate=\.\.\.\).*-0.1",
        ),
        (gdjax.adam, {"learning_rate": 0.1}, "1-d array of numbers"),
        (gdjax.adam(0.1), {"nesterov": [True, False]}, "'nesterov' is not a number.*gdjax.adam"),
        (gdjax.adam, [{"learning_rate": 0.1}, {"b1": 0.1}], "same names.*index 1"),
        (gdjax.adam(0.1), {"lr": [0.1]}, r"sweep\(space=\.\.\.\):.*'lr' is not a hyperparameter"),
    ],
)
def test_bad_spaces_are_named(optimizer, space, message):
    with pytest.raises(ValueError, match=message):
        gdjax.sweep(loss_fn, START, optimizer, space, DATA, steps=1)


def test_table_bar_and_pictures(capsys):
    import matplotlib

    matplotlib.use("Agg")
    space = {"learning_rate": [0.01, 10.0], "momentum": [0.0, 0.5]}
    result = gdjax.sweep(quartic, jnp.ones(2), gdjax.sgd, space, X, steps=30, progress=True)
    assert "lanes=2" in capsys.readouterr().err
    lines = result.table().splitlines()
    assert lines[0].split()[:2] == ["learning_rate", "momentum"] and len(lines) == 6
    assert sum("diverged at step" in line for line in lines) == 2
    ax = result.plot()
    assert len(ax.lines) == 3  # a line for each momentum, and marks of the diverged lanes
    np.testing.assert_allclose(ax.lines[0].get_ydata()[0], result.final_loss[0], rtol=1e-6)
    assert ax.lines[2].get_label() == "diverged"
    assert ax.lines[2].get_xdata().tolist() == [10.0, 10.0]
    assert len(result.plot_curves().lines) == 4


def test_vmapped_grid_of_states_in_one_line():
    params = jnp.ones(3)
    states = jax.vmap(lambda lr: gdjax.adam(lr).init(params))(jnp.logspace(-4, -1, 32))
    updates, _ = jax.vmap(gdjax.adam(0.0).update, (None, 0, None))(params, states, params)
    np.testing.assert_allclose(updates[:, 0], -np.logspace(-4, -1, 32), rtol=1e-4)


def test_a_result_prints_as_a_few_lines():
    model = gdjax.models.mlp((3, 64, 32, 1))

    def loss(params, batch):
        return jnp.mean((model.apply(params, batch[0])[:, 0] - batch[1]) ** 2)

    rates = {"learning_rate": [1e-3, 1e-2, 1e30]}
    result = gdjax.sweep(loss, model.init(jax.random.key(0)), gdjax.adam, rates, DATA, steps=4)
    text = repr(result)
    assert len(text) < 600 and text.count("\n") <= 3
    for part in ("3 lanes over learning_rate; 2 did not diverge", f"{result.best().value:.6g}"):
        assert part in text
    assert len(repr(result.best())) < 600 and "'learning_rate': 0.01" in repr(result.best())


def test_a_sweep_that_has_ended_is_not_asked_again(monkeypatch):
    """Between hosts a result is a collective: the garbage collector must not begin one."""
    asked = []
    result = Pool.result
    monkeypatch.setattr(Pool, "result", lambda pool: asked.append(1) or result(pool))
    gdjax.sweep(
        lambda p, batch: jnp.sum((p - batch) ** 2), jnp.ones(()), gdjax.sgd,
        {"learning_rate": [0.1, 0.2]}, jnp.ones((4, 1)), steps=2,
    )  # fmt: skip
    gc.collect()
    assert len(asked) == 1


@pytest.mark.parametrize(
    "factory",
    [
        lambda learning_rate: gdjax.adam(lambda t: learning_rate / (t + 1)),
        lambda learning_rate: gdjax.adam(lambda t, r=learning_rate: r / (t + 1)),
        lambda learning_rate: gdjax.sgd(functools.partial(lambda r, t: r, learning_rate)),
    ],
    ids=["closure", "default", "partial"],
)
def test_a_function_that_closes_over_a_number_of_its_lane_is_named(factory):
    with pytest.raises(
        ValueError, match=r"sweep\(space=...\): .* in the function .* not in its state"
    ):
        gdjax.sweep(
            lambda p, b: jnp.sum(p**2),
            jnp.ones(2),
            factory,
            {"learning_rate": [0.01, 0.1]},
            jnp.ones((4, 1)),
            steps=2,
        )
