"""Values and gradients equal optax's, for every shared loss, in float64, float32 and halves."""

import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

import gdjax


class Case(NamedTuple):
    name: str
    arrays: dict  # argument -> float arrays, which are differentiated
    fixed: dict = {}  # other arguments
    note: str = ""


def rng():
    return np.random.default_rng(0)


def normal(*shape, scale=1.5):
    return rng().normal(0.3, scale, shape)


def other(*shape):
    return np.random.default_rng(1).normal(-0.2, 1.0, shape)


def probs(*shape, axis=-1):
    x = np.exp(other(*shape))
    return x / x.sum(axis=axis, keepdims=True)


def ints(high, *shape):
    return np.random.default_rng(2).integers(0, high, shape)


def mask(*shape):
    m = np.random.default_rng(3).random(shape) < 0.7
    m[..., 0] = True
    return m


def onehot(high, *shape):
    return np.eye(high)[ints(high, *shape)]


def two(name, a="predictions", b="targets"):
    return [
        Case(name, {a: normal(5), b: other(5)}),
        Case(name, {a: normal(2, 3, 4), b: other(2, 3, 4)}, note="3d"),
        Case(name, {a: normal(6)}, note="alone"),
        Case(name, {a: normal(6)}, {b: ints(3, 6)}, note="integer targets"),
    ]


def distances(name):
    a, b = {"predictions": normal(3, 5), "targets": other(3, 5)}, np.arange(5) % 2 == 0
    return [
        Case(name, a),
        Case(name, a, {"axis": 0, "epsilon": 1e-3}, "axis 0"),
        Case(name, a, {"axis": None}, "axis None"),
        Case(name, a, {"where": mask(3, 5)}, "where"),
        Case(name, a, {"where": b[None]}, "where broadcast"),
        Case(
            name,
            {k: 0.01 * x for k, x in a.items()},
            {"epsilon": 0.1},
            "epsilon is the bound",
        ),
        Case(
            name,
            {"predictions": normal(2, 3, 4), "targets": other(2, 3, 4)},
            {"axis": (0, 2)},
            "two axes",
        ),
    ]


def divergences(name, second="targets", log=False):
    q = probs(3, 5)
    q[0, 1] = 0.0 if not log else 0.1
    target = np.log(q) if log else q
    a = {"log_predictions": np.log(probs(3, 5)) + 0.1, second: target}
    zero_free = {k: v[1:] for k, v in a.items()}
    return [
        Case(name, {"log_predictions": a["log_predictions"]}, {second: target}),
        Case(name, zero_free, {"axis": 0}, "axis 0"),
        Case(name, zero_free, {"axis": None}, "axis None"),
        Case(name, zero_free, {"where": mask(2, 5)}, "where"),
    ]


def cross_entropies(name):
    a = {"logits": normal(3, 5), "labels": probs(3, 5)}
    return [
        Case(name, a),
        Case(name, {"logits": normal(3, 5)}, {"labels": onehot(5, 3)}, "one-hot"),
        Case(name, {"logits": normal(3, 5), "labels": probs(5)}, note="labels broadcast"),
        Case(name, a, {"axis": 0}, "axis 0"),
        # no gradient for the labels: under a mask it is NaN in optax
        Case(name, {"logits": normal(3, 5)}, {"labels": probs(3, 5), "where": mask(3, 5)}, "where"),
        Case(
            name,
            {"logits": normal(2, 3, 4), "labels": probs(2, 3, 4)},
            {"axis": (0, 2)},
            "two axes",
        ),
    ]


def integer_cross_entropies(name):
    ok = mask(3, 5)
    ok[np.arange(3), ints(5, 3)] = True
    labels = {"labels": ints(5, 3)}
    return [
        Case(name, {"logits": normal(3, 5)}, labels),
        Case(name, {"logits": normal(3, 5)}, {"labels": ints(5, 3).astype(np.uint8)}, "uint8"),
        Case(name, {"logits": normal(5, 3)}, labels | {"axis": 0}, "axis 0"),
        Case(name, {"logits": normal(3, 5)}, labels | {"where": ok}, "where"),
        Case(
            name,
            {"logits": normal(3, 5)},
            labels | {"where": np.array([True, False, True])},
            "where per example",
        ),
        Case(
            name, {"logits": normal(4, 2, 3)}, {"labels": ints(12, 2), "axis": (2, 0)}, "two axes"
        ),
        Case(name, {"logits": normal(5)}, {"labels": ints(5)}, "one example"),
    ]


def multiclass(name):
    return [
        Case(name, {"scores": normal(4, 6)}, {"labels": ints(6, 4)}),
        Case(name, {"scores": normal(7, 2)}, {"labels": ints(2, 7)}, "two classes"),
    ]


