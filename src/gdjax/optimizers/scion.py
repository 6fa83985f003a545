"""Scion: steepest descent in a norm chosen for each layer, constrained to a ball or not.

Pethick et al. (2025), Algorithms 1 and 2, https://arxiv.org/abs/2502.07529
Paper -> here: d -> mu, alpha -> 1 - beta, gamma -> learning_rate, rho -> radius, lmo -> minus the
direction. Deviations: none.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.dealing import Devices
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.numerics import compute_dtype, root_mean_sq
from gdjax.core.types import FloatDType, Hyperparam
from gdjax.linalg.matrices import Axes, MatrixSpec
from gdjax.linalg.polar import Coefficients, Preconditioning
from gdjax.optimizers.shared.orthogonal import RANGES, Orthogonal, orthogonalized, scaled


def _mean(grad, slots, param, count, *, beta, **rest):
    mu = beta * slots.mu + (1 - beta) * grad
    return mu, slots._replace(mu=mu)


def _scion(o, slots, param, count, *, learning_rate, radius, constrained, **rest):
    if slots.axes is not None:  # sqrt(fan_out / fan_in) times the polar factor
        direction = scaled(o, slots.axes, "spectral")
    elif o.ndim > 1:  # the largest element of the whole matrix, input side first
        direction = jnp.sign(o) / max(o.shape[-2], 1)
    else:
        rms = root_mean_sq(o)
        direction = o / jnp.where(rms > 0, rms, 1)
    update = -learning_rate * radius * direction
    if constrained:
        if param is None:
            raise ValueError(f"scion(constrained=True) needs {NEEDS_PARAMS}")
        update = update - learning_rate * param
    return update, slots


def _slots(param: Array, axes: Axes | None, index: int, mu_dtype: FloatDType) -> Orthogonal:
    return Orthogonal(jnp.zeros_like(param, dtype=mu_dtype or compute_dtype(param)), None, axes)


@checked(**RANGES)
def scion(
    learning_rate: Hyperparam,
    radius: Hyperparam = 50.0,
    beta: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    ns_coeffs: Coefficients = "keller",
    ns_steps: int = 5,
    mu_dtype: FloatDType = None,
    *,
    constrained: bool = True,
    preconditioning: Preconditioning = "frobenius",
    weight_dimension_numbers: MatrixSpec = None,
    ns_dtype: FloatDType = None,
    mesh: Devices = None,
) -> Optimizer:
    r"""Step towards the minimizer of the linearized loss over a ball of each layer's norm.

    Good for: transformers, with a learning rate for all widths and half of Adam's memory.

    Evidence: independent. For language models its loss is between those of tuned Muon and AdamW
    (Wen et al. 2025, arXiv 2509.02046).

    .. math::

       m_t &= \beta m_{t-1} + (1 - \beta)\, g_t \\
       d_t &= \begin{cases}
       \sqrt{n_{\text{out}} / n_{\text{in}}}\, \operatorname{polar}(m_t) & \text{matrices} \\
       \operatorname{sign}(m_t) / n_{\text{in}} & \text{matrices that are excluded} \\
       m_t / \operatorname{rms}(m_t) & \text{vectors} \end{cases} \\
       x_t &= x_{t-1} - \eta_t (\rho\, d_t + x_{t-1})

    for matrices with the given numbers of inputs and outputs. `weight_dimension_numbers` excludes
    some, usually the output layer. The last term is missing if not constrained.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0, at most 1 if constrained: a number, schedule or
        prefix tree.
      radius: :math:`\rho` > 0, the radius of each layer's ball, best a `by_path`: the paper has 50
        for hidden layers and 3000 for the output layer of a language model.
      beta: decay of the momentum, in [0, 1).
      eps: added to each matrix's norm, >= 0.
      ns_coeffs: see `muon`.
      ns_steps: see `muon`.
      mu_dtype: dtype of the momentum; None is float32 at least.
      constrained: whether parameters are pulled into the ball, by a decay of strength 1 (Algorithm
        2); False is the unconstrained form, without that term.
      preconditioning: see `muon`.
      weight_dimension_numbers: which leaves are matrices, as in `muon`.
      ns_dtype: see `muon`.
      mesh: see `muon`.

    Returns:
      An `Optimizer`; its `update` needs the parameters if constrained.
      State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scion(0.1, radius=2.0, ns_coeffs="polar_express", ns_steps=8)
      >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
      >>> grads = {"w": jnp.diag(jnp.array([3.0, -0.5])), "b": jnp.array([3.0, -3.0])}
      >>> updates, state = opt.update(grads, opt.init(params), params)
      >>> print(updates["w"].round(3), updates["b"])
      [[-0.2 -0. ]
       [-0.   0.2]] [-0.2  0.2]

    References:
      Pethick et al. (2025), "Training deep learning models with norm-constrained LMOs".
    """
    return orthogonalized(
        _scion,
        locals(),
        name="scion",
        slots=functools.partial(_slots, mu_dtype=mu_dtype),
        first=_mean,
        constrained=constrained,
    )
