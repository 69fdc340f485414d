"""From a model's record to the engine's problem: the program is read strictly, the loss is ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from service.settings import Settings
from service.storage.objects import Objects
from upweight.errors import Rejected
from upweight.export.outputs import Output
from upweight.schema import FactoryProgram, HuggingFaceProgram, Loss, ModelRecord, Pt2Program
from upweight.schema import Program as ContractProgram
from workers.datasets.shards import fetched
from workers.engine import EngineError, NoSuchParameter, Problem, Weighted, make_loss
from workers.engine import Loss as EngineLoss
from workers.engine.progress import Progress, silent
from workers.programs.errors import ProgramError
from workers.programs.factory import read_factory
from workers.programs.huggingface import read_huggingface
from workers.programs.program import Program
from workers.programs.pt2 import Pt2Policy, read_pt2
from workers.programs.weights_by_name import put_into


def load_problem(
    model: ModelRecord,
    objects: Objects,
    namespace: str,
    scratch: Path,
    settings: Settings,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress = silent,
) -> Problem:
    """The problem on the device. Raises Rejected when the program can't be read, and what `progress` raises."""
    program = model.program
    blob = program.blob if isinstance(program, Pt2Program) else program.weights
    try:
        with ExitStack() as files:
            path = files.enter_context(fetched(objects, namespace, blob, scratch, progress))
            adapter = getattr(program, "adapter", None)
            trained = None
            if adapter is not None:
                own = fetched(objects, namespace, adapter.weights, scratch, progress)
                trained = (adapter.config, files.enter_context(own))
            progress("read program", 0, 1, "models")
            read = _read(program, model.output, path, settings, trained)
            module = place(read.module, device)
            if model.weights is not None:
                put_into(module, objects, namespace, model.weights)
            progress("read program", 1, 1, "models")
            problem = Problem(
                module, training_loss(model.loss), model.parameters, dtype=dtype, device=device
            )
            return problem.with_penalty(penalty_of(problem, model.loss))
    except (ProgramError, EngineError) as error:
        raise Rejected(f"the model can't be loaded: {error}") from error
    except FileNotFoundError:
        raise Rejected(
            "the model's blob has gone from the object storage; register the model again"
        ) from None


def _read(
    contract: ContractProgram,
    output: Output,
    path: Path,
    settings: Settings,
    adapter: tuple[Mapping[str, Any], Path] | None = None,
) -> Program:
    allowed = allowed_programs(contract.format, settings)
    match contract:
        case Pt2Program():
            return read_pt2(path, output=output, policy=Pt2Policy(settings.pt2_policy))
        case FactoryProgram():
            return read_factory(
                contract.factory, contract.kwargs, path, allowed=allowed, output=output
            )
        case HuggingFaceProgram():
            return read_huggingface(
                contract.config,
                contract.task,
                contract.inputs,
                path,
                allowed=allowed,
                frozen=contract.frozen,
                output=output,
                adapter=adapter,
            )


def allowed_programs(format: str, settings: Settings) -> list[str]:
    """The names that the operator allows for a format which goes by names."""
    return list(settings.huggingface if format == "huggingface" else settings.factories)


def engine_loss(loss: Loss) -> EngineLoss:
    """The engine's loss for the contract's."""
    return make_loss(loss.name, **loss_parameters(loss))


def training_loss(loss: Loss) -> EngineLoss:
    """The same of training rows, which may have weights."""
    found = engine_loss(loss)
    return found if loss.weight_column is None else Weighted(found)


def penalty_of(problem: Problem, loss: Loss) -> Tensor | None:
    """The factors (p,) of its L2 term; None where it has none. Raises NoSuchParameter."""
    if not loss.l2:
        return None
    found = torch.zeros(problem.size, dtype=torch.float64)
    names = [each.name for each in problem.layout]
    for term in loss.l2:
        if not any(fnmatchcase(name, term.parameters) for name in names):
            raise NoSuchParameter(term.parameters, names)
        for each in problem.layout:
            if fnmatchcase(each.name, term.parameters):
                found[each.offset : each.offset + each.size] += term.factor
    return found


def loss_parameters(loss: Loss) -> dict[str, Any]:
    """The contract's parameters under the engine's names."""
    renamed = {"class_weights": "weight", "positions": "reduction"}
    given = loss.model_dump(exclude={"name", "l2", "row_weights"}, exclude_none=True)
    return {renamed.get(name, name): value for name, value in given.items()}


def described_frozen(problem: Problem, globs: Sequence[str] | None) -> dict[str, Any] | None:
    """The parameters that are held fixed as records have them; null where there are none."""
    if not problem.frozen:
        return None
    reason = "requires_grad is False" if globs is None else "not matched by the globs"
    count = sum(each.numel() for each in problem.frozen.values())
    return {"parameter_count": count, "parameters": list(problem.frozen), "reason": reason}


def described_layout(problem: Problem) -> list[dict[str, Any]]:
    """The selected parameters as records and `parameters.json` have them."""
    return [
        {"name": each.name, "shape": list(each.shape), "offset": each.offset}
        for each in problem.layout
    ]


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on `device`. Graphs name the device of each `arange` and `zeros`: these follow."""
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            node.args = _moved(node.args, device)
            node.kwargs = _moved(node.kwargs, device)
        module.recompile()
    return module.to(device)


def _moved(arguments: Any, device: torch.device) -> Any:
    return fx.node.map_aggregate(
        arguments, lambda value: device if isinstance(value, torch.device) else value
    )
