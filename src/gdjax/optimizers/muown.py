"""Muown: Adam on the norm of each neuron's weights, Muon on their direction.

Lion, Huebler, Li, Orvieto & He (2026), https://arxiv.org/abs/2605.10797, as in the authors' code,
https://github.com/kcc-lion/muown; `angular`: Huebler, Lion, Orvieto & He (2026),
https://arxiv.org/abs/2606.23637.
There -> here: g -> the norm of a column of the parameter, v_norm -> norms, m_v -> mu, m_g ->
magnitude_mu, v_g -> nu, momentum -> beta, betas -> b1 and b2. Deviations: a neuron's weights are a
column here, where kernels are (fan_in, fan_out). Norms are those of the parameter in each step, not
a variable of the state; where the authors' g becomes negative, a column and its moments change
their signs here, which gives the same steps. A column of zeros, which has no direction, takes
Muon's step.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.dealing import Devices
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.numerics import (
    abs_sq,
    bias_correction,
    compute_dtype,
    real_dtype,
    safe_divide,
    safe_sqrt,
)
from gdjax.core.placement import zeros_along
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.linalg.matrices import Axes, MatrixSpec
from gdjax.linalg.polar import Coefficients, Preconditioning
from gdjax.optimizers.shared.orthogonal import (
    RANGES,
    Nesterov,
    Scale,
    adam_step,
    branch_of,
    momentum,
    orthogonalized,
    scaled,
)


class Magnitudes(NamedTuple):
    """What Muown remembers of one parameter."""

    mu: Array  # momentum of a matrix's direction, Adam's mean of others, shaped like the parameter
    nu: Array  # mean square of the slopes in the norms [*batch, n]; of others Adam's mean square
    magnitude_mu: Array | None  # mean of the slopes in the norms [*batch, n]
    norms: Array | None  # of the columns of the direction before it is normalized [*batch, n]
    axes: Axes | None  # which axes make matrices (static, no bytes); None for a parameter of Adam

    def branch(self, hyperparams: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return whether a parameter is a matrix or one of Adam, with the numbers of that."""
        return branch_of(self.axes, self.nu, hyperparams)


def _slope(grad, slots, param, count, *, beta, b1, b2, nesterov, **rest):
    """Return the momentum of the slope in the direction, and learn the slope in the norms."""
    if slots.axes is None:
        return grad, slots
    if param is None:
        raise ValueError(f"muown needs {NEEDS_PARAMS}")
    axes = slots.axes
    g, unit, length = _polar_coordinates(param, axes, slots.norms)
    grads = axes.matrices(grad)
    slope = jnp.sum((grads * unit.conj()).real, -2)
    across = safe_divide(g, length)[..., None, :] * (grads - unit * slope[..., None, :])
    across = axes.array(jnp.where(g[..., None, :] > 0, across, grads), grad)
    ahead, slots = momentum(across, slots, param, count, beta=beta, nesterov=nesterov)
    mean = b1 * slots.magnitude_mu + (1 - b1) * slope
    return ahead, slots._replace(magnitude_mu=mean, nu=b2 * slots.nu + (1 - b2) * slope**2)


def _muown(
    o, slots, param, count, *, learning_rate, weight_decay, b1, b2, eps, consistent_rms, scale,
    angular, nesterov, **rest
):  # fmt: skip
    if slots.axes is None:
        numbers = dict(learning_rate=learning_rate, eps=eps, nesterov=nesterov)
        return adam_step("muown", o, slots, param, count, **numbers, **rest)
    axes = slots.axes
    g, unit, length = _polar_coordinates(param, axes, slots.norms)
    along = axes.matrices(scaled(o, axes, scale, consistent_rms))
    along = along if angular is None else angular * along
    direction = length[..., None, :] * unit - learning_rate * along
    norms = _norms(direction)
    mean = slots.magnitude_mu / bias_correction(b1, count)
    step = safe_divide(mean, safe_sqrt(slots.nu / bias_correction(b2, count)) + eps)
    new = jnp.where(g > 0, g - learning_rate * step, norms)
    sign = jnp.where(new < 0, -1, 1).astype(new.dtype)
    update = safe_divide(new, norms)[..., None, :] * direction - axes.matrices(param)
    update = axes.array(update, param)
    if weight_decay is not None:
        update = update - learning_rate * weight_decay * param
    slots = slots._replace(
        mu=axes.array(axes.matrices(slots.mu) * sign[..., None, :], param),
        magnitude_mu=slots.magnitude_mu * sign,
        norms=None if slots.norms is None else norms,
    )
    return update, slots


def _polar_coordinates(
    param: Array, axes: Axes, lengths: Array | None
) -> tuple[Array, Array, Array]:
    """Return the norms of the columns, unit columns, and the norms of the directions before."""
    columns = axes.matrices(param)
    g = _norms(columns)
    length = jnp.ones_like(g) if lengths is None else jnp.where(lengths > 0, lengths, g)
    return g, safe_divide(columns, g[..., None, :]), length


def _norms(columns: Array) -> Array:
    return safe_sqrt(jnp.sum(abs_sq(columns), -2))


def _slots(
    param: Array, axes: Axes | None, index: int, mu_dtype: FloatDType, spherical: bool
) -> Magnitudes:
    dtype = compute_dtype(param)
    mu = jnp.zeros_like(param, dtype=mu_dtype or dtype)
    if axes is None:
        nu = jnp.zeros_like(param, dtype=real_dtype(dtype))
        return Magnitudes(mu, nu, None, None, None)
    *batch, _, n = axes.shape(param)
    *places, _, column = axes.along

    def zeros() -> Array:
        return zeros_along(param, (*batch, n), (*places, column), real_dtype(dtype))

    return Magnitudes(mu, zeros(), zeros(), None if spherical else zeros(), axes)


