"""optax's optimizers, each the chain of transformations that it is there.

Their states have optax's nesting: that of `adam(0.1)` is the pair of a `ScaleByAdamState` and an
`EmptyState`. What each optimizer computes is described at the function of gdjax that is named.
"""

# Without `from __future__ import annotations`: as in optax, the annotation of a learning rate that
# may be a schedule is `ScalarOrSchedule` itself, with which programs compare it.

import functools
import warnings
from typing import Any

import jax.numpy as jnp

from gdjax.compat.optax.accumulation import ema, trace
from gdjax.compat.optax.adding import add_decayed_weights, add_noise
from gdjax.compat.optax.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    MaskOrFn,
    NumLike,
    ScalarOrSchedule,
    identity,
)
from gdjax.compat.optax.clipping import clip_by_block_rms
from gdjax.compat.optax.combine import chain
from gdjax.compat.optax.factorized import scale_by_factored_rms
from gdjax.compat.optax.linesearch import scale_by_zoom_linesearch
from gdjax.compat.optax.masking import masked
from gdjax.compat.optax.transform import (
    scale,
    scale_by_adadelta,
    scale_by_adam,
    scale_by_adamax,
    scale_by_adan,
    scale_by_amsgrad,
    scale_by_belief,
    scale_by_lbfgs,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_novograd,
    scale_by_optimistic_gradient,
    scale_by_param_block_rms,
    scale_by_polyak,
    scale_by_radam,
    scale_by_rms,
    scale_by_rprop,
    scale_by_rss,
    scale_by_sign,
    scale_by_sm3,
    scale_by_stddev,
    scale_by_trust_ratio,
    scale_by_yogi,
)

# --- the family of Adam ---------------------------------------------------------------------------


def adam(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
    eps_root: NumLike = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """Adam; see `gdjax.adam`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx, params = optax.adam(0.1), jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates), state[0].count, state[0].mu)
      [0.9 1.9] 1 [0.1 0.2]
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


nadam = functools.partial(adam, nesterov=True)
nadam.__doc__ = """Adam with Nesterov's momentum; see `gdjax.nadam`."""


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
    eps_root: NumLike = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """Adam with decoupled weight decay, which is multiplied by the rate; see `gdjax.adamw`.

    Args:
      learning_rate: a number, or a schedule.
      b1: decay of the mean of the gradients.
      b2: decay of the mean of their squares.
      eps: added to the root.
      eps_root: added under the root.
      mu_dtype: dtype of the mean of the gradients.
      weight_decay: what of each parameter is added to its direction: a number, or a schedule.
      mask: tree of booleans, or a function of the parameters that returns one: which decay.
      nesterov: whether with Nesterov's momentum.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


nadamw = functools.partial(adamw, nesterov=True)
nadamw.__doc__ = """AdamW with Nesterov's momentum; see `gdjax.nadamw`."""


def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-16,
    eps_root: NumLike = 1e-16,
    weight_decay: ScalarOrSchedule | None = None,
    weight_decay_mask: MaskOrFn = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """Adam whose second moment is that of the gradient's deviation; see `gdjax.adabelief`."""
    decay = [] if weight_decay is None else [add_decayed_weights(weight_decay, weight_decay_mask)]
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        *decay,
        scale_by_learning_rate(learning_rate),
    )


def adamax(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
) -> GradientTransformationExtraArgs:
    """Adam with the largest gradient in place of the mean of squares; see `gdjax.adamax`."""
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: MaskOrFn = None,
) -> GradientTransformationExtraArgs:
    """`adamax` with the weight decay of `adamw`; see `gdjax.adamaxw`."""
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def adan(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.98,
    b2: NumLike = 0.92,
    b3: NumLike = 0.99,
    eps: NumLike = 1e-8,
    eps_root: NumLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: MaskOrFn = None,
) -> GradientTransformationExtraArgs:
    """Adam with a Nesterov momentum of its own for gradient differences; see `gdjax.adan`."""
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
    eps_root: NumLike = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> GradientTransformationExtraArgs:
    """Adam whose second moment does not decrease; see `gdjax.amsgrad`."""
    return chain(
        scale_by_amsgrad(
            b1, b2, eps, eps_root, mu_dtype,
            bias_correction_mu=bias_correction_mu, bias_correction_nu=bias_correction_nu,
        ),
        scale_by_learning_rate(learning_rate),
    )  # fmt: skip


