"""Torch models that a real MLflow saved, registered from there, against plain torch."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from upweight import AsyncClient, Client, MissingPackage
from upweight.cli import exits
from upweight.cli.command import command
from upweight.client.mlflow_models import archive_of, name_of
from upweight.errors import InvalidRequest

ROWS, TEST, DAMPING = 12, 3, 1.0
NOWHERE = "http://127.0.0.1:9"  # nothing listens: what reaches for the service fails otherwise


def net(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *more, nn.Linear(5, 3)).eval()


def rows(count: int = ROWS) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1))


class Halves(nn.Module):
    """Fixes its batch by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 2, 2).flatten(1)


@dataclass(frozen=True)
class Tracking:
    """MLflow as a user has it: a registry in a folder."""

    folder: Path

    def save(self, name: str, module: nn.Module, **options: Any) -> Path:
        """A model's folder."""
        import mlflow.pytorch

        path = self.folder / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.pytorch.save_model(module, path, pip_requirements=["torch"], **options)
        return path

    def log(self, registered: str, module: nn.Module, **options: Any) -> dict[str, str]:
        """The uris under which the model can be found."""
        import mlflow.pytorch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mlflow.start_run() as run:
                logged = mlflow.pytorch.log_model(
                    module, name="model", registered_model_name=registered, pip_requirements=["torch"], **options
                )  # fmt: skip
            mlflow.MlflowClient().set_registered_model_alias(registered, "champion", 1)
        return {
            "version": f"models:/{registered}/1",
            "alias": f"models:/{registered}@champion",
            "model": logged.model_uri,
            "run": f"runs:/{run.info.run_id}/model",
        }


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # skinny has no database
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import mlflow

        mlflow.set_tracking_uri((folder / "store").as_uri())
        yield Tracking(folder)


@pytest.fixture(scope="module")
def uris(tracking: Tracking) -> dict[str, str]:
    return tracking.log("digits of ours", net(), input_example=rows(2).numpy())


def test_influences_of_a_registered_model_are_those_of_the_module(
    online: Client, uris: dict[str, str], fresh_name: str
) -> None:
    record = online.models.register_mlflow(uris["version"], loss="cross_entropy")
    assert (record.name, record.state) == ("digits-of-ours", "ready")
    x, y = rows(), torch.arange(ROWS) % 3
    online.datasets.register(fresh_name, x=x, y=y)
    result = online.compute_influences(
        record, fresh_name, fresh_name, test_rows=f"0:{TEST}", inversion_method="direct",
        hessian_regularization=DAMPING, precision="float64",
    )  # fmt: skip
    x = x.double()
    formula = Formula(net(), F.cross_entropy, x, y, DAMPING)
    exact = formula.up(formula.factors(x[:TEST], y[:TEST]), x, y).detach().numpy()
    assert np.abs(result.numpy() - exact).max() < 1e-9 * np.abs(exact).max()


@pytest.mark.parametrize("kind", ["version", "alias", "model", "run"])
def test_every_kind_of_uri_leads_to_the_archive(
    uris: dict[str, str], kind: str, tmp_path: Path
) -> None:
    found = archive_of(uris[kind], tmp_path)
    assert found.is_relative_to(tmp_path)
    assert zipfile.is_zipfile(found)


def test_the_choices_of_register_hold_here_too(
    online: Client, tracking: Tracking, fresh_name: str
) -> None:
    path = tracking.save(fresh_name, net(), input_example=rows(5).numpy())

    async def registered() -> Any:
        async with AsyncClient(online.connection.url) as client:
            return await client.models.register_mlflow(
                path, f"{fresh_name}-head", loss="mse", parameters="2.*", labels={"by": "mlflow"}
            )

    head = asyncio.run(registered())
    assert (head.name, head.parameter_count) == (f"{fresh_name}-head", 5 * 3 + 3)
    assert (head.loss.name, head.labels) == ("mse", {"by": "mlflow"})


