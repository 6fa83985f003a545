"""Lion: step by the sign of a mean of the gradients, with a step that is the same everywhere.

Chen et al. (2023), Algorithm 2, https://arxiv.org/abs/2302.06675
Paper -> here: m -> mu, beta_1 -> b1, beta_2 -> b2, eta -> learning_rate, lambda -> weight_decay.
Deviations: the direction is read off the new mean, which is the same (see `_lion`), so b2 = 0 is
not allowed. The modes "smooth" and "refined", which soften the sign, are optax's.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import NONNEGATIVE, Range, check_choice, checked
from gdjax.core.lift import descend, leafwise
from gdjax.optimizers.adam import zero_moments

MODES = ("hard", "smooth", "refined")
INSIDE = Range("in (0, 1)", lambda x: 0 < x < 1)


class Mean(NamedTuple):
    """What Lion remembers of one parameter."""

    mu: Array  # m, running mean of the gradient, shaped like the parameter


def _lion(grad, slots, param, count, *, b1, b2, smooth_beta=1.0, mode):
    mu = b2 * slots.mu + (1 - b2) * grad
    ratio = b1 / b2  # c = b1 m + (1 - b1) g, solved for the new m: the old one can be overwritten,
    c = ratio * mu + (1 - ratio) * grad  # where XLA would keep a copy of it for the direction
    direction = jnp.sign(c)  # of a complex number: its phase
    if mode == "smooth":  # tanh as such has poles in the complex plane
        soft = jnp.tanh(smooth_beta * jnp.abs(c)) * direction
        direction = soft if jnp.iscomplexobj(c) else jnp.tanh(smooth_beta * c)
    elif mode == "refined":
        direction = jnp.where(jnp.abs(c) < 1, c, direction)
    return direction, Mean(mu)


def zero_mean(param, mu_dtype=None) -> Mean:
    """Return a zero mean for one parameter, at least float32 unless a dtype is asked for."""
    return Mean(zero_moments(param, mu_dtype).mu)


def _numbers(name, b1, b2, mode, smooth_beta) -> dict:
    check_choice(f"{name}(mode=...)", mode, MODES)
    return dict(b1=b1, b2=b2) | (dict(smooth_beta=smooth_beta) if mode == "smooth" else {})


@checked(b2=INSIDE, smooth_beta=NONNEGATIVE)
def scale_by_lion(
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    *,
    mode: str = "hard",
    smooth_beta: Any = 1.0,
) -> Optimizer:
    """Replace the gradient by Lion's direction; the arguments are those of `lion`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_lion()
      >>> print(opt.update(jnp.array([4.0, -0.1, 0.0]), opt.init(jnp.zeros(3)))[0])
      [ 1. -1.  0.]
    """
    slots = functools.partial(zero_mean, mu_dtype=mu_dtype)
    return leafwise(_lion, slots, _numbers("scale_by_lion", b1, b2, mode, smooth_beta), mode=mode)


@checked(b2=INSIDE, smooth_beta=NONNEGATIVE)
def lion(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-3,
    mask: Any = None,
    *,
    mode: str = "hard",
    smooth_beta: Any = 1.0,
) -> Optimizer:
    """Step against the sign of a mean of the gradients, with decoupled weight decay.

    Good for: large batches on little memory.

    c = b1 mu + (1 - b1) g;  update = -learning_rate * (sign(c) + weight_decay * param);
    then mu = b2 mu + (1 - b2) g

    Every element moves by the learning rate, so it wants to be 3 to 10 times smaller than for
    `adamw`, and the weight decay larger by as much.

    Args:
      learning_rate: step size >= 0, in units of the parameters: a number, schedule or prefix tree,
        like all numbers below.
      b1: weight of the mean in the direction, in [0, 1).
      b2: decay of the mean, in (0, 1); rounding in the direction grows as b1 / b2.
      mu_dtype: dtype of the mean; None is float32, or float64 for float64 parameters.
      weight_decay: strength >= 0 of the decay, multiplied by the learning rate.
      mask: which leaves decay, see `adamw`.
      mode: "hard" is the sign; "smooth" is tanh(smooth_beta * c); "refined" is c where |c| < 1 and
        the sign elsewhere. Complex elements keep their phase in all of them.
      smooth_beta: steepness >= 0 for "smooth"; no hyperparameter of the other modes.

    Returns:
      An `Optimizer` whose `update` needs the parameters. State: 4 bytes per element.

    Raises:
      ValueError: if a concrete number is out of range or the mode unknown.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([1.0, 1.0])
      >>> opt = gdjax.lion(0.1, weight_decay=0.5)
      >>> print(opt.update(jnp.array([4.0, -0.1]), opt.init(params), params)[0])
      [-0.15  0.05]

    References:
      Chen et al. (2023), "Symbolic discovery of optimization algorithms", Algorithm 2.
    """
    slots = functools.partial(zero_mean, mu_dtype=mu_dtype)
    numbers = _numbers("lion", b1, b2, mode, smooth_beta)
    return descend(_lion, slots, numbers, learning_rate, weight_decay, mask, mode=mode)
