"""The SDK against the whole service with one worker: what the other files here have imitated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from service.local.background import Running
from upweight import AsyncClient, Client, InfluenceResult, errors

LAMBDA = 1.0  # makes H + λI definite for a network that is not trained


@pytest.fixture(scope="module")
def online(stack: Running) -> Iterator[Client]:
    with Client(stack.url) as client:
        yield client


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()


@pytest.fixture(scope="module")
def result(online: Client) -> InfluenceResult:
    x, y = rows()
    model = online.models.register("sdk-net", net(), example=x[:1], loss="cross_entropy")
    train = online.datasets.register("sdk-train", x=x, y=y)
    test = online.datasets.register("sdk-test", x=x[:7] + 0.1, y=y[:7])
    return online.compute_influences(model, train, test, hessian_regularization=LAMBDA)


@pytest.mark.parametrize(
    "index", [np.s_[0], np.s_[3:5, ::10], np.s_[[5, 1], -3:], np.s_[::-1, [4, 4, 0]], np.s_[2:2]]
)
def test_slices_are_those_of_the_whole_matrix(result: InfluenceResult, index: Any) -> None:
    np.testing.assert_array_equal(result.influences[index], result.numpy()[index])


def test_the_ranking_is_that_of_the_matrix(result: InfluenceResult) -> None:
    matrix = result.numpy()
    helpful = [item.column for item in result.top(test=3, k=5).items]
    assert helpful == np.argsort(-matrix[3])[:5].tolist()
    harmful = [item.column for item in result.top(k=5, sign="harmful").items]
    assert harmful == np.argsort(matrix.mean(0))[:5].tolist()
    np.testing.assert_allclose(result.mean(), matrix.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at its first Hessian
def test_influences_are_those_of_the_formula(result: InfluenceResult) -> None:
    model = net()
    names = [name for name, _ in model.named_parameters()]
    sizes = [parameter.numel() for parameter in model.parameters()]
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def losses(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        parts = zip(names, theta.split(sizes), model.parameters(), strict=True)
        values = {name: part.view_as(like) for name, part, like in parts}
        outputs = torch.func.functional_call(model, values, (x,))
        return nn.functional.cross_entropy(outputs, y, reduction="none")

    x, y = rows()
    hessian = torch.func.hessian(lambda theta: losses(theta, x, y).mean())(flat)
    of_train = torch.func.jacrev(losses)(flat, x, y)
    of_test = torch.func.jacrev(losses)(flat, x[:7] + 0.1, y[:7])
    damped = hessian + LAMBDA * torch.eye(len(flat))
    expected = of_test @ torch.linalg.solve(damped, of_train.T)
    np.testing.assert_allclose(result.numpy(), expected.detach(), rtol=1e-3, atol=1e-4)


def test_info_says_what_the_inversion_did(result: InfluenceResult) -> None:
    assert result.shape == (7, 60)
    assert result.info.method == "direct"
    assert result.info["right_hand_sides"] == 7


def test_events_of_an_ended_job_end(online: Client, result: InfluenceResult) -> None:
    assert [job.state for job in online.jobs.events(result.job)][-1] == "succeeded"


def test_refusals_of_the_service_are_its_classes(online: Client, result: InfluenceResult) -> None:
    with pytest.raises(errors.NotFound, match="nowhere"):
        online.compute_influences("nowhere", "sdk-train", "sdk-test")
    with pytest.raises(errors.InUse):
        online.models.delete("sdk-net")
    with pytest.raises(errors.ComputationFailed) as caught:
        online.compute_influences(
            "sdk-net", "sdk-train", "sdk-test", inversion_method="lissa", scale=1e-3,
            hessian_regularization=0.1,
        )  # fmt: skip
    assert caught.value.__notes__[0].startswith("job job_")


def test_what_was_uploaded_comes_back(
    online: Client, result: InfluenceResult, tmp_path: Path
) -> None:
    program = online.models.get("sdk-net").program
    path = online.blobs.download(program.blob, tmp_path / "net.pt2")  # type: ignore[union-attr]
    assert online.blobs.put(path).digest == program.blob  # type: ignore[union-attr]


def test_the_awaited_client_gives_the_same(stack: Running, result: InfluenceResult) -> None:
    async def work() -> Any:
        async with AsyncClient(stack.url) as client:
            again = await client.compute_influences(
                "sdk-net", "sdk-train", "sdk-test", hessian_regularization=LAMBDA
            )
            states = [job.state async for job in client.jobs.events(again.job)]
            return states[-1], await again.influences[2:4]

    state, rows = asyncio.run(work())
    assert state == "succeeded"
    np.testing.assert_allclose(rows, result.influences[2:4], rtol=1e-5)
