"""Make any function differentiable: average it over random perturbations of its input.

Berthet et al. (2020), https://arxiv.org/abs/2002.08676; the gradient is the score function
estimator, written as the "magic box" of Foerster et al. (2018), https://arxiv.org/abs/1802.05098,
so that derivatives of any order are right on average.
Deviation from optax: `sigma` may be differentiated too (optax leaves out the density's 1/sigma).
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import POSITIVE, as_float_leaves, checked
from gdjax.core.numerics import cast, compute_dtype, is_inexact, scalar_dtype


class Noise(Protocol):
    """What `make_perturbed_fun` needs of a distribution."""

    def sample(self, key: Array, sample_shape: Any = (), dtype: Any = float) -> Array:
        """Return independent samples of a shape and dtype."""
        ...

    def log_prob(self, inputs: Array) -> Array:
        """Return the log density, up to a constant, element by element."""
        ...


@dataclasses.dataclass(frozen=True)
class Normal:
    """The standard normal distribution.

    Example:
      >>> print(Normal().log_prob(2.0))
      -2.0
    """

    def sample(self, key: Array, sample_shape: Any = (), dtype: Any = float) -> Array:
        """Return independent samples of a shape and dtype."""
        return jax.random.normal(key, sample_shape, dtype)

    def log_prob(self, inputs: Array) -> Array:
        """Return the log density, up to a constant."""
        return -0.5 * inputs**2


@dataclasses.dataclass(frozen=True)
class Gumbel:
    """The standard Gumbel distribution: with it, a perturbed argmax is a softmax.

    Example:
      >>> print(Gumbel().log_prob(0.0))
      -1.0
    """

    def sample(self, key: Array, sample_shape: Any = (), dtype: Any = float) -> Array:
        """Return independent samples of a shape and dtype."""
        return jax.random.gumbel(key, sample_shape, dtype)

    def log_prob(self, inputs: Array) -> Array:
        """Return the log density."""
        return -inputs - jnp.exp(-inputs)


@checked(sigma=POSITIVE)
def make_perturbed_fun(
    fun: Callable[[Any], Any],
    num_samples: int = 1000,
    sigma: Any = 0.1,
    noise: Noise = Gumbel(),  # noqa: B008, it is frozen
    use_baseline: bool = True,
) -> Callable[[Array, Any], Any]:
    """Return a smooth estimate of E[fun(x + sigma * noise)], of which every derivative exists.

    Only values of `fun` are used, so it may be a sort, an argmax or a solver. The standard error
    falls with 1/sqrt(num_samples) and, for the gradient, grows with 1/sigma.

    Args:
      fun: a function of a tree of float arrays, to a tree of arrays.
      num_samples: how many perturbed inputs, >= 1, all at once under `vmap`.
      sigma: size > 0 of the perturbations, one number; may be traced and differentiated.
      noise: a distribution with `sample` and `log_prob`, such as `Gumbel()` or `Normal()`.
      use_baseline: whether to take the value at x off before weighting, which leaves the gradient's
        mean as it is and lowers its variance.

    Returns:
      A function of (key, x), to what `fun` returns, in at least float32.

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
    try:
        num_samples = operator.index(num_samples)
    except TypeError as error:
        text = f"make_perturbed_fun(num_samples=...) must be an integer, got {num_samples!r}."
        raise ValueError(text) from error
    if num_samples < 1:
        raise ValueError(f"make_perturbed_fun(num_samples=...) must be >= 1, got {num_samples}.")

    def perturbed_fun(key: Array, x: Any) -> Any:
        leaves, treedef = as_float_leaves("the input of a perturbed function", x)
        for leaf in leaves:
            if jnp.iscomplexobj(leaf):
                raise TypeError(f"the input of a perturbed function must be real, got {leaf.dtype}")
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
                # (y - x) / sigma with y fixed: z in value, with the derivatives by x and sigma
                z = (s_still * z + (cast(still, dtype) - leaf)) / s
                log_prob += jnp.sum(noise.log_prob(z) - jnp.log(s)).astype(log_prob.dtype)
            box = jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))  # 1, with derivatives
            out = _wide(fun(treedef.unflatten(shifted)))
            if baseline is None:
                return jax.tree.map(lambda v: box.astype(v.dtype) * v, out)
            return jax.tree.map(lambda v, b: b + box.astype(v.dtype) * (v - b), out, baseline)

        samples = jax.vmap(one)(jax.random.split(key, num_samples))
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), samples)

    return perturbed_fun


def _wide(tree: Any) -> Any:
    """Return arrays to average: float32 at least, also where they are integers or halves."""

    def widen(v):
        v = jnp.asarray(v)
        return v.astype(compute_dtype(v) if is_inexact(v.dtype) else scalar_dtype())

    return jax.tree.map(widen, tree)