@checked(**RANGES, angular=NONNEGATIVE._replace(optional=True))
def muown(
    learning_rate: Hyperparam,
    ns_coeffs: Coefficients = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: FloatDType = None,
    *,
    nesterov: Nesterov = True,
    angular: Hyperparam | None = None,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.999,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam | None = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    muon_weight_dimension_numbers: MatrixSpec = None,
    consistent_rms: Hyperparam | None = 0.2,
    scale: Scale | None = "width",
    ns_dtype: FloatDType = None,
    mesh: Devices = None,
) -> Optimizer:
    r"""Descend by Adam in the norm of each neuron's weights, and by Muon in their direction.

    Good for: hidden matrices of transformers without weight decay, at AdamW's learning rates.

    Evidence: authors only. Lower perplexity than Muon, SOAP and AdamW for GPT models of 124 million
    to 2.7 billion parameters (Lion et al. 2026, arXiv 2605.10797); 3075 steps in modded-nanogpt's
    track 3, with a schedule of its own, where a tuned Muon takes 3250 (results 23 and 36,
    https://github.com/KellerJordan/modded-nanogpt).

    Each column :math:`x` of a matrix, the weights of one output neuron, is
    :math:`\gamma\, v / \lVert v \rVert`. With :math:`u = v_{t-1} / \lVert v_{t-1} \rVert`, for all
    columns:

    .. math::

       s_t &= \langle g_t, u \rangle \\
       h_t &= \frac{\gamma_{t-1}}{\lVert v_{t-1} \rVert} (g_t - s_t u) \\
       m_t &= \beta m_{t-1} + (1 - \beta) h_t \\
       O_t &= \operatorname{polar}(\beta m_t + (1 - \beta) h_t) \\
       v_t &= v_{t-1} - \eta_t\, c\, O_t \\
       \gamma_t &= \gamma_{t-1} - \eta_t \operatorname{Adam}(s_t) \\
       x_t &= \gamma_t \frac{v_t}{\lVert v_t \rVert} - \eta_t \lambda x_{t-1}

    Here :math:`s_t` and :math:`h_t` are the derivatives in :math:`\gamma` and :math:`v`, the matrix
    :math:`h_t` has all columns, and :math:`c` is the scale of `muon`. Adam's steps are bounded for
    each norm by itself, as suits the largest of them, which the spectral norm depends on. At first
    :math:`v_0 = x_0`; then :math:`\lVert v_t \rVert` grows, so that the angles of the steps become
    smaller. The other parameters are updated by Adam, as in `muon`.

    Differences: the authors' code keeps the norms in the state. Here they are read from the
    parameter, so that decay and projections by other transforms act on them. A column of zeros
    takes the step :math:`-\eta_t c O_t`; in the code it becomes NaN, or has the norm 0.57 after one
    step in the submission to modded-nanogpt. The code cuts a matrix of three times as many outputs
    as inputs in three; here this is `splits=3`, see `muon`. The authors' experiments are without
    weight decay.

    Args:
      learning_rate: see `muon`, like all arguments that are not named here. One for norms and
        directions; 1e-3 in the authors' experiments.
      ns_coeffs: see `muon`.
      ns_steps: see `muon`.
      beta: see `muon`.
      b1: decay of the mean of the slopes :math:`s_t`, in [0, 1).
      b2: decay of their mean square, in [0, 1).
      eps: added to the norm of a matrix and to the roots in Adam, >= 0.
      weight_decay: see `muon`.
      weight_decay_mask: see `muon`.
      mu_dtype: see `muon`.
      nesterov: see `muon`.
      angular: None, or a factor >= 0 of the steps of the direction; then :math:`v` is normalized
        after each step, so that angles do not become smaller by themselves (AngularMuown). Its
        authors take `scale="width"` with `consistent_rms=None`, and
        :math:`1 / (1 + 0.001\, t)` after warm-up, as a schedule.
      preconditioning: see `muon`.
      adam_b1: see `muon`.
      adam_b2: see `muon`.
      adam_eps_root: see `muon`.
      adam_weight_decay: see `muon`.
      adam_learning_rate: see `muon`.
      muon_weight_dimension_numbers: see `muon`.
      consistent_rms: see `muon`; 0.2 is the authors'.
      scale: see `muon`.
      ns_dtype: see `muon`.
      mesh: see `muon`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes per element of a matrix and 12 for each of its outputs, 8 of the rest.

    Raises:
      ValueError: as `muon`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.muown(0.1)
      >>> params = jnp.array([[3.0, 0.0], [0.0, 2.0]])
      >>> grads = jnp.array([[1.0, 0.5], [0.0, 0.0]])  # along the first column, across the second
      >>> updates, state = opt.update(grads, opt.init(params), params)
      >>> params = gdjax.apply_updates(params, updates)
      >>> print(jnp.linalg.norm(params, axis=0).round(3))
      [2.9 2. ]

    References:
      Lion et al. (2026), "Muown: row-norm control for Muon optimization".
      Huebler et al. (2026), "Muown implicitly performs angular step-size decay".
    """
    return orthogonalized(
        _muown,
        locals(),
        name="muown",
        slots=functools.partial(_slots, mu_dtype=mu_dtype, spherical=angular is not None),
        first=_slope,
        kind=Magnitudes,
        nesterov=nesterov,
        scale=scale,
    )
