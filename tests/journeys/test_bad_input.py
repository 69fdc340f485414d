"""What cannot work is refused with the field to blame and the way out: at once where that can be known."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import nn

from service.local.background import Running
from tests.journeys.problems import Json, refused, said
from tests.journeys.subjects import Subject
from tests.patience import PATIENCE, ended
from upweight import Client, export_program


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def upload(http: httpx2.Client, data: bytes) -> str:
    digest = digest_of(data)
    assert http.put(f"/v1/blobs/{digest}", content=data).status_code in (200, 201)
    return digest


def model(http: httpx2.Client, name: str, data: bytes, **values: Any) -> httpx2.Response:
    program = {"format": "pt2", "blob": upload(http, data)}
    return http.post("/v1/models", json={"name": name, "program": program, "loss": "mse", **values})


def npz(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


def dataset(http: httpx2.Client, name: str, *shards: bytes) -> httpx2.Response:
    blobs = [upload(http, shard) for shard in shards]
    return http.post("/v1/datasets", json={"name": name, "format": "npz", "blobs": blobs})


def rejected(http: httpx2.Client, answer: httpx2.Response) -> Json:
    """The problem that a worker's check has found."""
    assert answer.status_code == 202, answer.text
    record = ended(http, answer.headers["location"])
    assert record["state"] == "rejected", record
    problem: Json = record["problem"]
    return problem


def job(subject: Subject, **values: Any) -> Json:
    return {
        "kind": "influences",
        "model": subject.name,
        "train": {"dataset": subject.train},
        "test": {"dataset": subject.test},
        "inversion": {"method": "direct"},
        "hessian_regularization": subject.damping,
        **values,
    }


def failed(http: httpx2.Client, body: Json) -> Json:
    """The problem of a job that was taken and failed."""
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    record = ended(http, answer.headers["location"])
    assert record["state"] == "failed", record
    problem: Json = record["problem"]
    return problem


class Marking:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.path), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "was-run"


def test_a_pickle_as_a_model_is_refused_with_the_line_that_exports(
    http: httpx2.Client, fresh_name: str, marker: Path
) -> None:
    answer = model(http, fresh_name, pickle.dumps(Marking(marker)))
    words = refused(answer, 422, "invalid-request", "/program/blob")
    assert "is a pickle" in words
    assert "torch.export.save(torch.export.export(" in words
    assert not marker.exists()


def test_a_file_of_torch_save_is_refused_as_the_pickle_it_is(
    http: httpx2.Client, fresh_name: str, marker: Path
) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": torch.ones(2), "more": Marking(marker)}, buffer)
    answer = model(http, fresh_name, buffer.getvalue())
    assert "is a pickle" in refused(answer, 422, "invalid-request", "/program/blob")
    assert not marker.exists()


@pytest.fixture(scope="module")
def program() -> bytes:
    return export_program(nn.Linear(4, 3), torch.ones(2, 4))


