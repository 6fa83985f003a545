"""Optimize a complex parameter as two real ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.evaluation import eval_params
from gdjax.core.treewise import treewise


class SplitRealAndImaginaryArrays(NamedTuple):
    """What stands for a complex leaf in the tree that the inner optimizer sees."""

    real: Array
    imaginary: Array


class SplitRealAndImaginary(NamedTuple):
    """What the wrapper remembers."""

    inner: Any  # state of the optimizer

    def eval_params(self, params, count, hyperparams):
        """Return what the optimizer would evaluate with."""
        return merge(eval_params(self.inner, split(params)))


def split(tree: Any) -> Any:
    """Return the tree with a pair of real arrays for each complex one."""

    def pair(x):
        x = jnp.asarray(x)
        return SplitRealAndImaginaryArrays(x.real, x.imag) if jnp.iscomplexobj(x) else x

    return jax.tree.map(pair, tree)


def merge(tree: Any) -> Any:
    """Return the tree with a complex array for each pair."""

    def is_pair(x):
        return isinstance(x, SplitRealAndImaginaryArrays)

    return jax.tree.map(lambda x: jax.lax.complex(*x) if is_pair(x) else x, tree, is_leaf=is_pair)


def _split_real_and_imaginary(grads, slots, params, count, *, inner, **extra):
    params = None if params is None else split(params)
    updates, state = inner(split(grads), slots.inner, params, **extra)
    return merge(updates), SplitRealAndImaginary(state)


def split_real_and_imaginary(inner: Any) -> Optimizer:
    """Let an optimizer see each complex parameter as two real ones, of equal rights.

    gdjax's own optimizers take complex parameters as they are: then one second moment, of |g|^2,
    holds for both parts, so that a step does not depend on how the complex plane is turned. With
    this wrapper each part has its own, as in torch.

    Args:
      inner: any `(init, update)` pair, also one for real parameters only. Paths to its parameters
        end in `real` and `imaginary`.

    Returns:
      An `Optimizer`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([1 + 1j])
      >>> for opt in (gdjax.adam(0.1), gdjax.split_real_and_imaginary(gdjax.adam(0.1))):
      ...     print(opt.update(jnp.array([3 - 4j]), opt.init(params))[0])
      [-0.06+0.08j]
      [-0.1+0.1j]
    """
    init, update = with_extra_args_support(inner)
    return treewise(
        _split_real_and_imaginary,
        lambda params: SplitRealAndImaginary(init(split(params))),
        inner=update,
    )
