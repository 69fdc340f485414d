"""Influence functions of torch models: imports torch and nothing of the service."""

from workers.engine.admission import check_problem, check_rows_independent
from workers.engine.derivative_check import VERIFIED, DerivativeCheck, check_derivatives
from workers.engine.dtypes import is_mixed, mixed
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
    TrainingMode,
    UnsupportedOperator,
    WrongDerivative,
)
from workers.engine.gradients import per_example_gradients
from workers.engine.hessian import Hessian
from workers.engine.influence import (
    low_precision_agreement,
    perturb_at,
    perturbation,
    row_gradients,
    self_influence,
    up,
)
from workers.engine.inversion.arnoldi import Arnoldi, LowRank
from workers.engine.inversion.cg import ConjugateGradients
from workers.engine.inversion.direct import Direct, Factorisation
from workers.engine.inversion.lissa import Lissa
from workers.engine.inversion.recycled import Recycled
from workers.engine.inversion.solution import Inverse, Operator, Solution, Status
from workers.engine.losses import Loss, make_loss
from workers.engine.optimality import Optimality, optimality
from workers.engine.parameters import ParameterSlice
from workers.engine.precision import Agreement, Precision
from workers.engine.predictions import Predictions, row_predictions
from workers.engine.problem import Problem
from workers.engine.progress import Progress
from workers.engine.rows import Batch, Rows, TensorRows
from workers.engine.second_order import is_out_of_memory

__all__ = [
    "VERIFIED",
    "Agreement",
    "Arnoldi",
    "BadParameter",
    "Batch",
    "ComplexParameter",
    "ConjugateGradients",
    "DerivativeCheck",
    "Direct",
    "Diverged",
    "EngineError",
    "Factorisation",
    "GradientOfNoLoss",
    "Hessian",
    "Inverse",
    "Lissa",
    "Loss",
    "LowRank",
    "MixedPrecision",
    "NoSuchParameter",
    "NotFinite",
    "NothingTrains",
    "Operator",
    "Optimality",
    "OutOfMemory",
    "ParameterSlice",
    "Precision",
    "Predictions",
    "Problem",
    "Progress",
    "Recycled",
    "Rows",
    "RowsMixed",
    "ShapeMismatch",
    "SingularHessian",
    "Solution",
    "Status",
    "TensorRows",
    "TrainingMode",
    "UnsupportedOperator",
    "WrongDerivative",
    "check_derivatives",
    "check_problem",
    "check_rows_independent",
    "is_mixed",
    "is_out_of_memory",
    "low_precision_agreement",
    "make_loss",
    "mixed",
    "optimality",
    "per_example_gradients",
    "perturb_at",
    "perturbation",
    "row_gradients",
    "row_predictions",
    "self_influence",
    "up",
]
