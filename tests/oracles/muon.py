"""Muon (Jordan et al., 2024) and its relatives in NumPy, as published; matrices by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import problems

import gdjax
from oracles import sgd
from oracles.case import Case
from oracles.soap import rotate, sides

KELLER = ((3.4445, -4.7750, 2.0315),) * 5


def newton_schulz(x, table=KELLER, eps=1e-8):
    """Return the quintic iteration of one matrix, on its smaller side."""
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T, table, eps).T
    y = x / (np.linalg.norm(x) + eps)
    for a, b, c in table:
        g = y @ y.T
        y = a * y + b * (g @ y) + c * (g @ (g @ y))
    return y


def rms_scale(c):
    return lambda fan_in, fan_out: c * np.sqrt(max(fan_in, fan_out))


def width(fan_in, fan_out):
    return np.sqrt(max(1.0, fan_out / fan_in))


def spectral(fan_in, fan_out):
    return np.sqrt(fan_out / fan_in)


def by_matrix(view, function, *arrays):
    """Apply a function of matrices (fan_in, fan_out), `view` saying how an array holds them.

    view: "2d"; "conv", all but the last axis flattened; "stack", the first axes are a batch;
    ("split", k), columns in k parts.
    """
    if view == "2d":
        return function(*arrays)
    if view == "conv":
        shape = arrays[0].shape
        return function(*(x.reshape(-1, shape[-1]) for x in arrays)).reshape(shape)
    if view == "stack":
        return np.stack(
            [
                by_matrix("2d" if arrays[0].ndim == 3 else "stack", function, *rows)
                for rows in zip(*arrays, strict=True)
            ]
        )
    return np.concatenate(
        [function(*part) for part in zip(*(np.split(x, view[1], 1) for x in arrays), strict=True)],
        1,
    )


class Adam:
    def __init__(self, lr, b1, b2, eps, eps_root, nesterov):
        self.numbers, self.nesterov = (lr, b1, b2, eps, eps_root), nesterov
        self.m = self.v = 0.0

    def step(self, g, t):
        lr, b1, b2, eps, eps_root = self.numbers
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        m = self.m / (1 - b1**t)
        if self.nesterov:
            m = b1 * self.m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        return -lr * m / (np.sqrt(self.v / (1 - b2**t) + eps_root) + eps)


def muon(
    learning_rate,
    beta,
    eps,
    weight_decay=0.0,
    consistent_rms=None,
    adam_learning_rate=None,
    adam_b1=0.9,
    adam_b2=0.999,
    adam_eps_root=0.0,
    adam_weight_decay=0.0,
    *,
    views,
    nesterov=True,
    scale=width,
    table=KELLER,
    method=None,
    before=None,
    adaptive=False,
):
    """views: name -> how the array holds matrices; names not in it go to Adam.

    before: `before(name, x, g, t, view) -> x` is what a relative takes the polar factors of.
    method: `method(name, o, t, by) -> o` is what a relative makes of the polar factors.
    """
    adam_lr = learning_rate if adam_learning_rate is None else adam_learning_rate
    adams, moments = {}, {}
    if consistent_rms is not None:
        scale = rms_scale(consistent_rms)

    def step(thetas, grads, t):
        out = {}
        for name, theta in thetas.items():
            g = grads[name]
            if name not in views:
                adam = adams.setdefault(
                    name, Adam(adam_lr, adam_b1, adam_b2, eps, adam_eps_root, nesterov)
                )
                out[name] = theta + adam.step(g, t) - adam_lr * adam_weight_decay * theta
                continue
            m = moments[name] = beta * moments.get(name, 0.0) + (1 - beta) * g
            x = beta * m + (1 - beta) * g if nesterov else m / (1 - beta**t)
            if nesterov == "corrected":
                x = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)

            def polar(x):
                o = newton_schulz(x, table, eps)
                return np.sum(x * o) * o if adaptive else o

            if before is not None:
                x = before(name, x, g, t, views[name])
            o = by_matrix(views[name], polar, x)
            if method is not None:
                o = method(name, o, t, views[name])
            o = by_matrix(views[name], lambda o: scale(*o.shape) * o, o)
            out[name] = theta - learning_rate * (o + weight_decay * theta)
        return out

    return step


def directions(learning_rate, beta, eps, *, views):
    """Muon without the scale by shape; gradient descent on what is no matrix."""
    matrices = muon(learning_rate, beta, eps, views=views, scale=lambda fan_in, fan_out: 1.0)

    def step(thetas, grads, t):
        rest = {k: thetas[k] - learning_rate * grads[k] for k in thetas if k not in views}
        return rest | matrices({k: thetas[k] for k in views}, grads, t)

    return step


def normuon(b2, eps, consistent_rms=None, *, views, **rest):
    """NorMuon (Li et al., 2025): even columns, then 0.2 sqrt(m n) or the old norm (dion)."""
    w, scale = {}, rest.pop("scale", width)

    def method(name, o, t, view):
        square = np.mean(o.reshape(-1, o.shape[-1]) ** 2, 0)
        w[name] = b2 * w.get(name, 0.0) + (1 - b2) * square
        even = o / (np.sqrt(w[name]) + eps)

        def rescale(new, old):
            norm = np.linalg.norm(old)
            if consistent_rms is not None:
                norm = consistent_rms * np.sqrt(old.size)
            return new * norm / np.linalg.norm(new)

        return by_matrix(view, rescale, even, o)

    scale = scale if consistent_rms is None else lambda fan_in, fan_out: 1.0
    return muon(eps=eps, views=views, method=method, scale=scale, **rest)


def adamuon(b2, eps, consistent_rms, *, views, **rest):
    """AdaMuon (Si et al., 2025): Adam's second moment on the polar factor."""
    v = {}

    def method(name, o, t, view):
        v[name] = b2 * v.get(name, 0.0) + (1 - b2) * o * o
        even = o / (np.sqrt(v[name] / (1 - b2**t)) + eps)

        def rescale(x):
            return consistent_rms * np.sqrt(x.size) * x / np.linalg.norm(x)

        return by_matrix(view, rescale, even)

    return muon(eps=eps, views=views, method=method, scale=lambda i, o: 1.0, **rest)


