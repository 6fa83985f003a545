"""Which of optax's own tests do not pass on `gdjax.compat.optax`, and why not.

Names are those that `optax_suite.py` prints. Each stands before a list of its endings, which are
the numbers of its arguments, or "" for a test without any.
"""

from __future__ import annotations

from collections.abc import Mapping


def tests(names: Mapping[str, str]) -> list[str]:
    """Return the full names.

    Example:
      >>> tests({"a.test_x": "1 12", "b.test_y": ""})
      ['a.test_x1', 'a.test_x12', 'b.test_y']
    """
    return [name + end for name, ends in names.items() for end in ends.split() or [""]]


# With optax 0.2.8 and jax 0.10, on one device. What is skipped there and here is not counted.
_SKIPPED = {
    "_src.alias_test.AliasTest.test_optimization": (
        "5 7 8 9 10 11 16 17 18 19 41 43 49 51 61 63 73 75 81 83 89 91 93 95 109 111 117 118 "
        "119 121 122 123 125 127"
    ),
    "_src.alias_test.AliasTest.test_state_shape_dtype_shard_stability": (
        "10 11 16 17 64 65 76 77 94 95 112 113 124 125 136 137 142 143 166 167 178 179 184 "
        "185 190 191"
    ),
    "_src.linesearch_test.ZoomLinesearchTest.test_linesearch": "",
    "_src.sharding_test.ShardingTest.test_microbatch_with_explicit_sharding_replicated": "",
    "_src.sharding_test.ShardingTest.test_microbatch_with_explicit_sharding_sharded": "",
    "_src.sharding_test.ShardingTest.test_state_sharding_type_init_match_update_": (
        "adabelief adadelta adafactor adafactor2 adagrad adam adamax adamaxw adamw adan "
        "amsgrad fromage lamb lars lbfgs lion nadam nadamw noisy_sgd novograd "
        "optimistic_gradient_descent radam rmsprop sgd sm3 yogi"
    ),
    "_src.sharding_test.ShardingTest.test_state_sharding_type_preserved_with_jit_": (
        "adabelief adadelta adafactor adafactor2 adagrad adam adamax adamaxw adamw adan "
        "amsgrad fromage lamb lars lbfgs lion nadam nadamw noisy_sgd novograd "
        "optimistic_gradient_descent radam rmsprop sgd sm3 yogi"
    ),
    "contrib._common_test.ContribTest.test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such": (  # noqa: E501
        "14 15 38"
    ),
    "contrib._common_test.ContribTest.test_optimizers_can_be_wrapped_in_inject_hyperparams": "20",
    "contrib._schedule_free_test.ScheduleFreeTest.test_explicit_dtype": "8 9 11",
    "schedules._schedule_test.ScheduleAsLearningRateTest.test_optimization": "1 2 3 4 20 23 27 31",
}
_FAIL_ON_OPTAX = {
    "transforms._clipping_test.ClippingTest.test_clip_by_block_rms": "",
    "transforms._freezing_test.FreezeTest.test_bad_structure_raises": "",
    "transforms._freezing_test.SelectiveTransformTest.test_selective_bad_structure": "",
}
NOT_ON_OPTAX = frozenset(tests(_SKIPPED) + tests(_FAIL_ON_OPTAX))

# Reason -> tests that pass on optax itself.
_REASONS = {
    "moments of parameters in bfloat16 are float32, as everywhere in gdjax: bfloat16 stalls": {
        "_src.alias_test.AliasTest.test_explicit_dtype": "9 10 11",
        "contrib._galore_test.GaLoreTest.test_mu_dtype_controls_moment_dtype": "",
    },
    "the dtype of a moment is real; that of a complex parameter is complex anyway": {
        "_src.alias_test.AliasTest.test_explicit_dtype": "6 7 8 18 19 20 30 31 32 42 43 44",
    },
    "numbers of inject_hyperparams are float32 at least: 0.999 is 1 in bfloat16": {
        "schedules._inject_test.InjectHyperparamsTest.test_hyperparam_default_dtype_bf16": "",
        "schedules._inject_test.InjectHyperparamsTest.test_hyperparam_default_dtype_f32": "",
    },
    "steps without positive curvature are not remembered: the direction leads downhill": {
        "_src.alias_test.LBFGSTest.test_against_plain_implementation": "2 3",
    },
    "a bad argument is an error where the optimizer is made, before its update": {
        "_src.transform_test.TransformTest.test_lion_invalid_mode_raises": "",
    },
    "the last digit differs: it is computed in another order, in float32 at least": {
        "tree_utils._tree_math_test.TreeUtilsTest.test_tree_vdot": "",
    },
    "a decay of no steps is allowed, and a peak of 0 keeps the end value": {
        "schedules._schedule_test.WarmupCosineDecayTest.test_raises_when_decay_equals_warmup": "",
        "schedules._schedule_test.WarmupCosineDecayTest.test_zero_peak_value": "",
    },
    "an argument of the wrong kind is a TypeError, not a ValueError": {
        "schedules._schedule_test.PiecewiseInterpolateTest.test_invalid_type": "",
    },
    "a private function of optax, whose place gdjax fills in another way": {
        "_src.linear_algebra_test.LinearAlgebraTest.test_power_iteration_cond_fun": "",
    },
}
FAILURES = {test: reason for reason, names in _REASONS.items() for test in tests(names)}
