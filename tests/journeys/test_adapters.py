"""LoRA adapters over a Hugging Face model that is stored once, against W + s B A written out, in float64."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from tests import huggingface_models
from upweight import Client, errors
from upweight.cli.command import command
from upweight.cli.exits import run

ROWS, DAMPING, RANK, ALPHA = 7, 0.3, 2, 3
LAYER = "transformer.h.0.attn.c_attn"  # transformers' Conv1D, (in, out)
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": ["c_attn"],
          "base_model_name_or_path": "somewhere", "task_type": "CAUSAL_LM", "lora_dropout": 0.1,
          "megatron_core": "megatron.core", "qalora_group_size": 16, "init_lora_weights": True}  # fmt: skip
NAME = "base-of-adapters"
pytestmark = pytest.mark.filterwarnings("ignore")


def pair() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"A": (RANK, 4), "B": (12, RANK)}
    return {
        f"base_model.model.{LAYER}.lora_{name}.weight": torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def saved(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def language() -> Any:
    return huggingface_models.language_model(vocabulary=9, width=4, positions=5)


@pytest.fixture(scope="module")
def base(online: Client, language: Any) -> str:
    online.models.register(NAME, language, loss="cross_entropy")
    ids = torch.randint(1, 9, (ROWS, 5), generator=torch.Generator().manual_seed(0))
    targets = torch.cat([ids[:, 1:], torch.full((ROWS, 1), -100)], 1)
    online.datasets.register(NAME, input_ids=ids, y=targets)
    return NAME


def exact(language: Any, scale: float) -> np.ndarray[Any, Any]:
    """Influences over A and B alone, of the empirical Fisher matrix."""
    model = copy.deepcopy(language).double()
    weights = {name: each.detach() for name, each in model.named_parameters()}
    a, b = (each.double().requires_grad_() for each in pair().values())
    ids = torch.randint(1, 9, (ROWS, 5), generator=torch.Generator().manual_seed(0))
    rows = []
    for x in ids:
        changed = {**weights, f"{LAYER}.weight": weights[f"{LAYER}.weight"] + scale * (b @ a).T}
        scores = functional_call(model, changed, (), {"input_ids": x[None]}).logits[0]
        gradients = torch.autograd.grad(F.cross_entropy(scores[:-1], x[1:]), [a, b])
        rows.append(torch.cat([each.flatten() for each in gradients]))
    g = torch.stack(rows)
    c = g.T @ g / ROWS + DAMPING * torch.eye(g.shape[1], dtype=torch.float64)
    return (g @ torch.linalg.solve(c, g.T)).numpy()


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_is_what_trains_over_a_base_that_is_stored_once(
    online: Client, base: str, language: Any, fresh_name: str, tmp_path: Path, rslora: bool
) -> None:
    folder = saved(tmp_path / "adapter", pair(), use_rslora=rslora)
    model = online.models.register(fresh_name, base=base, adapter=folder, loss="cross_entropy")
    assert [each.name for each in model.selected] == [
        f"{LAYER}.lora_A.weight",
        f"{LAYER}.lora_B.weight",
    ]
    assert model.program.weights == online.models.get(base).program.weights
    result = online.compute_influences(
        fresh_name, base, base, curvature="empirical_fisher", hessian_regularization=DAMPING, precision="float64"
    )  # fmt: skip
    scale = ALPHA / (RANK**0.5 if rslora else RANK)
    np.testing.assert_allclose(result.numpy(), exact(language, scale), rtol=1e-6, atol=1e-9)


def test_the_live_model_that_peft_wrapped_and_the_command_send_the_same(
    online: Client, base: str, fresh_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**CONFIG, "target_modules": {"c_attn"}}
    own = {name.replace(".weight", ".default.weight"): each for name, each in pair().items()}
    # What is asked of a PeftModel, with its adapter's name in each key.
    wrapped = SimpleNamespace(
        active_adapter="default",
        peft_config={"default": SimpleNamespace(to_dict=lambda: config)},
        state_dict=lambda: {**own, f"base_model.model.{LAYER}.base_layer.weight": torch.zeros(4)},
    )
    live = online.models.register(fresh_name, base=base, adapter=wrapped, loss="cross_entropy")
    folder = saved(tmp_path / "adapter", pair())
    monkeypatch.setenv("UPWEIGHT_URL", online.connection.url)
    loss = '{"name": "cross_entropy", "class_axis": -1}'
    arguments = ("--base", base, "--adapter", str(folder), "--loss", loss)
    assert not run(command, ("models", "register", fresh_name, *arguments))
    assert online.models.get(fresh_name).program.adapter.weights == live.program.adapter.weights


def changed(**tensors: Tensor) -> dict[str, Tensor]:
    return {**pair(), **{f"base_model.model.{name}": each for name, each in tensors.items()}}


REFUSED: list[tuple[dict[str, Any], dict[str, Tensor], str]] = [
    ({"peft_type": "VERA"}, pair(), "'VERA' is not read from its config"),
    ({"init_lora_weights": "pissa"}, pair(), "'init_lora_weights'"),
    ({"r": 3}, pair(), r"lora_A of .* with shape \[2, 4\], and the base and r take \[3, 4\]"),
    ({}, changed(**{f"{LAYER}.lora_B.weight": torch.ones(11, RANK)}), r"\[11, 2\].* \[12, 2\]"),
    ({}, changed(**{"nowhere.lora_A.weight": torch.ones(RANK, 4)}), "A of nowhere, where lora_A and lora_B go"),
    ({}, changed(**{f"nowhere.lora_{each}.weight": torch.ones(2, 2) for each in "AB"}), "'nowhere', which the base"),
    ({}, changed(**{"lm_head.modules_to_save": torch.ones(2)}), "neither 'modules_to_save' nor 'bias' names it"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "tensors", "words"), REFUSED)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    online: Client,
    base: str,
    fresh_name: str,
    tmp_path: Path,
    config: Any,
    tensors: Any,
    words: str,
) -> None:
    folder = saved(tmp_path / "adapter", tensors, **config)
    with pytest.raises(errors.Rejected, match=words):
        online.models.register(fresh_name, base=base, adapter=folder, loss="cross_entropy")


def test_a_base_that_is_missing_or_no_hugging_face_model_is_refused(
    online: Client, iris: Any, fresh_name: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "adapter", pair())
    with pytest.raises(errors.NotFound, match="no-such-base"):
        online.models.register(
            fresh_name, base="no-such-base", adapter=folder, loss="cross_entropy"
        )
    with pytest.raises(errors.InvalidRequest, match="register the live model that peft wrapped"):
        online.models.register(fresh_name, base=iris.name, adapter=folder, loss="cross_entropy")
    with pytest.raises(errors.InvalidRequest, match=r"no adapter_config.json"):
        online.models.register(fresh_name, base=NAME, adapter=tmp_path, loss="cross_entropy")
    with pytest.raises(errors.InvalidRequest, match="give both"):
        online.models.register(fresh_name, adapter=folder, loss="cross_entropy")
