"""Optimizers for JAX in which every number is a leaf of the state.

An optimizer is a pair of pure functions, `init` and `update`; see `gdjax.Optimizer`.
"""

# The contract
from gdjax.core.base import Optimizer as Optimizer
from gdjax.core.base import State as State
from gdjax.core.chain import apply_updates as apply_updates
from gdjax.core.chain import chain as chain
from gdjax.core.chain import identity as identity
from gdjax.core.chain import named_chain as named_chain
from gdjax.core.chain import with_extra_args_support as with_extra_args_support
from gdjax.core.checks import Range as Range
from gdjax.core.checks import checked as checked
from gdjax.core.codecs import decoded as decoded
from gdjax.core.dealing import dealt_like as dealt_like
from gdjax.core.dealing import undealt as undealt
from gdjax.core.evaluation import eval_params as eval_params
from gdjax.core.hyper import Schedule as Schedule
from gdjax.core.hyper import by_path as by_path
from gdjax.core.hyper import schedule as schedule
from gdjax.core.lift import descend as descend
from gdjax.core.lift import leafwise as leafwise
from gdjax.core.lift import treewise as treewise
from gdjax.core.numerics import safe_increment as safe_increment
from gdjax.core.reading import hyperparams as hyperparams
from gdjax.core.reading import hyperparams_in_use as hyperparams_in_use
from gdjax.core.reading import with_hyperparams as with_hyperparams
from gdjax.core.reading import with_hyperparams_of as with_hyperparams_of
from gdjax.core.shardings import state_shardings as state_shardings
from gdjax.core.times import times as times

# Linear algebra
from gdjax.linalg.inverse_root import matrix_inverse_pth_root as matrix_inverse_pth_root
from gdjax.linalg.nnls import nnls as nnls
from gdjax.linalg.polar import polar as polar
from gdjax.linalg.norms import safe_norm as safe_norm
from gdjax.linalg.norms import safe_root_mean_squares as safe_root_mean_squares
from gdjax.linalg.power_iteration import power_iteration as power_iteration

# Losses
from gdjax.losses.chunked import chunked_softmax_cross_entropy as chunked_softmax_cross_entropy
from gdjax.losses.cross_entropy import poly_loss_cross_entropy as poly_loss_cross_entropy
from gdjax.losses.cross_entropy import safe_softmax_cross_entropy as safe_softmax_cross_entropy
from gdjax.losses.cross_entropy import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from gdjax.losses.cross_entropy import sigmoid_focal_loss as sigmoid_focal_loss
from gdjax.losses.cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from gdjax.losses.cross_entropy import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from gdjax.losses.ctc import ctc_loss as ctc_loss
from gdjax.losses.ctc import ctc_loss_with_forward_probs as ctc_loss_with_forward_probs
from gdjax.losses.divergence import generalized_kl_divergence as generalized_kl_divergence
from gdjax.losses.divergence import js_divergence as js_divergence
from gdjax.losses.divergence import kl_divergence as kl_divergence
from gdjax.losses.divergence import kl_divergence_with_log_targets as kl_divergence_with_log_targets
from gdjax.losses.embedding import ntxent as ntxent
from gdjax.losses.embedding import triplet_margin_loss as triplet_margin_loss
from gdjax.losses.fenchel_young import make_fenchel_young_loss as make_fenchel_young_loss
from gdjax.losses.margin import hinge_loss as hinge_loss
from gdjax.losses.margin import multiclass_hinge_loss as multiclass_hinge_loss
from gdjax.losses.margin import multiclass_perceptron_loss as multiclass_perceptron_loss
from gdjax.losses.margin import multiclass_sparsemax_loss as multiclass_sparsemax_loss
from gdjax.losses.margin import perceptron_loss as perceptron_loss
from gdjax.losses.margin import sparsemax_loss as sparsemax_loss
from gdjax.losses.ranking import ranking_softmax_loss as ranking_softmax_loss
from gdjax.losses.regression import cosine_distance as cosine_distance
from gdjax.losses.regression import cosine_similarity as cosine_similarity
from gdjax.losses.regression import huber_loss as huber_loss
from gdjax.losses.regression import l2_loss as l2_loss
from gdjax.losses.regression import log_cosh as log_cosh
from gdjax.losses.regression import mean_squared_error as mean_squared_error
from gdjax.losses.regression import squared_error as squared_error
from gdjax.losses.segmentation import binary_dice_loss as binary_dice_loss
from gdjax.losses.segmentation import dice_loss as dice_loss
from gdjax.losses.segmentation import (
    multiclass_generalized_dice_loss as multiclass_generalized_dice_loss,
)
from gdjax.losses.smoothing import smooth_labels as smooth_labels

