"""Methods with a matrix for each axis: what the oracle and contract tests do not cover."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import psgd_kron as psgd_oracles
from oracles import shampoo as shampoo_oracles
from oracles import soap as soap_oracles
from x64 import enable_x64

import gdjax
from gdjax.core.every import renew_when
from gdjax.linalg.eigenbasis import tracked_basis
from gdjax.linalg.norm_bounds import spectral_norm_lower_bound, spectral_norm_upper_bound
from gdjax.linalg.shapes import blocks_of

MAKERS = {
    "soap": lambda **k: gdjax.soap(0.1, precondition_frequency=2, **k),
    "shampoo": lambda **k: gdjax.shampoo(0.1, precondition_frequency=2, merge_dims=False, **k),
    "kl_shampoo": lambda **k: gdjax.kl_shampoo(0.1, precondition_frequency=2, **k),
    "psgd_kron": lambda **k: gdjax.psgd_kron(0.1, **k),
    "soap_muon": lambda **k: gdjax.soap_muon(0.1, precondition_frequency=2, **k),
}


def walk(opt, grads, steps=5):
    params, state = jax.tree.map(jnp.zeros_like, grads), opt.init(grads)
    step = jax.jit(opt.update)
    for _ in range(steps):
        updates, state = step(grads, state, params)
        params = gdjax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", MAKERS)
def test_finite_on_degenerate_gradients(name):
    rank_one = jnp.outer(jnp.arange(1.0, 7.0), jnp.array([1e-8, 1.0, 1e4]))
    grads = {
        "zero": jnp.zeros((3, 2)),
        "rank_one": rank_one,
        "low": rank_one.astype(jnp.bfloat16),
        "tall": jnp.ones((40, 1)),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.array(1e-20),
    }
    params, state = walk(MAKERS[name](), grads)
    for x in jax.tree.leaves(params):
        assert bool(jnp.isfinite(x).all())
    assert not jnp.any(params["zero"])
    assert sum(int(x) for x in jax.tree.leaves(state.slots.failures)) == 0


FAILING = {  # the slot that is kept
    "shampoo": ("roots", MAKERS["shampoo"]),
    "shampoo_newton": ("roots", lambda: MAKERS["shampoo"](root="newton")),
    "soap": ("bases", MAKERS["soap"]),
    "kl_shampoo": ("bases", MAKERS["kl_shampoo"]),
    "kl_soap": ("bases", lambda: gdjax.kl_soap(0.1, precondition_frequency=2)),
    "soap_muon": ("bases", MAKERS["soap_muon"]),
}


@pytest.mark.parametrize("name", FAILING)
def test_failed_roots_and_bases_are_kept_and_counted(name):
    kept, make = FAILING[name]
    grads = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    _, before = walk(make(), grads, 2)
    bad = jax.tree.map(lambda x: x * jnp.nan, before.slots.factors)
    state = before._replace(slots=before.slots._replace(factors=bad))
    for _ in range(2):  # one of them is due
        updates, state = make().update(grads, state, grads)
        assert bool(jnp.isfinite(updates).all())
    assert int(state.slots.failures) == 2  # both sides
    for a, b in zip(getattr(before.slots, kept), getattr(state.slots, kept), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("factor_update", ["triangular", "procrustes"])
def test_factors_that_would_not_be_finite_are_kept_and_counted(factor_update):
    opt = MAKERS["psgd_kron"](factor_update=factor_update)
    grads = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    _, before = walk(opt, grads, 2)
    state = gdjax.with_hyperparams(before, preconditioner_lr=1e30)
    updates, state = opt.update(grads, state, grads)
    assert bool(jnp.isfinite(updates).all())
    assert int(before.slots.failures) == 0 and int(state.slots.failures) == 1
    for a, b in zip(before.slots.factors, state.slots.factors, strict=True):
        np.testing.assert_array_equal(a, b)


def follow(opt, oracle, shapes, steps):
    """Check that an optimizer follows its oracle; return its last state."""
    rng = np.random.default_rng(0)
    theta = {k: rng.normal(size=s) for k, s in shapes.items()}
    with enable_x64():
        params = jax.tree.map(jnp.asarray, theta)
        state = opt.init(params)
        for t in range(1, steps + 1):
            grads = {k: rng.normal(size=s) for k, s in shapes.items()}
            theta = oracle(theta, grads, t)
            updates, state = opt.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = gdjax.apply_updates(params, updates)
            for k in shapes:
                np.testing.assert_allclose(params[k], theta[k], rtol=1e-11, atol=1e-11)
    return state


def test_shampoo_grafted_with_rmsprop_follows_the_oracle():
    numbers = dict(learning_rate=0.05, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1)
    numbers |= dict(graft_b2=0.7, graft_eps=1e-4)
    opt = gdjax.shampoo(**numbers, precondition_frequency=3, graft="rmsprop", merge_dims=False)
    oracle = shampoo_oracles.shampoo(**numbers, frequency=3, graft="rmsprop", merged=False)
    follow(opt, oracle, {"a": (3, 4)}, 7)


@pytest.mark.parametrize(
    ("mode", "diagonal"),
    [
        ("one_diag", lambda shape, i: i == {(3, 4): 1, (4, 2, 4): 2}[shape]),
        ("all_diag", lambda shape, i: True),
    ],
)
def test_psgd_with_diagonals_follows_the_oracle_and_balances(mode, diagonal):
    shapes = {"a": (3, 4), "b": (4, 2, 4)}
    numbers = dict(learning_rate=0.05, b1=0.8, weight_decay=0.1, preconditioner_lr=0.3)
    numbers |= dict(preconditioner_init_scale=0.7, clip_update_rms=1.1)

    def probe(name, t, shape):
        key = jax.random.fold_in(jax.random.key(0), "ab".index(name))
        return np.asarray(jax.random.normal(jax.random.fold_in(key, t), shape, jnp.float64))

    options = dict(momentum_into_precond_update=False, balance_interval=3)
    opt = gdjax.psgd_kron(
        **numbers, preconditioner_update_probability=1.0, memory_save_mode=mode, **options
    )
    oracle = psgd_oracles.psgd_kron(
        **numbers, probability=lambda t: 1.0, probe=probe, diagonal=diagonal,
        balance_after=(3, 6), from_gradient=True,
    )  # fmt: skip
    state = follow(opt, oracle, shapes, 7)
    for k, shape in shapes.items():
        ndims = [q.ndim for q in state.slots.factors[k]]
        assert ndims == [1 if diagonal(shape, i) else 2 for i in range(len(shape))]


def test_pseudo_inverse_roots_leave_out_what_no_gradient_had():
    """Gradients in a subspace, and after the last renewal one outside, in units of any size."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    inside = [basis[:, :2] @ rng.normal(size=(2, 4)) for _ in range(3)]
    opt = gdjax.scale_by_shampoo(
        0.0, 1.0, 0.0, 3, graft=None, merge_dims=False, rcond=1e-5, start_preconditioning_step=3
    )
    update = jax.jit(opt.update)
    found = []
    for unit in (1.0, 1e-12, 1e8):
        state = opt.init(jnp.zeros((6, 4)))
        for g in inside:
            direction, state = update(jnp.asarray(unit * g, jnp.float32), state)
        left = sum(g @ g.T for g in inside)
        right = sum(g.T @ g for g in inside)
        powers = shampoo_oracles.inverse_power(left, 0.25, 0.0, 1e-5) @ inside[-1]
        powers = powers @ shampoo_oracles.inverse_power(right, 0.25, 0.0, 1e-5)
        np.testing.assert_allclose(direction, powers, rtol=1e-3, atol=1e-4)
        sizes = np.linalg.svd(np.asarray(state.slots.roots[0][0]), compute_uv=False)
        assert (sizes > 1e-3 * sizes[0]).sum() == 2
        outside = unit * basis[:, 2:3] @ np.ones((1, 4))
        direction, state = update(jnp.asarray(outside, jnp.float32), state)
        found.append(np.abs(direction).max())
    assert max(found) < 1e-3  # with eps it would be 1 / eps^(1/2), the graft apart
    zero, _ = update(jnp.zeros((6, 4)), opt.init(jnp.zeros((6, 4))))
    np.testing.assert_array_equal(zero, 0)


