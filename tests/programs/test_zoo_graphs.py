"""Known networks, by name, whose products are taken by their own graph, as the SDK exports and workers read them.

`make test-zoo` installs the packages; without it, those that are not installed are skipped. Sizes are small; the
operators are those of the whole networks.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.exact import relative
from upweight.export.program import save_program
from workers.engine import Batch, Problem, derivatives_used, make_loss
from workers.engine.autodiff.graph.linearized import analytic_hvp
from workers.engine.autodiff.hvp import ReverseLoop
from workers.engine.autodiff.select import probe_vectors
from workers.engine.model.second_order import twice_differentiable
from workers.programs.pt2 import read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, while they are imported
SMALL: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 8,
}  # fmt: skip
TIMM: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "vit_tiny_patch16_224": {
        "img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 8, "num_heads": 2
    },
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4)},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32, "window_size": 4, "depths": (2, 2), "embed_dim": 8, "num_heads": (2, 2)
    },
}  # fmt: skip


class Logits(nn.Module):
    """What the loss takes of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.model(tokens).logits
        return found


# Operators of torchvision's compiled part, which no network here calls.
COMPILED = (
    *("nms", "qnms", "roi_align", "qroi_align", "_roi_align_backward"),
    *("roi_pool", "_roi_pool_backward", "ps_roi_align", "_ps_roi_align_backward"),
    *("ps_roi_pool", "_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward"),
)


def package(name: str) -> Any:
    """A package by name; where CI installs it, it is not skipped."""
    if os.environ.get("UPWEIGHT_REQUIRE_ZOO"):
        return importlib.import_module(name)
    return pytest.importorskip(name, exc_type=Exception)


@lru_cache
def declared() -> torch.library.Library:
    """Of a build for another torch the compiled part does not load, and the rest asks only for its operators' names."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    if find_spec("torchvision") is not None and not loads_compiled():
        for name in COMPILED:
            library.define(f"{name}(Tensor given) -> Tensor")  # type: ignore[no-untyped-call]
    return library


def loads_compiled() -> bool:
    found = find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    try:
        torch.ops.load_library(next(Path(found.origin).parent.glob("_C*.so")))  # type: ignore[no-untyped-call]
    except (OSError, StopIteration):
        return False
    return True


def of_torchvision(name: str) -> nn.Module:
    declared()
    models = package("torchvision").models
    if name == "vit":
        return models.VisionTransformer(32, 16, 1, 2, 8, 12, num_classes=3)
    if name == "convnext":
        block = models.convnext.CNBlockConfig
        return models.ConvNeXt([block(4, 8, 1), block(8, None, 1)], num_classes=3)
    if name == "swin":
        return models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3)
    return getattr(models, name)(num_classes=3)


def of_timm(name: str) -> nn.Module:
    declared()
    timm = package("timm")
    return timm.create_model(name, num_classes=3, **TIMM[name])


def of_transformers(name: str) -> nn.Module:
    library = pytest.importorskip("transformers")
    if name == "GPT2LMHeadModel":
        sizes = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
        return Logits(library.GPT2LMHeadModel(library.GPT2Config(**sizes)))
    kind = name.removesuffix("ForSequenceClassification").removesuffix("ForCausalLM")
    more = {"num_key_value_heads": 1} if name.endswith("ForCausalLM") else {"num_labels": 3}
    config = getattr(library, f"{kind}Config")(**SMALL, **more)
    return Logits(getattr(library, name)(config))


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32)


def tokens() -> Tensor:
    return torch.randint(2, 20, (3, 4))


Source = tuple[Callable[[str], nn.Module], str, Callable[[], Tensor]]
CASES: list[Source] = [
    *((of_torchvision, each, images) for each in ("resnet18", "mobilenet_v2", "mobilenet_v3_small")),
    *((of_torchvision, each, images) for each in ("vit", "convnext", "swin")),
    *((of_timm, each, images) for each in TIMM),
    *(
        (of_transformers, each, tokens)
        for each in ("GPT2LMHeadModel", "BertForSequenceClassification", "LlamaForCausalLM")
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "name", "example"), CASES, ids=[f"{s.__name__[3:]}-{n}" for s, n, _ in CASES]
)
def test_products_are_by_the_graph_and_are_autograds(
    source: Callable[[str], nn.Module], name: str, example: Callable[[], Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, given = source(name).eval(), example()
    save_program(model, given, tmp_path / "model.pt2")
    with torch.no_grad():
        outputs = model(given)
    by_token = outputs.ndim > 2
    loss = make_loss("cross_entropy", class_axis=-1) if by_token else make_loss("cross_entropy")
    module = read_pt2(tmp_path / "model.pt2").module
    problem = Problem(module, loss, ["*"], dtype=torch.float64)
    batch = problem.placed(Batch((given,), given if by_token else torch.arange(3) % 3, 0))
    way, vectors = analytic_hvp(problem), probe_vectors(problem)
    assert way is not None
    with twice_differentiable():
        found = way.prepare(problem, batch)(vectors)
        expected = ReverseLoop().prepare(problem, batch)(vectors)
    assert relative(found, expected) < 1e-11
    assert derivatives_used(problem, batch) == {"product": "graph"}
