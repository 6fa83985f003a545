"""The ascent of sharpness-aware minimization: a step of fixed length along the gradient.

SAM: Foret, Kleiner, Mobahi & Neyshabur (2020), equation 2, https://arxiv.org/abs/2010.01412
ASAM: Kwon, Kim, Park & Choi (2021), Algorithm 1, https://arxiv.org/abs/2102.11600
Paper -> here: rho -> rho, w -> the parameters, T_w -> |param| + eta.
Deviations: a zero gradient gives a zero step.
"""

from __future__ import annotations

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import treewise
from gdjax.core.trees import magnitude, map_leaves
from gdjax.core.types import Scalar
from gdjax.transforms.normalize import unit_length


def _stretched(grad, param, eta):
    return (magnitude(param) + eta) * grad


def _sam_adversary(grads, slots, params, count, *, rho, eta, adaptive):
    if not adaptive:
        return unit_length(grads, -rho), slots
    if params is None:
        raise ValueError(f"sam_adversary(adaptive=True) needs {NEEDS_PARAMS}")
    (stretched,) = map_leaves(_stretched, 1, (grads, params), eta)
    return map_leaves(_stretched, 1, (unit_length(stretched, -rho), params), eta)[0], slots


@checked(rho=NONNEGATIVE, eta=NONNEGATIVE)
def sam_adversary(rho: Scalar = 0.05, *, adaptive: bool = False, eta: Scalar = 0.01) -> Optimizer:
    r"""Step against the gradient by a fixed length; `sam` ascends by the negative of it.

    The update is, and in the second line for ASAM,

    .. math::

       u &= -\rho\, \frac{g}{\lVert g \rVert} \\
       u &= -\rho\, \frac{T^2 g}{\lVert T g \rVert}, \qquad T = |x| + \eta

    with norms over the whole tree.

    Args:
      rho: :math:`\rho` >= 0, length of the step: one number or schedule, as for `eta`. For ASAM
        about ten times that for SAM.
      adaptive: whether lengths are measured relative to the parameters (ASAM).
      eta: :math:`\eta` >= 0, added to the parameters' magnitude; for ASAM only.

    Returns:
      An `Optimizer` without slots.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.sam_adversary(0.5)
      >>> print(opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.ones(2)))[0])
      [-0.3 -0.4]
    """
    return treewise(_sam_adversary, hyperparams=dict(rho=rho, eta=eta), adaptive=adaptive)