def test_a_truncated_pt2_is_refused(http: httpx2.Client, fresh_name: str, program: bytes) -> None:
    answer = model(http, fresh_name, program[: len(program) // 2])
    words = refused(answer, 422, "invalid-request", "/program/blob")
    assert "cut short" in words
    assert "upload it again" in words


def test_an_archive_with_a_member_cut_out_is_rejected_by_the_check(
    http: httpx2.Client, fresh_name: str, program: bytes
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as whole, zipfile.ZipFile(buffer, "w") as part:
        for name in whole.namelist():
            if "weights" not in name:
                part.writestr(name, whole.read(name))
    problem = rejected(http, model(http, fresh_name, buffer.getvalue()))
    assert said(problem, 422, "rejected")
    assert problem["errors"][0]["pointer"].startswith("/program")


def test_bytes_under_a_wrong_digest_are_refused_and_not_kept(http: httpx2.Client) -> None:
    path = f"/v1/blobs/{digest_of(b'what was meant')}"
    answer = http.put(path, content=b"what came")
    words = refused(answer, 422, "digest-mismatch", "path:digest")
    assert digest_of(b"what came") in words
    assert "send the bytes again" in words
    assert http.head(path).status_code == 404


def test_columns_of_different_lengths_are_rejected_with_their_lengths(
    http: httpx2.Client, fresh_name: str
) -> None:
    answer = dataset(http, fresh_name, npz(x=np.ones((5, 4)), y=np.ones(6)))
    words = said(rejected(http, answer), 422, "rejected", "/blobs/0")
    assert "'x' has 5, 'y' has 6" in words


def test_nan_in_the_inputs_is_rejected_with_its_row(http: httpx2.Client, fresh_name: str) -> None:
    x = np.ones((7, 4))
    x[3, 2] = np.nan
    good = npz(x=np.ones((5, 4)), y=np.ones(5))
    answer = dataset(http, fresh_name, good, npz(x=x, y=np.ones(7)))
    words = said(rejected(http, answer), 422, "rejected", "/inputs/0")
    assert "NaN or infinity in row 8" in words
    assert "remove or correct these rows" in words


def test_objects_in_an_npz_are_never_unpickled(
    http: httpx2.Client, fresh_name: str, marker: Path
) -> None:
    x = np.array([Marking(marker)], dtype=object)
    answer = dataset(http, fresh_name, npz(x=x, y=np.ones(1)))
    problem = answer.json() if answer.status_code == 422 else rejected(http, answer)
    assert problem["status"] == 422
    assert not marker.exists()


def test_a_rejected_dataset_cannot_be_used_and_says_why(
    http: httpx2.Client, iris: Subject, fresh_name: str
) -> None:
    rejected(http, dataset(http, fresh_name, npz(x=np.full((5, 4), np.inf), y=np.ones(5))))
    answer = http.post("/v1/jobs", json=job(iris, test={"dataset": fresh_name}))
    assert "NaN or infinity in row 0" in refused(answer, 409, "not-ready", "/test/dataset")


@pytest.fixture(scope="module")
def mislabelled(online: Client, iris: Subject) -> str:
    """Ten flowers, the last of a species that the model does not know."""
    labels = iris.y_test[:10].clone()
    labels[9] = 3
    return online.datasets.register("iris-mislabelled", x=iris.x_test[:10], y=labels).name


@pytest.mark.parametrize("field", ["train", "test"])
def test_a_label_out_of_range_is_refused_with_the_range(
    http: httpx2.Client, iris: Subject, mislabelled: str, field: str
) -> None:
    answer = http.post("/v1/jobs", json=job(iris, **{field: {"dataset": mislabelled}}))
    words = refused(answer, 422, "invalid-request", f"/{field}/dataset")
    assert "has the label 3" in words
    assert "labels go from 0 to 2" in words
    assert "'ignore_index'" in words


def test_a_label_out_of_range_among_chosen_rows_fails_the_job_with_its_row(
    http: httpx2.Client, iris: Subject, mislabelled: str
) -> None:
    chosen = {"dataset": mislabelled, "rows": "5:10"}
    problem = failed(http, job(iris, test=chosen))
    words = said(problem, 422, "invalid-request", "/test/dataset")
    assert "label 3 in row 4" in words
    good = http.post("/v1/jobs", json=job(iris, test={**chosen, "rows": "5:9"}))
    assert ended(http, good.headers["location"])["state"] == "succeeded"


def test_a_shape_that_does_not_fit_the_model_is_refused_with_both(
    http: httpx2.Client, iris: Subject, regression: Subject
) -> None:
    answer = http.post("/v1/jobs", json=job(iris, train={"dataset": regression.train}))
    words = refused(answer, 422, "invalid-request", "/train/dataset")
    assert "has shape (5,)" in words
    assert "takes (4,)" in words


REFUSED: list[tuple[Json, str, tuple[str, ...]]] = [
    (
        {"inversion": {"method": "cg", "rank_estimate": 3}},
        "/inversion/rank_estimate",
        ("is a parameter of 'arnoldi', not of 'cg'", "'cg' takes"),
    ),
    (
        {"inversion": {"method": "direct", "maxiter": 3}},
        "/inversion/maxiter",
        ("takes 'spectrum'",),
    ),
    ({"hessian_regularization": -0.5}, "/hessian_regularization", ("λ must be at least 0",)),
    ({"inversion": {"method": "newton"}}, "/inversion/method", ("'direct', 'cg'",)),
    ({"inversion": {"method": "cg", "rtoll": 1}}, "/inversion/rtoll", ("did you mean 'rtol'",)),
    ({"hessian_regularisation": 1}, "/hessian_regularisation", ("'hessian_regularization'",)),
    (
        {"train": {"dataset": "softmax-iris-train", "rows": "::-1"}},
        "/train/rows",
        ("step of -1", "'9,8,7'"),
    ),
    ({"train": {"dataset": "softmax-iris-train", "rows": "0:9:0"}}, "/train/rows", ("step of 0",)),
    ({"test": {"dataset": "softmax-iris-test", "rows": "30"}}, "/test/rows", ("0 to 29",)),
    ({"keep": {"top": 121}}, "/keep/top", ("120 training rows",)),
]


@pytest.mark.parametrize(("values", "pointer", "words"), REFUSED, ids=[row[1] for row in REFUSED])
def test_a_wrong_field_is_refused_with_what_would_be_right(
    http: httpx2.Client, iris: Subject, values: Json, pointer: str, words: tuple[str, ...]
) -> None:
    told = refused(http.post("/v1/jobs", json=job(iris, **values)), 422, "invalid-request", pointer)
    for each in words:
        assert each in told


@pytest.mark.parametrize(
    ("values", "pointer"),
    [
        ({"model": "nowhere"}, "/model"),
        ({"model": "mdl_" + "0" * 26}, "/model"),
        ({"train": {"dataset": "nowhere"}}, "/train/dataset"),
        ({"hessian_on": {"dataset": "nowhere"}}, "/hessian_on/dataset"),
        ({"factors": "job_" + "0" * 26}, "/factors"),
    ],
)
def test_an_unknown_name_is_not_found_where_it_stands(
    http: httpx2.Client, iris: Subject, values: Json, pointer: str
) -> None:
    answer = http.post("/v1/jobs", json=job(iris, **values))
    assert "list what there is" in refused(answer, 404, "not-found", pointer)


@pytest.mark.parametrize(
    ("values", "pointer", "words"),
    [
        ({"model": "dst_" + "0" * 26}, "/model", "ids that begin with dst_ are of datasets;"),
        ({"train": {"dataset": "mdl_" + "0" * 26}}, "/train/dataset", "mdl_ are of models;"),
        ({"train": {"dataset": "job_" + "0" * 26}}, "/train/dataset", "job_ are of jobs;"),
    ],
)
def test_an_id_of_another_kind_is_told_so(
    http: httpx2.Client, iris: Subject, values: Json, pointer: str, words: str
) -> None:
    answer = http.post("/v1/jobs", json=job(iris, **values))
    assert words in refused(answer, 404, "not-found", pointer)


@pytest.mark.parametrize(
    ("header", "value", "sent"),
    [
        ("Content-Length", str(1 << 30), b""),
        ("Transfer-Encoding", "chunked", b"500000\r\n" + b" " * 0x500000 + b"\r\n"),
    ],
)
def test_a_body_over_the_limit_is_refused_before_it_has_all_arrived(
    stack: Running, header: str, value: str, sent: bytes
) -> None:
    connection = HTTPConnection(stack.url.removeprefix("http://"), timeout=PATIENCE)
    with closing(connection):
        connection.putrequest("POST", "/v1/jobs")
        connection.putheader("Content-Type", "application/json")
        connection.putheader(header, value)
        connection.endheaders()
        connection.send(sent)
        with closing(connection.getresponse()) as answer:
            problem = json.loads(answer.read())
            assert answer.status == 413
    words = said(problem, 413, "too-large")
    assert "4194304 bytes" in words
    assert "data goes up as blobs" in words


def test_a_model_without_curvature_somewhere_is_singular_and_told_a_lambda_that_would_do(
    online: Client, http: httpx2.Client, regression: Subject, fresh_name: str
) -> None:
    """One input is always 0, so its weights do not matter."""
    x = regression.x_train.clone()
    x[:, 2] = 0.0
    online.datasets.register(fresh_name, x=x, y=regression.y_train)
    body = job(
        regression, train={"dataset": fresh_name}, hessian_regularization=0.0, precision="float64"
    )
    problem = failed(http, body)
    words = said(problem, 422, "computation-failed", "/hessian_regularization")
    assert "its smallest eigenvalue is" in words
    suggested = float(words.partition("a hessian_regularization of ")[2].split()[0])
    mended = http.post("/v1/jobs", json={**body, "hessian_regularization": suggested})
    assert ended(http, mended.headers["location"])["state"] == "succeeded"


def test_a_lissa_that_grows_is_told_a_scale_that_would_do(
    http: httpx2.Client, regression: Subject
) -> None:
    inversion = {"method": "lissa", "scale": 1e-3}
    problem = failed(http, job(regression, inversion=inversion))
    words = said(problem, 422, "computation-failed", "/inversion/scale")
    scale = float(words.partition("try scale = ")[2])
    mended = http.post("/v1/jobs", json=job(regression, inversion={**inversion, "scale": scale}))
    assert ended(http, mended.headers["location"])["state"] == "succeeded"


def test_an_inner_module_that_is_not_there_is_answered_with_those_that_are(
    http: httpx2.Client, words: Subject
) -> None:
    body = job(words, influence_type="perturbation", perturb_at="embeddings")
    problem = failed(http, body)
    assert problem["status"] == 422
    assert "embedding" in problem["detail"]


@pytest.mark.parametrize("shape", [(3, 14), (15,), (1, 3, 15)])
def test_right_hand_sides_of_a_wrong_shape_fail_with_the_right_one(
    online: Client, http: httpx2.Client, iris: Subject, shape: tuple[int, ...]
) -> None:
    from safetensors.numpy import save

    digest = online.blobs.put(save({"rhs": np.ones(shape)})).digest
    body = job(iris, kind="ihvp", rhs=digest)
    del body["test"]
    words = said(failed(http, body), 422, "invalid-request", "/rhs")
    assert "(right-hand sides, 15)" in words


def test_what_is_of_another_namespace_is_not_there(
    keyed_stack: Running, make_key: Callable[..., str], fresh_name: str
) -> None:
    """Neither by id nor by name nor by digest: the answer is that for what never was."""
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("f4")
    mine = Client(keyed_stack.url, make_key(f"a{fresh_name}"))
    theirs = Client(keyed_stack.url, make_key(f"b{fresh_name}"))
    with mine, theirs:
        rows = mine.datasets.register("rows", x=x, y=np.zeros(6, "i8"))
        assert rows.blobs is not None
        headers = {"Authorization": f"Bearer {theirs.connection.api_key}"}
        with httpx2.Client(base_url=keyed_stack.url, headers=headers, trust_env=False) as http:
            for reference in (rows.id, "rows", "rows@1"):
                refused(http.get(f"/v1/datasets/{reference}"), 404, "not-found")
                refused(http.delete(f"/v1/datasets/{reference}"), 404, "not-found")
            assert http.head(f"/v1/blobs/{rows.blobs[0]}").status_code == 404
            refused(http.get(f"/v1/blobs/{rows.blobs[0]}"), 404, "not-found")
            body = {
                "kind": "self_influences", "model": "mdl_" + "0" * 26,
                "train": {"dataset": rows.id}, "inversion": {"method": "direct"},
            }  # fmt: skip
            refused(http.post("/v1/jobs", json=body), 404, "not-found")
            stolen = {"name": "copy", "format": "safetensors", "blobs": rows.blobs}
            words = refused(
                http.post("/v1/datasets", json=stolen), 422, "invalid-request", "/blobs/0"
            )
            assert "upload it first" in words
            assert http.get("/v1/datasets").json()["items"] == []
        assert mine.datasets.get("rows").id == rows.id


def test_without_a_key_nothing_is_answered(keyed_stack: Running) -> None:
    with httpx2.Client(base_url=keyed_stack.url, trust_env=False) as http:
        assert refused(http.get("/v1/jobs"), 401, "unauthorized")
        wrong = http.get("/v1/jobs", headers={"Authorization": "Bearer upw_nonsense"})
        refused(wrong, 401, "unauthorized")


def test_text_that_is_no_json_is_refused(http: httpx2.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for text in ("{", '{"kind": NaN}', "[1,", json.dumps([1])):
        answer = http.post("/v1/jobs", content=text, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["type"] == "invalid-request"
