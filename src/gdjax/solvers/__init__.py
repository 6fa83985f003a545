"""Methods that run to convergence, and the loops that run them."""
