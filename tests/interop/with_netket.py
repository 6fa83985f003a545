"""NetKet: the ground state of a spin chain, by its variational Monte Carlo driver."""

import netket as nk
import optax

RTOL = 1e-6


def losses():
    hilbert = nk.hilbert.Spin(0.5, 4)
    chain = nk.graph.Chain(4)
    hamiltonian = nk.operator.IsingJax(hilbert, graph=chain, h=1.0)
    found = []
    for tx in (nk.optimizer.Sgd(0.05), optax.adam(optax.exponential_decay(0.02, 50, 0.5))):
        state = nk.vqs.FullSumState(hilbert, nk.models.RBM(alpha=1), seed=0)
        driver = nk.driver.VMC(hamiltonian, tx, variational_state=state)
        log = nk.logging.RuntimeLog()
        driver.run(200, out=log, show_progress=False)
        found += list(log.data["Energy"]["Mean"].real)
    state = nk.vqs.FullSumState(hilbert, nk.models.RBM(alpha=1), seed=0)
    tx = optax.sgd(optax.exponential_decay(0.1, 10, 0.5))
    driver = nk.driver.VMC_SR(hamiltonian, tx, diag_shift=0.01, variational_state=state)
    log = nk.logging.RuntimeLog()
    driver.run(30, out=log, show_progress=False)
    found += list(log.data["Energy"]["Mean"].real)
    return found
