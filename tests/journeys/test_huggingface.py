"""Hugging Face models through the whole service, held against the formula on transformers' own classes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests import huggingface_models
from tests.journeys.formulas import Formula
from upweight import Client
from upweight.errors import InvalidRequest, Rejected

ROWS, TEST, DAMPING = 8, 2, 0.5
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def classifier() -> Any:
    return huggingface_models.classifier(vocabulary=9, width=4, inner=5, positions=5)


@pytest.fixture(scope="module")
def language() -> Any:
    return huggingface_models.language_model(vocabulary=9, width=4, positions=5)


class Masked(nn.Module):
    """A classifier of tokens and mask in one tensor, (B, 2, T), as the formula takes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, both: Tensor) -> Tensor:
        return self.model(input_ids=both[:, 0], attention_mask=both[:, 1]).logits


class Scores(nn.Module):
    """The scores alone, of tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids).logits


class Pictured(nn.Module):
    """An image classifier's scores alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


def selecting(module: nn.Module, *parts: str) -> nn.Module:
    """The module whose parameters are those of these parts alone, so that the formula's Hessian stays small."""
    ours = copy.deepcopy(module)
    for name, value in list(ours.named_parameters(remove_duplicate=False)):
        if not any(part in name for part in parts):
            path, _, last = name.rpartition(".")
            owner = ours.get_submodule(path)
            delattr(owner, last)
            owner.register_buffer(last, value.detach())
    return ours


def tokens() -> Tensor:
    return torch.randint(1, 9, (ROWS, 5), generator=torch.Generator().manual_seed(0))


def lengths() -> Tensor:
    return (2 + torch.arange(ROWS) % 4)[:, None]


def influences(client: Client, name: str) -> np.ndarray[Any, Any]:
    result = client.compute_influences(
        name, name, name, test_rows=f"0:{TEST}", inversion_method="direct",
        hessian_regularization=DAMPING, precision="float64",
    )  # fmt: skip
    assert result.info["product"] == "graph", result.info
    return result.numpy()


def test_a_classifier_with_a_mask_gives_the_influences_of_the_formula(
    online: Client, fresh_name: str, classifier: Any
) -> None:
    ids, mask = tokens(), (torch.arange(5)[None] < lengths()).long()
    labels = torch.arange(ROWS) % 3
    columns = {"input_ids": ids, "attention_mask": mask}
    model = online.models.register(
        fresh_name, classifier, example={n: c[:2] for n, c in columns.items()}, loss="cross_entropy",
        parameters=["classifier.*", "*.self.query.*"],
    )  # fmt: skip
    assert [each.name for each in model.selected][-2:] == ["classifier.weight", "classifier.bias"]
    online.datasets.register(
        fresh_name, **columns, y=labels, inputs=list(columns), targets=["y"]
    )  # fmt: skip
    both = torch.stack([ids, mask], dim=1)
    reference = selecting(Masked(classifier), "classifier", "self.query")
    formula = Formula(reference, F.cross_entropy, both, labels, DAMPING)
    exact = formula.up(formula.factors(both[:TEST], labels[:TEST]), both, labels)
    assert np.abs(influences(online, fresh_name) - exact.numpy()).max() < 1e-9


def test_a_language_model_gives_the_influences_of_the_formula(
    online: Client, fresh_name: str, language: Any
) -> None:
    """Targets are the next tokens, and -100 where there is none or only padding follows."""
    ids = tokens()
    targets = torch.cat([ids[:, 1:], torch.full((ROWS, 1), -100)], dim=1)
    targets = torch.where(torch.arange(5)[None] < lengths() - 1, targets, -100)
    parameters = ["transformer.h.0.attn.c_attn.*"]
    online.models.register(fresh_name, language, loss="cross_entropy", parameters=parameters)
    online.datasets.register(fresh_name, x=ids, y=targets)

    def mean_loss(scores: Tensor, goal: Tensor) -> Tensor:
        each = F.cross_entropy(scores.transpose(1, 2), goal, reduction="none")
        return (each.sum(1) / (goal != -100).sum(1)).mean()

    formula = Formula(selecting(Scores(language), "attn.c_attn"), mean_loss, ids, targets, DAMPING)
    exact = formula.up(formula.factors(ids[:TEST], targets[:TEST]), ids, targets)
    assert np.abs(influences(online, fresh_name) - exact.numpy()).max() < 1e-9


def test_a_live_model_with_another_head_is_exported_like_any_module(
    online: Client, fresh_name: str
) -> None:
    """A classifier of tokens, of a type that the operator has not allowed; its classes are in the last axis."""
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    torch.manual_seed(0)
    tagger = DistilBertForTokenClassification(
        DistilBertConfig(
            vocab_size=9, dim=4, n_layers=1, n_heads=2, hidden_dim=5, max_position_embeddings=5, num_labels=5
        )
    ).train()  # fmt: skip
    ids, tags = tokens(), torch.randint(0, 5, (ROWS, 5), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(5)[None] < lengths()).long()
    columns = {"input_ids": ids, "attention_mask": mask}
    model = online.models.register(
        fresh_name, tagger, example={name: each[:2] for name, each in columns.items()},
        loss="cross_entropy", parameters=["classifier.*", "*.q_lin.*"],
    )  # fmt: skip
    assert model.program.format == "pt2"
    assert tagger.training
    online.datasets.register(fresh_name, **columns, y=tags, inputs=list(columns), targets=["y"])

    def mean_loss(scores: Tensor, goal: Tensor) -> Tensor:
        return F.cross_entropy(scores.transpose(1, 2), goal)

    both = torch.stack([ids, mask], dim=1)
    reference = selecting(Masked(tagger), "classifier", "q_lin").eval()
    formula = Formula(reference, mean_loss, both, tags, DAMPING)
    with sdpa_kernel(SDPBackend.MATH):
        exact = formula.up(formula.factors(both[:TEST], tags[:TEST]), both, tags)
    assert np.abs(influences(online, fresh_name) - exact.numpy()).max() < 1e-9


