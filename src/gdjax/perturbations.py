"""Smooth any function by averaging it over random perturbations of its input.

Berthet et al. (2020), https://arxiv.org/abs/2002.08676. The gradient is the score function
estimator, in the form of the "magic box" of Foerster et al. (2018),
https://arxiv.org/abs/1802.05098, which gives unbiased derivatives of any order.
Deviation from optax: derivatives with respect to `sigma` are also correct (optax omits the factor
1/sigma of the density).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import POSITIVE, as_float_leaves, check_integer, checked
from gdjax.core.numerics import cast, compute_dtype, is_inexact, scalar_dtype, with_value
from gdjax.core.types import Number, PyTree

if TYPE_CHECKING:
    from jax.typing import DTypeLike


class Noise(Protocol):
    """A distribution for `make_perturbed_fun`."""

    def sample(
        self, key: Array, sample_shape: tuple[int, ...] = (), dtype: DTypeLike = float
    ) -> Array:
        """Return independent samples of a shape and dtype."""
        ...

    def log_prob(self, inputs: ArrayLike) -> Array:
        """Return the log density, up to a constant, element by element."""
        ...


@dataclasses.dataclass(frozen=True)
class Normal:
    """The standard normal distribution.

    Example:
      >>> print(Normal().log_prob(2.0))
      -2.0
    """

    def sample(
        self, key: Array, sample_shape: tuple[int, ...] = (), dtype: DTypeLike = float
    ) -> Array:
        """Return independent samples of a shape and dtype."""
        return jax.random.normal(key, sample_shape, dtype)

    def log_prob(self, inputs: ArrayLike) -> Array:
        """Return the log density, up to a constant."""
        return -0.5 * jnp.asarray(inputs) ** 2


@dataclasses.dataclass(frozen=True)
class Gumbel:
    """The standard Gumbel distribution, for which a perturbed argmax is a softmax.

    Example:
      >>> print(Gumbel().log_prob(0.0))
      -1.0
    """

    def sample(
        self, key: Array, sample_shape: tuple[int, ...] = (), dtype: DTypeLike = float
    ) -> Array:
        """Return independent samples of a shape and dtype."""
        return jax.random.gumbel(key, sample_shape, dtype)

    def log_prob(self, inputs: ArrayLike) -> Array:
        """Return the log density."""
        inputs = jnp.asarray(inputs)
        return -inputs - jnp.exp(-inputs)


@checked(sigma=POSITIVE)
def make_perturbed_fun(
    fun: Callable[[PyTree], PyTree],
    num_samples: int = 1000,
    sigma: Number = 0.1,
    noise: Noise = Gumbel(),  # noqa: B008, it is frozen
    use_baseline: bool = True,
) -> Callable[[Array, PyTree], PyTree]:
    """Return an estimate of E[fun(x + sigma * noise)] with derivatives of any order.

    Only values of `fun` are used, so it may be a sort, an argmax or a solver. The standard error is
    proportional to 1/sqrt(num_samples), and that of the gradient also to 1/sigma.

    Args:
      fun: a function from a tree of float arrays to a tree of arrays.
      num_samples: number of perturbed inputs >= 1, which are evaluated together under `vmap`.
      sigma: scale > 0 of the perturbations, one number; may be traced and differentiated.
      noise: a distribution with `sample` and `log_prob`, such as `Gumbel()` or `Normal()`.
      use_baseline: whether to subtract the value at x before weighting, which lowers the variance
        of the gradient and does not change its mean.

    Returns:
      A function of (key, x) that returns the mean of the results of `fun`, in at least float32.

    Raises:
      ValueError: if `num_samples` or `sigma` is out of range.
      TypeError: from the function, if a leaf of x is not a float array.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def hard_max(x): return jax.nn.one_hot(jnp.argmax(x), 3)
      >>> soft = make_perturbed_fun(hard_max, num_samples=20_000, sigma=0.5)
      >>> x = jnp.array([0.0, 0.5, 1.0])
      >>> print(soft(jax.random.key(0), x).round(1), jax.nn.softmax(x / 0.5).round(1))
      [0.1 0.2 0.7] [0.1 0.2 0.7]
    """
    num_samples = check_integer("make_perturbed_fun(num_samples=...)", num_samples)

    def perturbed_fun(key: Array, x: PyTree) -> PyTree:
        leaves, treedef = as_float_leaves("the input of a perturbed function", x)
        for leaf in leaves:
            if jnp.iscomplexobj(leaf):
                raise TypeError(
                    f"the input of a perturbed function must be real, got {leaf.dtype}."
                )
        fixed = [jax.lax.stop_gradient(jnp.asarray(leaf)) for leaf in leaves]
        scale = jnp.asarray(sigma, scalar_dtype())
        fixed_scale = jax.lax.stop_gradient(scale)
        baseline = _wide(fun(treedef.unflatten(fixed))) if use_baseline else None

        def one(key):
            log_prob, shifted = jnp.zeros((), scalar_dtype()), []
            for k, leaf, still in zip(jax.random.split(key, len(leaves)), leaves, fixed):
                dtype = compute_dtype(still)
                s, s_still = scale.astype(dtype), fixed_scale.astype(dtype)
                z = noise.sample(k, still.shape, dtype)
                y = cast(still, dtype) + s_still * z
                shifted.append(cast(y, still.dtype))
                # (y - x) / sigma with y constant: its value is z, but it depends on x and sigma
                wide = cast(leaf, dtype)
                z = (s_still * z - with_value(wide, jnp.zeros_like(wide))) / s
                log_prob += jnp.sum(noise.log_prob(z) - jnp.log(s)).astype(log_prob.dtype)
            # its value is 1, and its derivative that of log_prob
            box = jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))
            out = _wide(fun(treedef.unflatten(shifted)))
            if baseline is None:
                return jax.tree.map(lambda v: box.astype(v.dtype) * v, out)
            return jax.tree.map(
                lambda v, b: b + box.astype(v.dtype) * jnp.where(v == b, 0, v - b), out, baseline
            )

        samples = jax.vmap(one)(jax.random.split(key, num_samples))
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), samples)

    return perturbed_fun


def _wide(tree: PyTree) -> PyTree:
    """Return arrays in the dtype of their average, at least float32, also for integers."""

    def widen(v):
        v = jnp.asarray(v)
        return v.astype(compute_dtype(v) if is_inexact(v.dtype) else scalar_dtype())

    return jax.tree.map(widen, tree)
