"""Euclidean projections: the nearest point of a set, for a whole tree as one vector.

Used after a step they keep parameters in the set: `projection_simplex(apply_updates(params, u))`.
Leaves keep their dtype; mathematics is float32 at least. Where the nearest point is not unique (the
sphere seen from its centre) one of them is returned; a set given by a zero normal is taken as no
constraint. Values and gradients are finite there too. The half-space and hyperplane divide by
<a, a> as in Boyd & Vandenberghe (2004), section 8.1.
"""

from gdjax.projections.balls import projection_l1_ball as projection_l1_ball
from gdjax.projections.balls import projection_l1_sphere as projection_l1_sphere
from gdjax.projections.balls import projection_l2_ball as projection_l2_ball
from gdjax.projections.balls import projection_l2_sphere as projection_l2_sphere
from gdjax.projections.balls import projection_simplex as projection_simplex
from gdjax.projections.balls import unit_simplex as unit_simplex
from gdjax.projections.box_section import projection_box_section as projection_box_section
from gdjax.projections.boxes import projection_box as projection_box
from gdjax.projections.boxes import projection_hypercube as projection_hypercube
from gdjax.projections.boxes import projection_linf_ball as projection_linf_ball
from gdjax.projections.boxes import projection_non_negative as projection_non_negative
from gdjax.projections.planes import projection_halfspace as projection_halfspace
from gdjax.projections.planes import projection_hyperplane as projection_hyperplane
from gdjax.projections.planes import projection_vector as projection_vector