def test_a_language_model_with_a_mask_is_exported(
    online: Client, fresh_name: str, language: Any
) -> None:
    """Of rows that are padded on the left; which of its outputs the loss takes need not be said."""
    mask = (torch.arange(5)[None] >= 5 - lengths()).long()
    ids = tokens() * mask
    columns = {"input_ids": ids, "attention_mask": mask}
    targets = torch.cat([ids[:, 1:], torch.full((ROWS, 1), -100)], dim=1)
    targets = torch.where(mask == 1, targets, -100)
    model = online.models.register(
        fresh_name, language, example={name: each[:2] for name, each in columns.items()},
        loss="cross_entropy", parameters=["transformer.h.0.attn.c_attn.*"],
    )  # fmt: skip
    assert (model.program.format, model.loss.described()["class_axis"]) == ("pt2", -1)
    online.datasets.register(fresh_name, **columns, y=targets, inputs=list(columns), targets=["y"])

    def mean_loss(scores: Tensor, goal: Tensor) -> Tensor:
        each = F.cross_entropy(scores.transpose(1, 2), goal, reduction="none")
        return (each.sum(1) / (goal != -100).sum(1)).mean()

    both = torch.stack([ids, mask], dim=1)
    formula = Formula(selecting(Masked(language), "attn.c_attn"), mean_loss, both, targets, DAMPING)
    exact = formula.up(formula.factors(both[:TEST], targets[:TEST]), both, targets)
    assert np.abs(influences(online, fresh_name) - exact.numpy()).max() < 1e-9


def test_a_live_model_of_a_type_that_is_not_allowed_is_exported(
    online: Client, fresh_name: str
) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    assert online.access().model_types == ["bert", "gpt2"]
    bloom = BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=4, n_layer=1, n_head=2)).eval()
    model = online.models.register(
        fresh_name, bloom, example={"input_ids": tokens()[:2]}, loss="cross_entropy"
    )
    assert model.program.format == "pt2"


def test_a_live_image_classifier_gives_the_influences_of_the_formula(
    online: Client, fresh_name: str
) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    vit = ViTForImageClassification(
        ViTConfig(
            hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=5, image_size=8,
            patch_size=4, num_channels=1, num_labels=3,
        )
    )  # fmt: skip
    images = torch.randn(ROWS, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(ROWS) % 3
    chosen = ["classifier.*", "*.layernorm_after.*"]
    online.models.register(
        fresh_name, vit, example=images[:2], loss="cross_entropy", parameters=chosen
    )
    online.datasets.register(fresh_name, x=images, y=labels)
    reference = selecting(Pictured(vit), "classifier", "layernorm_after").eval()
    formula = Formula(reference, F.cross_entropy, images, labels, DAMPING)
    exact = formula.up(formula.factors(images[:TEST], labels[:TEST]), images, labels)
    assert np.abs(influences(online, fresh_name) - exact.numpy()).max() < 1e-9


def test_a_classifier_that_was_changed_is_sent_as_it_is_now(
    online: Client, fresh_name: str, classifier: Any
) -> None:
    """Its config would bring back another model."""
    changed = copy.deepcopy(classifier)
    changed.classifier.register_forward_hook(lambda _part, _given, scores: scores.tanh())
    ids, labels = tokens(), torch.arange(ROWS) % 3
    model = online.models.register(
        fresh_name, changed, example=ids[:2], loss="cross_entropy", parameters=["classifier.*"]
    )
    assert model.program.format == "pt2"
    online.datasets.register(fresh_name, x=ids, y=labels)
    reference = selecting(Scores(changed), "classifier")
    formula = Formula(reference, F.cross_entropy, ids, labels, DAMPING)
    exact = formula.up(formula.factors(ids[:TEST], labels[:TEST]), ids, labels)
    assert np.abs(influences(online, fresh_name) - exact.numpy()).max() < 1e-9


def test_another_type_and_a_config_of_code_are_refused_at_once(
    online: Client,
) -> None:
    weights = {"w": torch.zeros(1)}
    with pytest.raises(InvalidRequest, match="allowed types are bert, gpt2"):
        online.models.register("x", config={"model_type": "llama"}, weights=weights, loss="mse")
    coded = {"model_type": "bert", "nested": [{"auto_map": {"AutoModel": "evil.Model"}}]}
    with pytest.raises(InvalidRequest, match="names code to run"):
        online.models.register("x", config=coded, weights=weights, loss="mse")
    small = {"model_type": "bert", "num_labels": 3, "hidden_size": 8, "num_attention_heads": 2}
    with pytest.raises(Rejected, match="missing"):
        online.models.register("x", config=small, weights=weights, loss="cross_entropy")
