"""Losses: pure functions of predictions and targets.

Common properties:

- They return one value per example or element, and the caller takes the mean over the batch. The
  exceptions are `mean_squared_error`, `ntxent`, `ranking_softmax_loss` and
  `multiclass_generalized_dice_loss`.
- For float16 and bfloat16 inputs they compute and return float32, so that a mean over the batch is
  accurate (optax returns the inputs' dtype); float64 inputs stay float64. Gradients have the
  inputs' dtypes. Numbers such as `delta` never change the dtype of the result.
- Values and gradients are finite for any finite input, unless they are too large for the dtype. At
  infinite predictions they are the limits: a binary cross entropy at logit inf and label 1 is 0
  with gradient 0. Where there is no limit, as for two infinite logits, and where an input is NaN,
  the loss is NaN. A zero weight or label excludes an infinite term: 0 * inf is 0.
- A loss that is >= 0 by definition is never negative by rounding. `kl_divergence` is negative only
  where the predictions sum to more than the targets.
- Elements that `where` excludes do not affect values and gradients, even if they are NaN.
- Shapes of equal rank broadcast; where the ranks differ, one shape must broadcast to the other.
- A wrong dtype raises TypeError, a wrong shape or number ValueError; the error names the argument.
"""

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