def soap_muon(
    b2, shampoo_beta, eps, precondition_frequency, *, beta, views, limit, one_sided=False, **rest
):
    """SOAP-Muon: the momentum over its mean square in Shampoo's eigenbases, before polar factors.

    `views` holds matrices and parts only.
    """
    state = {}

    def whiten(s, u, g, t):
        if t == 1:
            s["axes"] = sides(g.shape, limit, one_sided, False)
            s["factors"] = {i: np.zeros((g.shape[i],) * 2) for i in s["axes"]}
            white, s["v"] = u, np.zeros_like(u)
        else:
            low = rotate(u, s["bases"])
            s["v"] = b2 * s["v"] + (1 - b2) * low**2
            white = rotate(low / (np.sqrt(s["v"]) + eps), s["bases"], back=True)
        for i in s["axes"]:
            s["factors"][i] = shampoo_beta * s["factors"][i] + (1 - shampoo_beta) * (
                g @ g.T if i == 0 else g.T @ g
            )
        if t == 1:
            s["bases"] = {i: np.linalg.eigh(f)[1][:, ::-1] for i, f in s["factors"].items()}
        elif (t - 1) % precondition_frequency == 0:
            for i, q in s["bases"].items():
                order = np.argsort(-np.diag(q.T @ s["factors"][i] @ q))
                s["v"] = np.take(s["v"], order, i)
                s["bases"][i] = np.linalg.qr(s["factors"][i] @ q[:, order])[0]
        return white

    def before(name, x, g, t, view):
        parts = 1 if view == "2d" else view[1]
        rows = zip(np.split(x, parts, 1), np.split(g, parts, 1), strict=True)
        white = [
            whiten(state.setdefault((name, k), {}), u, part, t) for k, (u, part) in enumerate(rows)
        ]
        return np.concatenate(white, 1)

    return muon(beta=beta, eps=eps, views=views, before=before, **rest)


