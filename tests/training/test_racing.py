"""Races find the full grid's winner on real data at a counted share of its steps."""

import inspect
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import gdjax

images, labels = load_digits(return_X_y=True)
DATA = jnp.asarray(images[:512] / 16, jnp.float32), jnp.asarray(labels[:512], jnp.int32)
HELD = jnp.asarray(images[512:900] / 16, jnp.float32), jnp.asarray(labels[512:900], jnp.int32)
model = gdjax.models.linear(64, 10)
PARAMS = model.init(jax.random.key(0))
SPACE = {"learning_rate": np.logspace(-4.5, 1.5, 27)}
STEPS = 108


def loss_fn(params, batch):
    x, y = batch
    return gdjax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()


def metrics(params, batch):
    x, y = batch
    right = jnp.mean(model.apply(params, x).argmax(-1) == y)
    return {"accuracy": right, "held_out": loss_fn(params, batch)}


# With 388 held-out images of which nine in ten are right, a share's standard error is 0.015.
NOISE = 0.015
TASK = (loss_fn, PARAMS, gdjax.adam)
MORE = dict(steps=STEPS, batch_size=64, key=1)
JUDGED = dict(held_out=HELD, metric_fn=metrics, **MORE)


def accuracy(result):
    """Return the held-out accuracy of the lane with the least held-out loss."""
    return result.values("accuracy")[result.best("held_out", "min").lane]


