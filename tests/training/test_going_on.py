"""fit(start=...): many short runs are one long run, bit for bit; what is done is never lost."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fit import DATA, START, aux_loss, loss_fn

import gdjax


def bits(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def same(one, other, *names):
    for name in names or ("params", "state", "history"):
        left, right = (jax.tree.map(bits, getattr(r, name)) for r in (one, other))
        jax.tree.map(np.testing.assert_array_equal, left, right)
    assert (one.steps, one.diverged_at) == (other.steps, other.diverged_at)


def noisy(params, batch, key):
    return loss_fn(params, batch) + 0.1 * jnp.sum(params["w"] * jax.random.normal(key, (10,)))


@pytest.mark.parametrize("key", [None, 5, jax.random.key(7), jax.random.PRNGKey(3)])
def test_eight_runs_of_eight_steps_are_one_of_64(key):
    seen = np.arange(1024, dtype=np.float32)

    def record(params, batch, key):
        return params * jax.random.normal(key), batch

    def run(steps, start=None, key=None):
        return gdjax.fit(
            record, jnp.ones(()), gdjax.adam(gdjax.cosine_decay_schedule(0.1, 64)), seen,
            batch_size=16, steps=steps, has_aux=True, needs_key=True, start=start, key=key,
        )  # fmt: skip

    whole, part = run(64, key=key), run(8, key=key)
    for _ in range(7):
        part = run(8, start=part)  # with the key of the start
    same(part, whole)
    assert len(np.unique(part.history["aux"])) == 1024


def test_ten_and_34_steps_are_44():
    options = dict(batch_size=32, key=1, held_out=DATA)
    optimizer = gdjax.tail_average(gdjax.adamw(gdjax.linear_schedule(0.1, 0.0, 44)))
    whole = gdjax.fit(loss_fn, START, optimizer, DATA, steps=44, report_every=1, **options)
    part = gdjax.fit(loss_fn, START, optimizer, DATA, steps=10, report_every=1, **options)
    part = gdjax.fit(
        loss_fn, START, optimizer, DATA, steps=34, report_every=1, start=part, **options
    )
    same(part, whole)
    np.testing.assert_array_equal(part.history["step"], np.arange(1, 45))


def test_epochs_are_further_ones_and_reports_may_differ():
    options = dict(batch_size=100)
    one = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, epochs=1, held_out=DATA, **options)
    two = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, epochs=2, start=one, **options)
    assert two.steps == 12 and len(two.history["loss"]) == 12
    assert two.history["step"].tolist() == one.history["step"].tolist()
    three = gdjax.fit(
        loss_fn, START, gdjax.sgd(0.1), DATA, steps=1, start=two, held_out=DATA,
        metric_fn=lambda p, d: {"other": loss_fn(p, d)}, **options,
    )  # fmt: skip
    assert three.history["step"].tolist() == [*one.history["step"], 13]
    assert np.isnan(three.history["held_out"][-1]) and np.isnan(three.history["other"][0])


def test_a_run_goes_on_after_it_diverged():
    bad = gdjax.fit(loss_fn, START, gdjax.sgd(1e30), DATA, steps=9, on_nonfinite="stop")
    assert bad.diverged_at is not None
    state = gdjax.with_hyperparams(bad.state, learning_rate=0.01)
    start = dataclasses.replace(bad, params=START, state=state)
    good = gdjax.fit(loss_fn, START, gdjax.sgd(0.01), DATA, steps=2, start=start)
    assert good.steps == bad.steps + 2 == len(good.history["loss"])
    assert good.diverged_at is None


def test_a_result_can_be_saved(tmp_path):
    for key in (None, jax.random.key(7, impl="rbg")):
        options = dict(batch_size=32, has_aux=True, held_out=DATA)
        optimizer = gdjax.noisy_sgd(0.1)
        part = gdjax.fit(aux_loss, START, optimizer, DATA, steps=6, key=key, **options)
        part.save(tmp_path / "a.npz")
        loaded = gdjax.FitResult.load(tmp_path / "a.npz", START, optimizer.init(START))
        same(loaded, part)
        assert loaded.seconds == part.seconds
        more = [
            gdjax.fit(aux_loss, START, optimizer, DATA, steps=6, start=r, **options)
            for r in (part, loaded)
        ]
        same(*more)
    bare = gdjax.FitResult.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(bare.params["w"], part.params["w"])


def test_ctrl_c_returns_what_is_done():
    def press(report):
        if report.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    options = dict(batch_size=32, report_every=10)
    with pytest.warns(
        UserWarning, match=r"Ctrl-C ended the run after step 20 of 100.*start=result"
    ):
        part = gdjax.fit(
            loss_fn, START, gdjax.adam(0.1), DATA, steps=100, callbacks=[press], **options
        )
    assert part.steps == 20 and part.interrupted
    whole = gdjax.fit(loss_fn, START, gdjax.adam(0.1), DATA, steps=100, **options)
    same(gdjax.fit(loss_fn, START, gdjax.adam(0.1), DATA, steps=80, start=part, **options), whole)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_carries_what_is_done(kind):
    def fail(report):
        if report.step == 20:
            raise kind("of mine")

    with pytest.raises(kind, match="of mine") as caught:
        gdjax.fit(
            loss_fn, START, gdjax.adam(0.1), DATA, steps=50, report_every=10, callbacks=[fail]
        )
    assert caught.value.result.steps == 20
    more = gdjax.fit(
        loss_fn, START, gdjax.adam(0.1), DATA, steps=30, report_every=10, start=caught.value.result
    )
    same(more, gdjax.fit(loss_fn, START, gdjax.adam(0.1), DATA, steps=50, report_every=10))


def test_mistakes():
    part = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, steps=1)
    for options, message in [
        ({"state": part.state}, "the start has a state already"),
        ({"has_aux": True}, "has no aux"),
        ({"params": {"w": START["w"]}}, "another structure than params"),
        ({"start": part.params}, r"fit\(start=...\)"),
        ({"params": {"w": jnp.zeros(4), "b": START["b"]}}, r"the shape \(10,\) at 'w'"),
    ]:
        params = options.pop("params", START)
        with pytest.raises((TypeError, ValueError), match=message):
            gdjax.fit(loss_fn, params, gdjax.sgd(0.1), DATA, steps=1, **{"start": part, **options})
    with pytest.raises(ValueError, match="state of another optimizer|optimizer"):
        gdjax.fit(loss_fn, START, gdjax.adam(0.1), DATA, steps=1, start=part)
