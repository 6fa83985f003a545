"""Optimize a complex parameter as two real ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.evaluation import eval_params
from gdjax.core.lift import treewise
from gdjax.core.trees import derived
from gdjax.core.types import OptState, Pair, Params, PyTree


class SplitRealAndImaginaryArrays(NamedTuple):
    """A complex leaf in the tree that the wrapped optimizer sees."""

    real: Array
    imaginary: Array


class SplitRealAndImaginary(NamedTuple):
    """What the wrapper remembers."""

    inner: OptState  # state of the optimizer

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the weights that the optimizer evaluates with."""
        return merge(eval_params(self.inner, split(params)))


def split(tree: PyTree) -> PyTree:
    """Return the tree with a pair of real arrays for each complex one."""

    def pair(x):
        x = jnp.asarray(x)
        return SplitRealAndImaginaryArrays(x.real, x.imag) if jnp.iscomplexobj(x) else x

    return jax.tree.map(pair, tree)


def merge(tree: PyTree) -> PyTree:
    """Return the tree with a complex array for each pair."""

    def is_pair(x):
        return isinstance(x, SplitRealAndImaginaryArrays)

    return jax.tree.map(lambda x: jax.lax.complex(*x) if is_pair(x) else x, tree, is_leaf=is_pair)


def _split_real_and_imaginary(grads, slots, params, count, *, inner, **extra):
    params = None if params is None else split(params)
    updates, state = inner(split(grads), slots.inner, params, **extra)
    return merge(updates), SplitRealAndImaginary(state)


@strict()
def split_real_and_imaginary(inner: Pair) -> Optimizer:
    """Let an optimizer see each complex parameter as two separate real ones.

    gdjax's own optimizers take complex parameters directly: one second moment, of :math:`|g|^2`,
    holds for both parts, so that a step does not depend on rotations of the complex plane. With
    this wrapper each part has its own second moment, as in torch.

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

    def slots(params: Params) -> SplitRealAndImaginary:
        return SplitRealAndImaginary(init(derived(split, params)))

    return treewise(_split_real_and_imaginary, slots, inner=update)
