"""Examples for the parameters of every call, so that each runs as it stands on what the demo has registered.

What only a running service knows (the id of a job, the digest of a blob) is a placeholder in the OpenAPI document;
the page at `/docs` puts in what it finds there.
"""

from __future__ import annotations

from typing import Any

MODEL_BLOB = "sha256:" + "0" * 64
DATASET_BLOB = "sha256:" + "1" * 64
JOB = "job_" + "0" * 26  # of influences, with everything kept
SELF_INFLUENCES_JOB = "job_" + "1" * 26
INDEX_JOB = "job_" + "2" * 26

HELLO = "hello"
HELLO_DIGEST = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

# By path, the longest that fits: examples by parameter.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "/v1/blobs/{digest}": {"digest": MODEL_BLOB},
    "/v1/models/{reference}": {"reference": "digits-mlp"},
    "/v1/datasets/{reference}": {"reference": "digits-train"},
    "/v1/datasets/{reference}/rows": {"rows": "0:3"},
    "/v1/jobs/{id}": {"id": JOB},
    "/v1/jobs/{id}/influences": {"test": "0:3", "train": "0:5"},
    "/v1/jobs/{id}/top": {"test": 3, "k": 5},
    "/v1/jobs/{id}/factors": {"rows": "0:1"},
    "/v1/jobs/{id}/self_influences": {"id": SELF_INFLUENCES_JOB},
    "/v1/indexes/{id}/query": {"id": INDEX_JOB, "test": "digits-test", "rows": "3"},
}


def add_examples(document: dict[str, Any]) -> None:
    """Puts them into an OpenAPI document."""
    for path, operations in document["paths"].items():
        fitting = sorted((each for each in _PARAMETERS if path.startswith(each)), key=len)
        examples: dict[str, Any] = {}
        for each in fitting:
            examples |= _PARAMETERS[each]
        for method, operation in operations.items():
            here = examples | ({"digest": HELLO_DIGEST} if (path, method) == _UPLOAD else {})
            for parameter in operation.get("parameters", []):
                if parameter["name"] in here:
                    parameter["example"] = here[parameter["name"]]


_UPLOAD = ("/v1/blobs/{digest}", "put")
