"""A compiled, donated step of the common optimizers works in place.

XLA overwrites a slot where all that reads the old value comes before the new one is written: the
update is taken from the new slots, which end in an operation that joins two arrays. (One that ends
in `+ eps` or `clip` is calculated again, from the old slot, wherever it is read.)
"""

import jax
import jax.numpy as jnp
import pytest

import gdjax

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="how XLA's CPU compiler orders loops"
)
ARRAY = 16384  # bytes
IN_PLACE = dict(
    sgd=gdjax.sgd(0.1, momentum=0.9),
    adamw=gdjax.adamw(0.1),
    lion=gdjax.lion(0.1),
    adabelief=gdjax.adabelief(0.1),
    schedule_free_sgd=gdjax.schedule_free_sgd(0.1),
    schedule_free=gdjax.schedule_free(gdjax.sgd(0.1), 0.1),
    gpa=gdjax.gpa(gdjax.sgd(0.1)),
    ema_nesterov=gdjax.ema_nesterov(gdjax.sgd(0.1)),
    lookahead=gdjax.lookahead(gdjax.sgd(0.1)),
)
ONE_ARRAY = dict(
    adadelta=gdjax.adadelta(),  # the step, which the parameter and e_x need
    rprop=gdjax.rprop(0.1),  # the gradient of the last step, since the step size reads it too
    schedule_free_adamw=gdjax.schedule_free_adamw(0.1),  # the direction, which y and z walk along
    schedule_free_radam=gdjax.schedule_free_radam(0.1),
)


def _memory(opt):
    shapes = jax.eval_shape(lambda: {str(i): jnp.zeros((64, 64)) for i in range(2)})

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(
        shapes, jax.eval_shape(opt.init, shapes), shapes
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("opt", IN_PLACE.values(), ids=IN_PLACE)
def test_a_donated_step_needs_no_memory_of_its_own(opt):
    assert _memory(opt) < 1000


@pytest.mark.parametrize("opt", ONE_ARRAY.values(), ids=ONE_ARRAY)
def test_a_donated_step_needs_one_array_for_each_parameter(opt):
    assert _memory(opt) < 2 * ARRAY + 1000
