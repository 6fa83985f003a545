"""Weight decay of every kind, around any optimizer.

With g the gradient, eta the current learning rate, eta_max its largest value, lambda the decay:
  l2           g += lambda theta, before the optimizer (Tikhonov's ridge penalty)
  decoupled    theta -= eta lambda theta (Loshchilov & Hutter 2017,
               https://arxiv.org/abs/1711.05101, as torch and optax have it)
  independent  theta -= (eta / eta_max) lambda theta (the paper's own form: eta_t there is the
               schedule's multiplier)
  corrected    theta -= eta (eta / eta_max) lambda theta (AdamC; Defazio 2025,
               https://arxiv.org/abs/2506.02285)
  cautious     any but l2, only where the optimizer also moves the weight towards zero (Chen et al.
               2025, https://arxiv.org/abs/2510.12402)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gdjax.core.base import InitFn, Optimizer, State
from gdjax.core.chain import chain, with_extra_args_support
from gdjax.core.checks import NONNEGATIVE, STANDARD, check_choice, checked, remember_ranges
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.hyper import Schedule
from gdjax.core.lift import leafwise, mask_decay, treewise
from gdjax.core.numerics import safe_increment
from gdjax.core.reading import the_only
from gdjax.core.trees import product
from gdjax.core.types import Hyperparam, Mask, OptState, Pair, Params
from gdjax.transforms.decay import add_decayed_weights
from gdjax.wrappers.shared.skipping import at_steps

Kind: TypeAlias = Literal["decoupled", "l2", "independent", "corrected"]
KINDS: Sequence[str] = ("decoupled", "l2", "independent", "corrected")


class Decay(NamedTuple):
    """What the wrapper remembers."""

    decay: State  # weight_decay, and max_learning_rate for the kinds that need it
    inner: OptState  # state of the optimizer


def _shrink(
    update,
    slots,
    param,
    count,
    *,
    weight_decay,
    learning_rate,
    max_learning_rate=None,
    kind,
    cautious,
):
    if weight_decay is None or learning_rate is None:
        return update, slots
    rate = learning_rate
    if max_learning_rate is not None:
        share = learning_rate / jnp.where(max_learning_rate > 0, max_learning_rate, 1)
        rate = share if kind == "independent" else rate * share
    shrunk = rate * weight_decay * param
    if cautious:
        shrunk = jnp.where(product(update, param) <= 0, shrunk, 0)
    return update - shrunk, slots


def _with_weight_decay(grads, slots, params, count, *, inner, shrink, **extra):
    if params is None:
        raise ValueError(f"with_weight_decay needs {NEEDS_PARAMS}")
    learning_rate, rate_count = the_only("with_weight_decay", slots.inner, "learning_rate")
    updates, state = inner(grads, slots.inner, params, **extra)
    # The decay reads the learning rate from the optimizer's state, so that it is stored once.
    numbers = {**slots.decay.hyperparams, "learning_rate": learning_rate}

    def step():
        shrunk, _ = shrink(updates, State(rate_count, numbers, ()), params)
        return shrunk, Decay(slots.decay._replace(count=safe_increment(slots.decay.count)), state)

    return at_steps(state, step, (updates, slots._replace(inner=state)))


def _more_numbers(kind: Kind) -> tuple[str, ...]:
    return ("max_learning_rate",) if kind in ("independent", "corrected") else ()


def _fresh(
    init: InitFn,
    weight_decay: Hyperparam,
    mask: Mask,
    max_learning_rate: Hyperparam | None,
    kind: Kind,
    params: Params,
) -> Decay:
    state = init(params)
    numbers = dict(weight_decay=weight_decay)
    if _more_numbers(kind):
        rate, _ = the_only("with_weight_decay", state, "learning_rate")
        leaves = jax.tree.leaves(rate, is_leaf=lambda x: isinstance(x, Schedule))
        if max_learning_rate is None and any(isinstance(x, Schedule) for x in leaves):
            raise ValueError(
                f"with_weight_decay(kind={kind!r}) of an optimizer whose learning rate is a "
                "schedule needs max_learning_rate=..., the largest value of the schedule."
            )
        numbers["max_learning_rate"] = rate if max_learning_rate is None else max_learning_rate
    decay = mask_decay(leafwise(_shrink, hyperparams=numbers, name="with_weight_decay"), mask)
    ranges = dict(weight_decay=STANDARD["weight_decay"], max_learning_rate=NONNEGATIVE)
    return Decay(remember_ranges(decay.init(params), ranges), state)


@checked(max_learning_rate=NONNEGATIVE)
def with_weight_decay(
    optimizer: Pair,
    weight_decay: Hyperparam,
    kind: Kind = "decoupled",
    *,
    mask: Mask = None,
    cautious: bool = False,
    max_learning_rate: Hyperparam | None = None,
) -> Optimizer:
    r"""Give any optimizer weight decay of any kind.

    With :math:`u_t` the optimizer's update, in the order "decoupled", "independent", "corrected":

    .. math::

       x_t &= x_{t-1} + u_t - \eta_t \lambda x_{t-1} \\
       x_t &= x_{t-1} + u_t - (\eta_t / \eta_{\max})\, \lambda x_{t-1} \\
       x_t &= x_{t-1} + u_t - \eta_t (\eta_t / \eta_{\max})\, \lambda x_{t-1}

    "l2" adds :math:`\lambda x_{t-1}` to the gradient that the optimizer sees, which is Tikhonov's
    ridge penalty.

    Evidence: independent. Cautious decay, with a schedule, made record 43 of modded-nanogpt's
    speedrun 1 % shorter than the one before, and saves 19 of 2686 steps of its track 3 (result 46,
    https://github.com/KellerJordan/modded-nanogpt); its authors' experiments are in Chen et al.
    2025, arXiv 2510.12402. Of "corrected" we know those of its author only (Defazio 2025, arXiv
    2506.02285).

    Differences: the decay of `adamw`, in torch and optax too, is "decoupled"; "independent" is the
    form of the AdamW paper, whose learning rate has a schedule as its factor.

    Args:
      optimizer: an `(init, update)` pair whose state has one `learning_rate`, as those of gdjax's
        optimizers do; for "l2" any pair.
      weight_decay: :math:`\lambda` >= 0, the strength: a number, schedule or prefix tree.
      kind: "decoupled", "l2", "independent" or "corrected" (AdamC).
      mask: which leaves decay: a prefix tree of booleans, or a function of the parameters that
        gives one, such as `mask_by_ndim()`. None decays all.
      cautious: whether to decay an element only where the update does not move it away from zero.
      max_learning_rate: :math:`\eta_{\max}` >= 0, for "independent" and "corrected". None is the
        learning rate that the optimizer was built with, if that is not a schedule.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: the decay's numbers in addition to the optimizer's.

    Raises:
      ValueError: for an unknown kind, ``cautious`` with "l2", or a schedule without
        `max_learning_rate`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_weight_decay(gdjax.sgd(0.1), 0.5, kind="independent")
      >>> params = jnp.array([1.0, -2.0])
      >>> print(opt.update(jnp.zeros(2), opt.init(params), params)[0])
      [-0.5  1. ]
    """
    check_choice("with_weight_decay(kind=...)", kind, KINDS)
    if kind == "l2":
        if cautious:
            raise ValueError("with_weight_decay(cautious=True) needs a kind other than 'l2'.")
        return chain(add_decayed_weights(weight_decay, mask), optimizer)
    init, update = with_extra_args_support(optimizer)
    slots = functools.partial(_fresh, init, weight_decay, mask, max_learning_rate, kind)
    numbers = dict.fromkeys(("weight_decay", "learning_rate", *_more_numbers(kind)))
    decay = leafwise(
        _shrink, hyperparams=numbers, name="with_weight_decay", kind=kind, cautious=cautious
    )
    return treewise(_with_weight_decay, slots, inner=update, shrink=decay.update)
