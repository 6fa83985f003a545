"""The methods that are compared: how each is built, its search space, and the source of that.

A method is built from a config by `method.build(steps)(**config)`, for runs of `steps` steps. Every
number of a config is a lane of one program. To add a method, add a row to `METHODS`.
"""

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gdjax
from gdjax import log_uniform, uniform

ALGOPERF = "AlgoPerf, archived_paper_baselines (mlcommons/algorithmic-efficiency, 2c90454)"
ADAM = {
    "learning_rate": log_uniform(1e-4, 1e-2),
    "one_minus_b1": log_uniform(2e-2, 0.5),
    "weight_decay": log_uniform(5e-3, 1.0),
}
NADAM = ADAM | {"one_minus_b1": log_uniform(4e-3, 0.1)}
MOMENTUM = {
    "learning_rate": log_uniform(2e-2, 5.0),
    "one_minus_b1": log_uniform(5e-3, 0.3),
    "weight_decay": log_uniform(1e-7, 5e-5),
    "end_factor": [1e-3, 1e-2],
}
RATE_AND_DECAY = {k: ADAM[k] for k in ("learning_rate", "weight_decay")}
AS_ADAMW = "AlgoPerf's space of AdamW"
MATRICES = {  # as Muon's author advises: not the embeddings, the last layer and the biases
    r".*(head|embed).*": None,
    r".*(kernel|recurrent|qkv|out|up|down)": gdjax.MuonDimensionNumbers((0,), (1,)),
    r".*": None,
}


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimizer with its search space.

    Attributes:
      make: `make(c, rate, steps)` returns the optimizer for a config c, with its values as
        attributes, the learning rate as a schedule, and the number of steps.
      space: as in `gdjax.sample`; for a self-tuning method a single config.
      source: where the space is published, and what was added.
      schedule: "cosine" to 0, "linear" to `end_factor` at 90 % of the steps, "constant", or a
        cooldown to 0 over the last half, "linear cooldown" or "power cooldown"; each after a linear
        warm-up over 5 % of the steps, as in AlgoPerf.
      warmup: the share of the steps.
      self_tuning: whether it has one configuration for all workloads, and 1.5 times the steps.
    """

    make: Callable[[Any, Any, int], Any]
    space: dict[str, Any]
    source: str
    schedule: str = "cosine"
    warmup: float = 0.05
    self_tuning: bool = False

    def build(self, steps):
        """Return a factory of the optimizer for runs of some length."""

        def factory(**config):
            c = SimpleNamespace(**config)
            rate = getattr(c, "learning_rate", None)
            if rate is not None:
                warm = round(self.warmup * steps)
                match self.schedule:
                    case "cosine":
                        rate = gdjax.warmup_cosine_decay_schedule(0.0, rate, warm, steps, 0.0)
                    case "linear":
                        rate = gdjax.warmup_linear_decay_schedule(
                            0.0, rate, warm, 0.9 * steps, rate * c.end_factor
                        )
                    case "constant":
                        rate = gdjax.warmup_constant_schedule(0.0, rate, warm)
                    case "linear cooldown":
                        rate = cooldown(rate, warm, steps, cooldown="linear")
                    case "power cooldown":
                        rate = cooldown(rate, warm, steps, cooldown="power", power=1.5)
            return self.make(c, rate, steps)

        return factory


def cooldown(rate, warm, steps, **shape):
    """Return a schedule whose last half falls to 0."""
    half = round(0.5 * steps)
    return gdjax.wsd_schedule(0.0, rate, warm, steps - half - warm, half, 0.0, **shape)


def adam_like(name, b1="b1", **more):
    """Return how an optimizer with the arguments of AdamW is built."""

    def make(c, rate, steps):
        given = {b1: 1 - c.one_minus_b1} if hasattr(c, "one_minus_b1") else {}
        return getattr(gdjax, name)(rate, weight_decay=c.weight_decay, **given, **more)

    return make


def decayed(name, b1="b1", **more):
    """Return how an optimizer without weight decay of its own is built."""

    def make(c, rate, steps):
        given = {b1: 1 - c.one_minus_b1} if hasattr(c, "one_minus_b1") else {}
        return gdjax.with_weight_decay(getattr(gdjax, name)(rate, **given, **more), c.weight_decay)

    return make


def momentum(nesterov):
    def make(c, rate, steps):
        optimizer = gdjax.sgd(rate, momentum=1 - c.one_minus_b1, nesterov=nesterov)
        return gdjax.with_weight_decay(optimizer, c.weight_decay, kind="l2")

    return make


def hidden_matrices(name, momentum="beta", **more):
    """Return how Muon or a relative is built: hidden matrices by it, the rest by AdamW."""

    def make(c, rate, steps):
        return getattr(gdjax, name)(
            rate,
            weight_decay=c.weight_decay,
            adam_weight_decay=c.weight_decay,
            muon_weight_dimension_numbers=gdjax.by_path(MATRICES, allow_unused=True),
            **{momentum: 1 - c.one_minus_b1} if hasattr(c, "one_minus_b1") else {},
            **more,
        )

    return make


def schedule_free(c, rate, steps):
    return gdjax.schedule_free_adamw(
        c.learning_rate,
        warmup_steps=0.02 * steps,
        b1=0.9,
        b2=1 - c.one_minus_b2,
        weight_decay=c.weight_decay,
    )


def ademamix(c, rate, steps):
    b1, b3 = 1 - c.one_minus_b1, 1 - 1 / (c.memory * steps)
    warm = gdjax.ademamix_schedules(steps, alpha=c.alpha, b1=b1, b3=b3)
    return gdjax.ademamix(rate, b1=b1, weight_decay=c.weight_decay, **warm)


def mars_adamw(c, rate, steps):
    b1 = 1 - c.one_minus_b1
    return gdjax.mars(
        gdjax.adamw(rate, b1=b1, b2=0.99, weight_decay=c.weight_decay), gamma=0.025, b1=b1
    )


def hyperball(base):
    """Return how the hyperball of Muon or Adam is built; its rate is an angle."""

    def make(c, rate, steps):
        b1, warm = 1 - c.one_minus_b1, round(0.05 * steps)
        angle = gdjax.warmup_cosine_decay_schedule(0.0, c.angle, warm, steps, 0.0)
        if base == "muon":
            inner = gdjax.muon(rate, beta=b1)
        else:
            inner = gdjax.adam(rate, b1=b1, b2=0.95)
        return gdjax.hyperball(inner, angle)

    return make


def normuon_then(*transforms, floor=False):
    """Return how NorMuon without decay is built, with transforms of its steps after it."""

    def make(c, rate, steps):
        optimizer = gdjax.normuon(
            rate, muon_weight_dimension_numbers=gdjax.by_path(MATRICES, allow_unused=True)
        )
        after = [transform() for transform in transforms]
        if floor:
            warm = round(0.05 * steps)
            angle = gdjax.warmup_cosine_decay_schedule(0.0, c.floor, warm, steps, 0.0)
            after.append(gdjax.update_floor(angle))
        return gdjax.chain(optimizer, *after)

    return make


def muon_preset(name):
    """Return a row of Muon with published numbers; both rates have the schedule."""
    numbers = gdjax.preset("muon", name)
    peak = numbers.pop("learning_rate")
    adam_peak = numbers.pop("adam_learning_rate", peak)

    def make(c, rate, steps):
        warm = round(0.02 * steps)
        return gdjax.muon(
            rate,
            adam_learning_rate=gdjax.warmup_cosine_decay_schedule(
                0.0, c.learning_rate * (adam_peak / peak), warm, steps, 0.0
            ),
            muon_weight_dimension_numbers=gdjax.by_path(MATRICES, allow_unused=True),
            **numbers,
        )

    space = {"learning_rate": [peak]}
    return Method(make, space, f'preset("muon", "{name}")', warmup=0.02, self_tuning=True)


def self_tuning(rate, decay=0.01):
    """Return a row of AdamW that tunes its own rate, from a given one."""
    return Method(
        lambda c, _, steps: gdjax.self_tuning(
            gdjax.adamw(c.learning_rate, weight_decay=c.weight_decay), "learning_rate"
        ),
        {"learning_rate": [rate], "weight_decay": [decay]},
        "defaults of gdjax.self_tuning and AdamW, no schedule",
        "constant",
        self_tuning=True,
    )


METHODS = {
    # the four that set the targets
    "adamw": Method(adam_like("adamw"), ADAM, ALGOPERF),
    "nadamw": Method(adam_like("nadamw", formula="algoperf"), NADAM, ALGOPERF),
    "nesterov": Method(momentum(True), MOMENTUM, ALGOPERF, "linear"),
    "heavy_ball": Method(momentum(False), MOMENTUM, ALGOPERF, "linear"),
    # candidates
    "schedule_free_adamw": Method(
        schedule_free,
        {
            "learning_rate": log_uniform(1e-3, 1e-2),
            "one_minus_b2": log_uniform(4.5e-3, 1e-2),
            "weight_decay": log_uniform(0.04, 0.08),
        },
        "the ranges of the five configurations of AlgoPerf's winning submissions v0.5 and v0.6, "
        "without b2 = 0.629",
        "constant",
    ),
    "ademamix": Method(
        ademamix,
        ADAM | {"alpha": uniform(2.0, 8.0), "memory": log_uniform(0.1, 1.0)},
        f"{AS_ADAMW}; alpha from the paper (arXiv 2409.03137), 1 / (1 - b3) from 0.1 to 1 times "
        "the steps, as the paper's b3 is for long runs",
    ),
    "muon": Method(
        hidden_matrices("muon", consistent_rms=0.2),
        RATE_AND_DECAY,
        f"{AS_ADAMW}, as its updates are scaled to AdamW's (arXiv 2502.16982); momentum 0.95",
    ),
    "normuon": Method(
        hidden_matrices("normuon"), RATE_AND_DECAY, f"{AS_ADAMW}; momentum 0.95 (arXiv 2510.05491)"
    ),
    "soap": Method(
        adam_like("soap"), ADAM, f"{AS_ADAMW}; b2 0.95, every 10 steps (arXiv 2409.11321)"
    ),
    "shampoo": Method(
        adam_like("shampoo"), ADAM | {"one_minus_b1": log_uniform(1e-2, 0.15)}, ALGOPERF
    ),
    "lion": Method(
        adam_like("lion"),
        {
            "learning_rate": log_uniform(3e-5, 3e-3),
            "one_minus_b1": log_uniform(2e-2, 0.5),
            "weight_decay": log_uniform(1.5e-2, 3.0),
        },
        f"{AS_ADAMW}, with rates 3.3 times smaller and decays 3 times larger, as the paper advises "
        "(arXiv 2302.06675)",
    ),
    "cautious_adamw": Method(
        lambda c, rate, steps: gdjax.cautious(adam_like("adamw")(c, rate, steps)),
        ADAM,
        AS_ADAMW,
    ),
    "adopt": Method(adam_like("adopt"), ADAM, f"{AS_ADAMW}; b2 0.9999 (arXiv 2411.02853)"),
    "mars_adamw": Method(mars_adamw, ADAM, f"{AS_ADAMW}; gamma 0.025, b2 0.99 (arXiv 2411.10438)"),
    "prodigy": Method(
        lambda c, rate, steps: gdjax.prodigy(
            rate, weight_decay=c.weight_decay, safeguard_warmup=True
        ),
        {"learning_rate": [1.0], "weight_decay": ADAM["weight_decay"]},
        "rate 1 (arXiv 2306.06101); decay as AlgoPerf's AdamW",
    ),
    "adafactor": Method(
        lambda c, rate, steps: gdjax.with_weight_decay(
            gdjax.adafactor(
                rate,
                momentum=1 - c.one_minus_b1,
                multiply_by_parameter_scale=False,
                min_dim_size_to_factor=8,
            ),
            c.weight_decay,
        ),
        {
            "learning_rate": log_uniform(1e-4, 1e-2),
            "one_minus_b1": log_uniform(1e-2, 0.45),
            "weight_decay": log_uniform(1e-3, 1.0),
        },
        ALGOPERF,
    ),
    "lamb": Method(
        adam_like("lamb"),
        {
            "learning_rate": log_uniform(1e-4, 1e-2),
            "one_minus_b1": log_uniform(5e-2, 0.3),
            "weight_decay": log_uniform(1e-3, 1.0),
        },
        ALGOPERF,
    ),
    "adamw_wide": Method(
        adam_like("adamw"),
        ADAM | {"learning_rate": log_uniform(1e-3, 1e-1)},
        "a control: AdamW with rates 10 times larger than AlgoPerf's",
    ),
    "soap_wide": Method(
        adam_like("soap"),
        ADAM | {"learning_rate": log_uniform(1e-3, 1e-1)},
        "a control: SOAP with rates 10 times larger than AlgoPerf's for AdamW",
    ),
    "kl_shampoo": Method(adam_like("kl_shampoo"), ADAM, f"{AS_ADAMW}; b2 0.95 (arXiv 2509.03378)"),
    "psgd_kron": Method(
        adam_like("psgd_kron"), ADAM, f"{AS_ADAMW}; the rest as its authors' defaults"
    ),
    "dion": Method(
        hidden_matrices("dion", consistent_rms=0.2), RATE_AND_DECAY, f"{AS_ADAMW}; momentum 0.95"
    ),
    "scion": Method(
        lambda c, rate, steps: gdjax.scion(rate, constrained=False, beta=1 - c.one_minus_b1),
        {
            "learning_rate": log_uniform(1e-5, 1e-3),
            "one_minus_b1": log_uniform(2e-2, 0.5),
        },
        "rates around the authors' 2e-4 to 2e-3 times their radius of 50 (arXiv 2502.07529)",
    ),
    "adan": Method(
        lambda c, rate, steps: gdjax.adan(rate, weight_decay=c.weight_decay),
        {
            "learning_rate": log_uniform(1e-3, 2e-2),
            "weight_decay": log_uniform(5e-3, 1.0),
        },
        "b as in the paper, rates 5 to 10 times those of AdamW, as it advises (arXiv 2208.06677)",
    ),
    "radam": Method(decayed("radam"), ADAM, AS_ADAMW),
    "adabelief": Method(decayed("adabelief"), ADAM, AS_ADAMW),
    "laprop": Method(adam_like("laprop"), ADAM, AS_ADAMW),
    "adagrad": Method(
        lambda c, rate, steps: gdjax.with_weight_decay(gdjax.adagrad(rate), c.weight_decay),
        {"learning_rate": log_uniform(1e-3, 1e-1), "weight_decay": ADAM["weight_decay"]},
        f"{AS_ADAMW}, with rates 10 times larger",
    ),
    "signum": Method(
        decayed("signum", "beta"),
        {
            "learning_rate": log_uniform(3e-5, 3e-3),
            "one_minus_b1": log_uniform(2e-2, 0.5),
            "weight_decay": log_uniform(1.5e-2, 3.0),
        },
        "as Lion",
    ),
    "sophia": Method(
        lambda c, rate, steps: gdjax.sophia(rate, weight_decay=c.weight_decay),
        RATE_AND_DECAY,
        f"{AS_ADAMW}; the rest as in the paper (arXiv 2305.14342)",
    ),
    "dog": Method(
        lambda c, rate, steps: gdjax.polynomial_average(gdjax.dog()),
        {"unused": [0.0]},
        "no number to tune (arXiv 2302.12022)",
        "constant",
    ),
    "soap_muon": Method(
        hidden_matrices("soap_muon", consistent_rms=0.2), RATE_AND_DECAY, f"{AS_ADAMW}, as Muon"
    ),
    "muown": Method(
        hidden_matrices("muown"), RATE_AND_DECAY, f"{AS_ADAMW}, as Muon (arXiv 2605.10797)"
    ),
    "ema_nesterov_adamw": Method(
        lambda c, rate, steps: gdjax.ema_nesterov(adam_like("adamw")(c, rate, steps)),
        ADAM,
        f"{AS_ADAMW}; the rest as the wrapper's defaults (arXiv 2605.25395)",
    ),
    "schedule_free_plus": Method(
        lambda c, rate, steps: gdjax.schedule_free_plus(
            rate,
            beta=1 - c.one_minus_b1,
            weight_decay=c.weight_decay,
            anneal_steps=steps,
            average_start=0.05 * steps,
        ),  # fmt: skip
        {
            "learning_rate": log_uniform(0.3, 3.0),
            "one_minus_b1": log_uniform(0.05, 0.2),
            "weight_decay": [0.0, 20.0, 50.0],
        },
        "around the authors' 1, 0.1, 0 and 20 to 50 (arXiv 2605.19095)",
        "constant",
    ),
    "muon_hyperball": Method(
        hyperball("muon"),
        {
            "learning_rate": ADAM["learning_rate"],
            "angle": log_uniform(3e-3, 1e-1),
            "one_minus_b1": [0.05],
        },
        "angles around the authors' 0.018 (arXiv 2603.28743); the rest as AlgoPerf's AdamW",
    ),
    "adam_hyperball": Method(
        hyperball("adam"),
        {
            "learning_rate": ADAM["learning_rate"],
            "angle": log_uniform(3e-3, 1e-1),
            "one_minus_b1": log_uniform(2e-2, 0.5),
        },
        "angles around the authors' 0.018 (arXiv 2603.28743); the rest as AlgoPerf's AdamW",
    ),
    "snoo_adamw": Method(
        lambda c, rate, steps: gdjax.lookahead(
            adam_like("adamw")(c, rate, steps),
            sync_period=28,
            outer_optimizer=gdjax.sgd(0.68, momentum=0.37, nesterov=True),
        ),
        ADAM,
        f"{AS_ADAMW}; the outer numbers from record 12 of modded-nanogpt's medium track",
    ),
    "linear_cooldown_adamw": Method(adam_like("adamw"), ADAM, AS_ADAMW, "linear cooldown"),
    "power_cooldown_adamw": Method(
        adam_like("adamw"),
        ADAM,
        f"{AS_ADAMW}; power 1.5 from the records of modded-nanogpt",
        "power cooldown",
    ),
    "normuon_floor": Method(
        normuon_then(floor=True),
        {"learning_rate": ADAM["learning_rate"], "floor": log_uniform(1e-3, 3e-2)},
        f"{AS_ADAMW}; floors around the records' 0.38 times the rate, no decay",
    ),
    "normuon_brake": Method(
        normuon_then(gdjax.radial_brake, gdjax.pin_radius),
        {"learning_rate": ADAM["learning_rate"]},
        f"{AS_ADAMW}; the brake's defaults, from result 29 of modded-nanogpt's track 3, no decay",
    ),
    "one_sided_shampoo": Method(
        adam_like("shampoo", one_sided=True),
        ADAM | {"one_minus_b1": log_uniform(1e-2, 0.15)},
        f"{ALGOPERF}, as Shampoo (arXiv 2503.10537)",
    ),
    "madgrad": Method(
        lambda c, rate, steps: gdjax.madgrad(
            rate, momentum=1 - c.one_minus_b1, weight_decay=c.weight_decay
        ),
        {
            "learning_rate": log_uniform(1e-3, 1e-1),
            "one_minus_b1": ADAM["one_minus_b1"],
            "weight_decay": MOMENTUM["weight_decay"],
        },
        "rates around the authors' 1e-2 (arXiv 2101.11075); decays as AlgoPerf's momentum, since "
        "the authors advise small ones",
    ),
    # one configuration for all workloads, 1.5 times the steps
    "nadamw_self_tuning": Method(
        adam_like("nadamw", formula="algoperf", b2=0.9955159689799007),
        {
            "learning_rate": [0.0017486387539278373],
            "one_minus_b1": [0.06733926164],
            "weight_decay": [0.08121616522670176],
        },
        "AlgoPerf's self-tuning baseline",
        warmup=0.02,
        self_tuning=True,
    ),
    "schedule_free_self_tuning": Method(
        schedule_free,
        {
            "learning_rate": [0.0025],
            "one_minus_b2": [1 - 0.9955159689799007],
            "weight_decay": [0.08121616522670176],
        },
        "AlgoPerf's self-tuning submission schedule_free_adamw_v2",
        "constant",
        self_tuning=True,
    ),
    "ademamix_self_tuning": Method(
        ademamix,
        {
            "learning_rate": [2e-3],
            "one_minus_b1": [0.2],
            "weight_decay": [0.1],
            "alpha": [8.0],
            "memory": [0.5],
        },
        "AlgoPerf's self-tuning submission ademamix, its b3 in proportion to the steps",
        warmup=0.02,
        self_tuning=True,
    ),
    "cautious_nadamw_self_tuning": Method(
        lambda c, rate, steps: gdjax.cautious(
            adam_like("nadamw", formula="algoperf", b2=0.9955159689799007)(c, rate, steps)
        ),
        {
            "learning_rate": [0.0017486387539278373],
            "one_minus_b1": [0.06733926164],
            "weight_decay": [0.08121616522670176],
        },
        "AlgoPerf's self-tuning submission cautious_nadamw",
        warmup=0.02,
        self_tuning=True,
    ),
    "lion_self_tuning": Method(
        adam_like("lion", b2=0.98),
        {"learning_rate": [2e-4], "one_minus_b1": [0.05], "weight_decay": [0.5]},
        "AlgoPerf's self-tuning submission lion",
        warmup=0.02,
        self_tuning=True,
    ),
    "muon_self_tuning": Method(
        hidden_matrices("muon", consistent_rms=0.2),
        {"learning_rate": [2e-3], "weight_decay": [0.1]},
        "AdamW's usual numbers with Moonlight's scale (arXiv 2502.16982); AlgoPerf's submission "
        "has other parametrization",
        warmup=0.02,
        self_tuning=True,
    ),
    "muon_jordan": muon_preset("jordan"),
    "muon_moonlight": muon_preset("moonlight"),
    "muon_dion": muon_preset("dion"),
    "default_optimizer": Method(
        lambda c, rate, steps: gdjax.default_optimizer(2 * steps / 3, c.learning_rate),
        {"learning_rate": [0.02]},
        "its defaults, which were chosen on the base workloads; the schedule ends with the budget "
        "of the tuned methods",
        self_tuning=True,
    ),
    "self_tuning_adamw_from_1e-5": self_tuning(1e-5),
    "self_tuning_adamw_from_1e-3": self_tuning(1e-3),
    "self_tuning_adamw_from_1e-2": self_tuning(1e-2),
}
TARGET_SETTERS = ("adamw", "nadamw", "nesterov", "heavy_ball")


def configs(method, count, seed):
    """Return quasi-random configs of a method (Halton points, scrambled by a seed)."""
    found = gdjax.sample(method.space, count, key=seed, method="halton")
    return [{k: float(f"{v:.5g}") for k, v in c.items()} for c in found]


def finite(value):
    """Return a number, or None for one that JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
