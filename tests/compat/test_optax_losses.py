"""Habits of code that was written for optax's losses."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax.compat import optax as compat

NAME = "softmax_cross_entropy_with_integer_labels"
LOGITS = jax.random.normal(jax.random.key(0), (12, 3, 50))


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8"])
def test_negative_labels_count_from_the_end(dtype):
    """Losses of padding are masked afterwards; NaN times 0 would be NaN."""
    labels = np.array([3, -1, 49, -50, 0, -100, 7, 1, 50, 1, 2, 3]).astype(dtype)
    labels = labels[:, None] + np.zeros(3, dtype)
    ours = jax.jit(getattr(compat, NAME))(LOGITS, labels)
    theirs = getattr(optax, NAME)(LOGITS, labels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    ours = compat.losses.softmax_cross_entropy_with_integer_labels(
        jnp.swapaxes(LOGITS, 0, 2), labels.T, axis=0
    )
    np.testing.assert_allclose(ours.T, theirs, rtol=1e-5, atol=1e-5)


def test_several_axes_of_classes():
    labels = np.array([0, -1, 149, -150] * 3)
    ours, theirs = (getattr(m, NAME)(LOGITS, labels, axis=(1, 2)) for m in (compat, optax))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    with pytest.raises(ValueError, match=f"{NAME}.axis=...."):
        getattr(compat, NAME)(LOGITS, labels, axis=(1, 7))


def test_labels_of_minus_100_are_masked_afterwards():
    logits, labels = jnp.zeros((2, 200)), jnp.array([7, -100])

    def loss(logits):
        losses = getattr(compat, NAME)(logits, labels)
        return (losses * (labels >= 0)).sum()

    value, grads = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, np.log(200), rtol=1e-6)
    assert not grads[1].any() and jnp.isfinite(grads).all()


def test_float_labels_of_sparsemax():
    for library in (compat, optax):
        loss = library.losses.sparsemax_loss(jnp.array([0.0, 2.0, 2.0]), jnp.array([1.0, 1.0, 0.0]))
        np.testing.assert_allclose(loss, [0.25, 0.0, 2.0])


@pytest.mark.parametrize("name", ["huber_loss", "log_cosh", "hinge_loss", "sigmoid_focal_loss"])
def test_columns_and_rows_broadcast(name):
    """gdjax refuses [n, 1] with [n], most often a mistake; code on optax may mean it."""
    scores, targets = jnp.array([[0.5], [-1.0], [2.0]]), jnp.array([1.0, 0.0, 1.0])
    with jax.numpy_rank_promotion("allow"):
        ours, theirs = (getattr(library, name)(scores, targets) for library in (compat, optax))
    assert ours.shape == (3, 3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert pickle.loads(pickle.dumps(getattr(compat, name))) is getattr(compat, name)


def test_integer_scores_and_targets_that_are_left_out():
    np.testing.assert_allclose(compat.hinge_loss(jnp.array([1, 0]), jnp.array([1, -1])), [0, 1])
    np.testing.assert_allclose(compat.huber_loss(jnp.array([2.0]), delta=1.0), [1.5])
    with pytest.raises(TypeError, match="targets"):
        compat.hinge_loss(jnp.array([1.0]))


def test_the_old_name_warns():
    with pytest.warns(DeprecationWarning, match="use generalized_kl_divergence"):
        loss = compat.convex_kl_divergence(jnp.log(jnp.array([0.5, 0.5])), jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(loss, 0, atol=1e-6)


def test_schedules_without_steps_are_constant():
    for library in (compat, optax):
        schedules = [
            library.exponential_decay(0.1, -1, 0.9),
            library.exponential_decay(0.1, 5, 0.0),
            library.polynomial_schedule(0.1, 1.0, 1, 0),
        ]
        assert all(abs(schedule(3) - 0.1) < 1e-7 for schedule in schedules)
        assert abs(library.exponential_decay(0.1, 10, 0.9)(10) - 0.09) < 1e-6
        assert abs(library.polynomial_schedule(1.0, 0.0, 1, 4)(2) - 0.5) < 1e-6
