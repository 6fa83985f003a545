"""Keep updates from being too small for their weights, and weights from growing.

From the records of modded-nanogpt's track 3 (results 9, 29 and 46 of
https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization).
Records -> here: u/w floor and RowFloor -> update_floor, radial brake (RADIAL_OUTWARD_SCALE,
RADIAL_INWARD_SCALE) -> radial_brake, rescale to radius -> pin_radius, W -> the parameter.
Deviations: u is what is added to W, there -u times the learning rate.
"""

from __future__ import annotations

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.lift import leafwise
from gdjax.core.numerics import abs_sq, safe_divide, safe_sqrt
from gdjax.core.trees import inner_product
from gdjax.core.types import Hyperparam
from gdjax.transforms.adaptive_clip import Axes, unitwise_norm


def _norm(x):
    return safe_sqrt(jnp.sum(abs_sq(x)))


def _update_floor(update, slots, param, count, *, ratio, min_norm, per_unit, axis):
    if param.ndim < 2:
        return update, slots
    weight, size = (unitwise_norm(x, axis) if per_unit else _norm(x) for x in (param, update))
    factor = safe_divide(ratio * jnp.maximum(weight, min_norm), size)
    return update * jnp.maximum(factor, 1), slots


def _radial_brake(update, slots, param, count, *, outward, inward):
    if param.ndim < 2:
        return update, slots
    along = safe_divide(inner_product(update, param), jnp.sum(abs_sq(param)))
    return update + (jnp.where(along > 0, outward, inward) - 1) * along * param, slots


def _pin_radius(update, slots, param, count):
    if param.ndim < 2:
        return update, slots
    before, after = _norm(param), _norm(param + update)
    radius = jnp.abs(before + safe_divide(inner_product(update, param), before))
    pinned = safe_divide(radius, after) * (param + update) - param
    known = (before > 0) & (after > 0) & jnp.isfinite(before) & jnp.isfinite(after)
    return jnp.where(known, pinned, update), slots


@checked(ratio=NONNEGATIVE, min_norm=NONNEGATIVE)
def update_floor(
    ratio: Hyperparam,
    min_norm: Hyperparam = 0.0,
    *,
    per_unit: bool = True,
    axis: Axes = None,
) -> Optimizer:
    r"""Scale each unit's update up to at least `ratio` times the norm of its weights.

    For each unit, such as the weights into one neuron, or each whole array:

    .. math::

       u \leftarrow u\, \max\left( 1,\; \frac{\rho\, \max(\lVert W \rVert, s)}{\lVert u \rVert}
       \right)

    Zero updates stay as they are, and so do those whose norm underflows, below about 1e-19 in
    float32, and arrays of fewer than two dimensions. It is the counterpart of `adaptive_grad_clip`.
    As the weights grow, so does the floor, and the angle of a step has a lower bound: it is used
    without weight decay.

    Evidence: authors only. In modded-nanogpt's track 3, 0.35 for whole arrays, before the learning
    rate, is part of result 9 (NorMuon, 3250 steps), and 0.3825 for units, in place of whole arrays,
    is estimated to save 18 of 2704 steps (result 46, https://github.com/KellerJordan/modded-nanogpt).

    Args:
      ratio: :math:`\rho` >= 0: a number, schedule or prefix tree. Between a direction and
        `scale_by_learning_rate` it is free of the learning rate, as in the records; for the updates
        of a whole optimizer it is the least angle of a step in radians, the records' ratio times
        the learning rate.
      min_norm: :math:`s` >= 0, lower bound of the norm of the weights, so that weights at zero have
        a floor, too.
      per_unit: whether each unit has a floor of its own, or else each array.
      axis: the axes that one unit spans; see `unitwise_norm`.

    Returns:
      An `Optimizer` without slots; its `update` needs the parameters.

    Raises:
      ValueError: if a concrete number is out of range; for `axis` without `per_unit`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.update_floor(0.1)
      >>> params = jnp.array([[3.0, 0.3], [4.0, 0.4]])  # units of norm 5 and 0.5
      >>> print(opt.update(jnp.full((2, 2), 0.3), opt.init(params), params)[0].round(3))
      [[0.354 0.3  ]
       [0.354 0.3  ]]
    """
    if axis is not None and not per_unit:
        raise ValueError("update_floor(axis=...) says what a unit is: it needs per_unit=True.")
    axis = tuple(axis) if isinstance(axis, list) else axis
    numbers = dict(ratio=ratio, min_norm=min_norm)
    return leafwise(_update_floor, None, numbers, needs_params=True, per_unit=per_unit, axis=axis)


