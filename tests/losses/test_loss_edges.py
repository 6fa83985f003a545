"""Edge cases of losses: huge logits, zero vectors, empty masks, padding, small errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

L = gdjax.losses
BIG = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [0.0, 0.0, 0.0], [1e4, 1e4, 1e4]])
MINUS = np.array([[0.0, -np.inf, 1.0]])
EYE = np.eye(3)[[0, 1, 2, 0]]
LABELS = np.array([1, 0, 2, 2])
NONE = np.zeros((4, 3), bool)
SOME = np.array([[True, False, True], [False, False, False], [True] * 3, [False, True, False]])
POISON = np.where(SOME, BIG, np.nan)
ZEROS = np.zeros((4, 3))
SIGNS = np.sign(EYE - 0.5)

# name -> (function of float arrays, those arrays); value and every gradient must be finite
FINITE = {
    "squared": (L.squared_error, [BIG, EYE]),
    "mean squared": (L.mean_squared_error, [BIG, EYE]),
    "huber": (L.huber_loss, [BIG, EYE]),
    "huber 0": (functools.partial(L.huber_loss, delta=0.0), [BIG, BIG]),
    "log_cosh": (L.log_cosh, [BIG, EYE]),
    "log_cosh 0": (L.log_cosh, [BIG, BIG]),
    "cosine of zeros": (L.cosine_similarity, [ZEROS, EYE]),
    "cosine of equals": (L.cosine_distance, [BIG[:2], BIG[:2]]),
    "cosine of nothing": (functools.partial(L.cosine_similarity, where=NONE), [BIG, EYE]),
    "cosine with poison": (functools.partial(L.cosine_similarity, where=SOME), [POISON, EYE]),
    "cross entropy": (L.softmax_cross_entropy, [BIG, EYE]),
    "cross entropy of -inf": (L.softmax_cross_entropy, [MINUS, np.array([[1.0, 0.0, 0.0]])]),
    "safe": (L.safe_softmax_cross_entropy, [MINUS, np.array([[0.5, 0.0, 0.5]])]),
    "cross entropy masked": (
        functools.partial(L.softmax_cross_entropy, where=SOME),
        [POISON, np.where(SOME, EYE, np.nan)],
    ),
    "cross entropy of nothing": (
        functools.partial(L.softmax_cross_entropy, where=NONE),
        [BIG, EYE],
    ),
    "integer": (
        lambda x: L.softmax_cross_entropy_with_integer_labels(x, LABELS),
        [BIG],
    ),
    "integer with padding": (
        lambda x: L.softmax_cross_entropy_with_integer_labels(
            x, np.array([0, -1, 2, 1]), where=SOME
        ),
        [POISON],
    ),
    "poly": (L.poly_loss_cross_entropy, [BIG, EYE]),
    "poly masked": (functools.partial(L.poly_loss_cross_entropy, where=SOME), [POISON, EYE]),
    "binary": (L.sigmoid_binary_cross_entropy, [BIG, EYE]),
    "focal": (L.sigmoid_focal_loss, [BIG, EYE]),
    "focal 0": (functools.partial(L.sigmoid_focal_loss, gamma=0.0), [BIG, EYE]),
    "focal 0.5": (functools.partial(L.sigmoid_focal_loss, gamma=0.5), [BIG, 0.5 * EYE]),
    "hinge": (L.hinge_loss, [BIG, SIGNS]),
    "perceptron": (L.perceptron_loss, [BIG, SIGNS]),
    "sparsemax": (lambda x: L.sparsemax_loss(x, EYE > 0), [BIG]),
    "multiclass hinge": (lambda x: L.multiclass_hinge_loss(x, LABELS), [BIG]),
    "multiclass perceptron": (lambda x: L.multiclass_perceptron_loss(x, LABELS), [BIG]),
    "multiclass sparsemax": (lambda x: L.multiclass_sparsemax_loss(x, LABELS), [BIG]),
    "kl": (L.kl_divergence, [-np.abs(BIG), EYE]),
    "kl of -inf": (L.kl_divergence, [np.log([[1.0, 1e-30, 1.0]]), np.array([[1.0, 0.0, 0.0]])]),
    "kl with poison": (functools.partial(L.kl_divergence, where=SOME), [POISON, EYE]),
    "kl log targets": (L.kl_divergence_with_log_targets, [-np.abs(BIG), -np.abs(BIG[::-1])]),
    "generalized kl": (L.generalized_kl_divergence, [-np.abs(BIG), EYE]),
    "js": (L.js_divergence, [-np.abs(BIG), EYE]),
    "js masked": (functools.partial(L.js_divergence, where=SOME), [-np.abs(POISON), EYE]),
    "ntxent of zeros": (lambda x: L.ntxent(x, np.array([0, 0, 1, 1])), [ZEROS]),
    "ntxent of equals": (lambda x: L.ntxent(x, np.array([0, 0, 1, 1])), [ZEROS + 1]),
    "ntxent without pairs": (lambda x: L.ntxent(x, np.arange(4)), [BIG]),
    "ntxent without others": (lambda x: L.ntxent(x, np.zeros(4, int)), [BIG]),
    "ntxent of one": (lambda x: L.ntxent(x, np.zeros(1, int)), [BIG[:1]]),
    "triplet": (L.triplet_margin_loss, [BIG, BIG, EYE]),
    "triplet odd": (functools.partial(L.triplet_margin_loss, norm_degree=3), [EYE, -EYE, ZEROS]),
    "triplet 1": (functools.partial(L.triplet_margin_loss, norm_degree=1), [EYE, -EYE, ZEROS]),
    "triplet eps 0": (functools.partial(L.triplet_margin_loss, eps=0.0), [EYE, EYE, EYE]),
    "ranking": (L.ranking_softmax_loss, [BIG, EYE]),
    "ranking masked": (functools.partial(L.ranking_softmax_loss, where=SOME), [POISON, EYE]),
    "ranking of nothing": (functools.partial(L.ranking_softmax_loss, where=NONE), [BIG, EYE]),
    "dice": (L.dice_loss, [BIG, EYE]),
    "dice of nothing": (
        functools.partial(L.dice_loss, smooth=0.0, apply_softmax=False, reduction="none"),
        [np.tile([1.0, 0.0, 0.0], (4, 1)), np.tile([1.0, 0.0, 0.0], (4, 1))],
    ),
    "binary dice": (L.binary_dice_loss, [BIG, EYE]),
    "generalized dice": (L.multiclass_generalized_dice_loss, [BIG, EYE]),
    "smooth": (functools.partial(L.smooth_labels, alpha=0.1, where=NONE), [EYE]),
    "empty": (L.softmax_cross_entropy, [np.zeros((0, 3)), np.zeros((0, 3))]),
    "scalar": (L.huber_loss, [np.array(3.0), np.array(1.0)]),
}


@functools.cache
def finite_results():
    def measured(loss, arrays):
        def total(*arrays):
            return jnp.sum(loss(*arrays))

        return jax.value_and_grad(total, tuple(range(len(arrays))))(*arrays)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(inputs):
        return {name: measured(FINITE[name][0], arrays) for name, arrays in inputs.items()}

    return run({k: [jnp.asarray(x, "float32") for x in v[1]] for k, v in FINITE.items()})


@pytest.mark.parametrize("name", FINITE)
def test_value_and_gradients_are_finite(name):
    value, grads = finite_results()[name]
    assert np.isfinite(value), value
    assert all(np.all(np.isfinite(g)) for g in grads), grads


def exact(loss, *arrays):
    return np.asarray(jax.jit(loss)(*(jnp.asarray(x, jnp.float32) for x in arrays)), np.float64)


def test_log_cosh_keeps_small_errors():
    x = np.array([1e-6, 1e-4, 0.01, 0.5, 0.9999, 1.0001, 3.0, 30.0])
    x = np.concatenate([x, -x]).astype(np.float32).astype(np.float64)
    expected = np.abs(x) + np.log1p(np.exp(-2 * np.abs(x))) - np.log(2)
    expected[np.abs(x) < 0.1] = (x**2 / 2 - x**4 / 12 + x**6 / 45)[np.abs(x) < 0.1]
    np.testing.assert_allclose(exact(L.log_cosh, x), expected, rtol=1e-6)
    grad = jax.grad(lambda x: L.log_cosh(x).sum())(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(grad, np.tanh(x), rtol=3e-7)


def test_cross_entropy_keeps_its_digits_far_from_zero():
    rng = np.random.default_rng(0)
    logits = (1e4 + rng.normal(size=(5, 7))).astype(np.float32)
    labels = rng.integers(0, 7, 5)
    wide = logits.astype(np.float64) - 1e4
    expected = np.log(np.exp(wide).sum(-1)) - wide[np.arange(5), labels]
    actual = L.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(actual, expected, rtol=2e-6)
    np.testing.assert_allclose(
        L.softmax_cross_entropy(logits, np.eye(7)[labels]), expected, rtol=2e-6
    )


def test_js_divergence_is_the_mean_of_two_divergences():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), (2, 3))
    m = (p + q) / 2
    expected = 0.5 * (np.sum(p * np.log(p / m), -1) + np.sum(q * np.log(q / m), -1))
    np.testing.assert_allclose(exact(L.js_divergence, np.log(p), q), expected, rtol=1e-5)
    np.testing.assert_allclose(exact(L.js_divergence, np.log(q), p), expected, rtol=1e-5)
    np.testing.assert_allclose(exact(L.js_divergence, np.log(p), p), 0, atol=1e-7)


def test_mean_squared_error_is_the_mean():
    a, b = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    assert L.mean_squared_error(a, b) == (1 + 4 + 4 + 16) / 4
    assert L.mean_squared_error(a) == (1 + 4 + 9 + 25) / 4


def test_a_mean_of_halves_is_exact():
    ones = jnp.full((4096,), 1.0, jnp.bfloat16).at[0].set(64.0)
    assert L.mean_squared_error(ones) == (4095 + 64**2) / 4096


def test_odd_norms_take_magnitudes():
    rng = np.random.default_rng(0)
    a, p, n = rng.normal(size=(3, 4, 5))
    near, far = (((np.abs(a - x) ** 3).sum(-1) + 1e-6) ** (1 / 3) for x in (p, n))
    loss = functools.partial(L.triplet_margin_loss, norm_degree=3)
    np.testing.assert_allclose(exact(loss, a, p, n), np.maximum(near - far + 1, 0), rtol=1e-5)


@pytest.mark.slow
def test_sparsemax_gradient_is_sparsemax_less_onehot():
    scores = jnp.array([[3.0, 1.0, 2.5], [0.1, 0.2, 0.0]])
    grad = jax.grad(lambda s: L.multiclass_sparsemax_loss(s, jnp.array([1, 2])).sum())(scores)
    expected = np.array([[0.75, -1.0, 0.25], [1 / 3, 1.3 / 3, -1 + 0.7 / 3]])
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_masked_classes_are_as_if_they_were_not_there():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 5)), rng.dirichlet(np.ones(5), 4)
    keep = np.array([True, True, False, True, False])
    y[:, ~keep] = 0
    for loss in (L.softmax_cross_entropy, L.poly_loss_cross_entropy, L.kl_divergence):
        full = exact(functools.partial(loss, where=keep[None]), x, y)
        np.testing.assert_allclose(full, exact(loss, x[:, keep], y[:, keep]), rtol=1e-5)
    smooth = exact(functools.partial(L.smooth_labels, alpha=0.3, where=keep[None]), np.eye(5)[:1])
    np.testing.assert_allclose(smooth, [[0.8, 0.1, 0, 0.1, 0]], rtol=1e-6)
    one = L.smooth_labels(np.eye(3)[1], 0.3, where=np.array([False, True, False]))
    np.testing.assert_allclose(one, [0, 1, 0], rtol=1e-6)


def test_labels_that_are_no_class_do_not_pass():
    labels = jnp.array([0, -1, 3, 2])
    for loss in (
        L.softmax_cross_entropy_with_integer_labels,
        L.multiclass_hinge_loss,
        L.multiclass_perceptron_loss,
        L.multiclass_sparsemax_loss,
    ):
        nan = jnp.isnan(jax.jit(loss)(jnp.ones((4, 3)), labels))
        np.testing.assert_array_equal(nan, [False, True, True, False], err_msg=loss.__name__)
    keep = jnp.array([[True, False, True]])
    loss = L.softmax_cross_entropy_with_integer_labels(jnp.ones((1, 3)), jnp.array([1]), where=keep)
    assert loss[0] == jnp.inf


@pytest.mark.parametrize("labels", [np.uint8(299 % 256), np.int64(299), np.uint32(299)])
def test_every_integer_dtype_counts_far_enough(labels):
    logits = jnp.where(jnp.arange(300) == int(labels), 2.0, 0.0)
    loss = L.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(loss, np.log(299 + np.exp(2)) - 2, rtol=1e-6)


def test_numbers_never_widen_the_result():
    x = jnp.ones((2, 3), jnp.bfloat16)
    wide = np.float64(0.5)
    losses = [
        functools.partial(L.huber_loss, delta=wide),
        lambda x: L.sigmoid_focal_loss(x, x, gamma=wide, alpha=wide),
        lambda x: L.smooth_labels(x, wide),
        lambda x: L.ntxent(x, np.array([0, 0]), wide),
        lambda x: L.dice_loss(x, x, smooth=wide),
        lambda x: L.poly_loss_cross_entropy(x, x, epsilon=wide),
        lambda x: L.triplet_margin_loss(x, x, x, margin=wide, eps=wide),
    ]
    with enable_x64():
        for loss in losses:
            assert jax.eval_shape(loss, x).dtype == jnp.float32
            assert jax.eval_shape(loss, x.astype(jnp.float64)).dtype == jnp.float64


def test_dice_of_a_single_vector_is_that_of_its_classes():
    x, t = jnp.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]]), jnp.eye(3)[:2]
    loss = functools.partial(L.dice_loss, reduction="none")
    np.testing.assert_allclose(loss(x[0], t[0]), loss(x, t)[0], rtol=1e-6)


def test_fenchel_young_passes_arguments_on():
    loss = L.make_fenchel_young_loss(lambda s, t, scale: scale * t * jnp.max(s))
    out = loss(jnp.array([[1.0, 3.0], [2.0, 0.0]]), jnp.array([[1, 0], [1, 0]]), 2.0, scale=3.0)
    np.testing.assert_allclose(out, [17.0, 10.0])


def test_dice_takes_probabilities_under_jit_and_for_one_class():
    p, t = jnp.array([[0.9, 0.2, 0.6]]), jnp.array([[1.0, 0.0, 1.0]])
    jitted = jax.jit(functools.partial(L.binary_dice_loss, apply_sigmoid=False))
    expected = 1 - (1.5 + 1) / (1.5 + 0.5 * 0.2 + 0.5 * 0.5 + 1)
    np.testing.assert_allclose(jitted(p, t), [expected], rtol=1e-6)
    np.testing.assert_allclose(L.binary_dice_loss(p, t, apply_sigmoid=False), [expected], rtol=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 63, 64, 100, 300])
def test_distances_of_any_degree_are_those_of_numpy(degree):
    """Ratios are at most 1 before the power, which overflowed from degree 64 on."""
    x, near, far = (jnp.array(v) for v in ([1.0, 2.0], [0.0, 0.0], [-1.5, 1.0]))

    def loss(x):
        return L.triplet_margin_loss(x, near, far, norm_degree=degree)

    value, slope = jax.value_and_grad(loss)(x)
    distances = [np.linalg.norm(np.float64(x - y), degree) for y in (near, far)]
    np.testing.assert_allclose(value, 1 + distances[0] - distances[1], rtol=1e-5)
    assert jnp.isfinite(slope).all()


def test_a_label_out_of_range_may_be_masked_outside():
    """The loss is NaN there, but its gradient is finite, so that a choice of 0 hides both."""
    logits, labels = jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([1, -1])

    def loss(logits):
        losses = L.softmax_cross_entropy_with_integer_labels(logits, labels)
        assert losses.shape == (2,)
        return jnp.where(labels >= 0, losses, 0).sum()

    value, slope = jax.value_and_grad(loss)(logits)
    p = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(value, -np.log(1 - p), rtol=1e-6)
    np.testing.assert_allclose(slope, [[p, -p], [0, 0]], rtol=1e-5)
