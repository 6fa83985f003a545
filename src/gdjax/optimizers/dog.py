"""Distance over gradients: the step size is how far one has come, over how much one was pushed.

DoG and L-DoG: Ivgi, Hinder & Carmon (2023), eq. 2 and section 3.3, https://arxiv.org/abs/2302.12022
DoWG: Khaled, Mishchenko & Jin (2023), Algorithm 1, https://arxiv.org/abs/2305.16284
Paper -> here: r bar -> max_dist, G (DoG) or v (DoWG) -> sum_sq, x_0 -> start, r_eps -> init_step.
Deviations: none. Both papers evaluate at an average: `gdjax.polynomial_average(gdjax.dog())`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import chain
from gdjax.core.checks import POSITIVE, check_choice, check_range, checked
from gdjax.core.lift import NEEDS_PARAMS, leafwise
from gdjax.core.numerics import abs_sq, compute_dtype, real_dtype, safe_sqrt, sum_sq, times
from gdjax.core.trees import copied, map_leaves, total, zero
from gdjax.core.treewise import treewise
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scale import scale_by_learning_rate

INIT_STEPS = ("distance", "heuristic", "learning_rate")


class Dog(NamedTuple):
    """What DoG remembers of the whole tree, L-DoG of one parameter."""

    start: Any  # x_0, the first parameters, shaped like them
    max_dist: Array  # r bar, the largest distance from them so far; a number, like the next
    sum_sq: Array  # G, sum of the squared norms of the gradients


class Dowg(NamedTuple):
    """What DoWG remembers."""

    start: Any  # x_0, as above
    sq_dist: Array  # r bar^2, the largest squared distance so far; a number, like the next
    sum_sq: Array  # v, sum of the squared norms of the gradients, weighted by r bar^2


def _ratio(top, bottom):
    return jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1), 0)


def _step_size(slots, dist, start_norm, sq_norm, count, init_step, eps, kind):
    """Return the step size, the largest distance, and the sum of squared norms."""
    first = {
        "distance": init_step,
        "heuristic": init_step * (1 + start_norm),
        "learning_rate": jnp.zeros_like(dist),
    }[kind]
    largest = jnp.maximum(jnp.where(count == 1, first, slots.max_dist), dist)
    sum_sq = slots.sum_sq + sq_norm
    eta = _ratio(largest, safe_sqrt(sum_sq + eps))
    if kind == "learning_rate":
        eta = jnp.where(count == 1, init_step, eta)
    return eta, largest, sum_sq


def _apart_sq(param, start):
    return jnp.sum(abs_sq(param - start))


def _distance_sq(params, start, name):
    if params is None:
        raise ValueError(f"{name} needs {NEEDS_PARAMS}")
    return total(*map_leaves(_apart_sq, 1, (params, start)))


def _dog(grads, slots, params, count, *, init_step, eps, kind):
    dist = safe_sqrt(_distance_sq(params, slots.start, "dog"))
    norm = safe_sqrt(sum_sq(slots.start))
    numbers = _step_size(slots, dist, norm, sum_sq(grads), count, init_step, eps, kind)
    return times(grads, numbers[0]), Dog(slots.start, *numbers[1:])


def _l_dog(grad, slots, param, count, *, init_step, eps, kind):
    dist = safe_sqrt(_distance_sq(param, slots.start, "l_dog"))
    norm = safe_sqrt(sum_sq(slots.start))
    numbers = _step_size(slots, dist, norm, sum_sq(grad), count, init_step, eps, kind)
    return times(grad, numbers[0]), Dog(slots.start, *numbers[1:])


def _dowg(grads, slots, params, count, *, init_estim_sq_dist, eps):
    first = eps if init_estim_sq_dist is None else init_estim_sq_dist
    sq_dist = _distance_sq(params, slots.start, "dowg")
    largest = jnp.maximum(jnp.where(count == 1, first, slots.sq_dist), sq_dist)
    weighted = slots.sum_sq + largest * sum_sq(grads)
    eta = _ratio(largest, safe_sqrt(weighted) + eps)
    return times(grads, eta), Dowg(slots.start, largest, weighted)


def _fresh(params) -> Dog:
    return Dog(copied(params), zero(), zero())


def _fresh_leaf(param) -> Dog:
    zeros = (jnp.zeros((), real_dtype(compute_dtype(param))) for _ in range(2))
    return Dog(copied(param), *zeros)


def _fresh_dowg(params) -> Dowg:
    return Dowg(copied(params), zero(), zero())


def _parts(what, init_step):
    try:
        kind, value = init_step
    except (TypeError, ValueError):
        kind, value = init_step, None
    check_choice(f"{what}(init_step=...)[0]", kind, INIT_STEPS)
    check_range(f"{what}(init_step=...)[1]", value, POSITIVE)
    return kind, value


def _descend(scaling, learning_rate, weight_decay, mask) -> Optimizer:
    parts = [scaling, scale_by_learning_rate(learning_rate)]
    if weight_decay is not None:
        parts.insert(0, add_decayed_weights(weight_decay, mask))
    return chain(*parts)


@checked()
def scale_by_dog(init_step: tuple[str, Any] = ("heuristic", 1e-6), eps: Any = 1e-8) -> Optimizer:
    """Scale the gradient by DoG's step size.

    The arguments, memory and source are those of `dog`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_dog(("learning_rate", 0.1))
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(params, opt.init(params), params)[0])
      [0.3 0.4]
    """
    kind, value = _parts("scale_by_dog", init_step)
    return treewise(_dog, _fresh, dict(init_step=value, eps=eps), kind=kind)


@checked()
def scale_by_l_dog(init_step: tuple[str, Any] = ("heuristic", 1e-6), eps: Any = 1e-8) -> Optimizer:
    """Scale the gradient of each parameter by a step size of its own.

    The arguments, memory and source are those of `l_dog`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_l_dog(("distance", 0.1))
      >>> params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}
      >>> print(opt.update(params, opt.init(params), params)[0]["b"])  # 0.1 / |b| * b
      [0.1]
    """
    kind, value = _parts("scale_by_l_dog", init_step)
    return leafwise(_l_dog, _fresh_leaf, dict(init_step=value, eps=eps), kind=kind)


@checked(init_estim_sq_dist=POSITIVE)
def scale_by_dowg(init_estim_sq_dist: Any = None, eps: Any = 1e-4) -> Optimizer:
    """Scale the gradient by DoWG's step size.

    The arguments, memory and source are those of `dowg`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_dowg()
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(params, opt.init(params), params)[0])  # 1e-4 / (0.01 * 5 + 1e-4) * g
      [0.006 0.008]
    """
    return treewise(_dowg, _fresh_dowg, dict(init_estim_sq_dist=init_estim_sq_dist, eps=eps))


@checked()
def dog(
    learning_rate: Any = 1.0,
    init_step: tuple[str, Any] = ("heuristic", 1e-6),
    eps: Any = 1e-8,
    weight_decay: Any = None,
    mask: Any = None,
) -> Optimizer:
    """Descend by the largest distance from the start over the root of the summed squared norms.

    Good for: fine-tuning without a learning rate to tune.

    r = max(r, |param - start|);  G += |g|^2;  update = -learning_rate * r / sqrt(G + eps) * g

    The authors evaluate at an average of the parameters, and call it crucial:
    `gdjax.polynomial_average(gdjax.dog())` and `gdjax.eval_params`.

    Args:
      learning_rate: factor of the step size, leave at 1; a number or schedule.
      init_step: ("distance", r_0), ("heuristic", a) for r_0 = a * (1 + |start|), or
        ("learning_rate", step size of the first update). a = 1e-6, or 1e-4 with batch norms. The
        number is the hyperparameter `init_step`; only the first update uses it.
      eps: added to G, >= 0.
      weight_decay: strength >= 0 of an L2 decay, weight_decay * param added to the gradient, which
        then counts into G; a number, schedule or prefix tree; None is none.
      mask: which leaves decay, as in `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes for each element.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.dog(init_step=("distance", 0.1))
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(params, opt.init(params), params)[0])  # -0.1 * g / |g|
      [-0.06 -0.08]

    References:
      Ivgi, Hinder & Carmon (2023), "DoG is SGD's best friend".
    """
    return _descend(scale_by_dog(init_step, eps), learning_rate, weight_decay, mask)


@checked()
def l_dog(
    learning_rate: Any = 1.0,
    init_step: tuple[str, Any] = ("heuristic", 1e-6),
    eps: Any = 1e-8,
    weight_decay: Any = None,
    mask: Any = None,
) -> Optimizer:
    """Descend as `dog` does, each parameter with distance, norms and step size of its own.

    Good for: as `dog`, for networks whose layers move differently.

    Args:
      learning_rate: see `dog`, also a prefix tree, like all numbers here.
      init_step: see `dog`.
      eps: see `dog`.
      weight_decay: see `dog`.
      mask: see `dog`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes for each element.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.l_dog(init_step=("distance", 0.1))
      >>> params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}
      >>> print(opt.update(params, opt.init(params), params)[0]["b"])
      [-0.1]
    """
    return _descend(scale_by_l_dog(init_step, eps), learning_rate, weight_decay, mask)


@checked(init_estim_sq_dist=POSITIVE)
def dowg(
    learning_rate: Any = 1.0,
    init_estim_sq_dist: Any = None,
    eps: Any = 1e-4,
    weight_decay: Any = None,
    mask: Any = None,
) -> Optimizer:
    """Descend as `dog` does, with gradients that weigh by the squared distance at their time.

    Good for: as `dog`, where distances grow during training.

    R = max(R, |param - start|^2);  v += R |g|^2;
    update = -learning_rate * R / (sqrt(v) + eps) * g

    Args:
      learning_rate: see `dog`.
      init_estim_sq_dist: R at first, > 0; None is `eps`.
      eps: added to the root, >= 0.
      weight_decay: see `dog`.
      mask: see `dog`.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes for each element.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.dowg()
      >>> params = jnp.array([3.0, 4.0])
      >>> state = opt.init(params)
      >>> for _ in range(40):
      ...     updates, state = opt.update(params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(jnp.abs(params).max() < 0.1))
      True

    References:
      Khaled, Mishchenko & Jin (2023), "DoWG unleashed".
    """
    return _descend(scale_by_dowg(init_estim_sq_dist, eps), learning_rate, weight_decay, mask)
