"""Two optimizers side by side, each on the leaves that are its own; the others do not move."""


def groups(owners):
    """Take a dict of oracle -> the names of its leaves."""

    def step(theta, g, t):
        new = dict(theta)
        for oracle, names in owners.items():
            mine = [k for k in theta if k in names]
            new |= oracle({k: theta[k] for k in mine}, {k: g[k] for k in mine}, t)
        return new

    return step
