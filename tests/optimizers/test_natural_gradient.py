"""Natural gradients: each way to say what the metric is gives the same direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

N = 5
COMPLEX = {"a": np.array([0.3 + 0.2j, -0.5 + 0.4j, 0.1 - 0.7j]), "b": np.array(0.6), "n": None}
SAMPLES = np.random.default_rng(0).normal(size=(N, 4))


def log_psi(params, x):
    """Return complex numbers, holomorphic in `a`; (N, 4) -> (N,)."""
    return jnp.sum(jnp.log(jnp.cosh(x[:, :3] * params["a"][None])), 1) + 1j * params["b"] * x[:, 3]


def derivatives(params, x):
    """Return the derivatives of `log_psi`, written out."""
    return {
        "a": x[:, :3] * np.tanh(x[:, :3] * params["a"]),
        "b": 1j * x[:, 3],
        "n": None,
    }


def real_rows(jac):
    """Return (2 N, n) of [real, imaginary] over the parameters Re a, Im a, b."""
    a, b = jac["a"], jac["b"][:, None]
    rows = np.concatenate([a, 1j * a, b], axis=1)
    return np.stack([np.real(rows), np.imag(rows)], axis=1).reshape(2 * len(b), -1)


def flat(tree):
    return np.concatenate([np.real(tree["a"]), np.imag(tree["a"]), np.real(tree["b"])[None]])


def centered(jac):
    return {k: v if v is None else v - v.mean(0) for k, v in jac.items()}


def test_every_form_gives_the_direction_of_the_formula():
    gradient = {"a": np.array([0.2 - 0.1j, 0.5j, -0.3]), "b": np.array(0.4), "n": None}
    a = real_rows(centered(derivatives(COMPLEX, SAMPLES))) / N**0.5
    expected = -np.linalg.solve(a.T @ a + 0.02 * np.eye(7), flat(gradient))

    @jax.jit
    def directions(params, grads, x):
        found = {}
        for solver in ("normal", "kernel", "qr", "cg"):
            opt = gdjax.natural_gradient(
                1.0, 0.02, output_fn=log_psi, centered=True, solver=solver, cg_rtol=1e-12
            )
            for name, more in {
                "by sample": {"batch": x},
                "whole": {"output_fn": lambda p: log_psi(p, x)},
                "jacobian": {
                    "jacobian": {
                        "a": x[:, :3] * jnp.tanh(x[:, :3] * params["a"][None]),
                        "b": 1j * x[:, 3],
                        "n": None,
                    }
                },
            }.items():
                if name == "whole" or solver == "kernel" or solver == "cg" and name == "by sample":
                    found[solver, name] = opt.update(grads, opt.init(params), params, **more)[0]
        return found

    with enable_x64():
        for name, update in directions(COMPLEX, gradient, SAMPLES).items():
            assert update["n"] is None
            np.testing.assert_allclose(flat(update), expected, rtol=1e-9, err_msg=str(name))


def spring(o, energies, phi, damping, mu):
    """Return phi_k of Goldshlager et al. (2024), algorithm 1, for real O and energies."""
    n = len(o)
    o_bar = (o - o.mean(0)) / n**0.5
    epsilon = (energies - energies.mean()) / n**0.5
    zeta = epsilon - mu * o_bar @ phi
    kernel = o_bar @ o_bar.T + damping * np.eye(n) + np.ones((n, n)) / n
    return o_bar.T @ np.linalg.solve(kernel, zeta) + mu * phi


@pytest.mark.parametrize("few", [True, False], ids=["kernel", "normal"])
def test_spring_is_that_of_the_paper(few):
    rng = np.random.default_rng(1)
    n = 3 if few else 9
    with enable_x64():
        opt = gdjax.spring(0.1, 0.01, 0.9, 0.04)
        theta, phi = rng.normal(size=6), np.zeros(6)
        params, state = jnp.asarray(theta), opt.init(jnp.asarray(theta))
        for _ in range(3):
            o, energies = rng.normal(size=(n, 6)), rng.normal(2.0, 1.0, n)
            phi = spring(o, energies, phi, 0.01, 0.9)
            theta = theta - min(0.1, 0.2 / np.linalg.norm(phi)) * phi
            more = {"jacobian": o, "residuals": energies}
            updates, state = opt.update(params, state, params, **more)
            params = gdjax.apply_updates(params, updates)
            np.testing.assert_allclose(params, theta, rtol=1e-9)
            np.testing.assert_allclose(state.direction, phi, rtol=1e-9)


def test_min_sr_without_damping_is_the_pseudo_inverse_of_chen_and_heyl():
    energies = np.random.default_rng(2).normal(size=3) + 0.5j
    x = SAMPLES[:3]
    o = real_rows(centered(derivatives(COMPLEX, x))) / 3**0.5
    e = (energies - energies.mean()) / 3**0.5
    e = np.stack([e.real, e.imag], axis=1).ravel()
    expected = -0.5 * o.T @ np.linalg.pinv(o @ o.T, rcond=1e-10) @ e
    with enable_x64():
        opt = gdjax.min_sr(0.5, 0.0, output_fn=log_psi)
        params = jax.tree.map(jnp.asarray, COMPLEX)
        updates, _ = opt.update(params, opt.init(params), params, batch=x, residuals=energies)
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-6, atol=1e-9)


def line(params, x):
    return x @ params["w"] + params["b"]


LINE = {"w": jnp.array([0.5, -0.2]), "b": jnp.array(0.1)}
X = jnp.asarray(np.random.default_rng(3).normal(size=(16, 2)), jnp.float32)
Y = X @ jnp.array([1.0, -2.0]) + 0.5


def test_weights_and_residuals():
    """Weights 2 / N and 0 are a sample taken twice; residuals stand for the gradient."""
    opt = gdjax.natural_gradient(1.0, 0.01, output_fn=line)
    state, twice = opt.init(LINE), jnp.concatenate([X[:4], X[:4], X[4:8]])
    residuals = line(LINE, twice) - jnp.concatenate([Y[:4], Y[:4], Y[4:8]])
    grads = jax.grad(
        lambda p: 0.5 * jnp.mean((line(p, twice) - line(LINE, twice) + residuals) ** 2)
    )
    plain, _ = opt.update(grads(LINE), state, LINE, batch=twice)
    weights = jnp.array([2.0] * 4 + [1.0] * 4 + [0.0] * 8) / 12
    more = {"batch": X, "weights": weights, "residuals": line(LINE, X) - Y}
    weighted, _ = opt.update(LINE, state, LINE, **more)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(weighted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_damping_follows_the_quadratic_model():
    """rho is 1 for a quadratic loss, negative where it rises; section 6.5."""
    jac = jnp.eye(2)
    opt = gdjax.natural_gradient(1.0, 0.5, damping_decay=0.8)
    params, state = jnp.array([1.0, 2.0]), opt.init(jnp.zeros(2))
    for curvature, factor in ((1.0, 0.8), (1.0, 0.64), (-1.0, 0.8), (jnp.nan, 1.0)):
        more = {"value_fn": lambda p, c=curvature: 0.5 * c * p @ p, "jacobian": jac}
        updates, state = opt.update(params, state, params, **more)
        np.testing.assert_allclose(state.factor, factor, rtol=1e-6)
        assert state.damping == 0.5
    np.testing.assert_allclose(updates, -params / (0.5 + 0.5 * 0.8), rtol=1e-6)


def test_fit_a_sweep_and_sharded_samples():
    def loss(params, batch):
        return 0.5 * jnp.mean((line(params, batch[0]) - batch[1]) ** 2)

    opt = gdjax.natural_gradient(
        1.0, 1e-3, damping_decay=0.9, output_fn=lambda p, batch: line(p, batch[0])
    )
    done = gdjax.fit(loss, LINE, opt, (X, Y), batch_size=8, steps=8, key=0)
    assert loss(done.params, (X, Y)) < 1e-7

    @jax.jit
    @jax.vmap
    def lane(damping):
        opt = gdjax.natural_gradient(1.0, damping, output_fn=line)
        grads = jax.grad(loss)(LINE, (X, Y))
        return opt.update(grads, opt.init(LINE), LINE, batch=X)[0]

    dampings = jnp.array([0.01, 0.1, 1.0])
    grid = lane(dampings)
    rows = jnp.concatenate([X, jnp.ones((16, 1))], axis=1)
    for i, damping in enumerate(dampings):
        metric = rows.T @ rows / 16 + damping * jnp.eye(3)
        expected = -jnp.linalg.solve(metric, rows.T @ (line(LINE, X) - Y) / 16)
        found = jnp.append(grid["w"][i], grid["b"][i])
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    mesh = jax.sharding.Mesh(jax.devices(), "samples")
    split = jax.device_put(
        X, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("samples"))
    )
    sr = gdjax.min_sr(0.1, output_fn=line)
    step = jax.jit(lambda x, e: sr.update(LINE, sr.init(LINE), LINE, batch=x, residuals=e)[0])
    for a, b in zip(*(jax.tree.leaves(step(x, Y)) for x in (X, split)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_energy_natural_gradient_solves_poisson():
    """-u'' = pi^2 sin(pi x), u = 0 at both ends: 0.5 |u'|^2 - f u, with the metric of u'."""
    nodes, weights = (np.asarray(x) for x in np.polynomial.legendre.leggauss(30))
    x, w = jnp.asarray(0.5 * nodes + 0.5, jnp.float32), jnp.asarray(0.5 * weights, jnp.float32)

    def u(p, x):
        return x * (1 - x) * (jnp.tanh(x * p["w"] + p["b"]) @ p["v"])

    def slopes(p, x):
        return jax.vmap(jax.grad(u, 1), (None, 0))(p, x)

    def energy(p):
        value = jax.vmap(u, (None, 0))(p, x)
        return w @ (0.5 * slopes(p, x) ** 2 - jnp.pi**2 * jnp.sin(jnp.pi * x) * value)

    opt = gdjax.chain(
        gdjax.natural_gradient(1.0, 1e-6, output_fn=slopes),
        gdjax.scale_by_backtracking_linesearch(15, slope_rtol=1e-4),
    )
    key = jax.random.split(jax.random.key(0), 3)
    params = {k: jax.random.normal(i, (8,)) for k, i in zip("wbv", key, strict=True)}

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(energy)(params)
        more = dict(batch=x, weights=w, value=value, grad=grads, value_fn=energy)
        updates, state = opt.update(grads, state, params, **more)
        return (gdjax.apply_updates(params, updates), state), value

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=30))((params, opt.init(params)))
    error = jax.vmap(u, (None, 0))(params, x) - jnp.sin(jnp.pi * x)
    assert jnp.sqrt(w @ error**2) < 4e-4


@pytest.mark.parametrize(
    "more, message",
    [
        ({}, r"natural_gradient\(output_fn=\.\.\.\).* no batch"),
        ({"batch": {"x": X, "y": X[:3]}}, "one leading axis of samples.*16.*3"),
        ({"jacobian": {"w": X[:, :1], "b": X}}, r"shape of each parameter.*\(16, 1\).*\(2,\)"),
        ({"jacobian": {"w": X}}, "jacobian= must be a tree like the parameters"),
        ({"jacobian": {"w": X, "b": X[:3, 0]}}, "other leading axes"),
        ({"batch": X, "residuals": Y[:7]}, r"residuals= must have .* 16 real numbers, got 7"),
        ({"batch": X, "residuals": jnp.ones(())}, r"residuals= must have a leading axis"),
        ({"batch": X, "weights": Y[:7]}, r"weights= must be one number .*\(16,\).*\(7,\)"),
        ({"output_fn": lambda p: p["b"]}, "output_fn=: the output must have a leading axis"),
    ],
)
def test_what_does_not_fit_is_named(more, message):
    opt = gdjax.natural_gradient(1.0, output_fn=line)
    with pytest.raises((ValueError, TypeError), match=message):
        opt.update(LINE, opt.init(LINE), LINE, **more)


def test_what_is_missing_is_named():
    opt = gdjax.min_sr(1.0)
    with pytest.raises(TypeError, match=r"min_sr needs output_fn"):
        opt.update(LINE, opt.init(LINE), LINE, batch=X)
    opt = gdjax.natural_gradient(1.0, output_fn=line, damping_decay=0.9)
    with pytest.raises(TypeError, match=r"natural_gradient\(damping_decay=...\) needs value_fn"):
        opt.update(LINE, opt.init(LINE), LINE, batch=X)
    opt = gdjax.natural_gradient(1.0, output_fn=line, likelihood="softmax")
    with pytest.raises(ValueError, match=r"residuals= are for likelihood='squared'"):
        opt.update(LINE, opt.init(LINE), LINE, batch=X, residuals=Y)
    with pytest.raises(ValueError, match=r"min_sr\(solver=...\) must be one of"):
        gdjax.min_sr(1.0, solver="fast")


def test_conjugate_gradients_converge_for_bfloat16_parameters():
    """Products that are rounded to bfloat16 are of no symmetric matrix; the loss rose to 1.2."""
    x = jax.random.normal(jax.random.key(0), (64, 4))
    data = x, jnp.tanh(x @ jnp.arange(4.0))

    def output_fn(p, batch):
        return jnp.tanh(batch[0] @ p)

    def loss_fn(p, batch):
        return 0.5 * jnp.mean((output_fn(p, batch) - batch[1]) ** 2)

    opt = gdjax.natural_gradient(1.0, 1e-2, output_fn=output_fn, solver="cg")
    run = gdjax.fit(loss_fn, jnp.zeros(4, jnp.bfloat16), opt, data, batch_size=16, steps=8, key=1)
    assert loss_fn(run.params, data) < 3e-3