def lamb(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-6,
    eps_root: NumLike = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: MaskOrFn = None,
) -> GradientTransformationExtraArgs:
    """AdamW whose step is as long as the parameter, times the rate; see `gdjax.lamb`."""
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


def novograd(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.25,
    eps: NumLike = 1e-6,
    eps_root: NumLike = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
) -> GradientTransformationExtraArgs:
    """Adam with one second moment for each array; see `gdjax.novograd`."""
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay),
        scale_by_learning_rate(learning_rate),
    )


def radam(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
    eps_root: NumLike = 0.0,
    threshold: NumLike = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """Adam that is momentum while its second moment is uncertain; see `gdjax.radam`."""
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


def yogi(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-3,
) -> GradientTransformationExtraArgs:
    """Adam whose second moment changes by steps of bounded size; see `gdjax.yogi`."""
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))


def optimistic_adam(
    learning_rate: NumLike,
    optimism: NumLike | None = None,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
    eps_root: NumLike = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> GradientTransformationExtraArgs:
    """Do as `optimistic_adam_v2`, of which the rates of the two terms are given; deprecated.

    Args:
      learning_rate: the rate of the direction, a number.
      optimism: the rate of its change since the last step; None is the learning rate.
      b1: see `adam`, as the following.
      b2: see `adam`.
      eps: see `adam`.
      eps_root: see `adam`.
      mu_dtype: see `adam`.
      nesterov: see `adam`.

    Raises:
      ValueError: if the learning rate is a schedule.
    """
    warnings.warn(
        "optimistic_adam is deprecated: use `optimistic_adam_v2` instead, which takes schedules.",
        DeprecationWarning,
        stacklevel=2,
    )
    if callable(learning_rate):
        raise ValueError(
            "optimistic_adam(learning_rate=...) must be a number, got a schedule. "
            "optimistic_adam_v2 takes schedules."
        )
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(
            learning_rate, learning_rate if optimism is None else optimism
        ),
        scale_by_learning_rate(1.0),
    )


