"""One step of an optimizer: outside of jit, traced, compiled, run; and the import."""

import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Row, interleaved, must_agree

import gdjax


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


WORKLOADS = {f.__name__: f for f in (imports, eager, trace, compile_time, fused)}
