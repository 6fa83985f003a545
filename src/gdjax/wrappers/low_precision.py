"""Parameters of bfloat16 and float16 that learn from steps smaller than their last digit.

A parameter of 1 in bfloat16 stays 1 when 0.001 is subtracted, since the next number below it is
0.996. Three remedies, for any optimizer, in the order of what they remember for each parameter:

- nothing: round at random, so that the parameter is right in the mean (Gupta et al. 2015, section
  3, https://arxiv.org/abs/1502.02551; for bfloat16 training Zamirai et al. 2020, Algorithm 1,
  https://arxiv.org/abs/2010.06192);
- what rounding took away, in the parameter's dtype: Kahan's (1965) compensated sum (Zamirai et al.,
  Algorithm 2, https://doi.org/10.1145/363707.363723);
- the same in float32: master weights (Micikevicius et al. 2017, section 3.1,
  https://arxiv.org/abs/1710.03740), kept as their difference from the parameters.

All of them give updates that are numbers of the parameter's dtype; see `gdjax.core.residual`.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.blocks import map_blocks
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.codecs import decoded
from gdjax.core.evaluation import eval_params
from gdjax.core.every import either
from gdjax.core.fits import NEEDS_PARAMS
from gdjax.core.hyper import path_name
from gdjax.core.keys import fresh_key
from gdjax.core.lift import treewise
from gdjax.core.numerics import cast_like, compute_dtype, rounded, safe_divide, with_value
from gdjax.core.protocols import states_in, took_step
from gdjax.core.residual import StoredIn, exact_params, land, low_dtypes, no_residual
from gdjax.core.types import Key, OptState, P, Pair, Params, PyTree, Updates


class Compensated(NamedTuple):
    """What compensated parameters remember."""

    residual: PyTree  # exact minus stored parameter, shaped like it; None for at least float32
    inner: OptState  # state of the optimizer

    iterates = ("residual",)

    def eval_params(self, params: Params, count: Array, hyperparams: dict[str, Any]) -> Params:
        """Return the weights that the optimizer evaluates with, in the dtypes of `params`."""
        exact = exact_params(params, self.residual)
        found = eval_params(self.inner, exact)
        return params if found is exact else cast_like(found, params)


class StochasticRounding(NamedTuple):
    """What stochastic rounding remembers."""

    key: Array  # source of the bits, a typed key
    dtypes: PyTree  # `StoredIn` for each parameter of less than float32, without leaves
    inner: OptState  # state of the optimizer


# --- compensated ----------------------------------------------------------------------------------


def _compensated(name, grads, slots, params, inner, extra):
    if params is None:
        raise ValueError(f"{name} needs {NEEDS_PARAMS}")
    exact = exact_params(params, slots.residual)
    updates, state = inner(grads, slots.inner, exact, **extra)
    updates, residual = land(params, exact, updates, slots.residual)
    return updates, Compensated(residual, state)


def _with_kahan(grads, slots, params, count, *, inner, **extra):
    return _compensated("with_kahan", grads, slots, params, inner, extra)


def _with_master_weights(grads, slots, params, count, *, inner, **extra):
    return _compensated("with_master_weights", grads, slots, params, inner, extra)


def _fresh(init: InitFn, low: bool, params: Params) -> Compensated:
    return Compensated(no_residual(params, low=low), init(jax.tree.map(_widened, params)))


def _widened(x):
    """Return what the optimizer sees of a parameter, or its shape for that of a shape."""
    wide = compute_dtype(x)
    if x.dtype == wide or not isinstance(x, jax.ShapeDtypeStruct):
        return x if x.dtype == wide else x.astype(wide)
    return jax.ShapeDtypeStruct(x.shape, wide, sharding=x.sharding)


@strict()
def with_kahan(optimizer: Pair) -> Optimizer:
    r"""Let parameters of less than float32 learn, by Kahan's compensated summation.

    .. math::

       \tilde x_t &= x_{t-1} + r_{t-1} + u_t \\
       x_t &= \operatorname{round}(\tilde x_t) \\
       r_t &= \operatorname{round}(\tilde x_t - x_t)

    where the optimizer computes its update :math:`u_t` at the exact parameters :math:`x_{t-1} +
    r_{t-1}`. A bfloat16 parameter with its residual has 16 to 17 binary digits: updates of less
    than 2^-18 of it, a 250000th, are still lost; with float16, 22 to 23. `with_master_weights` has
    24.

    Evidence: independent. Training in pure bfloat16 comes within 0.2 % of the accuracy of float32
    with it (Zamirai et al. 2020, arXiv 2010.06192).

    Args:
      optimizer: any `(init, update)` pair. Nothing may change the updates after the wrapper, so put
        what clips, scales or decays inside. Guards and accumulation may be inside or outside.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 2 bytes for each element of less than float32, none for others, in addition to that of
      `optimizer`, which believes that all parameters are of at least float32. `gdjax.master_params`
      reads the exact ones.

    Raises:
      ValueError: if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_kahan(gdjax.sgd(1e-3))
      >>> params = jnp.ones(1, jnp.bfloat16)
      >>> state = opt.init(params)
      >>> for _ in range(200):
      ...     updates, state = opt.update(jnp.ones(1, jnp.bfloat16), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params)  # without the wrapper 1
      [0.800781]

    References:
      Zamirai et al. (2020), "Revisiting BFloat16 training", Algorithm 2.
    """
    init, update = with_extra_args_support(optimizer)
    return treewise(_with_kahan, functools.partial(_fresh, init, True), inner=update)


@strict()
def with_master_weights(optimizer: Pair) -> Optimizer:
    """Train float32 parameters behind those of less than float32, which are their rounded values.

    The optimizer sees the float32 parameters, in its weight decay, too, and gradients cast to
    float32. With the gradients of the rounded parameters it takes bit for bit the steps that it
    takes in float32.

    The state holds the difference of the float32 parameter from the stored one, which takes as many
    bytes as a copy. It is right also if something else moves the parameters, such as a projection
    or weights put in from an average: then the float32 parameters move by as much.

    Evidence: independent. It is part of mixed-precision training (Micikevicius et al. 2017, arXiv
    1710.03740); without it, accuracy is lost (Zamirai et al. 2020, arXiv 2010.06192).

    Args:
      optimizer: see `with_kahan`.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: 4 bytes for each element of less than float32, none for others, in addition to that of
      `optimizer`. `gdjax.master_params` reads the float32 parameters; `gdjax.eval_params` keeps the
      dtypes.

    Raises:
      ValueError: if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_master_weights(gdjax.sgd(1e-3))
      >>> params = jnp.ones(1, jnp.bfloat16)
      >>> state = opt.init(params)
      >>> for _ in range(200):
      ...     updates, state = opt.update(jnp.ones(1, jnp.bfloat16), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(params, gdjax.master_params(state, params).round(5))
      [0.800781] [0.8]

    References:
      Micikevicius et al. (2017), "Mixed precision training".
    """
    init, update = with_extra_args_support(optimizer)
    return treewise(_with_master_weights, functools.partial(_fresh, init, False), inner=update)


def master_params(state: OptState, params: P) -> P:
    """Return the parameters that `with_master_weights` or `with_kahan` trains behind the stored.

    Args:
      state: the state of any optimizer, at any nesting.
      params: the parameters that the state belongs to.

    Returns:
      A tree like `params`, in float32 where the state has more digits of a parameter than it has
      itself, else as they are.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
      >>> state = gdjax.with_kahan(gdjax.sgd(0.1)).init(params)
      >>> print(gdjax.master_params(state, params)["a"].dtype)
      float32
    """
    for _, node in states_in(state):
        if isinstance(node.slots, Compensated):
            params = exact_params(params, decoded(node.slots.residual))
    return params


# --- stochastic -----------------------------------------------------------------------------------


def _with_stochastic_rounding(grads, slots, params, count, *, inner, **extra):
    if params is None:
        raise ValueError(f"with_stochastic_rounding needs {NEEDS_PARAMS}")
    updates, state = inner(grads, slots.inner, params, **extra)

    def draw():
        key, sample = jax.random.split(slots.key)
        return _at_random(params, updates, slots.dtypes, sample), key

    took = took_step(state)
    if took is None:
        updates, key = draw()
    else:  # SAM's climbs are no steps, but they move the parameters
        moves = [jnp.any(u != 0) for u in jax.tree.leaves(updates)]
        due = functools.reduce(jnp.logical_or, moves, took)
        updates, key = either(due, draw, lambda: (updates, slots.key))
    return updates, StochasticRounding(key, slots.dtypes, state)


def _at_random(params: Params, updates: Updates, dtypes: PyTree, key: Array) -> Updates:
    """Return updates that take the parameters of less than float32 to param + update in the mean.

    The bits of a parameter depend on the key and the parameter's path alone.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(dtypes, is_leaf=_is_entry)
    low = [i for i, (_, entry) in enumerate(paths) if entry is not None]
    if not low:
        return updates
    names = [zlib.crc32(path_name(paths[i][0]).encode()) for i in low]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array(names, jnp.uint32))
    given, moved = treedef.flatten_up_to(params), treedef.flatten_up_to(updates)
    rows = [(paths[i][1], given[i], moved[i], k) for i, k in zip(low, keys, strict=True)]
    kinds = [(entry.dtype, param.shape) for entry, param, _, _ in rows]
    for i, update in zip(low, map_blocks(_move_at_random, rows, kinds), strict=True):
        moved[i] = update
    return treedef.unflatten(moved)


