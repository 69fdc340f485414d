"""Adapters as peft saves them, over a model that was built: data alone, nothing of peft is imported.

LoRA: a layer W becomes W + s B A with s = lora_alpha / r (over √r with `use_rslora`); with DoRA each of its outputs is
rescaled to a length that trains. IA³: a layer's outputs, or inputs, are multiplied by numbers that train. What trains
are these, the biases that `bias` names, and the parameters of `modules_to_save`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.programs.errors import ConfigRefused, StateMismatch
from workers.programs.state import read_tensors

_AT = "/program/adapter"
_PREFIX = "base_model.model."
_ENDS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_B.bias": "bias",
    ".lora_magnitude_vector": "magnitude",
    ".lora_embedding_A": "embedding A",
    ".lora_embedding_B": "embedding B",
    ".ia3_l": "scale",
}
# The parts of a layer that belong together, and those that may be beside them.
_SCALED = "scale"
_WHOLE: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset({_SCALED}), frozenset()),
    (frozenset({"embedding A", "embedding B"}), frozenset({"magnitude"})),
    (frozenset({"A", "B"}), frozenset({"bias", "magnitude"})),
)
_KINDS = ("LORA", "IA3")
# What changes nothing of a trained adapter in evaluation mode: where it came from, and how it was initialised.
_HARMLESS = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
        *("lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "peft_type", "fan_in_fan_out"),
        *("layers_pattern", "loftq_config", "eva_config", "corda_config", "runtime_config"),
        *("init_ia3_weights", "feedforward_modules", "megatron_core", "megatron_config", "qalora_group_size"),
    )
)  # fmt: skip
# What is read, each with the values that are.
_READ = frozenset(
    ("r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save")
)  # fmt: skip
# Of what adapter_config.json has as an object, or as a list.
_TYPES = {"rank_pattern": dict, "alpha_pattern": dict, "modules_to_save": list}
_INITIAL = (True, False, "gaussian", "eva", "orthogonal")  # the others change the base's weights
_BIASES = ("none", "all", "lora_only")
_NOTHING: tuple[Any, ...] = (None, False, "none", {}, [], ())
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")


class LowRank(nn.Module):
    """A layer with a product of two low-rank matrices beside it: y = layer(x) + s B A x."""

    def __init__(
        self, layer: nn.Module, a: Tensor, b: Tensor, scale: float, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.base_layer = layer
        rank, inside = a.shape
        self.lora_A = nn.Linear(inside, rank, bias=False)
        self.lora_B = nn.Linear(rank, b.shape[0], bias=bias is not None)
        self.lora_A.weight, self.lora_B.weight = nn.Parameter(a), nn.Parameter(b)
        if bias is not None:
            self.lora_B.bias = nn.Parameter(bias)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        found: Tensor = self.base_layer(x) + self.lora_B(self.lora_A(x)) * self.scale
        return found


class Rescaled(LowRank):
    """DoRA: y = m / ‖W + s B A‖ (W + s B A) x + bias, a length m each output; the norm is held constant, as in peft."""

    def __init__(
        self, layer: nn.Module, a: Tensor, b: Tensor, scale: float, magnitude: Tensor
    ) -> None:
        super().__init__(layer, a, b, scale)
        self.lora_magnitude_vector = nn.Parameter(magnitude)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        weight: Any = self.base_layer.weight
        bias: Any = self.base_layer.bias
        weight = weight.T if _by_inputs(self.base_layer) else weight
        weight = weight + self.scale * (self.lora_B.weight @ self.lora_A.weight)
        share = self.lora_magnitude_vector / weight.norm(dim=1).detach()
        found = F.linear(x, weight) * share
        return found if bias is None else found + bias


class LowRankLookup(nn.Module):
    """An embedding with a product of two low-rank matrices beside it: a token's row, and s B times its column of A."""

    def __init__(self, table: nn.Module, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base_layer = table
        self.lora_embedding_A, self.lora_embedding_B = nn.Parameter(a), nn.Parameter(b)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        """(…) of tokens to (…, width)."""
        found: Tensor = self.base_layer(tokens)
        return (
            found
            + F.embedding(tokens, self.lora_embedding_A.T) @ self.lora_embedding_B.T * self.scale
        )


class Scaled(nn.Module):
    """IA³: a layer whose outputs, or inputs (`inside`), are multiplied by a number each."""

    def __init__(self, layer: nn.Module, scale: Tensor, *, inside: bool) -> None:
        super().__init__()
        self.base_layer, self.inside = layer, inside
        self.ia3_l = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        scale = self.ia3_l.flatten()
        found: Tensor = self.base_layer(x * scale) if self.inside else self.base_layer(x) * scale
        return found


def adapt(module: nn.Module, config: Mapping[str, Any], weights: Path) -> None:
    """Puts the adapter into the module, all else of which is held fixed. Raises ConfigRefused, StateMismatch."""
    _require_known(config)
    parts, plain = _sorted_out(read_tensors(weights, f"{_AT}/weights"), config)
    dtype = next(each.dtype for each in module.parameters())
    module.requires_grad_(False)
    # Before layers move: these are called as in the base.
    _train(module, {name: each.to(dtype) for name, each in plain.items()}, config)
    for path, tensors in parts.items():
        layer = _layer(module, path)
        parent, _, name = path.rpartition(".")
        typed = {part: each.to(dtype) for part, each in tensors.items()}
        setattr(module.get_submodule(parent), name, _adapted(path, layer, typed, config))


def _adapted(
    path: str, layer: nn.Module, tensors: dict[str, Tensor], config: Mapping[str, Any]
) -> nn.Module:
    if "scale" in tensors:
        out, inside = _sizes(path, layer)
        shape = tuple(tensors["scale"].shape)
        if shape not in ((out, 1), (1, inside)):
            raise _unlike(
                f"has ia3_l of {path[:200]} with shape {list(shape)}, and the base takes {[out, 1]} or {[1, inside]}"
            )
        return Scaled(layer, tensors["scale"], inside=shape == (1, inside))
    if "embedding A" in tensors:
        return _lookup(path, layer, tensors, config)
    a, b = tensors["A"], tensors["B"]
    out, inside = _sizes(path, layer)
    rank = _rank(path, config)
    wanted = {"A": (rank, inside), "B": (out, rank), "bias": (out,), "magnitude": (out,)}
    _require_shapes(path, tensors, wanted)
    if ("magnitude" in tensors) != bool(config.get("use_dora")):
        raise _unlike(
            f"has {'a' if 'magnitude' in tensors else 'no'} lora_magnitude_vector of {path[:200]}, and its config "
            f"says 'use_dora': {bool(config.get('use_dora'))}"
        )
    scale = _scale(path, config, rank)
    if "magnitude" not in tensors:
        return LowRank(layer, a, b, scale, tensors.get("bias"))
    if "bias" in tensors:
        raise _refused("lora_bias", "with 'use_dora'")
    return Rescaled(layer, a, b, scale, tensors["magnitude"])


def _lookup(
    path: str, table: nn.Module, tensors: dict[str, Tensor], config: Mapping[str, Any]
) -> nn.Module:
    if type(table) is not nn.Embedding or table.max_norm is not None:
        raise _unlike(
            f"is for {path[:200]}, a {type(table).__name__}; lora_embedding belongs to an Embedding"
        )
    if "magnitude" in tensors:
        raise _refused("use_dora", "over an embedding")
    rank = _rank(path, config)
    size, width = table.weight.shape
    _require_shapes(path, tensors, {"embedding A": (rank, size), "embedding B": (width, rank)})
    scale = _scale(path, config, rank)
    return LowRankLookup(table, tensors["embedding A"], tensors["embedding B"], scale)


def _require_known(config: Mapping[str, Any]) -> None:
    """Raises ConfigRefused for a kind, or for a setting, that is not read here."""
    kind = _kind(config)
    if kind not in _KINDS:
        prompts = "PROMPT" in kind or kind in ("PREFIX_TUNING", "P_TUNING", "CPT")
        more = (
            ", whose outputs begin with the prompt's positions: put -100 as targets there"
            if prompts
            else ""
        )
        raise ConfigRefused(
            f"peft_type {str(config.get('peft_type'))[:100]!r} is not read from its config; LORA and IA3 are. Register "
            f"the live model that peft wrapped instead: it is exported with its base{more}",
            field=f"{_AT}/config/peft_type",
        )
    for name, value in config.items():
        if name == "bias":
            known = value in _BIASES
        elif name == "init_lora_weights":
            known = value in _INITIAL
        elif name in _TYPES:
            known = value is None or isinstance(value, _TYPES[name])
        else:
            known = name in _HARMLESS or name in _READ or value in _NOTHING
        if not known:
            raise _refused(name, f"{str(value)[:100]}")
    if kind == "IA3":
        return
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise ConfigRefused(
            "the adapter's config needs whole 'r' above 0 and a number 'lora_alpha'; send the adapter_config.json that "
            "save_pretrained wrote",
            field=f"{_AT}/config",
        )


def _kind(config: Mapping[str, Any]) -> str:
    return str(config.get("peft_type")).rpartition(".")[2]


def _refused(name: str, words: str) -> ConfigRefused:
    return ConfigRefused(
        f"the adapter's config has {name[:100]!r}: {words}, which is not read here; register the live model that peft "
        "wrapped instead",
        field=f"{_AT}/config/{name[:100]}",
    )


def _rank(path: str, config: Mapping[str, Any]) -> int:
    return int(_of_layer("rank_pattern", path, config, config["r"]))


def _scale(path: str, config: Mapping[str, Any], rank: int) -> float:
    alpha = _of_layer("alpha_pattern", path, config, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_layer(pattern: str, path: str, config: Mapping[str, Any], usual: Any) -> Any:
    """The value of the layer's name, or of what it ends with; peft takes expressions, which are refused here."""
    found = set()
    for key, value in (config.get(pattern) or {}).items():
        if (
            not _PLAIN.fullmatch(key)
            or isinstance(value, bool)
            or not isinstance(value, int | float)
            or value <= 0
        ):
            raise _refused(pattern, f"{key[:100]!r}: {str(value)[:100]}")
        if path == key or path.endswith(f".{key}"):
            found.add(value)
    if len(found) > 1:
        raise _refused(pattern, f"several values for {path[:200]}")
    return found.pop() if found else usual


def _sorted_out(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Parts by the path of their layer, and tensors that stand in the place of the base's, by their names there."""
    parts: dict[str, dict[str, Tensor]] = {}
    plain: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        if not name.startswith(_PREFIX):
            raise _unlike(f"has {name[:200]}, which is no part of one")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise _unlike(f"has NaN or infinity, or no real numbers, in {name[:200]}")
        own = name[len(_PREFIX) :].removesuffix(".weight" if "lora_magnitude" in name else "")
        end = next((each for each in _ENDS if own.endswith(each)), None)
        if end is not None:
            parts.setdefault(own[: -len(end)], {})[_ENDS[end]] = tensor
        elif _is_trained(own, config):
            plain[own.replace(".base_layer.", ".")] = tensor
        else:
            raise _unlike(
                f"has {name[:200]}, which is no part of one, and neither 'modules_to_save' nor 'bias' names it"
            )
    for path, each in parts.items():
        has = " and ".join(sorted(each))
        needed, beside = next((whole for whole in _WHOLE if whole[0] & each.keys()), _WHOLE[-1])
        if not needed <= each.keys() <= needed | beside:
            raise _unlike(f"has {has} of {path[:200]}, where lora_A and lora_B go together")
        if (_SCALED in each) != (_kind(config) == "IA3"):
            raise _unlike(f"has {has} of {path[:200]}, and its config says {_kind(config)}")
    if not parts:
        raise _unlike("holds no tensors of layers")
    return parts, plain


def _is_trained(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the config says that a tensor of the base's own trains, too."""
    if name.endswith(".bias") and config.get("bias", "none") != "none":
        return True
    return _saved_module(name, config) is not None


def _saved_module(name: str, config: Mapping[str, Any]) -> str | None:
    """The path of the module among `modules_to_save` that a tensor is in."""
    kept = config.get("modules_to_save") or ()
    pieces = name.split(".")
    paths = (".".join(pieces[:end]) for end in range(1, len(pieces)))
    return next((path for path in paths if path.endswith(tuple(map(str, kept)))), None)


def _train(module: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Puts the tensors into the base, and lets them train. A saved module has weights of its own, as in peft."""
    saved = {path for name in tensors if (path := _saved_module(name, config)) is not None}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        owner = _layer(module, path)
        held = getattr(owner, last, None)
        if not isinstance(held, nn.Parameter):
            raise _unlike(f"has {name[:200]}, which is no parameter of the base")
        if held.shape != tensor.shape:
            raise _unlike(
                f"has {name[:200]} with shape {list(tensor.shape)}, and the base {list(held.shape)}"
            )
        if _saved_module(name, config) is not None:
            setattr(owner, last, nn.Parameter(tensor))
        else:
            with torch.no_grad():
                held.copy_(tensor)
            held.requires_grad_(True)
    for path in saved:
        for name, _ in _layer(module, path).named_parameters(remove_duplicate=False):
            if f"{path}.{name}" not in tensors:
                raise _unlike(f"lacks {path[:200]}.{name[:200]}, a part of 'modules_to_save'")


def _layer(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise _unlike(f"is for a layer {path[:200]!r}, which the base does not have") from None


def _by_inputs(layer: nn.Module) -> bool:
    """Whether it is transformers' own linear layer, whose weight is (in, out)."""
    return type(layer).__name__ == "Conv1D"


def _sizes(path: str, layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer. Raises StateMismatch for another."""
    if not isinstance(layer, nn.Linear) and not _by_inputs(layer):
        raise _unlike(
            f"is for {path[:200]}, a {type(layer).__name__}; linear layers and embeddings are read from a config"
        )
    weight = layer.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (columns, rows) if _by_inputs(layer) else (rows, columns)


def _require_shapes(
    path: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    for part, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[part]:
            raise _unlike(
                f"has lora_{part.replace(' ', '_')} of {path[:200]} with shape {list(tensor.shape)}, and the base and "
                f"r take {list(wanted[part])}"
            )


def _unlike(words: str) -> StateMismatch:
    return StateMismatch(
        f"the adapter {words}: check that it was trained over this base, and send the adapter_model.safetensors that "
        "save_pretrained wrote",
        field=f"{_AT}/weights",
    )
