"""with_hyperparams_of: an optimizer made anew gives its numbers to a state that there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core.protocols import states_in


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: gdjax.adam(rate, b2=1 - rate / 10),
        lambda rate: gdjax.chain(gdjax.clip_by_global_norm(rate), gdjax.sgd(rate, momentum=rate)),
        lambda rate: gdjax.groups(
            {"a": gdjax.sgd(rate), "b": gdjax.adamw(rate, mask={"a": False, "b": True})}
        ),
        lambda rate: gdjax.accumulate(gdjax.average(gdjax.sgd(rate)), 1),
        lambda rate: gdjax.sgd(gdjax.linear_schedule(rate, 0.0, 10)),
        lambda rate: gdjax.sgd(gdjax.by_path({"a": rate, "b": 2 * rate})),
    ],
    ids=["adam", "chain", "groups", "wrappers", "schedule", "by path"],
)
def test_an_optimizers_numbers_can_be_put_into_a_state(make):
    params = {"a": jnp.ones(2), "b": jnp.full(3, 2.0)}
    _, state = make(0.5).update(params, make(0.5).init(params), params)
    optimizer = make(0.01)
    new = gdjax.with_hyperparams_of(state, optimizer, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    want = gdjax.hyperparams(optimizer.update(params, optimizer.init(params), params)[1])
    for name, value in gdjax.hyperparams(new).items():
        np.testing.assert_array_equal(value, want[name])
    slots = [leaf for _, node in states_in(new) for leaf in jax.tree.leaves((node.count,))]
    assert [int(x) for x in slots] == [int(node.count) for _, node in states_in(state)]

    def rebuilt(rate):
        return gdjax.with_hyperparams_of(state, make(rate), params)

    grid = jax.jit(jax.vmap(rebuilt))(jnp.array([0.01, 0.1]))
    again = gdjax.with_hyperparams_of(grid, optimizer, params)  # several runs: all get it
    for name, value in gdjax.hyperparams(new).items():
        np.testing.assert_allclose(gdjax.hyperparams(grid)[name][0], value, rtol=1e-6)
        np.testing.assert_allclose(gdjax.hyperparams(again)[name], jnp.stack([value, value]))


def test_a_state_of_another_kind_takes_no_numbers():
    params = jnp.ones(2)
    for state, other, like in (
        (gdjax.sgd(0.1).init(params), gdjax.adam(0.1), params),
        (gdjax.adam(0.1).init(params), gdjax.adam(0.1), jnp.ones(3)),
        ((), gdjax.adam(0.1), params),
    ):
        with pytest.raises(ValueError, match="is not a state of the optimizer"):
            gdjax.with_hyperparams_of(state, other, like)
