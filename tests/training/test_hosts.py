"""Two processes of two devices each sweep together and get what one process gets."""

import os
import socket
import subprocess
import sys

import jax
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


def results(directory):
    """Return a sweep in two groups, resumed after its end, and a race."""
    task = (loss_fn, model.init, gdjax.sgd, SPACE, DATA)
    kept = dict(
        steps=6, report_every=3, lanes_per_program=4, held_out=DATA, directory=directory, **MORE
    )
    sweeps = [gdjax.sweep(*task, **kept) for _ in range(2)]
    race = gdjax.successive_halving(*task, steps=2, eta=2, min_steps=1, vectorize=False, **MORE)
    return [{k: v for k, v in vars(r).items() if k != "seconds"} for r in (*sweeps, race)]


def child(rank, port, folder):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
    assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
    leaves = jax.tree.leaves(results(f"{folder}/sweep"))
    np.savez(f"{folder}/{rank}.npz", *map(np.asarray, leaves))


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_equal_one(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    here = os.environ["XLA_FLAGS"]  # the other flags decide about bits, too
    flags = {"XLA_FLAGS": here.replace("count=8", "count=2"), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), port, str(tmp_path)],
            env=os.environ | flags, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("lanes",)), PartitionSpec("lanes"))
    monkeypatch.setattr(lanes_module, "all_devices", lambda: Devices(sharding, 4, 1))
    want = jax.tree.leaves(results(tmp_path / "one"))
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz", allow_pickle=True) as found:
            for x, y in zip(want, found.values(), strict=True):
                np.testing.assert_array_equal(x, y)  # the same programs, so the same bits


if __name__ == "__main__":
    child(*sys.argv[1:])
