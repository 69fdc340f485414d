"""A live Hugging Face model as its config and weights: what the service builds it from again, without its code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOGITS = "logits"  # what the loss takes of its output
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TASKS = {
    "ForSequenceClassification": "sequence-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
}
_OF_TOKENS = (
    "ForCausalLM",
    "LMHeadModel",
    "ForTokenClassification",
    "ForMaskedLM",
    "ForConditionalGeneration",
)


@dataclass(frozen=True)
class LiveModel:
    """What is sent of it."""

    config: dict[str, Any]
    task: str
    inputs: tuple[str, ...]
    weights: Mapping[str, Any]
    frozen: tuple[
        str, ...
    ]  # names of the parameters that do not train, which the weights do not say

    @classmethod
    def of(cls, model: Any, example: Any) -> LiveModel:
        """`example` says which inputs rows have: a dict of them, or a tuple in transformers' order."""
        kind = type(model).__name__
        written = json.loads(model.config.to_json_string(use_diff=False))
        config = {key: value for key, value in written.items() if not key.startswith("_")}
        frozen = tuple(
            name
            for name, each in model.named_parameters(remove_duplicate=False)
            if not each.requires_grad
        )
        described = {**config, "architectures": [kind]}
        return cls(described, _task(model) or "", _inputs(example), model.state_dict(), frozen)


def is_described(program: Any, example: Any) -> bool:
    """Whether a config and weights say all of a live model: it has a head that workers build, and nothing of its own.

    Any other is exported like every module.
    """
    return (
        _is_huggingface(program)
        and _task(program) is not None
        and program.main_input_name == INPUTS[0]
        and set(_inputs(example)) <= set(INPUTS)
        and _as_it_was_built(program)
    )


def loss_of(program: Any, loss: Any) -> Any:
    """The classes of transformers' models of tokens are in the last axis of their outputs."""
    of_tokens = _is_huggingface(program) and type(program).__name__.endswith(_OF_TOKENS)
    if of_tokens and loss in ("cross_entropy", "nll"):
        return {"name": loss, "class_axis": -1}
    return loss


def _task(model: Any) -> str | None:
    kind = type(model).__name__
    return next((task for ending, task in _TASKS.items() if kind.endswith(ending)), None)


def _as_it_was_built(model: Any) -> bool:
    """No part of another library, no other forward, no hook: nothing that the config would not bring back."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(
        not type(part).__module__.startswith(("torch.", "transformers."))
        or "forward" in vars(part)
        or hasattr(part, "parametrizations")
        or any(getattr(part, name) for name in hooks)
        or any(each._backward_hooks for each in part.parameters(recurse=False))
        for part in model.modules()
    )


def _is_huggingface(program: Any) -> bool:
    """Whether it is a transformers.PreTrainedModel, told without importing transformers."""
    kinds = type(program).__mro__
    return any(
        each.__name__ == "PreTrainedModel" and each.__module__.startswith("transformers.")
        for each in kinds
    )


def _inputs(example: Any) -> tuple[str, ...]:
    if isinstance(example, Mapping):
        return tuple(example)
    count = len(example) if isinstance(example, tuple | list) else 1
    return INPUTS[:count]
