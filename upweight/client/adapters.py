"""An adapter over a model that is registered already: its config and weights alone are sent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upweight.client.blobs import put, put_source
from upweight.client.content import arrays_content
from upweight.client.registered import Resource
from upweight.client.request import reference
from upweight.errors import InvalidRequest
from upweight.http.flow import Flow, Work
from upweight.progress import Bars
from upweight.schema import HuggingFaceProgram, ModelRecord

_MODELS = Resource("/v1/models", ModelRecord)
_OWN = (".lora_", ".ia3_", ".modules_to_save.")  # of an adapter, in peft's names
_NOT_TRAINED = (".original_module.", ".lora_", ".modules_to_save.")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapted(base: str | ModelRecord, adapter: Any, name: str, bars: Bars) -> Flow[dict[str, Any]]:
    """The base's program with the adapter, uploaded. Raises NotFound, InvalidRequest."""
    record = base if isinstance(base, ModelRecord) else (yield from _MODELS.get(reference(base)))
    program = record.program
    if not isinstance(program, HuggingFaceProgram) or program.adapter is not None:
        words = (
            f"{record.name!r} is {'an adapter itself' if isinstance(program, HuggingFaceProgram) else program.format}, "
            "and adapters go over a Hugging Face model that was registered by its config and weights; register the "
            "live model that peft wrapped instead"
        )
        raise InvalidRequest.field("/base", words, record.id)
    if isinstance(adapter, str | os.PathLike):
        config, source = _of_folder(Path(adapter))
        blob = yield from put_source(source, bars)
    else:
        config, tensors = _of_live(adapter)
        content = yield Work(lambda: arrays_content(tensors, f"{name} adapter"))
        blob = yield from put(content, bars)
    given = program.model_dump(mode="json", exclude={"frozen"})
    return {**given, "adapter": {"config": config, "weights": blob.digest}}


def _of_folder(folder: Path) -> tuple[dict[str, Any], Path]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            words = f"there is no {name} in {str(folder)!r}; give the folder that the adapter's save_pretrained wrote"
            raise InvalidRequest.field("/adapter", words, str(folder))
    return json.loads((folder / CONFIG).read_text("utf-8")), folder / WEIGHTS


def _of_live(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a model that peft has wrapped, its active adapter."""
    configs, name = getattr(model, "peft_config", None), getattr(model, "active_adapter", None)
    if not isinstance(configs, Mapping) or name not in configs:
        words = "is neither a folder of peft's nor a model that peft has wrapped with one active adapter"
        raise InvalidRequest.field("/adapter", words, type(model).__name__)
    config = json.loads(json.dumps(configs[name].to_dict(), default=_plain))
    part, bias = f".{name}", config.get("bias", "none")
    tensors = {}
    for key, value in model.state_dict().items():
        biases = bias == "all" or (bias == "lora_only" and ".base_layer." in key)
        if any(each in key for each in _OWN) and (f"{part}." in key or key.endswith(part)):
            own = key.replace(f"{part}.", ".").removesuffix(part).replace(".modules_to_save", "")
            tensors[own] = value.detach()
        elif key.endswith(".bias") and biases and not any(each in key for each in _NOT_TRAINED):
            tensors[key] = value.detach()
    return config, tensors


def _plain(value: Any) -> Any:
    """Of what JSON has no kind for: sets, and the names of enumerations."""
    return (
        sorted(value) if isinstance(value, set | frozenset) else getattr(value, "value", str(value))
    )