# Optimizers
from gdjax.optimizers.acprop import acprop as acprop
from gdjax.optimizers.acprop import scale_by_acprop as scale_by_acprop
from gdjax.optimizers.adabelief import adabelief as adabelief
from gdjax.optimizers.adabelief import scale_by_belief as scale_by_belief
from gdjax.optimizers.adadelta import adadelta as adadelta
from gdjax.optimizers.adadelta import scale_by_adadelta as scale_by_adadelta
from gdjax.optimizers.adafactor import adafactor as adafactor
from gdjax.optimizers.adafactor import scale_by_factored_rms as scale_by_factored_rms
from gdjax.optimizers.adagrad import adagrad as adagrad
from gdjax.optimizers.adagrad import scale_by_rss as scale_by_rss
from gdjax.optimizers.adahessian import adahessian as adahessian
from gdjax.optimizers.adam import adam as adam
from gdjax.optimizers.adam import adamw as adamw
from gdjax.optimizers.adam import scale_by_adam as scale_by_adam
from gdjax.optimizers.adam_mini import adam_mini as adam_mini
from gdjax.optimizers.adamax import adamax as adamax
from gdjax.optimizers.adamax import adamaxw as adamaxw
from gdjax.optimizers.adamax import scale_by_adamax as scale_by_adamax
from gdjax.optimizers.adan import adan as adan
from gdjax.optimizers.adan import scale_by_adan as scale_by_adan
from gdjax.optimizers.ademamix import ademamix as ademamix
from gdjax.optimizers.ademamix import ademamix_schedules as ademamix_schedules
from gdjax.optimizers.ademamix import scale_by_ademamix as scale_by_ademamix
from gdjax.optimizers.ademamix import scale_by_simplified_ademamix as scale_by_simplified_ademamix
from gdjax.optimizers.ademamix import simplified_ademamix as simplified_ademamix
from gdjax.optimizers.adopt import adopt as adopt
from gdjax.optimizers.adopt import scale_by_adopt as scale_by_adopt
from gdjax.optimizers.amsgrad import amsgrad as amsgrad
from gdjax.optimizers.amsgrad import scale_by_amsgrad as scale_by_amsgrad
from gdjax.optimizers.apollo import apollo as apollo
from gdjax.optimizers.apollo import apollo_mini as apollo_mini
from gdjax.optimizers.came import came as came
from gdjax.optimizers.cocob import cocob as cocob
from gdjax.optimizers.cocob import scale_by_cocob as scale_by_cocob
from gdjax.transforms.curvature import (
    gauss_newton_bartlett_diag_hessian as gauss_newton_bartlett_diag_hessian,
)
from gdjax.transforms.curvature import (
    hutchinson_estimator_diag_hessian as hutchinson_estimator_diag_hessian,
)
from gdjax.optimizers.dadapt import dadapt_adamw as dadapt_adamw
from gdjax.optimizers.default import default_optimizer as default_optimizer
from gdjax.optimizers.dion import dion as dion
from gdjax.optimizers.dion2 import dion2 as dion2
from gdjax.optimizers.dog import dog as dog
from gdjax.optimizers.dog import dowg as dowg
from gdjax.optimizers.dog import l_dog as l_dog
from gdjax.optimizers.dog import (
    scale_by_distance_over_gradients as scale_by_distance_over_gradients,
)
from gdjax.optimizers.dog import scale_by_dog as scale_by_dog
from gdjax.optimizers.dog import scale_by_dowg as scale_by_dowg
from gdjax.optimizers.dog import scale_by_l_dog as scale_by_l_dog
from gdjax.optimizers.fromage import fromage as fromage
from gdjax.optimizers.galore import GaLoreDimensionNumbers as GaLoreDimensionNumbers
from gdjax.optimizers.galore import galore as galore
from gdjax.optimizers.galore import scale_by_galore as scale_by_galore
from gdjax.optimizers.kl_shampoo import kl_shampoo as kl_shampoo
from gdjax.optimizers.kl_shampoo import kl_soap as kl_soap
from gdjax.optimizers.laprop import laprop as laprop
from gdjax.optimizers.lion import lion as lion
from gdjax.optimizers.lion import scale_by_lion as scale_by_lion
from gdjax.optimizers.madgrad import madgrad as madgrad
from gdjax.optimizers.madgrad import scale_by_madgrad as scale_by_madgrad
from gdjax.optimizers.momo import momo as momo
from gdjax.optimizers.momo import momo_adam as momo_adam
from gdjax.optimizers.muon import MuonDimensionNumbers as MuonDimensionNumbers
from gdjax.optimizers.muon import muon as muon
from gdjax.optimizers.muon import scale_by_muon as scale_by_muon
from gdjax.optimizers.muown import muown as muown
from gdjax.optimizers.nadam import nadam as nadam
from gdjax.optimizers.nadam import nadamw as nadamw
from gdjax.optimizers.nadam import scale_by_nadam as scale_by_nadam
from gdjax.optimizers.natural_gradient import min_sr as min_sr
from gdjax.optimizers.natural_gradient import natural_gradient as natural_gradient
from gdjax.optimizers.natural_gradient import spring as spring
from gdjax.optimizers.noisy_sgd import noisy_sgd as noisy_sgd
from gdjax.optimizers.normuon import adamuon as adamuon
from gdjax.optimizers.normuon import normuon as normuon
from gdjax.optimizers.novograd import novograd as novograd
from gdjax.optimizers.novograd import scale_by_novograd as scale_by_novograd
from gdjax.optimizers.optimistic import optimistic_adam as optimistic_adam
from gdjax.optimizers.optimistic import optimistic_adam_v2 as optimistic_adam_v2
from gdjax.optimizers.optimistic import optimistic_gradient_descent as optimistic_gradient_descent
from gdjax.optimizers.optimistic import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from gdjax.optimizers.polyak_sgd import polyak_sgd as polyak_sgd
from gdjax.optimizers.polyak_sgd import scale_by_polyak as scale_by_polyak
from gdjax.optimizers.presets import preset as preset
from gdjax.optimizers.prodigy import prodigy as prodigy
from gdjax.optimizers.psgd_kron import psgd_kron as psgd_kron
from gdjax.optimizers.psgd_kron import scale_by_psgd_kron as scale_by_psgd_kron
from gdjax.optimizers.qhadam import qhadam as qhadam
from gdjax.optimizers.radam import radam as radam
from gdjax.optimizers.radam import scale_by_radam as scale_by_radam
from gdjax.optimizers.rmsprop import rmsprop as rmsprop
from gdjax.optimizers.rmsprop import scale_by_rms as scale_by_rms
from gdjax.optimizers.rmsprop import scale_by_stddev as scale_by_stddev
from gdjax.optimizers.rprop import rprop as rprop
from gdjax.optimizers.rprop import scale_by_rprop as scale_by_rprop
from gdjax.optimizers.schedule_free import schedule_free_adamw as schedule_free_adamw
from gdjax.optimizers.schedule_free import schedule_free_radam as schedule_free_radam
from gdjax.optimizers.schedule_free import schedule_free_sgd as schedule_free_sgd
from gdjax.optimizers.schedule_free_plus import schedule_free_plus as schedule_free_plus
from gdjax.optimizers.scion import scion as scion
from gdjax.optimizers.sgd import gradient_descent as gradient_descent
from gdjax.optimizers.sgd import sgd as sgd
from gdjax.optimizers.shampoo import scale_by_shampoo as scale_by_shampoo
from gdjax.optimizers.shampoo import shampoo as shampoo
from gdjax.optimizers.sign import scale_by_sign as scale_by_sign
from gdjax.optimizers.sign import sign_sgd as sign_sgd
from gdjax.optimizers.sign import signum as signum
from gdjax.optimizers.sm3 import scale_by_sm3 as scale_by_sm3
from gdjax.optimizers.sm3 import sm3 as sm3
from gdjax.optimizers.soap import scale_by_soap as scale_by_soap
from gdjax.optimizers.soap import soap as soap
from gdjax.optimizers.soap_muon import soap_muon as soap_muon
from gdjax.optimizers.sophia import scale_by_sophia as scale_by_sophia
from gdjax.optimizers.sophia import sophia as sophia
from gdjax.optimizers.stable_adamw import stable_adamw as stable_adamw
from gdjax.optimizers.trust_ratio import lamb as lamb
from gdjax.optimizers.trust_ratio import lars as lars
from gdjax.optimizers.trust_ratio import scale_by_trust_ratio as scale_by_trust_ratio
from gdjax.optimizers.yogi import scale_by_yogi as scale_by_yogi
from gdjax.optimizers.yogi import yogi as yogi

