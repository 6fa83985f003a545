"""Gauss-Newton and Levenberg-Marquardt: forms of the algebra, batches, devices, curved steps."""

import hlo
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from x64 import enable_x64

import gdjax

METHODS = {"gauss_newton": gdjax.gauss_newton, "levenberg_marquardt": gdjax.levenberg_marquardt}


def problem(m, n, rank=None, seed=0):
    """r(x) = A x + 0.3 sin(B x) - y, with a tree of two leaves, one of them complex."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(m, rank or n)), rng.normal(size=(m, rank or n))
    mix = np.eye(n) if rank is None else rng.normal(size=(rank, n))
    y = rng.normal(size=m)

    def residual(p):
        x = jnp.concatenate([p["a"], p["z"].real, p["z"].imag])
        return a @ (mix @ x) + 0.3 * jnp.sin(b @ (mix @ x)) - y

    k = n // 4
    params = {"a": rng.normal(size=n - 2 * k), "z": rng.normal(size=k) + 1j * rng.normal(size=k)}
    return residual, jax.tree.map(jnp.asarray, params)


def run(opt, residual, params, steps=2):
    def step(carry, _):
        params, state = carry
        updates, state = opt.update(params, state, params, residual_fn=residual)
        return (gdjax.apply_updates(params, updates), state), None

    params, state = jax.lax.scan(step, (params, opt.init(params)), length=steps)[0]
    return jnp.concatenate([params["a"], params["z"].real, params["z"].imag]), state


@pytest.mark.parametrize("name", METHODS)
def test_all_forms_take_the_same_steps(name):
    """For more and for fewer residuals than parameters, with the Gram matrix in blocks."""
    blocks = dict(solver="normal", block_size=3)
    bent = dict(solver="kernel", acceleration=True)
    for shape, options in (
        ((12, 5), (dict(solver="qr"), dict(solver="kernel"), blocks)),
        ((5, 12), (dict(block_size=2), dict(solver="kernel", block_size=2), bent)),
    ):
        with enable_x64():
            residual, params = problem(*shape)

            def all_of(params, residual=residual, options=options):
                return [run(METHODS[name](**o), residual, params)[0] for o in options]

            first, *others = jax.jit(all_of)(params)
            for o, x in zip(options[1:], others, strict=True):
                if "acceleration" in o:
                    assert np.max(np.abs(first - x)) > 1e-4
                else:  # singular values are summed in another order
                    rtol = 1e-6 if name == "gauss_newton" else 3e-2  # a region is met to 10 %
                    np.testing.assert_allclose(x, first, rtol=rtol, atol=1e-8, err_msg=str(o))


def test_steps_against_numpy():
    """The shortest step with scaled columns, the path's bend, and the best of a grid."""
    with enable_x64():
        residual, params = problem(7, 10)
        flat = lambda p: jnp.concatenate([p["a"], p["z"].real, p["z"].imag])  # noqa: E731
        tree = lambda x: {"a": x[:6], "z": jax.lax.complex(x[6:8], x[8:])}  # noqa: E731
        r_of = jax.jit(lambda x: residual(tree(x)))
        x = np.asarray(flat(params))
        j, r = np.asarray(jax.jacfwd(r_of)(x)), np.asarray(r_of(x))
        scale = np.linalg.norm(j, axis=0)
        for scaled in (True, False):
            units = scale if scaled else np.full_like(scale, scale.max())
            u, s, vt = np.linalg.svd(j / units, full_matrices=False)
            kept = s > 0.3 * s[0]
            inverse = (vt[kept].T / s[kept] @ u[:, kept].T) / units[:, None]
            d = -inverse @ r
            h = 1e-4
            bend = (r_of(x + h * d) - 2 * r + r_of(x - h * d)) / h**2
            a = -0.5 * inverse @ bend
            values = [np.sum(r_of(x + t * d + t * t * a) ** 2) for t in 0.5 ** np.arange(6)]
            t = 0.5 ** np.argmin(values)
            opt = gdjax.gauss_newton(rcond=0.3, max_linesearch_steps=6, linesearch="grid",
                                     acceleration=True, scaled=scaled)  # fmt: skip
            found, state = run(opt, residual, params, 1)
            assert state.evals == 6 and 0 < kept.sum() < 7
            np.testing.assert_allclose(found, x + t * d + t * t * a, rtol=1e-6, atol=1e-6)


def regression(sizes=(64, 3)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=sizes)
    return x, np.exp(0.3 * x @ np.array([1.0, -0.5, 0.25]))


def on_examples(p, batch):
    x, y = batch
    return jnp.exp(x @ p) - y


@pytest.mark.parametrize("name", METHODS)
def test_training_on_batches_of_residuals(name):
    """`fit` and `sweep` give the batch; noise-free data are found from batches of 16."""
    data = regression()

    def loss(p, batch):
        return 0.5 * jnp.sum(on_examples(p, batch) ** 2)

    make = lambda **n: METHODS[name](residual_fn=on_examples, **n)  # noqa: E731
    more = dict(batch_size=16, steps=12)
    start = jnp.zeros(3)
    result = gdjax.fit(loss, start, make(), data, **more)
    np.testing.assert_allclose(result.params, [0.3, -0.15, 0.075], rtol=1e-5)
    number = "rcond" if name == "gauss_newton" else "init_radius"
    swept = gdjax.sweep(loss, start, make, {number: [1e-5, 1e-4]}, data, **more)
    if number == "rcond":
        np.testing.assert_allclose(swept.params[1], result.params, rtol=1e-5)
    else:
        assert np.abs(swept.params[0]).max() < np.abs(swept.params[1]).max()
    with pytest.raises(TypeError, match=rf"{name} needs residual_fn: call update"):
        METHODS[name]().update(start, METHODS[name]().init(start), start)
    with pytest.raises(TypeError, match="was given no batch"):
        make().update(start, make().init(start), start)


