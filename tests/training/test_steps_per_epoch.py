"""Schedules in epochs get the number of steps from the data of a run, whatever runs it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

X = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)), jnp.float32)
START = {"w": jnp.zeros(3)}
OPTIONS = dict(batch_size=8, epochs=4)  # 5 steps in an epoch


def loss_fn(params, batch):
    return jnp.mean((params["w"][None] - batch) ** 2)


def cosine(peak, warmup, total):
    return gdjax.warmup_cosine_decay_schedule(0.0, peak, warmup, total)


EPOCHS = gdjax.in_epochs(cosine(0.5, 1, 4))
STEPS = cosine(0.5, 5, 20)


def fit(optimizer, data=X, start=START, **options):
    return gdjax.fit(loss_fn, start, optimizer, data, **options)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_fit_is_that_with_the_schedule_in_steps():
    epochs = fit(gdjax.adam(EPOCHS), **OPTIONS)
    steps = fit(gdjax.adam(STEPS), **OPTIONS)
    assert_same((epochs.params, epochs.history), (steps.params, steps.history))
    assert float(epochs.state.hyperparams["learning_rate"].steps_per_epoch) == 5
    whole = fit(gdjax.sgd(EPOCHS), epochs=4)  # all data in a step
    assert_same(whole.params, fit(gdjax.sgd(cosine(0.5, 1, 4)), steps=4).params)


def test_a_given_number_stays():
    given = gdjax.in_epochs(cosine(0.5, 1, 4), steps_per_epoch=2)
    got = fit(gdjax.sgd(given), **OPTIONS)
    assert_same(got.params, fit(gdjax.sgd(cosine(0.5, 2, 8)), **OPTIONS).params)


def test_two_runs_are_one_and_another_batch_size_goes_on_at_the_same_epoch():
    optimizer = gdjax.sgd(EPOCHS)
    first = fit(optimizer, batch_size=8, epochs=2)
    second = gdjax.fit(
        loss_fn, first.params, optimizer, X, state=first.state, batch_size=8, epochs=2
    )
    rate = gdjax.hyperparams(second.state)["learning_rate"]
    assert_same(rate, STEPS(20))
    more = gdjax.fit(loss_fn, first.params, optimizer, X, start=first, batch_size=8, epochs=2)
    assert_same(more.params, fit(gdjax.sgd(STEPS), **OPTIONS).params)
    half = fit(optimizer, start=first.params, state=first.state, batch_size=4, epochs=1)
    assert float(gdjax.hyperparams(half.state)["learning_rate"]) == pytest.approx(float(STEPS(15)))


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_sweep_over_the_numbers_of_a_schedule_in_epochs(vectorize):
    peaks = [0.1, 0.5]
    options = dict(OPTIONS, vectorize=vectorize)
    by_name = gdjax.sweep(loss_fn, START, gdjax.sgd(EPOCHS), {"peak_value": peaks}, X, **options)

    def in_epochs(peak):
        return gdjax.sgd(gdjax.in_epochs(cosine(peak, 1, 4)))

    def in_steps(peak):
        return gdjax.sgd(cosine(peak, 5, 20))

    made = gdjax.sweep(loss_fn, START, in_epochs, {"peak": peaks}, X, **options)
    plain = gdjax.sweep(loss_fn, START, in_steps, {"peak": peaks}, X, **options)
    assert_same((by_name.params, by_name.final_loss), (plain.params, plain.final_loss))
    assert_same((made.params, made.final_loss), (plain.params, plain.final_loss))
    assert made.state.hyperparams["learning_rate"].steps_per_epoch.tolist() == [5.0, 5.0]
    used = gdjax.hyperparams_in_use(made.state)["learning_rate"]
    assert_same(used, jnp.stack([cosine(p, 5, 20)(19) for p in peaks]))


@pytest.mark.slow
def test_races_seeds_and_a_directory(tmp_path):
    space = {"peak_value": [0.1, 0.2, 0.4, 0.5]}
    race = gdjax.successive_halving(
        loss_fn, START, gdjax.sgd(EPOCHS), space, X, batch_size=8, steps=20, min_steps=5
    )
    best = race.best()
    alone = gdjax.fit(
        loss_fn, START, gdjax.sgd(cosine(best.config["peak_value"], 5, 20)), X, **OPTIONS
    )
    np.testing.assert_allclose(best.params["w"], alone.params["w"], rtol=1e-6)
    population = gdjax.population_based_training(
        loss_fn, START, gdjax.sgd(EPOCHS), space, X, batch_size=8, steps=20, every=10
    )
    assert np.isfinite(population.final_loss).all()
    options = dict(OPTIONS, directory=tmp_path, seeds=2)
    first = gdjax.sweep(loss_fn, START, gdjax.sgd(EPOCHS), space, X, **options)
    again = gdjax.sweep(loss_fn, START, gdjax.sgd(EPOCHS), space, X, **options)
    assert_same(first.params, again.params)
    with pytest.raises(ValueError, match="batch_size"):
        gdjax.sweep(loss_fn, START, gdjax.sgd(EPOCHS), space, X, **dict(options, batch_size=4))


def test_a_file_is_read_with_the_state_of_init(tmp_path):
    optimizer = gdjax.sgd(EPOCHS, momentum=0.5)
    first = fit(optimizer, batch_size=8, epochs=2)
    first.save(tmp_path / "run")
    kept = gdjax.FitResult.load(tmp_path / "run", START, optimizer.init(START))
    more, same = (
        gdjax.fit(loss_fn, START, optimizer, X, start=start, batch_size=8, epochs=2)
        for start in (first, kept)
    )
    assert_same(more.params, same.params)
    assert_same(jax.tree.leaves(more.state), jax.tree.leaves(same.state))


def test_streams_that_have_a_length_and_that_have_none():
    class Loader:
        def __len__(self):
            return 5

        def __iter__(self):
            return iter(X.reshape(5, 8, 3))

    got = fit(gdjax.sgd(EPOCHS), Loader(), epochs=1)
    batches = iter(list(X.reshape(5, 8, 3)))
    assert_same(got.params, fit(gdjax.sgd(STEPS), batches).params)
    endless = itertools.repeat(X)
    with pytest.raises(ValueError, match="fit.* in epochs, but the data are a stream"):
        fit(gdjax.sgd(EPOCHS), endless, steps=3)
    with pytest.raises(ValueError, match="sweep.* in epochs, but the data are a stream"):
        gdjax.sweep(loss_fn, START, gdjax.sgd(EPOCHS), {"peak_value": [0.1]}, endless, steps=3)
    given = gdjax.in_epochs(cosine(0.5, 1, 4), steps_per_epoch=5)
    fit(gdjax.sgd(given), endless, steps=3)


def test_unroll_and_the_range_test_know_it_too():
    params = gdjax.unroll(loss_fn, START, gdjax.sgd(EPOCHS), X, steps=10, batch_size=8)
    assert_same(params, gdjax.unroll(loss_fn, START, gdjax.sgd(STEPS), X, steps=10, batch_size=8))
    optimizer = gdjax.adamw(0.1, weight_decay=EPOCHS)
    assert gdjax.lr_find(loss_fn, START, optimizer, X, batch_size=8, steps=20).suggestion > 0
