"""Loaders, lists and iterators of batches: read once each, in order, and none is lost."""

import collections
import importlib.util
import json
import logging
import re
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import gdjax

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(size=(4, 2)).astype(np.float32), np.float32([i] * 4)) for i in range(12)]
START = jnp.zeros(2)
SGD = gdjax.sgd(0.1)
RATES = {"learning_rate": [0.01, 0.1, 0.2]}


def loss_fn(w, batch):
    x, y = batch
    return jnp.mean((x @ w - y / 12) ** 2), y[0]  # the number of the batch


def fit(data, more=None, **options):
    return gdjax.fit(loss_fn, START, SGD, data, has_aux=True, **options, **(more or {}))


def seen(result):
    return [int(i) for i in result.history["aux"]]


def threads():
    return [t for t in threading.enumerate() if t.name == "gdjax-batches"]


class Loader:
    """What can be read again and again, and says nothing else."""

    def __init__(self, batches=BATCHES, seconds=0.0):
        self.batches, self.seconds, self.given, self.passes = batches, seconds, 0, 0

    def __iter__(self):
        self.passes += 1
        for batch in self.batches:
            time.sleep(self.seconds)
            self.given += 1
            yield batch


class Stateful(Loader):
    """Stands for torchdata's loader, whose order is another one in each pass."""

    def __init__(self):
        super().__init__()
        self.epoch, self.at, self.told = -1, 0, None

    def __len__(self):
        return len(BATCHES)

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at, "rng": (1, 2)}  # a tuple: no JSON

    def load_state_dict(self, state):
        self.told = state

    def __iter__(self):
        if self.told is None:
            self.epoch, self.at = self.epoch + 1, 0
        else:
            self.epoch, self.at, self.told = self.told["epoch"], self.told["at"], None
        order = np.random.default_rng(self.epoch).permutation(len(BATCHES))
        while self.at < len(order):
            self.at, self.given = self.at + 1, self.given + 1
            yield BATCHES[order[self.at - 1]]


class Positioned:
    """Stands for the iterator of a Grain data set."""

    def __init__(self, batches=BATCHES):
        self.batches, self.at = batches, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == len(self.batches):
            raise StopIteration
        self.at += 1
        return self.batches[self.at - 1]

    def get_state(self):
        return {"next_index": self.at}

    def set_state(self, state):
        self.at = state["next_index"]


class GrainLike:
    def __iter__(self):
        return Positioned()


def by_hand(numbers, rate=0.1):
    w, losses = START, []
    for i in numbers:
        loss, grad = jax.value_and_grad(lambda w, i=i: loss_fn(w, BATCHES[i])[0])(w)
        w = w - rate * grad
        losses.append(loss)
    return w, losses


# --- how much is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("data", [BATCHES, Loader(), Loader(collections.deque(BATCHES))])
@pytest.mark.parametrize("more", [dict(epochs=2), dict(steps=24), dict(steps=17)])
def test_what_can_be_read_again_takes_epochs_and_is_read_as_often_as_steps_need(data, more):
    result = fit(data, more)
    order = [*range(12), *range(12)][: result.steps]
    assert seen(result) == order and result.steps == more.get("steps", 24)
    w, losses = by_hand(order)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.params, w, rtol=1e-5)
    assert not threads()


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        (iter(BATCHES), dict(epochs=2), "list_iterator is an iterator, which can be read only onc"),
        (BATCHES, {}, r"exactly one of steps=... and epochs=..., got None and None: a list"),
        (BATCHES, dict(steps=1, epochs=1), "exactly one of steps=... and epochs=..., got 1 and 1"),
        (BATCHES, dict(steps=1, batch_size=4), "batch_size=.* iterable has its own.*list is batch"),
        (BATCHES, dict(epochs=0), "epochs=.* must be an integer >= 1, got 0"),
        ([], dict(epochs=1), r"data=...\) has no batch, its length is 0"),
        (Loader([]), dict(epochs=1), r"data=...\): the iterable gave no batch"),
        (iter([]), {}, r"data=...\): the iterable gave no batch"),
    ],
)
def test_lengths_that_make_no_sense_are_named(data, more, message):
    with pytest.raises(ValueError, match=message):
        fit(data, more)
    with pytest.raises(ValueError, match=message.replace("fit", "sweep")):
        gdjax.sweep(loss_fn, START, gdjax.sgd, RATES, data, has_aux=True, **more)
    assert not threads()


