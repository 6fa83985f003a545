"""Zhang et al. (2019), Algorithm 1, around gradient descent with momentum."""

from oracles import sgd


def lookahead(learning_rate, momentum, sync_period, slow_step_size, forget=False):
    fast = sgd.sgd(learning_rate, momentum)
    phi = {}

    def step(theta, g, t):
        nonlocal fast
        for k in theta:
            phi.setdefault(k, theta[k])
        theta = fast(theta, g, t)
        if t % sync_period:
            return theta
        for k in theta:
            phi[k] = phi[k] + slow_step_size * (theta[k] - phi[k])
        if forget:
            fast = sgd.sgd(learning_rate, momentum)
        return dict(phi)

    step.phi = phi
    return step
