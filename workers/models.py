"""From a model's record to the engine's problem: the program is read strictly, the loss is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from service.settings import Settings
from service.storage.objects import Objects
from upweight.errors import NotAvailableYet, Rejected
from upweight.schema import FactoryProgram, Loss, ModelRecord, Pt2Program
from workers.datasets.shards import fetched
from workers.engine import EngineError, Problem, make_loss
from workers.engine import Loss as EngineLoss
from workers.programs.errors import ProgramError
from workers.programs.factory import read_factory
from workers.programs.placement import place
from workers.programs.program import Program
from workers.programs.pt2 import Pt2Policy, read_pt2


def load_problem(
    model: ModelRecord,
    objects: Objects,
    namespace: str,
    scratch: Path,
    settings: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Problem:
    """The problem on the device. Raises Rejected when the program can't be read, NotAvailableYet."""
    program = model.program
    if not isinstance(program, Pt2Program | FactoryProgram):
        raise NotAvailableYet(
            f"programs of format {program.format!r} are not available yet; use pt2 or factory"
        )
    blob = program.blob if isinstance(program, Pt2Program) else program.weights
    try:
        with fetched(objects, namespace, blob, scratch) as path:
            read = _read(program, path, settings)
            module = place(read.module, device)
            return Problem(
                module, engine_loss(model.loss), model.parameters, dtype=dtype, device=device
            )
    except (ProgramError, EngineError) as error:
        raise Rejected(f"the model can't be loaded: {error}") from error
    except FileNotFoundError:
        raise Rejected(
            "the model's blob has gone from the object storage; register the model again"
        ) from None


def _read(program: Pt2Program | FactoryProgram, path: Path, settings: Settings) -> Program:
    if isinstance(program, Pt2Program):
        return read_pt2(path, policy=Pt2Policy(settings.pt2_policy))
    return read_factory(program.factory, program.kwargs, path, allowed=settings.factories)


def engine_loss(loss: Loss) -> EngineLoss:
    """The engine's loss for the contract's."""
    return make_loss(loss.name, **loss_parameters(loss))


def loss_parameters(loss: Loss) -> dict[str, Any]:
    """The contract's parameters under the engine's names."""
    renamed = {"class_weights": "weight", "positions": "reduction"}
    given = loss.model_dump(exclude={"name"}, exclude_none=True)
    return {renamed.get(name, name): value for name, value in given.items()}


def described_layout(problem: Problem) -> list[dict[str, Any]]:
    """The selected parameters as records and `parameters.json` have them."""
    return [
        {"name": each.name, "shape": list(each.shape), "offset": each.offset}
        for each in problem.layout
    ]