def test_an_end_before_steps_is_said_and_what_is_done_is_returned():
    with pytest.warns(UserWarning, match=r"fit: the iterator ended after 4 .* before steps=8"):
        result = fit(iter(BATCHES[:4]), steps=8)
    assert result.steps == 4 and seen(result) == [0, 1, 2, 3]
    with pytest.warns(UserWarning, match=r"sweep: the iterator ended after 4 .* has done 4 steps"):
        swept = gdjax.sweep(
            loss_fn, START, gdjax.sgd, RATES, iter(BATCHES[:4]), has_aux=True, steps=8
        )
    np.testing.assert_array_equal(swept.steps, 4)
    np.testing.assert_allclose(swept.history["loss"][1], result.history["loss"], rtol=1e-6)
    assert fit(iter(BATCHES[:4])).steps == 4  # without steps its end is the end: no warning


def test_a_loader_that_can_secretly_be_read_only_once_is_said():
    class Around:
        def __init__(self, iterator):
            self.iterator = iterator

        def __iter__(self):
            return iter(self.iterator)

    with pytest.warns(UserWarning, match="Around gave no batch when it was read again.*epochs=3"):
        result = fit(Around(iter(BATCHES)), epochs=3)
    assert result.steps == 12


def test_no_batch_is_read_that_no_step_takes():
    stream, loader = iter(BATCHES), Loader()
    assert seen(fit(stream, steps=5)) == [0, 1, 2, 3, 4]
    assert seen(fit(stream, steps=2)) == [5, 6]
    stops = fit(stream, report_every=2, callbacks=[lambda report: True])
    assert seen(stops) == [7, 8] and int(next(stream)[1][0]) == 9
    fit(loader, steps=5)
    assert loader.given == 5


def test_an_iterator_that_can_go_back_is_left_where_the_steps_are():
    stream = Positioned()
    result = fit(stream, report_every=2, callbacks=[lambda report: report.step == 4])
    assert result.steps == 4 and stream.at == 4
    assert seen(fit(stream)) == list(range(4, 12))


def test_steps_do_not_depend_on_when_batches_arrive():
    slow = fit(Loader(seconds=0.002), epochs=2)
    fast = fit(Loader(), epochs=2, report_every=5)
    np.testing.assert_array_equal(slow.history["loss"], fast.history["loss"])
    np.testing.assert_array_equal(slow.params, fast.params)


def test_a_sweep_takes_epochs_and_all_lanes_see_the_same_batches():
    swept = gdjax.sweep(loss_fn, START, gdjax.sgd, RATES, Loader(), has_aux=True, epochs=2)
    np.testing.assert_array_equal(swept.history["aux"], [[*range(12)] * 2] * 3)
    for lane, rate in enumerate(RATES["learning_rate"]):
        _, losses = by_hand([*range(12)] * 2, rate)
        np.testing.assert_allclose(swept.history["loss"][lane], losses, rtol=1e-5)


# --- batches --------------------------------------------------------------------------------------


