"""Methods that run to convergence, and the loops that run them."""

from gdjax.namespace import make_namespace

make_namespace(__name__)
