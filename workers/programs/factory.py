"""Builds a model by an allowed factory, and gives it the user's safetensors weights."""

import importlib
import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from upweight.export.outputs import Output
from workers.programs.errors import FactoryFailed, FactoryRefused, ProgramError
from workers.programs.outputs import return_chosen
from workers.programs.program import Program, parameter_specs
from workers.programs.state import load_state

_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_DEPTH = 8


def read_factory(
    factory: str,
    kwargs: Mapping[str, Any],
    weights: Path,
    *,
    allowed: Collection[str],
    output: Output = None,
) -> Program:
    """The model which `module:attribute` makes of `kwargs`, with the weights in it.

    `allowed` holds exact names, the operator's choice. The factory's own code runs, and nothing of
    the user's. What the model returns is known once it runs: it raises OutputUnsupported then, where it
    returns several tensors and `output` names none. Raises nothing but ProgramError.
    """
    if factory not in allowed or not _NAME.fullmatch(factory):
        raise FactoryRefused(
            f"the factory {str(factory)[:200]!r} is not allowed here; "
            f"allowed are: {', '.join(sorted(allowed)) or 'none'}. "
            "The operator adds factories in the settings; or upload a pt2 program instead"
        )
    _check_plain(kwargs, depth=0)
    try:
        module = _make(factory, kwargs)
        load_state(module, weights)
    except ProgramError:
        raise
    # A factory is any code that the operator allowed, and may raise anything.
    except Exception as exc:
        raise _failed(factory, exc) from exc
    module.eval()
    return_chosen(module, output)
    return Program(
        module=module,
        inputs=(),
        outputs=(),
        parameters=parameter_specs(module),
        format="factory",
        arguments=_arguments(module),
    )


def _arguments(module: nn.Module) -> tuple[str, ...]:
    """What forward calls the inputs that it takes by place; none where it takes any number of them."""
    taken = list(inspect.signature(module.forward).parameters.values())
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in taken):
        return ()
    return tuple(
        each.name
        for each in taken
        if each.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    )


def _make(factory: str, kwargs: Mapping[str, Any]) -> nn.Module:
    place, _, attribute = factory.partition(":")
    try:
        found: Any = importlib.import_module(place)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as exc:
        raise FactoryFailed(
            f"{factory} is allowed but not installed on this worker ({exc}); ask the operator",
            field="/program/factory",
        ) from exc
    module = found(**kwargs)
    if not isinstance(module, nn.Module):
        raise FactoryFailed(
            f"{factory} made a {type(module).__name__}, not a torch.nn.Module",
            field="/program/factory",
        )
    return module


def _failed(factory: str, exc: Exception) -> FactoryFailed:
    return FactoryFailed(
        f"{factory} failed with these kwargs ({type(exc).__name__}: {str(exc)[:300]}); correct them"
    )


def _check_plain(value: Any, depth: int) -> None:
    if depth > _DEPTH:
        raise FactoryRefused(f"kwargs are nested deeper than {_DEPTH}", field="/program/kwargs")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise FactoryRefused("kwargs have a key that is no string", field="/program/kwargs")
        for item in value.values():
            _check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth + 1)
    elif not isinstance(value, str | int | float | bool | None):
        raise FactoryRefused(
            f"kwargs hold a {type(value).__name__}; plain JSON only", field="/program/kwargs"
        )
