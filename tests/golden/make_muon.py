"""Make muon.npz: where torch's Muon arrives, so that the tests need no torch.

Run `python tests/golden/make_muon.py`, with the torch of the "bench" extra, after a change here.
torch iterates in bfloat16; here it is kept from it, so that the comparison is exact. Each entry is
the matrices of `problems` after 1, 2 and 8 steps in float64, raveled and joined in the order of
`MATRICES`, one row for each of those steps. torch's layout is (outputs, inputs).
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import problems  # noqa: E402

MATRICES = ("tall", "wide")
KEPT = (1, 2, 8)
RUNS = {
    "nesterov": dict(lr=0.05, weight_decay=0.1, momentum=0.9, eps=0.0),
    "plain": dict(lr=0.05, weight_decay=0.0, momentum=0.8, nesterov=False, eps=0.0, ns_steps=3),
    "rms": dict(lr=0.05, weight_decay=0.1, eps=0.0, adjust_lr_fn="match_rms_adamw"),
}


def run(kwargs):
    start = problems.parameters()
    params = {k: torch.tensor(start[k].T.copy(), requires_grad=True) for k in MATRICES}
    opt = torch.optim.Muon(list(params.values()), **kwargs)
    rows = []
    for t in range(1, max(KEPT) + 1):
        at = start | {k: p.detach().numpy().T for k, p in params.items()}
        grads = problems.gradients(at, t)
        for k, p in params.items():
            p.grad = torch.tensor(grads[k].T.copy())
        opt.step()
        if t in KEPT:
            rows.append(np.concatenate([p.detach().numpy().T.ravel() for p in params.values()]))
    return np.stack(rows)


if __name__ == "__main__":
    torch.Tensor.bfloat16 = torch.Tensor.clone
    np.savez_compressed(HERE / "muon.npz", **{k: run(v) for k, v in RUNS.items()})