def muown(
    learning_rate,
    beta,
    b1,
    b2,
    eps,
    weight_decay,
    adam_learning_rate,
    adam_weight_decay,
    consistent_rms=None,
    angular=None,
    *,
    views,
    nesterov=True,
    scale=width,
    **adam,
):
    """Muown (Lion et al., 2026) with g and v as variables; rows of W are columns here."""
    state, adams = {}, {}
    numbers = [adam[k] for k in ("adam_b1", "adam_b2")] + [eps, adam["adam_eps_root"]]
    if consistent_rms is not None:
        scale = rms_scale(consistent_rms)

    def matrix(s, w, grad, t, parts):
        if t == 1:
            s["g"] = np.linalg.norm(w, axis=0)
            s["v"], s["m_v"], s["m_g"], s["v_g"] = w, 0.0, 0.0, 0.0
        if angular is not None:
            s["v"] = s["v"] / np.linalg.norm(s["v"], axis=0)
        g, length = s["g"], np.linalg.norm(s["v"], axis=0)
        u = s["v"] / length
        grad_g = np.sum(grad * u, 0)
        grad_v = g / length * (grad - u * grad_g)
        s["m_v"] = beta * s["m_v"] + (1 - beta) * grad_v
        x = beta * s["m_v"] + (1 - beta) * grad_v if nesterov else s["m_v"] / (1 - beta**t)
        o = [newton_schulz(part, eps=eps) for part in np.split(x, parts, 1)]
        o = np.concatenate([scale(*part.shape) * part for part in o], 1)
        v = s["v"] - learning_rate * (1 if angular is None else angular) * o
        s["m_g"] = b1 * s["m_g"] + (1 - b1) * grad_g
        s["v_g"] = b2 * s["v_g"] + (1 - b2) * grad_g**2
        m, n = s["m_g"] / (1 - b1**t), s["v_g"] / (1 - b2**t)
        s["g"] = g - learning_rate * m / (np.sqrt(n) + eps)
        length = np.linalg.norm(v, axis=0)
        new = s["g"] * v / length - learning_rate * weight_decay * w
        norms = np.linalg.norm(new, axis=0)
        s["g"] = np.sign(s["g"]) * norms  # the decay moves W, from which both are read again
        s["v"] = new / s["g"] * length
        return new

    def step(thetas, grads, t):
        out = {}
        for name, theta in thetas.items():
            if name not in views:
                opt = adams.setdefault(name, Adam(adam_learning_rate, *numbers, nesterov))
                decay = adam_learning_rate * adam_weight_decay * theta
                out[name] = theta + opt.step(grads[name], t) - decay
                continue
            parts = views[name][1] if isinstance(views[name], tuple) else 1
            own, shape = state.setdefault(name, {}), (-1, theta.shape[-1])
            new = matrix(own, theta.reshape(shape), grads[name].reshape(shape), t, parts)
            out[name] = new.reshape(theta.shape)
        return out

    return step


def hyperball(inner, learning_rate):
    """Hyperball (Wen et al., 2026) over an oracle."""
    radius = {}

    def step(thetas, grads, t):
        out = inner(thetas, grads, t)
        for name, theta in thetas.items():
            if theta.ndim > 1:
                r = radius.setdefault(name, np.linalg.norm(theta))
                u = out[name] - theta
                w = theta + learning_rate * r * u / np.linalg.norm(u)
                out[name] = r * w / np.linalg.norm(w)
        return out

    return step


YOU = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def dion2(
    learning_rate,
    beta,
    eps,
    weight_decay,
    adam_learning_rate,
    adam_weight_decay,
    *,
    views,
    fraction,
    **adam,
):
    """Dion2 (Ahn et al., 2025): the largest rows along the shorter side."""
    moments, adams = {}, {}
    numbers = [adam[k] for k in ("adam_b1", "adam_b2")] + [eps, adam["adam_eps_root"]]

    def one(m):
        if m.shape[0] > m.shape[1]:
            return np.stack([x.T for x in one(m.T)])
        k = int(np.ceil(fraction * len(m)))
        rows = np.argsort(-np.abs(m).sum(1))[:k]
        o, kept = np.zeros_like(m), m.copy()
        o[rows] = newton_schulz(m[rows], YOU, eps)
        kept[rows] *= beta
        return np.stack([o, kept])

    def step(thetas, grads, t):
        out = {}
        for name, theta in thetas.items():
            if name not in views:
                opt = adams.setdefault(name, Adam(adam_learning_rate, *numbers, False))
                decay = adam_learning_rate * adam_weight_decay * theta
                out[name] = theta + opt.step(grads[name], t) - decay
                continue
            m = moments.get(name, 0.0) + grads[name]
            o = by_matrix(views[name], lambda m: spectral(*m.shape) * one(m)[0], m)
            moments[name] = by_matrix(views[name], lambda m: one(m)[1], m)
            out[name] = theta - learning_rate * (o + weight_decay * theta)
        return out

    return step


