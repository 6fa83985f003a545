"""Held-out metrics are of the weights that would be used, in batches if they must be."""

import jax
import numpy as np
import pytest
from test_fit import DATA, START, X, Y, loss_fn

import gdjax

WRAPPED = {
    "tail_average": lambda learning_rate: gdjax.tail_average(gdjax.sgd(learning_rate)),
    "ema_average": lambda learning_rate: gdjax.average(gdjax.adam(learning_rate)),
    "schedule_free": lambda learning_rate: gdjax.schedule_free_adamw(learning_rate),
    "lookahead": lambda learning_rate: gdjax.lookahead(gdjax.sgd(learning_rate), 3),
    "inside": lambda learning_rate: gdjax.chain(
        gdjax.clip(1.0), gdjax.tail_average(gdjax.sgd(learning_rate))
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_metrics_are_of_the_evaluation_weights(name):
    seen = []
    result = gdjax.fit(
        loss_fn, START, WRAPPED[name](0.1), DATA, batch_size=32, steps=8, report_every=4,
        held_out=DATA, callbacks=[seen.append],
    )  # fmt: skip
    used = gdjax.eval_params(result.state, result.params)
    jax.tree.map(np.testing.assert_array_equal, result.eval_params, used)
    trained = loss_fn(result.params, DATA)
    np.testing.assert_allclose(result.history["held_out"][-1], loss_fn(used, DATA), rtol=1e-5)
    assert abs(result.history["held_out"][-1] - trained) > 1e-5
    for report, value in zip(seen, result.history["held_out"], strict=True):
        np.testing.assert_allclose(report.metrics["held_out"], value, rtol=1e-6)
        np.testing.assert_allclose(loss_fn(report.eval_params, DATA), value, rtol=1e-5)


def test_lanes_and_races_are_judged_by_them():
    options = dict(batch_size=32, steps=8, held_out=DATA, report_every=4)
    rates = {"learning_rate": [0.01, 0.05, 0.1, 0.5]}
    swept = gdjax.sweep(loss_fn, START, WRAPPED["tail_average"], rates, DATA, **options)
    for lane in range(4):
        params, state, _ = swept.lane(lane)
        used = loss_fn(gdjax.eval_params(state, params), DATA)
        np.testing.assert_allclose(swept.history["held_out"][lane, -1], used, rtol=1e-5)
    del options["report_every"]
    race = gdjax.successive_halving(
        loss_fn, START, WRAPPED["tail_average"], rates, DATA, eta=2, by="held_out", mode="min",
        **options,
    )  # fmt: skip
    best = race.best("held_out", "min")
    np.testing.assert_allclose(loss_fn(best.eval_params, DATA), best.value, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 50, 221, 442, 1000])
def test_batches_give_the_mean_over_examples(size):
    options = dict(steps=2, held_out=DATA, batch_size=100)
    exact = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, **options)
    cut = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, held_out_batch_size=size, **options)
    np.testing.assert_allclose(cut.history["held_out"], exact.history["held_out"], rtol=1e-5)
    rates = {"learning_rate": [0.1, 0.2]}
    swept = gdjax.sweep(loss_fn, START, gdjax.sgd, rates, DATA, held_out_batch_size=size, **options)
    np.testing.assert_allclose(swept.history["held_out"][0], exact.history["held_out"], rtol=1e-5)


class Loader:
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return ((X[i : i + self.size], Y[i : i + self.size]) for i in range(0, 442, self.size))


@pytest.mark.slow
def test_held_out_data_may_be_a_loader():
    options = dict(steps=4, batch_size=100, report_every=2)
    exact = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, held_out=DATA, **options)
    cut = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, held_out=Loader(100), **options)
    np.testing.assert_allclose(cut.history["held_out"], exact.history["held_out"], rtol=1e-5)
    rates = {"learning_rate": [0.1, 0.2]}
    swept = gdjax.sweep(loss_fn, START, gdjax.sgd, rates, DATA, held_out=Loader(100), **options)
    np.testing.assert_allclose(swept.history["held_out"][0], exact.history["held_out"], rtol=1e-5)


def test_a_metric_may_take_the_state():
    def metric(params, batch, *, state):
        return {
            "rate": gdjax.hyperparams(state)["learning_rate"],
            "loss on": loss_fn(params, batch),
        }

    def positional(params, batch, state=None):
        return gdjax.hyperparams(state)["learning_rate"]

    options = dict(steps=2, held_out=DATA)
    result = gdjax.fit(loss_fn, START, gdjax.sgd(0.25), DATA, metric_fn=metric, **options)
    np.testing.assert_allclose(result.history["rate"], 0.25)
    swept = gdjax.sweep(
        loss_fn, START, gdjax.sgd, {"learning_rate": [0.25, 0.5]}, DATA, metric_fn=positional,
        **options,
    )  # fmt: skip
    np.testing.assert_allclose(swept.history["held_out"], [[0.25] * 2, [0.5] * 2][:2], rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"held_out": iter(Loader(100))}, "can be read once"),
        ({"held_out": Loader(100), "held_out_batch_size": 5}, "goes with arrays"),
        ({"held_out": DATA, "held_out_batch_size": 0}, "held_out_batch_size"),
        ({"metric_fn": loss_fn}, r"fit\(metric_fn=...\) needs held_out"),
        ({"held_out_batch_size": 3}, r"fit\(held_out_batch_size=...\) needs held_out"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, steps=2, **options)