def dices():
    p, t = normal(2, 3, 4, 3), onehot(3, 2, 3, 4)
    pair, name = {"predictions": p, "targets": t}, "dice_loss"
    soft = np.exp(p) / np.exp(p).sum(-1, keepdims=True)
    return [
        Case(name, pair),
        Case(name, pair, {"alpha": 0.3, "beta": 0.7, "smooth": 0.1}, "tversky"),
        Case(name, pair, {"reduction": "none", "ignore_background": True}, "no background"),
        Case(name, pair, {"reduction": "sum", "axis": (0, 1)}, "axis"),
        Case(name, pair, {"class_weights": np.array([0.2, 1.0, 2.0])}, "weights"),
        Case(name, {"predictions": normal(3, 4), "targets": onehot(4, 3)}, note="2d"),
        Case(name, {"predictions": normal(3, 4, 1), "targets": mask(3, 4) * 1.0}, note="sigmoid"),
        Case("multiclass_generalized_dice_loss", pair),
        Case("multiclass_generalized_dice_loss", pair, {"ignore_background": True}, "some"),
        Case("binary_dice_loss", {"predictions": normal(3, 4), "targets": mask(3, 4) * 1.0}),
        Case("binary_dice_loss", {"predictions": normal(3, 4, 1), "targets": mask(3, 4) * 1.0}),
        Case(
            "binary_dice_loss",
            {"predictions": normal(3, 4)},
            {"targets": mask(3, 4, 1)[..., 0] * 1, "smooth": 0.5},
            "smooth",
        ),
    ], soft


def triplets():
    x = dict(zip(("anchors", "positives", "negatives"), normal(3, 4, 5), strict=True))
    name = "triplet_margin_loss"
    return [
        Case(name, x),
        Case(name, x, {"axis": 0, "margin": 0.2, "eps": 1e-3}, "axis 0"),
        Case(name, x, {"norm_degree": 4}, "p = 4"),
    ]


def ctcs():
    ragged = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]], float)
    short = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1]], float)
    labels = np.array([[1, 1, 2], [3, 3, 0], [2, 0, 0]])
    rest = {"logit_paddings": ragged, "labels": labels, "label_paddings": short}
    rest |= {"blank_id": 3, "labels": labels % 3}
    return [
        Case("ctc_loss_with_forward_probs", {"logits": normal(3, 6, 4)}, rest),
    ]


def rankings():
    name, ok = "ranking_softmax_loss", mask(3, 5)
    x = {"logits": normal(3, 5), "labels": probs(3, 5)}
    return [
        Case(name, x),
        Case(name, x, {"weights": np.abs(other(3, 5))}, "weights"),
        Case(name, x, {"reduce_fn": None}, "none"),
        Case(name, {"logits": x["logits"]}, {"labels": ints(4, 3, 5), "where": ok}, "where"),
        Case(
            name,
            {"logits": x["logits"]},
            {"labels": ints(4, 3, 5), "where": ok, "reduce_fn": jnp.sum},
            "sum",
        ),
        Case(
            name,
            {"logits": x["logits"]},
            {"labels": ints(4, 3, 5), "where": ok, "reduce_fn": None},
            "where, none",
        ),
    ]


OUTPUTS = {"predictor_outputs": normal(7)}
SIGNS = {"targets": 2 * ints(2, 7) - 1}
CASES = [
    *two("squared_error"),
    *two("l2_loss")[:1],
    *two("log_cosh"),
    Case("huber_loss", {"predictions": normal(7), "targets": other(7)}, {"delta": 0.4}, "delta"),
    Case("huber_loss", {"predictions": normal(7), "targets": other(1)[0]}, note="scalar target"),
    *distances("cosine_similarity"),
    *distances("cosine_distance")[3:4],
    *cross_entropies("softmax_cross_entropy"),
    *cross_entropies("safe_softmax_cross_entropy")[:1],
    *cross_entropies("poly_loss_cross_entropy")[3:],
    Case(
        "poly_loss_cross_entropy",
        {"logits": normal(3, 5), "labels": probs(3, 5)},
        {"epsilon": -1.0},
        "epsilon",
    ),
    *integer_cross_entropies("softmax_cross_entropy_with_integer_labels"),
    Case("sigmoid_binary_cross_entropy", {"logits": normal(3, 5), "labels": probs(3, 5)}),
    Case("sigmoid_binary_cross_entropy", {"logits": normal(3, 5)}, {"labels": mask(5)}, "bool"),
    Case("sigmoid_focal_loss", {"logits": normal(3, 5), "labels": probs(3, 5)}),
    Case("sigmoid_focal_loss", {"logits": normal(3, 5)}, {"labels": ints(2, 3, 5)}, "hard"),
    Case(
        "sigmoid_focal_loss",
        {"logits": normal(3, 5)},
        {"labels": ints(2, 3, 5), "alpha": 0.25, "gamma": 0.5},
        "weighted",
    ),
    Case("hinge_loss", OUTPUTS, SIGNS),
    Case("hinge_loss", OUTPUTS, {"targets": SIGNS["targets"] * 1.0}, "float targets"),
    Case("perceptron_loss", OUTPUTS, SIGNS),
    Case("sparsemax_loss", {"logits": normal(7)}, {"labels": ints(2, 7)}),
    Case("sparsemax_loss", {"logits": normal(2, 4)}, {"labels": mask(2, 4)}, "bool"),
    *multiclass("multiclass_hinge_loss"),
    *multiclass("multiclass_perceptron_loss"),
    *multiclass("multiclass_sparsemax_loss"),
    Case("multiclass_hinge_loss", {"scores": normal(2, 3, 4)}, {"labels": ints(4, 2, 3)}, "3d"),
    *divergences("kl_divergence"),
    *divergences("generalized_kl_divergence")[2:],
    *divergences("kl_divergence_with_log_targets", "log_targets", log=True)[2:],
    Case("smooth_labels", {"labels": onehot(4, 3), "alpha": np.array(0.2)}),
    Case("smooth_labels", {"labels": onehot(4, 3)}, {"alpha": 0.1, "axis": (0, 1)}, "two axes"),
    Case(
        "ntxent",
        {"embeddings": normal(5, 3)},
        {"labels": np.array([0, 1, 0, 2, 1]), "temperature": 0.5},
    ),
    Case("make_fenchel_young_loss", {"scores": normal(3, 4), "targets": probs(3, 4)}),
    *triplets(),
    *ctcs(),
    *rankings(),
    *dices()[0],
]
IDS = [f"{c.name} {c.note}".strip() for c in CASES]


