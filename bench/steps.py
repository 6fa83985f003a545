"""One step of an optimizer, compiled and donated: large leaves, many small leaves; outside jit."""

import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Row, copy_bandwidth, interleaved, must_agree

import gdjax


def clipped_adamw(lib):
    return lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3))


# name -> (factory for a library, bytes to move per float32 parameter: gradients are read,
# parameters and states are read and written)
OPTIMIZERS = {
    "clip + AdamW": (clipped_adamw, 28),
    "Adafactor": (lambda lib: lib.adafactor(1e-3), 12),
    "Lion": (lambda lib: lib.lion(1e-4), 20),
    "SGD with momentum": (lambda lib: lib.sgd(1e-2, momentum=0.9), 20),
}
SIZES = {"1 M": (5, 128), "38 M": (12, 512), "151 M": (12, 1024)}  # blocks, width


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


def donated_step(lib, opt):
    """Return the compiled `step(params, state, grads)` of one library."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    return step


def trained(opt, loss_fn, params, steps=1):
    """Return a function that does steps with gradients, each a donated program."""
    carry = jax.tree.map(jnp.copy, params), opt.init(params)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry):
        params, state = carry
        updates, state = opt.update(jax.grad(loss_fn)(params), state, params)
        return gdjax.apply_updates(params, updates), state

    def run():
        nonlocal carry
        for _ in range(steps):
            carry = step(carry)
        return carry

    return run


def stepper(lib, make, params, grads):
    """Return a function that does one step, and the list with its parameters and state."""
    opt = make(lib)
    carry = list(jax.tree.map(jnp.copy, (params, opt.init(params))))
    step = donated_step(lib, opt)

    def run():
        carry[:] = step(*carry, grads)
        return carry

    return run, carry


def race(make, params, grads, repeats):
    """Return the times of one step in each library; both must reach the same parameters."""
    ours, mine = stepper(gdjax, make, params, grads)
    theirs, its = stepper(optax, make, params, grads)
    times = interleaved({"gdjax": ours, "optax": theirs}, repeats)
    must_agree(mine[0], its[0])
    return times


def fused(options):
    """One step on the parameters of a transformer, compared with optax and the memory bandwidth."""
    sizes = {"0.1 M": (2, 64)} if options.quick else SIZES
    for size, shape in sizes.items():
        params, grads = transformer(*shape), transformer(*shape, seed=1)
        count = sum(x.size for x in jax.tree.leaves(params))
        for name, (make, moved) in OPTIMIZERS.items():
            times = race(make, params, grads, options.repeats)
            limit = moved * count / copy_bandwidth()
            target = 1.5 if name == "clip + AdamW" else 1.0
            title = f"step of {name}, {size} parameters"
            yield Row(title, times["gdjax"], "optax", times["optax"], target, limit)


def torch_step(options):
    """One step of clip + AdamW and of SGD, compared with torch on the same arrays."""
    try:
        import torch
    except ImportError:
        print("torch is not installed, skipping the comparison", file=sys.stderr)
        return
    torch.set_num_threads(os.cpu_count() or 1)
    size, shape = ("0.1 M", (2, 64)) if options.quick else ("38 M", SIZES["38 M"])
    params, grads = transformer(*shape), transformer(*shape, seed=1)
    count = sum(x.size for x in jax.tree.leaves(params))
    gradients = [torch.tensor(np.array(g)) for g in jax.tree.leaves(grads)]
    peers = {
        "clip + AdamW": functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4),
        "SGD with momentum": functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    }
    for name, peer in peers.items():
        make, moved = OPTIMIZERS[name]
        clips = name.startswith("clip")
        for form in ("fused", "foreach"):
            tensors = [
                torch.nn.Parameter(torch.tensor(np.array(x))) for x in jax.tree.leaves(params)
            ]
            theirs = peer(tensors, **{form: True})

            def step(tensors=tensors, theirs=theirs, clips=clips):
                for p, g in zip(tensors, gradients, strict=True):
                    p.grad = g.clone() if clips else g  # clipping modifies it in place
                if clips:
                    torch.nn.utils.clip_grad_norm_(tensors, 1.0)
                theirs.step()

            run, carry = stepper(gdjax, make, params, grads)
            times = interleaved({"gdjax": run, "torch": step}, options.repeats)
            must_agree(jax.tree.leaves(carry[0]), [t.detach().numpy() for t in tensors])
            title, limit = f"step of {name}, {size} parameters", moved * count / copy_bandwidth()
            yield Row(title, times["gdjax"], f"torch, {form}", times["torch"], 1.0, limit)


def stacked(lib):
    """Return clip + AdamW; for gdjax with moments in stacks of 16 leaves."""
    opt = clipped_adamw(lib)
    return gdjax.flatten(opt, block=16) if lib is gdjax else opt


def small_leaves(options):
    """One step of clip + AdamW on many leaves of 64 elements."""
    for leaves in (100,) if options.quick else (1000, 2000):
        rng = np.random.default_rng(0)
        params = [jnp.asarray(rng.normal(size=(8, 8)), jnp.float32) for _ in range(leaves)]
        title = f"step of clip + AdamW, {leaves} leaves of 64"
        for make, form in ((clipped_adamw, ""), (stacked, ", flatten(block=16)")):
            times = race(make, params, params, options.repeats)
            yield Row(title + form, times["gdjax"], "optax", times["optax"], 2.5)


def eager(options):
    """An update outside jit, 96 leaves of 64 elements."""
    params = {f"{i}": jnp.full((8, 8), 0.1 * i) for i in range(96)}
    sides = {}
    for lib in (gdjax, optax):
        opt = lib.adamw(1e-3)
        _, state = opt.update(params, opt.init(params), params)  # moments that are not zero
        sides[lib.__name__] = lambda opt=opt, state=state: opt.update(params, state, params)
    must_agree(sides["gdjax"]()[0], sides["optax"]()[0], atol=1e-8)
    times = interleaved(sides, options.repeats)
    yield Row("update outside of jit, 96 leaves", times["gdjax"], "optax", times["optax"], 20.0)


WORKLOADS = {f.__name__: f for f in (eager, fused, torch_step, small_leaves)}
