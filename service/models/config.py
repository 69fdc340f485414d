"""A Hugging Face model's config: what can be told of it without transformers."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from upweight.errors import InvalidRequest
from upweight.schema import HuggingFaceProgram

_CODE = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_AT = "/program/config"


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
