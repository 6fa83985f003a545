"""SOAP and Shampoo: amortized steps against AdamW and against one program for each leaf."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads and XLA's wait for each other

import statistics

import jax
from harness import Row, interleaved
from steps import transformer

import gdjax
from gdjax.core.blocks import map_blocks
from gdjax.optimizers import shampoo as shampoo_module
from gdjax.optimizers import soap as soap_module

FREQUENCY = 10
MAKERS = {
    "SOAP": (soap_module, lambda **k: gdjax.soap(1e-3, precondition_frequency=FREQUENCY, **k)),
    "Shampoo": (
        shampoo_module,
        lambda **k: gdjax.shampoo(1e-3, precondition_frequency=FREQUENCY, block_size=512, **k),
    ),
}


def sizes(options):
    return (2, 64) if options.quick else (4, 256)


def compiled_step(opt, params, grads):
    """Return a function that does one donated step, and its compiled program."""

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    carry = jax.tree.map(lambda x: x.copy(), (params, opt.init(params)))
    program = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, grads).compile()

    def run():
        nonlocal carry
        carry = program(*carry, grads)
        return carry

    return run, program


def per_leaf(module, make):
    """Make an optimizer with its rule once for each leaf instead of once for each stack."""
    before, module.map_buckets = module.map_buckets, map_blocks
    try:
        return make()
    finally:
        module.map_buckets = before


def precondition(options):
    """Amortized step, peak of temporary memory, state, and how even staggered steps are."""
    blocks, width = sizes(options)
    params, grads = transformer(blocks, width), transformer(blocks, width, seed=1)
    shape = f"{blocks} blocks of width {width}"
    adamw, _ = compiled_step(gdjax.adamw(1e-3), params, grads)
    for name, (module, make) in MAKERS.items():
        stacked, program = compiled_step(make(), params, grads)
        leaf, leaf_program = compiled_step(per_leaf(module, make), params, grads)
        turns, _ = compiled_step(make(stagger=True), params, grads)
        sides = dict(stacked=stacked, leaf=leaf, turns=turns, adamw=adamw)
        for run in sides.values():  # after the first roots, which all come at once
            for _ in range(FREQUENCY):
                run()
        times = interleaved(sides, 2 * FREQUENCY)
        mean = {k: statistics.mean(v) for k, v in times.items()}
        yield Row(f"{name}, mean step, {shape}", mean["stacked"], "per leaf", mean["leaf"], 0.8)
        yield Row(f"{name}, mean step, {shape}", mean["stacked"], "AdamW", mean["adamw"], 0.01)
        flat = {k: max(times[k]) / statistics.median(times[k]) for k in ("turns", "stacked")}
        yield Row(
            f"{name}, longest / median step, staggered, {shape}",
            flat["turns"], "all at once", flat["stacked"], 1.0, unit="B",
        )  # fmt: skip
        peaks = [p.memory_analysis().temp_size_in_bytes / 1e6 for p in (program, leaf_program)]
        yield Row(f"{name}, temporary memory, {shape}", *_pair(peaks, "per leaf"), 0.3, unit="MB")
        state = [_megabytes(opt, params) for opt in (make(), gdjax.adamw(1e-3))]
        yield Row(f"{name}, state, {shape}", *_pair(state, "AdamW"), 0.05, unit="MB")


def _pair(values, peer):
    return float(values[0]), peer, float(values[1])


def _megabytes(opt, params):
    state = jax.eval_shape(opt.init, params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / 1e6


WORKLOADS = {f.__name__: f for f in (precondition,)}