def optimistic_adam_v2(
    learning_rate: ScalarOrSchedule,
    *,
    alpha: NumLike = 1.0,
    beta: NumLike = 1.0,
    b1: NumLike = 0.9,
    b2: NumLike = 0.999,
    eps: NumLike = 1e-8,
    eps_root: NumLike = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> GradientTransformationExtraArgs:
    """Adam that extrapolates its direction; see `gdjax.optimistic_adam`.

    The direction is (alpha + beta) d_t - beta d_{t-1}, of Adam's directions d.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )


# --- other moments --------------------------------------------------------------------------------


def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    rho: NumLike = 0.9,
    eps: NumLike = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: MaskOrFn = None,
) -> GradientTransformationExtraArgs:
    """Steps as long as the last ones; see `gdjax.adadelta`.

    With `learning_rate=None` the updates have the gradient's sign, as in optax: they lead uphill.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )


def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: NumLike = 0.8,
    decay_offset: NumLike = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: NumLike | None = 1.0,
    momentum: NumLike | None = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: NumLike = 1e-30,
    factored: bool = True,
    weight_decay_mask: MaskOrFn = None,
) -> GradientTransformationExtraArgs:
    """Second moments of matrices by their rows and columns; see `gdjax.adafactor`.

    Each of the arguments below adds a member to the chain, unless it is None or False.

    Args:
      learning_rate: a number, or a schedule.
      min_dim_size_to_factor: arrays of which fewer than two sides are as long keep all of it.
      decay_rate: the decay of the second moment at step t is 1 - t^-decay_rate.
      decay_offset: what is subtracted from t, for a fine-tuning that starts again.
      multiply_by_parameter_scale: whether steps are relative to the parameter's root mean square.
      clipping_threshold: the most that the root mean square of a direction may be.
      momentum: decay of a mean of the steps.
      dtype_momentum: dtype of that mean.
      weight_decay_rate: weight decay per step, not multiplied by the rate.
      eps: added to squares of gradients.
      factored: whether any second moments are factored.
      weight_decay_mask: see `adamw`.
    """
    members = [
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps)
    ]
    if clipping_threshold is not None:
        members.append(clip_by_block_rms(clipping_threshold))
    if learning_rate is not None:
        members.append(scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        members.append(scale_by_param_block_rms())
    if momentum is not None:
        members.append(ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None:
        members.append(add_decayed_weights(weight_decay_rate, weight_decay_mask))
    return chain(*members, scale(-1))


def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: NumLike = 0.1,
    eps: NumLike = 1e-7,
) -> GradientTransformationExtraArgs:
    """Divide by the root of the sum of all squares; see `gdjax.adagrad`."""
    return chain(
        scale_by_rss(initial_accumulator_value, eps), scale_by_learning_rate(learning_rate)
    )


def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: NumLike = 0.9,
    eps: NumLike = 1e-8,
    initial_scale: NumLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: NumLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformationExtraArgs:
    """Divide by the root mean square of the last gradients; see `gdjax.rmsprop`.

    Args:
      learning_rate: a number, or a schedule.
      decay: decay of the mean of squares.
      eps: added under the root, or to it.
      initial_scale: the mean of squares before the first step.
      eps_in_sqrt: whether `eps` is added under the root.
      centered: whether by the standard deviation instead.
      momentum: decay of the sum of steps, or None.
      nesterov: whether with Nesterov's momentum.
      bias_correction: whether the moments are corrected for their start at 0.
    """
    moment = scale_by_stddev if centered else scale_by_rms
    return chain(
        moment(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )


def rprop(
    learning_rate: NumLike,
    eta_minus: NumLike = 0.5,
    eta_plus: NumLike = 1.2,
    min_step_size: NumLike = 1e-6,
    max_step_size: NumLike = 50.0,
) -> GradientTransformationExtraArgs:
    """A step size for each element, from the signs of its gradients; see `gdjax.rprop`.

    Args:
      learning_rate: the first step size of all elements, a number.
      eta_minus: factor of a step size after a change of sign.
      eta_plus: factor after none.
      min_step_size: the shortest step.
      max_step_size: the longest step.
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size),
        scale(-1.0),
    )


def sm3(learning_rate: NumLike, momentum: NumLike = 0.9) -> GradientTransformationExtraArgs:
    """Adagrad with one sum for each slice of an array; see `gdjax.sm3`."""
    return chain(scale_by_sm3(momentum), scale(-learning_rate))


# --- momentum, signs and norms --------------------------------------------------------------------


def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: NumLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> GradientTransformationExtraArgs:
    """Gradient descent, with or without momentum; see `gdjax.sgd`.

    Args:
      learning_rate: a number, or a schedule.
      momentum: decay of the sum of gradients, or None.
      nesterov: whether with Nesterov's momentum.
      accumulator_dtype: dtype of the sum.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> tx = optax.sgd(0.1, momentum=0.9)
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(updates, state[0].trace)
      [-0.1 -0.1] [1. 1.]
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )


def noisy_sgd(
    learning_rate: ScalarOrSchedule,
    eta: NumLike = 0.01,
    gamma: NumLike = 0.55,
    key: Any = None,
    *,
    seed: int | None = None,
) -> GradientTransformationExtraArgs:
    """Gradient descent with noise that decreases; see `gdjax.noisy_sgd`.

    Args:
      learning_rate: a number, or a schedule.
      eta: variance of the noise in the first step.
      gamma: the variance in step t is eta / t^gamma.
      key: a key of `jax.random`, or an integer.
      seed: the old name of `key`, deprecated.
    """
    return chain(add_noise(eta, gamma, key, seed=seed), scale_by_learning_rate(learning_rate))


def sign_sgd(learning_rate: ScalarOrSchedule) -> GradientTransformationExtraArgs:
    """Steps of the same size in all elements; see `gdjax.sign_sgd`."""
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


def signum(
    learning_rate: ScalarOrSchedule,
    beta: NumLike = 0.9,
    accumulator_dtype: Any = None,
) -> GradientTransformationExtraArgs:
    """`sign_sgd` of the gradients' running mean; see `gdjax.signum`."""
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )


