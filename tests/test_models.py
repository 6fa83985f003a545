"""Models compute what their docstrings say, against NumPy written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import models

KEY = jax.random.key(3, impl="rbg")  # compiles in a third of the time


def test_linear_is_x_kernel_plus_bias():
    model = models.linear(3, 2)
    params = model.init(KEY)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-6)


def test_mlp_activates_between_layers_only():
    model = models.mlp([3, 5, 4, 2], activation=jnp.tanh)
    params = model.init(KEY)
    assert jax.tree.map(jnp.shape, params) == {
        "linear_0": {"kernel": (3, 5), "bias": (5,)},
        "linear_1": {"kernel": (5, 4), "bias": (4,)},
        "linear_2": {"kernel": (4, 2), "bias": (2,)},
    }
    y = x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for i in range(3):
        layer = jax.tree.map(np.asarray, params[f"linear_{i}"])
        y = (np.tanh(y) if i else y) @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(model.apply(params, x), y, rtol=1e-5, atol=1e-6)


def test_mlp_without_hidden_layers_is_linear():
    model, x = models.mlp([3, 2], activation=jnp.tanh), np.eye(3, dtype=np.float32)
    layer = {"kernel": np.arange(6.0, dtype=np.float32).reshape(3, 2), "bias": np.ones(2)}
    np.testing.assert_allclose(model.apply({"linear_0": layer}, x), layer["kernel"] + 1)


def convolve(x, kernel, bias, stride):
    """Convolve one image in loops; out[i, j] is centred as XLA's SAME padding centres it."""
    height, width, _ = x.shape
    size = kernel.shape[0]
    out = [-(-n // stride) for n in (height, width)]
    pads = [max((o - 1) * stride + size - n, 0) for o, n in zip(out, (height, width), strict=True)]
    padded = np.pad(x, [(p // 2, p - p // 2) for p in pads] + [(0, 0)])
    y = np.zeros((*out, kernel.shape[-1]))
    for i, j in itertools.product(*map(range, out)):
        patch = padded[i * stride : i * stride + size, j * stride : j * stride + size]
        y[i, j] = np.einsum("hwc,hwcd->d", patch, kernel) + bias
    return y


@pytest.mark.parametrize("kernel_size, stride", [(3, 2), (2, 1)])
def test_convnet_convolves_activates_and_maps(kernel_size, stride):
    model = models.convnet((5, 4, 2), [3, 4], 6, jnp.tanh, kernel_size=kernel_size, stride=stride)
    params = model.init(KEY)
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2)).astype(np.float32)
    p = jax.tree.map(np.asarray, params)
    expected = []
    for y in x:
        for name in ("conv_0", "conv_1"):
            y = np.tanh(convolve(y, p[name]["kernel"], p[name]["bias"], stride))
        expected.append(y.reshape(-1) @ p["linear"]["kernel"] + p["linear"]["bias"])
    np.testing.assert_allclose(model.apply(params, x), np.stack(expected), rtol=1e-5, atol=1e-5)


MODELS = [
    (lambda **o: models.linear(4, 2, **o), (4,)),
    (lambda **o: models.mlp((4, 3, 2), **o), (4,)),
    (lambda **o: models.convnet((4, 4, 1), (2,), 2, **o), (4, 4, 1)),
]


@pytest.mark.parametrize("make, shape", MODELS)
def test_batch_axes_lead(make, shape):
    model = make()
    params = model.init(KEY)
    x = jax.random.normal(KEY, (3, 2, *shape))
    batched = model.apply(params, x)
    assert batched.shape == (3, 2, 2)
    np.testing.assert_allclose(batched[2, 1], model.apply(params, x[2, 1]), rtol=1e-5, atol=1e-6)
    assert jax.eval_shape(model.apply, params, x[:0]).shape == (0, 2, 2)


@pytest.mark.parametrize("make, shape", MODELS)
def test_dtypes(make, shape):
    model = make(dtype=jnp.bfloat16)
    params = jax.eval_shape(model.init, KEY)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    for given, out in [
        (jnp.bfloat16, jnp.bfloat16),
        (jnp.float32, jnp.float32),
        (jnp.uint8, jnp.bfloat16),
    ]:
        assert jax.eval_shape(model.apply, params, jnp.ones(shape, given)).dtype == out


def test_small_random_values():
    model = models.mlp([300, 300, 300], bias_scale=0.1)  # one shape, so one compile
    params = model.init(KEY)
    for layer in params.values():
        assert np.std(layer["kernel"]) == pytest.approx(300**-0.5, rel=0.02)
        assert np.std(layer["bias"]) == pytest.approx(0.1, rel=0.2)
    again, other = model.init(KEY), model.init(jax.random.key(4, impl="rbg"))
    np.testing.assert_array_equal(again["linear_0"]["kernel"], params["linear_0"]["kernel"])
    draws = [params["linear_0"], params["linear_1"], other["linear_0"], other["linear_1"]]
    for a, b in itertools.combinations(draws, 2):
        assert not np.any(np.asarray(a["bias"]) == np.asarray(b["bias"]))
    zero = models.linear(3, 2, bias_scale=0, kernel_init=jax.nn.initializers.ones).init(KEY)
    np.testing.assert_array_equal(zero["bias"], 0)
    np.testing.assert_array_equal(zero["kernel"], 1)


def test_one_descent_step():
    model = models.linear(2, 1)
    params = model.init(KEY)
    x, y = jnp.array([[1.0, 2.0], [-1.0, 3.0], [0.5, 0.5]]), jnp.array([[1.0], [2.0], [-1.0]])
    grads = jax.grad(lambda p: jnp.sum((model.apply(p, x) - y) ** 2))(params)
    opt = gdjax.gradient_descent(0.1)
    updates, _ = opt.update(grads, opt.init(params), params)
    new = gdjax.apply_updates(params, updates)
    residual = np.asarray(x) @ np.asarray(params["kernel"]) + np.asarray(params["bias"]) - y
    np.testing.assert_allclose(
        new["kernel"], params["kernel"] - 0.1 * 2 * np.asarray(x).T @ residual, rtol=1e-5
    )
    np.testing.assert_allclose(new["bias"], params["bias"] - 0.2 * residual.sum(0), rtol=1e-5)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: models.linear(0, 2), ValueError, r"linear\(in_features=...\).*>= 1, got 0"),
        (lambda: models.linear(2, 1.5), ValueError, r"linear\(out_features=...\).*got 1.5"),
        (lambda: models.linear(2, 1, bias_scale=-1), ValueError, r"bias_scale=...\).*got -1"),
        (lambda: models.mlp([3]), ValueError, r"mlp\(sizes=...\).*got \[3\]"),
        (lambda: models.mlp([3, -2, 1]), ValueError, r"mlp\(sizes=...\).*got -2"),
        (
            lambda: models.convnet((8, 8), [4], 2),
            TypeError,
            r"image_shape=...\) must be a tuple.*\(8, 8\)",
        ),
        (lambda: models.convnet((8, 8, 1), [], 2), ValueError, r"channels=...\).*got \[\]"),
        (lambda: models.convnet((8, 8, 1), [4], 2, stride=0), ValueError, r"stride=...\).*got 0"),
        (lambda: models.convnet((8, 8, 1), [4], 0), ValueError, r"convnet\(out_features=...\)"),
    ],
)
def test_bad_sizes_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("make, shape", MODELS)
def test_inputs_that_do_not_fit_are_named(make, shape):
    model = make()
    params = jax.eval_shape(model.init, KEY)
    for wrong in [(3, *shape[:-1], 7), ()]:
        with pytest.raises(ValueError, match=r"inputs must have shape \(\.\.\., 4.*got \("):
            jax.eval_shape(model.apply, params, jnp.ones(wrong))
