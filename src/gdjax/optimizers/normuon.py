"""NorMuon and AdaMuon: Muon whose polar factor is normalized by a running second moment.

NorMuon: Li et al. (2025), Algorithm 1, https://arxiv.org/abs/2510.05491
AdaMuon: Si et al. (2025), https://arxiv.org/abs/2507.11005
Paper -> here: O -> o, v -> nu, beta_1 -> beta, beta_2 -> b2.
Deviations: NorMuon's mean square is that of each output neuron, which is a column here, where
kernels are (fan_in, fan_out). AdaMuon orthogonalizes the momentum, as its first version and
pytorch-optimizer do, not the sign of it.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.dealing import Devices
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
    Orthogonal,
    Scale,
    only_momentum,
    or_adam,
    orthogonalized,
    scaled,
)


def _normuon(o, slots, count, *, b2, eps, consistent_rms, scale):
    axes = slots.axes
    matrices = axes.matrices(o)
    nu = b2 * slots.nu + (1 - b2) * jnp.mean(abs_sq(matrices), -2)
    normed = axes.array(safe_divide(matrices, (safe_sqrt(nu) + eps)[..., None, :]), o)
    if consistent_rms is None:
        normed = scaled(_with_norms_of(normed, o, axes), axes, scale)
    else:
        normed = _with_rms(normed, axes, consistent_rms)
    return normed, slots._replace(nu=nu)


def _adamuon(o, slots, count, *, b2, eps, consistent_rms):
    nu = b2 * slots.nu + (1 - b2) * abs_sq(o)
    normed = safe_divide(o, safe_sqrt(nu / bias_correction(b2, count)) + eps)
    return _with_rms(normed, slots.axes, consistent_rms), slots._replace(nu=nu)


def _norm(matrix: Array) -> Array:
    return safe_sqrt(jnp.sum(abs_sq(matrix), (-2, -1), keepdims=True))


def _with_rms(o: Array, axes: Axes, rms: Array) -> Array:
    """Return each matrix rescaled to that root mean square; zero stays zero."""

    def one(matrix: Array) -> Array:
        norm, size = _norm(matrix), matrix.shape[-2] * matrix.shape[-1]
        return matrix * (rms * size**0.5 / jnp.where(norm > 0, norm, 1))

    return axes.map(one, o)


def _with_norms_of(o: Array, like: Array, axes: Axes) -> Array:
    """Return each matrix rescaled to the norm of its counterpart; zero stays zero."""
    pairs = zip(axes.pieces(o), axes.pieces(like), strict=True)
    norms = [(x, _norm(x), _norm(y)) for x, y in pairs]
    return axes.joined([x * (b / jnp.where(a > 0, a, 1)) for x, a, b in norms], o)


def _slots(
    param: Array, axes: Axes | None, index: int, mu_dtype: FloatDType, neurons: bool
) -> Orthogonal:
    slots = only_momentum(param, axes, mu_dtype=mu_dtype, adam=True)
    if axes is None:
        return slots
    shape, kept = axes.shape(param), axes.along
    shape, kept = (
        ((*shape[:-2], shape[-1]), (*kept[:-2], kept[-1]))
        if neurons
        else (param.shape, range(param.ndim))
    )
    return slots._replace(nu=zeros_along(param, shape, kept, real_dtype(compute_dtype(param))))


@checked(**RANGES)
def normuon(
    learning_rate: Hyperparam,
    ns_coeffs: Coefficients = "keller",
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: FloatDType = None,
    *,
    nesterov: Nesterov = True,
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
    r"""Run Muon with updates of equal norm for all output neurons.

    Good for: the same as Muon, at almost no additional memory.

    Evidence: mixed. It reaches the target of modded-nanogpt's track 3 in 3250 steps, as many as a
    tuned Muon (results 10 and 36, https://github.com/KellerJordan/modded-nanogpt). Variance
    adaptation made Muon better in another study (Frans et al. 2025, arXiv 2510.25000).

    For a matrix with m inputs and n outputs, and :math:`O_t` the polar factor of `muon`:

    .. math::

       v_t &= \beta_2 v_{t-1} + (1 - \beta_2)
       \operatorname{mean}_{\text{inputs}} |O_t|^2 \\
       N_t &= \frac{O_t}{\sqrt{v_t} + \epsilon} \\
       x_t &= x_{t-1} - \eta_t \left(
       \rho \sqrt{m n}\, \frac{N_t}{\lVert N_t \rVert_F} + \lambda x_{t-1} \right)

    The other parameters are updated by Adam, as in `muon`.

    Differences: Dion's authors keep the norm of :math:`O_t`, which is `consistent_rms=None`.

    Args:
      learning_rate: see `muon`, like all arguments that are not named here.
      ns_coeffs: see `muon`.
      ns_steps: see `muon`.
      beta: see `muon`.
      b2: :math:`\beta_2`, decay of the neurons' mean squares, in [0, 1).
      eps: added to the norm of a matrix, to the root of v and to Adam's, >= 0.
      weight_decay: see `muon`.
      weight_decay_mask: see `muon`.
      mu_dtype: see `muon`.
      nesterov: see `muon`.
      preconditioning: see `muon`.
      adam_b1: see `muon`.
      adam_b2: see `muon`.
      adam_eps_root: see `muon`.
      adam_weight_decay: see `muon`.
      adam_learning_rate: see `muon`.
      muon_weight_dimension_numbers: see `muon`.
      consistent_rms: :math:`\rho` > 0, root mean square of the direction; 0.2 is the paper's. None
        restores the norm of :math:`O_t` and applies ``scale``.
      scale: see `muon`.
      ns_dtype: see `muon`.
      mesh: see `muon`.

    Returns:
      As `muon`.
      State: 4 more bytes for each output of a matrix.

    Raises:
      ValueError: as `muon`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.normuon(1.0)
      >>> grads = jnp.array([[1.0, 0.2], [0.0, 0.0], [0.5, 0.2]])
      >>> updates, state = opt.update(grads, opt.init(grads), grads)
      >>> print(jnp.sqrt((updates**2).mean(0)))  # the same for both neurons
      [0.2 0.2]

    References:
      Li et al. (2025), "NorMuon: making Muon more efficient and scalable".
    """
    return orthogonalized(
        or_adam(_normuon),
        locals(),
        name="normuon",
        slots=functools.partial(_slots, mu_dtype=mu_dtype, neurons=True),
        nesterov=nesterov,
        scale=scale,
    )


@checked(**RANGES)
def adamuon(
    learning_rate: Hyperparam,
    ns_coeffs: Coefficients = "keller",
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: FloatDType = None,
    *,
    nesterov: Nesterov = True,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.999,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam | None = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    muon_weight_dimension_numbers: MatrixSpec = None,
    consistent_rms: Hyperparam = 0.2,
    ns_dtype: FloatDType = None,
    mesh: Devices = None,
) -> Optimizer:
    r"""Run Muon with the polar factor divided by its elementwise second moment, as in Adam.

    Good for: the same as Muon, at AdamW's memory and learning rates.

    Evidence: mixed. It is behind a Muon with tuned numbers in short runs of a language model
    (https://github.com/marin-community/marin/pull/3300); variance adaptation, the same idea, made
    Muon better in others (Frans et al. 2025, arXiv 2510.25000).

    For a matrix of m x n elements, and :math:`O_t` the polar factor of `muon`:

    .. math::

       v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |O_t|^2 \\
       N_t &= \frac{O_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} \\
       x_t &= x_{t-1} - \eta_t \left(
       \rho \sqrt{m n}\, \frac{N_t}{\lVert N_t \rVert_F} + \lambda x_{t-1} \right)

    The other parameters are updated by Adam, as in `muon`.

    Differences: the paper's second version takes the polar factor of the momentum's sign.

    Args:
      learning_rate: see `muon`, like all arguments that are not named here.
      ns_coeffs: see `muon`.
      ns_steps: see `muon`.
      beta: see `muon`.
      b2: :math:`\beta_2`, decay of the mean square, in [0, 1).
      eps: added to the norm of a matrix, to the root of v and to Adam's, >= 0.
      weight_decay: see `muon`.
      weight_decay_mask: see `muon`.
      mu_dtype: see `muon`.
      nesterov: see `muon`.
      preconditioning: see `muon`.
      adam_b1: see `muon`.
      adam_b2: see `muon`.
      adam_eps_root: see `muon`.
      adam_weight_decay: see `muon`.
      adam_learning_rate: see `muon`.
      muon_weight_dimension_numbers: see `muon`.
      consistent_rms: :math:`\rho` > 0, root mean square of the direction; 0.2 is AdamW's.
      ns_dtype: see `muon`.
      mesh: see `muon`.

    Returns:
      As `muon`.
      State: 8 bytes for each element.

    Raises:
      ValueError: as `muon`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.adamuon(1.0)
      >>> grads = jnp.array([[1.0, 0.5], [-0.5, 1.0]])
      >>> updates, state = opt.update(grads, opt.init(grads), grads)
      >>> print(updates)  # a first step is the sign, as Adam's
      [[-0.2 -0.2]
       [ 0.2 -0.2]]

    References:
      Si et al. (2025), "AdaMuon: adaptive Muon optimizer".
    """
    return orthogonalized(
        or_adam(_adamuon),
        locals(),
        name="adamuon",
        slots=functools.partial(_slots, mu_dtype=mu_dtype, neurons=False),
        nesterov=nesterov,
    )
