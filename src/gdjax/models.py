"""Small models as `(init, apply)` pairs, for examples, tests and benchmarks.

Parameters are dicts of arrays. Inputs may have any number of leading batch axes, including none.
gdjax is not a neural network library: use the models of any other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, check_integer, checked
from gdjax.core.types import Params

if TYPE_CHECKING:
    from jax.typing import DTypeLike

NORMAL = initializers.lecun_normal()


class Model(NamedTuple):
    """A pair of pure functions.

    Attributes:
      init: `init(key)` returns the parameters.
      apply: `apply(params, x)` returns the outputs; the leading axes of `x` are batch axes.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, ArrayLike], Array]


@checked(bias_scale=NONNEGATIVE)
def linear(
    in_features: int,
    out_features: int,
    *,
    kernel_init: initializers.Initializer = NORMAL,
    bias_scale: float = 0.01,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Map x of shape (..., in_features) to `x @ kernel + bias`, (..., out_features).

    Args:
      in_features: size >= 1 of the inputs' last axis.
      out_features: size >= 1 of the outputs' last axis.
      kernel_init: `kernel_init(key, shape, dtype)`, as in `jax.nn.initializers`. The default is a
        normal distribution, truncated at two standard deviations, with standard deviation
        in_features**-0.5.
      bias_scale: standard deviation >= 0 of the normal distribution of the biases.
      dtype: dtype of the parameters. Outputs have the promoted dtype of parameters and inputs.

    Returns:
      A `Model` with parameters `{"kernel": (in_features, out_features), "bias": (out_features,)}`.

    Raises:
      ValueError: if a size is not an integer >= 1; in `apply`, if the last axis of the inputs does
        not have the size `in_features`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = linear(3, 2)
      >>> params = model.init(jax.random.key(0))
      >>> model.apply(params, jnp.ones((5, 3))).shape
      (5, 2)
    """
    shape = (
        check_integer("linear(in_features=...)", in_features),
        check_integer("linear(out_features=...)", out_features),
    )

    def init(key: Array) -> dict[str, Array]:
        return _kernel_and_bias(key, shape, kernel_init, bias_scale, dtype)

    def apply(params: dict[str, Array], x: ArrayLike) -> Array:
        x = _inputs("linear", x, shape[:1], params["kernel"])
        return _add_bias(x @ params["kernel"], params["bias"])

    return Model(init, apply)


@checked(bias_scale=NONNEGATIVE)
def mlp(
    sizes: Sequence[int],
    activation: Callable[[Array], Array] = jax.nn.relu,
    *,
    kernel_init: initializers.Initializer = NORMAL,
    bias_scale: float = 0.01,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Stack linear layers, with an activation after each but the last.

    Args:
      sizes: the sizes of inputs, hidden layers and outputs, at least two integers.
      activation: an elementwise function.
      kernel_init: see `linear`.
      bias_scale: see `linear`.
      dtype: see `linear`.

    Returns:
      A `Model` from (..., sizes[0]) to (..., sizes[-1]) with parameters
      `{"linear_0": {"kernel": ..., "bias": ...}, "linear_1": ...}`.

    Raises:
      ValueError: if there are fewer than two sizes or one is not an integer >= 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = mlp([64, 32, 10])
      >>> params = model.init(jax.random.key(0))
      >>> params["linear_1"]["kernel"].shape, model.apply(params, jnp.ones((5, 64))).shape
      ((32, 10), (5, 10))
    """
    sizes = [check_integer("mlp(sizes=...)", size) for size in sizes]
    if len(sizes) < 2:
        raise ValueError(f"mlp(sizes=...) needs the sizes of inputs and outputs, got {sizes}.")
    layer = functools.partial(linear, kernel_init=kernel_init, bias_scale=bias_scale, dtype=dtype)
    layers = {
        f"linear_{i}": layer(*pair)
        for i, pair in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    }

    def init(key: Array) -> Params:
        return _init_all(key, layers)

    def apply(params: Params, x: ArrayLike) -> Array:
        for i, (name, layer) in enumerate(layers.items()):
            x = layer.apply(params[name], activation(jnp.asarray(x)) if i else x)
        return jnp.asarray(x)

    return Model(init, apply)


@checked(bias_scale=NONNEGATIVE)
def convnet(
    image_shape: tuple[int, int, int],
    channels: Sequence[int],
    out_features: int,
    activation: Callable[[Array], Array] = jax.nn.relu,
    *,
    kernel_size: int = 3,
    stride: int = 2,
    kernel_init: initializers.Initializer = NORMAL,
    bias_scale: float = 0.01,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Stack strided convolutions with an activation after each, then one linear layer.

    Args:
      image_shape: (height, width, channels) of one input.
      channels: number of output channels of each convolution; at least one.
      out_features: size of the outputs' last axis.
      activation: an elementwise function.
      kernel_size: height and width of the kernels. Images are padded with zeros.
      stride: the factor by which each convolution divides height and width, rounding up.
      kernel_init: see `linear`.
      bias_scale: see `linear`.
      dtype: see `linear`.

    Returns:
      A `Model` from (..., height, width, channels) to (..., out_features) with parameters
      `{"conv_0": {"kernel": (kernel_size, kernel_size, in, out), "bias": (out,)}, ...,
      "linear": {"kernel": ..., "bias": ...}}`.

    Raises:
      ValueError: if a size is not an integer >= 1, or `image_shape` does not have three of them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = convnet((8, 8, 1), [4, 8], 10)
      >>> params = jax.eval_shape(model.init, jax.random.key(0))
      >>> params["conv_1"]["kernel"].shape
      (3, 3, 4, 8)
      >>> jax.eval_shape(model.apply, params, jnp.ones((5, 8, 8, 1))).shape
      (5, 10)
    """
    shape = tuple(check_integer("convnet(image_shape=...)", n) for n in image_shape)
    channels = [check_integer("convnet(channels=...)", n) for n in channels]
    if len(shape) != 3:
        raise ValueError(
            f"convnet(image_shape=...) must be (height, width, channels), got {shape}."
        )
    if not channels:
        raise ValueError("convnet(channels=...) needs at least one number, got [].")
    kernel_size = check_integer("convnet(kernel_size=...)", kernel_size)
    stride = check_integer("convnet(stride=...)", stride)
    out_features = check_integer("convnet(out_features=...)", out_features)

    *sides, depth = shape
    layers = {}
    for i, out in enumerate(channels):
        kernel = (kernel_size, kernel_size, depth, out)
        layers[f"conv_{i}"] = _conv(kernel, stride, kernel_init, bias_scale, dtype)
        sides, depth = [math.ceil(side / stride) for side in sides], out
    features = math.prod(sides) * depth
    last = linear(
        features, out_features, kernel_init=kernel_init, bias_scale=bias_scale, dtype=dtype
    )

    def init(key: Array) -> Params:
        return _init_all(key, layers | {"linear": last})

    def apply(params: Params, x: ArrayLike) -> Array:
        x = _inputs("convnet", x, shape, params["linear"]["kernel"])
        batch = x.shape[:-3]
        x = x.reshape(math.prod(batch), *shape)  # a convolution has one batch axis
        for name, layer in layers.items():
            x = activation(layer.apply(params[name], x))
        return last.apply(params["linear"], x.reshape(*batch, features))

    return Model(init, apply)


def _conv(
    shape: tuple[int, ...],
    stride: int,
    kernel_init: initializers.Initializer,
    bias_scale: float,
    dtype: DTypeLike,
) -> Model:
    init = functools.partial(
        _kernel_and_bias, shape=shape, kernel_init=kernel_init, bias_scale=bias_scale, dtype=dtype
    )

    def apply(params: dict[str, Array], x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        y = jax.lax.conv_general_dilated(
            x,
            params["kernel"].astype(x.dtype),
            window_strides=(stride, stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return _add_bias(y, params["bias"])

    return Model(init, apply)


def _kernel_and_bias(
    key: Array,
    shape: tuple[int, ...],
    kernel_init: initializers.Initializer,
    bias_scale: float,
    dtype: DTypeLike,
) -> dict[str, Array]:
    kernel_key, bias_key = jax.random.split(key)
    bias = initializers.normal(bias_scale)(bias_key, shape[-1:], dtype)
    return {"kernel": kernel_init(kernel_key, shape, dtype), "bias": bias}


def _init_all(key: Array, layers: dict[str, Model]) -> Params:
    keys = jax.random.split(key, len(layers))
    return {name: layer.init(k) for k, (name, layer) in zip(keys, layers.items(), strict=True)}


def _add_bias(y: Array, bias: Array) -> Array:
    return y + jnp.expand_dims(bias, range(y.ndim - 1))


def _inputs(what: str, x: ArrayLike, shape: tuple[int, ...], kernel: Array) -> Array:
    """Return the inputs in the dtype of the computation; raise if their last axes do not fit."""
    x = jnp.asarray(x)
    if x.shape[-len(shape) :] != shape:
        wanted = ", ".join(["...", *map(str, shape)])
        raise ValueError(f"{what}: inputs must have shape ({wanted}), got {x.shape}.")
    return x.astype(jnp.promote_types(x.dtype, kernel.dtype))
