"""Hugging Face models: an allowed type's config and safetensors weights, and transformers' own classes alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests import huggingface_models
from tests.engine.exact import relative
from upweight.client.huggingface import LiveModel, is_described
from workers.engine import Batch, Hessian, Problem, TensorRows, derivatives_used, make_loss
from workers.engine.autodiff.graph.linearized import analytic_hvp
from workers.engine.autodiff.graph.prefix import frozen_prefix
from workers.engine.autodiff.hvp import ReverseLoop
from workers.engine.autodiff.select import probe_vectors
from workers.engine.model.second_order import twice_differentiable
from workers.programs.errors import ConfigRefused, ProgramError, StateMismatch
from workers.programs.fork_server import ForkServer
from workers.programs.huggingface import read_huggingface
from workers.programs.isolation import run_isolated

pytestmark = pytest.mark.filterwarnings("ignore")
SEQUENCE, LANGUAGE = "sequence-classification", "causal-lm"


@pytest.fixture(scope="module")
def bert() -> Any:
    return huggingface_models.classifier(vocabulary=20, width=8, inner=12, positions=10)


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return huggingface_models.language_model(vocabulary=20, width=8, positions=10)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], tuple[dict[str, Any], Path]]:
    """A model's config and the file of its weights, as the SDK sends them."""

    def save(model: Any) -> tuple[dict[str, Any], Path]:
        live = LiveModel.of(model, None)
        path = tmp_path / "weights"
        save_file({k: v.detach().clone() for k, v in live.weights.items()}, path)
        return live.config, path

    return save


def tokens(rows: int) -> Tensor:
    return torch.randint(1, 20, (rows, 6), generator=torch.Generator().manual_seed(rows))


def masks(rows: int) -> Tensor:
    """Rows of different lengths, padded at the end."""
    return (torch.arange(6)[None] < (2 + torch.arange(rows) % 5)[:, None]).long()


def test_a_classifier_computes_as_transformers_does(bert: Any, saved: Any) -> None:
    config, weights = saved(bert)
    program = read_huggingface(
        config, SEQUENCE, ("input_ids", "attention_mask"), weights, allowed=["bert"]
    )
    ids, mask = tokens(4), masks(4)
    expected = bert(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(program.module(ids, mask), expected, atol=1e-6)
    assert [(each.name, each.shape) for each in program.outputs] == [("logits", (None, 3))]
    assert {spec.name for spec in program.parameters} == {n for n, _ in bert.named_parameters()}


def test_a_language_model_computes_as_transformers_does(gpt2: Any, saved: Any) -> None:
    config, weights = saved(gpt2)
    program = read_huggingface(config, LANGUAGE, ("input_ids",), weights, allowed=["gpt2"])
    assert torch.allclose(program.module(tokens(4)), gpt2(tokens(4)).logits, atol=1e-6)


def llama() -> Any:
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return library.LlamaForCausalLM(
        library.LlamaConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=12, max_position_embeddings=10,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_products_are_by_a_graph_that_is_drawn_of_it(
    kind: str, request: pytest.FixtureRequest, saved: Any
) -> None:
    """A classifier with padding, a language model with tied weights, and one whose norms cast to float32."""
    model = llama() if kind == "llama" else request.getfixturevalue(kind)
    config, weights = saved(model)
    masked = kind == "bert"
    columns = ("input_ids", "attention_mask") if masked else ("input_ids",)
    task = SEQUENCE if masked else LANGUAGE
    program = read_huggingface(config, task, columns, weights, allowed=[kind])
    loss = make_loss("cross_entropy") if masked else make_loss("cross_entropy", class_axis=-1)
    problem = Problem(program.module, loss, dtype=torch.float64)
    way = analytic_hvp(problem)
    assert way is not None
    for rows in (3, 4):  # of other lengths than the graph was drawn with, and each other's
        given = (tokens(rows)[:, : rows + 1], masks(rows)[:, : rows + 1])[: len(columns)]
        targets = torch.arange(rows) % 3 if masked else given[0]
        batch = problem.placed(Batch(given, targets, 0))
        with twice_differentiable():
            found = way.prepare(problem, batch)(probe_vectors(problem))
            expected = ReverseLoop().prepare(problem, batch)(probe_vectors(problem))
        assert relative(found, expected) < 1e-11
        assert derivatives_used(problem, batch) == {"product": "graph"}


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("bert", "classifier.*"),
        ("gpt2", "transformer.h.0.mlp.*"),
        ("llama", "model.layers.0.mlp.*"),
    ],
)
def test_its_frozen_layers_run_once_for_each_row(
    kind: str, parameters: str, request: pytest.FixtureRequest, saved: Any
) -> None:
    """Masks and positions, which no weight is in, are made behind the cut: they need not be a row's own."""
    model = llama() if kind == "llama" else request.getfixturevalue(kind)
    config, weights = saved(model)
    masked = kind == "bert"
    columns = ("input_ids", "attention_mask") if masked else ("input_ids",)
    task = SEQUENCE if masked else LANGUAGE
    module = read_huggingface(config, task, columns, weights, allowed=[kind]).module
    loss = make_loss("cross_entropy") if masked else make_loss("cross_entropy", class_axis=-1)
    problem = Problem(module, loss, [parameters], dtype=torch.float64)
    inputs = (tokens(4), masks(4))[: len(columns)]
    rows = TensorRows(inputs, torch.arange(4) % 3 if masked else tokens(4))
    prefix = frozen_prefix(problem, rows)
    assert prefix is not None
    behind = prefix.computed(rows)
    vectors = probe_vectors(problem)
    expected = Hessian(problem, rows, product="reverse_loop").matmat(vectors)
    found = Hessian(prefix.behind, behind)
    assert relative(found.matmat(vectors), expected) < 1e-11
    assert found.product_name == "graph"
    left = {name for name, _ in prefix.behind.module.named_parameters()}
    assert not any("embed" in name or "wpe" in name for name in left)