def test_one_sided_shampoo_keeps_one_factor_of_the_shortest_axis():
    opt = gdjax.shampoo(0.1, one_sided=True, merge_dims=False, block_size=8)
    params = dict(a=jnp.ones((4, 20)), b=jnp.ones((1, 6)), c=jnp.ones(()), d=jnp.ones((0, 3)))
    factors = opt.init(params).slots.factors
    shapes = {k: [f.shape for f in v] for k, v in factors.items()}
    assert shapes == dict(a=[(3, 4, 4)], b=[(1, 6, 6)], c=[(1, 1, 1)], d=[])
    for side, axis in dict(first=0, last=1).items():  # the power of a single factor is -1/2
        opt = gdjax.scale_by_shampoo(
            0.0, 1.0, 0.0, 1, graft=None, merge_dims=False, one_sided=side, rcond=1e-5
        )
        g = np.random.default_rng(0).normal(size=(5, 4))
        direction, state = opt.update(jnp.asarray(g, jnp.float32), opt.init(jnp.zeros((5, 4))))
        assert [f.shape for f in state.slots.factors] == [(1, *[g.shape[axis]] * 2)]
        u, _, vt = np.linalg.svd(g, full_matrices=False)
        np.testing.assert_allclose(direction, u @ vt, atol=1e-4)


