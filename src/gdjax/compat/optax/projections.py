"""The names of `optax.projections`, which are those of gdjax."""

from gdjax.compat.optax.private import add_private_modules
from gdjax.projections import projection_box as projection_box
from gdjax.projections import projection_halfspace as projection_halfspace
from gdjax.projections import projection_hypercube as projection_hypercube
from gdjax.projections import projection_hyperplane as projection_hyperplane
from gdjax.projections import projection_l1_ball as projection_l1_ball
from gdjax.projections import projection_l1_sphere as projection_l1_sphere
from gdjax.projections import projection_l2_ball as projection_l2_ball
from gdjax.projections import projection_l2_sphere as projection_l2_sphere
from gdjax.projections import projection_linf_ball as projection_linf_ball
from gdjax.projections import projection_non_negative as projection_non_negative
from gdjax.projections import projection_simplex as projection_simplex
from gdjax.projections import projection_vector as projection_vector

add_private_modules(__name__, "_projections")
