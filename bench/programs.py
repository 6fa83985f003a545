"""The time before the first step (import, trace, lower, compile), and the memory of a step."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import optax
from harness import Row
from steps import OPTIMIZERS, clipped_adamw, donated_step, stacked, transformer

import gdjax

LIBRARIES = (gdjax, optax)


def imports(options):
    """The time of `import gdjax` after `import jax`."""
    code = "import time; import jax, jax.numpy; t = time.perf_counter(); import {}; "
    code += "print(time.perf_counter() - t)"
    times = {}
    for name in ("gdjax", "optax"):
        command = [sys.executable, "-c", code.format(name)]
        times[name] = [float(subprocess.check_output(command, text=True)) for _ in range(5)]
    yield Row("import, on top of jax", times["gdjax"], "optax", times["optax"], 1.0)


def small(leaves):
    return [jnp.ones((8, 8)) for _ in range(leaves)]


EIGHT = ((8, 8), (16,), (4, 16), (8,), (16, 4), (32,), (2, 8), (8, 4))


def trace(options):
    """Trace and lower clip + AdamW on many leaves, of one shape and of eight."""
    leaves = 200 if options.quick else 1000
    title = f"trace + lower of clip + AdamW, {leaves} leaves"
    yield traced(title, small(leaves), 4.0)
    yield traced(f"{title} of 8 shapes", [jnp.ones(EIGHT[i % 8]) for i in range(leaves)], 5.0)


def traced(title, params, target):
    """Return the row for one tree of parameters."""
    times = {lib.__name__: [] for lib in LIBRARIES}
    for _ in range(5):
        for lib in LIBRARIES:
            opt = clipped_adamw(lib)
            state = opt.init(params)
            jax.clear_caches()
            start = time.perf_counter()
            donated_step(lib, opt).lower(params, state, params)
            times[lib.__name__].append(time.perf_counter() - start)
    return Row(title, times["gdjax"], "optax", times["optax"], target)


def compiling(options):
    """Trace, lower and compile clip + AdamW for several numbers of leaves."""
    sides = {
        "gdjax": (gdjax, clipped_adamw),
        "optax": (optax, clipped_adamw),
        "stacked": (gdjax, stacked),
    }
    for leaves in (10, 100) if options.quick else (10, 100, 1000):
        params, times = small(leaves), {name: [] for name in sides}
        for _ in range(1 if leaves > 500 else 5):
            for name, (lib, make) in sides.items():
                opt = make(lib)
                state = opt.init(params)
                jax.clear_caches()
                start = time.perf_counter()
                donated_step(lib, opt).lower(params, state, params).compile()
                times[name].append(time.perf_counter() - start)
        title = f"trace + lower + compile of clip + AdamW, {leaves} leaves"
        target = 1.5 if leaves >= 1000 else 1.0
        yield Row(title, times["gdjax"], "optax", times["optax"], target)
        title += ", flatten(block=16)"
        yield Row(title, times["stacked"], "optax", times["optax"], target)


def memory(options):
    """Bytes of state per parameter, and the peak memory of a donated, compiled step."""
    params = transformer(*((2, 64) if options.quick else (4, 256)))
    count = sum(x.size for x in jax.tree.leaves(params))
    for name, (make, _) in OPTIMIZERS.items():
        state, peak = {}, {}
        for lib in LIBRARIES:
            opt = make(lib)
            shapes = jax.eval_shape(opt.init, params)
            state[lib.__name__] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
            compiled = donated_step(lib, opt).lower(params, shapes, params).compile()
            used = compiled.memory_analysis()
            peak[lib.__name__] = (
                used.argument_size_in_bytes
                + used.output_size_in_bytes
                + used.temp_size_in_bytes
                - used.alias_size_in_bytes
            )
        least = 2 * 4 * count + state["gdjax"]  # parameters, gradients, state
        per_weight = {k: v / count for k, v in state.items()}
        yield Row(
            f"state of {name}, bytes per parameter",
            per_weight["gdjax"], "optax", per_weight["optax"], 1.0, unit="B",
        )  # fmt: skip
        yield Row(
            f"peak memory of a step of {name}, {count / 1e6:.1f} M parameters",
            peak["gdjax"] / 1e6, "optax", peak["optax"] / 1e6, 1.0, least / 1e6, "MB",
        )  # fmt: skip


WORKLOADS = {f.__name__: f for f in (imports, trace, compiling, memory)}