@pytest.mark.slow
@pytest.mark.parametrize("explicit", [False, True])
def test_examples_on_several_devices(explicit):
    """Rows of J stay where they are: n x n numbers are added up, and one device agrees."""
    with enable_x64():
        data = regression((512, 3))
        wide = 12
        kinds = {"axis_types": (jax.sharding.AxisType.Explicit,)} if explicit else {}
        mesh = jax.make_mesh((8,), ("d",), **kinds) if explicit else Mesh(jax.devices()[:8], "d")
        rng = np.random.default_rng(1)
        mix = rng.normal(size=(3, wide)) / 4

        def residual(w, batch):
            x, y = batch
            return jnp.tanh(x @ (mix @ jnp.sin(w) + w[:3])) - y

        w = jnp.asarray(rng.normal(size=wide))
        rows = jax.device_put(data, NamedSharding(mesh, P("d")))
        for make in METHODS.values():
            for block in (None, 4):
                opt = make(residual_fn=residual, solver="normal", block_size=block)
                state = opt.init(w)

                def step(state, w, batch, opt=opt):
                    return opt.update(w, state, w, batch=batch)[0]

                alone = jax.jit(step)(state, w, data)
                whole = NamedSharding(mesh, P())
                placed = jax.device_put((state, w), whole)
                compiled = jax.jit(step).lower(*placed, rows).compile()
                np.testing.assert_allclose(compiled(*placed, rows), alone, rtol=1e-9, atol=1e-12)
                costs = hlo.costs(compiled)
                assert set(costs.collectives) <= {"all-reduce"}, costs
                # the matrix, the norms' 8 products, and vectors and numbers of each evaluation
                assert costs.bytes <= 8 * (wide**2 + 16 * wide + 64), (block, costs)


def test_what_the_arguments_may_be():
    for name, make in METHODS.items():
        with pytest.raises(ValueError, match=rf"{name}\(block_size=...\) must be a whole number"):
            make(block_size=0)
        with pytest.raises(ValueError, match=rf"{name}\(acceleration=True\) needs another solver"):
            make(acceleration=True, solver="cg")
        with pytest.raises(ValueError, match=rf"{name}\(solver=...\) must be one of"):
            make(solver="lu")
    with pytest.raises(ValueError, match=r"gauss_newton\(linesearch=...\) must be one of"):
        gdjax.gauss_newton(linesearch="none")


@pytest.mark.parametrize("name", [*METHODS, "natural_gradient"])
def test_preconditioned_conjugate_gradients_need_few_steps(name):
    """Linear problems: with 10 large singular values; with blocks that are nearly independent.

    Without a preconditioner 12 steps are not enough for either.
    """
    rng = np.random.default_rng(2)
    u, v, w = (np.linalg.qr(rng.normal(size=(k, 40)))[0] for k in (60, 40, 40))
    few_large = u * np.concatenate([np.geomspace(300, 30, 10), np.linspace(1.2, 1, 30)]) @ v.T
    w[:30, 30:], w[30:, :30] = 1e-3 * w[:30, 30:], 1e-3 * w[30:, :30]
    in_blocks = u @ (w * np.geomspace(1, 1e3, 40)[None])
    y = rng.normal(size=60)

    def error(j, **more):
        start = {"a": jnp.zeros(30), "b": jnp.zeros(10)}
        best = jnp.linalg.lstsq(j, y)[0]

        def residual(p):
            return j @ jnp.concatenate([p["a"], p["b"]]) - y

        common = dict(solver="cg", cg_rtol=1e-12, cg_steps=12, **more)
        if name == "natural_gradient":
            opt = gdjax.natural_gradient(1.0, 0.0, **common)
            extra = dict(output_fn=residual, residuals=residual(start))
        else:
            wide = dict(init_radius=1e8) if name == "levenberg_marquardt" else {}
            opt = METHODS[name](scaled=False, **wide, **common)
            extra = dict(residual_fn=residual)
        updates, _ = opt.update(start, opt.init(start), start, **extra)
        step = jnp.concatenate([updates["a"], updates["b"]])
        return jnp.linalg.norm(step - best) / jnp.linalg.norm(best)

    def errors(few_large, in_blocks):
        nystrom = error(few_large, preconditioner="nystrom", preconditioner_rank=16)
        blocks = error(in_blocks, preconditioner="block_diagonal")
        return nystrom, error(few_large), blocks, error(in_blocks)

    with enable_x64():
        nystrom, plain, blocks, plain_blocks = map(float, jax.jit(errors)(few_large, in_blocks))
    assert nystrom < 1e-6 < 1e-2 < plain
    assert blocks < 1e-4 < 1e-2 < plain_blocks


def test_preconditioners_are_checked():
    with pytest.raises(ValueError, match=r"preconditioner=\.\.\.\).*'typo'"):
        gdjax.gauss_newton(solver="cg", preconditioner="typo")
    with pytest.raises(ValueError, match=r"conjugate gradients.*solver='qr'"):
        gdjax.levenberg_marquardt(solver="qr", preconditioner="nystrom")
    with pytest.raises(ValueError, match="preconditioner_rank"):
        gdjax.natural_gradient(0.1, solver="cg", preconditioner="nystrom", preconditioner_rank=0)
