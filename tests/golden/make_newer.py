"""Make newer.npz: where the authors' and other public torch code arrives, so that tests need none.

Run `python tests/golden/make_newer.py` where these are installed: torch==2.13.0,
pytorch-optimizer==4.1.0, madgrad==1.3, came-pytorch==0.1.3, adam-mini==1.1.1, galore-torch==1.0 and
apollo-torch==1.0.3. Each run is the parameters of `problems` after 1, 2, 8 and 14 steps in float64,
raveled and joined in the order of `problems.SHAPES`, one row for each of those steps. The
projections that APOLLO drew are kept too, as "projection/<run>/<parameter>/<period>".
"""

import functools
import sys
from pathlib import Path

import numpy as np
import pytorch_optimizer as po
import torch
from adam_mini import Adam_mini
from apollo_torch import APOLLOAdamW
from apollo_torch.random_projector import GradientProjector
from came_pytorch import CAME
from galore_torch import GaLoreAdamW
from madgrad import MADGRAD

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import problems  # noqa: E402

KEPT = (1, 2, 8, 14)
BETAS = (0.8, 0.95)
COMMON = dict(lr=0.02, betas=BETAS, eps=1e-4, weight_decay=0.1)


def curvature(x):
    """The Hessian's diagonal of 0.35 x^2 + 0.3 sin(1.7 x)."""
    return 0.7 - 0.3 * 1.7**2 * torch.sin(1.7 * x)


def run(make, hessian=False, view=None):
    """Run an optimizer made from the parameters by name; `view` transposes some of them."""
    view = view or {}
    params = {
        k: torch.tensor(v.transpose(view.get(k, range(v.ndim))).copy(), requires_grad=True)
        for k, v in problems.parameters().items()
    }
    opt = make(params)
    rows = []

    def ours(k):
        x = params[k].detach().numpy()
        return x.transpose(np.argsort(view[k])) if k in view else x

    for t in range(1, max(KEPT) + 1):
        grads = problems.gradients({k: ours(k) for k in params}, t)
        for k, p in params.items():
            g = grads[k].transpose(view[k]) if k in view else grads[k]
            p.grad = torch.tensor(g.copy())
        more = dict(hessian=[curvature(p.detach()) for p in params.values()]) if hessian else {}
        opt.step(**more)
        if t in KEPT:
            rows.append(np.concatenate([ours(k).ravel() for k in params]))
    return np.stack(rows)


def plain(kind, **kwargs):
    return lambda params: kind(list(params.values()), **kwargs)


def grouped(kind, group, **kwargs):
    """The matrices in a group with a rank, as GaLore and APOLLO want it."""

    def make(params):
        matrices = [p for p in params.values() if p.ndim == 2]
        others = [p for p in params.values() if p.ndim != 2]
        return kind([dict(params=others), dict(params=matrices, **group)], **kwargs)

    return make


NAMES = {"tall": "mlp.tall", "wide": "embed.wide", "kernel": "wq.kernel"}


def adam_mini(params):
    named = [(NAMES.get(k, f"misc.{k}"), p) for k, p in params.items()]
    return Adam_mini(named, **COMMON, dim=12, n_heads=6, verbose=False)  # heads of 24 numbers


def apollo(name, projections, **group):
    """Run APOLLO and write down what it draws, by parameter and period."""
    draw = GradientProjector.get_orthogonal_matrix
    periods = {}

    def recording(self, weights, rank, type, seed):  # noqa: A002
        proj = draw(self, weights, rank, type, seed)
        leaf = {problems.SHAPES[k]: k for k in ("tall", "wide")}[tuple(weights.shape)]
        period = periods[leaf] = periods.get(leaf, -1) + 1
        matrix = proj.T if type == "left" else proj  # (r, smaller side)
        projections[f"projection/{name}/{leaf}/{period}"] = matrix.numpy()
        return proj

    GradientProjector.get_orthogonal_matrix = recording
    group = dict(proj="random", proj_type="std", update_proj_gap=6) | group
    try:
        return run(grouped(APOLLOAdamW, group, lr=0.02, betas=BETAS, eps=1e-4))
    finally:
        GradientProjector.get_orthogonal_matrix = draw


def main():
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = lambda self: self  # else GaLore takes its SVD in float32
    one = dict(foreach=False, weight_decouple=True)
    out = {
        "qhadam": run(plain(po.QHAdam, nus=(0.7, 0.9), **COMMON, **one)),
        "laprop": run(plain(po.LaProp, lr=0.02, betas=BETAS, eps=1e-15, foreach=False)),
        # its bound is t^(1/4); the paper and the authors' code have (t - 1)^(1/4)
        "adopt": run(
            plain(
                po.ADOPT,
                lr=0.02,
                betas=BETAS,
                eps=0.2,
                clip_lambda=lambda step: (step - 1) ** 0.25,
                foreach=False,
            )
        ),
        "ademamix": run(
            plain(
                po.AdEMAMix,
                **COMMON | dict(betas=(*BETAS, 0.99)),
                alpha=4.0,
                t_alpha_beta3=10,
                **one,
            )
        ),
        "stable_adamw": run(plain(po.StableAdamW, **COMMON, **one)),
        "sophia": run(plain(po.SophiaH, p=0.7, **COMMON | dict(eps=0.3), **one), hessian=True),
        "adahessian": run(
            plain(po.AdaHessian, **COMMON | dict(eps=1e-2), hessian_power=0.8, **one), hessian=True
        ),
        "madgrad": run(plain(MADGRAD, lr=0.05, momentum=0.8, weight_decay=0.1, eps=1e-3)),
        "madgrad_decoupled": run(
            plain(MADGRAD, lr=0.05, momentum=0.8, weight_decay=0.1, eps=1e-3, decouple_decay=True)
        ),
        "came": run(
            plain(
                CAME,
                lr=0.002,
                eps=(1e-30, 1e-4),
                clip_threshold=0.9,
                betas=(0.8, 0.95, 0.98),
                weight_decay=0.1,
            )
        ),
        "adam_mini": run(adam_mini, view={"tall": (1, 0)}),
        "galore": run(
            grouped(
                GaLoreAdamW,
                dict(rank=2, update_proj_gap=100, scale=0.25, proj_type="std"),
                lr=0.02,
                betas=BETAS,
                eps=1e-12,  # it is added before bias correction
                no_deprecation_warning=True,
            )
        ),
    }
    draw = functools.partial(apollo, projections=out)
    out["apollo"] = draw("apollo", rank=2, scale=2.0, scale_type="channel")
    out["apollo_mini"] = draw("apollo_mini", rank=1, scale=128.0, scale_type="tensor")
    np.savez_compressed(HERE / "newer.npz", **out)


if __name__ == "__main__":
    main()
