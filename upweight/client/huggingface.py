"""A live Hugging Face model as its config and weights: what the service builds it from again, without its code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FunctionType
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
_OF_ROWS = ("ForSequenceClassification", "ForImageClassification", "ForMultipleChoice")
# What a part has that does not change what it computes in evaluation mode.
_NO_SETTINGS = frozenset({"training", "gradient_checkpointing", "name_or_path"})


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
        config = {**_config(model), "architectures": [type(model).__name__]}
        frozen = tuple(
            name
            for name, each in model.named_parameters(remove_duplicate=False)
            if not each.requires_grad
        )
        return cls(config, _task(model) or "", _inputs(example), model.state_dict(), frozen)


def is_described(program: Any, example: Any) -> bool:
    """Whether a config and weights say all of a live model: it has a head that workers build, and nothing of its own.

    Any other is exported like every module; so is a language model whose rows have a mask.
    """
    task = _task(program) if _is_huggingface(program) else None
    taken = {INPUTS[0]} if task == "causal-lm" else set(INPUTS)
    return (
        task is not None
        and program.main_input_name == INPUTS[0]
        and set(_inputs(example)) <= taken
        and _as_it_was_built(program)
        and _as_its_config_builds_it(program)
    )


def loss_of(program: Any, loss: Any) -> Any:
    """The classes of transformers' models of tokens are in the last axis of their outputs."""
    model = _unwrapped(program)
    of_tokens = _is_huggingface(model) and type(model).__name__.endswith(_OF_TOKENS)
    if of_tokens and loss in ("cross_entropy", "nll"):
        return {"name": loss, "class_axis": -1}
    return loss


def usual_output(program: Any) -> str | None:
    """What the loss takes of a model of transformers that returns several tensors, where its head says so."""
    model = _unwrapped(program)
    scores = _is_huggingface(model) and type(model).__name__.endswith((*_OF_TOKENS, *_OF_ROWS))
    return LOGITS if scores else None


def allows(types: Sequence[str] | None, program: Any) -> bool:
    """Whether the service builds models of this type; None: it does not say, and is asked by registering."""
    return types is None or program.config.model_type in types


def _unwrapped(program: Any) -> Any:
    """The model inside what peft has made of it."""
    wraps = any(each.__module__.startswith("peft.") for each in type(program).__mro__)
    return program.get_base_model() if wraps else program


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


def _config(model: Any) -> dict[str, Any]:
    written = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in written.items() if not key.startswith("_")}


def _as_its_config_builds_it(model: Any) -> bool:
    """Whether its config, as it is now, builds the same parts with the same settings: weights say nothing of them.

    An activation may have been exchanged since, an epsilon or the config changed, a weight tied or untied.
    """
    import torch

    # What can't be built without values is exported, which looks at the model itself.
    with suppress(Exception), torch.device("meta"):
        built = type(model)(type(model.config).from_dict(_config(model)))
        return _parts(built) == _parts(model) and _tied(built) == _tied(model)
    return False


def _parts(model: Any) -> dict[str, tuple[type, dict[str, Any]]]:
    """The type and the settings of each part by its name."""
    return {
        name: (
            type(part),
            {key: value for key, value in vars(part).items() if _is_setting(key, value)},
        )
        for name, part in model.named_modules()
    }


def _is_setting(key: str, value: Any) -> bool:
    if key.startswith("_") or key in _NO_SETTINGS:
        return False
    if isinstance(value, tuple | list):
        return all(_is_setting("", each) for each in value)
    return value is None or isinstance(value, bool | int | float | str | FunctionType)


def _tied(model: Any) -> set[frozenset[str]]:
    """Names of parameters that are one."""
    names: dict[int, set[str]] = {}
    for name, each in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(each), set()).add(name)
    return {frozenset(each) for each in names.values()}


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