def _is_entry(x: object) -> bool:
    return x is None or isinstance(x, StoredIn)


@jax.jit
def _move_at_random(row):
    """Return one of the two updates whose ends enclose param + update, the nearer one more often.

    Rounded away from it, both are numbers of the parameter's dtype, and their ends, the sums
    rounded to it, are known. Almost always these ends are neighbors.
    """
    stored, param, update, key = row
    dtype = stored.dtype
    param, update = rounded(param, dtype), update.astype(param.dtype)
    near = rounded(param + update, dtype)
    rest = update - (near - param)  # and not param + update - near, which loses small updates
    below = _next(near, -jnp.inf, dtype, where=rest < 0)
    above = _next(near, jnp.inf, dtype, where=rest > 0)
    down, up = rounded(below - param, dtype), rounded(above - param, dtype)
    down = _next(down, -jnp.inf, dtype, where=down > below - param)
    up = _next(up, jnp.inf, dtype, where=up < above - param)
    low, high = (rounded(param + step, dtype) - param for step in (down, up))
    share = safe_divide(update - low, high - low)
    bits = jax.random.bits(key, param.shape, jnp.uint32).astype(param.dtype)
    step = jnp.where(bits * 2.0**-32 < share, up, down)
    return with_value(update, jnp.where(jnp.isfinite(near), step, near - param))


