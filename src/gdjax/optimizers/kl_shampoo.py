"""KL-Shampoo and KL-SOAP: factors that minimize a KL divergence, each weighted by the others.

Lin et al. (2025), https://arxiv.org/abs/2509.03378
Paper -> here: S_a, S_b -> factors; their eigenbases -> bases, eigenvalues -> values; beta_2 -> b2.
Inverses and roots of the factors are computed in bases that a QR decomposition renews at intervals,
as in SOAP. Deviations: the first factors are multiples of the identity, which count as one gradient
in their running means; eigenvalues are at least `eps`. In arrays of more than two axes, each factor
is weighted by the inverses of all others. Bases are constants for differentiation.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.dealing import Devices
from gdjax.core.every import is_due
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_increment, safe_sqrt
from gdjax.core.types import Hyperparam, Mask, Number
from gdjax.linalg.axes import gram, rotated, rotated_back, scaled, sum_others
from gdjax.linalg.eigenbasis import PerAxis, renewed_bases, renewed_values
from gdjax.linalg.shapes import seen_shape
from gdjax.optimizers.soap import RANGES, Rotated, soap_optimizer


def _kl_shampoo(
    grad, slots, param, count, *, b1, b2, shampoo_beta, eps, precondition_frequency, merge, learn
):
    gradient = grad.reshape(seen_shape(grad.shape, merge))
    mu = b1 * slots.mu + (1 - b1) * grad
    mean = (mu / bias_correction(b1, count)).reshape(gradient.shape)
    if all(f is None for f in slots.factors):  # Adam
        nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
        root = safe_sqrt(nu / bias_correction(b2, count))
        return safe_divide(mean.reshape(grad.shape), root + eps), slots._replace(mu=mu, nu=nu)
    low = rotated(gradient, slots.bases)
    beta = b2 if shampoo_beta is None else shampoo_beta
    factors, values = learn(slots, gradient, low, count, beta, eps)
    due = is_due(count, precondition_frequency, slots.phase)
    bases, _, failed = renewed_bases(due, count, factors, slots.bases)
    values = renewed_values(due, values, factors, bases)
    roots = [None if v is None else _inverse_root(v, eps) for v in values or ()]
    direction = rotated_back(scaled(rotated(mean, bases), roots), bases)
    new = Rotated(mu, slots.nu, factors, bases, values, slots.failures + failed, slots.phase)
    return direction.reshape(grad.shape), new


def _weighted(
    slots: Rotated, gradient: Array, low: Array, count: Array, beta: Array, eps: Array
) -> tuple[PerAxis, PerAxis]:
    """Return the factors after a gradient, and their diagonals in the bases.

    S_k is the running mean of G_k (inverses of all other factors) G_k^H / other elements, with the
    old inverses in the bases, where the diagonals follow at the cost of the elements.
    """
    weight = bias_correction(beta, safe_increment(count))
    lost = (1 - beta) / weight  # 1 - the corrected beta
    beta = beta * bias_correction(beta, count) / weight
    factors, values = list(slots.factors), list(slots.values or ())
    weights = [None if v is None else _inverse_root(v, eps) for v in values]
    for axis, (factor, value) in enumerate(zip(slots.factors, slots.values or (), strict=True)):
        if factor is None or value is None:
            continue
        others = gradient.size // gradient.shape[axis]
        half = scaled(rotated(gradient, slots.bases, skip=axis), weights, skip=axis)
        factors[axis] = beta * factor + lost / others * gram(half, axis)
        share = sum_others(abs_sq(scaled(low, weights, skip=axis)), axis) / others
        values[axis] = beta * value + lost * share
    return tuple(factors), tuple(values)


def _inverse_root(values: Array, eps: Array) -> Array:
    return safe_divide(jnp.ones_like(values), safe_sqrt(jnp.maximum(values, eps)))


@checked(**RANGES)
def kl_shampoo(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    shampoo_beta: Hyperparam | None = None,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.01,
    mask: Mask = None,
    precondition_frequency: Hyperparam = 10,
    max_precond_dim: int = 10000,
    *,
    init_factor: Number = 0.1,
    merge_dims: bool = False,
    one_sided: bool = False,
    precondition_1d: bool = False,
    stagger: bool = False,
    mesh: Devices = None,
) -> Optimizer:
    r"""Multiply a mean of the gradient by inverse square roots of factors weighted by each other.

    Good for: the same as Shampoo, without a graft to set the norm of the steps.

    Evidence: authors only. Lin et al. 2025, arXiv 2509.03378.

    For an m x n matrix:

    .. math::

       S_{a,t} &= \beta_t S_{a,t-1} + (1 - \beta_t) g_t S_{b,t-1}^{-1} g_t^\top / n \\
       S_{b,t} &= \beta_t S_{b,t-1} + (1 - \beta_t) g_t^\top S_{a,t-1}^{-1} g_t / m \\
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
       \hat m_t &= m_t / (1 - \beta_1^t) \\
       d_t &= S_{a,t}^{-1/2} \hat m_t S_{b,t}^{-1/2} \\
       x_t &= x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    The first factors are :math:`c I`, which counts as one gradient:
    :math:`\beta_t = \beta (1 - \beta^t) / (1 - \beta^{t+1})`. Inverses and roots are computed in
    eigenbases, which are renewed as in `soap`; the first come from the first gradient. Parameters
    without a rotated axis, such as scalars and vectors, are updated by Adam.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers here.
      b1: :math:`\beta_1`, decay of the mean, in [0, 1).
      b2: decay of the mean square of parameters updated by Adam, in [0, 1).
      shampoo_beta: :math:`\beta`, decay of the factors, in [0, 1); None is `b2`.
      eps: lower bound of the eigenvalues, >= 0; for Adam, see `adam`.
      weight_decay: :math:`\lambda` >= 0, decoupled decay, see `adamw`.
      mask: which leaves decay, see `adamw`.
      precondition_frequency: steps from one renewal of the bases to the next, a whole number >= 1,
        see `soap`.
      max_precond_dim: axes longer than this have no factor, an integer >= 1.
      init_factor: :math:`c`, the first eigenvalues, > 0, in units of the gradient. Large ones make
        the first steps small.
      merge_dims: see `soap`.
      one_sided: see `soap`.
      precondition_1d: whether vectors have a factor too.
      stagger: see `soap`.
      mesh: see `soap`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State of an m x n matrix: 8 (m n + m^2 + n^2) bytes, with the factors (`factors`), their
      eigenbases (`bases`) and Adam's moments (`mu`, `nu`). `slots.failures` counts bases that were
      kept.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> hessian = jnp.array([[5.0, 4.0], [4.0, 5.0]])
      >>> opt = gdjax.kl_shampoo(0.05, weight_decay=0.0)
      >>> params = jnp.array([[2.0, 1.0], [-1.0, 1.0]])
      >>> state = opt.init(params)
      >>> for _ in range(40):
      ...     updates, state = opt.update(hessian @ params, state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> bool(jnp.sum(params * (hessian @ params)) < 5.0)  # at first: 27
      True

    References:
      Lin et al. (2025), "Understanding and improving Shampoo and SOAP via Kullback-Leibler
      minimization".
    """
    return soap_optimizer("kl_shampoo", rule=_kl_shampoo, learn=_weighted, **locals())


@checked(**RANGES)
def kl_soap(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    shampoo_beta: Hyperparam | None = None,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.01,
    mask: Mask = None,
    precondition_frequency: Hyperparam = 10,
    max_precond_dim: int = 10000,
    *,
    init_factor: Number = 0.1,
    merge_dims: bool = False,
    one_sided: bool = False,
    precondition_1d: bool = False,
    stagger: bool = False,
    mesh: Devices = None,
) -> Optimizer:
    r"""Run `soap` in the eigenbases of factors that are weighted by each other, as in `kl_shampoo`.

    Good for: the same as SOAP, with bases that a few large gradients do not dominate.

    Evidence: mixed. With `hyperball` it reaches the target of modded-nanogpt's track 3 in 3125
    steps, as many as `soap` (results 19 and 27, https://github.com/KellerJordan/modded-nanogpt).

    The equations are those of `soap`, with the eigenbases :math:`Q_a` and :math:`Q_b` of the
    factors :math:`S_{a,t}` and :math:`S_{b,t}` of `kl_shampoo`:

    .. math::

       d_t = Q_a \operatorname{Adam}(Q_a^\top g_t Q_b) Q_b^\top

    Args:
      learning_rate: see `soap`, like all arguments that are not named here.
      b1: see `soap`.
      b2: see `soap`.
      shampoo_beta: see `kl_shampoo`.
      eps: see `soap`; also the lower bound of the eigenvalues.
      weight_decay: see `soap`.
      mask: see `soap`.
      precondition_frequency: see `soap`.
      max_precond_dim: see `soap`.
      init_factor: see `kl_shampoo`.
      merge_dims: see `soap`.
      one_sided: see `soap`.
      precondition_1d: see `soap`.
      stagger: see `soap`.
      mesh: see `soap`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless `weight_decay=None`.
      State of an m x n matrix: 8 (m n + m^2 + n^2) bytes, as in `kl_shampoo`.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.kl_soap(0.1)
      >>> params = jnp.zeros((2, 2))
      >>> state = opt.init(params)
      >>> for _ in range(2):  # the first update is 0
      ...     updates, state = opt.update(jnp.array([[2.0, 0.0], [0.0, -1.0]]), state, params)
      >>> print(updates.round(4) + 0.0)
      [[-0.1  0. ]
       [ 0.   0.1]]

    References:
      Lin et al. (2025), as for `kl_shampoo`.
    """
    return soap_optimizer("kl_soap", learn=_weighted, **locals())
