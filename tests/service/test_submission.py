"""Jobs that can't work are refused at once, naming the field and the way out."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest

from tests.methods import METHODS
from tests.service.acting import Acting, digest_of, field, problem, submitted


def test_a_good_job_is_queued(ready: Acting) -> None:
    answer = submitted(ready, labels={"a": "b"}, priority="high")
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["attempt"]) == ("queued", 0)
    assert job["model_id"] == ready.client.get("/v1/models/net").json()["id"]
    assert job["hessian_id"] == job["train_id"]
    assert job["request"]["inversion"]["rtol"] == 1e-7
    assert ready.parts.queue.position(job["id"], 0, "high") == 3  # behind the three checks


def test_hessian_perturbation_means_hessian_regularization(ready: Acting) -> None:
    job = submitted(ready, hessian_perturbation=0.5).json()
    assert job["request"]["hessian_regularization"] == 0.5


def test_unknown_names_are_not_found_where_they_were_written(ready: Acting) -> None:
    for values, pointer in (
        ({"model": "nett"}, "/model"),
        ({"model": "net@7"}, "/model"),
        ({"train": {"dataset": "nope"}}, "/train/dataset"),
        ({"test": {"dataset": "nope"}}, "/test/dataset"),
    ):
        answer = submitted(ready, **values)
        problem(answer, 404, "not-found")
        assert "list what there is" in field(answer, pointer)


@pytest.mark.parametrize(
    ("values", "pointer", "words"),
    [
        ({"model": "ent"}, "/model", "did you mean 'net'?"),
        ({"model": "net@7"}, "/model", "'net' has version 1;"),
        ({"train": {"dataset": "trian"}}, "/train/dataset", "did you mean 'train'?"),
    ],
)
def test_a_misspelt_name_is_told_what_is_like_it(
    ready: Acting, values: Any, pointer: str, words: str
) -> None:
    assert words in field(submitted(ready, **values), pointer)


def test_a_softmax_without_lambda_is_refused_before_it_is_computed(ready: Acting) -> None:
    direct = {"method": "direct"}
    answer = submitted(ready, inversion=direct)
    assert "hessian_regularization (λ) is left out" in field(answer, "/hessian_regularization")
    assert submitted(ready, inversion=direct, hessian_regularization=0).status_code == 202
    assert submitted(ready, inversion={"method": "cg"}).status_code == 202


def test_a_model_that_is_still_checked_is_not_ready_yet(ready: Acting) -> None:
    ready.post("/v1/models", ready.model_request("net"))
    answer = submitted(ready)
    problem(answer, 409, "not-ready")
    assert "net@2 is still being checked" in field(answer, "/model")
    assert answer.headers["retry-after"] == "1"


def test_a_rejected_dataset_says_why(ready: Acting) -> None:
    reason = {"type": "rejected", "title": "t", "status": 422, "detail": "NaN in row 3 of 'x'"}
    ready.dataset("train", state="rejected", problem=reason)
    answer = submitted(ready, train={"dataset": "train@2"})
    problem(answer, 409, "not-ready")
    assert "NaN in row 3 of 'x'" in field(answer, "/train/dataset")
    assert "retry-after" not in answer.headers


def test_a_name_means_its_newest_version_that_was_not_rejected_and_the_job_says_so(
    ready: Acting,
) -> None:
    before = submitted(ready).json()
    assert before["remarks"] == []
    reason = {"type": "rejected", "title": "t", "status": 422, "detail": "NaN in row 3 of 'x'"}
    ready.dataset("train", state="rejected", problem=reason)
    ready.model("net", state="rejected", problem=reason)
    after = submitted(ready).json()
    assert [after[each] for each in ("model_id", "train_id")] == [
        before[each] for each in ("model_id", "train_id")
    ]
    model, train = after["remarks"]
    assert model.startswith("/model: 'net' means net@1 here")
    assert "'train' means train@1 here, for its newest version, 2, was rejected: NaN" in train


def test_a_name_of_which_all_versions_were_rejected_says_why(ready: Acting) -> None:
    reason = {"type": "rejected", "title": "t", "status": 422, "detail": "NaN in row 3 of 'x'"}
    ready.dataset("bad", state="rejected", problem=reason)
    answer = submitted(ready, train={"dataset": "bad"})
    problem(answer, 409, "not-ready")
    assert "bad@1 was rejected: NaN in row 3" in field(answer, "/train/dataset")


def test_a_shape_that_does_not_fit_the_model_is_refused(ready: Acting) -> None:
    columns = [
        {"name": "x", "dtype": "float32", "shape": [8, 8]},
        {"name": "y", "dtype": "int64", "shape": []},
    ]
    ready.dataset("pictures", columns=columns)
    answer = submitted(ready, test={"dataset": "pictures"})
    problem(answer, 422, "invalid-request")
    assert "has shape (8, 8)" in field(answer, "/test/dataset")
    assert "takes (4,)" in field(answer, "/test/dataset")


def test_a_free_size_takes_any_shape(ready: Acting) -> None:
    ready.model("free", inputs=[{"name": "x", "dtype": "float32", "shape": [None, None]}])
    assert submitted(ready, model="free").status_code == 202


def test_a_dtype_that_does_not_fit_the_model_is_refused(ready: Acting) -> None:
    ready.model("tokens", inputs=[{"name": "x", "dtype": "int64", "shape": [None, 4]}])
    assert "takes int64" in field(submitted(ready, model="tokens"), "/train/dataset")


def test_too_few_inputs_are_refused(ready: Acting) -> None:
    spec = {"name": "x", "dtype": "float32", "shape": [None, 4]}
    ready.model("two", inputs=[spec, {**spec, "name": "mask"}])
    said = field(submitted(ready, model="two"), "/train/dataset")
    assert "takes 2 inputs" in said
    assert "gives 1 inputs" in said


def test_targets_that_do_not_fit_the_loss_are_refused(ready: Acting) -> None:
    columns = [
        {"name": "x", "dtype": "float32", "shape": [4]},
        {"name": "y", "dtype": "float32", "shape": []},
    ]
    ready.dataset("floats", columns=columns)
    said = field(submitted(ready, train={"dataset": "floats"}), "/train/dataset")
    assert "takes class indices (integers)" in said
    ready.model("regression", request={"loss": "mse"})
    said = field(
        submitted(ready, model="regression", train={"dataset": "floats"}), "/train/dataset"
    )
    assert "the model gives (3,) a row" in said


def test_rows_that_are_not_there_are_refused(ready: Acting) -> None:
    for rows, words in (
        ("50", "row 50 is not there: there are 50 rows, 0 to 49"),
        ("40:40", "chooses no row"),
        ("a:b", "is not a row or a slice"),
        ("::0", "step of 0"),
    ):
        answer = submitted(ready, train={"dataset": "train", "rows": rows})
        problem(answer, 422, "invalid-request")
        assert words in field(answer, "/train/rows")


def test_a_model_too_large_for_direct_is_told_what_else_there_is(ready: Acting) -> None:
    ready.model("large", parameter_count=1001)
    answer = submitted(ready, model="large", inversion={"method": "direct"})
    said = field(answer, "/inversion/method")
    assert "up to 1000 parameters" in said
    assert "'cg'" in said
    assert submitted(ready, model="large").status_code == 202


def test_a_result_over_the_limit_is_told_what_to_keep_instead(ready: Acting) -> None:
    ready.dataset("many", 100_000)
    answer = submitted(ready, train={"dataset": "many"})
    problem(answer, 422, "result-too-large")
    assert "keep.top" in field(answer, "/keep/matrix")
    keep = {"matrix": False, "top": 10, "mean": True}
    assert submitted(ready, train={"dataset": "many"}, keep=keep).status_code == 202
    rows = {"dataset": "many", "rows": "0:1000"}
    assert submitted(ready, train=rows).status_code == 202


def test_factors_over_the_limit_are_refused(ready: Acting) -> None:
    ready.model("wide", parameter_count=1_000_000)
    answer = submitted(ready, model="wide", keep={"factors": True})
    problem(answer, 422, "result-too-large")
    assert field(answer, "/keep/factors")


def test_more_top_rows_than_there_are_is_refused(ready: Acting) -> None:
    assert "there are 50 training rows" in field(submitted(ready, keep={"top": 51}), "/keep/top")


def test_a_time_over_the_operators_is_refused(ready: Acting) -> None:
    assert field(submitted(ready, timeout_s=86_401), "/timeout_s")


def without_test(ready: Acting, **values: Any) -> httpx2.Response:
    body = ready.job_request(**values)
    del body["test"]
    return ready.post("/v1/jobs", body)


def test_jobs_of_every_kind_type_and_method_are_queued(ready: Acting) -> None:
    rhs = ready.upload(b"not looked into here")
    methods = [{"method": name} for name in METHODS]
    methods += [{"method": "cg", "x0": rhs}, {"method": "lissa", "h0": rhs}]
    for inversion in methods:
        answer = submitted(ready, inversion=inversion, hessian_regularization=0.1)
        assert answer.status_code == 202
    assert submitted(ready, kind="factors").status_code == 202
    assert without_test(ready, kind="ihvp", rhs=rhs).status_code == 202
    assert without_test(ready, kind="self_influences").status_code == 202
    assert submitted(ready, influence_type="perturbation").status_code == 202
    inner = {"influence_type": "perturbation", "perturb_at": "embedding"}
    assert submitted(ready, **inner).status_code == 202
    some = {"dataset": "train", "rows": "0:9"}
    assert submitted(ready, train=some, hessian_on={"dataset": "train"}).status_code == 202


def test_perturbation_at_an_inner_module_needs_no_floating_point_input(ready: Acting) -> None:
    ready.model("tokens", inputs=[{"name": "x", "dtype": "int64", "shape": [None, 4]}])
    columns = [
        {"name": "x", "dtype": "int64", "shape": [4]},
        {"name": "y", "dtype": "int64", "shape": []},
    ]
    for name in ("train", "test"):
        ready.dataset(name, columns=columns)
    whole = {"model": "tokens", "influence_type": "perturbation"}
    assert "can't be moved" in field(submitted(ready, **whole), "/influence_type")
    assert submitted(ready, **whole, perturb_at="embedding").status_code == 202


def test_a_tensor_that_was_not_uploaded_is_refused_where_it_is_named(ready: Acting) -> None:
    digest = digest_of(b"nowhere")
    for pointer, answer in (
        ("/rhs", without_test(ready, kind="ihvp", rhs=digest)),
        ("/inversion/x0", submitted(ready, inversion={"method": "cg", "x0": digest})),
        ("/inversion/h0", submitted(ready, inversion={"method": "lissa", "h0": digest})),
    ):
        problem(answer, 422, "invalid-request")
        assert f"PUT /v1/blobs/{digest}" in field(answer, pointer)


@pytest.fixture
def earlier(ready: Acting) -> str:
    job = ready.job(kind="factors", test={"dataset": "test", "rows": "0:5"})["id"]
    ready.succeed(job, factors=np.zeros((5, 15), "f4"))
    return str(job)


def test_the_factors_of_an_earlier_job_are_taken_for_the_same_test_rows(
    ready: Acting, earlier: str
) -> None:
    for rows in ("0:5", ":5", "0,1,2,3,4"):
        test = {"dataset": "test", "rows": rows}
        assert submitted(ready, factors=earlier, test=test).status_code == 202


def test_test_rows_are_left_out_with_factors_alone(ready: Acting, earlier: str) -> None:
    made = without_test(ready, factors=earlier)
    assert made.status_code == 202
    test = made.json()["request"]["test"]
    assert (test["dataset"], test["rows"]) == (made.json()["test_id"], "0:5")
    assert "is missing. The rows that are influenced." in field(without_test(ready), "/test")
    both = {**ready.job_request(), "model": None}
    del both["test"]
    told = {each["pointer"] for each in ready.post("/v1/jobs", both).json()["errors"]}
    assert told == {"/model", "/test"}
    wrong = without_test(ready, factors="job_1")
    assert [each["pointer"] for each in wrong.json()["errors"]] == ["/factors"]


def test_factors_that_do_not_fit_are_refused_with_what_would(ready: Acting, earlier: str) -> None:
    test = {"dataset": "test", "rows": "0:5"}
    for values in ({"test": {"dataset": "test"}}, {"test": {"dataset": "train", "rows": "0:5"}}):
        answer = submitted(ready, factors=earlier, **values)
        problem(answer, 422, "invalid-request")
        assert "are of rows 0:5 of dataset" in field(answer, "/factors")
    ready.model("other")
    answer = submitted(ready, factors=earlier, test=test, model="other")
    assert "take the same model" in field(answer, "/factors")


def test_a_job_without_factors_is_refused_where_it_is_named(ready: Acting) -> None:
    answer = submitted(ready, factors="job_" + "0" * 26)
    problem(answer, 404, "not-found")
    assert "list what there is" in field(answer, "/factors")
    waiting = ready.job()["id"]
    answer = submitted(ready, factors=waiting)
    problem(answer, 409, "not-ready")
    assert "is queued" in field(answer, "/factors")
    ready.succeed(waiting, matrix=np.zeros((10, 50), "f4"))
    answer = submitted(ready, factors=waiting)
    problem(answer, 404, "not-stored")
    assert "keep.factors" in field(answer, "/factors")


def test_the_same_idempotency_key_starts_one_job(ready: Acting) -> None:
    first = ready.post("/v1/jobs", ready.job_request(), **{"Idempotency-Key": "k"})
    again = ready.post("/v1/jobs", ready.job_request(), **{"Idempotency-Key": "k"})
    assert first.json()["id"] == again.json()["id"]
    assert ready.parts.queue.lengths()["default"] == 1
    other = ready.post("/v1/jobs", ready.job_request(seed=1), **{"Idempotency-Key": "k"})
    problem(other, 422, "idempotency-conflict")


def test_a_job_that_was_written_and_not_enqueued_is_enqueued_by_the_retry(ready: Acting) -> None:
    first = ready.post("/v1/jobs", ready.job_request(), **{"Idempotency-Key": "k"})
    ready.parts.queue.remove(first.json()["id"], 0, "default")
    ready.post("/v1/jobs", ready.job_request(), **{"Idempotency-Key": "k"})
    assert ready.parts.queue.position(first.json()["id"], 0, "default") == 0


def test_a_namespace_with_too_many_unfinished_jobs_waits(ready: Acting) -> None:
    jobs = [ready.job()["id"] for _ in range(20)]
    answer = submitted(ready)
    problem(answer, 429, "queue-full")
    assert int(answer.headers["retry-after"]) > 0
    ready.client.post(f"/v1/jobs/{jobs[0]}/cancel")
    assert submitted(ready).status_code == 202


def labelled(acting: Acting, name: str, low: float, high: float, *names: str) -> None:
    columns = [
        {"name": "x", "dtype": "float32", "shape": [4]},
        {"name": "y", "dtype": "int64", "shape": [], "minimum": low, "maximum": high},
    ]
    acting.dataset(name, columns=columns, request={"class_names": names})


WIDE = [("trunk.weight", [5000, 5000]), ("trunk.bias", [5000]), ("head.weight", [10, 5000])]
SIDES = 5000**2 + 5001**2  # of the trunk's factors
ENTRIES = 5000 * 5001  # of its weight and bias
REST = 8 * 10 * 5000  # of the head, which has no bias: a diagonal at least


def specs(shapes: list[tuple[str, list[int]]]) -> list[Any]:
    found, offset = [], 0
    for name, shape in shapes:
        found.append({"name": name, "shape": shape, "offset": offset})
        offset += int(np.prod(shape))
    return found


@pytest.mark.parametrize(
    ("structure", "shapes", "needed", "words"),
    [
        ("ekfac", WIDE, SIDES * 12 + 8 * ENTRIES + REST, "'trunk', and a worker may use 536,870,912; choose structure"),
        ("kfac", WIDE, SIDES * 12 + 8 * ENTRIES + REST, "'diagonal' (200,440,000 bytes)"),
        ("layers", [(f"{i}.weight", [64, 64]) for i in range(7)], (7 * 4 + 8) * 4096**2, "'0'"),
        ("diagonal", [("w", [7000, 10_000])], 8 * 70_000_000, "fewer 'parameters' ('head.*')"),
        ("identity", [("w", [7000, 10_000])], 8 * 70_000_000, "UPWEIGHT_MEMORY_BYTES"),
    ],
    ids=["ekfac", "kfac", "layers", "diagonal", "identity"],
)  # fmt: skip
def test_a_structure_that_does_not_fit_is_refused_in_bytes(
    ready: Acting, structure: str, shapes: Any, needed: int, words: str
) -> None:
    size = sum(int(np.prod(shape)) for _, shape in shapes)
    ready.model("large", parameter_count=size, selected=specs(shapes))
    given = {"model": "large", "hessian_regularization": 0.1, "inversion": {"method": "direct"}}
    asked = {"kind": "empirical_fisher", "structure": structure}
    answer = submitted(ready, curvature=asked, **given)
    problem(answer, 422, "invalid-request")
    said = field(answer, "/curvature/structure")
    assert f"takes {needed:,} bytes at least" in said
    assert words in said


@pytest.mark.parametrize("structure", ["ekfac", "kfac", "layers", "diagonal", "identity"])
def test_a_structure_that_may_fit_is_not_refused(ready: Acting, structure: str) -> None:
    # Of a vocabulary and of what may be an embedding there is a diagonal at least.
    shapes = [("embed.weight", [4096, 2048]), ("lm.weight", [60_000, 64]), ("lm.bias", [60_000])]
    size = sum(int(np.prod(shape)) for _, shape in shapes)
    ready.model("fits", parameter_count=size, selected=specs(shapes))
    asked = {"kind": "fisher", "structure": structure}
    given = {"model": "fits", "hessian_regularization": 0.1, "inversion": {"method": "direct"}}
    assert submitted(ready, curvature=asked, **given).status_code == 202


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 2), (-100, 3)])
def test_a_label_out_of_range_is_refused_with_the_range_and_the_way_out(
    ready: Acting, low: int, high: int
) -> None:
    labelled(ready, "odd", low, high)
    for name in ("train", "test"):
        answer = submitted(ready, **{name: {"dataset": "odd"}})
        problem(answer, 422, "invalid-request")
        said = field(answer, f"/{name}/dataset")
        assert "labels go from 0 to 2" in said
        assert "'ignore_index'" in said


def test_labels_that_the_loss_ignores_may_lie_out_of_range(ready: Acting) -> None:
    labelled(ready, "masked", -100, 2)
    assert submitted(ready, train={"dataset": "masked"}).status_code == 202
    labelled(ready, "padded", 0, 255)
    ready.model("padding", request={"loss": {"name": "cross_entropy", "ignore_index": 255}})
    assert submitted(ready, model="padding", train={"dataset": "padded"}).status_code == 202
    assert submitted(ready, train={"dataset": "padded"}).status_code == 422


def test_a_label_without_a_name_is_refused_unless_the_loss_ignores_it(ready: Acting) -> None:
    labelled(ready, "few", 0, 2, "cat", "dog")
    for name in ("train", "test"):
        answer = submitted(ready, **{name: {"dataset": "few", "rows": "0:5"}})
        said = field(answer, f"/{name}/dataset")
        assert "has the label 2" in said
        assert "a name for each label" in said
        assert "'ignore_index'" in said
    labelled(ready, "all", 0, 2, "cat", "dog", "cow")
    assert submitted(ready, train={"dataset": "all"}).status_code == 202
    labelled(ready, "padded", 0, 255, "cat", "dog")
    ready.model("padding", request={"loss": {"name": "cross_entropy", "ignore_index": 255}})
    assert submitted(ready, model="padding", train={"dataset": "padded"}).status_code == 202


def test_the_range_of_all_rows_does_not_judge_some_of_them(ready: Acting) -> None:
    labelled(ready, "odd", 0, 3)
    assert submitted(ready, test={"dataset": "odd", "rows": "0:5"}).status_code == 202


def test_more_blocks_than_are_taken_are_refused_with_their_number(ready: Acting) -> None:
    answer = submitted(ready, blocks={"train_rows": 1, "test_rows": 1})
    assert answer.status_code == 202, "50 by 10 rows"
    ready.dataset("huge", 10_000_000)
    answer = submitted(
        ready,
        train={"dataset": "huge"},
        blocks={"train_rows": 1},
        keep={"matrix": False, "mean": True},
    )
    assert "10000000 blocks" in field(answer, "/blocks/train_rows")