STAGGERED = {
    "shampoo": (
        "roots",
        lambda **k: gdjax.shampoo(
            0.1, block_size=3, merge_dims=False, start_preconditioning_step=1, **k
        ),
    ),
    "kl_shampoo": ("bases", lambda **k: gdjax.kl_shampoo(0.1, **k)),
}


@pytest.mark.parametrize("name", STAGGERED)
def test_staggered_renewals_take_turns_and_change_nothing_else(name):
    kept, make = STAGGERED[name]
    rng = np.random.default_rng(0)
    with enable_x64():
        params = {k: jnp.asarray(rng.normal(size=s)) for k, s in zip("ab", [(3, 6), (3, 3)])}
        step = jax.jit(make(stagger=True).update)
        plain = jax.jit(make().update)
        # where all are due in every step it is the same
        staggered = make(stagger=True, precondition_frequency=1).init(params)
        together = make(precondition_frequency=1).init(params)
        for _ in range(3):
            grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
            a, staggered = step(grads, staggered, params)
            b, together = plain(grads, together, params)
            for k in params:
                np.testing.assert_allclose(a[k], b[k], rtol=1e-9, atol=1e-12)
        # else each is renewed once in an interval, one at a time
        state, moved = make(stagger=True, precondition_frequency=4).init(params), []
        for _ in range(9):
            grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
            old, (_, state) = state, step(grads, state, params)
            moved.append(changes(old, state, kept))
    work = np.array(moved)
    assert work[0].all()  # the first of all
    assert (work[1:].sum(1) <= 1).all()
    np.testing.assert_array_equal(work[1:].sum(0), 2)


def changes(old, new, kept):
    """Return for each block of each parameter whether its root or basis is another."""
    found = []
    for a, b in zip(*(getattr(s.slots, kept).values() for s in (old, new)), strict=True):
        differs = np.asarray(a[0] != b[0]).any((-2, -1))
        found.extend(np.atleast_1d(differs).tolist())
    return found


