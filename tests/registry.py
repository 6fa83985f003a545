"""The registry: one row for each optimizer; the contract and oracle tests run over all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from oracles import acprop as acprop_oracles
from oracles import adagrad as adagrad_oracles
from oracles import adam as adam_oracles
from oracles import adamax as adamax_oracles
from oracles import ademamix as ademamix_oracles
from oracles import adopt as adopt_oracles
from oracles import amsgrad as amsgrad_oracles
from oracles import laprop as laprop_oracles
from oracles import lion as lion_oracles
from oracles import madgrad as madgrad_oracles
from oracles import nadam as nadam_oracles
from oracles import qhadam as qhadam_oracles
from oracles import rmsprop as rmsprop_oracles
from oracles import sgd as sgd_oracles
from oracles import stable_adamw as stable_adamw_oracles

import gdjax


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


def _with(factory, **static):
    return lambda **numbers: factory(**numbers, **static)


ADAM = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, eps_root=1e-9)
RMS = dict(learning_rate=0.02, decay=0.8, eps=1e-3, initial_scale=0.3)
LION = dict(learning_rate=0.02, b1=0.8, b2=0.95, weight_decay=0.1)

ADAM_PLAIN = dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-4, weight_decay=0.1)
ADAM_DECAY = ADAM_PLAIN | dict(eps_root=1e-9)
ADOPT = ADAM_PLAIN | dict(eps=0.2)  # a floor that some elements are under
ADEMAMIX = ADAM_DECAY | dict(b3=0.99, alpha=4.0)
MADGRAD = dict(learning_rate=0.05, momentum=0.8, eps=1e-3, weight_decay=0.1)

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
]

BY_NAME = {case.name: case for case in CASES}
