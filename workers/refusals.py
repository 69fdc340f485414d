"""The engine's and the reader's refusals in the words of the contract."""

from __future__ import annotations

from collections.abc import Mapping

from service.logs import log_exception
from upweight.errors import ComputationFailed, InternalError, Rejected, UpweightError
from upweight.schema.inversion import methods_in_words
from workers import engine
from workers.engine import EngineError
from workers.programs.errors import ProgramError

NO_MEMORY = (
    "the worker's memory did not suffice; use fewer rows at a time (a smaller batch_size), fewer test rows, "
    f"or {methods_in_words(building_h=False)} instead of {methods_in_words(building_h=True)}"
)


def refusal(error: EngineError, pointer: str) -> UpweightError:
    """A model that can't be used, with the field to blame."""
    value = (
        getattr(error, "value", None)
        or getattr(error, "glob", None)
        or getattr(error, "operator", None)
    )
    return Rejected.field(pointer, str(error), value)


def failure(error: EngineError) -> UpweightError:
    """A computation that can't be done, with the field that would mend it where there is one."""
    match error:
        case engine.SingularHessian():
            enough = _as_told(error.suggested_damping)
            return ComputationFailed.field(
                "/hessian_regularization", str(error), error.damping, enough
            )
        case engine.Diverged():
            scale = _as_told(error.suggested_scale)
            return ComputationFailed.field("/inversion/scale", str(error), error.scale, scale)
        case engine.TrainingDiverged():
            return ComputationFailed.field("/recipe/lr", str(error), error.rate)
        case engine.OutOfMemory():
            return ComputationFailed.field("/batch_size", str(error), None)
        case engine.MixedPrecision():
            return ComputationFailed.field("/precision", str(error), None)
        case engine.BadParameter():
            return ComputationFailed.field(_parameter_pointer(error.field), str(error), error.value)
        case engine.RowsMixed():
            return ComputationFailed.field("/model", str(error), None)
        case engine.NotFinite(row=int(row)):
            return ComputationFailed(f"{error} (row {row} of the rows the job selects)")
        case _:
            return ComputationFailed(str(error))


def _as_told(number: float | None) -> float | None:
    """The number that the words say."""
    return None if number is None else float(f"{number:.4g}")


def _parameter_pointer(field: str) -> str:
    top = ("hessian_regularization", "batch_size", "perturb_at", "perturb_input")
    first = field.partition(",")[0]
    if first.startswith("curvature."):
        return f"/{first.replace('.', '/')}"
    return f"/{first}" if first in top else f"/inversion/{first}"


def program_refusal(problem: Mapping[str, str]) -> UpweightError:
    """The strict reader's answer (code, field, message) as ours."""
    if problem["code"] in ("program-check-crashed",):
        return InternalError(problem["message"])
    return Rejected.field(problem["field"], problem["message"], None)


def public_error(error: Exception, id: str) -> UpweightError:
    """Any failure in the words of the contract; what we have no words for is logged, not shown."""
    match error:
        case UpweightError():
            return error
        case EngineError():
            return failure(error)
        case ProgramError():
            return program_refusal(error.as_dict())
        case FileNotFoundError():
            return Rejected("a blob it needs has gone from the object storage; upload it again")
        case _ if engine.is_out_of_memory(error):
            return ComputationFailed.field("/batch_size", NO_MEMORY, None)
        case _ if engine.is_mixed(error):
            return failure(engine.mixed(error))
        case _:
            log_exception("unexpected-failure", record=id)
            return InternalError(
                f"the worker failed on {id} in a way we did not foresee; its log has the details"
            )
