"""Hyperball: keep the norm of each matrix, and rotate it by a fixed angle.

Wen et al. (2026), https://arxiv.org/abs/2606.16899
Transfer of the angle: Ren et al. (2026), https://arxiv.org/abs/2603.28743, and their code,
https://github.com/microsoft/ArchScale
Paper -> here: W -> the parameter, R -> radius, eta -> learning_rate. Deviations: none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import FINITE, POSITIVE, checked, strict
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.lift import mask_leaves, treewise
from gdjax.core.numerics import abs_sq, cast_like, safe_sqrt, upcast
from gdjax.core.trees import derived, map_leaves
from gdjax.core.types import Mask, Number, OptState, Pair, Params, PyTree, Scalar
from gdjax.wrappers.shared.skipping import at_steps


class Hyperball(NamedTuple):
    """What the wrapper remembers."""

    radius: PyTree  # R for each leaf; 0 where the optimizer's own step is taken, None if masked out
    inner: OptState  # state of the optimizer


def _norm(x):
    return safe_sqrt(jnp.sum(abs_sq(upcast(x))))


def _unit(x):
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1)


def _on_sphere(update, param, radius, learning_rate):
    turned = radius * _unit(param + learning_rate * radius * _unit(update))
    return jnp.where(radius > 0, turned - param, update)


def _hyperball(grads, slots, params, count, *, learning_rate, inner, **extra):
    if params is None:
        raise ValueError(f"hyperball needs {NEEDS_PARAMS}")
    updates, state = inner(grads, slots.inner, params, **extra)
    slots = Hyperball(slots.radius, cast_like(state, slots.inner))

    def step():
        leaves, treedef = jax.tree.flatten(updates)
        radii = treedef.flatten_up_to(slots.radius)
        on = [i for i, r in enumerate(radii) if r is not None]
        columns = [[x[i] for i in on] for x in (leaves, treedef.flatten_up_to(params), radii)]
        (turned,) = map_leaves(_on_sphere, 1, columns, learning_rate)
        for i, u in zip(on, turned, strict=True):
            leaves[i] = u
        return treedef.unflatten(leaves), slots

    return at_steps(state, step, (updates, slots))


def _matrices(params):
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


@checked()
def hyperball(optimizer: Pair, learning_rate: Scalar = 0.018, mask: Mask = None) -> Optimizer:
    r"""Take an optimizer's direction only, and keep the norm of each matrix.

    With :math:`U_t` the optimizer's update of a matrix W, and Frobenius norms:

    .. math::

       \tilde W_t &= W_{t-1} + \eta_t\, \lVert W_0 \rVert\,
       \frac{U_t}{\lVert U_t \rVert} \\
       W_t &= \lVert W_0 \rVert\, \frac{\tilde W_t}{\lVert \tilde W_t \rVert}

    The learning rate is, to first order, an angle in radians, for matrices of any size; weight
    decay has no effect. The optimizer's own learning rate is used for the other leaves only.

    Evidence: mixed. In modded-nanogpt's track 3 it saves 750 of 5625 steps of Adam, which its
    README calls undertuned, and none of a tuned Muon's 3250 (results 2, 4, 36 and 37,
    https://github.com/KellerJordan/modded-nanogpt). With the angle transferred from small models it
    needs 1.58 times less compute than Muon at 6e21 FLOP (Ren et al. 2026, arXiv 2603.28743).

    Args:
      optimizer: any `(init, update)` pair, without weight decay: `muon(0.01)` is the paper's MuonH,
        `adam(3e-3)` AdamH.
      learning_rate: :math:`\eta_t` >= 0, the angle of a step: a number or schedule.
      mask: which leaves it is for: a prefix tree of booleans or a function of the parameters that
        gives one. None takes the leaves of two and more dimensions. A leaf that is zero at `init`
        takes the optimizer's own steps.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: a number for each leaf in addition to the optimizer's.

    Raises:
      ValueError: if a concrete number is out of range; if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.hyperball(gdjax.sgd(1.0), 0.1)
      >>> params = jnp.array([[3.0, 4.0]])
      >>> updates, state = opt.update(jnp.array([[-8.0, 6.0]]), opt.init(params), params)
      >>> print(params + updates, jnp.linalg.norm(params + updates).round(3))
      [[3.3831 3.6816]] 5.0

    References:
      Wen et al. (2026), "Fantastic pretraining optimizers and where to find them II: Hyperball
      optimization".
    """
    init, update = with_extra_args_support(optimizer)

    def slots(params: Params) -> Hyperball:
        leaves, treedef = jax.tree.flatten(params)
        on = mask_leaves("hyperball(mask=...)", _matrices if mask is None else mask, params)
        radii = [derived(_norm, x) if used else None for x, used in zip(leaves, on, strict=True)]
        return Hyperball(treedef.unflatten(radii), init(params))

    return treewise(_hyperball, slots, dict(learning_rate=learning_rate), inner=update)


@strict(depth=POSITIVE, batch_size=POSITIVE, tokens=POSITIVE, tokens_exponent=FINITE)
def hyperball_transfer(
    *,
    depth: Number = 1.0,
    batch_size: Number = 1.0,
    tokens: Number = 1.0,
    tokens_exponent: Number = -0.32,
) -> Number:
    r"""Return by what to multiply the angle of `hyperball` for a run that is larger than the tuned.

    With depth L, batch size B and number of tokens T, and those of the tuned run:

    .. math::

       \frac{\eta}{\eta_0} = \sqrt{\frac{L_0}{L}} \sqrt{\frac{B}{B_0}}
       \left( \frac{T}{T_0} \right)^{-0.32}

    These are the rules of Ren et al. for Muon. The width does not occur: a step turns a matrix of
    any size by the same angle. Three conditions belong to them. Each branch of the residual stream
    is multiplied by a constant over :math:`\sqrt L`. The output layer has the initial size that
    `width_scaling(...).init` gives it. Embeddings, the output layer and vectors are left to Adam
    with the rates of `width_scaling`.

    Evidence: authors only. The rule for the depth is derived; the exponent was measured on language
    models, where one angle tuned at the smallest scale served up to 6e21 operations (Ren et al.
    2026, arXiv 2603.28743). The square root of the batch size is in their code, which says that it
    was verified for Muon with `hyperball`.

    Args:
      depth: :math:`L / L_0` > 0, the number of layers relative to that of the tuned run.
      batch_size: :math:`B / B_0` > 0, likewise, in any unit.
      tokens: :math:`T / T_0` > 0, likewise, of the whole run.
      tokens_exponent: the power of that ratio.

    Returns:
      The multiplier of the learning rate, for `times` if that is a schedule.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax
      >>> multiplier = gdjax.hyperball_transfer(depth=24 / 8, tokens=10)
      >>> print(round(0.018 * multiplier, 5))
      0.00497
      >>> schedule = gdjax.wsd_schedule(0.0, 0.018, 0, 800, 200)
      >>> opt = gdjax.hyperball(gdjax.muon(0.01), gdjax.times(schedule, multiplier))

    References:
      Ren et al. (2026), "Rethinking language model scaling under transferable hypersphere
      optimization".
    """
    return batch_size**0.5 / depth**0.5 * tokens**tokens_exponent