def test_the_command_registers_out_of_mlflow(
    online: Client, tracking: Tracking, fresh_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tracking.save(fresh_name, net(), input_example=rows(2).numpy())
    given = ["models", "register", fresh_name, "--mlflow", str(path), "--loss", "cross_entropy"]
    assert exits.run(command, [*given, "--url", online.connection.url]) == 0
    assert f"{fresh_name}@1" in capsys.readouterr().out
    assert exits.run(command, [*given, "--factory", "a:b"]) == exits.Exit.USAGE
    assert "--mlflow" in capsys.readouterr().err


def signature(*shape: int) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    return ModelSignature(Schema([TensorSpec(np.dtype("float32"), shape)]))


def refused(uri: str | os.PathLike[str], **options: Any) -> str:
    """The words; nothing is sent."""
    with Client(NOWHERE) as client, pytest.raises(InvalidRequest) as error:
        client.models.register_mlflow(uri, **{"loss": "cross_entropy", **options})
    return error.value.detail


FROZEN = {
    "an example of one row": (lambda: net(), 1, None, r"\[1, 4\] \(the input example had one row"),
    "one row and a free signature": (lambda: net(), 1, (-1, 4), "whatever the signature says"),
    "a signature of five rows": (lambda: net(), 5, (5, 4), r"\[5, 4\] \(the signature has no -1"),
    "forward": (lambda: nn.Sequential(nn.Linear(4, 4), Halves()), 2, None, "or forward itself fixes it"),
}  # fmt: skip


@pytest.mark.parametrize("case", FROZEN)
def test_a_frozen_batch_is_refused_with_the_way_to_log_it_again(
    tracking: Tracking, fresh_name: str, case: str
) -> None:
    module, count, shape, words = FROZEN[case]
    given = {"signature": signature(*shape)} if shape else {}
    path = tracking.save(fresh_name, module(), input_example=rows(count).numpy(), **given)
    with pytest.raises(InvalidRequest, match=words):
        archive_of(path, path)
    told = refused(path)
    assert 'mlflow.pytorch.log_model(net.eval(), name="model", input_example=x[:2].numpy())' in told
    assert "client.models.register(name, net, example=x[:2]" in told


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(5)], ids=["dropout", "norm"])
def test_a_model_logged_in_training_mode_is_refused(
    tracking: Tracking, fresh_name: str, layer: nn.Module
) -> None:
    # With a signature MLflow need not run the model, and leaves it in the mode that it is in.
    path = tracking.save(
        fresh_name, net(layer).train(), input_example=rows(4).numpy(), signature=signature(-1, 4)
    )
    assert "in training mode" in refused(path)


def test_a_pickle_is_refused_unopened(tracking: Tracking, fresh_name: str) -> None:
    path = tracking.save(fresh_name, net(), serialization_format="pickle")
    opened = tracking.folder / f"{fresh_name}-opened"
    (path / "data" / "model.pth").write_bytes(f"cos\nmkdir\n(V{opened}\ntR.".encode())
    told = refused(path)
    assert "saved as a pickle, which is never opened" in told
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true" in told
    assert not opened.exists()


def test_archives_of_an_older_torch_are_named(tracking: Tracking, fresh_name: str) -> None:
    path = tracking.save(fresh_name, net(), input_example=rows(2).numpy())
    with zipfile.ZipFile(path / "data" / "model.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    assert f"logged with torch {torch.__version__}, whose archives hold pickles" in refused(path)


def test_a_damaged_archive_is_refused(tracking: Tracking, fresh_name: str) -> None:
    path = tracking.save(fresh_name, net(), input_example=rows(2).numpy())
    (path / "data" / "model.pt2").write_bytes(b"PK\x03\x04")
    assert "is damaged" in refused(path)


def test_other_flavors_are_named(tracking: Tracking, tmp_path: Path) -> None:
    from mlflow.models import Model

    Model().add_flavor("sklearn").save(tmp_path / "MLmodel")
    assert "it was logged as sklearn" in refused(tmp_path)


@pytest.mark.parametrize("uri", ["models:/nobody/1", "runs:/abc/model", "no-such-folder", "odd://x/y"])  # fmt: skip
def test_a_uri_that_leads_nowhere_is_told(tracking: Tracking, uri: str) -> None:
    assert f"{uri}: MLflow has no model there" in refused(uri)


def test_a_database_is_told_to_need_mlflow_whole(tracking: Tracking) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(f"sqlite:///{tracking.folder}/mlflow.db")
        assert "pip install mlflow" in refused("models:/digits/1")
    finally:
        mlflow.set_tracking_uri(before)


def test_a_folder_without_a_model_is_told(tracking: Tracking, tmp_path: Path) -> None:
    assert "it holds no file MLmodel" in refused(tmp_path)


def test_misspelt_words_are_told_before_anything_is_downloaded(tracking: Tracking) -> None:
    assert "cross_entropi" in refused("models:/nobody/1", loss="cross_entropi")


@pytest.mark.parametrize("uri", ["models:/digits/1", "."])
def test_without_mlflow_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, uri: str, tmp_path: Path
) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MLmodel").touch()
    with Client(NOWHERE) as client, pytest.raises(MissingPackage, match=r"upweight\[mlflow\]"):
        client.models.register_mlflow(uri, "digits", loss="mse")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("models:/digits/1", "digits"),
        ("models:/my digits@best", "my-digits"),
        ("models:/main.vision.digits/3", "main.vision.digits"),
        ("models:/m-46cb9d398d8845d4", "m-46cb9d398d8845d4"),
        ("runs:/c70051a5/digits", "digits"),
        ("s3://bucket/models/digits/", "digits"),
        (Path("models/digits"), "digits"),
    ],
)
def test_the_name_is_that_of_the_uri(uri: str | Path, name: str) -> None:
    assert name_of(uri) == name


def test_a_uri_without_a_name_asks_for_one() -> None:
    assert "name=" in refused("models:/@/1")