def scion(learning_rate, radius, beta, eps, *, views, constrained=True):
    """Scion (Pethick et al., 2025), Algorithms 1 and 2."""
    d = {}

    def step(thetas, grads, t):
        out = {}
        for name, theta in thetas.items():
            d[name] = beta * d.get(name, 0.0) + (1 - beta) * grads[name]
            if name in views:
                lmo = by_matrix(
                    views[name], lambda x: -spectral(*x.shape) * newton_schulz(x, eps=eps), d[name]
                )
            elif theta.ndim > 1:
                lmo = -np.sign(d[name]) / theta.shape[-2]
            else:
                rms = np.sqrt(np.mean(d[name] ** 2))
                lmo = -d[name] / rms if rms > 0 else 0 * d[name]
            shrink = 1 - learning_rate if constrained else 1.0
            out[name] = shrink * theta + learning_rate * radius * lmo
        return out

    return step


def dion(
    learning_rate,
    beta,
    eps,
    weight_decay,
    adam_learning_rate,
    adam_weight_decay,
    *,
    views,
    rank_fraction,
    basis,
    **adam,
):
    """Dion (Ahn et al., 2025), Algorithm 1; `basis(name, shape)` is the first Q."""
    state, adams = {}, {}
    numbers = [adam[k] for k in ("adam_b1", "adam_b2")] + [eps, adam["adam_eps_root"]]

    def step(thetas, grads, t):
        out = {}
        for name, theta in thetas.items():
            if name not in views:
                opt = adams.setdefault(name, Adam(adam_learning_rate, *numbers, False))
                decay = adam_learning_rate * adam_weight_decay * theta
                out[name] = theta + opt.step(grads[name], t) - decay
                continue
            g = grads[name].reshape(-1, theta.shape[-1])
            if name not in state:
                rank = int(np.ceil(rank_fraction * min(g.shape)))
                state[name] = np.zeros(g.shape), basis(name, (g.shape[1], rank))
            m, q = state[name]
            b = m + g
            p = np.linalg.qr(b @ q)[0]
            r = b.T @ p
            m = b - (1 - beta) * p @ r.T
            q = r / (np.linalg.norm(r, axis=0) + eps)
            state[name] = m, q
            o = spectral(*g.shape) * (p @ q.T).reshape(theta.shape)
            out[name] = theta - learning_rate * (o + weight_decay * theta)
        return out

    return step


def _first_basis(name, shape):
    index = sorted(problems.SHAPES).index(name)  # dicts are sorted by JAX
    return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(0), index), shape, float))


MUON = dict(
    learning_rate=0.02,
    beta=0.85,
    eps=1e-6,
    weight_decay=0.1,
    adam_learning_rate=0.01,
    adam_b1=0.8,
    adam_b2=0.9,
    adam_eps_root=1e-9,
    adam_weight_decay=0.05,
)

MATRIX = gdjax.MuonDimensionNumbers

VIEWS = {  # by path of the problem of the oracles and of the tree of the contract
    "kernel": MATRIX((0, 1, 2), 3),
    "tall": MATRIX(splits=3),
    "wide|w": MATRIX(),
    ".*": None,
}

SCION = {k: v for k, v in VIEWS.items() if "wide" not in k} | {"w": MATRIX(), ".*": None}

MUON_VIEWS = {"kernel": "conv", "tall": ("split", 3), "wide": "2d"}