CROSS_ENTROPY = {"name": "cross_entropy"}


def test_the_isolated_check_takes_it_with_all_its_derivatives(
    bert: Any, saved: Any, fork_server: ForkServer
) -> None:
    config, weights = saved(bert)
    arguments = {
        "format": "huggingface", "path": str(weights), "loss": CROSS_ENTROPY, "parameters": ["*"],
        "pt2_policy": "reject", "config": config, "task": SEQUENCE, "inputs": ["input_ids", "attention_mask"],
        "allowed": ["bert", "gpt2"],
    }  # fmt: skip
    command = {"call": "workers.checks.model:check_model", "arguments": arguments}
    report = run_isolated(command, timeout_s=120, memory_bytes=8 << 30, server=fork_server)
    assert set(report["transforms"].values()) == {None}
    assert report["parameter_count"] == sum(each.numel() for each in bert.parameters())
    assert [spec["name"] for spec in report["inputs"]] == ["input_ids", "attention_mask"]


def refusal(config: dict[str, Any], weights: Path, **changes: Any) -> ProgramError:
    given = {"task": SEQUENCE, "inputs": ("input_ids",), "allowed": ["bert"], **changes}
    with pytest.raises(ProgramError) as caught:
        read_huggingface(config, given["task"], given["inputs"], weights, allowed=given["allowed"])
    return caught.value


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "ber"}, "/program/config/model_type"),
        ({"model_type": ["bert"]}, "/program/config/model_type"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "/program/config/auto_map"),
        ({"attn_implementation": "evil/kernels"}, "/program/config/attn_implementation"),
        ({"quantization_config": {"quant_method": "gptq"}}, "/program/config/quantization_config"),
        ({"architectures": ["BertModel"]}, "/program/config/architectures"),
        ({"architectures": ["os"]}, "/program/config/architectures"),
        ({"architectures": ["BertForSequenceClassification"] * 2}, "/program/config/architectures"),
        ({"hidden_size": 2**40, "num_attention_heads": 1}, None),
        ({"vocab_size": 10**30}, None),
        ({"max_position_embeddings": 2**50}, None),
        ({"hidden_size": -8}, None),
        ({"hidden_act": "__import__('os')"}, None),
        ({"num_attention_heads": 0}, None),
        ({"layer_norm_eps": {"x": 1}}, None),
    ],
)
def test_a_config_that_lies_or_names_code_is_refused(
    bert: Any, saved: Any, changes: dict[str, Any], field: str | None
) -> None:
    config, weights = saved(bert)
    error = refusal({**config, **changes}, weights)
    assert isinstance(error, ConfigRefused | StateMismatch), error
    assert error.field == (field or error.field)


def test_without_an_allowed_type_there_is_none(bert: Any, saved: Any) -> None:
    config, weights = saved(bert)
    assert "allowed are: none" in refusal(config, weights, allowed=[]).message


def test_the_task_has_to_fit_the_architecture(bert: Any, saved: Any) -> None:
    config, weights = saved(bert)
    error = refusal(config, weights, task=LANGUAGE)
    assert error.field == "/program/config/architectures"


def test_weights_of_other_shapes_are_refused_before_memory_is_taken(bert: Any, saved: Any) -> None:
    config, weights = saved(bert)
    error = refusal({**config, "vocab_size": 2**44}, weights)
    assert isinstance(error, StateMismatch)
    assert str(2**44) in error.message


def test_a_mask_is_refused_where_tokens_look_back_alone(gpt2: Any, saved: Any) -> None:
    config, weights = saved(gpt2)
    changes = {"task": LANGUAGE, "allowed": ["gpt2"], "inputs": ("input_ids", "attention_mask")}
    assert refusal(config, weights, **changes).field == "/program/inputs"


def exchange_the_activation(model: Any) -> None:
    model.bert.pooler.activation = nn.Identity()


def change_an_epsilon(model: Any) -> None:
    model.bert.embeddings.LayerNorm.eps = 0.5


def change_the_config_alone(model: Any) -> None:
    model.config.hidden_act = "relu"


def replace_the_head(model: Any) -> None:
    model.classifier = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    "change",
    [exchange_the_activation, change_an_epsilon, change_the_config_alone, replace_the_head],
)
def test_a_model_that_its_config_would_build_otherwise_is_exported(change: Any, bert: Any) -> None:
    model = deepcopy(bert)
    change(model)
    assert not is_described(model, None)


def test_a_model_whose_tied_weights_came_apart_is_exported(gpt2: Any) -> None:
    model = deepcopy(gpt2)
    assert is_described(model, None)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
    assert not is_described(model, None)


def test_a_live_model_is_told_from_others_by_its_class(bert: Any) -> None:
    assert is_described(bert, None)
    assert not is_described(nn.Linear(1, 1), None)
    assert LiveModel.of(bert, {"input_ids": 0, "attention_mask": 0}).inputs == (
        "input_ids", "attention_mask",
    )  # fmt: skip
