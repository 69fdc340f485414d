"""A test in a worker's place: marks records as a check would, moves jobs through their life, stores results."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from typing import Any

import httpx2
import numpy as np
from safetensors.numpy import save

from service.parts import Parts
from service.storage.layout import ResultPaths
from service.storage.tensors import write_tensors
from tests.storage.writing import write_matrix, write_rows

Json = dict[str, Any]
NAMESPACE = "default"
ROWS = 4  # of one object, of all that a result keeps in blocks of rows


def digest_of(data: bytes) -> str:
    """The address of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def archive(first: str = "model/archive_format") -> bytes:
    """A ZIP archive that nobody has looked into yet; different each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(first, "pt2")
        made.writestr("model/noise", os.urandom(16))
    return buffer.getvalue()


def problem(answer: httpx2.Response, status: int, type: str) -> Json:
    """The problem document of an answer, which must be of this status and type."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: Json = answer.json()
    assert body["type"] == type, body
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def field(answer: httpx2.Response, pointer: str) -> str:
    """What an answer says of a field."""
    errors = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
    assert pointer in errors, errors
    return str(errors[pointer])


def submitted(acting: Acting, **values: Any) -> httpx2.Response:
    """The answer to a job on what `Acting.ready` has made."""
    return acting.post("/v1/jobs", acting.job_request(**values))


class Acting:
    """A client, and the parts behind the service that it speaks to."""

    def __init__(self, client: httpx2.Client, parts: Parts) -> None:
        self.client = client
        self.parts = parts

    def upload(self, data: bytes) -> str:
        """Puts a blob; its digest."""
        digest = digest_of(data)
        assert self.client.put(f"/v1/blobs/{digest}", content=data).status_code in (200, 201)
        return digest

    def model_request(self, name: str = "net", **values: Any) -> Json:
        """What registers a pt2 model, with its blob uploaded."""
        program = {"format": "pt2", "blob": self.upload(archive())}
        return {"name": name, "program": program, "loss": "cross_entropy", **values}

    def dataset_request(self, name: str = "data", **values: Any) -> Json:
        """What registers a dataset of one shard, with its blob uploaded."""
        data = save({"x": np.frombuffer(os.urandom(16), np.uint8)})
        return {"name": name, "format": "safetensors", "blobs": [self.upload(data)], **values}

    def post(self, path: str, body: Json, **headers: str) -> httpx2.Response:
        """A POST with JSON."""
        return self.client.post(path, json=body, headers=headers)

    def model(self, name: str = "net", *, request: Json | None = None, **found: Any) -> Json:
        """A model that is ready."""
        answer = self.post("/v1/models", {**self.model_request(name), **(request or {})})
        assert answer.status_code == 202, answer.text
        checked = {
            "state": "ready",
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
            "outputs": [{"name": "output", "dtype": "float32", "shape": [None, 3]}],
            "parameter_count": 15,
            "dtype": "float32",
        }
        return self.change("model", answer.json()["id"], **(checked | found))

    def dataset(
        self, name: str = "data", rows: int = 50, *, request: Json | None = None, **found: Any
    ) -> Json:
        """A dataset that is ready."""
        answer = self.post("/v1/datasets", {**self.dataset_request(name), **(request or {})})
        assert answer.status_code == 202, answer.text
        checked = {
            "state": "ready",
            "rows": rows,
            "shard_rows": [rows],
            "columns": [
                {"name": "x", "dtype": "float32", "shape": [4]},
                {"name": "y", "dtype": "int64", "shape": []},
            ],
        }
        return self.change("dataset", answer.json()["id"], **(checked | found))

    def change(self, kind: Any, id: str, **values: Any) -> Json:
        """Writes fields of a record."""
        return self.parts.records.update(kind, NAMESPACE, id, lambda old: {**old, **values})

    def ready(self) -> None:
        """A model `net` and datasets `train` and `test` that fit each other."""
        self.model("net")
        self.dataset("train", 50)
        self.dataset("test", 10)

    def job_request(self, **values: Any) -> Json:
        """A job on what `ready` has made."""
        return {
            "kind": "influences",
            "model": "net",
            "train": {"dataset": "train"},
            "test": {"dataset": "test"},
            "inversion": {"method": "cg"},
            **values,
        }

    def job(self, **values: Any) -> Json:
        """A queued job."""
        answer = self.post("/v1/jobs", self.job_request(**values))
        assert answer.status_code == 202, answer.text
        made: Json = answer.json()
        return made

    def begin(self, id: str) -> Json:
        """A worker takes the job."""
        job = self.parts.lifecycle.begin(NAMESPACE, id, "acting", "cpu")
        assert job is not None
        return job

    def fail(self, id: str, error: Any) -> None:
        """A worker takes the job and fails."""
        job = self.begin(id)
        self.parts.lifecycle.fail(NAMESPACE, id, job["attempt"], error)

    def succeed(self, id: str, **arrays: Any) -> None:
        """A worker takes the job and stores `matrix`, `mean`, `top`, `factors`, `info`, `test_predictions`, …"""
        job = self.begin(id)
        paths, objects = ResultPaths(NAMESPACE, id), self.parts.objects
        matrix = arrays.get("matrix")
        if matrix is not None:
            chunk = (*(max(1, size // 3) for size in matrix.shape[:2]), *matrix.shape[2:])
            write_matrix(objects, paths.influences, matrix, chunk)
        for name in ("mean", "factors", "self_influences"):
            if name in arrays:
                write_rows(objects, getattr(paths, name), {name: arrays[name]}, ROWS)
        if "top" in arrays:
            write_rows(objects, paths.top, arrays["top"], ROWS)
        if "info" in arrays:
            write_tensors(objects, paths.info, arrays["info"])
        for side in ("test", "train"):
            self._store_predictions(paths, side, arrays.get(f"{side}_predictions", {}))
        objects.put(paths.manifest, b'{"files": []}')
        shape = arrays.get("shape") or (list(matrix.shape) if matrix is not None else None)
        result = {
            "influence_shape": shape,
            "factor_shape": list(arrays["factors"].shape) if "factors" in arrays else None,
            "dtype": "float32",
            "stored": [name for name in arrays if name != "shape"],
            "size_bytes": 1,
            "layout": dict.fromkeys(
                ("factor_rows", "top_rows", "mean_rows", "self_influence_rows"), ROWS
            ),
        }
        outcome = {"result": result, "info": {"iterations": 7}}
        self.parts.lifecycle.succeed(NAMESPACE, id, job["attempt"], outcome)

    def _store_predictions(self, paths: ResultPaths, side: str, named: dict[str, Any]) -> None:
        """In blocks of four rows."""
        count = len(named.get("losses", ()))
        for start in range(0, count, 4):
            stop = min(start + 4, count)
            path = paths.predictions_block(side, start, stop)
            block = {name: values[start:stop] for name, values in named.items()}
            write_tensors(self.parts.objects, path, block)