# Schedules
from gdjax.schedules.cycles import cyclic_schedule as cyclic_schedule
from gdjax.schedules.cycles import sgdr_schedule as sgdr_schedule
from gdjax.schedules.decay import cosine_decay_schedule as cosine_decay_schedule
from gdjax.schedules.decay import exponential_decay as exponential_decay
from gdjax.schedules.epochs import in_epochs as in_epochs
from gdjax.schedules.epochs import with_steps_per_epoch as with_steps_per_epoch
from gdjax.schedules.join import join_schedules as join_schedules
from gdjax.schedules.longrun import inverse_sqrt_schedule as inverse_sqrt_schedule
from gdjax.schedules.longrun import wsd_schedule as wsd_schedule
from gdjax.schedules.onecycle import cosine_onecycle_schedule as cosine_onecycle_schedule
from gdjax.schedules.onecycle import linear_onecycle_schedule as linear_onecycle_schedule
from gdjax.schedules.piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from gdjax.schedules.piecewise import (
    piecewise_interpolate_schedule as piecewise_interpolate_schedule,
)
from gdjax.schedules.tokens import half_life as half_life
from gdjax.schedules.tokens import in_tokens as in_tokens
from gdjax.schedules.tokens import scaled_by_batch_size as scaled_by_batch_size
from gdjax.schedules.transition import constant_schedule as constant_schedule
from gdjax.schedules.transition import linear_schedule as linear_schedule
from gdjax.schedules.transition import one_minus_sqrt_schedule as one_minus_sqrt_schedule
from gdjax.schedules.transition import polynomial_schedule as polynomial_schedule
from gdjax.schedules.transition import rex_schedule as rex_schedule
from gdjax.schedules.update_probability import (
    precond_update_prob_schedule as precond_update_prob_schedule,
)
from gdjax.schedules.warmup import warmup_constant_schedule as warmup_constant_schedule
from gdjax.schedules.warmup_decay import (
    warmup_cosine_decay_schedule as warmup_cosine_decay_schedule,
)
from gdjax.schedules.warmup_decay import (
    warmup_exponential_decay_schedule as warmup_exponential_decay_schedule,
)
from gdjax.schedules.warmup_decay import (
    warmup_linear_decay_schedule as warmup_linear_decay_schedule,
)
from gdjax.schedules.warmup_decay import (
    warmup_polynomial_decay_schedule as warmup_polynomial_decay_schedule,
)

