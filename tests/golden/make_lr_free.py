"""Make lr_free.npz: where the authors' own optimizers arrive, so that the tests need none of them.

Run `python tests/golden/make_lr_free.py` with torch==2.13.0 prodigyopt==1.1.2 dadaptation==3.2
dog-optimizer==1.0.3 momo-opt==0.1.0 schedulefree==1.4.1 installed, after a change here. Entries are
as in make_torch.py; "..._eval" are the parameters to evaluate with.
"""

import sys
from pathlib import Path

import dadaptation
import dog
import momo
import numpy as np
import prodigyopt
import torch
from schedulefree import AdamWScheduleFreeReference, RAdamScheduleFree, SGDScheduleFreeReference

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import problems  # noqa: E402

KEPT = (1, 2, 8, 14)

PRODIGY = dict(lr=0.9, betas=(0.8, 0.95), eps=1e-6, d0=0.01, weight_decay=0.1)
SF = dict(lr=0.05, weight_decay=0.1, weight_lr_power=1.5, r=0.5)

RUNS = {
    "prodigy": (prodigyopt.Prodigy, PRODIGY | dict(beta3=0.9, d_coef=1.3)),
    "prodigy_safeguard": (
        prodigyopt.Prodigy,
        PRODIGY | dict(use_bias_correction=True, safeguard_warmup=True),
    ),
    "dadapt_adamw": (dadaptation.DAdaptAdam, PRODIGY | dict(decouple=True)),
    "dadapt_adamw_corrected": (
        dadaptation.DAdaptAdam,
        PRODIGY | dict(decouple=True, use_bias_correction=True),
    ),
    "dog": (dog.DoG, dict(reps_rel=0.02, eps=1e-3, weight_decay=0.1)),
    "dog_learning_rate": (dog.DoG, dict(init_eta=0.02, eps=1e-3)),
    "l_dog": (dog.LDoG, dict(reps_rel=0.02, eps=1e-3, weight_decay=0.1)),
    "momo": (momo.Momo, dict(lr=0.4, beta=0.8, lb=0.5, weight_decay=0.1)),
    "momo_bound": (momo.Momo, dict(lr=0.4, beta=0.8, lb=0.5, use_fstar=True)),
    "momo_adam": (
        momo.MomoAdam,
        dict(lr=0.3, betas=(0.8, 0.95), eps=1e-3, lb=0.5, weight_decay=0.1),
    ),
    "momo_adam_bound": (
        momo.MomoAdam,
        dict(lr=0.3, betas=(0.8, 0.95), eps=1e-3, lb=0.5, weight_decay=0.1, use_fstar=True),
    ),
    "schedule_free_sgd": (SGDScheduleFreeReference, SF | dict(momentum=0.8, warmup_steps=4)),
    "schedule_free_adamw": (
        AdamWScheduleFreeReference,
        SF | dict(betas=(0.8, 0.95), eps=1e-3, warmup_steps=4),
    ),
    "schedule_free_radam": (RAdamScheduleFree, SF | dict(betas=(0.8, 0.95), eps=1e-3)),
}


def flat(tensors):
    return np.concatenate([x.detach().numpy().ravel() for x in tensors])


def run(kind, kwargs):
    """Return the trajectory, and that of the averages if there are some."""
    model = torch.nn.ParameterDict(
        {k: torch.nn.Parameter(torch.tensor(v)) for k, v in problems.parameters().items()}
    )
    params = {k: model[k] for k in problems.SHAPES}
    opt = kind(list(params.values()), **kwargs)
    averager = dog.PolynomialDecayAverager(model) if kind is dog.DoG else None
    free = hasattr(opt, "train")
    if free:
        opt.train()
    rows, averages = [], []
    for t in range(1, max(KEPT) + 1):
        at = {k: p.detach().numpy() for k, p in params.items()}
        for k, g in problems.gradients(at, t).items():
            params[k].grad = torch.tensor(g)
        more = dict(loss=torch.tensor(problems.value(at, t))) if hasattr(opt, "lb") else {}
        opt.step(**more)
        if averager:
            averager.step()
        if t not in KEPT:
            continue
        rows.append(flat(params.values()))
        if averager:
            averages.append(flat(averager.averaged_model[k] for k in problems.SHAPES))
        elif free:
            opt.eval()
            averages.append(flat(params.values()))
            opt.train()
    return np.stack(rows), np.stack(averages) if averages else None


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    out = {}
    for name, (kind, kwargs) in RUNS.items():
        out[name], average = run(kind, kwargs)
        if average is not None:
            out[name + "_eval"] = average
    np.savez_compressed(HERE / "lr_free.npz", **out)
