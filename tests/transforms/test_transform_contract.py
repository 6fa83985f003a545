"""The transforms keep the contract of docs/design.md, as every optimizer in the registry does."""

import jax
import jax.numpy as jnp
import pytest
import test_contract as contract
from registry import Case

import gdjax

REAL = (jnp.float32, jnp.bfloat16, jnp.float16)


def _even(step):
    return step % 2 == 0


def _shrink(grads, params):
    return jax.tree.map(lambda g, p: g - 0.1 * p.astype(g.dtype), grads, params)


def _plain():
    return gdjax.chain(
        gdjax.zero_nans(),
        gdjax.centralize(),
        gdjax.stateless(_shrink),
        gdjax.stateless_with_tree_map(_flat),
        gdjax.conditionally_mask(gdjax.set_to_zero(), _even),
    )


def _flat(grad, param):
    return 0.5 * grad


def _gathered(learning_rate):
    return gdjax.chain(
        gdjax.conditionally_transform(gdjax.sgd(learning_rate, momentum=0.9), _even),
        gdjax.apply_every(2),
    )


def _flattened(learning_rate, b1, clipping):
    return gdjax.chain(
        gdjax.adaptive_grad_clip(clipping, eps=0.1), gdjax.flatten(gdjax.adam(learning_rate, b1))
    )


def _size(grads):
    return gdjax.tree.norm(grads)


def _watched(learning_rate, decay):
    share = gdjax.measure_with_ema(_size, decay)
    measures = {"size": _size, "share": share}
    inner = gdjax.chain(gdjax.clip_by_global_norm(0.5), gdjax.sgd(learning_rate, decay))
    return gdjax.chain(gdjax.monitor(measures), gdjax.snapshot("s", _size), gdjax.monitor(inner))


CASES = [
    Case("clip_by_block_rms", gdjax.clip_by_block_rms, dict(threshold=0.37)),
    Case(
        "normalize_by_update_norm",
        gdjax.normalize_by_update_norm,
        dict(scale_factor=-0.3, eps=0.01),
    ),
    Case("clip_by_global_norm", gdjax.clip_by_global_norm, dict(max_norm=0.5)),
    Case("ema", gdjax.ema, dict(decay=0.7)),
    Case(
        "scale_by_distance_over_gradients",
        gdjax.scale_by_distance_over_gradients,
        dict(reps_rel=0.1, eps=0.01, global_scale=-1.0),
    ),
    Case("plain", _plain, {}),
    Case("keep_params_nonnegative", gdjax.keep_params_nonnegative, {}, dtypes=REAL),
    Case("gathered", _gathered, dict(learning_rate=0.1)),
    Case("flattened", _flattened, dict(learning_rate=0.1, b1=0.8, clipping=0.3)),
    Case("watched", _watched, dict(learning_rate=0.1, decay=0.8)),
]

# On top of what the states of all cases go through, in the order of test_contract.py.
CHECKS = [
    contract.test_one_function_and_one_program_for_all_numbers,
    contract.test_grids_and_donated_steps_equal_single_runs,
    contract.test_init_under_a_trace_and_without_taking_buffers,
    contract.test_hypergradients,
    contract.test_empty_trees,
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_states_and_dtypes(case):
    for dtype in case.dtypes:
        contract.test_state_updates_and_dtypes(case, dtype)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("test_"))
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_contract(case, check):
    check(case)
