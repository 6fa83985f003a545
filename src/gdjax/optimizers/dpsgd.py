"""Gradient descent with differential privacy: clip each example's gradient, average, add noise.

Abadi et al. (2016), Algorithm 1, https://arxiv.org/abs/1607.00133
Paper -> here: C -> l2_norm_clip, sigma -> noise_multiplier, eta -> learning_rate.
Deviations: none.
"""

from __future__ import annotations

from gdjax.core.base import Optimizer
from gdjax.core.chain import chain, identity
from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.types import Hyperparam, Key, Scalar
from gdjax.optimizers.sgd import trace
from gdjax.transforms.privacy import differentially_private_aggregate
from gdjax.transforms.scale import scale_by_learning_rate


@checked(l2_norm_clip=NONNEGATIVE, noise_multiplier=NONNEGATIVE)
def dpsgd(
    learning_rate: Hyperparam,
    l2_norm_clip: Scalar,
    noise_multiplier: Scalar,
    seed: Key,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
) -> Optimizer:
    r"""Descend with differential privacy, given the gradients of the single examples.

    Good for: training on private data.

    Evidence: theory. The privacy that it guarantees is proven (Abadi et al. 2016, arXiv
    1607.00133).

    With the gradients :math:`g_{t,i}` of B examples, their norms over all parameters, and standard
    normal noise :math:`z_t`:

    .. math::

       \tilde g_t &= \frac{1}{B} \Bigl(\sum_{i=1}^B g_{t,i} \min(1, C / \|g_{t,i}\|)
                     + \sigma C z_t\Bigr) \\
       b_t &= \mu b_{t-1} + \tilde g_t \\
       x_t &= x_{t-1} - \eta_t b_t

    The second line is left out without momentum, :math:`b_t = \tilde g_t`.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree.
      l2_norm_clip: :math:`C` >= 0, see `differentially_private_aggregate`, like the next two.
      noise_multiplier: :math:`\sigma` >= 0.
      seed: an int or a `jax.random.key`, see `key` there.
      momentum: :math:`\mu`, decay of a sum of the gradients, in [0, 1), or None for none.
      nesterov: whether to look one step ahead, :math:`\tilde g_t + \mu b_t` in place of
        :math:`b_t`.

    Returns:
      An `Optimizer`.
      State: 4 bytes per element with momentum, :math:`b_t` (``trace``), else none; a key.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.dpsgd(0.5, l2_norm_clip=1.0, noise_multiplier=0.1, seed=0)
      >>> params, x = jnp.zeros(1), jnp.array([[1.0], [3.0], [5.0]])
      >>> state = opt.init(params)
      >>> per_example = jax.vmap(jax.grad(lambda p, x: jnp.sum((p - x) ** 2) / 2), (None, 0))
      >>> for _ in range(30):
      ...     updates, state = opt.update(per_example(params, x), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(bool(jnp.abs(params - 3.0) < 0.5))
      True

    References:
      Abadi et al. (2016), "Deep learning with differential privacy", Algorithm 1.
    """
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, seed),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )
