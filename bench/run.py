"""Side by side with optax, in one run: both sides compiled, donated and synchronized.

Prints one table: workload, gdjax, the peer, their ratio (above 1: gdjax is faster) and the target.
Runs interleave the two sides; times are medians, and the outputs are compared, so that a fast wrong
answer fails.

Run: python bench/run.py [--only NAME ...] [--json FILE] [--repeats N] [--quick]
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from tabulate import tabulate

import gdjax


class Row(NamedTuple):
    """One comparison; times in seconds."""

    workload: str
    ours: float
    peer: str
    theirs: float
    target: float  # smallest ratio theirs / ours that is good enough

    @property
    def ratio(self):
        """How many times faster gdjax is."""
        return self.theirs / self.ours


def seconds(function: Callable) -> tuple[float, object]:
    """Return wall time and result of a call, up to the last array."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def interleaved(sides: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Return the median time of each side, in turns A B A B, after one call each to warm up."""
    times = {name: [] for name in sides}
    for function in sides.values():
        function()
    for _ in range(repeats):
        for name, function in sides.items():
            times[name].append(seconds(function)[0])
    return {name: statistics.median(t) for name, t in times.items()}


def must_agree(a, b, rtol=1e-4, atol=1e-5):
    """Fail unless two trees are close: a fast wrong answer is no answer."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


# --- sweeps ---------------------------------------------------------------------------------------


model = gdjax.models.mlp((64, 128, 10))


def loss_fn(params, batch):
    images, labels = batch
    logits = model.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def sweep(options):
    """32 learning rates of Adam on digits, 300 steps of 64 images, compilation included."""
    images, labels = load_digits(return_X_y=True)
    data = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
    data = jax.tree.map(lambda x: x[:64], data)  # one mini-batch, so that both sides see the same
    params = model.init(jax.random.key(0))
    rates, steps = np.logspace(-4, -2, 32).astype(np.float32), 30 if options.quick else 300

    def ours():
        space = {"learning_rate": rates}
        return gdjax.sweep(loss_fn, params, gdjax.adam, space, data, steps=steps).history["loss"]

    def python_loop():
        losses = []
        for rate in rates:  # a new rate is a new program
            opt = optax.adam(float(rate))

            @jax.jit
            def step(p, s, opt=opt):
                loss, grads = jax.value_and_grad(loss_fn)(p, data)
                updates, s = opt.update(grads, s, p)
                return optax.apply_updates(p, updates), s, loss

            p, s, run = params, opt.init(params), []
            for _ in range(steps):
                p, s, loss = step(p, s)
                run.append(loss)
            losses.append(jnp.stack(run))
        return jnp.stack(losses)

    def by_hand():
        @jax.jit
        def run(rates):
            def one(rate):
                opt = optax.adam(rate)

                def step(carry, _):
                    p, s = carry
                    loss, grads = jax.value_and_grad(loss_fn)(p, data)
                    updates, s = opt.update(grads, s, p)
                    return (optax.apply_updates(p, updates), s), loss

                return jax.lax.scan(step, (params, opt.init(params)), length=steps)[1]

            return jax.vmap(one)(rates)

        return run(jnp.asarray(rates))

    def cold(function):  # compiles included: forget what was compiled before
        jax.clear_caches()
        return seconds(function)

    times = {"ours": [], "hand": []}
    for _ in range(3):
        t, losses = cold(ours)
        times["ours"].append(t)
        t, hand = cold(by_hand)
        times["hand"].append(t)
    must_agree(losses, hand, rtol=2e-2, atol=2e-3)
    loop, _ = cold(python_loop)
    mine = statistics.median(times["ours"])
    name = f"sweep of 32 rates, {steps} steps, with compile"
    yield Row(name, mine, "optax, Python loop over rates", loop, 12.0)
    yield Row(name, mine, "optax, vmap + scan by hand", statistics.median(times["hand"]), 1 / 1.1)


# --- steps ----------------------------------------------------------------------------------------


def eager(options):
    """An update outside of jit, 96 leaves of 64 elements."""
    params = {f"{i}": jnp.full((8, 8), 0.1 * i) for i in range(96)}
    sides = {}
    for lib in (gdjax, optax):
        opt = lib.adamw(1e-3)
        state = opt.init(params)
        sides[lib.__name__] = lambda opt=opt, state=state: opt.update(params, state, params)
    must_agree(sides["gdjax"]()[0], sides["optax"]()[0])
    times = interleaved(sides, options.repeats)
    yield Row("update outside of jit, 96 leaves", times["gdjax"], "optax", times["optax"], 15.0)


def clipped_adamw(lib):
    return lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3))


def trace(options):
    """Trace and lower clip + AdamW on many leaves."""
    leaves = 200 if options.quick else 1000
    params = [jnp.ones((8, 8)) for _ in range(leaves)]
    times = {"gdjax": [], "optax": []}
    for _ in range(5):
        for lib in (gdjax, optax):
            opt = clipped_adamw(lib)
            state = opt.init(params)
            jax.clear_caches()
            start = time.perf_counter()
            jax.jit(lambda g, s, p, opt=opt: opt.update(g, s, p)).lower(params, state, params)
            times[lib.__name__].append(time.perf_counter() - start)
    medians = {k: statistics.median(v) for k, v in times.items()}
    name = f"trace + lower of clip + AdamW, {leaves} leaves"
    yield Row(name, medians["gdjax"], "optax", medians["optax"], 4.0)


def compile_time(options):
    """Compile clip + AdamW on many leaves."""
    leaves = 50 if options.quick else 200
    params = [jnp.ones((8, 8)) for _ in range(leaves)]
    times = {}
    for lib in (gdjax, optax):
        opt = clipped_adamw(lib)
        state = opt.init(params)
        step = jax.jit(lambda g, s, p, opt=opt: opt.update(g, s, p))
        lowered = step.lower(params, state, params)
        start = time.perf_counter()
        lowered.compile()
        times[lib.__name__] = time.perf_counter() - start
    yield Row(
        f"compile of clip + AdamW, {leaves} leaves", times["gdjax"], "optax", times["optax"], 1.0
    )


def transformer(blocks, width, seed=0):
    """Return random matrices and vectors shaped like a transformer's."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(rng.normal(0, 0.02, shape), jnp.float32)

    return {
        f"block{i}": {
            **{k: array(width, width) for k in "qkvo"},
            "up": array(width, 4 * width),
            "down": array(4 * width, width),
            "scale1": array(width),
            "scale2": array(width),
        }
        for i in range(blocks)
    }


