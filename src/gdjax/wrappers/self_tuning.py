"""Self-tuning: an optimizer's numbers take gradient steps of their own while it runs.

Baydin, Cornish, Martinez Rubio, Schmidt & Wood (2018), https://arxiv.org/abs/1703.04782; on
several levels, as the wrapper around itself: Chandra, Xie, Ragan-Kelley & Meijer (2022),
https://arxiv.org/abs/1909.13371
Paper -> here: alpha -> any number that steers the optimizer, beta -> the tuner's learning rate,
u(Theta, alpha) -> minus the update.
Deviations: numbers move on a log or logit scale, so that they stay in their ranges; by default the
derivative is divided by the norms of its two factors, as in the paper's multiplicative rule.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import POSITIVE, check_range, leaf_name, remember_ranges, strict
from gdjax.core.flax_details import serialized
from gdjax.core.hyper import as_array
from gdjax.core.lift import leafwise, treewise
from gdjax.core.numerics import cast_like, safe_divide, safe_increment, safe_sqrt
from gdjax.core.parts import INLINED
from gdjax.core.reading import Place, places_of
from gdjax.core.trees import inner_product, map_leaves, total, zeros_like
from gdjax.core.types import OptState, Pair, Params, PyTree, Scalar, Updates
from gdjax.wrappers.shared.skipping import at_steps

CALL = "self_tuning(names=...)"
FIRST = 2  # steps after which means are of more than one gradient; SOAP does not count its first
Ends = tuple[float, float]  # of the range of a number


@serialized
@jax.tree_util.register_pytree_with_keys_class
class Bounds:
    """The ends of the range of each number that is tuned; static."""

    def __init__(self, ends: tuple[Ends, ...]):
        self.ends = ends

    def tree_flatten_with_keys(self):
        """Return no children; all is static."""
        return (), self.ends

    @classmethod
    def tree_unflatten(cls, ends, _):
        """Rebuild from static data."""
        return cls(ends)


class SelfTuning(NamedTuple):
    """What the wrapper remembers."""

    slopes: dict[str, Updates]  # s_t: name -> derivative of the last update in z, like the updates
    taken: Array  # int32, steps of the optimizer so far
    bounds: Bounds
    tuner: OptState  # state of the tuner
    inner: OptState  # state of the optimizer


class Number(NamedTuple):
    """A number of the optimizer."""

    value: Array
    lost: Array  # what rounding took from it, which the state keeps of decays; else 0


Numbers = dict[str, Number]

# --- the rule -------------------------------------------------------------------------------------


def _products(grad, slope):
    """Return <g, s>, |g|^2 and |s|^2."""
    return tuple(inner_product(*pair) for pair in ((grad, slope), (grad, grad), (slope, slope)))


def _self_tuning(grads, slots, params, count, *, names, normalize, inner, tuner, **extra):
    groups = places_of(CALL, slots.inner, names)
    places = [place for group in groups for place in group]
    if len(places) != len(slots.bounds.ends):
        raise ValueError(
            f"{CALL}: {', '.join(names)} are {len(places)} numbers of this state, and were "
            f"{len(slots.bounds.ends)} at init. Numbers of another structure need a new init."
        )
    ends = dict(zip((place.name for place in places), slots.bounds.ends, strict=True))
    old = _read(slots.inner, places)

    def updates_of(numbers):
        return inner(grads, _put(slots.inner, places, numbers), params, **extra)

    # h_t = <g_t, s_{t-1}>, the derivative of the new loss in the z of the last step
    gains: dict[str, Array] = {}
    for name, group in zip(names, groups, strict=True):
        columns = map(jax.tree.leaves, map_leaves(_products, 3, (grads, slots.slopes[name])))
        rows = list(zip(*columns, strict=True))
        for place, own in zip(group, _owned(updates_of, old, group, grads), strict=True):
            gain, *squares = (total([rows[i][k] for i in own]) for k in range(3))
            gain = _cosine(gain, *squares) if normalize else gain
            # a mean of one gradient does not depend on its decay: that derivative is all rounding
            of_mean = place.allowed is not None and place.allowed.decay
            gains[place.name] = jnp.where(slots.taken > FIRST, gain, 0) if of_mean else gain
    z = {k: _free(x, ends[k]) for k, x in old.items()}
    moves, tuned = tuner(gains, slots.tuner, z)
    useful = _all(jnp.isfinite, (gains, moves)) & ~_all(lambda x: x == 0, gains)
    new = {k: _moved(x, ends[k], z[k], moves[k]) for k, x in old.items()}
    new, tuned = jax.tree.map(
        functools.partial(jnp.where, useful),
        (new, cast_like(tuned, slots.tuner)),
        (old, slots.tuner),
    )

    # one pass for each name: derivatives by all names at once would cost XLA more than the passes,
    # whose common part it computes once
    slopes = {}
    for name, group in zip(names, groups, strict=True):
        own = [place.name for place in group]
        seeds = [_stretch(new[k], ends[k]) for k in own]
        step = functools.partial(_with_values, updates_of, new, own)
        at = [new[k].value for k in own]
        updates, slopes[name], state = jax.jvp(step, (at,), (seeds,), has_aux=True)
    state = cast_like(state, slots.inner)
    slopes = cast_like(slopes, slots.slopes)
    taken = safe_increment(slots.taken)
    after = SelfTuning(slopes, taken, slots.bounds, tuned, state)
    left = updates, slots._replace(inner=_put(state, places, old))
    return at_steps(state, lambda: (updates, after), left)


def _cosine(product: Array, *squares: Array) -> Array:
    a, b = map(safe_sqrt, squares)
    return safe_divide(product, a * b)


def _all(test: Callable[[Array], Array], tree: PyTree) -> Array:
    return functools.reduce(jnp.logical_and, map(test, jax.tree.leaves(tree)))


def _read(state: OptState, places: Sequence[Place]) -> Numbers:
    leaves = jax.tree.leaves(state)

    def number(place):
        value = leaves[place.leaf]
        lost = jnp.zeros_like(value) if place.rounding is None else leaves[place.rounding]
        return Number(value, lost)

    return {place.name: number(place) for place in places}


def _put(state: OptState, places: Sequence[Place], numbers: Numbers) -> OptState:
    leaves, treedef = jax.tree.flatten(state)
    for place in places:
        number = numbers[place.name]
        leaves[place.leaf] = number.value
        if place.rounding is not None:
            leaves[place.rounding] = number.lost
    return treedef.unflatten(leaves)


def _with_values(
    updates_of: Callable[[Numbers], tuple[Updates, OptState]],
    numbers: Numbers,
    names: Sequence[str],
    values: Sequence[Array],
) -> tuple[Updates, OptState]:
    new = {k: numbers[k]._replace(value=x) for k, x in zip(names, values, strict=True)}
    return updates_of(numbers | new)


# --- which parameters a number moves --------------------------------------------------------------


def _owned(
    updates_of: Callable[[Numbers], tuple[Updates, OptState]],
    numbers: Numbers,
    group: Sequence[Place],
    grads: Updates,
) -> list[list[int]]:
    """Return for each number of a name which leaves of the updates depend on it.

    The numbers share a derivative of the updates, so no leaf may depend on two of them.
    """
    if len(group) == 1:
        return [list(range(len(jax.tree.leaves(grads))))]
    names = [place.name for place in group]

    step = functools.partial(_with_values, updates_of, numbers, names)
    values = [numbers[name].value for name in names]
    jaxpr = jax.make_jaxpr(lambda values: step(values)[0])(values).jaxpr
    reached = _reached(jaxpr, [frozenset([name]) for name in names])
    for i, by in enumerate(reached):
        if len(by) > 1:
            raise ValueError(
                f"{CALL}: the update of {leaf_name(grads, i)!r} depends on several of the numbers "
                f"that one name means: {', '.join(map(repr, sorted(by)))}. Name each of them."
            )
    return [[i for i, by in enumerate(reached) if name in by] for name in names]


def _reached(jaxpr: Jaxpr, given: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Return for each result of a program which of its arguments' labels it depends on."""
    known: dict[Any, frozenset[str]] = dict(zip(jaxpr.invars, given, strict=True))
    nothing: frozenset[str] = frozenset()

    def of(x: Any) -> frozenset[str]:
        return nothing if isinstance(x, Literal) else known.get(x, nothing)

    for eqn in jaxpr.eqns:
        arguments = list(map(of, eqn.invars))
        every = nothing.union(*arguments)
        results = [every] * len(eqn.outvars)
        programs = _programs(eqn) if every else ()
        if programs:
            choice = nothing.union(*arguments[: len(arguments) - len(programs[0].invars)])
            own = arguments[len(arguments) - len(programs[0].invars) :]
            columns = zip(*(_reached(program, own) for program in programs), strict=True)
            results = [choice.union(*column) for column in columns]
        known.update(zip(eqn.outvars, results, strict=True))
    return list(map(of, jaxpr.outvars))


