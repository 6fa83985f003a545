"""Two processes of two devices each train together and get what one process gets."""

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax
from gdjax.training import lanes as lanes_module
from gdjax.training.devices import Devices

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(64, 4)).astype(np.float32), np.int32(RNG.integers(0, 3, 64))
SPACE = {"learning_rate": np.logspace(-3, -1, 3)}
MORE = dict(batch_size=16, key=1, seeds=2)
model = gdjax.models.linear(4, 3)


def loss_fn(params, batch):
    x, y = batch
    return gdjax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()


def spread_fit(directory, kill_at=None, steps=12):
    """Return a run whose parameters and states are spread over four devices, maybe killed."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("m",))

    def put(x, *spec):
        place = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(x.shape, place, lambda index: x[index])

    params = {
        "a": put(np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8), None, "m"),
        "b": put(np.zeros(8, jnp.bfloat16), "m"), "c/d": put(np.float32(0)),
    }  # fmt: skip

    def loss(params, batch):
        return jnp.mean((batch @ params["a"] + params["b"][None] + params["c/d"] - 1) ** 2)

    def callback(report):
        if report.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    optimizer = gdjax.chain(gdjax.scale_by_adam(), gdjax.noisy_sgd(0.05))
    result = gdjax.fit(
        loss, params, optimizer, DATA[0], batch_size=16, steps=steps, report_every=3, key=4,
        directory=directory, held_out=DATA[0], callbacks=[callback],
    )  # fmt: skip
    assert result.params["a"].sharding.is_equivalent_to(params["a"].sharding, 2)
    whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
    trees = [as_data(x) for x in jax.tree.leaves((result.params, result.state))]
    return [x.addressable_data(0).astype(np.float32) for x in whole(trees)], result.history


def check_fresh_state(folder):
    """A state from `init` is one array for both processes: a step and Orbax take it as it is."""
    mesh = Mesh(np.array(jax.devices()), ("m",))
    place = NamedSharding(mesh, PartitionSpec("m"))
    params = {
        "w": jax.make_array_from_callback((4, 6), place, lambda i: np.ones((4, 6), np.float32)[i])
    }
    schedule = gdjax.linear_schedule(0.1, 0.0, 9)
    optimizer = gdjax.chain(gdjax.soap(schedule), gdjax.ema(0.5), gdjax.noisy_sgd(0.05))
    state, shardings = optimizer.init(params), gdjax.state_shardings(optimizer, params)
    for x, where in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert not x.is_fully_addressable and x.sharding.is_equivalent_to(where, x.ndim)
    step = jax.jit(lambda g, s, p: optimizer.update(g, s, p)[1], out_shardings=shardings)
    after = step(params, state, params)
    if find_spec("orbax"):
        import orbax.checkpoint as ocp

        data = [as_data(x) for x in jax.tree.leaves(after)]
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(f"{folder}/fresh", data)
            checkpointer.wait_until_finished()
            found = checkpointer.restore(f"{folder}/fresh", data)
        for x, y in zip(data, found, strict=True):
            for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True):
                np.testing.assert_array_equal(a.data, b.data)


def as_data(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def results(directory):
    """Return a sweep in two groups, resumed after its end, and a race."""
    task = (loss_fn, model.init, gdjax.sgd, SPACE, DATA)
    kept = dict(
        steps=6, report_every=3, lanes_per_program=4, held_out=DATA, directory=directory, **MORE
    )
    sweeps = [gdjax.sweep(*task, **kept) for _ in range(2)]
    race = gdjax.successive_halving(*task, steps=2, eta=2, min_steps=1, vectorize=False, **MORE)
    return [{k: v for k, v in vars(r).items() if k != "seconds"} for r in (*sweeps, race)]


def child(rank, port, folder, kill_at):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
    assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
    if kill_at == "fresh":
        return check_fresh_state(folder)
    fit = spread_fit(f"{folder}/fit", int(kill_at))
    for x, y in zip(*map(jax.tree.leaves, (fit, spread_fit(None))), strict=True):
        np.testing.assert_array_equal(x, y)
    leaves = jax.tree.leaves(results(f"{folder}/sweep"))
    np.savez(f"{folder}/{rank}.npz", *map(np.asarray, leaves))


def two_processes(folder, kill_at=0):
    """Run two processes and return how they ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    here = os.environ["XLA_FLAGS"]  # the other flags decide about bits, too
    flags = {"XLA_FLAGS": here.replace("count=8", "count=2"), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), port, str(folder), str(kill_at)],
            env=os.environ | flags, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        return [(process.communicate(timeout=300)[1], process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_equal_one(tmp_path, monkeypatch):
    ended = two_processes(tmp_path, kill_at=9)
    assert -signal.SIGKILL in [code for _, code in ended], ended
    carries = [p for p in (tmp_path / "fit").glob("carry-*") if p.is_dir()]
    assert {"carry-00000003-1"} <= {p.name for p in carries}
    for errors, code in two_processes(tmp_path):
        assert code == 0, errors
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("lanes",)), PartitionSpec("lanes"))
    monkeypatch.setattr(lanes_module, "all_devices", lambda: Devices(sharding, 4, 1))
    want = jax.tree.leaves(results(tmp_path / "one"))
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz", allow_pickle=True) as found:
            for x, y in zip(want, found.values(), strict=True):
                np.testing.assert_array_equal(x, y)  # the same programs, so the same bits
    # One process continues what two have written; there, sums over devices have another order.
    longer = spread_fit(tmp_path / "fit", steps=15)
    for x, y in zip(*map(jax.tree.leaves, (longer, spread_fit(None, steps=15))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)


@pytest.mark.processes
def test_a_fresh_state_is_one_for_both_processes(tmp_path):
    for errors, code in two_processes(tmp_path, "fresh"):
        assert code == 0, errors


if __name__ == "__main__":
    child(*sys.argv[1:])
