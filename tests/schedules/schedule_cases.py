"""One row for each schedule: its factory, its numbers, and whether optax has it too."""

import collections
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gdjax


class Case(NamedTuple):
    name: str
    factory: str
    kwargs: dict[str, Any]
    shared: bool = True  # with optax

    def make(self, library=gdjax, **changed):
        return getattr(library, self.factory)(**self.kwargs | changed)


def _case(factory, label="", shared=True, **kwargs):
    return Case(f"{factory}-{label}" if label else factory, factory, kwargs, shared)


LINE = dict(init_value=0.3, end_value=0.05, transition_steps=11, transition_begin=4)
WARMUP = dict(init_value=0.01, peak_value=0.7, warmup_steps=5)
TOTAL = dict(**WARMUP, decay_steps=23, end_value=0.02)
POWERS = dict(init_value=0.5, transition_steps=7, decay_rate=0.6, transition_begin=3)
POINTS = {4: 0.5, 9: 3.0, 17: 0.1}
CYCLES = [
    dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=9, end_value=0.1),
    dict(init_value=0.1, peak_value=0.6, warmup_steps=0, decay_steps=12, exponent=2.0),
    dict(init_value=0.0, peak_value=0.3, warmup_steps=3, decay_steps=4),
]
BATCHES = gdjax.piecewise_constant_schedule(16.0, {6: 2.0, 15: 4.0})
IN_TOKENS = gdjax.warmup_cosine_decay_schedule(0.01, 0.7, 70.0, 300.0)

