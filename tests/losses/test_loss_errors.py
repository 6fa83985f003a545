"""Bad input is named: function, argument, what was given."""

import jax
import jax.numpy as jnp
import pytest

import gdjax

L = gdjax.losses
X, INTS, COLUMN = jnp.ones((3, 2)), jnp.ones((3, 2), int), jnp.ones((3, 1))
ROW, Y, COMPLEX = jnp.ones(3), jnp.zeros(3, int), jnp.ones((3, 2), complex)
CE = L.softmax_cross_entropy_with_integer_labels

CASES = [
    # the dtype of predictions
    (lambda: L.squared_error(INTS), TypeError, r"squared_error\(predictions=...\) must be float"),
    (lambda: L.l2_loss(INTS), TypeError, r"l2_loss\(predictions=...\) must be float"),
    (lambda: L.mean_squared_error(INTS), TypeError, r"mean_squared_error\(predictions=...\)"),
    (lambda: L.huber_loss(INTS, X), TypeError, r"got dtype int32. Cast it"),
    (lambda: L.log_cosh(COMPLEX), TypeError, r"log_cosh\(predictions=...\) must be float"),
    (lambda: L.log_cosh(X, COMPLEX), TypeError, r"log_cosh\(targets=...\) must be real"),
    (
        lambda: L.squared_error("words"),
        TypeError,
        r"predictions=...\) must be an array, got 'words'",
    ),
    (lambda: L.squared_error(None), TypeError, r"must be an array, got None"),
    (lambda: L.cosine_similarity(X, INTS), TypeError, r"cosine_similarity\(targets=...\)"),
    (lambda: L.softmax_cross_entropy(INTS, X), TypeError, r"logits=...\) must be float"),
    (lambda: L.sigmoid_binary_cross_entropy(INTS, X), TypeError, r"logits=...\) must be float"),
    (lambda: L.sigmoid_focal_loss(INTS, X), TypeError, r"sigmoid_focal_loss\(logits=...\)"),
    (lambda: L.hinge_loss(INTS, X), TypeError, r"hinge_loss\(predictor_outputs=...\)"),
    (lambda: L.kl_divergence(X, INTS), TypeError, r"kl_divergence\(targets=...\) must be float"),
    (lambda: L.js_divergence(INTS, X), TypeError, r"js_divergence\(log_predictions=...\)"),
    (lambda: L.ranking_softmax_loss(INTS, X), TypeError, r"ranking_softmax_loss\(logits=...\)"),
    (lambda: L.dice_loss(INTS, X), TypeError, r"dice_loss\(predictions=...\) must be float"),
    (lambda: L.smooth_labels(INTS, 0.1), TypeError, r"smooth_labels\(labels=...\) must be float"),
    (lambda: L.triplet_margin_loss(X, X, INTS), TypeError, r"\(negatives=...\) must be float"),
    # the dtype of labels
    (lambda: CE(X, ROW), TypeError, r"labels=...\) must be integer class indices, got dtype float"),
    (lambda: L.softmax_cross_entropy(X, Y[:2]), TypeError, r"one-hot or probabilities, got int32"),
    (lambda: L.multiclass_hinge_loss(X, ROW), TypeError, r"multiclass_hinge_loss\(labels=...\)"),
    (lambda: L.ntxent(X, ROW), TypeError, r"ntxent\(labels=...\) must be integer or boolean"),
    # shapes
    (lambda: L.squared_error(COLUMN, ROW), ValueError, r"predictions \[3, 1\], targets \[3\]"),
    (lambda: L.huber_loss(COLUMN, ROW), ValueError, r"would broadcast to \[3, 3\]"),
    (lambda: L.huber_loss(X, jnp.ones((2, 3))), ValueError, r"huber_loss got shapes that do not"),
    (lambda: L.sigmoid_binary_cross_entropy(ROW, COLUMN), ValueError, r"logits \[3\] and labels"),
    (lambda: L.hinge_loss(ROW, COLUMN), ValueError, r"hinge_loss got predictor_outputs \[3\]"),
    (lambda: CE(X, Y[:2]), ValueError, r"labels=...\) must have shape \[3\].*got \[2\]"),
    (lambda: L.multiclass_sparsemax_loss(X, Y[:2]), ValueError, r"the shape of scores without"),
    (lambda: L.kl_divergence(X, ROW), ValueError, r"kl_divergence got shapes that do not fit"),
    (lambda: L.ntxent(X, Y[:2]), ValueError, r"labels \[batch\], got \[3, 2\] and \[2\]"),
    (lambda: L.triplet_margin_loss(X, X, ROW), ValueError, r"negatives \[3\]"),
    (lambda: L.dice_loss(X, ROW[:2]), ValueError, r"dice_loss needs equal shapes"),
    (lambda: L.dice_loss(X, X, class_weights=ROW), ValueError, r"class_weights=...\) must have"),
    # axes and masks
    (lambda: L.softmax_cross_entropy(X, X, axis=2), ValueError, r"axis=...\) is 2, out of range"),
    (lambda: L.cosine_distance(X, X, axis=(0, -2)), ValueError, r"names an axis twice"),
    (
        lambda: L.kl_divergence(X, X, axis=1.0),
        TypeError,
        r"axis=...\) must be an axis or a tuple of axes or None, got 1.0",
    ),
    (
        lambda: CE(X, Y, axis=None),
        TypeError,
        r"axis=...\) must be an integer or a tuple of integers, got None",
    ),
    (lambda: L.dice_loss(X, X, axis=-1), ValueError, r"must not include the class axis"),
    (lambda: CE(X, Y, where=ROW), TypeError, r"where=...\) must be boolean, got dtype float32"),
    (lambda: CE(X, Y, where=Y[:2] == 0), ValueError, r"where=...\) of shape \[2\] does not fit"),
    (lambda: L.cosine_similarity(X, X, where=X[None] > 0), ValueError, r"shape \[1, 3, 2\]"),
    # numbers and choices
    (lambda: L.huber_loss(X, delta=-1.0), ValueError, r"huber_loss\(delta=...\) must be finite"),
    (lambda: L.sigmoid_focal_loss(X, X, alpha=2.0), ValueError, r"alpha=...\) must be in \[0, 1\]"),
    (lambda: L.sigmoid_focal_loss(X, X, gamma=-1.0), ValueError, r"gamma=...\) must be finite"),
    (lambda: L.smooth_labels(X, 1.5), ValueError, r"smooth_labels\(alpha=...\) must be in"),
    (lambda: L.ntxent(X, Y, 0.0), ValueError, r"ntxent\(temperature=...\) must be finite and > 0"),
    (lambda: L.triplet_margin_loss(X, X, X, norm_degree=0.5), ValueError, r"norm_degree=...\)"),
    (lambda: L.dice_loss(X, X, reduction="all"), ValueError, r"reduction=...\) must be one of"),
    (lambda: L.dice_loss(X, X, apply_softmax=False), ValueError, r"sum to \[2, 2\] over the cla"),
    (
        lambda: L.binary_dice_loss(X + 1, X, apply_sigmoid=False),
        ValueError,
        r"binary_dice_loss\(apply_sigmoid=False\) needs predictions that are valid prob",
    ),
    (
        lambda: L.multiclass_generalized_dice_loss(X, ROW),
        ValueError,
        r"multiclass_generalized_dice_loss needs equal shapes",
    ),
    (lambda: L.make_fenchel_young_loss(3), TypeError, r"max_fun=...\) must be a function, got 3"),
]


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=[c[2] for c in CASES])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_traced_numbers_pass():
    loss = jax.jit(lambda d: L.huber_loss(X, delta=d))(jnp.float32(0.5))
    assert loss.shape == X.shape
