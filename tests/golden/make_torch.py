"""Make torch.npz: where torch's optimizers arrive, so that the tests need no torch.

Run `python tests/golden/make_torch.py`, with the torch of the "bench" extra, after a change here.
Each entry is the parameters of `problems` after 1, 2, 8 and 14 steps in float64, raveled and
joined in the order of `problems.SHAPES`, one row for each of those steps.
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import problems  # noqa: E402

KEPT = (1, 2, 8, 14)

RUNS = {
    "sgd": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, nesterov=True)),
    "adam": (torch.optim.Adam, dict(lr=0.05, betas=(0.8, 0.95))),
    "adamw": (torch.optim.AdamW, dict(lr=0.05, weight_decay=0.1)),
    "nadam": (torch.optim.NAdam, dict(lr=0.05, betas=(0.8, 0.95), momentum_decay=0.1)),
    "nadamw": (
        torch.optim.NAdam,
        dict(lr=0.05, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    "amsgrad": (torch.optim.Adam, dict(lr=0.05, betas=(0.8, 0.9), amsgrad=True)),
    "adamax": (torch.optim.Adamax, dict(lr=0.05, betas=(0.8, 0.9), eps=1e-3)),
    "rmsprop": (torch.optim.RMSprop, dict(lr=0.02, alpha=0.9, eps=1e-3)),
    "rmsprop_centered": (
        torch.optim.RMSprop,
        dict(lr=0.02, alpha=0.9, eps=1e-3, centered=True, momentum=0.7),
    ),
    "adagrad": (torch.optim.Adagrad, dict(lr=0.3, initial_accumulator_value=0.2, lr_decay=0.1)),
    "adadelta": (torch.optim.Adadelta, dict(lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.1)),
    "rprop": (torch.optim.Rprop, dict(lr=0.03, etas=(0.6, 1.3), step_sizes=(0.01, 0.08))),
    "radam": (torch.optim.RAdam, dict(lr=0.05, betas=(0.8, 0.9), eps=1e-30)),
    "adafactor": (torch.optim.Adafactor, dict(lr=0.5)),
}


def run(kind, kwargs):
    params = {k: torch.tensor(v, requires_grad=True) for k, v in problems.parameters().items()}
    opt = kind(list(params.values()), **kwargs)
    rows = []
    for t in range(1, max(KEPT) + 1):
        grads = problems.gradients({k: p.detach().numpy() for k, p in params.items()}, t)
        for k, p in params.items():
            p.grad = torch.tensor(grads[k])
        opt.step()
        if t in KEPT:
            rows.append(np.concatenate([p.detach().numpy().ravel() for p in params.values()]))
    return np.stack(rows)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)  # else NAdam keeps its product of momenta in float32
    np.savez_compressed(HERE / "torch.npz", **{k: run(*v) for k, v in RUNS.items()})
