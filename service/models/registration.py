"""Registering a model: what can be checked without loading it is checked here, the rest by a worker."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from service.auth import Caller
from service.blobs.records import find_blob
from service.lifecycle.states import now
from service.models.sniff import refuse_bad_archive, refuse_bad_weights
from service.parts import Parts
from service.registry import digest_of, ensure_check, enter, refuse_many_checks, repeated
from service.requests import Trace
from service.storage.keys import Document, new_id
from service.storage.records import Idempotency
from upweight.errors import InvalidRequest
from upweight.schema import (
    CheckState,
    FactoryProgram,
    HuggingFaceProgram,
    ModelRecord,
    ModelRequest,
    Pt2Program,
)

_CODE = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_AT = "/program/config"


def register_model(
    parts: Parts,
    caller: Caller,
    request: ModelRequest,
    idempotency: Idempotency | None,
    trace: Trace,
) -> Document:
    """A new record in state `checking`. Raises InvalidRequest, RateLimited."""
    earlier = repeated(parts, "model", caller.namespace, idempotency)
    if earlier is not None:
        ensure_check(parts, "model", caller.namespace, earlier, trace)
        return earlier
    refuse_many_checks(parts, caller.namespace)
    size = _checked_size(parts, caller.namespace, request)
    if request.initial is not None:
        _checked_weights(parts, caller.namespace, request.initial, "/initial")
    record = ModelRecord(
        id=new_id("model"),
        name=request.name,
        version=parts.records.next_version("model", caller.namespace, request.name),
        state=CheckState.CHECKING,
        created_at=now(),
        program=request.program,
        loss=request.loss,
        output=request.output,
        parameters=list(request.parameters) if request.parameters is not None else None,
        labels=request.labels,
        recipe=request.recipe,
        initial=request.initial,
        digest=_digest(request),
        size_bytes=size,
    )
    return enter(parts, "model", caller, record.model_dump(mode="json"), idempotency, trace)


def _checked_size(parts: Parts, namespace: str, request: ModelRequest) -> int:
    match request.program:
        case Pt2Program(blob=digest):
            if parts.settings.pt2_policy == "reject":
                raise InvalidRequest.field(
                    "/program/format",
                    f"this service takes no pt2 programs; {_factories_in_words(parts)}",
                    "pt2",
                )
            size = _size_of(parts, namespace, digest, "/program/blob")
            refuse_bad_archive(parts.objects, namespace, digest, size, "/program/blob")
            return size
        case FactoryProgram(factory=factory, weights=digest):
            if factory not in parts.settings.factories:
                raise InvalidRequest.field(
                    "/program/factory",
                    f"{factory!r} is not among the factories that this service allows; {_factories_in_words(parts)}",
                    factory,
                )
            return _checked_weights(parts, namespace, digest)
        case HuggingFaceProgram(weights=digest):
            refuse_bad_config(request.program, parts.settings.huggingface)
            adapter = request.program.adapter
            size = _checked_weights(parts, namespace, digest)
            if adapter is not None:
                at = "/program/adapter/weights"
                size += _checked_weights(parts, namespace, adapter.weights, at)
            return size


def _checked_weights(
    parts: Parts, namespace: str, digest: str, at: str = "/program/weights"
) -> int:
    size = _size_of(parts, namespace, digest, at)
    refuse_bad_weights(parts.objects, namespace, digest, size, at)
    return size


def _factories_in_words(parts: Parts) -> str:
    allowed = parts.settings.factories
    if not allowed:
        return "no factory is allowed here; export the model to 'pt2', or ask the operator (UPWEIGHT_FACTORIES)"
    return f"allowed factories are {', '.join(allowed)}"


def _size_of(parts: Parts, namespace: str, digest: str, at: str) -> int:
    found = find_blob(parts.objects, namespace, digest)
    if found is None:
        raise InvalidRequest.field(
            at, f"there is no such blob here; upload it first: PUT /v1/blobs/{digest}", digest
        )
    return found.size_bytes


def _digest(request: ModelRequest) -> str:
    decides = {"program", "output", "parameters"}
    loss = request.loss.described()
    return digest_of(request.model_dump(mode="json", include=decides) | {"loss": loss})


def refuse_bad_config(program: HuggingFaceProgram, allowed: Sequence[str]) -> None:
    """Raises InvalidRequest for a type that the operator does not allow, and for code that a config asks for."""
    kind = program.config.get("model_type")
    if not isinstance(kind, str) or kind not in allowed:
        raise InvalidRequest.field(
            f"{_AT}/model_type", f"{_allowed_in_words(allowed)}; or export the model to 'pt2'", kind
        )
    named = _of_code(program.config)
    if named is not None:
        raise InvalidRequest.field(
            _AT,
            f"the config has {named!r}, which names code to run; models run no code of their own here: "
            "export the model to 'pt2' instead",
            named,
        )
    if len(set(program.inputs)) != len(program.inputs) or "input_ids" not in program.inputs:
        raise InvalidRequest.field(
            "/program/inputs", "name 'input_ids', and each other input once", list(program.inputs)
        )
    if program.task == "causal-lm" and program.inputs != ("input_ids",):
        raise InvalidRequest.field(
            "/program/inputs",
            "a language model takes 'input_ids' alone: pad at the end, with -100 as the target there",
            list(program.inputs),
        )


def _of_code(value: JsonValue) -> str | None:
    """The first key anywhere that names code."""
    if isinstance(value, dict):
        found = next((key for key in value if key in _CODE), None)
        return found or next(filter(None, map(_of_code, value.values())), None)
    if isinstance(value, list):
        return next(filter(None, map(_of_code, value)), None)
    return None


def _allowed_in_words(allowed: Sequence[str]) -> str:
    if not allowed:
        return "no Hugging Face model is allowed here; ask the operator (UPWEIGHT_HUGGINGFACE)"
    return f"allowed types are {', '.join(allowed)}"