def fused(options):
    """One jitted, donated step of clip + AdamW on a transformer's parameters."""
    blocks, width = (2, 128) if options.quick else (12, 512)
    params, grads = transformer(blocks, width), transformer(blocks, width, seed=1)
    size = sum(x.size for x in jax.tree.leaves(params))
    carries, sides = {}, {}
    for lib in (gdjax, optax):
        opt = clipped_adamw(lib)

        def step(params, state, grads, opt=opt, lib=lib):
            updates, state = opt.update(grads, state, params)
            return lib.apply_updates(params, updates), state

        step = jax.jit(step, donate_argnums=(0, 1))
        carries[lib.__name__] = jax.tree.map(jnp.copy, (params, opt.init(params)))

        def run(name=lib.__name__, step=step):
            carries[name] = step(*carries[name], grads)
            return carries[name]

        sides[lib.__name__] = run
    times = interleaved(sides, options.repeats)
    must_agree(carries["gdjax"][0], carries["optax"][0])
    name = f"step of clip + AdamW, {size / 1e6:.0f} M parameters"
    yield Row(name, times["gdjax"], "optax", times["optax"], 1.3)


def imports(options):
    """What `import gdjax` adds to `import jax`."""
    code = "import time; import jax, jax.numpy; t = time.perf_counter(); import {}; "
    code += "print(time.perf_counter() - t)"
    times = {}
    for name in ("gdjax", "optax"):
        command = [sys.executable, "-c", code.format(name)]
        runs = [float(subprocess.check_output(command, text=True)) for _ in range(5)]
        times[name] = statistics.median(runs)
    yield Row("import, on top of jax", times["gdjax"], "optax", times["optax"], 1.0)


WORKLOADS = {f.__name__: f for f in (imports, eager, trace, compile_time, fused, sweep)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--json", help="write the rows and what they ran on to this file")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    rows = []
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += WORKLOADS[name](options)
    header = ["workload", "gdjax, ms", "peer", "peer, ms", "ratio", "target"]
    table = [(r.workload, 1e3 * r.ours, r.peer, 1e3 * r.theirs, r.ratio, r.target) for r in rows]
    device = jax.devices()[0]
    print(f"\n{device.device_kind}, {platform.machine()}, jax {jax.__version__}")
    print(tabulate(table, header, tablefmt="github", floatfmt=".3g"))
    if options.json:
        machine = {
            "device": device.device_kind,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "gdjax": gdjax.__version__,
            "python": platform.python_version(),
        }
        with open(options.json, "w") as file:
            json.dump({**machine, "rows": [r._asdict() for r in rows]}, file, indent=1)


if __name__ == "__main__":
    main()