def test_shampoo_by_products_equals_shampoo_by_eigenvalues():
    with enable_x64():
        rng = np.random.default_rng(0)
        grads = {
            k: jnp.asarray(rng.normal(size=s)) for k, s in {"a": (3, 4), "b": (2, 3, 2)}.items()
        }
        runs = [
            walk(
                gdjax.shampoo(
                    0.1, eps=1e-2, precondition_frequency=2, merge_dims=False, root=r, graft="sgd"
                ),
                grads,
            )[0]
            for r in ("eigh", "newton")
        ]
    for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # newton adds a ridge of 1e-6


def test_staggered_soap_follows_the_oracle_and_takes_turns():
    shapes = {"a": (3, 4), "b": (3, 4), "c": (4, 4)}
    rng = np.random.default_rng(0)
    theta = {k: rng.normal(size=s) for k, s in shapes.items()}
    numbers = dict(learning_rate=0.05, b1=0.8, b2=0.9, shampoo_beta=0.7, eps=1e-4, weight_decay=0.1)
    costs = {k: sum(n**3 for n in s) for k, s in shapes.items()}
    starts = np.cumsum([0, *costs.values()])[:3] / sum(costs.values())
    phases = dict(zip(shapes, starts, strict=True))
    oracle = soap_oracles.soap(**numbers, precondition_frequency=6, phases=phases)
    with enable_x64():
        opt = gdjax.soap(**numbers, precondition_frequency=6, stagger=True)
        params = jax.tree.map(jnp.asarray, theta)
        state, moved = opt.init(params), []
        for t in range(1, 15):
            grads = {k: rng.normal(size=s) for k, s in shapes.items()}
            theta, old = oracle(theta, grads, t), state.slots.bases
            updates, state = opt.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = gdjax.apply_updates(params, updates)
            moved.append([bool((old[k][0] != state.slots.bases[k][0]).any()) for k in shapes])
            for k in shapes:
                np.testing.assert_allclose(params[k], theta[k], rtol=1e-11, atol=1e-11)
    assert all(moved[0])
    assert max(sum(row) for row in moved[1:]) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_equal_matrices_are_one_program(name):
    def size(count):
        params = [jnp.ones((4, 3))] * count
        opt = MAKERS[name]()
        return jax.jit(opt.update).lower(params, opt.init(params), params).as_text()

    few, many = size(2), size(12)
    assert few.count("lapack") == many.count("lapack")
    assert few.count("dot_general") == many.count("dot_general")


def test_renewals_are_rare_in_a_vmap_over_runs():
    def renew(kept, x):
        return jnp.linalg.eigh(x)[1] + kept

    def lane(due, x):
        return renew_when(due, renew, jnp.zeros((2, 2)), x)

    x = jnp.stack([jnp.diag(jnp.array([1.0, 2.0]))] * 3)
    out = jax.vmap(lane)(jnp.array([True, False, True]), x)
    np.testing.assert_array_equal(out[1], 0)
    np.testing.assert_array_equal(out[0], renew(0, x[0]))
    text = str(jax.make_jaxpr(jax.vmap(lane))(jnp.ones(3, bool), x))
    assert "cond[" in text  # not turned into a select of both branches
    nested = jax.vmap(jax.vmap(lane), (0, None))(jnp.array([[True, False, True]]), x)
    np.testing.assert_array_equal(nested[0], out)


