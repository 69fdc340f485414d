"""Models: from a live module, a pt2 file, or a factory, to a checked record."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

from pydantic import BaseModel

import upweight.client.losses as losses
from upweight.client.adapters import adapted
from upweight.client.blobs import put, put_source
from upweight.client.content import arrays_content
from upweight.client.huggingface import LOGITS, LiveModel, allows, is_described, loss_of
from upweight.client.losses import Loss
from upweight.client.programs import is_live, pt2_of, refuse_unmatched, refuse_untrained
from upweight.client.registered import AsyncRegistered, Registered, Resource
from upweight.client.request import reference, validated
from upweight.client.service import access
from upweight.errors import InvalidRequest
from upweight.files.download import FileSink
from upweight.http.flow import Call, Flow, Work, segment
from upweight.progress import Bars
from upweight.schema import BlobRecord, ModelRecord, ModelRequest

if TYPE_CHECKING:
    from upweight.export.outputs import Output

MODELS = Resource("/v1/models", ModelRecord)
NOT_YET = {
    "format": "pt2",
    "blob": f"sha256:{'0' * 64}",
}  # stands for a program that has no digest yet


class ModelOptions(TypedDict, total=False):
    """What `register` and `register_mlflow` take by keyword."""

    loss: Required[Loss]
    parameters: tuple[str, ...] | list[str] | str | None
    output: Output
    recipe: Any
    initial: Any
    labels: Mapping[str, str] | None
    quiet: bool
    wait: bool
    timeout: float | None


class ProgramOptions(ModelOptions, total=False):
    """What `register` takes besides."""

    example: Any
    factory: str | None
    kwargs: Mapping[str, Any] | None
    config: Mapping[str, Any] | None
    task: str | None
    weights: Any
    base: str | ModelRecord | None
    adapter: Any


def register(
    bars: Bars,
    hold: float,
    name: str,
    program: Any = None,
    *,
    loss: Loss,
    example: Any = None,
    parameters: tuple[str, ...] | list[str] | str | None = None,
    output: Output = None,
    recipe: Any = None,
    initial: Any = None,
    labels: Mapping[str, str] | None = None,
    factory: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    task: str | None = None,
    weights: Any = None,
    base: str | ModelRecord | None = None,
    adapter: Any = None,
    quiet: bool = False,
    wait: bool = True,
    timeout: float | None = None,
) -> Flow[ModelRecord]:
    """Uploads the program, registers it, and waits for the worker's check."""
    bars = Bars(False, quiet=True) if quiet else bars
    if (base is None) != (adapter is None):
        raise InvalidRequest("an adapter is one over a base: give both 'adapter' and 'base'")
    if sum(given is not None for given in (program, factory, config, base)) != 1:
        raise InvalidRequest(
            "give one of: a module or pt2 file as the second argument, 'factory' (a dotted name that the "
            "operator allows), 'config' (of a Hugging Face model), or 'base' with 'adapter'"
        )
    globs = _globs(parameters)
    fields = {"name": name, "output": output, "parameters": globs, "labels": dict(labels or {})}
    fields |= _trained_by(recipe, initial)
    # Before the export and the upload, which take their time: what is misspelt is told at once.
    loss = losses.written(loss, output)
    early = {**fields, "output": None} if is_live(program) and _is_below_zero(output) else fields
    validated(ModelRequest, MODELS.path, {**early, "program": NOT_YET, "loss": loss})
    if is_live(program):
        refuse_untrained(program) if globs is None else refuse_unmatched(program, globs)
    by_config = is_described(program, example) and output in (None, LOGITS)
    if by_config and allows((yield from access()).model_types, program):
        live = LiveModel.of(program, example)
        blob = yield from _weights(live.weights, name, bars)
        described = {
            **_by_name(None, None, live.config, live.task, live.inputs, blob),
            "frozen": live.frozen,
        }
    elif base is not None:
        described = yield from adapted(base, adapter, name, bars)
        if described["task"] == "causal-lm" and loss in ("cross_entropy", "nll"):
            loss = {"name": loss, "class_axis": -1}
    elif program is not None:
        described, fields["output"] = yield from pt2_of(program, example, globs, output, name, bars)
    else:
        blob = yield from _weights(weights, name, bars)
        described = _by_name(factory, kwargs, config, task, None, blob)
    if initial is not None:
        fields["initial"] = (yield from _initial(initial, name, bars)).digest
    loss = loss_of(program, loss)
    request = validated(ModelRequest, MODELS.path, {**fields, "program": described, "loss": loss})
    return (yield from MODELS.create(request.model_dump(mode="json"), bars, wait, timeout, hold))


