"""Valid calls of every public function, which tests/test_fuzz.py spoils one argument at a time.

A required argument gets its value by name from `BY_NAME`, or from the function's entry in `OWN`,
which may also set optional arguments.
"""

import jax
import jax.numpy as jnp

import gdjax

PARAMS = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
VECTOR = jnp.array([0.5, 1.0, -0.5])
ROWS = jnp.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
LOG_ROWS = jnp.log(ROWS)
MATRIX = jnp.array([[2.0, 0.5], [0.5, 1.0]])
KEY = jax.random.key(0)
SGD = gdjax.sgd(0.1, momentum=0.9)


def loss_of(params, *args, **kwargs):
    """A loss of a tree, whatever comes with it."""
    return sum((jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(params)), jnp.zeros(()))


def residuals(x, *args):
    return jax.tree.map(lambda leaf: leaf**2 - 2.0, x)


def halved(x, *args):
    return jax.tree.map(lambda leaf: leaf / 2, x)


def same(x, *args, **kwargs):
    return x


def same_prox(x, hyperparams=None, scaling=1.0):
    return x


def rule(grad, slots, param, count, *, learning_rate=1.0):
    return learning_rate * grad, slots


def tree_rule(grads, slots, params, count):
    return grads, slots


def no_slots(param):
    return ()


def skips(updates, gradient_step, params=None, **extra):
    return jnp.zeros((), bool), {}


BY_NAME = dict(
    learning_rate=0.1,
    optimizer=SGD,
    base_optimizer=SGD,
    fast_optimizer=SGD,
    inner=SGD,
    tx=SGD,
    params=PARAMS,
    updates=PARAMS,
    moments=PARAMS,
    moment=PARAMS,
    grads=jax.tree.map(lambda x: x[None], PARAMS),
    tree=PARAMS,
    tree_x=PARAMS,
    tree_y=PARAMS,
    other_tree=PARAMS,
    other_trees=PARAMS,
    target_tree=PARAMS,
    input_tree=PARAMS,
    new_tensors=PARAMS,
    old_tensors=PARAMS,
    x=VECTOR,
    predictions=ROWS,
    targets=ROWS,
    predictor_outputs=VECTOR,
    scores=ROWS,
    log_predictions=LOG_ROWS,
    log_targets=LOG_ROWS,
    logits=ROWS,
    labels=ROWS,
    anchors=ROWS,
    positives=ROWS,
    negatives=ROWS,
    embeddings=ROWS,
    hidden=ROWS,
    kernel=jnp.ones((3, 4)),
    alpha=0.1,
    loss_fn=loss_of,
    fun=loss_of,
    value_fn=loss_of,
    data=jnp.ones((4, 2)),
    steps=4,
    space={"learning_rate": [0.1, 0.2]},
    key=0,
    seed=0,
    rng_key=KEY,
    count=3,
    state=SGD.init(PARAMS),
    prox=same_prox,
    projection=same,
    mask={"w": True, "b": False},
    freeze_mask={"w": True, "b": False},
    should_transform_fn=lambda step, **extra: step < 1,
    should_skip=skips,
    gradient_step=0,
    rule=rule,
    slots=no_slots,
    hyperparams=None,
    decay=0.9,
    eps=1e-8,
    order=2,
    scalar=2.0,
    dtype="float32",
    fill_value=1.0,
    condition=True,
    a=PARAMS,
    b=PARAMS,
    init_value=0.1,
    end_value=0.01,
    peak_value=1.0,
    value=0.1,
    power=1.0,
    decay_rate=0.9,
    decay_steps=10,
    transition_steps=10,
    warmup_steps=2,
    stable_steps=2,
    cooldown_steps=2,
    up_steps=2,
    total_steps=10,
    weight_decay=0.1,
    max_delta=1.0,
    max_norm=1.0,
    threshold=1.0,
    clipping=0.1,
    every_k=2,
    max_consecutive_errors=3,
    l2_norm_clip=1.0,
    global_l2_norm_clip=1.0,
    noise_multiplier=1.0,
    eta=0.1,
    gamma=0.5,
    step_size=0.5,
    step_size_fn=0.5,
    scale=0.5,
    update_period=2,
    measure=loss_of,
    measure_name="loss",
    measures={"loss": loss_of},
    rules={".*": 0.1},
    optimizers={"w": SGD, ".*": None},
    low=0.1,
    high=1.0,
    iters=3,
    p=2,
    matrix=MATRIX,
    cost_matrix=MATRIX,
    lower=0.0,
    upper=1.0,
    numbers=(),
    head_axis=None,
    loc=VECTOR,
    log_scale=VECTOR,
    in_features=3,
    out_features=2,
    sizes=(3, 4, 2),
    channels=(2,),
    image_shape=(8, 8, 1),
    every=2,
    min_norm=0.0,
    min_rms=0.0,
    key_name="mu",
)