# Transforms
from gdjax.transforms.adaptive_clip import adaptive_grad_clip as adaptive_grad_clip
from gdjax.transforms.adaptive_clip import unitwise_clip as unitwise_clip
from gdjax.transforms.adaptive_clip import unitwise_norm as unitwise_norm
from gdjax.transforms.adversary import sam_adversary as sam_adversary
from gdjax.transforms.apply_every import apply_every as apply_every
from gdjax.transforms.centralize import centralize as centralize
from gdjax.transforms.clip import clip as clip
from gdjax.transforms.clip import clip_by_block_rms as clip_by_block_rms
from gdjax.transforms.clip import clip_by_global_norm as clip_by_global_norm
from gdjax.transforms.per_example import (
    per_example_global_norm_clip as per_example_global_norm_clip,
)
from gdjax.transforms.per_example import per_example_layer_norm_clip as per_example_layer_norm_clip
from gdjax.wrappers.conditional import conditionally_mask as conditionally_mask
from gdjax.wrappers.conditional import conditionally_transform as conditionally_transform
from gdjax.transforms.constrain import keep_params_nonnegative as keep_params_nonnegative
from gdjax.transforms.constrain import zero_nans as zero_nans
from gdjax.transforms.decay import add_decayed_weights as add_decayed_weights
from gdjax.transforms.decay import mask_by_ndim as mask_by_ndim
from gdjax.transforms.ema import ema as ema
from gdjax.wrappers.flatten import flatten as flatten
from gdjax.transforms.measure import measure_with_ema as measure_with_ema
from gdjax.transforms.measure import snapshot as snapshot
from gdjax.transforms.noise import add_noise as add_noise
from gdjax.transforms.normalize import normalize_by_update_norm as normalize_by_update_norm
from gdjax.transforms.param_block import scale_by_param_block_norm as scale_by_param_block_norm
from gdjax.transforms.param_block import scale_by_param_block_rms as scale_by_param_block_rms
from gdjax.transforms.plateau import reduce_on_plateau as reduce_on_plateau
from gdjax.transforms.privacy import (
    differentially_private_aggregate as differentially_private_aggregate,
)
from gdjax.optimizers.dpsgd import dpsgd as dpsgd
from gdjax.transforms.radius import pin_radius as pin_radius
from gdjax.transforms.radius import radial_brake as radial_brake
from gdjax.transforms.radius import update_floor as update_floor
from gdjax.transforms.scale import scale as scale
from gdjax.transforms.scale import scale_by_learning_rate as scale_by_learning_rate
from gdjax.transforms.scale import scale_by_schedule as scale_by_schedule
from gdjax.transforms.scale import scale_gradient as scale_gradient
from gdjax.transforms.stateless import EmptyState as EmptyState
from gdjax.transforms.stateless import init_empty_state as init_empty_state
from gdjax.transforms.stateless import set_to_zero as set_to_zero
from gdjax.transforms.stateless import stateless as stateless
from gdjax.transforms.stateless import stateless_with_tree_map as stateless_with_tree_map
from gdjax.optimizers.sgd import trace as trace