def compiled(caplog, run):
    """Return the names of the programs that XLA compiles."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles():
        run()
    return re.findall(r"Finished XLA compilation of (\S+)", caplog.text)


def test_a_last_smaller_batch_is_one_more_compilation(caplog):
    whole = [*BATCHES[:3], (BATCHES[3][0][:2], BATCHES[3][1][:2])]
    fit(BATCHES[:3], epochs=1)
    results = []
    programs = compiled(caplog, lambda: results.append(fit(whole, epochs=4)))
    assert seen(results[0]) == [0, 1, 2, 3] * 4
    assert sum("some" in name for name in programs) == 1
    assert not compiled(caplog, lambda: fit(whole, epochs=2, report_every=3))


def test_many_shapes_are_warned_of():
    def mean(w, batch):
        return jnp.mean((w[0] - batch["x"]) ** 2)

    batches = [{"x": np.ones(n, np.float32)} for n in range(1, 9)]
    with pytest.warns(UserWarning, match="8 different shapes so far.*Pad"):
        gdjax.fit(mean, START, SGD, batches, epochs=1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x": BATCHES[0][0]}, "batch 3 has another structure than the first one"),
        (
            (BATCHES[0][0], np.arange(4)),
            r"batch 3 is int32 with 1 axes at '1', and the.*float32",
        ),
        ((BATCHES[0][0][0], BATCHES[0][1]), r"batch 3 is float32 with 1 axes at '0'"),
        ((BATCHES[0][0], ["a"] * 4), "batch 3 must have arrays of numbers.*'a' at '1/0'"),
        ((BATCHES[0][0][:0], BATCHES[0][1][:0]), "batch 3 has no examples"),
        ((), "batch 3 has no arrays"),
    ],
)
def test_a_batch_that_differs_is_named_and_nothing_before_it_is_lost(bad, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        fit(Loader([*BATCHES[:3], bad, *BATCHES]), epochs=1, report_every=2)
    result = error.value.result
    assert result.steps == 3 and seen(result) == [0, 1, 2]
    np.testing.assert_allclose(result.params, by_hand(range(3))[0], rtol=1e-5)
    with pytest.raises((ValueError, TypeError), match=message):  # a list is looked at before
        fit([*BATCHES[:3], bad, *BATCHES], epochs=1)


def test_an_error_of_the_loader_has_its_traceback_and_the_result():
    def broken():
        yield from BATCHES[:7]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as error:
        fit(broken(), report_every=5)
    assert seen(error.value.result) == list(range(7))
    assert any(entry.name == "broken" for entry in error.traceback)
    assert not threads()
    with pytest.raises(OSError, match="the disk is gone"):  # also if a callback stops the run there
        fit(broken(), report_every=50, callbacks=[lambda report: True])
    with pytest.raises(OSError, match="the disk is gone"):
        gdjax.sweep(loss_fn, START, gdjax.sgd, RATES, broken(), has_aux=True)
    assert not threads()


@pytest.mark.parametrize(("signals", "steps"), [(1, {20}), (2, range(1, 7))])
def test_ctrl_c_ends_the_run_after_the_chunk_and_once_more_at_once(signals, steps):
    raised = threading.Event()

    def on_second(signum, frame):
        raised.set()
        raise KeyboardInterrupt

    def main_thread_has_handled(handler):
        return raised.is_set() or signal.getsignal(signal.SIGINT) != handler

    def interrupted():
        for i, batch in enumerate(BATCHES * 10):
            if i == 6:
                for _ in range(signals):  # two that wait to be handled would be one
                    handler, until = signal.getsignal(signal.SIGINT), time.monotonic() + 60
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                    while not main_thread_has_handled(handler) and time.monotonic() < until:
                        time.sleep(0.01)
            yield batch

    before = signal.signal(signal.SIGINT, on_second)
    try:
        with pytest.warns(UserWarning, match="Ctrl-C ended the run"):
            result = fit(interrupted(), steps=100, report_every=20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.interrupted and result.steps in steps and not threads()
    assert seen(result) == [i % 12 for i in range(result.steps)]


def test_a_callback_that_raises_ends_the_reading():
    def callback(report):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as error:
        fit(Loader(), epochs=2, report_every=3, callbacks=[callback])
    assert not threads() and error.value.result.steps == 3


def test_the_next_batch_is_read_while_a_step_runs():
    reading = threading.Event()

    def loader():
        for i in range(4):
            if i:
                reading.set()
            yield np.ones(300_000, np.float32)  # large: one batch for a call

    def waits(x):
        return np.float32(x + 0 * reading.wait(20))

    def slow(w, batch):
        step = jax.pure_callback(waits, jax.ShapeDtypeStruct((), np.float32), batch[0])
        return jnp.mean(w) * jax.lax.stop_gradient(step)

    started = time.perf_counter()
    assert gdjax.fit(slow, START, SGD, loader()).steps == 4
    assert time.perf_counter() - started < 15


def test_without_prefetch_batches_are_read_in_the_thread_of_the_caller():
    readers = set()

    def loader():
        for batch in BATCHES:
            readers.add(threading.current_thread())
            yield batch

    assert seen(fit(gdjax.batches(loader(), prefetch=0), steps=5)) == [0, 1, 2, 3, 4]
    assert readers == {threading.current_thread()}
    fit(loader(), steps=5)
    assert len(readers) == 2


def test_a_loader_may_reuse_its_memory():
    def loader():
        x, y = np.empty((4, 2), np.float32), np.empty(4, np.float32)
        for batch in BATCHES:
            x[:], y[:] = batch
            yield x, y

    result = fit(loader())
    assert seen(result) == list(range(12))
    np.testing.assert_allclose(result.params, by_hand(range(12))[0], rtol=1e-5)


def test_batches_that_are_on_devices_stay_there():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = jax.device_put(START, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    result = gdjax.fit(loss_fn, params, SGD, jax.device_put(BATCHES, split), has_aux=True, epochs=2)
    assert seen(result) == [*range(12)] * 2 and result.params.sharding.device_set == set(
        mesh.devices.ravel()
    )
    np.testing.assert_allclose(result.params, by_hand([*range(12)] * 2)[0], rtol=1e-5)
    host = gdjax.fit(loss_fn, params, SGD, BATCHES, has_aux=True, epochs=2)
    np.testing.assert_allclose(host.params, result.params, rtol=1e-5)


def test_integers_that_do_not_fit_are_an_error():
    def count(w, batch):
        return jnp.sum(w**2) + 0.0 * jnp.sum(batch["id"])

    good, bad = {"id": np.array([2**31 - 1])}, {"id": np.array([2**31])}
    with pytest.raises(ValueError, match="batch 1 has integers of more than 32 bits at 'id'"):
        gdjax.fit(count, START, SGD, iter([good, bad]))
    with pytest.raises(ValueError, match=r"data=...\) has integers of more than 32 bits at 'id'"):
        gdjax.fit(count, START, SGD, bad, steps=1)
    with jax.enable_x64(True):
        assert gdjax.fit(count, START, SGD, iter([good, bad])).steps == 2


def test_batches_in_float64_are_kept_under_x64():
    def dtype(w, batch):
        return jnp.sum(w) * 0 + jnp.mean(batch["x"]), batch["x"][0]

    batches = [{"x": np.full(3, 0.1)}]
    with jax.enable_x64(True):
        result = gdjax.fit(dtype, jnp.zeros(2), SGD, batches, epochs=1, has_aux=True)
    assert result.history["aux"][0] == 0.1
    single = gdjax.fit(dtype, START, SGD, batches, epochs=1, has_aux=True)
    assert single.history["aux"].dtype == np.float32


# --- the position ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: BATCHES, Loader, Stateful, GrainLike, Positioned])
@pytest.mark.parametrize("cut", [3, 12, 14])
def test_a_run_in_two_parts_is_one_run(make, cut, tmp_path):
    total = 12 if make is Positioned else 30
    if cut > total - 1:
        pytest.skip("an iterator has one pass")
    whole = fit(make(), steps=total)
    first = fit(make(), steps=cut)
    first.save(tmp_path / "first.npz")
    saved = gdjax.FitResult.load(tmp_path / "first.npz", START, SGD.init(START))
    assert json.loads(saved.position)[:2] == [(cut - 1) // 12, (cut - 1) % 12 + 1]
    both = fit(make(), steps=total - cut, start=saved)
    assert seen(both) == seen(whole)
    np.testing.assert_array_equal(both.history["loss"], whole.history["loss"])
    np.testing.assert_array_equal(both.params, whole.params)


def test_further_epochs_are_counted_from_where_a_run_was():
    for make in (Loader, Stateful):
        whole, first = fit(make(), steps=27), fit(make(), steps=3)
        both = fit(make(), epochs=2, start=first)
        assert both.steps == 27 and seen(both) == seen(whole)


def test_what_is_read_ahead_does_not_count():
    loader = Stateful()
    result = fit(loader, steps=100, report_every=5, callbacks=[lambda report: True])
    assert result.steps == 5 and loader.given > 5
    both = fit(Stateful(), steps=25, start=result)
    assert seen(both) == seen(fit(Stateful(), steps=30))


def test_an_iterator_is_read_on_and_another_kind_of_loader_is_an_error():
    stream = iter(BATCHES)
    first = fit(stream, steps=5)
    assert seen(fit(stream, steps=7, start=first)) == list(range(12))
    with pytest.raises(TypeError, match="position to start from is.*Loader has no"):
        fit(Loader(), steps=1, start=fit(Stateful(), steps=2))


# --- what is an iterable of batches ---------------------------------------------------------------


class Tensor:
    """Stands for an array of another library."""

    def __init__(self, array, error=None):
        self.array, self.error = array, error
        self.dtype, self.shape = array.dtype, array.shape

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise RuntimeError(self.error)
        return self.array

    def __iter__(self):
        return iter(self.array)


class Rows:
    """Stands for a data set of Hugging Face."""

    def with_format(self, name):
        return self

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return {"x": [1.0, 2.0], "y": i}

    def __iter__(self):
        return (self[i] for i in range(4))


class MapStyle:
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return BATCHES[i]


def generator():
    yield from BATCHES


X, Y = BATCHES[0]
FRAME = pd.DataFrame({"a": [1.0, 2.0], "dtype": [3.0, 4.0]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([X, Y], r"list of arrays, which may mean two things.*\(x, y\).*gdjax.batches\(data\)"),
        ([(X, Y), X], "list of arrays"),
        ([1.0, 2.0], "list of arrays"),
        (FRAME, r"pandas.*DataFrame.*to_numpy\(np.float32\)"),
        ((FRAME, Y[:2]), r"pandas.*DataFrame at '0'.*to_numpy\(np.float32\)"),
        ([(FRAME, Y)], r"batch 0 .*DataFrame at '0'.*to_numpy"),
        (FRAME["a"].map(str), "pandas.*Series"),
        (generator, r"the function generator.*It is a function: call it, generator\(\)"),
        ({"x": generator()}, "generator at 'x'.*must be the whole of data"),
        ({1, 2}, "A set has no order"),
        (range(4), r"np.arange"),
        ("data.npz", "got 'data.npz'"),
        (Rows(), r"single examples.*with_format\('numpy'\)\[:\].*DataLoader"),
        (MapStyle(), "loader of batches, such as torch.utils.data.DataLoader"),
        (collections.UserDict(x=X), r"Give a dict of arrays"),
        (Tensor(X, "Use detach() first"), r"Tensor of dtype float32: Use detach\(\) first"),
        (np.array(["a"]), "of dtype <U1"),
        (object(), "object"),
    ],
)
def test_what_is_no_data_is_told_apart(data, message):
    with pytest.raises(TypeError, match=message):
        fit(data, steps=1)


def test_arrays_of_other_libraries_are_taken():
    tensors = [(Tensor(x), pd.Series(y)) for x, y in BATCHES]
    result, plain = fit(tensors, epochs=1), fit(BATCHES, epochs=1)
    np.testing.assert_array_equal(result.history["loss"], plain.history["loss"])
    whole, same = ((f(X), g(Y)) for f, g in ((Tensor, pd.Series), (np.asarray, np.asarray)))
    np.testing.assert_array_equal(fit(whole, steps=3).params, fit(same, steps=3).params)
    mapped = [collections.UserDict(x=x, y=y) for x, y in BATCHES]  # such as a BatchEncoding
    loss = lambda w, batch: loss_fn(w, (batch["x"], batch["y"]))  # noqa: E731
    again = gdjax.fit(loss, START, SGD, mapped, has_aux=True, epochs=1)
    np.testing.assert_array_equal(again.params, plain.params)


def test_held_out_batches_are_read_in_the_same_way():
    tensors = Loader([(Tensor(x), pd.Series(y)) for x, y in BATCHES])
    results = [
        gdjax.fit(loss_fn, START, SGD, (X, Y), has_aux=True, steps=2, held_out=held_out)
        for held_out in (tensors, BATCHES, tuple(np.concatenate(x) for x in zip(*BATCHES)))
    ]
    for result in results[:2]:
        np.testing.assert_allclose(
            result.history["held_out"], results[2].history["held_out"], rtol=1e-5
        )
    with pytest.raises(TypeError, match=r"held_out=...\) is a list of arrays"):
        fit((X, Y), steps=1, held_out=[X, Y])
    with pytest.raises(TypeError, match=r"held_out=...\): batch 0 .*DataFrame"):
        fit((X, Y), steps=1, held_out=[(FRAME, Y)])
    assert not threads()


def test_batches_says_what_a_list_of_arrays_is():
    def mean(w, batch):
        return jnp.mean((w[0] - batch) ** 2)

    result = gdjax.fit(mean, START, SGD, gdjax.batches([x for x, _ in BATCHES]), epochs=2)
    assert result.steps == 24
    with pytest.raises(TypeError, match=r"batches\(source=...\) must be an iterable.*DataFrame"):
        gdjax.batches(FRAME)
    with pytest.raises(ValueError, match=r"batches\(prefetch=...\) must be an integer >= 0"):
        gdjax.batches(BATCHES, prefetch=-1)


# --- real loaders, where they are installed -------------------------------------------------------


def test_a_loader_of_pytorch():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(
        *(torch.from_numpy(np.concatenate(x)) for x in zip(*BATCHES, strict=True))
    )
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    result = fit(loader, epochs=2)
    assert seen(result) == [*range(12)] * 2
    np.testing.assert_array_equal(result.params, fit(BATCHES, epochs=2).params)
    np.testing.assert_array_equal(
        fit(data.tensors, steps=3).params, fit(tuple(map(np.asarray, data.tensors)), steps=3).params
    )
    with pytest.raises(TypeError, match="torch.*requires grad"):
        fit((torch.ones(4, 2, requires_grad=True), Y), steps=1)
    with pytest.raises(TypeError, match="DataLoader"):
        fit(data, steps=1)


@pytest.mark.filterwarnings("ignore:.set_vital")  # torchdata calls it
def test_a_loader_of_torchdata():
    torch = pytest.importorskip("torch")
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    numbers = torch.utils.data.TensorDataset(
        *(torch.from_numpy(np.concatenate(x)) for x in zip(*BATCHES, strict=True))
    )

    def loader():
        generator = torch.Generator().manual_seed(1)
        return stateful.StatefulDataLoader(numbers, 4, shuffle=True, generator=generator)

    whole, first = fit(loader(), steps=12), fit(loader(), steps=5)
    both = fit(loader(), steps=7, start=first)
    assert seen(both) == seen(whole)
    np.testing.assert_array_equal(both.params, whole.params)


def test_loaders_of_grain():
    grain = pytest.importorskip("grain")

    def loader():
        return grain.MapDataset.source(BATCHES).seed(0).shuffle()

    for make in (loader, lambda: loader().to_iter_dataset()):
        whole, first = fit(make(), epochs=2), fit(make(), steps=5)
        both = fit(make(), steps=19, start=first)
        assert seen(both) == seen(whole) and sorted(seen(whole)[:12]) == list(range(12))
        np.testing.assert_array_equal(both.params, whole.params)
    stream = iter(loader().to_iter_dataset())
    fit(stream, report_every=2, callbacks=[lambda report: True])
    assert seen(fit(stream)) == seen(whole)[2:12]


# --- the documentation ----------------------------------------------------------------------------


def test_the_page_on_data_runs():
    page = (Path(gdjax.__file__).parents[2] / "docs" / "guides" / "data.md").read_text()
    names: dict = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(code, names)
    results = [names["result"]]
    for name, module in (("with_torch", "torch"), ("with_grain", "grain")):
        if importlib.util.find_spec(module):
            results.append(names[name]())
    for result in results:
        np.testing.assert_allclose(result.params["w"], [1.0, -2.0, 0.5], atol=0.1)


class Forgetful(list):
    """A loader that says which pass it is in, but not where in it."""

    def state_dict(self):
        return {"pass": 1}

    def load_state_dict(self, state):
        pass


def test_a_loader_that_begins_its_pass_again_is_an_error():
    data = gdjax.batches(Forgetful(BATCHES[:6]))
    part = fit(data, steps=2)
    with pytest.raises(ValueError, match="continued at batch 2 gave more than the 6 batches"):
        fit(data, epochs=1, start=part)


@pytest.mark.parametrize("report_every", [2, 3, 25])
def test_a_bad_batch_is_the_next_one_of_a_run_that_continues(report_every):
    bad = [(x * np.nan, i) if k == 6 else (x, i) for k, (x, i) in enumerate(BATCHES)]
    options = dict(has_aux=True, report_every=report_every)
    part = gdjax.fit(loss_fn, START, SGD, bad, steps=25, on_nonfinite="stop", **options)
    assert part.steps == 6 and json.loads(part.position)[:2] == [0, 6]
    whole = gdjax.fit(loss_fn, START, SGD, BATCHES, steps=25, **options)
    rest = gdjax.fit(loss_fn, START, SGD, BATCHES, steps=19, start=part, **options)
    np.testing.assert_array_equal(rest.params, whole.params)
    np.testing.assert_array_equal(rest.history["loss"], whole.history["loss"])
