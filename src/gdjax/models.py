"""Small models as `(init, apply)` pairs, for examples, tests and benchmarks.

Parameters are dicts of arrays. Batch axes lead: an input may have any number of them, also none.
This is not a neural-network library; bring your own model from any other.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers

from gdjax.core.checks import NONNEGATIVE, checked

NORMAL = initializers.lecun_normal()


class Model(NamedTuple):
    """A pair of pure functions.

    Attributes:
      init: `init(key)` returns the parameters.
      apply: `apply(params, x)` returns the outputs; batch axes of `x` lead.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array], Array]


@checked(bias_scale=NONNEGATIVE)
def linear(
    in_features: int,
    out_features: int,
    *,
    kernel_init: Callable = NORMAL,
    bias_scale: float = 0.01,
    dtype: Any = jnp.float32,
) -> Model:
    """Map x of shape (..., in_features) to `x @ kernel + bias`, (..., out_features).

    Args:
      in_features: size >= 1 of the inputs' last axis.
      out_features: size >= 1 of the outputs' last axis.
      kernel_init: `kernel_init(key, shape, dtype)`, as in `jax.nn.initializers`. The default draws
        from a normal distribution (cut at two deviations) with standard deviation
        in_features**-0.5.
      bias_scale: standard deviation >= 0 of the normal distribution that biases are drawn from.
      dtype: dtype of the parameters. Outputs have the wider dtype of parameters and inputs.

    Returns:
      A `Model` with parameters `{"kernel": (in_features, out_features), "bias": (out_features,)}`.

    Raises:
      ValueError: if a size is less than 1; in `apply`, if the inputs' last axis does not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = linear(3, 2)
      >>> params = model.init(jax.random.key(0))
      >>> model.apply(params, jnp.ones((5, 3))).shape
      (5, 2)
    """
    shape = (
        _size("linear(in_features=...)", in_features),
        _size("linear(out_features=...)", out_features),
    )

    def init(key: Array) -> dict[str, Array]:
        return _kernel_and_bias(key, shape, kernel_init, bias_scale, dtype)

    def apply(params: dict[str, Array], x: Array) -> Array:
        x = _fitting("linear", x, shape[:1], params["kernel"])
        return _add_bias(x @ params["kernel"], params["bias"])

    return Model(init, apply)


