"""Influence functions of torch models: imports torch and nothing of the service."""

from workers.engine.admission import check_problem, check_rows_independent
from workers.engine.autodiff.derivative_check import VERIFIED, DerivativeCheck, check_derivatives
from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.select import derivatives_used
from workers.engine.curvature.hessian import Hessian
from workers.engine.curvature.kinds import Over, make_curvature
from workers.engine.errors import (
    BadParameter,
    ComplexParameter,
    Diverged,
    EngineError,
    GradientOfNoLoss,
    MixedPrecision,
    NoSuchParameter,
    NotFinite,
    NothingTrains,
    OutOfMemory,
    RowsMixed,
    ShapeMismatch,
    SingularHessian,
    TrainingDiverged,
    TrainingMode,
    UnsupportedOperator,
    WrongDerivative,
)
from workers.engine.inversion.arnoldi import Arnoldi
from workers.engine.inversion.cg import ConjugateGradients
from workers.engine.inversion.direct import Direct, Factorisation
from workers.engine.inversion.lissa import Lissa
from workers.engine.inversion.low_rank import LowRank
from workers.engine.inversion.method import METHODS, Method
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.solution import Solution, Status
from workers.engine.inversion.verdict import unsolved_statuses
from workers.engine.model.dtypes import is_mixed, mixed
from workers.engine.model.losses import Loss, make_loss
from workers.engine.model.losses.weighted import Unweighted, Weighted, weights_of
from workers.engine.model.measurement import SpannedRows, make_measurement, refuse_outside
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows, TensorRows
from workers.engine.model.second_order import is_out_of_memory
from workers.engine.operators import Curvature, Damped, Inverse, restored, stored
from workers.engine.progress import Progress
from workers.engine.projection.whitened import RandomEmbedding
from workers.engine.scores.by_parts import LayerGroups, position_shape, up_by_layer, up_by_token
from workers.engine.scores.contraction import row_gradients
from workers.engine.scores.embedding import (
    SAMPLED,
    Embedding,
    SpectralEmbedding,
    Strengths,
    compressed,
)
from workers.engine.scores.optimality import Optimality, optimality
from workers.engine.scores.perturbation import perturb_at, perturbation
from workers.engine.scores.precision import Agreement, Precision
from workers.engine.scores.predictions import Predictions, row_predictions
from workers.engine.scores.up import (
    low_precision_agreement,
    self_influence,
    self_influences_of_each,
    up,
)
from workers.engine.training.optimisers import Plan as TrainingPlan
from workers.engine.training.train import State as TrainingState
from workers.engine.training.train import Training

__all__ = [
    "METHODS",
    "SAMPLED",
    "VERIFIED",
    "Agreement",
    "Arnoldi",
    "BadParameter",
    "Batch",
    "ComplexParameter",
    "ConjugateGradients",
    "Curvature",
    "Damped",
    "DerivativeCheck",
    "Direct",
    "Diverged",
    "Embedding",
    "EngineError",
    "Factorisation",
    "GradientOfNoLoss",
    "Hessian",
    "Inverse",
    "LayerGroups",
    "Lissa",
    "Loss",
    "LowRank",
    "Method",
    "MixedPrecision",
    "NoSuchParameter",
    "NotFinite",
    "NothingTrains",
    "Optimality",
    "OutOfMemory",
    "Over",
    "ParameterSlice",
    "Precision",
    "Predictions",
    "Problem",
    "Progress",
    "RandomEmbedding",
    "Recycled",
    "Rows",
    "RowsMixed",
    "ShapeMismatch",
    "SingularHessian",
    "Solution",
    "SpannedRows",
    "SpectralEmbedding",
    "Status",
    "Strengths",
    "TensorRows",
    "Training",
    "TrainingDiverged",
    "TrainingMode",
    "TrainingPlan",
    "TrainingState",
    "UnsupportedOperator",
    "Unweighted",
    "Weighted",
    "WrongDerivative",
    "check_derivatives",
    "check_problem",
    "check_rows_independent",
    "compressed",
    "derivatives_used",
    "is_mixed",
    "is_out_of_memory",
    "low_precision_agreement",
    "make_curvature",
    "make_loss",
    "make_measurement",
    "mixed",
    "optimality",
    "per_example_gradients",
    "perturb_at",
    "perturbation",
    "position_shape",
    "refuse_outside",
    "restored",
    "row_gradients",
    "row_predictions",
    "self_influence",
    "self_influences_of_each",
    "stored",
    "unsolved_statuses",
    "up",
    "up_by_layer",
    "up_by_token",
    "weights_of",
]