# Solvers: line searches, quasi-Newton methods, and the loop that runs any optimizer to convergence
from gdjax.solvers.backtracking import (
    scale_by_backtracking_linesearch as scale_by_backtracking_linesearch,
)
from gdjax.solvers.barzilai_borwein import barzilai_borwein as barzilai_borwein
from gdjax.solvers.bfgs import bfgs as bfgs
from gdjax.solvers.bfgs import scale_by_bfgs as scale_by_bfgs
from gdjax.solvers.bfgs import scale_by_ssbfgs as scale_by_ssbfgs
from gdjax.solvers.bfgs import scale_by_ssbroyden as scale_by_ssbroyden
from gdjax.solvers.bfgs import ssbfgs as ssbfgs
from gdjax.solvers.bfgs import ssbroyden as ssbroyden
from gdjax.solvers.hager_zhang import (
    scale_by_hager_zhang_linesearch as scale_by_hager_zhang_linesearch,
)
from gdjax.solvers.lbfgs import lbfgs as lbfgs
from gdjax.solvers.lbfgs import scale_by_lbfgs as scale_by_lbfgs
from gdjax.solvers.line_search import value_and_grad_from_state as value_and_grad_from_state
from gdjax.solvers.minimize import minimize as minimize
from gdjax.solvers.nonlinear_cg import nonlinear_cg as nonlinear_cg
from gdjax.solvers.nonlinear_cg import scale_by_nonlinear_cg as scale_by_nonlinear_cg
from gdjax.solvers.quadratic_program import quadratic_program as quadratic_program
from gdjax.solvers.result import MinimizeError as MinimizeError
from gdjax.solvers.result import Result as Result
from gdjax.solvers.result import Status as Status
from gdjax.solvers.uncertainty import LeastSquaresResult as LeastSquaresResult
from gdjax.solvers.steepest_descent import steepest_descent as steepest_descent
from gdjax.solvers.line_search import scale_by_zoom_linesearch as scale_by_zoom_linesearch