def test_bounds_blocks_and_bases():
    rng = np.random.default_rng(0)
    bounds = jax.jit(lambda a: (spectral_norm_lower_bound(a), spectral_norm_upper_bound(a)))
    for shape in ((5, 5), (3, 9), (9, 3)):
        for _ in range(10):
            a = jnp.asarray(rng.normal(size=shape), jnp.float32)
            norm = float(np.linalg.norm(a, 2))
            low, high = bounds(a)
            assert norm / 1.5 < low <= norm * (1 + 1e-5)
            assert norm <= high * (1 + 1e-5)
    x = jnp.asarray(rng.normal(size=(7, 5, 3)))
    cut = blocks_of(x.shape, 3)
    np.testing.assert_array_equal(cut.join(cut.split(x)), x)
    with enable_x64():
        a = rng.normal(size=(6, 6))
        a = jnp.asarray(a @ a.T)
        basis, step = jnp.eye(6), jax.jit(tracked_basis)
        for _ in range(400):
            basis, _ = step(a, basis)
        np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-12)
        np.testing.assert_allclose(
            np.diag(basis.T @ a @ basis), np.linalg.eigvalsh(a)[::-1], rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shampoo", dict(block_size=0)),
        ("scale_by_shampoo", dict(graft="typo")),
        ("shampoo", dict(root="newton", exponent=0.3)),
        ("shampoo", dict(b2=1.5)),
        ("shampoo", dict(rcond=1.0)),
        ("scale_by_shampoo", dict(root="newton", rcond=1e-4)),
        ("scale_by_soap", dict(max_precond_dim=2.5)),
        ("kl_soap", dict(max_precond_dim=0)),
        ("kl_shampoo", dict(init_factor=0.0)),
        ("psgd_kron", dict(memory_save_mode="typo")),
        ("scale_by_psgd_kron", dict(max_size_triangular=0.5)),
        ("apollo_mini", dict(rank=0)),
        ("scale_by_galore", dict(side="typo")),
    ],
)
def test_errors_name_the_factory_and_the_argument(name, options):
    argument = list(options)[-1]
    first = () if name.startswith("scale_by") else (0.1,)
    with pytest.raises(ValueError, match=rf"^{name}\({argument}=\.\.\.\)"):
        getattr(gdjax, name)(*first, **options)


@pytest.mark.parametrize("name", ["shampoo", "kl_shampoo", "kl_soap", "psgd_kron", "apollo_mini"])
def test_errors_of_a_step_name_the_factory(name):
    opt, params = getattr(gdjax, name)(0.1), jnp.ones((2, 2))
    with pytest.raises(ValueError, match=f"^{name} with weight_decay needs the parameters"):
        opt.update(params, opt.init(params))
    with pytest.raises(ValueError, match=f"^{name}: this state is not of this optimizer"):
        opt.update(params, gdjax.sgd(0.1).init(params), params)


RENEWALS = """
import jax, jax.numpy as jnp, gdjax
params = {str(i): jax.random.normal(jax.random.key(i), (256, 256)) for i in range(2)}
for factory in (gdjax.shampoo, gdjax.soap):
    opt = factory(1e-3, precondition_frequency=2)
    step, state = jax.jit(opt.update), opt.init(params)
    for _ in range(4):
        updates, state = jax.block_until_ready(step(params, state, params))
print("done")
"""


@pytest.mark.slow
@pytest.mark.processes
def test_renewals_of_large_factors_come_to_an_end():
    """Two decompositions in one branch made XLA's CPU runtime deadlock; see `after`."""
    command = [sys.executable, "-c", RENEWALS]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert out.stdout.strip() == "done"


def test_one_sided_shampoo_merges_no_other_axis_with_the_last():
    shapes = {}
    for side in ("first", "last", True):
        state = gdjax.shampoo(0.1, one_sided=side).init([jnp.ones((20, 32)), jnp.ones((3, 4, 16))])
        shapes[side] = [f.shape[1:] for f in jax.tree.leaves(state.factors)]
    assert shapes == {
        "first": [(20, 20), (12, 12)],
        "last": [(32, 32), (16, 16)],
        True: [(20, 20), (12, 12)],
    }
    published = gdjax.shampoo(**gdjax.preset("shampoo", "modded_nanogpt"))
    state = jax.eval_shape(published.init, jnp.ones((64, 128)))
    assert [f.shape for f in state.factors] == [(1, 64, 64)]