CASES = [
    _case("constant_schedule", value=0.25),
    _case("linear_schedule", **LINE),
    _case("linear_schedule", "up", init_value=-1.0, end_value=2.0, transition_steps=20),
    _case("linear_schedule", "off", init_value=0.3, end_value=0.1, transition_steps=0),
    _case("polynomial_schedule", "power-2", power=2, **LINE),
    _case("polynomial_schedule", "power-half", power=0.5, **LINE),
    _case("polynomial_schedule", "power-0", power=0.0, **LINE),
    _case("polynomial_schedule", "off", power=2, **LINE | dict(transition_steps=0)),
    _case("one_minus_sqrt_schedule", shared=False, **LINE),
    _case("rex_schedule", shared=False, **LINE),
    _case("cosine_decay_schedule", init_value=0.4, decay_steps=21),
    _case("cosine_decay_schedule", "all", init_value=0.4, decay_steps=21, alpha=0.1, exponent=1.7),
    _case("cosine_decay_schedule", "steep", init_value=0.4, decay_steps=21, exponent=0.4),
    _case("exponential_decay", **POWERS),
    _case("exponential_decay", "staircase", staircase=True, **POWERS),
    _case("exponential_decay", "bounded", end_value=0.2, **POWERS),
    _case("exponential_decay", "grows", end_value=2.0, **POWERS | dict(decay_rate=1.8)),
    _case("exponential_decay", "off", end_value=0.6, **POWERS | dict(transition_steps=0)),
    _case("piecewise_constant_schedule", init_value=0.8, boundaries_and_scales=POINTS),
    _case("piecewise_constant_schedule", "none", init_value=0.8),
    *(
        _case(
            "piecewise_interpolate_schedule",
            kind,
            interpolate_type=kind,
            init_value=0.8,
            boundaries_and_scales=POINTS,
        )
        for kind in ("linear", "cosine")
    ),
    _case(
        "piecewise_interpolate_schedule",
        "at-0",
        interpolate_type="linear",
        init_value=0.8,
        boundaries_and_scales={0: 2.0, 6: 0.5},
    ),
    _case("linear_onecycle_schedule", transition_steps=24, peak_value=0.9),
    _case(
        "linear_onecycle_schedule",
        "all",
        transition_steps=26,
        peak_value=0.9,
        pct_start=0.21,
        pct_final=0.63,
        div_factor=9.0,
        final_div_factor=70.0,
    ),
    _case("cosine_onecycle_schedule", transition_steps=24, peak_value=0.9),
    _case("cosine_onecycle_schedule", "1403", transition_steps=3, peak_value=0.9, pct_start=0.198),
    _case("warmup_constant_schedule", **WARMUP),
    _case("warmup_linear_decay_schedule", shared=False, **TOTAL),
    _case("warmup_polynomial_decay_schedule", shared=False, power=0.5, **TOTAL),
    _case("warmup_cosine_decay_schedule", **TOTAL),
    _case("warmup_cosine_decay_schedule", "exponent", exponent=1.5, **TOTAL),
    _case("warmup_cosine_decay_schedule", "no-warmup", **TOTAL | dict(warmup_steps=0)),
    _case("warmup_exponential_decay_schedule", transition_steps=6, decay_rate=0.4, **WARMUP),
    _case(
        "warmup_exponential_decay_schedule",
        "all",
        transition_steps=4,
        decay_rate=0.4,
        transition_begin=3,
        staircase=True,
        end_value=0.05,
        **WARMUP,
    ),
    _case("inverse_sqrt_schedule", shared=False, **WARMUP),
    _case("inverse_sqrt_schedule", "timescale", shared=False, timescale=13.0, **WARMUP),
    *(
        _case(
            "wsd_schedule",
            kind,
            shared=False,
            stable_steps=7,
            cooldown_steps=9,
            end_value=0.02,
            cooldown=kind,
            power=1.7 if kind == "power" else None,
            **WARMUP,
        )
        for kind in ("linear", "one_minus_sqrt", "cosine", "power")
    ),
    *(
        _case(
            "cyclic_schedule",
            mode,
            shared=False,
            init_value=0.1,
            peak_value=0.9,
            up_steps=3,
            down_steps=5,
            mode=mode,
            gamma=0.97 if mode == "exp_range" else None,
        )
        for mode in ("triangular", "triangular2", "exp_range")
    ),
    _case("sgdr_schedule", cosine_kwargs=CYCLES),
    _case("half_life", shared=False, tokens=700.0, tokens_per_step=64),
    _case("half_life", "batches", shared=False, tokens=700.0, tokens_per_step=BATCHES),
    _case("in_tokens", shared=False, schedule=IN_TOKENS, tokens_per_step=12.5),
    _case("in_tokens", "batches", shared=False, schedule=IN_TOKENS, tokens_per_step=BATCHES),
    _case(
        "scaled_by_batch_size",
        shared=False,
        value=IN_TOKENS,
        tokens_per_step=BATCHES,
        reference=31.0,
        exponent=0.4,
    ),
    _case("times", shared=False, value=IN_TOKENS, multipliers=0.3),
]

INT32_MAX = 2**31 - 1
COUNTS = jnp.array([*range(42), 1000, 10**6, INT32_MAX], jnp.int32)


def reciprocal(count):
    return 0.1 / (1 + count)


def joined(library=gdjax):
    """Return schedules and a plain function in turn."""
    parts = [
        library.linear_schedule(0.0, 0.6, 6),
        library.cosine_decay_schedule(0.6, 8, alpha=0.2),
        reciprocal,
    ]
    return library.join_schedules(parts, [6, 15])


SCHEDULES = [(case.name, case.make) for case in CASES] + [("join_schedules", joined)]
IDS = [name for name, _ in SCHEDULES]
MAKERS = [make for _, make in SCHEDULES]


def as_arrays(schedule):
    """Return the schedule as it is in a state: with strongly typed arrays."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.result_type(float)), schedule)


def fields(schedule):
    """Return the name of every number of a schedule."""
    paths = jax.tree_util.tree_flatten_with_path(schedule)[0]
    return [jax.tree_util.keystr(path) for path, _ in paths]


TRACES = collections.Counter()


@jax.jit
def values(schedule):
    """Return the values at COUNTS; compiled once for each kind of schedule, given arrays."""
    TRACES[jax.tree.structure(schedule)] += 1
    return schedule(COUNTS)