def get(module, name):
    loss = getattr(module, name)
    return loss(jax.scipy.special.logsumexp) if name == "make_fenchel_young_loss" else loss


def both(case, ours, theirs, dtype, their_dtype=None):
    """Return (value, gradients) of ours and theirs under random weights, in one program."""

    def measured(function):
        def value(arrays):
            out = function(**arrays, **case.fixed)
            out = jnp.concatenate([x.ravel() for x in out]) if isinstance(out, tuple) else out
            weights = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
            return jnp.sum(out * weights), out

        return jax.value_and_grad(value, has_aux=True)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(arrays):
        wide = {k: v.astype(their_dtype or dtype) for k, v in arrays.items()}
        with jax.numpy_rank_promotion("allow"):
            expected = measured(theirs)(wide)
        return measured(ours)(arrays), expected

    return run({k: jnp.asarray(v, dtype) for k, v in case.arrays.items()})


def assert_same(actual, expected, rtol, atol):
    ((_, value), grads), ((_, their_value), their_grads) = actual, expected
    np.testing.assert_allclose(value, their_value, rtol=rtol, atol=atol)
    for name, g in grads.items():
        assert np.any(np.asarray(g) != 0), name
        np.testing.assert_allclose(
            np.asarray(g, np.float64), their_grads[name], rtol=rtol, atol=atol, err_msg=name
        )


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_equals_optax_in_float64(case):
    with enable_x64():
        ours, theirs = get(gdjax.losses, case.name), get(optax.losses, case.name)
        actual, expected = both(case, ours, theirs, jnp.float64)
        assert actual[0][1].dtype == jnp.float64
        assert actual[0][1].shape == expected[0][1].shape
        assert_same(actual, expected, 1e-11, 1e-11)


FIRST = {c.name: c for c in reversed(CASES)}  # the first case of each loss


@pytest.mark.parametrize("name", sorted(FIRST))
def test_low_precision_is_computed_in_float32(name):
    """Halves give what their float32 copy gives, in float32; the gradient is rounded once."""
    half = (jnp.bfloat16, jnp.float16)[sorted(FIRST).index(name) % 2]
    case, loss = FIRST[name], get(gdjax.losses, name)
    actual, expected = both(case, loss, loss, half, jnp.float32)
    assert actual[0][1].dtype == jnp.float32
    assert all(g.dtype == half for g in actual[1].values())
    np.testing.assert_allclose(actual[0][1], expected[0][1], rtol=1e-6, atol=1e-7)
    assert_same(actual, expected, float(jnp.finfo(half).eps), 1e-6)


@pytest.mark.parametrize("name", ["dice_loss", "multiclass_generalized_dice_loss"])
def test_dice_of_probabilities_equals_optax(name):
    (case, *_), soft = dices()
    with enable_x64():
        p, t = jnp.asarray(soft), jnp.asarray(case.arrays["targets"])
        ours = getattr(gdjax.losses, name)(p, t, apply_softmax=False)
        with jax.numpy_rank_promotion("allow"):
            theirs = getattr(optax.losses, name)(p, t, apply_softmax=False)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_all_of_optax_is_here_with_its_arguments():
    deprecated = {"convex_kl_divergence"}
    names = {n for n in dir(optax.losses) if callable(getattr(optax.losses, n)) and n[0] != "_"}
    assert names - deprecated <= set(dir(gdjax.losses))
    tested = {c.name for c in CASES} | {"ctc_loss"}
    assert names - deprecated == tested
    for name in names - deprecated:
        ours = inspect.signature(getattr(gdjax.losses, name)).parameters
        theirs = inspect.signature(getattr(optax.losses, name)).parameters
        assert list(ours) == list(theirs), name
        assert getattr(gdjax, name) is getattr(gdjax.losses, name)
        for key, p in theirs.items():
            assert ours[key].kind == p.kind, (name, key)
            assert ours[key].default == p.default, (name, key)