def lion(
    learning_rate: ScalarOrSchedule,
    b1: NumLike = 0.9,
    b2: NumLike = 0.99,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: MaskOrFn = None,
) -> GradientTransformationExtraArgs:
    """Signs of two interpolated momenta, with weight decay; see `gdjax.lion`."""
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def lars(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: MaskOrFn = True,
    trust_coefficient: NumLike = 0.001,
    eps: NumLike = 0.0,
    trust_ratio_mask: MaskOrFn = True,
    momentum: NumLike = 0.9,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """Momentum with steps relative to each parameter's norm; see `gdjax.lars`.

    Args:
      learning_rate: a number, or a schedule.
      weight_decay: what of each parameter is added to its gradient.
      weight_decay_mask: which parameters decay; see `adamw`.
      trust_coefficient: length of a direction, relative to the parameter's norm.
      eps: added to the norm of the gradient.
      trust_ratio_mask: of which parameters the steps are relative.
      momentum: decay of the sum of steps.
      nesterov: whether with Nesterov's momentum.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(
            scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps), trust_ratio_mask
        ),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


def fromage(
    learning_rate: ScalarOrSchedule, min_norm: NumLike = 1e-6
) -> GradientTransformationExtraArgs:
    """Steps relative to each parameter's norm, which they keep; see `gdjax.fromage`."""

    def numbers(count: Any = None) -> tuple[Any, Any]:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        kept = 1 / (1 + rate**2) ** 0.5
        return rate * kept, kept - 1

    scheduled = (lambda count: numbers(count)[0]), (lambda count: numbers(count)[1])
    rate, decay = scheduled if callable(learning_rate) else numbers()
    return chain(
        scale_by_trust_ratio(min_norm), scale_by_learning_rate(rate), add_decayed_weights(decay)
    )


def optimistic_gradient_descent(
    learning_rate: ScalarOrSchedule,
    alpha: ScalarOrSchedule = 1.0,
    beta: ScalarOrSchedule = 1.0,
) -> GradientTransformationExtraArgs:
    """Gradient descent that extrapolates; see `gdjax.optimistic_gradient_descent`.

    The direction is (alpha + beta) g_t - beta g_{t-1}, of the gradients g.
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


# --- steps from the value of the objective --------------------------------------------------------


def polyak_sgd(
    max_learning_rate: NumLike = 1.0,
    scaling: ScalarOrSchedule = 1.0,
    f_min: NumLike = 0.0,
    eps: NumLike = 0.0,
    variant: str = "sps",
) -> GradientTransformationExtraArgs:
    """A step to where the objective's tangent is `f_min`; see `gdjax.polyak_sgd`.

    `update` needs `value=`, the objective at the parameters.
    """
    return chain(sgd(scaling), scale_by_polyak(f_min, max_learning_rate, eps, variant))


_ZOOM = scale_by_zoom_linesearch(20, initial_guess_strategy="one")


def lbfgs(
    learning_rate: ScalarOrSchedule | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = _ZOOM,
) -> GradientTransformationExtraArgs:
    """Limited-memory BFGS with a line search; see `gdjax.lbfgs`, which `gdjax.minimize` runs.

    Args:
      learning_rate: a factor of the direction, a number or a schedule; None is 1.
      memory_size: number of past steps to keep.
      scale_init_precond: whether the inverse Hessian starts from the curvature along the last step.
      linesearch: the last member of the chain, or None for steps of the learning rate. With one,
        `update` needs `value=`, `grad=` and `value_fn=`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> def fun(x): return jnp.sum((x - 1) ** 4)
      >>> tx, x = optax.lbfgs(), jnp.zeros(2)
      >>> value_and_grad, state = optax.value_and_grad_from_state(fun), tx.init(x)
      >>> for _ in range(10):
      ...     value, grad = value_and_grad(x, state=state)
      ...     updates, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=fun)
      ...     x = optax.apply_updates(x, updates)
      >>> print(bool(value < 1e-4))
      True
    """
    rate = scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate)
    return chain(
        scale_by_lbfgs(memory_size, scale_init_precond),
        rate,
        identity() if linesearch is None else linesearch,
    )
