"""Numerical linear algebra, for optimizers and for direct use."""

from gdjax.linalg.inverse_root import matrix_inverse_pth_root as matrix_inverse_pth_root
from gdjax.linalg.nnls import nnls as nnls
from gdjax.linalg.polar import polar as polar
from gdjax.linalg.power_iteration import power_iteration as power_iteration
