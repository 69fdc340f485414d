"""Models by name: allowed factories alone, and weights that fit them name by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from tests.programs.factories import Tied
from workers.programs.errors import (
    FactoryFailed,
    FactoryRefused,
    PickleRefused,
    ProgramError,
    StateMismatch,
    WeightsInvalid,
)
from workers.programs.factory import read_factory

TIED = "tests.programs.factories:Tied"
FORBIDDEN = "tests.programs.factories:forbidden"


@pytest.fixture
def model() -> Tied:
    torch.manual_seed(0)
    model = Tied().eval()
    model.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
    return model


@pytest.fixture
def weights(model: Tied, tmp_path: Path) -> Path:
    save_model(model, str(tmp_path / "w.safetensors"))
    return tmp_path / "w.safetensors"


def refusal(kind: type[ProgramError], *args: Any, **options: Any) -> ProgramError:
    with pytest.raises(kind) as caught:
        read_factory(*args, **options)
    return caught.value


def test_allowed_factory_gives_the_users_model(model: Tied, weights: Path) -> None:
    program = read_factory(TIED, {"width": 4}, weights, allowed=[TIED], output="logits")
    x = torch.arange(5)
    assert torch.equal(program.module(x), model(x)["logits"])
    assert [spec.name for spec in program.parameters] == [
        "embed.weight",
        "norm.weight",
        "norm.bias",
    ]
    assert program.arguments == ("x",)
    assert program.module.get_parameter("head.weight") is program.module.get_parameter(
        "embed.weight"
    )


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight", "both"])
def test_a_tied_weight_may_have_any_of_its_names(
    kept: str, model: Tied, weights: Path, tmp_path: Path
) -> None:
    tensors = load_file(weights)
    tied = {name: model.embed.weight.detach().clone() for name in ("embed.weight", "head.weight")}
    tensors = {k: v for k, v in tensors.items() if k not in tied}
    tensors |= tied if kept == "both" else {kept: tied[kept]}
    save_file(tensors, tmp_path / "t.safetensors")
    program = read_factory(TIED, {}, tmp_path / "t.safetensors", allowed=[TIED])
    assert torch.equal(program.module.get_parameter("embed.weight"), model.embed.weight)


def test_a_factory_not_on_the_list_does_not_run(weights: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    error = refusal(FactoryRefused, FORBIDDEN, {"path": str(mark)}, weights, allowed=[TIED])
    assert FORBIDDEN in error.message
    assert TIED in error.message
    assert error.field == "/program/factory"
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "tests.programs.factories:Tied2",
        "tests.programs.factories",
        "tests.programs.factories.Tied",
        "tests.programs.factories:",
        "os:system",
        " tests.programs.factories:Tied",
        "",
    ],
)
def test_names_match_exactly(name: str, weights: Path) -> None:
    refusal(FactoryRefused, name, {}, weights, allowed=[TIED])


@pytest.mark.parametrize("kwargs", [{"width": object()}, {"width": {1: 2}}, {"width": (1,)}])
def test_kwargs_are_plain_json(kwargs: dict[str, Any], weights: Path) -> None:
    assert refusal(FactoryRefused, TIED, kwargs, weights, allowed=[TIED]).field == "/program/kwargs"


@pytest.mark.parametrize(
    "kwargs", [{"broken": True}, {"unknown": 1}, {"width": "x"}, {"width": -1}]
)
def test_wrong_kwargs_are_told(kwargs: dict[str, Any], weights: Path) -> None:
    refusal(FactoryFailed, TIED, kwargs, weights, allowed=[TIED])


@pytest.mark.parametrize(
    "name",
    ["tests.programs.factories:missing", "nowhere_at_all:x", "tests.programs.factories:no_module"],
)
def test_a_factory_that_makes_no_module_is_told(name: str, weights: Path) -> None:
    assert name in refusal(FactoryFailed, name, {}, weights, allowed=[name]).message


def test_missing_and_unexpected_names_are_told(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    tensors["other"] = tensors.pop("norm.weight")
    save_file(tensors, tmp_path / "t.safetensors")
    error = refusal(StateMismatch, TIED, {}, tmp_path / "t.safetensors", allowed=[TIED])
    assert "missing norm.weight" in error.message
    assert "unexpected other" in error.message


def test_other_shapes_are_told(weights: Path) -> None:
    error = refusal(StateMismatch, TIED, {"width": 8}, weights, allowed=[TIED])
    assert "[10, 4]" in error.message
    assert "[10, 8]" in error.message


def test_a_lossy_dtype_is_told(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    tensors["norm.num_batches_tracked"] = tensors["norm.num_batches_tracked"].float()
    save_file(tensors, tmp_path / "t.safetensors")
    error = refusal(StateMismatch, TIED, {}, tmp_path / "t.safetensors", allowed=[TIED])
    assert "norm.num_batches_tracked is torch.float32" in error.message


def test_float64_weights_make_a_float64_model(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    tensors["norm.weight"] = tensors["norm.weight"].double() / 3
    save_file(tensors, tmp_path / "t.safetensors")
    module = read_factory(TIED, {}, tmp_path / "t.safetensors", allowed=[TIED]).module
    assert torch.equal(module.get_parameter("norm.weight"), tensors["norm.weight"])
    assert {each.dtype for each in module.parameters()} == {torch.float64}


def test_tied_names_with_two_values_are_told(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    tensors["head.weight"] = torch.zeros(10, 4)
    tensors["embed.weight"] = torch.ones(10, 4)
    save_file(tensors, tmp_path / "t.safetensors")
    error = refusal(StateMismatch, TIED, {}, tmp_path / "t.safetensors", allowed=[TIED])
    assert "tied" in error.message


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}"]
)
def test_broken_weights_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    error = refusal(WeightsInvalid, TIED, {}, tmp_path / "w", allowed=[TIED])
    assert error.field == "/program/weights"


def test_pickled_weights_are_never_opened(model: Tied, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "w", _use_new_zipfile_serialization=False)
    refusal(PickleRefused, TIED, {}, tmp_path / "w", allowed=[TIED])
    torch.save(model.state_dict(), tmp_path / "w")
    refusal(WeightsInvalid, TIED, {}, tmp_path / "w", allowed=[TIED])


def test_weights_whose_length_begins_as_a_pickle_does_are_read(
    model: Tied, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "w"
    for length in range(0, 256, 8):
        save_file(load_file(weights), path, {"note": "x" * length})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    program = read_factory(TIED, {}, path, allowed=[TIED])
    assert torch.equal(program.module.get_parameter("embed.weight"), model.embed.weight)
