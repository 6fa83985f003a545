"""Dion: Muon of low rank, by one step of power iteration with QR; Dion2: Muon on a share of rows.

Dion: Ahn et al. (2025), Algorithm 1, https://arxiv.org/abs/2504.05295
Dion2: Ahn et al. (2025), https://arxiv.org/abs/2512.16928
Paper -> here: M -> mu, Q -> basis, mu -> beta, r -> rank. Deviations: the basis begins with a
Gaussian drawn from `key` and the index of the parameter among all. An error fed back is a constant
for no one: both can be differentiated.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.keys import fresh_key
from gdjax.core.numerics import abs_sq, compute_dtype, safe_sqrt
from gdjax.linalg.matrices import Axes
from gdjax.optimizers.muon import RANGES
from gdjax.optimizers.orthogonal import only_momentum, or_adam, orthogonalized, scaled

_matmul = functools.partial(jnp.matmul, precision="highest")