def _programs(eqn: JaxprEqn) -> list[Jaxpr]:
    """Return what an equation calls once, or chooses from; nothing for loops and arithmetic."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        found = params["branches"]
    elif name in ("jit", "pjit"):
        found = [params["jaxpr"]]
    else:
        found = [params[INLINED[name]]] if name in INLINED else []
    return [getattr(program, "jaxpr", program) for program in found]


# --- numbers on a scale without ends --------------------------------------------------------------


def _ends(place: Place) -> Ends:
    """Return the ends of the range of a number, as `Range.holds` has them."""
    if place.allowed is None:
        return -math.inf, math.inf
    text, holds, *_ = place.allowed
    inside = next((x for x in (0.5, 1.5, 5.0, 0.0, 1.0, -0.5, -1.5) if holds(x)), None)
    if inside is None or holds(2.0) and holds(3.0) and not holds(2.5):
        raise ValueError(f"{CALL}: {place.name!r} is {text}, for which there is no scale.")
    return _end(holds, inside, -3e38), _end(holds, inside, 3e38)


def _end(holds: Callable[[float], bool], inside: float, beyond: float) -> float:
    if holds(beyond):
        return math.copysign(math.inf, beyond)
    for _ in range(200):  # from 3e38 to below rounding
        middle = (inside + beyond) / 2
        inside, beyond = (middle, beyond) if holds(middle) else (inside, middle)
    return round(beyond, 9) + 0.0


def _is_between(ends: Ends) -> bool:
    return all(map(math.isfinite, ends))


def _shares(x: Number, ends: Ends) -> tuple[Array, Array]:
    """Return the distances of a number to both ends, in units of their sum."""
    low, high = ends
    return (x.value - low) / (high - low), ((high - x.value) - x.lost) / (high - low)


def _from_end(x: Number, ends: Ends) -> tuple[float, Array | float, Array]:
    """Return anchor, sign and distance of a number with one end or none.

    The number is anchor + sign * distance. Without ends it keeps its sign.
    """
    low, high = ends
    if low > -math.inf:
        return low, 1.0, x.value - low
    if high < math.inf:
        return high, -1.0, high - x.value
    return 0.0, jnp.sign(x.value), jnp.abs(x.value)


def _log(x: Array) -> Array:
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def _free(x: Number, ends: Ends) -> Array:
    """Return z: the logit of a number between two ends, else the log of its distance to one."""
    if _is_between(ends):
        below, above = _shares(x, ends)
        return _log(below) - _log(above)
    return _log(_from_end(x, ends)[2])


def _stretch(x: Number, ends: Ends) -> Array:
    """Return the derivative of a number by z."""
    if _is_between(ends):
        below, above = _shares(x, ends)
        return (ends[1] - ends[0]) * below * above
    _, sign, distance = _from_end(x, ends)
    return sign * distance


def _moved(x: Number, ends: Ends, z: Array, move: Array) -> Number:
    """Return the number at z + move; one at an end of its range, as a rate of 0, stays there."""
    kind = jnp.finfo(x.value.dtype)
    if _is_between(ends):
        (low, high), (below, above) = ends, _shares(x, ends)
        most = jnp.maximum(jnp.abs(z), -math.log(kind.eps))
        z = jnp.clip(z + move, -most, most)
        above_low, below_high = ((high - low) * jax.nn.sigmoid(y) for y in (z, -z))
        value = jnp.where(z < 0, low + above_low, high - below_high)
        lost = jnp.where(z < 0, 0, (high - value) - below_high)
        stays = (below <= 0) | (above <= 0) | (move == 0)
    else:
        anchor, sign, distance = _from_end(x, ends)
        least = jnp.minimum(distance, max(float(kind.tiny), float(kind.eps) * abs(anchor)))
        most = jnp.maximum(distance, float(kind.max) / 4)
        value = anchor + sign * jnp.clip(distance * jnp.exp(move), least, most)
        lost, stays = jnp.zeros_like(value), (distance <= 0) | (move == 0)
    return Number(jnp.where(stays, x.value, value), jnp.where(stays, x.lost, lost))


# --- the wrapper ----------------------------------------------------------------------------------


def _fresh(init: InitFn, tuner: InitFn, names: tuple[str, ...], params: Params) -> SelfTuning:
    state = init(params)
    places = [place for group in places_of(CALL, state, names) for place in group]
    ends = [_ends(place) for place in places]
    for i, place in enumerate(places):
        if jnp.ndim(jax.tree.leaves(state)[place.leaf]):
            raise ValueError(f"{CALL}: {place.name!r} is a table of several numbers.")
        if place.leaf in [other.leaf for other in places[:i]]:
            raise ValueError(f"{CALL}: two names mean {place.name!r}.")
    z = {k: _free(x, e) for (k, x), e in zip(_read(state, places).items(), ends, strict=True)}
    slopes = {name: zeros_like(params) for name in names}
    return SelfTuning(slopes, jnp.zeros((), jnp.int32), Bounds(tuple(ends)), tuner(z), state)


def _descend(gain, slots, z, count, *, tuning_rate):
    return -tuning_rate * gain, slots


def _descent(tuning_rate: Scalar) -> Optimizer:
    init, update = leafwise(_descend, None, {"tuning_rate": tuning_rate}, name="self_tuning")
    return Optimizer(lambda z: remember_ranges(init(z), {"tuning_rate": POSITIVE}), update)


@strict()
def self_tuning(
    optimizer: Pair,
    names: str | Sequence[str] = "learning_rate",
    tuner: Pair | Scalar = 0.5,
    *,
    normalize: bool = True,
) -> Optimizer:
    r"""Let an optimizer tune its own numbers while it runs.

    Each step uses the gradient twice: for the optimizer, and for the derivative of the loss in the
    numbers of the step before. With :math:`z` the numbers on scales without bounds and
    :math:`u_t` the optimizer's update:

    .. math::

       h_t &= \left\langle g_t,\; \frac{\partial u_{t-1}}{\partial z} \right\rangle \\
       z_t &= z_{t-1} - \kappa\, \frac{h_t}
       {\lVert g_t \rVert\, \lVert \partial u_{t-1} / \partial z \rVert} \\
       x_t &= x_{t-1} + u_t(z_t)

    :math:`z` is the logarithm of a number >= 0, such as a learning rate or a decay of the weights,
    and :math:`\log(\beta / (1 - \beta))` of a decay in (0, 1), by the range that the optimizer's
    factory declares. So a number stays inside its range, and one that is 0 stays 0. Divided by the
    norms, :math:`h_t` is a cosine: it does not depend on the scale of the loss.

    A step in which the optimizer does nothing (a guard skips it, gradients are accumulated), or
    whose :math:`h_t` is 0 or not finite, as where squares of gradients leave the range of float32,
    leaves the numbers as they are. Decays of means stay for the first two steps: Adam's first
    update does not depend on b1 and b2. `hyperparams(state)` reads the numbers, and
    `with_hyperparams` may change them at any time.

    Known against it: the derivative is that of one step. With noisy gradients, rates that are best
    for one step are lower than those that are best for a whole run (Wu et al. 2018, arXiv
    1803.02021), so from a well tuned rate it may end with a higher loss. It is for bad starts. A
    rate at which the first steps destroy the model is not repaired. Plain steps of `sgd` beyond the
    largest stable rate grow faster than the rate falls: clip them, as in
    `chain(clip_by_global_norm(1.0), sgd(1e-4))`. The derivative by a number that passes through a
    sign only, as b1 and b2 of `lion`, is 0: it stays.

    Evidence: authors only. From learning rates far too small, SGD, Nesterov's method and Adam come
    close to their tuned losses (Baydin et al. 2017, arXiv 1703.04782); on several levels, results
    depend less on the first numbers (Chandra et al. 2019, arXiv 1909.13371).

    Differences: the papers add to the numbers themselves, without the norms (with them in a
    multiplicative rule of the first paper). In the second, momentum stays a part of what is
    differentiated; here it is the derivative of the last update alone.

    Args:
      optimizer: any `(init, update)` pair made of gdjax's optimizers, also a chain, `groups`, or
        this wrapper: `self_tuning(self_tuning(adam(1e-5)), "tuning_rate")`.
      names: which numbers, as `with_hyperparams` names them: "learning_rate", "b1",
        "head.learning_rate", "learning_rate.peak_value" of a schedule. A name that means several
        numbers, one for each layer or group, tunes each of them by its own parameters.
      tuner: :math:`\kappa` > 0, a number or schedule, which the state has as `tuning_rate`; or any
        optimizer, which gets the cosines (or :math:`h_t`) as gradients of a dict, name ->
        :math:`z`. 0.5 changes a rate by at most 65 % in a step.
      normalize: whether to divide by the norms. If false, the tuner gets :math:`h_t` itself.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element for each name, in addition to the optimizer's.

    Raises:
      ValueError: if names are not distinct; at `init`, for a name that the state does not have, a
        schedule (its numbers have names), a table, or a number that must be whole; at `update`, if
        the step of a parameter depends on several numbers of one name, as with a global norm after
        rates for each layer: then give each number's name.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.self_tuning(gdjax.sgd(1e-4))
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> for _ in range(60):
      ...     updates, state = opt.update(params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(gdjax.hyperparams(state)["learning_rate"] > 0.1, jnp.abs(params).max() < 1e-3)
      True True

    References:
      Baydin et al. (2018), "Online learning rate adaptation with hypergradient descent".
      Chandra et al. (2022), "Gradient descent: the ultimate optimizer".
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names or not all(isinstance(x, str) for x in names) or len({*names}) < len(names):
        raise ValueError(f"{CALL} must be distinct names of numbers, got {names!r}.")
    if not isinstance(tuner, tuple):
        what = "self_tuning(tuner=...)"
        check_range(what, tuner, POSITIVE)
        if jax.tree_util.all_leaves([tuner]) and not callable(tuner):
            tuner = as_array(what, tuner, scalar=True)
        tuner = _descent(tuner)
    init, update = with_extra_args_support(optimizer)
    own = with_extra_args_support(tuner)
    slots = functools.partial(_fresh, init, own.init, names)
    return treewise(
        _self_tuning, slots, names=names, normalize=normalize, inner=update, tuner=own.update
    )
