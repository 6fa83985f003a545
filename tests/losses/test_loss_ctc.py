"""CTC against the sum over all alignments, written out."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax


def collapse(path, blank):
    """Merge repeats, then drop blanks."""
    return [c for c, _ in itertools.groupby(path) if c != blank]


def exact(logits, frames, labels, blank):
    """Return -log of the total probability of all paths that read as `labels`."""
    p = np.exp(logits[:frames])
    p /= p.sum(axis=1, keepdims=True)
    paths = itertools.product(range(p.shape[1]), repeat=frames)
    total = sum(
        np.prod(p[np.arange(frames), path]) for path in paths if collapse(path, blank) == labels
    )
    return -np.log(total)


@functools.partial(jax.jit, static_argnums=1)
def first(args, blank):
    """Return the first loss, all losses, and the gradient of the first."""

    def loss(x):
        losses = gdjax.ctc_loss(x, *args[1:], blank_id=blank)
        return losses[0], losses

    return jax.value_and_grad(loss, has_aux=True)(args[0])


SEQUENCES = [[1, 2], [1, 1], [2], [], [1, 2, 1], [2, 2, 1]]
FRAMES = [5, 5, 3, 4, 3, 5]


@pytest.mark.parametrize("blank", [0, 2])
def test_equals_the_sum_over_all_alignments(blank):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (len(SEQUENCES), 5, 3))
    sequences = [[{0: c, 2: c - 1}[blank] for c in s] for s in SEQUENCES]
    labels = np.full((len(SEQUENCES), 3), -1)  # padding is no class
    for row, sequence in zip(labels, sequences, strict=True):
        row[: len(sequence)] = sequence
    frame_pads = np.arange(5)[None] >= np.array(FRAMES)[:, None]
    with enable_x64():
        args = jnp.asarray(logits), frame_pads, jnp.asarray(labels), labels < 0
        (loss, actual), grad = first(args, blank)
    expected = [exact(x, t, s, blank) for x, t, s in zip(logits, FRAMES, sequences, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-12)
    for i, j in [(0, 1), (3, 2)]:
        step = np.zeros_like(logits[0])
        step[i, j] = 1e-6
        up, down = (exact(logits[0] + s, 5, sequences[0], blank) for s in (step, -step))
        np.testing.assert_allclose(grad[0, i, j], (up - down) / 2e-6, rtol=1e-6)
    np.testing.assert_array_equal(grad[1:], 0)


def test_impossible_padded_and_unknown_labels():
    logits = jnp.array([[[1e4, -1e4, 0.0], [jnp.nan, jnp.inf, 0.0]]] * 3)
    frame_pads = jnp.array([[0.0, 1.0]] * 3)  # one frame is left, too short for two labels
    labels, label_pads = jnp.array([[1, 2], [1, 7], [7, 0]]), jnp.array([[0, 0], [0, 1], [0, 1]])
    (_, loss), grad = first((logits, frame_pads, labels, label_pads), 0)
    assert loss[0] > 9e4
    np.testing.assert_allclose(loss[1], 2e4, rtol=1e-6)
    assert jnp.isnan(loss[2])
    assert np.all(np.isfinite(grad[:2]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": jnp.ones((2, 3))}, ValueError, "needs logits"),
        ({"logits": jnp.ones((2, 3, 4), int)}, TypeError, "logits=...\\) must be float"),
        ({"labels": jnp.ones((2, 2))}, TypeError, "labels=...\\) must be integer"),
        ({"logit_paddings": jnp.ones((2, 4))}, ValueError, "logit_paddings=...\\) must have shape"),
        ({"label_paddings": jnp.ones((2, 4))}, ValueError, "label_paddings=...\\) must have shape"),
        ({"blank_id": 4}, ValueError, "blank_id=...\\) is 4, but there are 4 classes"),
        ({"blank_id": 0.5}, ValueError, "blank_id=...\\) must be an integer, got 0.5"),
        ({"blank_id": -5}, ValueError, "blank_id=...\\) must be an integer >= -4, got -5"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {
        "logits": jnp.ones((2, 3, 4)),
        "logit_paddings": jnp.zeros((2, 3)),
        "labels": jnp.ones((2, 2), int),
        "label_paddings": jnp.zeros((2, 2)),
    }
    for loss in (gdjax.ctc_loss, gdjax.ctc_loss_with_forward_probs):
        with pytest.raises(error, match=rf"^{loss.__name__}\b.*{message}"):
            loss(**(good | change))
