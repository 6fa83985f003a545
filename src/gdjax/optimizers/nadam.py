r"""NAdam: Adam whose mean looks one step ahead, in the three formulas that go by this name.

Dozat (2016), "Incorporating Nesterov momentum into Adam", https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
Paper -> here: m -> mu, n -> nu, mu_t -> momentum, t -> count, alpha -> learning_rate.
Deviations, with g the gradient, mu and nu the new means and c(b, t) = 1 - b^t:
- "optax": the paper with a constant momentum b1, direction
  b1 mu / c(b1, t+1) + (1-b1) g / c(b1, t);
- "torch": the paper's warm-up, momentum_t = b1 (1 - 0.96^(t momentum_decay) / 2), and with P_t the
  product of momentum_1..momentum_t, direction momentum_{t+1} mu / (1 - P_{t+1})
  + (1 - momentum_t) g / (1 - P_t), where mu itself decays by b1;
- "algoperf": the gradient enters the mean twice, (b1 mu + (1-b1) g) / c(b1, t). The AlgoPerf
  baselines and init2winit use it, also with a power of nu other than 1/2 ("NadamP").
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import CLOSED_UNIT, NONNEGATIVE, called, check_choice, checked
from gdjax.core.lift import descend, direction_of
from gdjax.core.numerics import (
    abs_sq,
    bias_correction,
    compute_dtype,
    real_dtype,
    safe_divide,
    safe_increment,
    safe_sqrt,
)
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.optimizers.adam import Moments, adam_moments, adam_rule, zero_moments


class WarmMoments(NamedTuple):
    """What torch's formula remembers of one parameter."""

    mu: Array  # m, running mean of the gradient, shaped like the parameter
    nu: Array  # n, running mean of its square, real, shaped like the parameter
    product: Array  # product of the momenta so far, a real scalar


