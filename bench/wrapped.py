"""Wrappers: accumulation, guards, groups of parameters, tuning; compared with optax's, or none."""

import time

import jax
import jax.numpy as jnp
import optax
from harness import Row, copy_bandwidth, interleaved
from steps import donated_step, race, trained, transformer

import gdjax


def accumulated(lib):
    if lib is gdjax:
        return gdjax.accumulate(gdjax.adamw(1e-3), every_k=8)
    return optax.MultiSteps(optax.adamw(1e-3), every_k_schedule=8).gradient_transformation()


def guarded(lib):
    return lib.apply_if_finite(lib.adamw(1e-3), max_consecutive_errors=3)


def split(lib):
    """Return AdamW with different learning rates for matrices and vectors."""
    labels = lambda params: jax.tree.map(lambda x: "ab"[x.ndim > 1], params)  # noqa: E731
    return lib.partition({"a": lib.adamw(1e-3), "b": lib.adamw(3e-4)}, labels)


STEPS = {  # name -> (factory for a library, target ratio, bytes to move per parameter)
    # seven of eight calls read sum and gradient and write the sum; the eighth also reads the sum
    "AdamW, one of 8 mini-batches": (accumulated, 2.0, (7 * 12 + 32) / 8),
    "AdamW, guarded": (guarded, 1.0, 28),
    "AdamW in two groups": (split, 1.0, 28),
}


def wrapped_steps(options):
    """One call of update on the parameters of a transformer; for accumulation the mean of eight."""
    shape = (2, 64) if options.quick else (12, 512)
    params, grads = transformer(*shape), transformer(*shape, seed=1)
    count = sum(x.size for x in jax.tree.leaves(params))
    for name, (make, target, moved) in STEPS.items():
        times = race(make, params, grads, 16 if make is accumulated else options.repeats)
        if make is accumulated:
            eights = {k: zip(*[iter(v)] * 8, strict=True) for k, v in times.items()}
            times = {k: [sum(eight) / 8 for eight in v] for k, v in eights.items()}
        title = f"step of {name}, {count / 1e6:.1f} M parameters"
        limit = moved * count / copy_bandwidth()
        yield Row(title, times["gdjax"], "optax", times["optax"], target, limit)


def traced_groups(options):
    """Trace and lower two groups of many leaves."""
    leaves = 200 if options.quick else 1000
    params = [jnp.ones((8, 8)[: 1 + i % 2]) for i in range(leaves)]
    times = {"gdjax": [], "optax": []}
    for _ in range(5):
        for lib in (gdjax, optax):
            opt = split(lib)
            state = opt.init(params)
            jax.clear_caches()
            start = time.perf_counter()
            donated_step(lib, opt).lower(params, state, params)
            times[lib.__name__].append(time.perf_counter() - start)
    title = f"trace + lower of two groups of AdamW, {leaves} leaves"
    yield Row(title, times["gdjax"], "optax", times["optax"], 3.0)


def self_tuned(options):
    """A step of a network of 1.9 M parameters, batch 64, whose optimizer tunes its own numbers."""
    width = 64 if options.quick else 1024
    init, apply = gdjax.models.mlp([784, width, width, 10])
    params = init(jax.random.key(0))
    images, labels = jax.random.normal(jax.random.key(1), (64, 784)), jnp.arange(64) % 10

    def loss_fn(params):
        losses = gdjax.softmax_cross_entropy_with_integer_labels(apply(params, images), labels)
        return jnp.mean(losses)

    adamw = gdjax.adamw(1e-4)
    for names, target in ((("learning_rate",), 1 / 1.5), (("learning_rate", "b1"), None)):
        sides = {"ours": gdjax.self_tuning(adamw, names), "alone": adamw}
        times = interleaved(
            {k: trained(opt, loss_fn, params) for k, opt in sides.items()}, options.repeats
        )
        title = f"training step of an MLP, AdamW that tunes {' and '.join(names)}"
        yield Row(title, times["ours"], "AdamW alone", times["alone"], target)


WORKLOADS = {f.__name__: f for f in (wrapped_steps, traced_groups, self_tuned)}
