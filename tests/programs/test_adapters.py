"""What each kind of adapter makes of a base, against its formula written out over the base's weights, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call

from tests import huggingface_models
from workers.programs.adapters import adapt
from workers.programs.errors import ProgramError

pytestmark = pytest.mark.filterwarnings("ignore")
ATTENTION, INNER = "transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj"  # (in, out) both
TABLE = "transformer.wte"
# What peft 0.21 writes of an adapter for which nothing else was asked.
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none", "init_lora_weights": True, "use_dora": False,
         "megatron_core": "megatron.core", "qalora_group_size": 16, "fan_in_fan_out": True, "rank_pattern": {},
         "alpha_pattern": {}, "modules_to_save": None, "target_modules": ["c_attn"]}  # fmt: skip
SCALE = 1.5
Weights = dict[str, Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def language() -> Any:
    return huggingface_models.language_model(vocabulary=9, width=4, positions=5).double()


def low_rank(path: str, out: int, inside: int, rank: int = 2) -> Weights:
    return {
        f"{path}.lora_A.weight": drawn(rank, inside),
        f"{path}.lora_B.weight": drawn(out, rank, seed=1),
    }


def product(tensors: Weights, path: str = ATTENTION, scale: float = SCALE) -> Tensor:
    """s B A as (in, out)."""
    return scale * (tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"]).T


def linear(base: Weights, t: Weights) -> Weights:
    return {f"{ATTENTION}.weight": base[f"{ATTENTION}.weight"] + product(t)}


def with_its_bias(base: Weights, t: Weights) -> Weights:
    bias = base[f"{ATTENTION}.bias"] + SCALE * t[f"{ATTENTION}.lora_B.bias"]
    return {**linear(base, t), f"{ATTENTION}.bias": bias}


def by_patterns(base: Weights, t: Weights) -> Weights:
    return {f"{ATTENTION}.weight": base[f"{ATTENTION}.weight"] + product(t, scale=5 / 3)}


def rescaled(base: Weights, t: Weights) -> Weights:
    whole = base[f"{ATTENTION}.weight"] + product(t)
    return {
        f"{ATTENTION}.weight": whole
        / whole.norm(dim=0).detach()
        * t[f"{ATTENTION}.lora_magnitude_vector"]
    }


def lookup(base: Weights, t: Weights) -> Weights:
    more = SCALE * (t[f"{TABLE}.lora_embedding_B"] @ t[f"{TABLE}.lora_embedding_A"]).T
    # The head keeps the base's table, which it shares.
    return {f"{TABLE}.weight": base[f"{TABLE}.weight"] + more, "lm_head.weight": base["lm_head.weight"]}  # fmt: skip


def scaled(base: Weights, t: Weights) -> Weights:
    out, inside = t[f"{ATTENTION}.ia3_l"].flatten(), t[f"{INNER}.ia3_l"].flatten()
    return {
        f"{ATTENTION}.weight": base[f"{ATTENTION}.weight"] * out,
        f"{ATTENTION}.bias": base[f"{ATTENTION}.bias"] * out,
        f"{INNER}.weight": base[f"{INNER}.weight"] * inside[:, None],
    }


def with_a_head(base: Weights, t: Weights) -> Weights:
    return {**linear(base, t), "lm_head.weight": t["lm_head.weight"]}


def with_biases(base: Weights, t: Weights) -> Weights:
    return {
        **linear(base, t),
        f"{ATTENTION}.bias": t[f"{ATTENTION}.base_layer.bias"],
        "transformer.ln_f.bias": t["transformer.ln_f.bias"],
    }


PAIR = low_rank(ATTENTION, 12, 4)
KINDS: dict[str, tuple[dict[str, Any], Weights, Callable[[Weights, Weights], Weights]]] = {
    "lora": ({}, PAIR, linear),
    "lora with a bias": (
        {"lora_bias": True},
        {**PAIR, f"{ATTENTION}.lora_B.bias": drawn(12, seed=2)},
        with_its_bias,
    ),
    "patterns": (
        {"rank_pattern": {"c_attn": 3}, "alpha_pattern": {"attn.c_attn": 5, "mlp.c_fc": 7}},
        low_rank(ATTENTION, 12, 4, rank=3),
        by_patterns,
    ),
    "dora": (
        {"use_dora": True},
        {**PAIR, f"{ATTENTION}.lora_magnitude_vector": drawn(12, seed=2)},
        rescaled,
    ),
    "embedding": (
        {},
        {f"{TABLE}.lora_embedding_A": drawn(2, 9), f"{TABLE}.lora_embedding_B": drawn(4, 2)},
        lookup,
    ),
    "ia3": (
        {"peft_type": "IA3", "feedforward_modules": ["mlp.c_proj"]},
        {f"{ATTENTION}.ia3_l": drawn(12, 1), f"{INNER}.ia3_l": drawn(1, 4 * 4)},
        scaled,
    ),
    "a head that is saved": (
        {"modules_to_save": ["lm_head", "score"]},
        {**PAIR, "lm_head.weight": drawn(9, 4, seed=2)},
        with_a_head,
    ),
    "biases": (
        {"bias": "all"},
        {
            **PAIR,
            f"{ATTENTION}.base_layer.bias": drawn(12, seed=2),
            "transformer.ln_f.bias": drawn(4, seed=3),
        },
        with_biases,
    ),
}


def written(folder: Path, tensors: Weights) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file({f"base_model.model.{name}": each.contiguous() for name, each in tensors.items()}, path)  # fmt: skip
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_its_formula(tmp_path: Path, kind: str) -> None:
    """Scores, and their gradients in all that trains and nothing else."""
    config, tensors, formula = KINDS[kind]
    module, plain = language(), language()
    base = {name: each.detach() for name, each in plain.named_parameters(remove_duplicate=False)}
    adapt(module, {**PLAIN, **config}, written(tmp_path, tensors))
    ids = torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(0))
    own = {name: each.clone().requires_grad_() for name, each in tensors.items()}
    weights = {**base, **formula(base, own)}
    expected = functional_call(plain, weights, (), {"input_ids": ids}, tie_weights=False).logits
    found = module(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-12
    assert (expected - plain(input_ids=ids).logits).abs().max() > 1e-3

    def gradients(scores: Tensor, of: list[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad((scores * drawn(*scores.shape, seed=9)).sum(), of))

    trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
    assert len(trained) == len(own)
    by_name = dict(zip(own, gradients(expected, list(own.values())), strict=True))
    for name, gradient in zip(trained, gradients(found, list(trained.values())), strict=True):
        assert (gradient - by_name[name]).abs().max() < 1e-11, name


@pytest.mark.parametrize(
    ("config", "more", "words"),
    [
        ({"peft_type": "VERA"}, {}, "LORA and IA3 are"),
        ({"peft_type": "PROMPT_TUNING"}, {}, "put -100 as targets there"),
        ({"init_lora_weights": "pissa"}, {}, "'init_lora_weights': pissa"),
        ({"trainable_token_indices": [1]}, {}, "'trainable_token_indices'"),
        ({"rank_pattern": {"c_(a|b)": 2}}, {}, r"'rank_pattern': 'c_\(a"),
        ({"rank_pattern": {"c_attn": 2, "attn.c_attn": 3}}, {}, "several values"),
        ({"use_dora": True}, {}, "no lora_magnitude_vector"),
        ({}, {f"{ATTENTION}.lora_magnitude_vector": drawn(12)}, "'use_dora': False"),
        ({}, {f"{ATTENTION}.ia3_l": drawn(12, 1)}, "lora_A and lora_B go together"),
        ({}, {"lm_head.weight": drawn(9, 4)}, "neither 'modules_to_save' nor 'bias' names it"),
        ({"modules_to_save": ["h.0.mlp"]}, {"transformer.h.0.mlp.c_fc.bias": drawn(16)}, "lacks transformer.h.0.mlp"),
        ({"modules_to_save": ["lm_head"]}, {"lm_head.weight": drawn(8, 4)}, r"\[8, 4\], and the base \[9, 4\]"),
        ({}, low_rank("transformer.ln_f", 4, 4), "a LayerNorm"),
        ({}, {f"{INNER}.lora_magnitude_vector": drawn(4)}, "has magnitude of transformer.h.0.mlp.c_proj"),
        ({}, {f"{INNER}.lora_B.bias": drawn(4)}, "has bias of transformer.h.0.mlp.c_proj"),
        (
            {"lora_bias": True},
            {
                f"{TABLE}.lora_embedding_A": drawn(2, 9),
                f"{TABLE}.lora_embedding_B": drawn(4, 2),
                f"{TABLE}.lora_B.bias": drawn(4),
            },
            "has bias and embedding A",
        ),
        ({"peft_type": "IA3"}, {}, "has A and B of transformer.h.0.attn.c_attn, and its config says IA3"),
        ({}, {f"{INNER}.ia3_l": drawn(1, 16)}, "has scale of transformer.h.0.mlp.c_proj, and its config says LORA"),
        ({"rank_pattern": ["c_attn"]}, {}, "'rank_pattern'"),
        ({"modules_to_save": "lm_head"}, {"lm_head.weight": drawn(9, 4)}, "'modules_to_save': lm_head"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], more: Weights, words: str
) -> None:
    with pytest.raises(ProgramError, match=words):
        adapt(language(), {**PLAIN, **config}, written(tmp_path, {**PAIR, **more}))