ROW_LABELS = jnp.array([0, 2])
SIGNS = dict(targets=jnp.array([1.0, -1.0, 1.0]))
CTC = dict(
    logits=jnp.ones((1, 3, 2)),
    logit_paddings=jnp.zeros((1, 3)),
    labels=jnp.array([[1]]),
    label_paddings=jnp.zeros((1, 1)),
)
OPTIMUM = dict(fun=loss_of, params=VECTOR)
RACE = dict(optimizer=gdjax.sgd, params=VECTOR)
SECOND = dict(
    loss=loss_of,
    params=VECTOR,
    inputs=VECTOR,
    targets=VECTOR,
)
PLANE = dict(x=VECTOR, a=VECTOR, b=0.5)


# function -> arguments of its own
def of_width(width, key):
    """Return a loss with activations, parameters and an optimizer."""
    params = {"w": jnp.ones((2, width))}
    return lambda p, x: (jnp.sum(x @ p["w"]), {"out": x @ p["w"]}), params, SGD


OWN = {
    "apply_updates": None,  # a jitted function, which checks shapes: tests/wrappers
    "adaptive_grad_clip": {},
    "chain": dict(optimizers=SGD),
    "coordinate_check": dict(
        setup=of_width, widths=(2, 4), batch=jnp.ones((1, 2)), steps=1, seeds=1
    ),
    "named_chain": dict(optimizers=("sgd", SGD)),
    "choice": dict(options=1),
    "descend": dict(hyperparams={}, slots=None),
    "leafwise": {},
    "treewise": dict(rule=tree_rule),
    "schedule": None,  # a decorator of classes
    "safe_increment": dict(count=jnp.array(1)),
    "half_life": dict(tokens=100.0, tokens_per_step=4.0),
    "in_tokens": dict(schedule=gdjax.linear_schedule(1.0, 0.0, 100), tokens_per_step=4.0),
    "scaled_by_batch_size": dict(value=0.1, tokens_per_step=4.0, reference=2.0),
    "times": dict(value=0.1, multipliers=0.5),
    "preset": dict(optimizer="muon", name="torch"),
    "update_floor": dict(ratio=1e-3),
    "width_scaling": dict(
        params={"w": jnp.ones((2, 4)), "b": jnp.ones(4)}, base_params=PARAMS, wide_params=None
    ),
    "in_epochs": dict(schedule=gdjax.linear_schedule(1.0, 0.0, 2), steps_per_epoch=4),
    "with_steps_per_epoch": dict(steps_per_epoch=4),
    "nnls": dict(A=MATRIX, b=jnp.ones(2)),
    "safe_norm": {},
    "chunked_softmax_cross_entropy": dict(labels=ROW_LABELS),
    "softmax_cross_entropy_with_integer_labels": dict(labels=ROW_LABELS),
    "multiclass_hinge_loss": dict(labels=ROW_LABELS),
    "multiclass_perceptron_loss": dict(labels=ROW_LABELS),
    "multiclass_sparsemax_loss": dict(labels=ROW_LABELS),
    "ntxent": dict(labels=ROW_LABELS),
    "multiclass_generalized_dice_loss": {},
    "hinge_loss": SIGNS,
    "perceptron_loss": SIGNS,
    "sparsemax_loss": dict(labels=jnp.array([1, 0]), logits=jnp.ones(2)),
    "ctc_loss": CTC,
    "ctc_loss_with_forward_probs": CTC,
    "make_fenchel_young_loss": dict(max_fun=jax.nn.logsumexp),
    "polar": dict(x=MATRIX),
    "safe_root_mean_squares": {},
    "power_iteration": {},
    "unitwise_clip": dict(grad=MATRIX, max_norm=MATRIX, g_norm=MATRIX),
    "unitwise_norm": dict(x=MATRIX),
    "join_schedules": dict(schedules=[gdjax.constant_schedule(1.0)] * 2, boundaries=[3]),
    "sgdr_schedule": dict(
        cosine_kwargs=[dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=5)]
    ),
    "piecewise_constant_schedule": dict(boundaries_and_scales={3: 0.5}),
    "piecewise_interpolate_schedule": dict(
        interpolate_type="linear", boundaries_and_scales={3: 0.5}
    ),
    "stateless": dict(f=lambda updates, params: updates),
    "stateless_with_tree_map": dict(f=lambda g, p: g),
    "scale_gradient": dict(inputs=PARAMS),
    "quadratic_program": dict(Q=MATRIX, c=jnp.ones(2), bounds=(0.0, None)),
    "microbatch": dict(argnums=1, microbatch_size=2),
    "microbatching.micro_grad": {},
    "microbatching.micro_vmap": {},
    "microbatching.reshape_batch_axis": dict(tree=jnp.ones((4, 2)), microbatch_size=2),
    "state_shardings": dict(mesh=jax.sharding.AbstractMesh((2,), ("data",))),
    "in_shard_map": dict(specs=jax.sharding.PartitionSpec()),
    "dealt_like": dict(state=SGD.init(PARAMS), like=SGD.init(PARAMS)),
    "incremental_update": dict(step_size=0.5),
    "periodic_update": {},
    "hypergradient": dict(fit_fn=loss_of, values={"a": jnp.ones(())}),
    "batches": dict(source=[jnp.ones(2)]),
    "lr_find": dict(optimizer=gdjax.sgd),
    "fit": dict(steps=4),
    "sweep": RACE | dict(steps=4),
    "successive_halving": RACE,
    "hyperband": RACE | dict(space={"learning_rate": gdjax.log_uniform(1e-3, 1.0)}),
    "median_stop": RACE,
    "population_based_training": RACE,
    "search": RACE | dict(space={"learning_rate": [0.1, 0.2]}, trials=4, steps=4),
    "find_root": dict(fun=residuals, bracket=(0.0, 2.0)),
    "fixed_point": dict(fun=halved),
    "least_squares": dict(residual_fn=residuals, params=VECTOR),
    "root": dict(fun=residuals, params=VECTOR),
    "minimize": OPTIMUM,
    "value_and_grad_from_state": {},
    "skip_large_updates": dict(max_squared_norm=1.0),
    "schedule_free_eval_params": dict(state=gdjax.schedule_free_sgd(0.1).init(PARAMS)),
    "partition": dict(transforms={"a": SGD, "b": None}, param_labels={"w": "a", "b": "b"}),
    "projections.projection_box_section": dict(tree=VECTOR, a=jnp.ones(3), b=1.0),
    "projections.projection_halfspace": PLANE,
    "projections.projection_hyperplane": PLANE,
    "projections.projection_vector": dict(x=VECTOR, a=VECTOR),
    "projections.projection_simplex": dict(tree=VECTOR),
    "projections.unit_simplex": {},
    "proximal.make_prox_from_projection": dict(args=()),
    "perturbations.make_perturbed_fun": dict(fun=lambda x: x),
    "second_order.hvp": SECOND | dict(v=VECTOR),
    "second_order.hessian_diag": SECOND,
    "second_order.fisher_diag": dict(
        negative_log_likelihood=SECOND["loss"], params=VECTOR, inputs=ROWS, targets=ROWS
    ),
    "tree.get": dict(key="trace"),
    "tree.get_all_with_path": dict(key="trace"),
    "tree.map_params": dict(initable=SGD, f=lambda x, *rest: x, rest=PARAMS),
    "tree.set": dict(tree=SGD.init(PARAMS)),
    "projections.projection_l1_sphere": dict(tree=VECTOR),
}
