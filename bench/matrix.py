"""Muon on the matrices of a transformer, and compilation of many matrices, compared with optax."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import Row, interleaved, matmul_rate
from optax import contrib
from steps import transformer

import gdjax


def matrices(blocks, width, seed):
    tree = transformer(blocks, width, seed)
    return {b: {k: x for k, x in leaves.items() if x.ndim == 2} for b, leaves in tree.items()}


def orthogonality_error(updates):
    """Return the largest |s - 1| over the singular values of updates, divided by their median."""
    values = [np.linalg.svd(x, compute_uv=False) for x in jax.tree.leaves(updates)]
    return max(float(np.abs(s / np.median(s) - 1).max()) for s in values)


def operations(shapes):
    """Return the operations of five Newton-Schulz steps, in the cheaper form of `polar`."""
    pairs = [(min(s), max(s)) for s in shapes]
    return sum(min(5 * (4 * m * m * n + 2 * m**3), 4 * m * m * n + 34 * m**3) for m, n in pairs)


def donated(factory, params, grads):
    """Return a function that does one step, and the first updates."""
    opt = factory(0.02, nesterov=False)

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    state = jax.jit(opt.init)(params)
    carry = jax.tree.map(jnp.copy, (params, state))

    def run():
        nonlocal carry
        carry = step(*carry, grads)
        return carry

    return run, jax.jit(opt.update)(grads, state, params)[0]


def muon(options):
    """One compiled, donated step of Muon with five Newton-Schulz steps in float32."""
    sizes = [(2, 64)] if options.quick else [(8, 256), (12, 512)]
    for blocks, width in sizes:
        params, grads = matrices(blocks, width, 0), matrices(blocks, width, 1)
        factories = {"gdjax": gdjax.muon, "optax": contrib.muon}
        runs = {name: donated(factory, params, grads) for name, factory in factories.items()}
        # equal directions and orthogonality errors
        for x, y in zip(*(jax.tree.leaves(first) for _, first in runs.values()), strict=True):
            scale = 0.02 * max(1, x.shape[1] / x.shape[0]) ** 0.5
            np.testing.assert_allclose(x / scale, y / scale, atol=2e-3)
        errors = [orthogonality_error(first["block0"]) for _, first in runs.values()]
        assert abs(errors[0] - errors[1]) < 1e-4, errors
        repeats = options.repeats if width < 512 else max(options.repeats // 3, 3)
        times = interleaved({name: run for name, (run, _) in runs.items()}, repeats)
        name = f"Muon step, {blocks} blocks of width {width}"
        limit = operations([x.shape for x in jax.tree.leaves(params)]) / matmul_rate()
        yield Row(name, times["gdjax"], "optax", times["optax"], 2.5, limit)


def muon_compile(options):
    """Trace, lower and compile Muon for 100 equal matrices, compared with one and with optax."""
    width, many = (32, 10) if options.quick else (256, 100)

    def seconds(factory, n):
        params = {str(i): jnp.ones((width, width)) for i in range(n)}
        opt = factory(0.02)
        state = opt.init(params)
        times = []
        for _ in range(3):
            jax.clear_caches()
            start = time.perf_counter()
            jax.jit(lambda g, s, p: opt.update(g, s, p)).lower(params, state, params).compile()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    ours, one = seconds(gdjax.muon, many), seconds(gdjax.muon, 1)
    yield Row(f"compile Muon, {many} matrices", ours, "itself with one", one, 0.5)
    yield Row(f"compile Muon, {many} matrices", ours, "optax", seconds(contrib.muon, many), 1.0)


WORKLOADS = {f.__name__: f for f in (muon, muon_compile)}
