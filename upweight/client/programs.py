"""What is sent of a program: the archive of a live module or an ExportedProgram, or a pt2 file as it is."""

from __future__ import annotations

import difflib
import os
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upweight.client.blobs import put, put_source
from upweight.client.content import Content, content_of
from upweight.client.huggingface import usual_output
from upweight.errors import InvalidRequest
from upweight.http.flow import Flow, Work
from upweight.progress import Bars

if TYPE_CHECKING:
    from upweight.export.outputs import Output

_PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".joblib"})
_EXPORT_LINE = (
    "client.models.register(name, net, example=x[:2], loss=…) exports a live module itself"
)
_NAMES_SHOWN = 20


def refuse_untrained(program: Any) -> None:
    """Raises InvalidRequest for a live module, or an ExportedProgram, none of whose parameters require gradients."""
    held = list(program.parameters())
    if not any(each.requires_grad for each in held):
        raise InvalidRequest.field(
            "/parameters",
            f"none of the {len(held)} parameters of the model requires gradients, and influence is taken over those "
            "that do unless 'parameters' says otherwise: give globs, such as parameters=['*'] for all, or call "
            "requires_grad_() on those that were trained",
            None,
        )


def refuse_unmatched(program: Any, globs: tuple[str, ...]) -> None:
    """Raises InvalidRequest for a glob that matches no parameter of a live module, or of an ExportedProgram."""
    names = _parameter_names(program)
    for glob in globs:
        if any(fnmatchcase(name, glob) for name in names):
            continue
        near = difflib.get_close_matches(glob, _glob_suggestions(names), n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        raise InvalidRequest.field(
            "/parameters", f"no parameter matches {glob!r}{hint}; the model has: {shown}", glob
        )


def _parameter_names(program: Any) -> list[str]:
    if hasattr(program, "graph_signature"):
        return list(program.graph_signature.parameters)
    return [name for name, _ in program.named_parameters(remove_duplicate=False)]


def _glob_suggestions(names: list[str]) -> list[str]:
    """The names, and a glob for each module that has some."""
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return [*names, *(f"{module}.*" for module in modules if module)]


def pt2_of(
    program: Any,
    example: Any,
    globs: tuple[str, ...] | None,
    output: Output,
    name: str,
    bars: Bars,
) -> Flow[tuple[dict[str, Any], Output]]:
    """What is sent of it, and `output` by the name that it has there."""
    if isinstance(program, str | os.PathLike) and Path(program).suffix in _PICKLES:
        raise InvalidRequest(
            f"{Path(program).name} is a pickle by its name, which can run code when it is loaded and is never "
            f"accepted; {_EXPORT_LINE}"
        )
    if not is_live(program):
        _refuse_foreign(program)
        record = yield from put_source(program, bars)
        return {"format": "pt2", "blob": record.digest}, output
    with tempfile.TemporaryDirectory(prefix="upweight-") as folder:
        path = Path(folder) / f"{name}.pt2"
        with bars.bar(f"exporting {name}", unit=""):
            output = yield Work(lambda: _export(program, example, globs, output, path))
        content: Content = yield Work(lambda: content_of(path))
        record = yield from put(content, bars)
    return {"format": "pt2", "blob": record.digest}, output


def _refuse_foreign(program: Any) -> None:
    if isinstance(program, str | os.PathLike | bytes | bytearray) or hasattr(program, "read"):
        return
    way = (
        "put its weights into a torch.nn.Linear, or a module of that form"
        if callable(getattr(program, "get_params", None))
        else "wrap what it computes in one"
    )
    if isinstance(program, type):
        raise InvalidRequest(
            f"{program.__qualname__} is a class, and no program: give an instance of it that has been trained"
        )
    raise InvalidRequest(
        f"{type(program).__module__}.{type(program).__qualname__} is no program: give a torch.nn.Module, an "
        f"ExportedProgram, or a pt2 file (path, bytes, open file); {way}"
    )


def is_live(program: Any) -> bool:
    """Whether it is a module, or an ExportedProgram, and no file of one."""
    return hasattr(program, "state_dict") and not isinstance(
        program, type
    )  # nn.Module and ExportedProgram both have one


def _export(
    program: Any, example: Any, globs: tuple[str, ...] | None, output: Output, path: Path
) -> Output:
    from upweight.export.outputs import OutputUnclear, choose, spelt, tensors_of_program
    from upweight.export.program import exported, save_exported

    try:
        if hasattr(program, "graph_signature"):
            chosen = choose(tensors_of_program(program), output)
            save_exported(program, path, example)
            return spelt(chosen, output)
        if example is None:
            raise InvalidRequest(
                "a live module needs an example to be traced with: example=x[:2], or a tuple of inputs"
            )
        try:
            made = exported(program, example, globs, output)
        except OutputUnclear:
            usual = usual_output(program) if output is None else None
            if usual is None:
                raise
            made, output = exported(program, example, globs, usual), usual
    except OutputUnclear as error:
        raise InvalidRequest.field("/output", str(error), output) from error
    save_exported(made, path, example)
    return spelt(tensors_of_program(made), output)
