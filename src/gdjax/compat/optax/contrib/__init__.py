"""The optimizers of `optax.contrib`.

The files here leave out `from __future__ import annotations`, as `alias.py` does.
"""

from gdjax.compat.optax.contrib.adaptive import HutchinsonState as HutchinsonState
from gdjax.compat.optax.contrib.adaptive import MadgradState as MadgradState
from gdjax.compat.optax.contrib.adaptive import ScaleByAdemamixState as ScaleByAdemamixState
from gdjax.compat.optax.contrib.adaptive import (
    ScaleBySimplifiedAdEMAMixState as ScaleBySimplifiedAdEMAMixState,
)
from gdjax.compat.optax.contrib.adaptive import SophiaState as SophiaState
from gdjax.compat.optax.contrib.adaptive import acprop as acprop
from gdjax.compat.optax.contrib.adaptive import ademamix as ademamix
from gdjax.compat.optax.contrib.adaptive import adopt as adopt
from gdjax.compat.optax.contrib.adaptive import (
    hutchinson_estimator_diag_hessian as hutchinson_estimator_diag_hessian,
)
from gdjax.compat.optax.contrib.adaptive import madgrad as madgrad
from gdjax.compat.optax.contrib.adaptive import scale_by_acprop as scale_by_acprop
from gdjax.compat.optax.contrib.adaptive import scale_by_ademamix as scale_by_ademamix
from gdjax.compat.optax.contrib.adaptive import scale_by_adopt as scale_by_adopt
from gdjax.compat.optax.contrib.adaptive import scale_by_madgrad as scale_by_madgrad
from gdjax.compat.optax.contrib.adaptive import (
    scale_by_simplified_ademamix as scale_by_simplified_ademamix,
)
from gdjax.compat.optax.contrib.adaptive import simplified_ademamix as simplified_ademamix
from gdjax.compat.optax.contrib.adaptive import sophia as sophia
from gdjax.compat.optax.contrib.matrices import GaLoreDimensionNumbers as GaLoreDimensionNumbers
from gdjax.compat.optax.contrib.matrices import GaLoreState as GaLoreState
from gdjax.compat.optax.contrib.matrices import MuonDimensionNumbers as MuonDimensionNumbers
from gdjax.compat.optax.contrib.matrices import MuonState as MuonState
from gdjax.compat.optax.contrib.matrices import galore as galore
from gdjax.compat.optax.contrib.matrices import muon as muon
from gdjax.compat.optax.contrib.matrices import scale_by_galore as scale_by_galore
from gdjax.compat.optax.contrib.matrices import scale_by_muon as scale_by_muon
from gdjax.compat.optax.contrib.parameter_free import COCOBState as COCOBState
from gdjax.compat.optax.contrib.parameter_free import DAdaptAdamWState as DAdaptAdamWState
from gdjax.compat.optax.contrib.parameter_free import DoGState as DoGState
from gdjax.compat.optax.contrib.parameter_free import DoWGState as DoWGState
from gdjax.compat.optax.contrib.parameter_free import MomoAdamState as MomoAdamState
from gdjax.compat.optax.contrib.parameter_free import MomoState as MomoState
from gdjax.compat.optax.contrib.parameter_free import ProdigyState as ProdigyState
from gdjax.compat.optax.contrib.parameter_free import cocob as cocob
from gdjax.compat.optax.contrib.parameter_free import dadapt_adamw as dadapt_adamw
from gdjax.compat.optax.contrib.parameter_free import dog as dog
from gdjax.compat.optax.contrib.parameter_free import dowg as dowg
from gdjax.compat.optax.contrib.parameter_free import momo as momo
from gdjax.compat.optax.contrib.parameter_free import momo_adam as momo_adam
from gdjax.compat.optax.contrib.parameter_free import prodigy as prodigy
from gdjax.compat.optax.contrib.parameter_free import scale_by_cocob as scale_by_cocob
from gdjax.compat.optax.contrib.transforms import (
    DifferentiallyPrivateAggregateState as DifferentiallyPrivateAggregateState,
)
from gdjax.compat.optax.contrib.transforms import ReduceLROnPlateauState as ReduceLROnPlateauState
from gdjax.compat.optax.contrib.transforms import (
    differentially_private_aggregate as differentially_private_aggregate,
)
from gdjax.compat.optax.contrib.transforms import dpsgd as dpsgd
from gdjax.compat.optax.contrib.transforms import reduce_on_plateau as reduce_on_plateau
from gdjax.compat.optax.contrib.wrappers import MechanicState as MechanicState
from gdjax.compat.optax.contrib.wrappers import NormalizeState as NormalizeState
from gdjax.compat.optax.contrib.wrappers import SAMState as SAMState
from gdjax.compat.optax.contrib.wrappers import ScheduleFreeState as ScheduleFreeState
from gdjax.compat.optax.contrib.wrappers import (
    SplitRealAndImaginaryState as SplitRealAndImaginaryState,
)
from gdjax.compat.optax.contrib.wrappers import mechanize as mechanize
from gdjax.compat.optax.contrib.wrappers import normalize as normalize
from gdjax.compat.optax.contrib.wrappers import sam as sam
from gdjax.compat.optax.contrib.wrappers import schedule_free as schedule_free
from gdjax.compat.optax.contrib.wrappers import schedule_free_adamw as schedule_free_adamw
from gdjax.compat.optax.contrib.wrappers import (
    schedule_free_eval_params as schedule_free_eval_params,
)
from gdjax.compat.optax.contrib.wrappers import schedule_free_sgd as schedule_free_sgd
from gdjax.compat.optax.contrib.wrappers import split_real_and_imaginary as split_real_and_imaginary
from gdjax.compat.optax.private import add_private_modules

add_private_modules(
    __name__,
    "_acprop _ademamix _adopt _cocob _complex_valued _dadapt_adamw _dog _galore _madgrad _mechanic"
    " _momo _muon _privacy _prodigy _reduce_on_plateau _sam _schedule_free _sophia",
)
