"""The registry: one row for each optimizer; the contract and oracle tests run over all of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import problems
from oracles import accumulate as accumulate_oracles
from oracles import acprop as acprop_oracles
from oracles import adabelief as adabelief_oracles
from oracles import adadelta as adadelta_oracles
from oracles import adafactor as adafactor_oracles
from oracles import adagrad as adagrad_oracles
from oracles import adahessian as adahessian_oracles
from oracles import adam as adam_oracles
from oracles import adam_mini as adam_mini_oracles
from oracles import adamax as adamax_oracles
from oracles import adan as adan_oracles
from oracles import ademamix as ademamix_oracles
from oracles import adopt as adopt_oracles
from oracles import amsgrad as amsgrad_oracles
from oracles import apollo as apollo_oracles
from oracles import came as came_oracles
from oracles import cocob as cocob_oracles
from oracles import dadapt as dadapt_oracles
from oracles import dog as dog_oracles
from oracles import galore as galore_oracles
from oracles import groups as groups_oracles
from oracles import kl_shampoo as kl_shampoo_oracles
from oracles import laprop as laprop_oracles
from oracles import lion as lion_oracles
from oracles import lookahead as lookahead_oracles
from oracles import madgrad as madgrad_oracles
from oracles import mechanic as mechanic_oracles
from oracles import mirror_descent as mirror_descent_oracles
from oracles import momo as momo_oracles
from oracles import muon as muon_oracles
from oracles import nadam as nadam_oracles
from oracles import novograd as novograd_oracles
from oracles import optimistic as optimistic_oracles
from oracles import options as options_oracles
from oracles import polyak_sgd as polyak_sgd_oracles
from oracles import prodigy as prodigy_oracles
from oracles import prox as prox_oracles
from oracles import proximal_gradient as proximal_gradient_oracles
from oracles import psgd_kron as psgd_kron_oracles
from oracles import qhadam as qhadam_oracles
from oracles import radam as radam_oracles
from oracles import rmsprop as rmsprop_oracles
from oracles import rprop as rprop_oracles
from oracles import sam as sam_oracles
from oracles import schedule_free as schedule_free_oracles
from oracles import sgd as sgd_oracles
from oracles import shampoo as shampoo_oracles
from oracles import sign as sign_oracles
from oracles import sm3 as sm3_oracles
from oracles import soap as soap_oracles
from oracles import sophia as sophia_oracles
from oracles import stable_adamw as stable_adamw_oracles
from oracles import trust_ratio as trust_ratio_oracles
from oracles import yogi as yogi_oracles

import gdjax
from gdjax.compat import optax


class Case(NamedTuple):
    """One optimizer as the tests run it.

    Attributes:
      name: unique, what pytest shows.
      make: `make(**numbers)` builds the optimizer.
      numbers: the hyperparameters that are numbers, by the factory's argument names, all given.
      oracle: `oracle(**numbers)` returns `step(thetas, grads, t) -> thetas` on dicts of float64
        arrays, in the paper's notation; None where a test of its own file covers it.
      extras: `extras(params, grads, t)` returns what `update` needs besides, as a dict.
      x_tol: tolerance against the oracle; say why where it is not the default.
      not_differentiable: numbers whose hypergradient is no use (they only pass through a sign).
      dtypes: the dtypes of parameters that it supports.
      lane_rtol: how close a vmapped or scanned run must come to a single one in float32.
      valley: what it must reach on Rosenbrock's function, which is 24.2 at the start.
    """

    name: str
    make: Callable[..., Any]
    numbers: dict[str, float]
    oracle: Callable[..., Any] | None = None
    extras: Callable[..., dict] = lambda params, grads, t: {}
    x_tol: float = 1e-12
    not_differentiable: tuple[str, ...] = ()
    dtypes: tuple[Any, ...] = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64)
    lane_rtol: float = 1e-6
    valley: float = 2.5


_with = functools.partial  # a factory with some of its structure set


def _value(params, grads, t):
    return dict(value=problems.value({k: np.abs(x) for k, x in params.items()}))


def _slope(params, i):
    return jax.tree.map(lambda x: 0.8 * x + 0.3 * x * x, params)


def _grad_fn(params, grads, t):
    return dict(grad_fn=_slope)


def _first_basis(name, shape):
    index = sorted(problems.SHAPES).index(name)  # dicts are sorted by JAX
    return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(0), index), shape, float))


def _betas(factory):  # `make.factory` is what docs/make_table.py names
    def make(b1, b2, **numbers):
        return factory(betas=(b1, b2), **numbers)

    make.factory = factory
    return make


def _begin(factory):
    def make(init_step, **numbers):
        return factory(init_step=("heuristic", init_step), **numbers)

    make.factory = factory
    return make


def _around(wrapper, factory, own):
    """Return a factory whose numbers named in `own` go to the wrapper, the others inside."""

    def make(**numbers):
        outer = {name: numbers.pop(name) for name in own}
        return wrapper(factory(**numbers), **outer)

    return make


def _groups(rate, momentum, **numbers):
    matrices, rest = gdjax.adam(**numbers), gdjax.sgd(rate, momentum)
    return gdjax.groups({r"vector": None, r"tall|wide|w|b/x|x": matrices, r".*": rest})


def _groups_oracle(rate, momentum, **numbers):
    matrices, rest = adam_oracles.adam(**numbers), sgd_oracles.sgd(rate, momentum)
    return groups_oracles.groups({matrices: ("tall", "wide"), rest: ("scalar", "kernel", "still")})


def _two_examples(grad, slots, param, count):
    return jnp.stack([1.5 * grad, 0.5 * grad]), slots


def _dpsgd(**numbers):
    return gdjax.chain(gdjax.leafwise(_two_examples), gdjax.dpsgd(seed=4, **numbers))


def _plateau(learning_rate, factor, min_scale, atol):
    plateau = gdjax.reduce_on_plateau(factor, patience=2, atol=atol, min_scale=min_scale)
    return gdjax.chain(gdjax.sgd(learning_rate), plateau)


def _decayed_momentum(kind, careful, learning_rate, momentum, weight_decay):
    rate = gdjax.exponential_decay(learning_rate, 1, 0.9)
    return gdjax.with_weight_decay(
        gdjax.sgd(rate, momentum),
        weight_decay,
        kind,
        cautious=careful,
        max_learning_rate=learning_rate,
    )


MUON = dict(
    learning_rate=0.02,
    beta=0.85,
    eps=1e-6,
    weight_decay=0.1,
    adam_learning_rate=0.01,
    adam_b1=0.8,
    adam_b2=0.9,
    adam_eps_root=1e-9,
    adam_weight_decay=0.05,
)
MATRIX = gdjax.MuonDimensionNumbers
VIEWS = {  # by path of the problem of the oracles and of the tree of the contract
    "kernel": MATRIX((0, 1, 2), 3),
    "tall": MATRIX(splits=3),
    "wide|w": MATRIX(),
    ".*": None,
}
SCION = {k: v for k, v in VIEWS.items() if "wide" not in k} | {"w": MATRIX(), ".*": None}
MUON_VIEWS = {"kernel": "conv", "tall": ("split", 3), "wide": "2d"}

ADAM = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, eps_root=1e-9)
RMS = dict(learning_rate=0.02, decay=0.8, eps=1e-3, initial_scale=0.3)
LION = dict(learning_rate=0.02, b1=0.8, b2=0.95, weight_decay=0.1)
RPROP = dict(
    learning_rate=0.03, eta_minus=0.6, eta_plus=1.3, min_step_size=0.01, max_step_size=0.08
)
POLYAK = dict(max_learning_rate=10.0, scaling=0.6, f_min=0.5, eps=1e-3)
LARS = dict(learning_rate=0.5, weight_decay=0.1, trust_coefficient=0.1, eps=1e-3, momentum=0.7)
SM3 = dict(learning_rate=0.1, momentum=0.8, b2=0.9, eps=1e-3)
ADAN = dict(learning_rate=0.02, b1=0.9, b2=0.7, b3=0.95, eps=1e-3, eps_root=1e-6, weight_decay=0.1)
ADAFACTOR = dict(
    learning_rate=0.05,
    decay_rate=0.8,
    decay_offset=0.0,
    clipping_threshold=0.9,
    eps=1e-3,
    min_scale=0.4,
    weight_decay_rate=0.02,
)

ADAM_PLAIN = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-4, weight_decay=0.1)
ADAM_DECAY = ADAM_PLAIN | dict(eps_root=1e-9)
ADOPT = ADAM_PLAIN | dict(eps=0.2)  # a floor that some elements are under
ADEMAMIX = ADAM_DECAY | dict(b3=0.99, alpha=4.0)
MADGRAD = dict(learning_rate=0.05, momentum=0.8, eps=1e-3, weight_decay=0.1)

PRODIGY = dict(learning_rate=0.9, b1=0.8, b2=0.95, eps=1e-6, estim_lr0=0.01, weight_decay=0.1)
DOG = dict(learning_rate=0.9, init_step=0.02, eps=1e-3)
MOMO = dict(lower_bound=0.5, weight_decay=0.1)
SCHEDULE_FREE = dict(learning_rate=0.05, b1=0.8, weight_lr_power=1.5, weight_count_power=0.5)
SF_ADAM = SCHEDULE_FREE | dict(b2=0.95, eps=1e-3, weight_decay=0.1)


def _curved(params):
    """A function whose Hessian is diagonal, so that every estimate of the diagonal is exact."""
    parts = (jnp.sum(0.35 * x**2 + 0.3 * jnp.sin(1.7 * x)) for x in jax.tree.leaves(params))
    return sum(parts, jnp.zeros(()))


def _curvature(theta):
    return 0.7 - 0.3 * 1.7**2 * np.sin(1.7 * theta)


def _curved_extras(params, grads, t):
    return {"obj_fn": _curved}


def _gaussian(gap, seed=0):
    """Return the projections that `apollo` draws for the parameters of `problems`."""

    def projection(name, t, r, side):
        leaf = jax.random.fold_in(jax.random.key(seed), sorted(problems.SHAPES).index(name))
        key = jax.random.fold_in(leaf, (t - 1) // gap)
        return np.asarray(jax.random.normal(key, (r, side), jnp.float64)) / np.sqrt(r)

    return projection


REAL = (jnp.float32, jnp.bfloat16, jnp.float16)
SOPHIA = dict(learning_rate=0.02, b1=0.85, b2=0.8, eps=1e-3, gamma=0.9, weight_decay=0.1)
SOPHIA |= dict(clip_threshold=0.8)
ADAHESSIAN = ADAM_PLAIN | dict(hessian_power=1.0)
BLOCKS = {"vector": (0,), "tall": (0,), "wide": (1,), "kernel": (1, -1)}
CAME = dict(learning_rate=0.002, b1=0.85, b2=0.95, b3=0.98, eps=1e-30, eps_res=1e-4)
CAME |= dict(clipping_threshold=0.9, weight_decay=0.1)
GALORE = dict(learning_rate=0.02, scale=0.25, weight_decay=0.1)
APOLLO = ADAM_PLAIN | dict(scale=2.0)
SOAP = dict(learning_rate=0.02, b1=0.85, b2=0.95, shampoo_beta=0.9, eps=1e-4, weight_decay=0.1)
SHAMPOO = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-3, weight_decay=0.1)
SHAMPOO |= dict(graft_b2=0.9, graft_eps=1e-4)
PSGD = dict(learning_rate=0.02, b1=0.8, weight_decay=0.1, preconditioner_lr=0.3)
PSGD |= dict(preconditioner_init_scale=0.7, clip_update_rms=0.9)


def _probe(seed=0):
    """Return the random probes that `psgd_kron` draws for the parameters of `problems`."""

    def probe(name, t, shape):
        leaf = jax.random.fold_in(jax.random.key(seed), sorted(problems.SHAPES).index(name))
        return np.asarray(jax.random.normal(jax.random.fold_in(leaf, t), shape, jnp.float64))

    return probe


CASES = [
    Case("gradient_descent", gdjax.gradient_descent, dict(learning_rate=0.05), sgd_oracles.sgd),
    Case("momentum", gdjax.sgd, dict(learning_rate=0.05, momentum=0.8), sgd_oracles.sgd),
    Case(
        "nesterov",
        _with(gdjax.sgd, nesterov=True),
        dict(learning_rate=0.05, momentum=0.8),
        sgd_oracles.nesterov,
    ),
    Case("adam", gdjax.adam, ADAM, adam_oracles.adam),
    Case("adamw", gdjax.adamw, ADAM | dict(weight_decay=0.1), adam_oracles.adam),
    Case("nadam", gdjax.nadam, ADAM, nadam_oracles.constant),
    Case(
        "nadam_torch",
        _with(gdjax.nadam, formula="torch"),
        ADAM | dict(momentum_decay=0.01),
        nadam_oracles.warmed,
    ),
    Case(
        "nadamw_algoperf",
        _with(gdjax.nadamw, formula="algoperf"),
        ADAM | dict(weight_decay=0.1, power=0.4),
        nadam_oracles.algoperf,
    ),
    Case("amsgrad", gdjax.amsgrad, ADAM, amsgrad_oracles.amsgrad),
    Case(
        "amsgrad_optax",
        _with(gdjax.amsgrad, max_corrected=True),
        ADAM,
        _with(amsgrad_oracles.amsgrad, corrected_first=True),
    ),
    Case(
        "amsgrad_paper",
        _with(gdjax.amsgrad, bias_correction_mu=False, bias_correction_nu=False),
        ADAM,
        _with(amsgrad_oracles.amsgrad, correct=False),
    ),
    Case(
        "adamax",
        gdjax.adamax,
        dict(learning_rate=0.02, b1=0.8, b2=0.9, eps=1e-3),
        adamax_oracles.adamax,
    ),
    Case(
        "adamaxw",
        gdjax.adamaxw,
        dict(learning_rate=0.02, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1),
        adamax_oracles.adamax,
    ),
    Case("rmsprop", gdjax.rmsprop, RMS, rmsprop_oracles.rmsprop),
    Case(
        "rmsprop_momentum",
        _with(gdjax.rmsprop, eps_in_sqrt=False, bias_correction=True),
        RMS | dict(momentum=0.7),
        _with(rmsprop_oracles.rmsprop, eps_in_sqrt=False, bias_correction=True),
    ),
    Case(
        "rmsprop_centered",
        _with(gdjax.rmsprop, centered=True, nesterov=True),
        RMS | dict(momentum=0.7),
        _with(rmsprop_oracles.rmsprop, centered=True, nesterov=True),
    ),
    Case(
        "adagrad",
        gdjax.adagrad,
        dict(learning_rate=0.3, initial_accumulator_value=0.2, eps=1e-3),
        adagrad_oracles.adagrad,
    ),
    Case(
        "adagrad_torch",
        _with(gdjax.adagrad, eps_in_sqrt=False),
        dict(learning_rate=0.3, initial_accumulator_value=0.0, eps=1e-3),
        _with(adagrad_oracles.adagrad, eps_in_sqrt=False),
    ),
    Case("lion", gdjax.lion, LION, lion_oracles.lion, not_differentiable=("b1", "b2")),
    Case(
        "lion_smooth",
        _with(gdjax.lion, mode="smooth"),
        LION | dict(smooth_beta=2.0),
        _with(lion_oracles.lion, soften=lion_oracles.smooth),
    ),
    Case(
        "lion_refined",
        _with(gdjax.lion, mode="refined"),
        LION,
        _with(lion_oracles.lion, soften=lion_oracles.refined),
    ),
    # Newer relatives of Adam
    Case("adopt", gdjax.adopt, ADOPT, adopt_oracles.adopt),
    Case(
        "adopt_nesterov",
        _with(gdjax.adopt, nesterov=True, use_clipping=False),
        ADOPT,
        _with(adopt_oracles.adopt, nesterov=True, clip=False),
    ),
    Case("qhadam", gdjax.qhadam, ADAM_DECAY | dict(q1=0.7, q2=0.9), qhadam_oracles.qhadam),
    Case("laprop", gdjax.laprop, ADAM_PLAIN, laprop_oracles.laprop),
    Case("acprop", gdjax.acprop, ADAM_DECAY | dict(eps_root=1e-4), acprop_oracles.acprop),
    Case("stable_adamw", gdjax.stable_adamw, ADAM_PLAIN, stable_adamw_oracles.stable_adamw),
    Case("madgrad", gdjax.madgrad, MADGRAD, madgrad_oracles.madgrad),
    Case(
        "madgrad_decoupled",
        _with(gdjax.madgrad, decoupled=True),
        MADGRAD,
        _with(madgrad_oracles.madgrad, decoupled=True),
    ),
    Case("ademamix", gdjax.ademamix, ADEMAMIX, ademamix_oracles.ademamix),
    Case(
        "simplified_ademamix",
        gdjax.simplified_ademamix,
        ADAM_DECAY | dict(alpha=3.0),
        ademamix_oracles.simplified_ademamix,
    ),
    # Without a learning rate
    Case(
        "prodigy",
        _betas(gdjax.prodigy),
        PRODIGY | dict(beta3=0.9, estim_lr_coef=1.3),
        prodigy_oracles.prodigy,
    ),
    Case("dadapt_adamw", _betas(gdjax.dadapt_adamw), PRODIGY, dadapt_oracles.dadapt_adamw),
    Case("dog", _begin(gdjax.dog), DOG | dict(weight_decay=0.1), dog_oracles.dog),
    Case(
        "l_dog",
        _begin(gdjax.l_dog),
        DOG | dict(weight_decay=0.1),
        dog_oracles.l_dog,
        valley=3.5,
    ),
    Case(
        "dowg",
        gdjax.dowg,
        dict(learning_rate=0.9, init_estim_sq_dist=1e-2, eps=1e-3, weight_decay=0.1),
        dog_oracles.dowg,
    ),
    Case(
        "cocob",
        gdjax.cocob,
        dict(learning_rate=0.9, alpha=20.0, eps=1e-3, weight_decay=0.1),
        cocob_oracles.cocob,
        valley=3.5,
    ),
    Case("momo", gdjax.momo, MOMO | dict(learning_rate=0.4, beta=0.8), momo_oracles.momo, _value),
    Case(
        "momo_adam",
        gdjax.momo_adam,
        MOMO | dict(learning_rate=0.3, b1=0.8, b2=0.95, eps=1e-3),
        momo_oracles.momo_adam,
        _value,
    ),
    Case(
        "mechanize",
        lambda learning_rate, **numbers: gdjax.mechanize(gdjax.sgd(learning_rate), **numbers),
        dict(learning_rate=0.1, weight_decay=0.1, eps=1e-4, s_init=0.1),
        mechanic_oracles.mechanic,
    ),
    # Schedule-free and other wrappers
    Case(
        "schedule_free_sgd",
        gdjax.schedule_free_sgd,
        SCHEDULE_FREE | dict(weight_decay=0.1, warmup_steps=4.0),
        schedule_free_oracles.sgd,
    ),
    Case(
        "schedule_free_adamw",
        gdjax.schedule_free_adamw,
        SF_ADAM | dict(warmup_steps=4.0),
        schedule_free_oracles.adamw,
    ),
    Case(
        "schedule_free_radam",
        gdjax.schedule_free_radam,
        SF_ADAM,
        _with(schedule_free_oracles.radam, silent=True),
    ),
    Case(
        "schedule_free",
        lambda learning_rate, **numbers: gdjax.schedule_free(
            gdjax.sgd(learning_rate), learning_rate, **numbers
        ),
        SCHEDULE_FREE,
        schedule_free_oracles.sgd,
    ),
    Case(
        "gpa",
        lambda learning_rate, **numbers: gdjax.gpa(gdjax.sgd(learning_rate), **numbers),
        dict(learning_rate=0.05, mu_x=0.9, mu_y=0.7),
        schedule_free_oracles.gpa,
    ),
    Case(
        "lookahead",
        lambda learning_rate, momentum, **numbers: gdjax.lookahead(
            gdjax.sgd(learning_rate, momentum), **numbers
        ),
        dict(learning_rate=0.05, momentum=0.8, sync_period=3.0, slow_step_size=0.4),
        lookahead_oracles.lookahead,
        not_differentiable=("sync_period",),
    ),
    Case(
        "lookahead_reset",
        lambda learning_rate, momentum, **numbers: gdjax.lookahead(
            gdjax.sgd(learning_rate, momentum), reset_state=True, **numbers
        ),
        dict(learning_rate=0.05, momentum=0.8, sync_period=3.0, slow_step_size=0.4),
        _with(lookahead_oracles.lookahead, forget=True),
        not_differentiable=("sync_period",),
    ),
    Case(
        "average",
        lambda learning_rate, decay: gdjax.average(gdjax.sgd(learning_rate), decay),
        dict(learning_rate=0.05, decay=0.9),
        lambda learning_rate, decay: sgd_oracles.sgd(learning_rate),
    ),
    Case(
        "sam",
        lambda learning_rate, rho: gdjax.sam(
            gdjax.sgd(learning_rate), gdjax.sam_adversary(rho), opaque_mode=True
        ),
        dict(learning_rate=0.05, rho=0.3),
        sam_oracles.sam,
        _grad_fn,
    ),
    Case(
        "sam_in_turns",
        lambda learning_rate, rho: gdjax.sam(gdjax.sgd(learning_rate), gdjax.sam_adversary(rho)),
        dict(learning_rate=0.05, rho=0.3),
        sam_oracles.sam_in_turns,
    ),
    Case(
        "adadelta",
        gdjax.adadelta,
        dict(learning_rate=0.7, rho=0.8, eps=1e-2, weight_decay=0.1),
        adadelta_oracles.adadelta,
    ),
    Case("rprop", gdjax.rprop, RPROP, rprop_oracles.rprop),
    Case(
        "sign_sgd",
        gdjax.sign_sgd,
        dict(learning_rate=0.02),
        sign_oracles.signum,
        valley=3.5,
    ),
    Case(
        "signum",
        gdjax.signum,
        dict(learning_rate=0.02, beta=0.8),
        sign_oracles.signum,
        not_differentiable=("beta",),
    ),
    Case("noisy_sgd", gdjax.noisy_sgd, dict(learning_rate=0.05, eta=0.02, gamma=0.5)),
    Case("polyak_sgd", gdjax.polyak_sgd, POLYAK, polyak_sgd_oracles.polyak, _value),
    Case(
        "polyak_sgd_bounded",
        _with(gdjax.polyak_sgd, variant="sps+"),
        POLYAK | dict(max_learning_rate=0.05, f_min=20.0),
        _with(polyak_sgd_oracles.polyak, plus=True),
        _value,
    ),
    Case(
        "optimistic_gradient_descent",
        gdjax.optimistic_gradient_descent,
        dict(learning_rate=0.05, alpha=0.8, beta=0.6),
        optimistic_oracles.optimistic,
    ),
    Case(
        "optimistic_adam",
        gdjax.optimistic_adam,
        ADAM | dict(optimism=0.03),
        _with(optimistic_oracles.optimistic_adam_v1, nesterov=True),
    ),
    Case(
        "optimistic_adam_v2",
        _with(gdjax.optimistic_adam_v2, nesterov=False),
        ADAM | dict(alpha=0.8, beta=0.6),
        optimistic_oracles.optimistic_adam,
    ),
    Case("lars", gdjax.lars, LARS, trust_ratio_oracles.lars),
    Case(
        "lars_nesterov",
        _with(gdjax.lars, nesterov=True),
        LARS,
        _with(trust_ratio_oracles.lars, nesterov=True),
    ),
    Case("lamb", gdjax.lamb, ADAM | dict(weight_decay=0.1), trust_ratio_oracles.lamb),
    Case(
        "fromage",
        gdjax.fromage,
        dict(learning_rate=0.05, min_norm=0.5),
        trust_ratio_oracles.fromage,
    ),
    Case("sm3", gdjax.sm3, SM3, sm3_oracles.sm3),
    Case("sm3_sums", gdjax.sm3, SM3 | dict(b2=1.0), sm3_oracles.sm3, not_differentiable=("b2",)),
    Case(
        "novograd",
        gdjax.novograd,
        dict(learning_rate=0.05, b1=0.8, b2=0.7, eps=1e-3, eps_root=1e-3, weight_decay=0.1),
        novograd_oracles.novograd,
    ),
    Case("yogi", gdjax.yogi, ADAM | dict(initial_accumulator_value=0.02), yogi_oracles.yogi),
    Case("radam", gdjax.radam, ADAM | dict(threshold=4.5), radam_oracles.radam),
    Case(
        "radam_nesterov",
        _with(gdjax.radam, nesterov=True),
        ADAM | dict(threshold=5.0, b2=0.9),
        _with(radam_oracles.radam, nesterov=True),
    ),
    Case("adabelief", gdjax.adabelief, ADAM | dict(eps_root=1e-3), adabelief_oracles.adabelief),
    Case("adan", gdjax.adan, ADAN, adan_oracles.adan),
    Case(
        "adan_paper",
        _with(gdjax.adan, proximal=True),
        ADAN,
        _with(adan_oracles.adan, proximal=True),
    ),
    Case(
        "adafactor",
        _with(gdjax.adafactor, min_dim_size_to_factor=3),
        ADAFACTOR | dict(momentum=0.8),
        _with(adafactor_oracles.adafactor, axes=adafactor_oracles.two_largest),
        not_differentiable=("decay_offset",),
    ),
    Case(
        "adafactor_full",
        _with(gdjax.adafactor, factored=False),
        ADAFACTOR | dict(decay_offset=-2.0),
        adafactor_oracles.adafactor,
    ),
    # With estimates of the curvature
    Case(
        "sophia",
        _with(gdjax.sophia, update_interval=3),
        SOPHIA,
        _with(sophia_oracles.sophia, curvature=_curvature, k=3),
        extras=_curved_extras,
        dtypes=REAL,
    ),
    Case(
        "adahessian",
        gdjax.adahessian,
        ADAHESSIAN,
        _with(adahessian_oracles.adahessian, curvature=_curvature),
        extras=_curved_extras,
        dtypes=REAL,
    ),
    Case(
        "adahessian_averaged",
        _with(
            gdjax.adahessian,
            update_interval=3,
            average_axes=gdjax.by_path({"kernel": (0, 1), "wide": 1, ".*": None}),
        ),
        ADAHESSIAN | dict(hessian_power=0.8),
        _with(
            adahessian_oracles.adahessian,
            curvature=_curvature,
            average={"kernel": (0, 1), "wide": 1},
            k=3,
        ),
        extras=_curved_extras,
        dtypes=REAL,
    ),
    # With little memory
    Case(
        "adam_mini",
        gdjax.adam_mini,
        ADAM_DECAY,
        _with(adam_mini_oracles.adam_mini, axes=lambda shape: (-1,) if len(shape) > 1 else ()),
    ),
    Case(
        "adam_mini_blocks",
        _with(gdjax.adam_mini, block_axes=gdjax.by_path(BLOCKS | {".*": None})),
        ADAM_DECAY,
        _with(adam_mini_oracles.adam_mini, axes=BLOCKS),
    ),
    Case("came", gdjax.came, CAME, came_oracles.came),
    Case(
        "galore",
        _with(gdjax.galore, rank=2, update_proj_gap=6),
        GALORE,
        _with(galore_oracles.galore, rank=2, gap=6),
    ),
    Case(
        "galore_batched",
        _with(
            gdjax.galore,
            rank=2,
            update_proj_gap=6,
            side="larger",
            weight_dimension_numbers=gdjax.by_path(
                {
                    "kernel": gdjax.GaLoreDimensionNumbers((1, 2), -1),
                    "tall|wide|w": gdjax.GaLoreDimensionNumbers(),
                    ".*": None,
                }
            ),
        ),
        GALORE,
        _with(
            galore_oracles.galore,
            rank=2,
            gap=6,
            larger=True,
            specs={"kernel": ((1, 2), (3,)), "tall": ((0,), (1,)), "wide": ((0,), (1,))},
        ),
    ),
    Case(
        "apollo",
        _with(gdjax.apollo, rank=2, update_proj_gap=6, growth_limit=None),
        APOLLO,
        _with(apollo_oracles.apollo, rank=2, projection=_gaussian(6)),
    ),
    Case(
        "apollo_limited",
        _with(gdjax.apollo, rank=2, update_proj_gap=6, key=5),
        APOLLO | dict(growth_limit=1.05),
        _with(apollo_oracles.apollo, rank=2, projection=_gaussian(6, 5)),
    ),
    Case(
        "apollo_mini",
        _with(gdjax.apollo_mini, update_proj_gap=6),
        APOLLO | dict(growth_limit=1.2),
        _with(apollo_oracles.apollo, rank=1, projection=_gaussian(6), tensor=True),
    ),
    # Matrices
    Case(
        "muon",
        gdjax.muon,
        MUON,
        _with(muon_oracles.muon, views={"tall": "2d", "wide": "2d"}),
        lane_rtol=1e-5,
    ),
    Case(
        "muon_views",
        _with(
            gdjax.muon,
            nesterov=False,
            muon_weight_dimension_numbers=gdjax.by_path(VIEWS),
        ),
        MUON | dict(consistent_rms=0.3),
        _with(muon_oracles.muon, nesterov=False, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    Case(
        "normuon",
        _with(gdjax.normuon, muon_weight_dimension_numbers=gdjax.by_path(VIEWS)),
        MUON | dict(b2=0.9, consistent_rms=0.3),
        _with(muon_oracles.normuon, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    Case(
        "normuon_dion",
        _with(gdjax.normuon, nesterov=False, consistent_rms=None, scale="spectral"),
        MUON | dict(b2=0.9),
        _with(
            muon_oracles.normuon,
            nesterov=False,
            views={"tall": "2d", "wide": "2d"},
            scale=muon_oracles.spectral,
        ),
        lane_rtol=1e-5,
    ),
    Case(
        "adamuon",
        _with(gdjax.adamuon, muon_weight_dimension_numbers=gdjax.by_path(VIEWS)),
        MUON | dict(b2=0.9, consistent_rms=0.3),
        _with(muon_oracles.adamuon, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    Case(
        "dion",
        _with(
            gdjax.dion,
            rank_fraction=0.5,
            muon_weight_dimension_numbers=gdjax.by_path(VIEWS | {"tall": MATRIX()}),
        ),
        MUON,
        _with(
            muon_oracles.dion,
            rank_fraction=0.5,
            views={"kernel": "conv", "tall": "2d", "wide": "2d"},
            basis=_first_basis,
        ),
        x_tol=1e-10,  # two ways to an orthonormal basis, and the basis feeds back
        lane_rtol=1e-5,
    ),
    Case(
        "dion2",
        _with(gdjax.dion2, fraction=0.4, muon_weight_dimension_numbers=gdjax.by_path(VIEWS)),
        MUON,
        _with(muon_oracles.dion2, fraction=0.4, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    *(
        Case(
            "scion" if constrained else "scion_unconstrained",
            _with(
                gdjax.scion,
                constrained=constrained,
                weight_dimension_numbers=gdjax.by_path(SCION),
            ),
            dict(learning_rate=0.02, radius=8.0, beta=0.85, eps=1e-6),
            _with(
                muon_oracles.scion,
                constrained=constrained,
                views={"kernel": "conv", "tall": ("split", 3)},
            ),
            lane_rtol=1e-5,
        )
        for constrained in (True, False)
    ),
    Case(
        "muonclip",
        lambda threshold, power, **rest: gdjax.qk_clip(
            gdjax.muon(**rest), gdjax.by_path({"w": -1, ".*": None}), threshold, power
        ),
        MUON | dict(threshold=100.0, power=0.5),
        extras=lambda params, grads, t: dict(max_logits=jnp.float32(150.0)),
        lane_rtol=1e-5,
    ),
    Case(
        "hyperball_sgd",
        lambda angle, **rest: gdjax.hyperball(gdjax.sgd(**rest), angle),
        dict(learning_rate=0.02, momentum=0.8, angle=0.05),
        lambda angle, **rest: muon_oracles.hyperball(sgd_oracles.sgd(**rest), angle),
    ),
    # With a matrix for each axis. A first gradient of n x m with n > m + 1 leaves eigenvectors to
    # rounding noise, which no oracle can follow, so long axes are not rotated here. Bases are
    # constants for differentiation, so they are not renewed within the steps of the contract.
    Case(
        "soap",
        _with(gdjax.soap, max_precond_dim=4, precondition_frequency=4),
        SOAP,
        _with(soap_oracles.soap, limit=4, precondition_frequency=4),
        not_differentiable=("shampoo_beta",),
    ),
    Case(
        "soap_one_sided",
        _with(
            gdjax.soap, max_precond_dim=6, precondition_frequency=3, merge_dims=True, one_sided=True
        ),
        SOAP,
        _with(soap_oracles.soap, limit=6, precondition_frequency=3, merged=True, one_sided=True),
        not_differentiable=("shampoo_beta",),
    ),
    Case(
        "shampoo",
        _with(gdjax.shampoo, precondition_frequency=4, start_preconditioning_step=1, block_size=4),
        SHAMPOO | dict(b3=0.8),
        _with(shampoo_oracles.shampoo, frequency=4, start=1, limit=4, graft="adam"),
        not_differentiable=("eps",),
    ),
    Case(
        "shampoo_sums",
        _with(gdjax.shampoo, precondition_frequency=5, graft="adagrad", merge_dims=False),
        dict(learning_rate=0.1, b1=0.85, b2=1.0, eps=1e-2, exponent=0.4, graft_eps=1e-4),
        _with(shampoo_oracles.shampoo, frequency=5, graft="adagrad", merged=False),
        not_differentiable=("b2", "eps", "exponent"),
    ),
    Case(
        "kl_shampoo",
        _with(gdjax.kl_shampoo, max_precond_dim=4, precondition_frequency=4),
        SOAP | dict(init_factor=0.3),
        _with(kl_shampoo_oracles.kl_shampoo, limit=4, frequency=4),
    ),
    Case(
        "kl_soap",
        _with(gdjax.kl_soap, max_precond_dim=4, precondition_frequency=4),
        SOAP | dict(init_factor=0.3),
        _with(kl_shampoo_oracles.kl_soap, limit=4, frequency=4),
        not_differentiable=("shampoo_beta", "init_factor"),
        lane_rtol=3e-5,  # LAPACK rounds by batch shape, small eigenvalues magnify: 1.4e-5 seen
    ),
    Case(
        "psgd_kron",
        _with(gdjax.psgd_kron, preconditioner_update_probability=0.3, balance_interval=2),
        PSGD,
        _with(
            psgd_kron_oracles.psgd_kron,
            probability=lambda t: 0.3,
            probe=_probe(),
            balance_after=(2, 4),
        ),
        not_differentiable=("preconditioner_lr", "preconditioner_init_scale"),
    ),
    Case(
        "psgd_kron_procrustes",
        _with(gdjax.psgd_kron, factor_update="procrustes", preconditioner_update_probability=0.3),
        PSGD | dict(bound_decay=0.8),
        _with(psgd_kron_oracles.psgd_kron, probability=lambda t: 0.3, probe=_probe()),
        not_differentiable=("preconditioner_lr", "preconditioner_init_scale", "bound_decay"),
        x_tol=1e-11,  # how far a factor is turned is a quotient of small traces
    ),
    *(
        Case(
            f"decay_{kind}{'_cautious' if careful else ''}",
            functools.partial(_decayed_momentum, kind, careful),
            dict(learning_rate=0.05, momentum=0.8, weight_decay=0.3),
            options_oracles.decayed_momentum(kind, careful),
        )
        for kind, careful in [
            ("l2", False),
            ("decoupled", False),
            ("independent", True),
            ("corrected", False),
        ]
    ),
    # Around other optimizers
    Case(
        "accumulate",
        lambda **numbers: gdjax.accumulate(gdjax.sgd(**numbers), every_k=3),
        dict(learning_rate=0.05, momentum=0.8),
        _with(accumulate_oracles.accumulate, every_k=3),
    ),
    Case(
        "skip_spikes",
        lambda learning_rate, momentum, **limits: gdjax.skip_spikes(
            gdjax.sgd(learning_rate, momentum), window=5, **limits
        ),
        dict(learning_rate=0.05, momentum=0.8, threshold=1e3, min_history=2.0, min_spread=0.1),
        not_differentiable=("threshold", "min_history", "min_spread"),
    ),
    Case(
        "dpsgd",
        _dpsgd,
        dict(learning_rate=0.05, l2_norm_clip=6.0, noise_multiplier=0.02, momentum=0.7),
    ),
    Case(
        "reduce_on_plateau",
        _plateau,
        dict(learning_rate=0.05, factor=0.9, min_scale=0.3, atol=0.01),
        extras=_value,
        not_differentiable=("atol",),
    ),
    Case(
        "inject_hyperparams",
        optax.inject_hyperparams(lambda learning_rate, mass: gdjax.sgd(2 * learning_rate, mass)),
        dict(learning_rate=0.025, mass=0.8),
        lambda learning_rate, mass: sgd_oracles.sgd(2 * learning_rate, mass),
    ),
    Case(
        "with_prox",
        lambda l1reg, **numbers: gdjax.with_prox(
            gdjax.adam(**numbers), gdjax.proximal.prox_lasso, l1reg
        ),
        ADAM | dict(l1reg=0.02),
        prox_oracles.lasso_adam,
    ),
    Case("groups", _groups, ADAM | dict(rate=0.05, momentum=0.8), _groups_oracle),
    Case(
        "cautious_adam",
        _around(gdjax.cautious, gdjax.adam, ("min_share",)),
        dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, min_share=0.4),
        options_oracles.cautious_adam,
    ),
    Case(
        "mars_adamw",
        lambda gamma, b1, **rest: gdjax.mars(gdjax.adamw(b1=b1, **rest), gamma, b1),
        dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, weight_decay=0.1, gamma=0.2),
        options_oracles.mars_adamw,
    ),
    Case(
        "mars_lion",
        lambda gamma, b1, **rest: gdjax.mars(gdjax.lion(b1=b1, **rest), gamma, b1),
        dict(learning_rate=0.02, b1=0.85, b2=0.95, weight_decay=0.1, gamma=0.2),
        options_oracles.mars_lion,
    ),
    Case(
        "proximal_gradient",
        _with(gdjax.proximal_gradient, gdjax.proximal.prox_lasso),
        dict(learning_rate=0.05, reg=0.1),
        proximal_gradient_oracles.ista,
    ),
    Case(
        "fista",
        _with(gdjax.fista, gdjax.proximal.prox_lasso),
        dict(learning_rate=0.05, reg=0.1),
        proximal_gradient_oracles.fista,
    ),
    Case(
        "mirror_descent",
        _with(gdjax.mirror_descent, to_dual=jnp.arcsinh, to_primal=jnp.sinh),
        dict(learning_rate=0.05),
        mirror_descent_oracles.hyperbolic,
        dtypes=REAL,
    ),
]

BY_NAME = {case.name: case for case in CASES}