@pytest.fixture(scope="module")
def full():
    return gdjax.sweep(*TASK, SPACE, DATA, report_every=STEPS // 27, **JUDGED)


@pytest.mark.slow
def test_successive_halving_finds_the_winner_with_a_seventh_of_the_steps(full):
    race = gdjax.successive_halving(*TASK, SPACE, DATA, by="held_out", mode="min", **JUDGED)
    assert sorted(race.steps.tolist()) == [4] * 18 + [12] * 6 + [36] * 2 + [108]
    assert race.steps.sum() == 324 < 27 * STEPS / 7  # of 2916
    best = race.best("held_out", "min")
    assert accuracy(race) >= accuracy(full) - NOISE and best.lane == race.kept[0]
    for lane in range(27):  # a lane that was dropped ran as in the full sweep before
        n = race.steps[lane]
        np.testing.assert_allclose(
            race.history["loss"][lane, :n], full.history["loss"][lane, :n], rtol=1e-4, atol=1e-6
        )
        assert np.isnan(race.history["loss"][lane, n:]).all()
    np.testing.assert_allclose(
        best.params["kernel"], full.params["kernel"][best.lane], rtol=1e-3, atol=1e-4
    )
    rate = gdjax.hyperparams(best.state)["learning_rate"]
    np.testing.assert_allclose(rate, best.config["learning_rate"], rtol=1e-6)


def test_the_metric_decides_which_lanes_continue(full):
    race = gdjax.successive_halving(
        *TASK, SPACE, DATA, by="accuracy", mode="max", eta=5, min_steps=20, **JUDGED
    )
    at_rung = race.history["accuracy"][:, race.history["step"].tolist().index(20)]
    others = np.setdiff1d(np.arange(27), race.kept)
    assert len(race.kept) == 5 and at_rung[race.kept].min() >= at_rung[others].max()


@pytest.mark.slow
def test_hyperband_and_the_median_rule(full):
    space = {"learning_rate": gdjax.log_uniform(10**-4.5, 10**1.5)}
    band = gdjax.hyperband(*TASK, space, DATA, by="held_out", mode="min", **JUDGED)
    sizes = np.bincount(band.configs["bracket"])
    assert sizes.tolist() == [4, 6, 12, 27]
    per_bracket = [sorted(band.steps[band.configs["bracket"] == s].tolist()) for s in range(4)]
    assert per_bracket[0] == [108] * 4 and per_bracket[1] == [36] * 4 + [108] * 2
    assert per_bracket[3] == [4] * 18 + [12] * 6 + [36] * 2 + [108]
    assert band.steps.sum() < 0.3 * len(band.steps) * STEPS
    assert accuracy(band) >= accuracy(full) - NOISE
    median = gdjax.median_stop(*TASK, SPACE, DATA, **JUDGED)
    assert median.steps.sum() < 0.75 * 27 * STEPS
    assert accuracy(median) >= accuracy(full) - NOISE


def test_lanes_with_different_static_values_race_together():
    space = {"optimizer": gdjax.choice(gdjax.adam, gdjax.sgd), "learning_rate": [1e-5, 1e-3, 0.1]}
    race = gdjax.successive_halving(
        loss_fn, PARAMS, None, space, DATA, eta=2, min_steps=6, steps=24
    )
    assert sorted(race.steps.tolist()) == [6] * 3 + [12] * 2 + [24]
    assert race.best().lane == race.kept[0]


def test_all_lanes_with_the_same_static_values_may_lose():
    space = {"optimizer": [gdjax.sgd, gdjax.adam], "learning_rate": [1e-5, 1e-6, 0.1]}
    race = gdjax.successive_halving(
        loss_fn, PARAMS, None, space, DATA, eta=6, min_steps=6, steps=36
    )
    assert race.kept.tolist() == [5] and race.best().config["learning_rate"] == 0.1
    assert race.state[0] is None and gdjax.hyperparams(race.best().state)["b1"] == np.float32(0.9)
    ax = race.plot("learning_rate")
    (crosses,), star = ax.lines, ax.collections[-1]  # of the lanes that were dropped, and the other
    assert crosses.get_label() == "dropped" and len(crosses.get_xdata()) == 5
    np.testing.assert_allclose(star.get_offsets(), [[0.1, race.best().value]], rtol=1e-6)


def test_a_race_ends_when_all_lanes_diverged():
    def quartic(params, batch):
        return jnp.sum(params**4)

    task = (quartic, jnp.full(2, 10.0), gdjax.sgd, {"learning_rate": [1e3, 1e4]}, DATA)
    for race in (
        gdjax.population_based_training(*task, steps=20, every=5),
        gdjax.median_stop(*task, steps=20, every=5),
    ):
        assert (race.diverged_at >= 0).all() and (race.steps < 5).all()


def test_ctrl_c_ends_a_race_at_the_next_chunk():
    presses = [signal.SIGINT]

    def press():
        for number in presses[:1]:
            presses.clear()
            signal.raise_signal(number)

    def metric(params, batch):
        jax.debug.callback(press)
        return loss_fn(params, batch)

    race = gdjax.median_stop(
        *TASK, SPACE, DATA, every=4, grace=40, held_out=HELD, metric_fn=metric, **MORE
    )
    (done,) = set(race.steps.tolist())  # a chunk may have begun before the signal arrived
    assert 4 <= done < STEPS and done % 4 == 0 and len(race.kept) == 27
    assert race.history["loss"].shape == (27, done) and np.isfinite(race.final_loss).all()


def test_population_based_training_passes_on_what_works(full):
    start = {"learning_rate": np.logspace(-4.5, -2.5, 8)}
    result = gdjax.population_based_training(*TASK, start, DATA, every=12, **MORE)
    fixed = gdjax.sweep(*TASK, start, DATA, **MORE)
    assert result.best().value < fixed.best().value  # rates grow beyond where they started
    parent, rates = (result.history["exchanges"][k] for k in ("parent", "learning_rate"))
    assert parent.shape == (8, 8) and rates.shape == (8, 9)
    for round_ in range(8):
        copied = parent[:, round_] != np.arange(8)
        assert copied.sum() == 2
        ratio = rates[:, round_ + 1] / rates[parent[:, round_], round_]
        np.testing.assert_allclose(ratio[~copied], 1.0)
        assert all(min(abs(r - 0.8), abs(r - 1.25)) < 1e-9 for r in ratio[copied])
    assert result.metrics() == ["loss"] and len(result.table().splitlines()) == 10
    for lane in range(8):
        state = result.lane(lane)[1]
        np.testing.assert_allclose(
            gdjax.hyperparams(state)["learning_rate"], result.configs["learning_rate"][lane], 1e-6
        )


def test_range_test(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    test = gdjax.lr_find(loss_fn, PARAMS, gdjax.adam(0.0), DATA, batch_size=64, high=100.0, key=1)
    np.testing.assert_allclose(test.rates[[0, -1]], [1e-7, 100.0], rtol=1e-9)
    assert test.low <= test.suggestion <= test.high
    # Held-out: of 64 training examples, a rate of 10 has one wrong or none, by chance.
    rates = {"learning_rate": [test.suggestion, 1e-5, 10.0]}
    losses = gdjax.sweep(*TASK, rates, DATA, **JUDGED).values("held_out")
    assert losses[0] < 0.3 * losses[1:].min()
    ax = test.plot()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), test.losses)
    factory = gdjax.lr_find(loss_fn, PARAMS, gdjax.adam, DATA, batch_size=64, high=100.0, key=1)
    np.testing.assert_array_equal(factory.losses, test.losses)
    assert test.low < test.high  # a range, not a number
    by_hand = gdjax.fit(loss_fn, PARAMS, gdjax.adam(1e-7), DATA, batch_size=64, steps=1, key=1)
    np.testing.assert_allclose(test.losses[0], by_hand.history["loss"][0], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gdjax.successive_halving(*TASK, SPACE, DATA, steps=9, eta=1), "eta.*>= 2, got 1"),
        (lambda: gdjax.successive_halving(*TASK, SPACE, DATA, steps=0), "steps.*>= 1, got 0"),
        (lambda: gdjax.successive_halving(*TASK, SPACE, DATA, steps=9, by="x"), "needs held_out"),
        (
            lambda: gdjax.median_stop(*TASK, SPACE, DATA, steps=9, every=0),
            r"median_stop\(every=.*integer >= 1, got 0",
        ),
        (
            lambda: gdjax.population_based_training(*TASK, SPACE, DATA, steps=9, every=10),
            r"in \[1, 9\], got 10",
        ),
        (lambda: gdjax.lr_find(*TASK[:2], gdjax.adam(1.0), DATA, low=1.0, high=0.1), "low < high"),
        (lambda: gdjax.lr_find(*TASK[:2], gdjax.adam(1.0), DATA, name="lr"), "not a hyperparam"),
        (lambda: gdjax.lr_find(*TASK, DATA, name="lr"), "lr_find.*adam has no argument 'lr'"),
        (
            lambda: gdjax.lr_find(
                *TASK[:2], gdjax.groups({"b.*": gdjax.sgd(0.1), ".*": gdjax.adam(0.1)}), DATA
            ),
            "lr_find.name='learning_rate'.*one hyperparameter.*ambiguous; it has b1",
        ),
        (
            lambda: gdjax.lr_find(*TASK, iter([DATA] * 3), steps=20),
            "ended after 3 of 20 steps",
        ),
        (
            lambda: gdjax.successive_halving(*TASK, {}, DATA, steps=9),
            r"successive_halving\(space=...\) has no values",
        ),
        (
            lambda: gdjax.hyperband(*TASK, {"learning_rate": 0.1}, DATA, steps=9),
            r"hyperband\(space=...\): 'learning_rate' must be",
        ),
        (
            lambda: gdjax.successive_halving(*TASK, SPACE, iter([DATA] * 9), steps=9),
            r"successive_halving\(data=...\) must be arrays",
        ),
        (lambda: gdjax.lr_find(*TASK, np.ones((0, 2))), r"lr_find\(data=...\) has no examples"),
        (
            lambda: gdjax.population_based_training(
                *TASK, SPACE, DATA, steps=9, every=3, perturb={"b1": (0.9, 1.1)}
            ),
            "perturb.*'learning_rate', got 'b1'",
        ),
        (
            lambda: gdjax.population_based_training(
                loss_fn,
                PARAMS,
                lambda peak: gdjax.sgd(peak),
                {"peak": [0.1, 0.2]},
                DATA,
                steps=9,
                every=3,
            ),
            r"population_based_training\(perturb=.*'peak' is not a hyperparameter",
        ),
    ],
)
def test_bad_races_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