@checked(outward=NONNEGATIVE, inward=NONNEGATIVE)
def radial_brake(outward: Hyperparam = 0.5, inward: Hyperparam = 1.0) -> Optimizer:
    r"""Scale the part of each update that changes the norm of its weights.

    An update is the sum of a part along its weights, :math:`a W`, and one at right angles to them:

    .. math::

       a = \frac{\langle u, W \rangle}{\lVert W \rVert^2}, \qquad
       u \leftarrow u + (s - 1)\, a W, \qquad
       s = \begin{cases} s_{\text{out}} & \text{if } a > 0 \\ s_{\text{in}} & \text{else}
       \end{cases}

    Norms and products are those of whole arrays; arrays of fewer than two dimensions are left as
    they are. It comes after the learning rate: between a direction, which points uphill, and
    `scale_by_learning_rate` exchange the two numbers. The step at right angles still lengthens the
    weights, by its square; `pin_radius` removes this.

    .. code-block:: python

       gdjax.chain(gdjax.muon(rate), gdjax.radial_brake(), gdjax.update_floor(floor),
                   gdjax.pin_radius())

    Evidence: authors only. With `pin_radius` it takes modded-nanogpt's track 3 from 3030 to 2990
    steps (results 20 and 29, https://github.com/KellerJordan/modded-nanogpt); the records after
    them, by others, keep it.

    Differences: AdamP (https://arxiv.org/abs/2006.08217) removes both directions, for some arrays.

    Args:
      outward: :math:`s_{\text{out}}` >= 0, factor of what lengthens the weights: a number, schedule
        or prefix tree.
      inward: :math:`s_{\text{in}}` >= 0, factor of what shortens them.

    Returns:
      An `Optimizer` without slots; its `update` needs the parameters.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.radial_brake()
      >>> params = jnp.array([[2.0, 0.0]])
      >>> print(opt.update(jnp.array([[1.0, 3.0]]), opt.init(params), params)[0])
      [[0.5 3. ]]
    """
    numbers = dict(outward=outward, inward=inward)
    return leafwise(_radial_brake, None, numbers, needs_params=True)


def pin_radius() -> Optimizer:
    r"""Give the weights after the step the norm that its part along them leads to.

    .. math::

       r = \left\lvert \lVert W \rVert + \frac{\langle u, W \rangle}{\lVert W \rVert}
       \right\rvert, \qquad
       u \leftarrow r\, \frac{W + u}{\lVert W + u \rVert} - W

    Without it a step at right angles to the weights lengthens them, by :math:`\lVert u \rVert^2 / 2
    \lVert W \rVert` to first order. Norms are those of whole arrays; arrays of fewer than two
    dimensions, weights at zero, and updates whose norm overflows are left as they are. Nothing may
    change the updates after it.

    Evidence: authors only. It is measured with `radial_brake` only (result 29 of track 3,
    https://github.com/KellerJordan/modded-nanogpt).

    Returns:
      An `Optimizer` without slots; its `update` needs the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.pin_radius()
      >>> params = jnp.array([[3.0, 4.0]])
      >>> updates, _ = opt.update(jnp.array([[-4.0, 3.0]]), opt.init(params), params)
      >>> print(jnp.linalg.norm(params + updates))
      5.0
    """
    return leafwise(_pin_radius, needs_params=True)
