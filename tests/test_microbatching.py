"""Microbatching gives the results of optax and of the whole batch, in less memory."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.microbatching import AccumulationType as Kind
from gdjax.microbatching import micro_grad, micro_vmap, reshape_batch_axis

MEAN, SUM, RUNNING, CONCAT = Kind.MEAN, Kind.SUM, Kind.RUNNING_MEAN, Kind.CONCAT


def theirs(kinds):
    """Return optax's accumulation types for a tree of ours."""
    return jax.tree.map(lambda k: optax.microbatching.AccumulationType[k.name], kinds)


def assert_close(a, b, rtol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


RNG = np.random.default_rng(0)
BATCH = {"x": jnp.asarray(RNG.normal(size=(12, 3)), jnp.float32), "y": jnp.arange(12.0)}


def statistics(params, batch, shift=0.0):
    out = batch["x"] @ params + shift
    return {"loss": jnp.mean((out - batch["y"]) ** 2), "out": out, "n": jnp.sum(batch["y"])}


def test_signatures_are_optax_s():
    for name in ("microbatch", "micro_vmap", "micro_grad", "reshape_batch_axis", "Accumulator"):
        ours, other = getattr(gdjax.microbatching, name), getattr(optax.microbatching, name)
        mine, others = (list(inspect.signature(f).parameters.values()) for f in (ours, other))
        assert [(p.name, p.kind) for p in mine] == [(p.name, p.kind) for p in others]
    assert gdjax.microbatch is gdjax.microbatching.microbatch
    names = [k.name for k in Kind]
    assert names == [k.name for k in optax.microbatching.AccumulationType]


@pytest.mark.parametrize("size", [1, 4, 12])
def test_parts_give_what_the_whole_batch_gives(size):
    params = jnp.array([1.0, -2.0, 0.5])
    kinds = {"loss": MEAN, "out": CONCAT, "n": SUM}
    ours = jax.jit(gdjax.microbatch(statistics, 1, size, kinds))(params, BATCH)
    assert_close(ours, statistics(params, BATCH))
    assert_close(ours, optax.microbatch(statistics, 1, size, theirs(kinds))(params, BATCH))
    kinds["loss"] = RUNNING
    assert_close(gdjax.microbatch(statistics, 1, size, kinds)(params, BATCH), ours)


def test_a_prefix_of_kinds_axes_and_keywords():
    def f(scale, x, *, more, shift):
        return (scale * x.sum(1) + shift, (more.sum(0), more.mean()))

    x, more = jnp.asarray(RNG.normal(size=(2, 6)), jnp.float32), jnp.arange(18.0).reshape(6, 3)
    for kinds in ((SUM, SUM), (SUM, (SUM, MEAN)), SUM):
        build = dict(argnames=("more",), in_axes=(-1, 0))
        ours = gdjax.microbatch(f, (1,), 2, kinds, **build)(2.0, x, more=more, shift=1.0)
        other = optax.microbatch(f, (1,), 2, theirs(kinds), argnames=("more",), in_axes=(1, 0))
        assert_close(ours, other(2.0, x, more=more, shift=1.0))
    assert gdjax.microbatch(f, 1, None) is f


def test_parts_keep_the_sharding_s_order():
    x = jnp.arange(24).reshape(2, 12)
    for axis, size in ((1, 4), (1, 3), (0, 1)):
        ours = reshape_batch_axis({"x": x}, size, axis)
        assert_close(ours, optax.microbatching.reshape_batch_axis({"x": x}, size, axis))


def test_own_accumulators():
    largest = dict(
        init=lambda x: jnp.full(x.shape, -jnp.inf, x.dtype),
        update=lambda carry, value, index: jnp.maximum(carry, value),
        finalize=lambda carry: carry,
        aggregate=lambda rows: rows.max(0),
    )
    ours, other = (
        gdjax.microbatching.Accumulator(**largest),
        optax.microbatching.Accumulator(**largest),
    )
    x = jnp.asarray(RNG.normal(size=(8, 2)), jnp.float32)

    def f(x):
        return x.max(), x.sum()

    mine = gdjax.microbatch(f, 0, 2, (ours, SUM))(x)
    assert_close(mine, optax.microbatch(f, 0, 2, (other, theirs(SUM)))(x))
    assert mine[0] == x.max()
    assert micro_vmap(jnp.sum, microbatch_size=2, accumulator=ours)(x) == x.sum(1).max()


def test_only_the_real_parts_run():
    def f(x):
        return jnp.mean(x), jnp.sum(x)

    x = jnp.arange(12.0)
    kinds = (RUNNING, SUM)
    run = jax.jit(lambda n: gdjax.microbatch(f, 0, 3, kinds, num_real_microbatches=n)(x))
    for n in (1, 3, 4):
        other = optax.microbatch(f, 0, 3, theirs(kinds), num_real_microbatches=n)(x)
        assert_close(run(n), other)
    rows = jnp.concatenate([x[k::4] for k in range(3)])  # the first three parts
    np.testing.assert_allclose(run(3)[0], rows.mean(), rtol=1e-6)


@pytest.mark.parametrize("size", [None, 2])
def test_micro_vmap_is_vmap(size):
    def f(params, x, *, y):
        return {"a": params * x, "b": (x * y).sum()}

    x, y, p = BATCH["x"], BATCH["x"] + 1, jnp.ones(3)
    ours = micro_vmap(f, (None, 0), microbatch_size=size)(p, x, y=y)
    assert_close(ours, _by_hand(f, p, x, y))
    for kind in (SUM, MEAN, {"a": CONCAT, "b": MEAN}):
        mine = micro_vmap(f, (None, 0), microbatch_size=size, accumulator=kind)(p, x, y=y)
        other = optax.microbatching.micro_vmap(
            f, (None, 0), microbatch_size=size, accumulator=theirs(kind)
        )
        assert_close(mine, other(p, x, y=y))
    with pytest.raises(NotImplementedError, match="out_axes=...\\) must be 0"):
        micro_vmap(f, out_axes=1)


def _by_hand(f, p, x, y):
    rows = [f(p, a, y=b) for a, b in zip(x, y, strict=True)]
    return jax.tree.map(lambda *r: jnp.stack(r), *rows)


@pytest.mark.parametrize("options", [{}, {"microbatch_size": 3}, {"keep_batch_dim": False}])
def test_gradients_of_single_examples(options):
    def loss(params, x, y):
        error = x @ params["w"] + params["b"] - y
        return jnp.mean(error**2), {"error": jnp.sum(error)}

    params = {"w": jnp.array([1.0, -1.0, 0.5]), "b": jnp.zeros(())}
    more = dict(has_aux=True, batch_argnums=(1, 2), **options)

    def clipped(o):
        def transform(g):
            size = o.tree.norm(g)
            return o.tree.scale(jnp.minimum(1, 3 / size), g), o.tree.mul(g, g)

        return transform

    def measure(o):
        return lambda g: {"size": o.tree.norm(g)}

    x, y = BATCH["x"], BATCH["y"]
    ours = micro_grad(
        loss,
        accumulator=(SUM, MEAN),
        transform_fn=clipped(gdjax),
        metrics_fn=measure(gdjax),
        **more,
    )
    other = optax.microbatching.micro_grad(
        loss, accumulator=theirs((SUM, MEAN)), transform_fn=clipped(optax),
        metrics_fn=measure(optax), **more,
    )  # fmt: skip
    grads, each = jax.jit(ours)(params, x, y)
    expected, their_each = other(params, x, y)
    assert_close(grads, expected)
    for name in ("values", "metrics", "aux"):
        assert_close(getattr(each, name), getattr(their_each, name))
    plain, each = micro_grad(loss, has_aux=True, batch_argnums=(1, 2), accumulator=MEAN)(
        params, x, y
    )
    assert_close(plain, jax.grad(loss, has_aux=True)(params, x, y)[0])
    assert each.metrics is None and each.values.shape == (12,)


def test_low_precision_is_accumulated_in_float32():
    x = jnp.ones((1024, 1), jnp.bfloat16)
    total, mean = gdjax.microbatch(lambda x: (jnp.sum(x), jnp.mean(x)), 0, 1, (SUM, MEAN))(x)
    assert total == 1024 and mean == 1 and total.dtype == mean.dtype == jnp.bfloat16  # optax: 256
    assert micro_vmap(jnp.sum, accumulator=SUM)(x) == 1024


def test_errors_say_what_to_do():
    f = gdjax.microbatch(lambda x, y: x.sum() + y.sum(), (0, 1), 4)
    with pytest.raises(ValueError, match=r"the same length, got \[4, 8\]"):
        f(jnp.ones(4), jnp.ones(8))
    with pytest.raises(ValueError, match="a batch of 6 rows is not divisible by micro"):
        f(jnp.ones(6), jnp.ones(6))
    with pytest.raises(ValueError, match="must be an Accumulator, an AccumulationType or a tree"):
        micro_vmap(lambda x: x, accumulator="sum")(jnp.arange(3))
    with pytest.raises(ValueError, match="MEAN needs floating-point results, got int32"):
        micro_vmap(lambda x: x, accumulator=MEAN)(jnp.arange(3))
    with pytest.raises(ValueError, match="MEAN needs floating-point results, got int32"):
        gdjax.microbatch(jnp.sum, 0, 1, MEAN)(jnp.arange(3))
    with pytest.raises(ValueError, match="must be an Accumulator, an AccumulationType or a tree"):
        gdjax.microbatch(jnp.sum, 0, 1, "sum")(jnp.arange(3))
    with pytest.raises(ValueError, match="one axis for each of"):
        gdjax.microbatch(jnp.sum, (0, 1), 1, in_axes=(0,))
    with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
        gdjax.microbatch(jnp.sum, 0, 0)


def test_memory_is_that_of_one_part():
    """Peak of temporaries of a gradient through a wide layer: parts of 1/16 need a tenth of it."""
    width, rows = 256, 512
    shapes = {"a": (8, width), "b": (width, width), "c": (width, 1)}
    params = {k: jnp.asarray(0.1 * RNG.normal(size=s), jnp.float32) for k, s in shapes.items()}

    def loss(params, x):
        hidden = jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"])
        return jnp.mean((hidden @ params["c"]) ** 2)

    def peak(function):
        compiled = jax.jit(function).lower(params, jnp.ones((rows, 8))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    gradients = jax.value_and_grad(loss)
    in_parts = gdjax.microbatch(gradients, 1, rows // 16, MEAN)
    one = 4 * (8 * width + width * width + width)  # the carry, which no microbatching avoids
    whole, parts = peak(gradients), peak(in_parts)
    assert parts - one < (whole - one) / 5, (whole, parts, one)
    x = jnp.asarray(RNG.normal(size=(rows, 8)), jnp.float32)
    assert_close(in_parts(params, x), gradients(params, x), rtol=1e-4)  # sums in another order


def test_differentiable_through_the_loop():
    def total(p):
        return gdjax.microbatch(lambda p, x: jnp.sum(jnp.sin(p * x)), 1, 2)(p, jnp.arange(6.0))

    slope = jnp.sum(jnp.arange(6.0) * jnp.cos(0.3 * jnp.arange(6.0)))
    np.testing.assert_allclose(jax.grad(total)(0.3), slope, rtol=1e-6)


@pytest.mark.parametrize("declared", [dict(argnums=1), dict(argnums=(), argnames="x")])
def test_an_argument_may_be_given_by_position_or_by_name(declared):
    def weighted(w, x):
        return w * jnp.sum(x)

    f = gdjax.microbatch(weighted, microbatch_size=2, **declared)
    x = jnp.arange(4.0)
    np.testing.assert_allclose([f(2.0, x), f(2.0, x=x), f(w=2.0, x=x)], 12.0)
    with pytest.raises(TypeError, match="which has a batch axis, was not given"):
        f(2.0)
