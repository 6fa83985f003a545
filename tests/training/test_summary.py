"""`summary`: what an optimizer will do with each parameter, before anything is allocated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax

PARAMS = {"embed": jnp.ones((8, 2)), "w": jnp.ones((2, 3)), "b": jnp.ones(3, jnp.bfloat16)}
LINE = gdjax.linear_schedule(0.5, 0.0, 10)


def rows_of(optimizer, params=PARAMS):
    made = gdjax.summary(params, optimizer)
    check_totals(made, optimizer, params)
    return {row.path: row for row in made.rows}


def check_totals(made, optimizer, params):
    """The bytes are those of a state that is allocated."""
    state = optimizer.init(params)
    assert made.state_bytes == sum(x.nbytes for x in jax.tree.leaves(state))
    assert made.state_bytes == made.shared_bytes + sum(row.state_bytes for row in made.rows)
    assert made.bytes == sum(x.nbytes for x in jax.tree.leaves(params))


def test_parameters_alone():
    made = gdjax.summary({**PARAMS, "none": None, "number": 2.0, "key": jax.random.key(0)})
    assert [(row.path, row.shape, row.dtype, row.bytes) for row in made.rows] == [
        ("b", (3,), "bfloat16", 6),
        ("embed", (8, 2), "float32", 64),
        ("key", (), "key<fry>", 8),
        ("number", (), "float32", 4),
        ("w", (2, 3), "float32", 24),
    ]
    assert (made.size, made.bytes, made.state_bytes) == (27, 106, None)
    assert "state" not in str(made) and "optimizer" not in str(made)


def test_groups_masks_and_frozen_parameters():
    mask = gdjax.mask_by_ndim()
    rows = rows_of(
        gdjax.groups({"embed": None, "b": gdjax.sgd(LINE), r".*": gdjax.adamw(0.25, mask=mask)})
    )
    assert rows["embed"].frozen and rows["embed"].optimizers == () == tuple(rows["embed"].slots)
    assert rows["embed"].state_bytes == 0 and rows["embed"].group == "embed"
    assert rows["b"].hyperparams == {"learning_rate": "Linear, first 0.5"}
    w = rows["w"]
    assert (w.group, w.optimizers, w.state_bytes) == (".*", ("adamw",), 48)
    assert w.hyperparams["weight_decay"] == pytest.approx(1e-4)
    assert w.slots == {"mu": "float32[2, 3]", "nu": "float32[2, 3]"}
    inside = gdjax.groups({"b": gdjax.sgd(1.0), r".*": gdjax.adamw(0.25, mask=mask)})
    nested = gdjax.partition({"x": inside, "y": None}, {"embed": "y", "w": "x", "b": "x"})
    rows = rows_of(nested)
    assert [rows[k].group for k in ("b", "embed", "w")] == ["x/b", "y", "x/.*"]
    assert rows["w"].hyperparams["weight_decay"] is not None


def test_where_weight_decay_applies():
    rows = rows_of(gdjax.adamw(0.25, weight_decay=0.5, mask=gdjax.mask_by_ndim()))
    assert [rows[k].hyperparams["weight_decay"] for k in ("b", "embed", "w")] == [None, 0.5, 0.5]
    by_path = gdjax.by_path({"b": None, "embed": 0.125, r".*": LINE})
    rows = rows_of(gdjax.sgd(gdjax.by_path({"b": 0.5, r".*": 0.25}), momentum=0.5))
    assert [rows[k].hyperparams["learning_rate"] for k in ("b", "embed", "w")] == [0.5, 0.25, 0.25]
    chain = gdjax.chain(
        gdjax.scale_by_adam(mu_dtype=jnp.bfloat16),
        gdjax.add_decayed_weights(by_path),
        gdjax.scale_by_learning_rate(0.25),
    )
    rows = rows_of(chain)
    assert rows["w"].hyperparams["weight_decay"] == "Linear, first 0.5"
    assert rows["b"].hyperparams["weight_decay"] is None
    assert rows["embed"].hyperparams["weight_decay"] == 0.125
    names = ("scale_by_adam", "add_decayed_weights", "scale_by_learning_rate")
    assert rows["embed"].optimizers == names
    text = str(gdjax.summary(PARAMS, chain))
    assert "mu: bfloat16, nu: float32" in text and "none" in text


def test_masked_and_freeze():
    mask = {"embed": True, "w": False, "b": True}
    rows = rows_of(gdjax.masked(gdjax.adam(0.25), mask))
    assert rows["w"].unchanged and not rows["w"].frozen and rows["embed"].optimizers == ("adam",)
    assert "none: the gradient is added" in str(
        gdjax.summary(PARAMS, gdjax.masked(gdjax.adam(0.25), mask))
    )
    rows = rows_of(gdjax.chain(gdjax.adam(0.25), gdjax.freeze(mask)))
    assert [rows[k].frozen for k in ("b", "embed", "w")] == [True, True, False]
    assert rows["embed"].state_bytes == 128 and not rows["embed"].unchanged
    rows = rows_of(gdjax.selective_transform(gdjax.adam(0.25), freeze_mask=mask))
    assert rows["embed"].state_bytes == 0 and rows["embed"].frozen


def test_branches_of_muon_and_its_relatives():
    rows = rows_of(gdjax.muon(0.5, adam_learning_rate=0.25, weight_decay=0.125))
    assert (rows["w"].branch, rows["b"].branch) == ("matrix", "adam")
    assert rows["w"].hyperparams["learning_rate"] == 0.5
    assert rows["w"].hyperparams["weight_decay"] == 0.125
    assert rows["b"].hyperparams["learning_rate"] == 0.25
    assert rows["b"].hyperparams["weight_decay"] == 0.0
    assert (list(rows["w"].slots), list(rows["b"].slots)) == (["mu"], ["mu", "nu"])
    assert rows_of(gdjax.muon(0.5))["b"].hyperparams["learning_rate"] == 0.5
    assert rows_of(gdjax.scale_by_muon())["b"].branch == "no matrix"


WRAPPED = {
    "accumulate": gdjax.accumulate(gdjax.adam(0.1), 4),
    "average": gdjax.average(gdjax.lookahead(gdjax.sgd(0.1), sync_period=4, slow_step_size=0.5)),
    "weight decay": gdjax.with_weight_decay(gdjax.sgd(LINE, momentum=0.9), 0.1),
    "guard": gdjax.apply_if_finite(gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1)), 3),
    "flatten": gdjax.flatten(gdjax.adam(0.1)),
    "schedule free": gdjax.schedule_free_adamw(0.1),
    "shampoo": gdjax.shampoo(0.1),
    "adafactor": gdjax.adafactor(0.1, min_dim_size_to_factor=2),
    "prodigy": gdjax.prodigy(),
    "soap": gdjax.soap(0.1),
    "solver": gdjax.lbfgs(),
    "optax": optax.chain(optax.clip(1.0), optax.adamw(0.1)),
    "optax groups": optax.multi_transform(
        {"x": optax.sgd(1.0, 0.9), "y": optax.set_to_zero()}, {"embed": "y", "w": "x", "b": "x"}
    ),
    "optax in gdjax": gdjax.chain(optax.adafactor(0.1, min_dim_size_to_factor=2), gdjax.clip(1.0)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_bytes_are_those_of_a_state_for_every_kind_of_optimizer(name):
    rows = rows_of(WRAPPED[name])
    made = gdjax.summary(PARAMS, WRAPPED[name])
    if name not in ("flatten", "solver"):  # whose slots are vectors of all parameters together
        assert rows["w"].state_bytes > 0 and made.shared_bytes < 200
    if name == "optax groups":
        assert rows["embed"].state_bytes == 0 and list(rows["w"].slots) == ["trace"]
    if name == "solver":
        assert rows["w"].optimizers[0] == "lbfgs"
    if name == "average":
        assert rows["w"].optimizers == ("average", "lookahead", "sgd")


def test_containers_like_the_parameters_are_told_apart_from_states():
    params = (jnp.ones(2), jnp.ones(3))  # a chain of two is a tuple of two as well
    for chain in (
        gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1)),
        optax.chain(optax.clip(1.0), optax.adam(0.1)),
        optax.chain(optax.trace(0.9), optax.scale_by_adam()),
    ):
        rows = rows_of(chain, params)
        sizes = [row.state_bytes // (4 * row.size) for row in rows.values()]
        assert sizes == [len(rows["0"].slots)] * 2
        assert set(rows["0"].slots) <= {"mu", "nu", "trace"}
    factors = gdjax.shampoo(0.1)  # which keeps several arrays for each parameter
    assert rows_of(factors, [jnp.ones((2, 2)), jnp.ones((3, 3))])["1"].slots["factors"]


@pytest.mark.parametrize("params", [jnp.ones((3, 2)), jnp.ones(()), {}, {"a": {}}, [jnp.ones(0)]])
def test_odd_trees(params):
    optimizer = gdjax.adam(0.25)
    rows = rows_of(optimizer, params)
    for row in rows.values():
        assert row.hyperparams["learning_rate"] == 0.25 and row.state_bytes == 8 * row.size
    str(gdjax.summary(params, optimizer))


def test_nothing_is_allocated_and_shapes_are_enough():
    huge = {"w": jax.ShapeDtypeStruct((10**6, 10**6), jnp.bfloat16), "f": jax.nn.relu, "n": None}
    made = gdjax.summary(huge, gdjax.adamw(0.25, mu_dtype=jnp.bfloat16))
    assert made.bytes == 2 * 10**12 and made.rows[0].state_bytes == 6 * 10**12
    assert made.left_out == ("f",) and "1 object that are no arrays (f)" in str(made)


def test_transformers_print_readably():
    block = {
        "attention": {"qkv": jnp.ones((8, 24)), "out": jnp.ones((8, 8))},
        "mlp": {"up": {"kernel": jnp.ones((8, 16)), "bias": jnp.ones(16)}},
    }
    params = {"blocks": [block] * 10, "head": jnp.ones((8, 5))}
    decay = gdjax.by_path({r".*bias": 0.0, r".*": 0.1})
    made = gdjax.summary(params, gdjax.adamw(0.25, weight_decay=decay))
    assert len(made.rows) == 41 and made.rows[-1].path == "head"
    lines = str(made).splitlines()
    assert len(lines) == 2 + 41 + 3 and len({len(line) for line in lines[2:43]}) == 1
    assert "blocks/9/mlp/up/bias" in lines[41] or "blocks/9/mlp/up/kernel" in lines[41]
    many = gdjax.summary({f"w{i}": jnp.ones(1) for i in range(300)})
    assert "... 100 more in .rows ..." in str(many) and len(str(many).splitlines()) == 205
    page = made._repr_html_()
    assert page.count("<tr>") == 42 and "blocks/0/attention/qkv" in page
    assert "&lt;lambda&gt;" in gdjax.summary(params, gdjax.sgd(lambda t: 0.5))._repr_html_()


def test_columns_make_a_table_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(gdjax.summary(PARAMS, gdjax.adam(0.25)).columns())
    assert frame.path.tolist() == ["b", "embed", "w"] and frame.state_bytes.sum() == 200


def test_schedules_in_epochs_are_named_before_their_data_are_known():
    rate = gdjax.in_epochs(gdjax.cosine_decay_schedule(0.5, 10))
    rows = rows_of(gdjax.sgd(rate))
    assert rows["w"].hyperparams == {"learning_rate": "InEpochs CosineDecay"}


def test_bytes_on_each_device_of_sharded_parameters():
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",))
    spread, whole = (NamedSharding(mesh, PartitionSpec(*names)) for names in (["x"], [None]))
    params = {
        "w": jax.device_put(jnp.ones((8, 2)), spread),
        "b": jax.ShapeDtypeStruct((6,), jnp.float32, sharding=whole),
    }
    made = gdjax.summary(params, gdjax.adam(0.25))
    b, w = made.rows
    assert (w.bytes, w.device_bytes, w.state_bytes, w.state_device_bytes) == (64, 16, 128, 32)
    assert (b.bytes, b.device_bytes, b.state_device_bytes) == (24, 24, 48)
    assert made.device_bytes == 40 and made.state_device_bytes == 80 + made.shared_bytes
    assert "on each device" in str(made)
    rows = gdjax.summary(params, gdjax.sm3(0.25)).rows
    assert rows[1].state_device_bytes <= rows[1].state_bytes


def test_errors_are_those_of_init():
    with pytest.raises(ValueError, match="no parameter is in|matches no parameter"):
        gdjax.summary(PARAMS, gdjax.groups({"bais": gdjax.sgd(0.1), r".*": gdjax.sgd(0.2)}))
    with pytest.raises(TypeError, match="summary|factory"):
        gdjax.summary(PARAMS, gdjax.adam)
    with pytest.raises(TypeError, match="count"):
        gdjax.summary({"count": jnp.arange(3)}, gdjax.adam(0.1))


def test_functions_of_the_user_are_not_kept():
    import gc
    import weakref

    def rate(t):
        return 0.5

    made = gdjax.summary(PARAMS, gdjax.sgd(rate))
    gone = weakref.ref(rate)
    del rate
    gc.collect()
    assert gone() is None and made.rows[0].hyperparams["learning_rate"] == "rate, first 0.5"


def test_models_of_other_libraries():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    decay = gdjax.by_path({r".*(bias|scale)": None, r".*": 0.5})
    optimizer = gdjax.adamw(0.25, weight_decay=decay)
    rows = rows_of(optimizer, nnx.state(model, nnx.Param))
    decays = {path.rsplit("/")[-1]: row.hyperparams["weight_decay"] for path, row in rows.items()}
    assert decays == {"bias": None, "kernel": 0.5, "scale": None}

    eqx = pytest.importorskip("equinox")
    mlp = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    made = gdjax.summary(mlp, gdjax.sgd(0.25, momentum=0.5))
    assert [row.path for row in made.rows][:2] == ["layers/0/weight", "layers/0/bias"]
    assert made.left_out and "equinox.filter" in str(made)
    assert made.state_bytes == made.bytes + made.shared_bytes

    hk = pytest.importorskip("haiku")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 2])(x)))
    params = net.init(jax.random.key(0), jnp.ones((1, 3)))
    rows = rows_of(gdjax.muon(0.25), params)
    assert {row.branch for row in rows.values()} == {"matrix", "adam"}
    assert "mlp/~/linear_0/w" in rows