def _next(x, towards, dtype, *, where):
    """Return the next number of `dtype` in one direction where a condition holds, else x."""
    neighbor = jnp.nextafter(x.astype(dtype), jnp.asarray(towards, dtype)).astype(x.dtype)
    return jnp.where(where, neighbor, x)


def _fresh_random(init: InitFn, key: Key, params: Params) -> StochasticRounding:
    return StochasticRounding(fresh_key(key), low_dtypes(params), init(params))


@strict()
def with_stochastic_rounding(optimizer: Pair, key: Key) -> Optimizer:
    r"""Let parameters of less than float32 learn by rounding them at random, right in the mean.

    With :math:`a \le x_{t-1} + u_t \le b` the two numbers of the dtype that enclose the exact one:

    .. math::

       P(x_t = b) &= \frac{x_{t-1} + u_t - a}{b - a} \\
       P(x_t = a) &= 1 - P(x_t = b)

    so that the mean is right. It costs no memory, but adds noise: the variance
    of one step is at most a quarter of the squared distance of the two numbers, 2^-16 of the
    squared parameter in bfloat16. Updates of any size count, down to 2^-32 of this distance.

    The random bits of a parameter are made from the key, the number of the step and the path of the
    parameter: they are the same on any number of devices, and after a restart. Calls in which a
    guard or an accumulation inside takes no step use no bits.

    Evidence: independent. Training in pure bfloat16 comes within 0.2 % of the accuracy of float32
    with it (Zamirai et al. 2020, arXiv 2010.06192).

    Args:
      optimizer: any `(init, update)` pair. Nothing may change the updates after the wrapper, so put
        what clips, scales or decays inside. Guards and accumulation may be inside or outside.
      key: an int or a `jax.random.key`. It is kept in the state, so vmap over keys (or ints) gives
        runs with different bits.

    Returns:
      An `Optimizer` whose `update` needs the parameters.
      State: one key, in addition to that of `optimizer`. Parameters of at least float32 are updated
      as without the wrapper.

    Raises:
      TypeError: at `init`, if the key is an array of keys or of numbers.
      ValueError: if `update` is called without parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_stochastic_rounding(gdjax.sgd(1e-3), key=0)
      >>> params = jnp.ones(1000, jnp.bfloat16)
      >>> state = opt.init(params)
      >>> for _ in range(200):
      ...     updates, state = opt.update(jnp.ones(1000, jnp.bfloat16), state, params)
      ...     params = gdjax.apply_updates(params, updates)
      >>> print(f"{params.astype(jnp.float32).mean():.2f}")  # without the wrapper 1.00
      0.80

    References:
      Gupta et al. (2015), "Deep learning with limited numerical precision".
    """
    init, update = with_extra_args_support(optimizer)
    slots = functools.partial(_fresh_random, init, key)
    return treewise(_with_stochastic_rounding, slots, inner=update)
