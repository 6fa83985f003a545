"""Functions of whole trees, with the names of `optax.tree`.

They differ from optax only where low precision would lose accuracy:

- Sums, norms and inner products are computed and returned in at least float32 (optax: in the
  leaves' dtype, where 1000 ones in bfloat16 sum to 256 and a float16 norm above 256 is inf).
- Moments are computed in at least float32 and returned in the leaves' dtype.
- None is not a leaf; an empty tree has sum 0, norm 0, max -inf and min inf.
"""

from gdjax.tree.arithmetic import add as add
from gdjax.tree.arithmetic import add_scale as add_scale
from gdjax.tree.arithmetic import clip as clip
from gdjax.tree.arithmetic import conj as conj
from gdjax.tree.arithmetic import div as div
from gdjax.tree.arithmetic import mul as mul
from gdjax.tree.arithmetic import real as real
from gdjax.tree.arithmetic import scale as scale
from gdjax.tree.arithmetic import sub as sub
from gdjax.tree.arithmetic import where as where
from gdjax.tree.arrays import batch_shape as batch_shape
from gdjax.tree.arrays import cast as cast
from gdjax.tree.arrays import cast_like as cast_like
from gdjax.tree.arrays import dtype as dtype
from gdjax.tree.arrays import full_like as full_like
from gdjax.tree.arrays import ones_like as ones_like
from gdjax.tree.arrays import random_like as random_like
from gdjax.tree.arrays import split_key_like as split_key_like
from gdjax.tree.arrays import unwrap_random_key_data as unwrap_random_key_data
from gdjax.tree.arrays import zeros_like as zeros_like
from gdjax.tree.moments import bias_correction as bias_correction
from gdjax.tree.moments import update_infinity_moment as update_infinity_moment
from gdjax.tree.moments import update_moment as update_moment
from gdjax.tree.moments import update_moment_per_elem_norm as update_moment_per_elem_norm
from gdjax.tree.reductions import allclose as allclose
from gdjax.tree.reductions import max as max
from gdjax.tree.reductions import min as min
from gdjax.tree.reductions import norm as norm
from gdjax.tree.reductions import size as size
from gdjax.tree.reductions import sum as sum
from gdjax.tree.reductions import vdot as vdot
from gdjax.tree.search import NamedTupleKey as NamedTupleKey
from gdjax.tree.search import get as get
from gdjax.tree.search import get_all_with_path as get_all_with_path
from gdjax.tree.search import map_params as map_params
from gdjax.tree.search import set as set
