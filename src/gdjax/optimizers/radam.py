"""RAdam: Adam whose step is scaled down while its mean square is based on few gradients.

Liu et al. (2019), Algorithm 2, https://arxiv.org/abs/1908.03265
Paper -> here: m -> mu, v -> nu, rho_t -> rho, r_t -> the factor, t -> count, alpha ->
learning_rate. Deviations: rho has to reach `threshold` = 5, as in optax; the paper has rho > 4,
torch rho > 5. rho is calculated without cancellation: in float32 the paper's 2 / (1 - b2) - 1
- 2 t b2^t / (1 - b2^t) has an error in its third digit, by which other libraries may start Adam one
step early or late.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import FINITE, checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import abs_sq, bias_correction, safe_divide, safe_sqrt
from gdjax.core.types import Hyperparam
from gdjax.optimizers.adam import Moments, corrected_mean, zero_moments


def _radam(grad, slots, param, count, *, b1, b2, eps, eps_root, threshold, nesterov):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    mu_hat = corrected_mean(mu, grad, count, b1, nesterov)
    nu_hat = nu / bias_correction(b2, count)
    trusted, factor = rectification(b2, count, threshold)
    adam = factor * safe_divide(mu_hat, safe_sqrt(nu_hat + eps_root) + eps)
    return jnp.where(trusted, adam, mu_hat), Moments(mu, nu)


def rectification(b2: Array, count: Array, threshold: Array | float) -> tuple[Array, Array]:
    """Return whether rho_t has reached the threshold, and the factor r_t, which is 1 before."""
    rho_inf, rho = 2 / (1 - b2) - 1, effective_samples(b2, count)
    trusted = (rho >= threshold) & (rho > 4)  # r_t is not real for a smaller rho
    rho, rho_inf = jnp.where(trusted, rho, 5), jnp.where(trusted, rho_inf, 5)
    ratio = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    return trusted, safe_sqrt(ratio)


# 1/x - 1/(e^x - 1) = 1/2 - sum B_2k x^(2k-1) / (2k)!, B_2k the Bernoulli numbers; here the
# coefficients of x^2 in the sum over x, highest power first. Within 1e-16 for x < 0.7.
_BERNOULLI = (-691 / 1307674368000, 1 / 47900160, -1 / 1209600, 1 / 30240, -1 / 720, 1 / 12)


def _phi(x: Array) -> Array:
    """Return 1/x - 1/(e^x - 1) for x > 0, which falls from 1/2 to 0."""
    small = x < 0.7
    series = 0.5 - x * jnp.polyval(jnp.array(_BERNOULLI, x.dtype), jnp.where(small, x, 0) ** 2)
    large = jnp.where(small, 1, x)
    return jnp.where(small, series, 1 / large - 1 / jnp.expm1(large))


def effective_samples(b2: Array, t: Array) -> Array:
    """Return rho_t, the number of gradients that nu effectively averages after t steps."""
    s = -jnp.log1p(-(1 - b2))
    return 1 + 2 * t * _phi(t * s) - 2 * _phi(s)


@checked(threshold=FINITE)
def radam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    threshold: Hyperparam = 5.0,
    *,
    nesterov: bool = False,
) -> Optimizer:
    r"""Run Adam with a warm-up that follows from b2: momentum at first, then Adam times r_t.

    Good for: Adam without a warm-up to tune.

    Evidence: mixed. Adam with a linear warm-up over 2 / (1 - b2) steps, which needs no tuning
    either, trains about as well (Ma & Yarats 2019, arXiv 1910.04209).

    With :math:`\hat m_t` and :math:`\hat v_t` the corrected means of `adam`:

    .. math::

       \rho_t &= \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
       \rho_\infty &= \frac{2}{1 - \beta_2} - 1 \\
       r_t &= \sqrt{\frac{(\rho_t - 4) (\rho_t - 2)\, \rho_\infty}
       {(\rho_\infty - 4) (\rho_\infty - 2)\, \rho_t}} \\
       x_t &= x_{t-1} - \eta_t \begin{cases}
       r_t\, \hat m_t / (\sqrt{\hat v_t + \bar\epsilon} + \epsilon)
       & \rho_t \ge \theta \\
       \hat m_t & \text{else} \end{cases}

    :math:`\rho_t`, the number of gradients that the mean square averages, is close to t for small
    t.

    Differences: the paper starts Adam at :math:`\rho_t > 4`, torch at :math:`\rho_t > 5`, optax as
    here at :math:`\rho_t \ge 5`. torch divides by :math:`\sqrt{v_t} + \epsilon` before it corrects
    the bias, so its eps is `eps / sqrt(1 - b2**t)` here.

    Args:
      learning_rate: as in `adam`, like b1, b2, eps and eps_root.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: see `adam`; for b2 < 2/3 :math:`\rho_t` is always less than 5, and Adam never starts.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      threshold: :math:`\theta`, what :math:`\rho_t` has to reach; 4 has to be exceeded in any case.
        With the default b2 Adam starts at t = 6 for 5.0, at t = 5 for 4.0.
      nesterov: whether to look one step ahead, as `nadam` does.

    Returns:
      An `Optimizer`.
      State: 8 bytes per element, :math:`m_t` (`mu`) and :math:`v_t` (`nu`).

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.radam(1.0)
      >>> state = opt.init(jnp.zeros(1))
      >>> for _ in range(7):
      ...     updates, state = opt.update(jnp.full(1, 0.5), state)
      >>> print(updates)
      [-0.0327]

    References:
      Liu et al. (2019), "On the variance of the adaptive learning rate and beyond", Algorithm 2.
    """
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root, threshold=threshold)
    return descend(_radam, zero_moments, numbers, learning_rate, nesterov=nesterov)


@direction_of(radam)
def scale_by_radam() -> None:
    """Replace the gradient by RAdam's direction; arguments and equations as in `radam`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_radam()
      >>> print(opt.update(jnp.array([4.0, -2.0]), opt.init(jnp.zeros(2)))[0])
      [ 4. -2.]
    """
