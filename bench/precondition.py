"""SOAP and Shampoo: mean steps, compared with AdamW and other ways to process the leaves."""

import functools
import importlib
import statistics

import jax
import jax.numpy as jnp
from harness import Row, interleaved, seconds
from steps import donated_step, trained, transformer
from training.workloads import python_docs
from training.workloads import transformer as transformer_of_bytes

import gdjax
from gdjax.core.blocks import map_blocks
from gdjax.linalg.buckets import in_turn, map_buckets

FREQUENCY, ROUNDS = 10, 5
SOAP, SHAMPOO = (importlib.import_module(f"gdjax.optimizers.{k}") for k in ("soap", "shampoo"))
MAKERS = {
    "SOAP": (SOAP, lambda **k: gdjax.soap(1e-3, precondition_frequency=FREQUENCY, **k)),
    "Shampoo": (
        SHAMPOO,
        lambda **k: gdjax.shampoo(1e-3, precondition_frequency=FREQUENCY, block_size=512, **k),
    ),
}
STACKED = functools.partial(map_buckets, batched=True)
STACKS = {"stack, batched": STACKED, "stack, in turn": functools.partial(STACKED, lift=in_turn)}


class Run:
    """An optimizer that does one donated step per call."""

    def __init__(self, opt, params, grads):
        self.carry = jax.tree.map(lambda x: x.copy(), (params, opt.init(params)))
        self.grads = grads
        self.step = donated_step(gdjax, opt).lower(*self.carry, grads).compile()

    def __call__(self):
        """Do one step."""
        self.carry = self.step(*self.carry, self.grads)
        return self.carry

    def state(self):
        """Return the size of the state in MB."""
        return sum(x.nbytes for x in jax.tree.leaves(self.carry[1])) / 1e6

    def peak(self):
        """Return the peak memory of a step in MB."""
        used = self.step.memory_analysis()
        needed = used.argument_size_in_bytes + used.output_size_in_bytes
        return (needed + used.temp_size_in_bytes - used.alias_size_in_bytes) / 1e6


def leaves_by(map_rows, module, make):
    """Return an optimizer that processes the leaves in another way."""
    before, module.map_buckets = module.map_buckets, map_rows
    try:
        return make()
    finally:
        module.map_buckets = before


def intervals(runs, rounds):
    """Return for each side the time of every step of an interval, as medians over rounds."""
    for run in runs.values():  # all roots are first computed in one step
        for _ in range(FREQUENCY):
            run()
    times = {name: [[] for _ in range(FREQUENCY)] for name in runs}
    for step in range(rounds * FREQUENCY):
        for name, run in runs.items():
            times[name][step % FREQUENCY].append(seconds(run)[0])
    return {name: [statistics.median(t) for t in steps] for name, steps in times.items()}


def precondition(options):
    """Mean and longest step of an interval, peak memory and state."""
    blocks, width = (2, 64) if options.quick else (4, 256)
    params, grads = transformer(blocks, width), transformer(blocks, width, seed=1)
    shape = f"{blocks} blocks of width {width}"
    for name, (module, make) in MAKERS.items():
        ours_is_per_leaf = jax.default_backend() == "cpu"
        others = STACKS if ours_is_per_leaf else {"per leaf": map_blocks}
        runs = {}
        for side, way in others.items():
            runs[side] = Run(leaves_by(way, module, make), params, grads)
        runs["ours"] = Run(make(), params, grads)
        runs["staggered"] = Run(make(stagger=True), params, grads)
        runs["AdamW"] = Run(gdjax.adamw(1e-3), params, grads)
        times = intervals(runs, 1 if options.quick else ROUNDS)
        mean = {side: statistics.mean(steps) for side, steps in times.items()}
        for side in (*others, "staggered", "AdamW"):
            target = 1.0 if side in others else None
            yield Row(f"{name}, mean step, {shape}", mean["ours"], side, mean[side], target)
        uneven = {side: max(steps) / statistics.median(steps) for side, steps in times.items()}
        title = f"{name}, longest step over median, staggered, {shape}"
        yield Row(title, uneven["staggered"], "all at once", uneven["ours"], None, unit="")
        peak = {side: run.peak() for side, run in runs.items()}
        for side in (*others, "AdamW"):
            target = 1.0 if side in others else None
            title = f"{name}, peak memory, {shape}"
            yield Row(title, peak["ours"], side, peak[side], target, unit="MB")
        state = {side: run.state() for side, run in runs.items()}
        title = f"{name}, state, {shape}"
        yield Row(title, state["ours"], "AdamW", state["AdamW"], None, unit="MB")


def default_steps(options):
    """Five steps of a transformer, gradients included, with `default_optimizer` and with AdamW."""
    width, batches = (64, (2,)) if options.quick else (256, (16, 32))
    model = transformer_of_bytes("", width, width // 64, 2, 128, python_docs)
    params = model.params(jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params)) / 1e6

    for rows in batches:
        loss_fn = functools.partial(model.loss_fn, batch=jnp.asarray(model.data[:rows]))
        sides = {"ours": gdjax.default_optimizer(1000), "AdamW": gdjax.adamw(1e-3)}
        calls = {k: trained(opt, loss_fn, params, steps=5) for k, opt in sides.items()}
        times = interleaved(calls, options.repeats)  # one of five steps renews the bases
        title = f"5 steps of a transformer, {size:.1f} M parameters, {128 * rows} tokens, default"
        yield Row(title, times["ours"], "AdamW", times["AdamW"], 1 / 1.15)


WORKLOADS = {f.__name__: f for f in (precondition, default_steps)}