CASES = [
    Case(
        "muon",
        gdjax.muon,
        MUON,
        partial(muon, views={"tall": "2d", "wide": "2d"}),
        lane_rtol=1e-5,
    ),
    Case(
        "muon_views",
        partial(
            gdjax.muon,
            nesterov=False,
            muon_weight_dimension_numbers=gdjax.by_path(VIEWS, allow_unused=True),
        ),
        MUON | dict(consistent_rms=0.3),
        partial(muon, nesterov=False, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    Case(
        "normuon",
        partial(
            gdjax.normuon, muon_weight_dimension_numbers=gdjax.by_path(VIEWS, allow_unused=True)
        ),
        MUON | dict(b2=0.9, consistent_rms=0.3),
        partial(normuon, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    Case(
        "normuon_dion",
        partial(gdjax.normuon, nesterov=False, consistent_rms=None, scale="spectral"),
        MUON | dict(b2=0.9),
        partial(
            normuon,
            nesterov=False,
            views={"tall": "2d", "wide": "2d"},
            scale=spectral,
        ),
        lane_rtol=1e-5,
    ),
    Case(
        "adamuon",
        partial(
            gdjax.adamuon, muon_weight_dimension_numbers=gdjax.by_path(VIEWS, allow_unused=True)
        ),
        MUON | dict(b2=0.9, consistent_rms=0.3),
        partial(adamuon, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    Case(
        "muown",
        partial(gdjax.muown, muon_weight_dimension_numbers=gdjax.by_path(VIEWS, allow_unused=True)),
        MUON | dict(b1=0.8, b2=0.9, consistent_rms=0.3),
        partial(muown, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    Case(
        "muown_angular",  # the rate takes some norms through zero
        partial(gdjax.muown, nesterov=False, consistent_rms=None, scale="spectral"),
        MUON | dict(learning_rate=0.3, b1=0.8, b2=0.9, angular=0.4, weight_decay=0.0),
        partial(muown, nesterov=False, views={"tall": "2d", "wide": "2d"}, scale=spectral),
        lane_rtol=1e-5,
    ),
    # A first gradient of a long side leaves eigenvectors to rounding noise, see oracles/soap.py.
    *(
        Case(
            name,
            partial(
                gdjax.soap_muon,
                max_precond_dim=4,
                precondition_frequency=3,
                muon_weight_dimension_numbers=gdjax.by_path(spec, allow_unused=True),
                **options,
            ),
            MUON | dict(b2=0.9, shampoo_beta=0.8, eps=1e-4),
            partial(soap_muon, limit=4, precondition_frequency=3, views=views, **options),
            not_differentiable=("shampoo_beta",),
            lane_rtol=2e-3,  # as for `soap`
        )
        for name, spec, views, options in (
            ("soap_muon", VIEWS | {"kernel": None}, {"tall": ("split", 3), "wide": "2d"}, {}),
            (
                "soap_muon_one_sided",
                {"tall|wide|w": MATRIX(), ".*": None},
                {"tall": "2d", "wide": "2d"},
                dict(one_sided=True, nesterov="corrected"),
            ),
        )
    ),
    Case(
        "dion",
        partial(
            gdjax.dion,
            rank_fraction=0.5,
            muon_weight_dimension_numbers=gdjax.by_path(
                VIEWS | {"tall": MATRIX()}, allow_unused=True
            ),
        ),
        MUON,
        partial(
            dion,
            rank_fraction=0.5,
            views={"kernel": "conv", "tall": "2d", "wide": "2d"},
            basis=_first_basis,
        ),
        x_tol=1e-10,  # two ways to an orthonormal basis, and the basis feeds back
        lane_rtol=1e-5,
    ),
    Case(
        "dion2",
        partial(
            gdjax.dion2,
            fraction=0.4,
            muon_weight_dimension_numbers=gdjax.by_path(VIEWS, allow_unused=True),
        ),
        MUON,
        partial(dion2, fraction=0.4, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
    *(
        Case(
            "scion" if constrained else "scion_unconstrained",
            partial(
                gdjax.scion,
                constrained=constrained,
                weight_dimension_numbers=gdjax.by_path(SCION, allow_unused=True),
            ),
            dict(learning_rate=0.02, radius=8.0, beta=0.85, eps=1e-6),
            partial(
                scion,
                constrained=constrained,
                views={"kernel": "conv", "tall": ("split", 3)},
            ),
            lane_rtol=1e-5,
        )
        for constrained in (True, False)
    ),
    Case(
        "muonclip",
        lambda threshold, power, **rest: gdjax.qk_clip(
            gdjax.muon(**rest),
            gdjax.by_path({"w": -1, ".*": None}, allow_unused=True),
            threshold,
            power,
        ),
        MUON | dict(threshold=100.0, power=0.5),
        extras=lambda params, grads, t: dict(max_logits=jnp.float32(150.0)),
        of="qk_clip",
        lane_rtol=1e-5,
    ),
    Case(
        "hyperball_sgd",
        lambda angle, **rest: gdjax.hyperball(gdjax.sgd(**rest), angle),
        dict(learning_rate=0.02, momentum=0.8, angle=0.05),
        lambda angle, **rest: hyperball(sgd.sgd(**rest), angle),
        of="hyperball",
    ),
]

CASES += [
    Case(
        "scale_by_muon",
        lambda learning_rate, **numbers: gdjax.chain(
            gdjax.scale_by_muon(
                weight_dimension_numbers=gdjax.by_path(VIEWS, allow_unused=True), **numbers
            ),
            gdjax.scale_by_learning_rate(learning_rate),
        ),
        dict(learning_rate=0.02, beta=0.85, eps=1e-6),
        partial(directions, views=MUON_VIEWS),
        lane_rtol=1e-5,
    ),
]
