"""Distance over gradients: the step size is the distance from the start over the gradients' norm.

DoG and L-DoG: Ivgi, Hinder & Carmon (2023), eq. 2 and section 3.3, https://arxiv.org/abs/2302.12022
DoWG: Khaled, Mishchenko & Jin (2023), Algorithm 1, https://arxiv.org/abs/2305.16284
Paper -> here: r bar -> max_dist, G (DoG) or v (DoWG) -> sum_sq, x_0 -> start, r_eps -> init_step.
Deviations: none. Both papers evaluate at an average: `gdjax.polynomial_average(gdjax.dog())`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import chain
from gdjax.core.checks import FINITE, POSITIVE, called, check_choice, check_range, checked
from gdjax.core.lift import leafwise, treewise
from gdjax.core.numerics import abs_sq, compute_dtype, real_dtype, safe_sqrt
from gdjax.core.trees import copied, map_leaves, sum_sq, times, total, zero
from gdjax.core.types import FloatDType, Hyperparam, Mask, Params, Scalar
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scale import scale_by_learning_rate

INIT_STEPS = ("distance", "heuristic", "learning_rate")


class Dog(NamedTuple):
    """What DoG remembers of the whole tree, L-DoG of one parameter."""

    start: Params  # x_0, the first parameters, shaped like them
    max_dist: Array  # r bar, the largest distance from them so far; a number, like the next
    sum_sq: Array  # G, sum of the squared norms of the gradients

    iterates = ("start",)


class Dowg(NamedTuple):
    """What DoWG remembers."""

    start: Params  # x_0, as above
    sq_dist: Array  # r bar^2, the largest squared distance so far; a number, like the next
    sum_sq: Array  # v, sum of the squared norms of the gradients, weighted by r bar^2

    iterates = ("start",)


def _dog(grads, slots, params, count, *, init_step, eps, kind):
    """Scale the gradients of a tree, or for L-DoG of one array."""
    first = first_distance(kind, init_step, slots.start)
    dist = safe_sqrt(_distance_sq(params, slots.start))
    max_dist = jnp.maximum(jnp.where(count == 1, first, slots.max_dist), dist)
    norms_sq = slots.sum_sq + sum_sq(grads)
    eta = _ratio(max_dist, safe_sqrt(norms_sq + eps))
    if kind == "learning_rate":
        eta = jnp.where(count == 1, init_step, eta)
    return times(grads, eta), Dog(slots.start, max_dist, norms_sq)


def first_distance(kind: str, init_step: Array, start: Params) -> Array:
    """Return r_0 for the first parameters, a tree or an array; see `dog`."""
    if kind == "heuristic":
        return init_step * (1 + safe_sqrt(sum_sq(start)))
    return jnp.zeros_like(init_step) if kind == "learning_rate" else init_step


def _distance_over_gradients(grad, slots, param, count, *, reps_rel, eps, global_scale):
    out, new = _dog(grad, slots, param, count, init_step=reps_rel, eps=eps, kind="heuristic")
    return global_scale * out, new


def _dowg(grads, slots, params, count, *, init_estim_sq_dist, eps):
    first = eps if init_estim_sq_dist is None else init_estim_sq_dist
    sq_dist = _distance_sq(params, slots.start)
    largest = jnp.maximum(jnp.where(count == 1, first, slots.sq_dist), sq_dist)
    weighted = slots.sum_sq + largest * sum_sq(grads)
    eta = _ratio(largest, safe_sqrt(weighted) + eps)
    return times(grads, eta), Dowg(slots.start, largest, weighted)


def _distance_sq(params: Params, start: Params) -> Array:
    return total(*map_leaves(_leaf_distance_sq, 1, (params, start)))


def _leaf_distance_sq(param, start):
    return jnp.sum(abs_sq(param - start))


def _ratio(top: Array, bottom: Array) -> Array:
    return jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1), 0)


def _fresh(params: Params) -> Dog:
    return Dog(copied(params), zero(), zero())


def _fresh_leaf(param: Array, param_dtype: FloatDType = None) -> Dog:
    dtype = None if jnp.iscomplexobj(param) else param_dtype
    zeros = (jnp.zeros((), real_dtype(compute_dtype(param))) for _ in range(2))
    return Dog(copied(param, dtype), *zeros)


def _fresh_dowg(params: Params) -> Dowg:
    return Dowg(copied(params), zero(), zero())


def _check_init_step(init_step: Any) -> None:
    try:
        kind, value = init_step
    except (TypeError, ValueError):
        kind, value = init_step, None
    what = f"{called('dog')}(init_step=...)"
    check_choice(f"{what}[0]", kind, INIT_STEPS)
    check_range(f"{what}[1]", value, POSITIVE)


def _descend(
    scaling: Optimizer, learning_rate: Hyperparam, weight_decay: Hyperparam | None, mask: Mask
) -> Optimizer:
    parts = [scaling, scale_by_learning_rate(learning_rate)]
    if weight_decay is not None:
        parts.insert(0, add_decayed_weights(weight_decay, mask))
    return chain(*parts)


@checked()
def scale_by_dog(
    init_step: tuple[str, Scalar] = ("heuristic", 1e-6), eps: Scalar = 1e-8
) -> Optimizer:
    """Scale the gradient by DoG's step size; arguments and equations as in `dog`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_dog(("learning_rate", 0.1))
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(params, opt.init(params), params)[0])
      [0.3 0.4]
    """
    _check_init_step(init_step)
    kind, value = init_step
    return treewise(_dog, _fresh, dict(init_step=value, eps=eps), needs_params=True, kind=kind)


@checked()
def scale_by_l_dog(
    init_step: tuple[str, Hyperparam] = ("heuristic", 1e-6), eps: Hyperparam = 1e-8
) -> Optimizer:
    """Scale each parameter's gradient by its own step size; arguments and equations as in `l_dog`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_l_dog(("distance", 0.1))
      >>> params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}
      >>> print(opt.update(params, opt.init(params), params)[0]["b"])  # 0.1 / |b| * b
      [0.1]
    """
    _check_init_step(init_step)
    kind, value = init_step
    return leafwise(_dog, _fresh_leaf, dict(init_step=value, eps=eps), needs_params=True, kind=kind)


@checked(reps_rel=POSITIVE, global_scale=FINITE)
def scale_by_distance_over_gradients(
    reps_rel: Hyperparam = 1e-6,
    eps: Hyperparam = 1e-8,
    param_dtype: FloatDType = jnp.float32,
    global_scale: Hyperparam = 1.0,
) -> Optimizer:
    r"""Scale the gradient of each parameter by a step size of its own, with optax's arguments.

    It is `scale_by_l_dog(("heuristic", reps_rel), eps)` times `global_scale`. With the distance
    :math:`\bar r_t` and the sum :math:`G_t` of `dog`, separately for each parameter array:

    .. math::

       d_t = \gamma \frac{\bar r_t}{\sqrt{G_t + \epsilon}} g_t,
             \quad \bar r_0 = r (1 + \|x_0\|)

    Args:
      reps_rel: :math:`r`, the first distance > 0, relative: 1e-4 with batch normalization, else
        1e-6; only the first update uses it. It and the other numbers may be schedules or prefix
        trees.
      eps: :math:`\epsilon`, added to the sum, >= 0.
      param_dtype: dtype in which the first parameters are kept.
      global_scale: :math:`\gamma`, -1 to descend.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element, :math:`x_0` (`start`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_distance_over_gradients(reps_rel=0.1, global_scale=-1.0)
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(jnp.array([0.0, 9.0]), opt.init(params), params)[0])
      [-0.  -0.6]
    """
    numbers = dict(reps_rel=reps_rel, eps=eps, global_scale=global_scale)
    slots = functools.partial(_fresh_leaf, param_dtype=param_dtype)
    return leafwise(_distance_over_gradients, slots, numbers, needs_params=True)


@checked(init_estim_sq_dist=POSITIVE)
def scale_by_dowg(init_estim_sq_dist: Scalar | None = None, eps: Scalar = 1e-4) -> Optimizer:
    """Scale the gradient by DoWG's step size; arguments and equations as in `dowg`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_dowg()
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(params, opt.init(params), params)[0])  # 1e-4 / (0.01 * 5 + 1e-4) * g
      [0.006 0.008]
    """
    numbers = dict(init_estim_sq_dist=init_estim_sq_dist, eps=eps)
    return treewise(_dowg, _fresh_dowg, numbers, needs_params=True)


@checked()
def dog(
    learning_rate: Hyperparam = 1.0,
    init_step: tuple[str, Scalar] = ("heuristic", 1e-6),
    eps: Scalar = 1e-8,
    weight_decay: Hyperparam | None = None,
    mask: Mask = None,
) -> Optimizer:
    r"""Descend by the largest distance travelled over the root of the summed squared gradients.

    Good for: fine-tuning without a learning rate to tune.

    Evidence: authors only. In transfer learning it is close to SGD with a tuned rate (Ivgi et al.
    2023, arXiv 2302.12022).

    .. math::

       \bar r_t &= \max(\bar r_{t-1}, \|x_{t-1} - x_0\|), \quad \bar r_0 = r_\epsilon \\
       G_t &= G_{t-1} + \|g_t\|^2 \\
       x_t &= x_{t-1} - \eta_t \frac{\bar r_t}{\sqrt{G_t + \epsilon}} g_t

    The norms are over all parameters together.

    The authors evaluate at an average of the parameters, which they call essential:
    `gdjax.polynomial_average(gdjax.dog())` and `gdjax.eval_params`.

    For parameters of bfloat16 or float16 use `gdjax.with_master_weights(gdjax.dog())`. The first
    steps are a millionth of the parameters, with the default `init_step`, and are rounded to
    nothing without it; then the distance, and the step, never grow.

    Args:
      learning_rate: :math:`\eta_t`, factor of the step size, >= 0, usually 1: a number, schedule or
        prefix tree.
      init_step: ("distance", :math:`r_\epsilon`), ("heuristic", a) for
        :math:`r_\epsilon = a (1 + \|x_0\|)`, or ("learning_rate", step size of the first update),
        all > 0. a = 1e-6, or 1e-4 with batch norms. The number is the hyperparameter `init_step`;
        only the first update uses it.
      eps: :math:`\epsilon`, added to the sum, >= 0.
      weight_decay: :math:`\lambda`, strength of an L2 decay, >= 0: :math:`\lambda x_{t-1}` is added
        to the gradient and so enters :math:`G_t`; a number, schedule or prefix tree; None is none.
      mask: which leaves decay, as in `adamw`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element, :math:`x_0` (`start`), and the numbers :math:`\bar r_t`
      (`max_dist`) and :math:`G_t` (`sum_sq`).

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.dog(init_step=("distance", 0.1))
      >>> params = jnp.array([3.0, 4.0])
      >>> print(opt.update(params, opt.init(params), params)[0])  # -0.1 * g / |g|
      [-0.06 -0.08]

    References:
      Ivgi, Hinder & Carmon (2023), "DoG is SGD's best friend: a parameter-free dynamic step size
      schedule", eq. 2.
    """
    return _descend(scale_by_dog(init_step, eps), learning_rate, weight_decay, mask)


@checked()
def l_dog(
    learning_rate: Hyperparam = 1.0,
    init_step: tuple[str, Hyperparam] = ("heuristic", 1e-6),
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = None,
    mask: Mask = None,
) -> Optimizer:
    r"""Descend as `dog` does, with a separate distance, sum and step size for each parameter.

    Good for: as `dog`, for networks whose layers move at different speeds.

    Evidence: authors only. In transfer learning it approaches tuned Adam (Ivgi et al. 2023, arXiv
    2302.12022).

    The equations are those of `dog`, with norms over one parameter array :math:`l` instead of all:

    .. math::

       x_t^{(l)} = x_{t-1}^{(l)}
                   - \eta_t \frac{\bar r_t^{(l)}}{\sqrt{G_t^{(l)} + \epsilon}} g_t^{(l)}

    Args:
      learning_rate: :math:`\eta_t`, see `dog`; all numbers may be prefix trees.
      init_step: see `dog`.
      eps: :math:`\epsilon` >= 0, see `dog`.
      weight_decay: :math:`\lambda` >= 0, see `dog`.
      mask: see `dog`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element, as in `dog`, and two numbers for each array.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.l_dog(init_step=("distance", 0.1))
      >>> params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}
      >>> print(opt.update(params, opt.init(params), params)[0]["b"])
      [-0.1]

    References:
      Ivgi, Hinder & Carmon (2023), as for `dog`, section 3.3.
    """
    return _descend(scale_by_l_dog(init_step, eps), learning_rate, weight_decay, mask)


@checked(init_estim_sq_dist=POSITIVE)
def dowg(
    learning_rate: Hyperparam = 1.0,
    init_estim_sq_dist: Scalar | None = None,
    eps: Scalar = 1e-4,
    weight_decay: Hyperparam | None = None,
    mask: Mask = None,
) -> Optimizer:
    r"""Descend as `dog` does, with squared gradients weighted by the squared distances.

    Good for: as `dog`, if the distance grows during training.

    Evidence: authors only. Khaled et al. 2023, arXiv 2305.16284.

    .. math::

       \bar r_t &= \max(\bar r_{t-1}, \|x_{t-1} - x_0\|) \\
       v_t &= v_{t-1} + \bar r_t^2 \|g_t\|^2 \\
       x_t &= x_{t-1} - \eta_t \frac{\bar r_t^2}{\sqrt{v_t} + \epsilon} g_t

    Args:
      learning_rate: :math:`\eta_t`, see `dog`.
      init_estim_sq_dist: :math:`\bar r_0^2` > 0; None is `eps`.
      eps: :math:`\epsilon`, added to the root, >= 0.
      weight_decay: :math:`\lambda` >= 0, see `dog`.
      mask: see `dog`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element, :math:`x_0` (`start`), and the numbers :math:`\bar r_t^2`
      (`sq_dist`) and :math:`v_t` (`sum_sq`).

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
      Khaled, Mishchenko & Jin (2023), "DoWG unleashed: an efficient universal parameter-free
      gradient descent method", Algorithm 1.
    """
    return _descend(scale_by_dowg(init_estim_sq_dist, eps), learning_rate, weight_decay, mask)
