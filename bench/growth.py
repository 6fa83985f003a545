"""How the time to trace, lower and compile a step grows: with leaves, groups, layers and devices.

Prints a table in Markdown: seconds of CPU time of this process, medians of `--repeats`, of gdjax
and, where it has the method, of optax, in turn. `python bench/growth.py --only adam groups`.
"""

import argparse
import functools
import gc
import os
import statistics
import time
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import gdjax

SHAPES = ((256, 256), (256, 512), (256,))  # in turn: a leaf is one of these
STAGES = ("trace", "lower", "compile")
PATTERNS = {r".*bias.": 0.0, r".*": 0.1}


def params_of(leaves, layers=0, mesh=None):
    """Return shapes: `leaves` of them, stacked over layers, rows split over a mesh."""
    tree = {}
    for i in range(leaves):
        shape = (layers,) * bool(layers) + SHAPES[i % len(SHAPES)]
        split = PartitionSpec(*[None] * bool(layers), "x" if len(SHAPES[i % 3]) == 2 else None)
        sharding = None if mesh is None else NamedSharding(mesh, split)
        name = "bias" if len(SHAPES[i % 3]) == 1 else "kernel"
        tree.setdefault(f"layer{i // 3}", {})[f"{name}{i % 3}"] = jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=sharding
        )
    return tree


def label_of(n, path):
    return f"g{(3 * int(path[0].key.removeprefix('layer')) + int(path[1].key[-1])) % n}"


def labels(n, params):
    return jax.tree_util.tree_map_with_path(lambda path, _: label_of(n, path), params)


def groups(lib, n):
    members = {f"g{i}": lib.adamw(1e-3) for i in range(n)}
    return (lib.partition if lib is gdjax else lib.multi_transform)(
        members, functools.partial(labels, n)
    )


def by_path(lib):
    if lib is gdjax:
        return gdjax.adamw(1e-3, weight_decay=gdjax.by_path(PATTERNS))
    return optax.adamw(1e-3, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))


METHODS = {
    "adam": lambda lib: lib.adam(1e-3),
    "adamw, decay by path": by_path,
    "muon": lambda lib: (lib if lib is gdjax else optax.contrib).muon(1e-3),
    "soap": lambda lib: gdjax.soap(1e-3) if lib is gdjax else None,
    "groups, 1": lambda lib: groups(lib, 1),
    "groups, 10": lambda lib: groups(lib, 10),
    "groups, 50": lambda lib: groups(lib, 50),
}


def stages(lib: Any, opt: Any, params, compiles, steps=0):
    """Return the seconds for tracing, lowering and compiling a step, from empty caches."""

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    def several(params, state, grads):
        def body(carry, _):
            params, state = carry
            return step(params, state, grads), None

        return jax.lax.scan(body, (params, state), length=steps)[0]

    state = jax.eval_shape(opt.init, params)
    jax.clear_caches()
    gc.collect()
    t = [time.process_time()]
    function: Any = several if steps else step
    traced = jax.jit(function).trace(params, state, params)
    t.append(time.process_time())
    lowered = traced.lower(lowering_platforms=("cpu",))
    t.append(time.process_time())
    if compiles:
        lowered.compile()
        t.append(time.process_time())
    return [b - a for a, b in zip(t, t[1:], strict=False)]


def measure(title, make, params, repeats, compiles=True, steps=0):
    sides = [(lib, opt) for lib in (gdjax, optax) if (opt := make(lib)) is not None]
    samples = {lib: [] for lib, _ in sides}
    for _ in range(repeats):
        for lib, opt in sides:
            samples[lib].append(stages(lib, opt, params, compiles, steps))
    cells = []
    for stage in range(3):
        for lib in (gdjax, optax):
            known = [s[stage] for s in samples.get(lib, []) if len(s) > stage]
            cells.append(f"{statistics.median(known):.3g}" if known else "")
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--leaves", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--compile-up-to", type=int, default=100, help="leaves")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print("| step of | " + " | ".join(f"{s}, gdjax | {s}, optax" for s in STAGES) + " |")
    print("|---" * 7 + "|")

    def wanted(name):
        return not args.only or any(name.startswith(x) for x in args.only)

    for name, make in METHODS.items():
        for n in args.leaves if wanted(name) else ():
            if name.startswith("groups") and int(name.split()[1]) > n:
                continue
            params = params_of(n)
            measure(f"{name}, {n} leaves", make, params, args.repeats, n <= args.compile_up_to)
    for layers in (10, 100) if wanted("layers") else ():
        for name in ("adam", "muon"):
            title = f"{name}, 10 leaves stacked over {layers} layers, 100 steps in a scan"
            measure(title, METHODS[name], params_of(10, layers), args.repeats, True, 100)
    for devices in (8, 256) if wanted("devices") else ():
        mesh = AbstractMesh((devices,), ("x",), axis_types=(AxisType.Auto,))
        for name in ("adam", "muon", "soap"):
            title = f"{name}, 100 leaves, rows over {devices} devices"
            measure(title, METHODS[name], params_of(100, mesh=mesh), args.repeats, False)


if __name__ == "__main__":
    main()
