"""LoRA adapters as peft saves them, over a model that was built: data alone, nothing of peft is imported.

A layer W becomes W + s B A with s = lora_alpha / r (over √r with `use_rslora`). What trains is A and B.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.programs.errors import ConfigRefused, StateMismatch
from workers.programs.state import read_tensors

_AT = "/program/adapter"
_PREFIX = "base_model.model."
_ENDS = {".lora_A.weight": "a", ".lora_B.weight": "b"}
# What changes nothing of a trained adapter in evaluation mode: where it came from, and how it was initialised.
_HARMLESS = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
        *("init_lora_weights", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "loftq_config", "eva_config", "corda_config", "fan_in_fan_out", "peft_type"),
        *("r", "lora_alpha", "use_rslora", "bias", "ensure_weight_tying", "runtime_config"),
    )
)  # fmt: skip
_NOTHING: tuple[Any, ...] = (None, False, "none", {}, [], ())


class LowRank(nn.Module):
    """A layer with a product of two low-rank matrices beside it: y = layer(x) + s B A x."""

    def __init__(self, layer: nn.Module, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base_layer = layer
        rank, inside = a.shape
        self.lora_A = nn.Linear(inside, rank, bias=False)
        self.lora_B = nn.Linear(rank, b.shape[0], bias=False)
        self.lora_A.weight, self.lora_B.weight = nn.Parameter(a), nn.Parameter(b)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        found: Tensor = self.base_layer(x) + self.lora_B(self.lora_A(x)) * self.scale
        return found


def adapt(module: nn.Module, config: Mapping[str, Any], weights: Path) -> None:
    """Puts the adapter into the module, all else of which is held fixed. Raises ConfigRefused, StateMismatch."""
    scale = _scale(config)
    pairs = _pairs(read_tensors(weights, f"{_AT}/weights"))
    dtype = next(each.dtype for each in module.parameters())
    module.requires_grad_(False)
    for path, (a, b) in pairs.items():
        layer = _layer(module, path)
        _require_fit(path, layer, a, b, int(config["r"]))
        parent, _, name = path.rpartition(".")
        adapted = LowRank(layer, a.to(dtype), b.to(dtype), scale)
        setattr(module.get_submodule(parent), name, adapted)


def _scale(config: Mapping[str, Any]) -> float:
    if str(config.get("peft_type")).rpartition(".")[2] != "LORA":
        raise ConfigRefused(
            f"peft_type {str(config.get('peft_type'))[:100]!r} is not read from its config; LORA is. Register the live "
            "model that peft wrapped instead: it is exported with its base",
            field=f"{_AT}/config/peft_type",
        )
    for name, value in config.items():
        changes = name not in _HARMLESS or name == "bias"
        if changes and value not in _NOTHING:
            raise ConfigRefused(
                f"the adapter's config has {name[:100]!r}: {str(value)[:100]}, which is not known here; register the "
                "live model that peft wrapped instead",
                field=f"{_AT}/config/{name[:100]}",
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise ConfigRefused(
            "the adapter's config needs whole 'r' above 0 and a number 'lora_alpha'; send the adapter_config.json that "
            "save_pretrained wrote",
            field=f"{_AT}/config",
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by the path of their layer, in the file's order of names."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        end = next((each for each in _ENDS if name.endswith(each)), None)
        if end is None or not name.startswith(_PREFIX):
            raise _unlike(f"has {name[:200]}, which is none of an adapter of linear layers")
        found.setdefault(name[len(_PREFIX) : -len(end)], {})[_ENDS[end]] = tensor
    for path, each in found.items():
        if set(each) != {"a", "b"}:
            raise _unlike(f"has one of lora_A and lora_B of {path[:200]}, and not the other")
    if not found:
        raise _unlike("holds no tensors")
    return {path: (each["a"], each["b"]) for path, each in found.items()}


def _layer(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise _unlike(f"is for a layer {path[:200]!r}, which the base does not have") from None


def _require_fit(path: str, layer: nn.Module, a: Tensor, b: Tensor, rank: int) -> None:
    weight = getattr(layer, "weight", None)
    by_inputs = type(layer).__name__ == "Conv1D"  # transformers' own linear layer, (in, out)
    if not isinstance(layer, nn.Linear) and not by_inputs:
        raise _unlike(
            f"is for {path[:200]}, a {type(layer).__name__}; linear layers alone are read from a config"
        )
    assert isinstance(weight, Tensor)
    out, inside = reversed(weight.shape) if by_inputs else weight.shape
    for name, tensor, wanted in (("A", a, (rank, inside)), ("B", b, (out, rank))):
        if tuple(tensor.shape) != wanted or not tensor.is_floating_point():
            raise _unlike(
                f"has lora_{name} of {path[:200]} with shape {list(tensor.shape)}, and the base and r take "
                f"{list(wanted)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise _unlike(f"has NaN or infinity in lora_{name} of {path[:200]}")


def _unlike(words: str) -> StateMismatch:
    return StateMismatch(
        f"the adapter {words}: check that it was trained over this base, and send the adapter_model.safetensors that "
        "save_pretrained wrote",
        field=f"{_AT}/weights",
    )
