"""Records as the service answers them."""

from __future__ import annotations

from typing import Any

ULID = "01JD0000000000000000000000"
MODEL = f"mdl_{ULID}"
DATASET = f"dst_{ULID}"
JOB = f"job_{ULID}"
NOW = "2026-11-23T12:00:00Z"
DIGEST = "sha256:" + "0" * 64


def model(state: str = "ready", **fields: Any) -> dict[str, Any]:
    return {
        "id": MODEL, "name": "digits-cnn", "version": 1, "state": state, "created_at": NOW,
        "program": {"format": "pt2", "blob": DIGEST}, "loss": {"name": "cross_entropy"},
        "parameters": ["*"], "digest": DIGEST, "size_bytes": 10, **fields,
    }  # fmt: skip


def dataset(state: str = "ready", **fields: Any) -> dict[str, Any]:
    return {
        "id": DATASET, "name": "digits-train", "version": 1, "state": state, "created_at": NOW,
        "format": "safetensors", "inputs": ["x"], "targets": ["y"], "digest": DIGEST,
        "size_bytes": 10, **fields,
    }  # fmt: skip


def job(state: str = "succeeded", revision: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": JOB, "state": state, "revision": revision, "created_at": NOW, "model_id": MODEL,
        "train_id": DATASET, "hessian_id": DATASET,
        "request": {
            "kind": "influences", "model": MODEL, "train": {"dataset": DATASET},
            "test": {"dataset": DATASET}, "inversion": {"method": "direct"},
        },
        **fields,
    }  # fmt: skip


def influences(shape: list[int], *stored: str, dtype: str = "float32") -> dict[str, Any]:
    return job(
        result={
            "influence_shape": shape, "factor_shape": [shape[0], 7], "dtype": dtype,
            "stored": list(stored or ("matrix",)), "size_bytes": 1,
        }
    )  # fmt: skip