def register_mlflow(
    bars: Bars,
    hold: float,
    uri: str | os.PathLike[str],
    name: str | None = None,
    *,
    loss: Loss,
    parameters: tuple[str, ...] | list[str] | str | None = None,
    output: Output = None,
    recipe: Any = None,
    initial: Any = None,
    labels: Mapping[str, str] | None = None,
    quiet: bool = False,
    wait: bool = True,
    timeout: float | None = None,
) -> Flow[ModelRecord]:
    """Finds the model's archive in MLflow, looks at it, and registers it."""
    from upweight.client.mlflow_models import archive_of, name_of

    name = name_of(uri) if name is None else name
    loss = losses.written(loss, output)
    # Before the download, which takes its time.
    fields = {
        "name": name,
        "output": output,
        "parameters": _globs(parameters),
        "labels": labels or {},
        **_trained_by(recipe, initial),
    }
    validated(ModelRequest, MODELS.path, {**fields, "program": NOT_YET, "loss": loss})
    with tempfile.TemporaryDirectory(prefix="upweight-") as folder:
        archive = yield Work(lambda: archive_of(uri, Path(folder)))
        return (
            yield from register(
                bars, hold, name, archive, loss=loss, parameters=parameters, output=output, recipe=recipe,
                initial=initial, labels=labels, quiet=quiet, wait=wait, timeout=timeout,
            )
        )  # fmt: skip


def _globs(parameters: tuple[str, ...] | list[str] | str | None) -> tuple[str, ...] | None:
    if parameters is None:
        return None
    return (parameters,) if isinstance(parameters, str) else tuple(parameters)


def _by_name(
    factory: str | None,
    kwargs: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    task: str | None,
    inputs: tuple[str, ...] | None,
    weights: BlobRecord,
) -> dict[str, Any]:
    if factory is not None:
        return {
            "format": "factory",
            "factory": factory,
            "kwargs": dict(kwargs or {}),
            "weights": weights.digest,
        }
    chosen = {"task": task, "inputs": inputs}
    return {
        "format": "huggingface",
        "config": dict(config or {}),
        "weights": weights.digest,
        **{name: value for name, value in chosen.items() if value is not None},
    }


def _is_below_zero(output: Output) -> bool:
    """Of a live module it is refused when it is known what there is instead."""
    return isinstance(output, int) and output < 0


def _trained_by(recipe: Any, initial: Any) -> dict[str, Any]:
    """How it was trained, as requests have it; the initial weights have no digest yet."""
    plain = recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else recipe
    found: dict[str, Any] = {} if plain is None else {"recipe": plain, "initial": None}
    return found if initial is None else {**found, "initial": NOT_YET["blob"]}


def _initial(initial: Any, name: str, bars: Bars) -> Flow[BlobRecord]:
    """Of a module its parameters; else a state_dict, a safetensors file, or a digest."""
    if callable(getattr(initial, "named_parameters", None)):
        named = initial.named_parameters(remove_duplicate=False)
        initial = {key: value.detach() for key, value in named}
    return (yield from _weights(initial, f"{name} initial", bars))


def _weights(weights: Any, name: str, bars: Bars) -> Flow[BlobRecord]:
    if weights is None:
        raise InvalidRequest(
            "'weights' is missing: a state_dict, the path of a safetensors file, or a blob's digest"
        )
    if isinstance(weights, str) and weights.startswith("sha256:"):
        return BlobRecord(digest=weights, size_bytes=0)
    if isinstance(weights, Mapping):
        content = yield Work(lambda: arrays_content(dict(weights), f"{name} weights"))
        return (yield from put(content, bars))
    return (yield from put_source(weights, bars))


def save_report(model: str | ModelRecord, path: str | os.PathLike[str]) -> Flow[Path]:
    """Writes the page that tells what a retraining changed. Raises InvalidRequest for a model that no job trained."""
    record = model if isinstance(model, ModelRecord) else (yield from MODELS.get(reference(model)))
    if record.training is None:
        raise InvalidRequest.field(
            "/model",
            f"{record.name}@{record.version} was registered, and no job has trained it; client.retrain gives one to "
            "compare",
            record.id,
        )
    sink = FileSink(path, accept="text/html")
    try:
        yield Call("GET", f"/v1/jobs/{segment(record.training.job)}/report.html", sink=sink)
    except BaseException:
        sink.discard()
        raise
    return sink.path


@dataclass(frozen=True)
class Models(Registered[ModelRecord]):
    """`client.models`."""

    _resource = MODELS

    def register(
        self,
        name: str,
        program: Any = None,
        **options: Unpack[ProgramOptions],
    ) -> ModelRecord:
        """Registers a model and waits for its check; a refused one raises Rejected.

        `program`: a live `nn.Module` (with `example`: one tensor, a tuple, or a dict of inputs, batch first), an
        `ExportedProgram`, or a pt2 file (path, bytes, open file). A classifier of sequences or a causal
        language model of transformers is sent as its config and weights, if nothing in it was changed and the service
        allows its type; a dict as its `example` names the rows' columns. Instead of it: `factory` with `kwargs`,
        or a Hugging Face `config` with `task`; both with `weights` (a state_dict, a safetensors file, or a digest).
        Or `base`, a registered model of that form, with `adapter`: the folder in which peft saved
        LoRA, DoRA or IA³, or the live model. θ is what trained with it, and the base is stored once.
        `loss`: a name (`"cross_entropy"`), `{"name": …, …}`, or a module of torch.nn as it was trained with
        (`CrossEntropyLoss(label_smoothing=0.1)`). Influence is taken over the parameters that train (`requires_grad`),
        or over those of all that match `parameters`, globs; the rest is held fixed. `output`: what the loss takes of a
        model that returns several tensors, by name or place; for gaussian_nll two. `recipe`: how it was trained
        (`upweight.schema.Recipe`, or its fields as a dict), and `initial`: the weights that began with, as a module
        of the same parameters or its state_dict; `client.retrain` uses both. `quiet`: no bars, and no lines in the log.
        """
        hold = self._link.connection.hold
        return self._link.run(register(self._bars, hold, name, program, **options))

    def save_report(
        self, model: str | ModelRecord, path: str | os.PathLike[str] = "report.html"
    ) -> Path:
        """Writes what a retraining changed, as one page: loss and accuracy before and after, by class."""
        return self._link.run(save_report(model, path))

    def register_mlflow(
        self,
        uri: str | os.PathLike[str],
        name: str | None = None,
        **options: Unpack[ModelOptions],
    ) -> ModelRecord:
        """Registers a torch model that `mlflow.pytorch` logged as pt2, as MLflow 3.17 and newer do by default.

        `uri`: `models:/digits/1`, `models:/digits@champion`, `runs:/…/model`, or a folder; MLflow finds it as it is set
        up here (`pip install 'upweight[mlflow]'`). `name`: by default as MLflow's registry calls the model, or the last
        part of the uri. The rest is as for `register`. The archive alone is sent; pickles are refused unopened. Log the
        model with an input example of two rows or more, and after `net.eval()`: MLflow freezes the batch of an
        example of one row, and saves the mode that the module is in.
        """
        hold = self._link.connection.hold
        return self._link.run(register_mlflow(self._bars, hold, uri, name, **options))


@dataclass(frozen=True)
class AsyncModels(AsyncRegistered[ModelRecord]):
    """`client.models` of an AsyncClient."""

    _resource = MODELS

    async def register(
        self, name: str, program: Any = None, **options: Unpack[ProgramOptions]
    ) -> ModelRecord:
        """As `Models.register`, awaited."""
        hold = self._link.connection.hold
        return await self._link.run(register(self._bars, hold, name, program, **options))

    async def save_report(
        self, model: str | ModelRecord, path: str | os.PathLike[str] = "report.html"
    ) -> Path:
        """As `Models.save_report`, awaited."""
        return await self._link.run(save_report(model, path))

    async def register_mlflow(
        self,
        uri: str | os.PathLike[str],
        name: str | None = None,
        **options: Unpack[ModelOptions],
    ) -> ModelRecord:
        """As `Models.register_mlflow`, awaited."""
        hold = self._link.connection.hold
        return await self._link.run(register_mlflow(self._bars, hold, uri, name, **options))
