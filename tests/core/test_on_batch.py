"""Functions of the parameters that an update gets as an extra, or from the batch of the step."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core.on_batch import on_batch


def test_an_extra_decides():
    assert on_batch("f", "g_fn", lambda p: p + 1, lambda p, b: p * b, 3.0)(2.0) == 3.0
    assert on_batch("f", "g_fn", None, lambda p, b: p * b, 3.0)(2.0) == 6.0


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"f needs g_fn: .*g_fn=\.\.\..*f\(g_fn=\.\.\.\)"):
        on_batch("f", "g_fn", None, None, 3.0)
    with pytest.raises(TypeError, match=r"f\(g_fn=\.\.\.\) .*no batch"):
        on_batch("f", "g_fn", None, lambda p, b: p * b, None)


@pytest.mark.parametrize("run", [gdjax.fit, gdjax.unroll])
def test_loops_give_the_batch(run):
    """The updates are the batch, so the parameters say which examples were given."""

    def update(grads, state, params=None, *, batch, **extra):
        return batch[0, 0], state

    seen = gdjax.Optimizer(lambda params: (), update)
    x = jnp.arange(8.0)
    out = run(lambda p, b: p * b[0, 0], jnp.zeros(()), seen, x[:, None], batch_size=1, steps=8)
    np.testing.assert_array_equal(out.params if run is gdjax.fit else out, x.sum())
