"""A live Hugging Face model as its config and weights: what the service builds it from again, without its code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from upweight.errors import InvalidRequest

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TASKS = {
    "ForSequenceClassification": "sequence-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
}


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
        """`example` says which inputs rows have: a dict of them, or a tuple in transformers' order.

        Raises InvalidRequest for an architecture with another head.
        """
        kind = type(model).__name__
        task = next((task for ending, task in _TASKS.items() if kind.endswith(ending)), None)
        if task is None:
            raise InvalidRequest(
                f"{kind} is no classifier of sequences and no causal language model; export it to a pt2 program: "
                "torch.export.export(model.eval(), (x,), …)"
            )
        written = json.loads(model.config.to_json_string(use_diff=False))
        config = {key: value for key, value in written.items() if not key.startswith("_")}
        frozen = tuple(
            name
            for name, each in model.named_parameters(remove_duplicate=False)
            if not each.requires_grad
        )
        described = {**config, "architectures": [kind]}
        return cls(described, task, _inputs(example), model.state_dict(), frozen)

    def loss(self, loss: Any) -> Any:
        """A language model's classes are in the last axis of its output."""
        if self.task == "causal-lm" and loss == "cross_entropy":
            return {"name": "cross_entropy", "class_axis": -1}
        return loss


def is_huggingface(program: Any) -> bool:
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
