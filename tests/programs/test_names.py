"""Inputs are called as forward's arguments are, whatever torch makes of the names in its graph."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.programs.tampering import GRAPH, edit
from upweight.export import export_program
from workers.programs.pt2 import Pt2Policy, read_pt2


class Shop(nn.Module):
    """Names that torch writes in small letters."""

    def forward(self, userId: Tensor, item__Id: Tensor, _größe: Tensor) -> Tensor:
        return userId + 2 * item__Id + 3 * _größe


NAMES = ["userId", "item__Id", "_größe"]
ROWS = torch.arange(12.0).reshape(4, 3)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "shop.pt2"
    path.write_bytes(export_program(Shop(), (ROWS, ROWS, ROWS)))
    return path


@pytest.mark.parametrize("policy", [Pt2Policy.SANITIZED, Pt2Policy.TRUSTED])
def test_names_are_spelt_as_in_forward(archive: Path, policy: Pt2Policy) -> None:
    program = read_pt2(archive, policy=policy)
    assert [spec.name for spec in program.inputs] == NAMES
    got = program.module(ROWS, 10 * ROWS, 100 * ROWS)
    assert torch.equal(got, Shop()(ROWS, 10 * ROWS, 100 * ROWS))


def test_keywords_keep_their_names_in_the_order_of_the_example(tmp_path: Path) -> None:
    path = tmp_path / "shop.pt2"
    path.write_bytes(export_program(Shop(), dict.fromkeys(reversed(NAMES), ROWS)))
    program = read_pt2(path)
    assert [spec.name for spec in program.inputs] == NAMES[::-1]
    got = program.module(100 * ROWS, 10 * ROWS, ROWS)
    assert torch.equal(got, Shop()(ROWS, 10 * ROWS, 100 * ROWS))


def test_names_that_are_not_the_graphs_are_passed_over(archive: Path, tmp_path: Path) -> None:
    def swap(document: dict) -> None:  # type: ignore[type-arg]
        calls = document["graph_module"]["module_call_graph"]
        calls[0]["signature"]["forward_arg_names"] = ["item__Id", "userId", "<b>_größe"]

    path = tmp_path / "forged.pt2"
    edit(archive, path, GRAPH, swap)
    assert [spec.name for spec in read_pt2(path).inputs] == ["userid", "item__id", "_gr__e"]