def _nadam(grad, slots, param, count, *, b1, b2, eps, eps_root):
    numbers = dict(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    return adam_rule(grad, slots, param, count, nesterov=True, **numbers)


def _nadam_torch(grad, slots, param, count, *, b1, b2, eps, eps_root, momentum_decay):
    def late(t):
        return 0.5 * 0.96 ** (t.astype(b1.dtype) * momentum_decay)

    def momentum(t):
        return b1 * (1 - late(t))

    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    now, ahead = momentum(count), momentum(safe_increment(count))
    product = slots.product * now
    mu_hat = ahead * mu / (1 - product * ahead) + (1 - b1 + b1 * late(count)) * grad / (1 - product)
    nu_hat = nu / bias_correction(b2, count)
    return safe_divide(mu_hat, safe_sqrt(nu_hat + eps_root) + eps), WarmMoments(mu, nu, product)


def _nadam_algoperf(grad, slots, param, count, *, b1, b2, eps, eps_root, power=None):
    mu = b1 * slots.mu + (1 - b1) * grad
    nu = b2 * slots.nu + (1 - b2) * abs_sq(grad)
    mu_hat = (b1 * mu + (1 - b1) * grad) / bias_correction(b1, count)
    nu_hat = nu / bias_correction(b2, count) + eps_root
    if power is None:
        root = safe_sqrt(nu_hat)
    else:  # like safe_sqrt: the derivative at 0 is 0, not infinite
        root = jnp.where(nu_hat > 0, jnp.where(nu_hat > 0, nu_hat, 1) ** power, 0)
    return safe_divide(mu_hat, root + eps), Moments(mu, nu)


def _warm_moments(param: Array, mu_dtype: FloatDType, nu_dtype: FloatDType) -> WarmMoments:
    moments = zero_moments(param, mu_dtype, nu_dtype)
    return WarmMoments(*moments, jnp.ones((), real_dtype(compute_dtype(param))))


FORMULAS = {
    "optax": (_nadam, adam_moments),
    "torch": (_nadam_torch, _warm_moments),
    "algoperf": (_nadam_algoperf, zero_moments),
}


def _build(
    learning_rate: Hyperparam,
    weight_decay: Hyperparam | None,
    mask: Mask,
    formula: str,
    momentum_decay: Hyperparam | None,
    power: Hyperparam | None,
    mu_dtype: FloatDType,
    nu_dtype: FloatDType,
    **numbers: Hyperparam,
) -> Optimizer:
    name = called("nadam")
    check_choice(f"{name}(formula=...)", formula, FORMULAS)
    own = {"torch": ("momentum_decay", momentum_decay), "algoperf": ("power", power)}
    for owner, (key, value) in own.items():
        if value is not None and formula != owner:
            raise ValueError(f"{name}({key}=...) belongs to formula={owner!r}, not {formula!r}.")
        if value is not None:
            numbers[key] = value
    if formula == "torch":
        numbers.setdefault("momentum_decay", 4e-3)
    rule, zeros = FORMULAS[formula]
    slots = functools.partial(zeros, mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    return descend(rule, slots, numbers, learning_rate, weight_decay, mask)


_RANGES = dict(momentum_decay=NONNEGATIVE, power=CLOSED_UNIT)


@checked(**_RANGES)
def nadam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    *,
    formula: str = "optax",
    momentum_decay: Hyperparam | None = None,
    power: Hyperparam | None = None,
    nu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Run Adam with Nesterov momentum.

    Good for: the same as Adam; a new gradient has more weight in its own step.

    Evidence: independent. If all numbers are tuned, it never does worse than momentum (Choi et al.
    2019, arXiv 1910.05446); of fifteen tuned optimizers none was consistently better than Adam
    (Schmidt et al. 2021, arXiv 2007.01547).

    .. math::

       m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
       v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, |g_t|^2 \\
       x_t &= x_{t-1} - \eta_t\,
       \frac{\tilde m_t}{\sqrt{v_t / (1 - \beta_2^t) + \bar\epsilon} + \epsilon}

    where the mean that looks one step ahead depends on the formula:

    .. math::

       \tilde m_t^{\text{optax}} &= \frac{\beta_1 m_t}{1 - \beta_1^{t+1}}
       + \frac{(1 - \beta_1)\, g_t}{1 - \beta_1^t} \\
       \tilde m_t^{\text{torch}} &= \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
       + \frac{(1 - \mu_t)\, g_t}{1 - \prod_{i=1}^t \mu_i} \\
       \tilde m_t^{\text{algoperf}} &= \frac{\beta_1 m_t + (1 - \beta_1)\, g_t}{1 - \beta_1^t} \\
       \mu_t &= \beta_1 (1 - 0.96^{\psi t} / 2)

    Differences: the libraries use these three formulas under one name. They differ most at the
    beginning: with the defaults the first step is 1.47, 1.06 or 1.9 times the learning rate.

    Args:
      learning_rate: :math:`\eta_t` >= 0, as in `adam`, like all arguments that are not named here.
      b1: :math:`\beta_1` in [0, 1), see `adam`.
      b2: :math:`\beta_2` in [0, 1), see `adam`.
      eps: :math:`\epsilon` >= 0, see `adam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `adam`.
      mu_dtype: see `adam`.
      formula: "optax", "torch" or "algoperf".
      momentum_decay: :math:`\psi` >= 0, the speed of torch's momentum warm-up; None is torch's
        4e-3. Only for "torch".
      power: power of the mean square in the denominator, in [0, 1], in place of the square root;
        None is 1/2. Only for "algoperf".
      nu_dtype: see `adam`.

    Returns:
      An `Optimizer`.
      State: 8 bytes per element, for "torch" 4 bytes more per array.

    Raises:
      ValueError: if a number is out of range, the formula is unknown, or a number is given that
        the formula does not have.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> for formula in ("optax", "torch", "algoperf"):
      ...     opt = gdjax.nadam(1.0, formula=formula)
      ...     print(opt.update(jnp.ones(1), opt.init(jnp.zeros(1)))[0])
      [-1.4737]
      [-1.0565]
      [-1.9]

    References:
      Dozat (2016), "Incorporating Nesterov momentum into Adam".
    """
    return _build(
        learning_rate,
        None,
        None,
        formula,
        momentum_decay,
        power,
        mu_dtype,
        nu_dtype,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


@direction_of(nadam)
def scale_by_nadam() -> None:
    """Replace the gradient by NAdam's direction; arguments and equations as in `nadam`.

    With the default formula it is `scale_by_adam(nesterov=True)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_nadam(formula="algoperf")
      >>> print(opt.update(jnp.array([2.0, -3.0]), opt.init(jnp.zeros(2)))[0].round(3))
      [ 1.9 -1.9]
    """


@checked(**_RANGES)
def nadamw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: FloatDType = None,
    weight_decay: Hyperparam | None = 1e-4,
    mask: Mask = None,
    *,
    formula: str = "optax",
    momentum_decay: Hyperparam | None = None,
    power: Hyperparam | None = None,
    nu_dtype: FloatDType = None,
) -> Optimizer:
    r"""Run NAdam with decoupled weight decay, as `adamw` does for Adam.

    Good for: the same as AdamW.

    Evidence: independent. It is the baseline of AlgoPerf, second of six entries there without
    tuning (Kasimbeg et al. 2025, arXiv 2502.15015); for language models its loss is slightly below
    that of tuned AdamW (Wen et al. 2025, arXiv 2509.02046).

    .. math::

       x_t = x_{t-1} - \eta_t (d_t + \lambda x_{t-1})

    with :math:`d_t` the direction of `nadam`.

    The AlgoPerf baseline is `formula="algoperf"`, b1=0.9327, b2=0.9955, weight_decay=0.0812.

    Args:
      learning_rate: see `nadam`, as for all arguments that are not named here.
      b1: :math:`\beta_1` in [0, 1), see `nadam`.
      b2: :math:`\beta_2` in [0, 1), see `nadam`.
      eps: :math:`\epsilon` >= 0, see `nadam`.
      eps_root: :math:`\bar\epsilon` >= 0, see `nadam`.
      mu_dtype: see `nadam`.
      weight_decay: :math:`\lambda`, see `adamw`.
      mask: see `adamw`.
      formula: see `nadam`.
      momentum_decay: see `nadam`.
      power: see `nadam`.
      nu_dtype: see `nadam`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: as `nadam`.

    Raises:
      ValueError: as `nadam` and `adamw` do.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.nadamw(0.1, weight_decay=0.5)
      >>> print(opt.update(jnp.zeros(1), opt.init(jnp.ones(1)), jnp.ones(1))[0])
      [-0.05]
    """
    return _build(
        learning_rate,
        weight_decay,
        mask,
        formula,
        momentum_decay,
        power,
        mu_dtype,
        nu_dtype,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )
