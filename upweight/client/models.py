"""Models: from a live module, a pt2 file, or a factory, to a checked record."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upweight.client.blobs import put, put_source
from upweight.client.checking import Checked, until_checked
from upweight.client.content import Content, arrays_content, content_of
from upweight.client.huggingface import LiveModel, is_huggingface
from upweight.client.paging import items, items_async, listing
from upweight.client.request import reference, validated
from upweight.errors import InvalidRequest
from upweight.exchange import Call, Flow, Work, segment
from upweight.progress import Bars
from upweight.schema import BlobRecord, ModelRecord, ModelRequest
from upweight.transport import AsyncTransport, Transport

MODELS = Checked("/v1/models", ModelRecord)
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".joblib"})
EXPORT_LINE = (
    "client.models.register(name, net, example=x[:2], loss=…) exports a live module itself"
)

Reference = str | ModelRecord


def register(
    bars: Bars,
    name: str,
    program: Any,
    *,
    example: Any,
    loss: Any,
    parameters: tuple[str, ...] | list[str] | str | None,
    labels: Mapping[str, str] | None,
    factory: str | None,
    kwargs: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    task: str | None,
    weights: Any,
    wait: bool,
    timeout: float | None,
    hold: float,
) -> Flow[ModelRecord]:
    """Uploads the program, registers it, and waits for the worker's check."""
    if sum(given is not None for given in (program, factory, config)) != 1:
        raise InvalidRequest(
            "give one of: a module or pt2 file as the second argument, 'factory' (a dotted name that the "
            "operator allows), or 'config' (of a Hugging Face model)"
        )
    if parameters is None and _is_live(program):
        refuse_untrained(program)
    if is_huggingface(program):
        live = LiveModel.of(program, example)
        loss = live.loss(loss)
        blob = yield from _weights(live.weights, name, bars)
        described = {
            **_by_name(None, None, live.config, live.task, live.inputs, blob),
            "frozen": live.frozen,
        }
    elif program is not None:
        described = yield from _pt2(program, example, name, bars)
    else:
        blob = yield from _weights(weights, name, bars)
        described = _by_name(factory, kwargs, config, task, None, blob)
    request = validated(
        ModelRequest,
        MODELS.path,
        {
            "name": name,
            "program": described,
            "loss": loss,
            "parameters": (parameters,)
            if isinstance(parameters, str)
            else parameters and list(parameters),
            "labels": dict(labels or {}),
        },
    )
    reply = yield Call("POST", MODELS.path, json=request.model_dump(mode="json"), creates=True)
    record = reply.read(ModelRecord)
    if not wait:
        return record
    return (yield from until_checked(MODELS, record.id, record, bars, timeout, hold))


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


def _pt2(program: Any, example: Any, name: str, bars: Bars) -> Flow[dict[str, Any]]:
    if isinstance(program, str | os.PathLike) and Path(program).suffix in PICKLES:
        raise InvalidRequest(
            f"{Path(program).name} is a pickle by its name, which can run code when it is loaded and is never "
            f"accepted; {EXPORT_LINE}"
        )
    if not _is_live(program):
        record = yield from put_source(program, bars)
        return {"format": "pt2", "blob": record.digest}
    with tempfile.TemporaryDirectory(prefix="upweight-") as folder:
        path = Path(folder) / f"{name}.pt2"
        yield Work(lambda: _export(program, example, path))
        content: Content = yield Work(lambda: content_of(path))
        record = yield from put(content, bars)
    return {"format": "pt2", "blob": record.digest}


def _is_live(program: Any) -> bool:
    return hasattr(program, "state_dict")  # nn.Module and ExportedProgram both have one


def _export(program: Any, example: Any, path: Path) -> None:
    from upweight.export import save_exported, save_program

    if hasattr(program, "graph_signature"):
        save_exported(program, path, example)
        return
    if example is None:
        raise InvalidRequest(
            "a live module needs an example to be traced with: example=x[:2], or a tuple of inputs"
        )
    save_program(program, example, path, with_rows=True)


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


def delete(model: Reference) -> Flow[None]:
    """Removes a model that no job holds."""
    yield Call("DELETE", f"{MODELS.path}/{segment(reference(model))}")


@dataclass(frozen=True)
class Models:
    """`client.models`."""

    link: Transport
    bars: Bars

    def register(
        self,
        name: str,
        program: Any = None,
        *,
        loss: Any,
        example: Any = None,
        parameters: tuple[str, ...] | list[str] | str | None = None,
        labels: Mapping[str, str] | None = None,
        factory: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        task: str | None = None,
        weights: Any = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> ModelRecord:
        """Registers a model and waits for its check; a refused one raises Rejected.

        `program`: a live `nn.Module` (with `example`: one tensor, a tuple, or a dict of inputs, batch first), an
        `ExportedProgram`, or a pt2 file (path, bytes, open file). A `PreTrainedModel` of transformers is sent as its
        config and weights; a dict as its `example` names the rows' columns. Instead of it: `factory` with `kwargs`,
        or a Hugging Face `config` with `task`; both with `weights` (a state_dict, a safetensors file, or a digest).
        `loss`: a name (`"cross_entropy"`) or `{"name": …, …}`. Influence is taken over the parameters that train
        (`requires_grad`), or over those of all that match `parameters`, globs; the rest is held fixed.
        """
        return self.link.run(
            register(
                self.bars, name, program, example=example, loss=loss, parameters=parameters,
                labels=labels, factory=factory, kwargs=kwargs, config=config, task=task,
                weights=weights, wait=wait, timeout=timeout, hold=self.link.connection.hold,
            )
        )  # fmt: skip

    def get(self, model: Reference) -> ModelRecord:
        """The record of an id or a name (`digits-cnn`, `digits-cnn@3`)."""
        return self.link.run(MODELS.get(reference(model)))

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[ModelRecord]:
        """The records, newest first, page after page as they are needed."""
        return items(self.link, _listing(limit, order, state, labels))

    def wait(self, model: Reference, timeout: float | None = None) -> ModelRecord:
        """The record once it is checked; a refused one raises Rejected."""
        hold = self.link.connection.hold
        return self.link.run(
            until_checked(MODELS, reference(model), None, self.bars, timeout, hold)
        )

    def delete(self, model: Reference) -> None:
        """Removes it; InUse while a job holds it."""
        self.link.run(delete(model))


@dataclass(frozen=True)
class AsyncModels:
    """`client.models` of an AsyncClient."""

    link: AsyncTransport
    bars: Bars

    async def register(
        self,
        name: str,
        program: Any = None,
        *,
        loss: Any,
        example: Any = None,
        parameters: tuple[str, ...] | list[str] | str | None = None,
        labels: Mapping[str, str] | None = None,
        factory: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        task: str | None = None,
        weights: Any = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> ModelRecord:
        """See `Models.register`."""
        return await self.link.run(
            register(
                self.bars, name, program, example=example, loss=loss, parameters=parameters,
                labels=labels, factory=factory, kwargs=kwargs, config=config, task=task,
                weights=weights, wait=wait, timeout=timeout, hold=self.link.connection.hold,
            )
        )  # fmt: skip

    async def get(self, model: Reference) -> ModelRecord:
        """See `Models.get`."""
        return await self.link.run(MODELS.get(reference(model)))

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ModelRecord]:
        """See `Models.list`; iterate with `async for`."""
        return items_async(self.link, _listing(limit, order, state, labels))

    async def wait(self, model: Reference, timeout: float | None = None) -> ModelRecord:
        """See `Models.wait`."""
        hold = self.link.connection.hold
        return await self.link.run(
            until_checked(MODELS, reference(model), None, self.bars, timeout, hold)
        )

    async def delete(self, model: Reference) -> None:
        """See `Models.delete`."""
        await self.link.run(delete(model))


def _listing(
    limit: int | None, order: str, state: str | None, labels: Mapping[str, str] | None
) -> Any:
    return listing(MODELS.path, ModelRecord, limit=limit, order=order, labels=labels, state=state)
