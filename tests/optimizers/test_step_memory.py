"""A compiled, donated step of the common optimizers works in place."""

import jax
import jax.numpy as jnp
import pytest

import gdjax


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="how XLA's CPU compiler orders loops")
@pytest.mark.parametrize(
    "opt",
    [gdjax.sgd(0.1, momentum=0.9), gdjax.adamw(0.1), gdjax.lion(0.1)],
    ids=["sgd", "adamw", "lion"],
)
def test_a_donated_step_needs_no_memory_of_its_own(opt):
    shapes = jax.eval_shape(lambda: {str(i): jnp.zeros((64, 64)) for i in range(2)})

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(
        shapes, jax.eval_shape(opt.init, shapes), shapes
    )
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 1000  # an array has 16384
