"""A torch model out of MLflow: its pt2 archive, by the model's uri. No pickle is opened, and torch is not needed."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from upweight.errors import InvalidRequest
from upweight.export.program import OLDEST_TORCH
from upweight.extras import needed

GRAPH = "models/model.json"  # in the archive's one folder
ARCHIVE, PICKLE = "model.pt2", "model.pth"  # as mlflow.pytorch calls them
LOG = 'mlflow.pytorch.log_model(net.eval(), name="model", input_example=x[:2].numpy())'
LIVE = "client.models.register(name, net, example=x[:2], loss=…)"
NAME_LENGTH = 128


def name_of(uri: str | os.PathLike[str]) -> str:
    """What the model is called where no name is given: as MLflow's registry calls it, or the last part of the uri."""
    text = re.sub(r"^[a-z][a-z0-9+.-]*:/*|[?#].*$", "", os.fspath(uri)).rstrip("/")
    registered = os.fspath(uri).startswith("models:/")
    said = re.split(r"[/@]", text)[0] if registered else text.rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", said).strip("._-")[:NAME_LENGTH]
    if not name:
        raise InvalidRequest.field("/name", f"{os.fspath(uri)!r} holds no name: give one, name=…")
    return name


def archive_of(uri: str | os.PathLike[str], folder: Path) -> Path:
    """The pt2 archive of the model, downloaded into the folder unless it lies on this machine.

    Raises InvalidRequest for a model that is not there, one that is no pt2, and one that can't be registered as it was
    logged: for one batch size alone, in training mode, or by too old a torch.
    """
    found = _found(uri, folder)
    flavor = _torch_flavor(uri, found)
    data = found / str(flavor.get("model_data", "data"))
    path = data / ARCHIVE
    if not path.is_file():
        kind = "a pickle" if (data / PICKLE).exists() else f"something else than {ARCHIVE}"
        raise _refused(
            uri,
            f"it was saved as {kind}, which is never opened. Log it again as pt2: {LOG}, which MLflow 3.17 and newer "
            'do by default, Databricks with serialization_format="pt2"; or, where you trust it, load it yourself '
            "(MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true, then net = mlflow.pytorch.load_model(uri)) and register the "
            f"live module: {LIVE}",
        )
    _refuse_unfit(uri, path, str(flavor.get("pytorch_version", "of an unknown version")))
    return path


def _found(uri: str | os.PathLike[str], folder: Path) -> Path:
    """The model's folder."""
    if Path(uri).is_dir():
        return Path(uri)
    artifacts = needed("mlflow.artifacts", "register_mlflow()")
    try:
        return Path(artifacts.download_artifacts(artifact_uri=os.fspath(uri), dst_path=str(folder)))
    except Exception as error:  # MLflow's own, or those of a storage's client
        raise _refused(
            uri,
            f"MLflow has no model there ({type(error).__name__}: {str(error).strip()[:500]}); uris are "
            "models:/name/1, models:/name@alias, runs:/run/model, or a folder's path, and MLFLOW_TRACKING_URI "
            "names the server; a database in place of one (sqlite:) needs MLflow whole: pip install mlflow",
        ) from error


def _torch_flavor(uri: str | os.PathLike[str], folder: Path) -> Mapping[str, Any]:
    """What the MLmodel file says of the torch model."""
    models = needed("mlflow.models", "register_mlflow()")
    if not (folder / "MLmodel").is_file():
        raise _refused(
            uri, "it holds no file MLmodel: give the uri of a model, not of a run or a file"
        )
    try:
        flavors = models.Model.load(str(folder)).flavors
    except Exception as error:  # of YAML, or of what it should hold
        raise _refused(
            uri, f"its file MLmodel can't be read ({type(error).__name__}: {error})"
        ) from error
    if "pytorch" not in flavors:
        raise _refused(
            uri,
            f"it was logged as {', '.join(flavors) or 'nothing'}, and register_mlflow() takes what mlflow.pytorch "
            f"logs; a torch module inside it can be registered live: {LIVE}",
        )
    return flavors["pytorch"]


def _refuse_unfit(uri: str | os.PathLike[str], path: Path, torch: str) -> None:
    """Raises InvalidRequest for what the service would refuse with words for those who call torch.export themselves."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = [name for name in archive.namelist() if name.partition("/")[2] == GRAPH]
            text = archive.read(member[0]) if member else b""
    except zipfile.BadZipFile as error:
        raise _refused(uri, f"its {ARCHIVE} is damaged ({error}): log it again, {LOG}") from error
    if not text:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise _refused(
            uri,
            f"it was logged with torch {torch}, whose archives hold pickles and are never read: log it again with "
            f"torch {oldest} or newer, {LOG}",
        )
    try:
        program = json.loads(text)["graph_module"]
        fixed, training = list(_fixed(program)), list(_training(program))
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # not as torch writes it: the service's own reading tells what is wrong
    if training:
        raise _refused(
            uri,
            f"it was logged in training mode ({', '.join(dict.fromkeys(training))}), and MLflow saves it as it stands: "
            f"log it again after net.eval(), {LOG}",
        )
    if fixed:
        shapes = ", ".join(f"{name!r} has the fixed shape {shape}" for name, shape in fixed)
        why = (
            "the input example had one row, which MLflow freezes whatever the signature says"
            if any(shape[0] == 1 for _, shape in fixed)
            else "the signature has no -1 there, or forward itself fixes it"
        )
        raise _refused(
            uri,
            f"its batch was frozen when it was logged: {shapes} ({why}), and influence needs batches of any size. "
            f"Log it again with an example of two rows or more, {LOG}, and with -1 as the first dimension of a "
            f"signature of your own; or register the live module: {LIVE}",
        )


def _fixed(program: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """The inputs whose first dimension is a number, with their shapes; None is a free dimension."""
    values = program["graph"]["tensor_values"]
    for spec in program["signature"]["input_specs"]:
        name = spec.get("user_input", {}).get("arg", {}).get("as_tensor", {}).get("name")
        sizes = [size.get("as_int") for size in values[name]["sizes"]] if name else []
        if sizes and sizes[0] is not None:
            yield name, sizes


def _training(program: Mapping[str, Any]) -> Iterator[str]:
    """The operators that were told to draw at random, or to take the statistics of the batch."""
    for node in program["graph"]["nodes"]:
        operator = node["target"].removeprefix("torch.ops.aten.").partition(".")[0]
        switch = {"dropout": "train", "batch_norm": "training"}.get(operator)
        if any(
            each["name"] == switch and each["arg"].get("as_bool") is True for each in node["inputs"]
        ):
            yield operator


def _refused(uri: str | os.PathLike[str], words: str) -> InvalidRequest:
    return InvalidRequest.field("/uri", f"{os.fspath(uri)}: {words}", os.fspath(uri))  # type: ignore[return-value]