OPTIONS = "batch_size has_aux needs_key held_out metric_fn progress vectorize lanes_per_program"


@pytest.mark.parametrize(
    "race",
    [
        gdjax.successive_halving,
        gdjax.hyperband,
        gdjax.median_stop,
        gdjax.population_based_training,
    ],
)
def test_a_misspelt_option_is_named_with_all_there_are(race):
    names = list(inspect.signature(race).parameters)
    assert {"key", "steps", *OPTIONS.split()} <= set(names)
    with pytest.raises(TypeError, match="did you mean 'batch_size'") as error:
        race(*TASK, SPACE, DATA, steps=9, batchsize=8)
    assert race.__name__ in str(error.value)
    assert all(name in str(error.value) for name in names)


def test_a_race_keeps_the_aux_of_each_step():
    race = gdjax.successive_halving(
        lambda p, b: (loss_fn(p, b), p["bias"]), PARAMS, gdjax.adam, {"learning_rate": [0.1, 0.2]},
        DATA, steps=4, eta=2, min_steps=2, has_aux=True,
    )  # fmt: skip
    aux = race.history["aux"]
    assert aux.shape == (2, 4, 10)
    assert np.isfinite(aux).all(2).sum(1).tolist() == race.steps.tolist()
    assert sorted(race.steps.tolist()) == [2, 4]
