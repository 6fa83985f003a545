"""The cost of recording learning rate, norms and skipped steps in every training step."""

import jax
import jax.numpy as jnp
import optax
from harness import Row, interleaved, must_agree

import gdjax


def _program(options, opt, norms=None):
    """Return one training step of a network as a compiled call, with its records."""
    width, rows = (128, 64) if options.quick else (512, 256)
    sizes = {f"w{i}": (width, width) for i in range(4)}
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = {
        name: jax.random.normal(key, shape) / width**0.5
        for key, (name, shape) in zip(keys, sizes.items(), strict=True)
    }
    x = jax.random.normal(jax.random.key(1), (rows, width))
    _, state = jax.jit(opt.update)(params, opt.init(params), params)  # moments that are not zero

    def loss(params):
        out = x
        for name in sizes:
            out = jnp.tanh(out @ params[name])
        return jnp.mean((out - x) ** 2)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = opt.update(grads, state, params)
        more = norms and norms(grads, updates, params)
        return jax.tree.map(jnp.add, params, updates), state, more

    return lambda: step(params, state)


def _by_hand(grads, updates, params):
    size, step, weight = (optax.tree.norm(t) for t in (grads, updates, params))
    return size, step, step / weight


def recording(options):
    """A training step of four dense layers, clip + AdamW, with and without its records."""
    ours, theirs = (
        lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3)) for lib in (gdjax, optax)
    )
    sides = {
        "monitored": _program(options, gdjax.monitor(ours)),
        "plain": _program(options, ours),
        "optax": _program(options, theirs, _by_hand),
    }
    records = gdjax.metrics(sides["monitored"]()[1])
    names = ("grad_norm", "update_norm", "update_ratio")
    must_agree([records[name] for name in names], list(sides["optax"]()[2]))
    must_agree(sides["monitored"]()[0], sides["plain"]()[0])
    times = interleaved(sides, options.repeats)
    row = "training step with records"
    yield Row(row, times["monitored"], "gdjax without", times["plain"], 0.9)
    yield Row(row, times["monitored"], "optax, norms by hand", times["optax"], 0.95)


WORKLOADS = {"recording": recording}