# Batches in parts
from gdjax.microbatching.loop import microbatch as microbatch

# Distributions
from gdjax.distributions import multi_normal as multi_normal

# Slow copies of parameters
from gdjax.targets import incremental_update as incremental_update
from gdjax.targets import periodic_update as periodic_update

# Whole runs
from gdjax.training.coordinate_check import CoordinateCheck as CoordinateCheck
from gdjax.training.coordinate_check import coordinate_check as coordinate_check
from gdjax.training.fit import FitResult as FitResult
from gdjax.training.fit import NonfiniteError as NonfiniteError
from gdjax.training.reports import Report as Report
from gdjax.training.fit import fit as fit
from gdjax.training.hypergradient import hypergradient as hypergradient
from gdjax.training.hypergradient import unroll as unroll
from gdjax.training.lr_find import RangeTest as RangeTest
from gdjax.training.lr_find import lr_find as lr_find
from gdjax.training.pbt import population_based_training as population_based_training
from gdjax.training.racing import hyperband as hyperband
from gdjax.training.racing import median_stop as median_stop
from gdjax.training.racing import successive_halving as successive_halving
from gdjax.training.result import SweepResult as SweepResult
from gdjax.training.search import search as search
from gdjax.training.search_result import BestTrial as BestTrial
from gdjax.training.search_result import SearchResult as SearchResult
from gdjax.training.search_result import SearchTrial as SearchTrial
from gdjax.training.trials import choice as choice
from gdjax.training.trials import grid as grid
from gdjax.training.trials import log_uniform as log_uniform
from gdjax.training.trials import sample as sample
from gdjax.training.trials import uniform as uniform
from gdjax.training.streams import Batches as Batches
from gdjax.training.streams import batches as batches
from gdjax.training.summary import ParamSummary as ParamSummary
from gdjax.training.summary import Summary as Summary
from gdjax.training.summary import summary as summary
from gdjax.training.sweep import sweep as sweep
from gdjax.training.width_scaling import WidthScaling as WidthScaling
from gdjax.training.width_scaling import width_scaling as width_scaling

# Packages and modules with names of their own
from gdjax import assignment as assignment
from gdjax import callbacks as callbacks
from gdjax import compat as compat
from gdjax import losses as losses
from gdjax import microbatching as microbatching
from gdjax import models as models
from gdjax import perturbations as perturbations
from gdjax import projections as projections
from gdjax import proximal as proximal
from gdjax import schedules as schedules
from gdjax import second_order as second_order
from gdjax import transforms as transforms
from gdjax import tree as tree
from gdjax import optimizers as optimizers
from gdjax import solvers as solvers
from gdjax import training as training
from gdjax import wrappers as wrappers

