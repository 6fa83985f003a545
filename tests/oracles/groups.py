"""Two optimizers side by side, each on the leaves that are its own; the others do not move."""

import gdjax
from oracles import adam, sgd
from oracles.case import ADAM, Case


def groups(owners):
    """Take a dict of oracle -> the names of its leaves."""

    def step(theta, g, t):
        new = dict(theta)
        for oracle, names in owners.items():
            mine = [k for k in theta if k in names]
            new |= oracle({k: theta[k] for k in mine}, {k: g[k] for k in mine}, t)
        return new

    return step


def _groups(rate, momentum, **numbers):
    matrices, rest = gdjax.adam(**numbers), gdjax.sgd(rate, momentum)
    return gdjax.groups(
        {r"vector": None, r"tall|wide|w|b/x|x": matrices, r".*": rest}, allow_unused=True
    )


def _groups_oracle(rate, momentum, **numbers):
    matrices, rest = adam.adam(**numbers), sgd.sgd(rate, momentum)
    return groups({matrices: ("tall", "wide"), rest: ("scalar", "kernel", "still")})


CASES = [
    Case("groups", _groups, ADAM | dict(rate=0.05, momentum=0.8), _groups_oracle),
]