@checked(bias_scale=NONNEGATIVE)
def mlp(
    sizes: Sequence[int],
    activation: Callable[[Array], Array] = jax.nn.relu,
    *,
    kernel_init: Callable = NORMAL,
    bias_scale: float = 0.01,
    dtype: Any = jnp.float32,
) -> Model:
    """Stack linear layers with an activation between them, none after the last.

    Args:
      sizes: sizes of the inputs, the hidden layers and the outputs, at least two numbers.
      activation: an elementwise function.
      kernel_init: see `linear`.
      bias_scale: see `linear`.
      dtype: see `linear`.

    Returns:
      A `Model` from (..., sizes[0]) to (..., sizes[-1]) with parameters
      `{"linear_0": {"kernel": ..., "bias": ...}, "linear_1": ...}`.

    Raises:
      ValueError: if there are fewer than two sizes or one is less than 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = mlp([64, 32, 10])
      >>> params = model.init(jax.random.key(0))
      >>> params["linear_1"]["kernel"].shape, model.apply(params, jnp.ones((5, 64))).shape
      ((32, 10), (5, 10))
    """
    sizes = [_size("mlp(sizes=...)", size) for size in sizes]
    if len(sizes) < 2:
        raise ValueError(f"mlp(sizes=...) needs sizes of inputs and outputs, got {sizes}.")
    options = dict(kernel_init=kernel_init, bias_scale=bias_scale, dtype=dtype)
    layers = {
        f"linear_{i}": linear(*pair, **options)
        for i, pair in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    }

    def init(key: Array) -> dict[str, Any]:
        return _init_all(key, layers)

    def apply(params: dict[str, Any], x: Array) -> Array:
        for i, (name, layer) in enumerate(layers.items()):
            x = layer.apply(params[name], activation(x) if i else x)
        return x

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
    kernel_init: Callable = NORMAL,
    bias_scale: float = 0.01,
    dtype: Any = jnp.float32,
) -> Model:
    """Stack strided convolutions with an activation after each, then one linear layer.

    Args:
      image_shape: (height, width, channels) of one input.
      channels: channels that each convolution gives; one number for each, at least one.
      out_features: size of the outputs' last axis.
      activation: an elementwise function.
      kernel_size: height and width of the kernels. Borders are padded with zeros.
      stride: each convolution divides height and width by this, rounding up.
      kernel_init: see `linear`.
      bias_scale: see `linear`.
      dtype: see `linear`.

    Returns:
      A `Model` from (..., height, width, channels) to (..., out_features) with parameters
      `{"conv_0": {"kernel": (kernel_size, kernel_size, in, out), "bias": (out,)}, ...,
      "linear": {"kernel": ..., "bias": ...}}`.

    Raises:
      ValueError: if a size is less than 1, or `image_shape` is not three numbers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = convnet((8, 8, 1), [4, 8], 10)
      >>> params = jax.eval_shape(model.init, jax.random.key(0))
      >>> params["conv_1"]["kernel"].shape
      (3, 3, 4, 8)
      >>> jax.eval_shape(model.apply, params, jnp.ones((5, 8, 8, 1))).shape
      (5, 10)
    """
    shape = tuple(_size("convnet(image_shape=...)", n) for n in image_shape)
    channels = [_size("convnet(channels=...)", n) for n in channels]
    if len(shape) != 3:
        raise ValueError(
            f"convnet(image_shape=...) must be (height, width, channels), got {shape}."
        )
    if not channels:
        raise ValueError("convnet(channels=...) needs at least one number, got [].")
    kernel_size = _size("convnet(kernel_size=...)", kernel_size)
    stride = _size("convnet(stride=...)", stride)
    options = dict(kernel_init=kernel_init, bias_scale=bias_scale, dtype=dtype)

    *sides, depth = shape
    layers = {}
    for i, out in enumerate(channels):
        layers[f"conv_{i}"] = _conv((kernel_size, kernel_size, depth, out), stride, **options)
        sides, depth = [math.ceil(side / stride) for side in sides], out
    features = math.prod(sides) * depth
    last = linear(features, out_features, **options)

    def init(key: Array) -> dict[str, Any]:
        return _init_all(key, layers | {"linear": last})

    def apply(params: dict[str, Any], x: Array) -> Array:
        x = _fitting("convnet", x, shape, params["linear"]["kernel"])
        batch = x.shape[:-3]
        x = x.reshape(math.prod(batch), *shape)  # a convolution takes one batch axis
        for name, layer in layers.items():
            x = activation(layer.apply(params[name], x))
        return last.apply(params["linear"], x.reshape(*batch, features))

    return Model(init, apply)


def _conv(shape: tuple[int, ...], stride: int, *, kernel_init, bias_scale, dtype) -> Model:
    init = functools.partial(
        _kernel_and_bias, shape=shape, kernel_init=kernel_init, bias_scale=bias_scale, dtype=dtype
    )

    def apply(params: dict[str, Array], x: Array) -> Array:
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
    key: Array, shape: tuple[int, ...], kernel_init: Callable, bias_scale: float, dtype: Any
) -> dict[str, Array]:
    kernel_key, bias_key = jax.random.split(key)
    bias = initializers.normal(bias_scale)(bias_key, shape[-1:], dtype)
    return {"kernel": kernel_init(kernel_key, shape, dtype), "bias": bias}


def _init_all(key: Array, layers: dict[str, Model]) -> dict[str, Any]:
    keys = jax.random.split(key, len(layers))
    return {name: layer.init(k) for k, (name, layer) in zip(keys, layers.items(), strict=True)}


def _add_bias(y: Array, bias: Array) -> Array:
    return y + jnp.expand_dims(bias, range(y.ndim - 1))


def _fitting(what: str, x: Any, shape: tuple[int, ...], kernel: Array) -> Array:
    """Return the inputs in the dtype to calculate in, or raise if their last axes do not fit."""
    x = jnp.asarray(x)
    if x.shape[-len(shape) :] != shape:
        wanted = ", ".join(["...", *map(str, shape)])
        raise ValueError(f"{what}: inputs must have shape ({wanted}), got {x.shape}.")
    return x.astype(jnp.promote_types(x.dtype, kernel.dtype))


def _size(what: str, size: Any) -> int:
    try:
        n = operator.index(size)
    except TypeError:
        raise TypeError(f"{what} must be whole numbers >= 1, got {size!r}.") from None
    if n < 1:
        raise ValueError(f"{what} must be whole numbers >= 1, got {size!r}.")
    return n