# Solvers: run to convergence
from gdjax.solvers.find_root import find_root as find_root
from gdjax.solvers.fixed_point import anderson as anderson
from gdjax.solvers.fixed_point import fixed_point as fixed_point
from gdjax.solvers.gauss_newton import gauss_newton as gauss_newton
from gdjax.solvers.lbfgsb import lbfgsb as lbfgsb
from gdjax.solvers.bounded_levenberg_marquardt import (
    bounded_levenberg_marquardt as bounded_levenberg_marquardt,
)
from gdjax.solvers.least_squares import least_squares as least_squares
from gdjax.solvers.least_squares import root as root
from gdjax.solvers.levenberg_marquardt import levenberg_marquardt as levenberg_marquardt
from gdjax.solvers.mirror_descent import mirror_descent as mirror_descent
from gdjax.solvers.newton_cg import newton_cg as newton_cg
from gdjax.solvers.projected import projected as projected
from gdjax.solvers.proximal_gradient import fista as fista
from gdjax.solvers.proximal_gradient import projected_gradient as projected_gradient
from gdjax.solvers.proximal_gradient import proximal_gradient as proximal_gradient

# Wrappers
from gdjax.wrappers.accumulate import accumulate as accumulate
from gdjax.wrappers.average import average as average
from gdjax.wrappers.average import polynomial_average as polynomial_average
from gdjax.wrappers.average import tail_average as tail_average
from gdjax.wrappers.ema_nesterov import ema_nesterov as ema_nesterov
from gdjax.wrappers.hyperball import hyperball as hyperball
from gdjax.wrappers.hyperball import hyperball_transfer as hyperball_transfer
from gdjax.wrappers.finite import apply_if_finite as apply_if_finite
from gdjax.wrappers.guard import guard as guard
from gdjax.wrappers.guard import skip_large_updates as skip_large_updates
from gdjax.wrappers.guard import skip_not_finite as skip_not_finite
from gdjax.wrappers.guard import skipped_steps as skipped_steps
from gdjax.wrappers.groups import groups as groups
from gdjax.wrappers.groups import partition as partition
from gdjax.wrappers.in_shard_map import in_shard_map as in_shard_map
from gdjax.wrappers.lookahead import lookahead as lookahead
from gdjax.wrappers.loss_scale import loss_scale as loss_scale
from gdjax.wrappers.loss_scale import with_loss_scale as with_loss_scale
from gdjax.wrappers.low_precision import master_params as master_params
from gdjax.wrappers.low_precision import with_kahan as with_kahan
from gdjax.wrappers.low_precision import with_master_weights as with_master_weights
from gdjax.wrappers.low_precision import with_stochastic_rounding as with_stochastic_rounding
from gdjax.wrappers.masked import freeze as freeze
from gdjax.wrappers.masked import masked as masked
from gdjax.wrappers.masked import selective_transform as selective_transform
from gdjax.wrappers.mechanize import mechanize as mechanize
from gdjax.wrappers.monitor import metrics as metrics
from gdjax.wrappers.monitor import monitor as monitor
from gdjax.wrappers.offload import offload_to_host as offload_to_host
from gdjax.wrappers.prox import with_prox as with_prox
from gdjax.wrappers.qk_clip import qk_clip as qk_clip
from gdjax.transforms.normalize import normalize as normalize
from gdjax.wrappers.sam import sam as sam
from gdjax.wrappers.schedule_free import gpa as gpa
from gdjax.wrappers.schedule_free import schedule_free as schedule_free
from gdjax.wrappers.schedule_free import schedule_free_eval_params as schedule_free_eval_params
from gdjax.wrappers.self_tuning import self_tuning as self_tuning
from gdjax.wrappers.spikes import skip_spikes as skip_spikes
from gdjax.wrappers.complex_parts import split_real_and_imaginary as split_real_and_imaginary
from gdjax.wrappers.cautious import cautious as cautious
from gdjax.wrappers.mars import mars as mars
from gdjax.wrappers.slot_dtypes import with_slot_dtypes as with_slot_dtypes
from gdjax.wrappers.weight_decay import with_weight_decay as with_weight_decay

__version__: str
