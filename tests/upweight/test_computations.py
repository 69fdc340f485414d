"""The computations: keywords become a job's request, mistakes become words, results are saved."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from tests.methods import METHODS
from tests.upweight import records
from tests.upweight.local_server import Server, answer
from upweight import Client, FactorsResult, InfluenceResult, SelfInfluenceResult, errors
from upweight.client.options import JobOptions, Options
from upweight.schema import (
    ConjugateGradient,
    Curvature,
    DatasetRecord,
    InfluencesJob,
    Lissa,
    ModelRecord,
    Selection,
)
from upweight.schema.inversion import Parameters

MODEL = ModelRecord.model_validate(records.model())
TRAIN = DatasetRecord.model_validate(records.dataset())
PATH = f"/v1/jobs/{records.JOB}"

NAMES = list(METHODS)


@pytest.fixture
def request_of(server: Server, client: Client) -> Any:
    server.on("POST", "/v1/jobs", answer(202, records.job("queued")))

    def request(*args: Any, call: str = "compute_influences", **keywords: Any) -> Any:
        getattr(client, call)(*args, wait=False, **keywords)
        return server.asked[-1].json

    return request


def test_records_names_and_selections_are_taken(request_of: Any) -> None:
    asked = request_of(MODEL, TRAIN, Selection(dataset="digits-test@2", rows="0:10"))
    assert asked["model"] == records.MODEL
    assert asked["train"] == {"dataset": records.DATASET}
    assert asked["test"] == {"dataset": "digits-test@2", "rows": "0:10"}
    assert asked["inversion"] == {"method": "direct"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("0:100", "0:100"),
        (slice(None, None, 10), "::10"),
        (slice(2, 5), "2:5"),
        (range(0, 10, 3), "0:10:3"),
        (range(0), "0:0"),
        (range(-2, 1), "-2,-1,0"),
        (7, "7"),
        (-1, "-1"),
        ([3, 4, 5, 9], "3:6,9"),
        ([5, 4, 4], "5,4,4"),
        ([-2, -1, 0], "-2,-1,0"),
        (np.array([True, False, True]), "0,2"),
    ],
)
def test_rows_are_written_in_many_ways(request_of: Any, rows: Any, text: str) -> None:
    assert request_of("m", "d", "t", test_rows=rows)["test"]["rows"] == text


def test_keywords_go_to_the_method_or_to_the_job(request_of: Any) -> None:
    asked = request_of(
        "m", "d", "t", inversion_method="cg", rtol=0.01, maxiter=100, seed=3,
        hessian_regularization=1e-4, labels={"a": "b"}, keep={"factors": True}, influence_type="perturbation",
    )  # fmt: skip
    assert asked["inversion"] == {"method": "cg", "rtol": 0.01, "maxiter": 100}
    assert (asked["seed"], asked["labels"], asked["keep"]) == (3, {"a": "b"}, {"factors": True})
    assert asked["hessian_regularization"] == 1e-4
    assert asked["influence_type"] == "perturbation"


def test_a_curvature_is_a_kind_a_model_or_a_mapping(request_of: Any) -> None:
    given: tuple[Any, ...] = ("fisher", Curvature(kind="fisher"), {"kind": "fisher"})
    for curvature in given:
        asked = request_of("m", "d", "t", curvature=curvature, inversion_method="cg")
        assert asked["curvature"] == {"kind": "fisher"}
    for call in ("compute_influence_factors", "self_influences"):
        rows = ("m", "d", "t") if "factors" in call else ("m", "d")
        assert request_of(*rows, call=call, curvature="fisher")["curvature"] == {"kind": "fisher"}


def test_what_method_and_job_both_have_is_the_methods(request_of: Any) -> None:
    asked = request_of("m", "d", "t", inversion_method="lissa", batch_size=100, seed=3)
    assert asked["inversion"] == {"method": "lissa", "batch_size": 100, "seed": 3}
    assert not {"batch_size", "seed"} & asked.keys()
    asked = request_of("m", "d", "t", inversion_method=Lissa(batch_size=100), batch_size=50)
    assert asked["inversion"] == {"method": "lissa", "batch_size": 100}
    assert asked["batch_size"] == 50


def test_parameters_beside_a_model_of_the_contract_are_refused(request_of: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"give it to ConjugateGradient\(…\)"):
        request_of("m", "d", "t", inversion_method=ConjugateGradient(rtol=0.5), maxiter=3)


def test_a_method_may_be_a_dict_as_estimates_and_records_have_it(request_of: Any) -> None:
    asked = request_of("m", "d", "t", inversion_method={"method": "cg", "rtol": 0.1}, maxiter=3)
    assert asked["inversion"] == {"method": "cg", "rtol": 0.1, "maxiter": 3}
    for given, words in (
        ({"method": "cg", "rank": 3}, "'rank' is not a parameter of 'cg'"),
        ({"rtol": 0.1}, "None is no inversion method"),
        ({"method": ["cg"]}, "is no inversion method"),
        ({"method": "lissa", "batch_size": 3}, "give one of both"),
    ):
        with pytest.raises(errors.InvalidRequest, match=words):
            request_of("m", "d", "t", inversion_method=given, batch_size=5)


def test_a_method_may_be_a_model_of_the_contract(request_of: Any) -> None:
    asked = request_of("m", "d", "t", inversion_method=ConjugateGradient(rtol=0.5))
    assert asked["inversion"] == {"method": "cg", "rtol": 0.5}


def test_input_data_is_what_is_scored_and_train_is_what_the_hessian_is_over(
    request_of: Any,
) -> None:
    asked = request_of("m", "d", "t", input_data="others")
    assert (asked["train"], asked["hessian_on"]) == ({"dataset": "others"}, {"dataset": "d"})


def test_hessian_perturbation_is_another_name(request_of: Any) -> None:
    asked = request_of("m", "d", "t", hessian_perturbation=0.1)
    assert asked["hessian_regularization"] == 0.1


def test_factors_may_be_an_earlier_result(request_of: Any, client: Client, server: Server) -> None:
    server.on("GET", PATH, answer(200, records.influences([2, 3], "factors")))
    asked = request_of("m", "d", "t", factors=client.jobs.result(records.JOB))
    assert asked["factors"] == records.JOB


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        (
            {"rtol": 0.1},
            r"'rtol' is not a parameter of 'direct', which takes 'spectrum'.*'cg' and 'lissa'",
        ),
        ({"inversion_method": "cg", "scale": 3}, r"takes 'x0', 'rtol'.*belongs to 'lissa'"),
        ({"inversion_method": "cg", "wobble": 3}, "no method takes it"),
        ({"hessian_regularisation": 1}, "did you mean 'hessian_regularization'"),
        ({"inversion_method": "cg", "max_iter": 3}, "did you mean 'maxiter'"),
        ({"max_iter": 3}, "did you mean 'maxiter', of 'cg' and 'lissa'"),
        ({"methd": "cg"}, "did you mean 'inversion_method'"),
        ({"inversion": {"method": "cg"}}, "did you mean 'inversion_method'"),
        ({"inversion_method": "cg", "solver": "x"}, "did you mean 'inversion_method'"),
        ({"lambda_": 3}, "did you mean 'hessian_regularization'"),
        ({"inversion_method": "drect"}, "'drect' is no inversion method; did you mean 'direct'"),
        ({"test_row": "0:3"}, "did you mean 'test_rows'"),
        (
            {"inversion_method": "newton"},
            f"'newton'.*{', '.join(map(repr, NAMES))}, .*'ekfac'",
        ),
        ({"inversion_method": "cg", "rtol": -1}, "/inversion/rtol"),
        (
            {"inversion_method": "arnoldi", "complement": True, "hessian_regularization": 0},
            "^/hessian_regularization: 'complement' divides by λ, so it needs .* > 0$",
        ),
        (
            {
                "inversion_method": "cg",
                "preconditioner": {"name": "nystroem", "rank": 4},
                "hessian_regularization": [0.1, 0],
            },
            "^/hessian_regularization: 'preconditioner' divides by λ",
        ),
        (
            {"inversion_method": "cg", "preconditioner": "arnoldi", "hessian_regularization": 0},
            "^/hessian_regularization: 'preconditioner' divides by λ",
        ),
        ({"precision": "float16"}, "precision"),
        ({"hessian_perturbation": 1, "hessian_regularization": 2}, "mean the same"),
        ({"keep": {"matrix": False}}, "keeps nothing"),
        ({"keep": {"all": True}}, "keep/all"),
        ({"perturb_at": "conv"}, "perturbation"),
        ({"test_rows": "a:b"}, "not a row or a slice"),
        ({"input_data": "i", "hessian_on": "h"}, "leave out 'hessian_on'"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(
    server: Server, client: Client, keywords: Any, words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        client.compute_influences("m", "d", "t", **keywords)
    assert server.asked == []


def test_right_hand_sides_and_first_guesses_are_uploaded(request_of: Any, server: Server) -> None:
    taken = {"digest": "sha256:" + "1" * 64, "size_bytes": 1}
    guess = {"digest": "sha256:" + "2" * 64, "size_bytes": 1}
    rhs = np.ones((2, 5), np.float32)
    for array, name, record in ((rhs, "rhs", taken), (rhs[:1] * 2, "x0", guess)):
        from upweight.client.content import arrays_content

        path = f"/v1/blobs/{arrays_content({name: array}, name).digest()}"
        server.on("PUT", path, answer(201, record))
        server.on("HEAD", path, answer(404))
    asked = request_of("cg", "m", "d", rhs, x0=rhs[0] * 2, call="solve_hvp")
    assert (asked["kind"], asked["rhs"]) == ("ihvp", taken["digest"])
    assert asked["inversion"] == {"method": "cg", "x0": guess["digest"]}
    bodies = [a.body for a in server.asked if a.method == "PUT"]
    assert {
        name: load(body)[name].shape for body, name in zip(bodies, ("rhs", "x0"), strict=True)
    } == {
        "rhs": (2, 5),
        "x0": (1, 5),
    }


def test_a_computation_waits_and_hands_out_its_result(server: Server, client: Client) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = records.influences([2, 3], "matrix", "mean", "factors", "top")
    server.on("POST", "/v1/jobs", answer(202, records.job("queued")))
    server.on("GET", PATH, answer(200, stored))
    server.on("GET", f"{PATH}/influences", answer(200, npy(matrix)))
    server.on("GET", f"{PATH}/mean", answer(200, npy(matrix.mean(0))))
    ranking = {"test": 0, "sign": "helpful", "items": [{"row": 5, "column": 2, "influence": 2.0}]}
    server.on("GET", f"{PATH}/top", answer(200, ranking))
    result = client.compute_influences("m", "d", "t")
    assert isinstance(result, InfluenceResult)
    np.testing.assert_array_equal(result.numpy(), matrix)
    np.testing.assert_array_equal(result.mean(), matrix.mean(0))
    assert result.url == f"{server.url}/#/jobs/{records.JOB}"
    assert repr(result) == f"<InfluenceResult {records.JOB} succeeded {result.url}>"
    assert result.top(test=0, k=1).items[0].row == 5
    # Which sign is usual depends on what was measured, and the service knows.
    assert set(server.asked[-1].query) == {("k", "1"), ("test", "0")}


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_info_has_numbers_at_once_and_arrays_when_asked(server: Server, client: Client) -> None:
    residuals = {"name": "residuals", "dtype": "float64", "shape": [3], "size_bytes": 24}
    info = {"method": "cg", "summary": {"iterations": 12}, "arrays": [residuals]}
    factors = records.influences([2, 3], "factors")
    factors["request"]["kind"] = "factors"
    server.on("GET", PATH, answer(200, factors))
    server.on("GET", f"{PATH}/info", answer(200, info), answer(200, npy(np.array([1.0, 2.0, 3.0]))))
    result = client.jobs.result(records.JOB)
    assert isinstance(result, FactorsResult)
    assert result.x.shape == (2, 7)
    assert result.info["iterations"] == 12
    assert set(result.info) == {"iterations", "residuals"}
    assert result.info["residuals"][1:].tolist() == [2.0, 3.0]
    assert server.asked[-1].query == [("array", "residuals")]
    with pytest.raises(KeyError):
        result.info["nothing"]


def test_what_was_not_kept_says_how_to_keep_it(server: Server, client: Client) -> None:
    server.on("GET", PATH, answer(200, records.influences([2, 3], "mean")))
    result: Any = client.jobs.result(records.JOB)
    with pytest.raises(errors.NotStored, match=r"kept mean.*keep=\{'matrix': True\}"):
        _ = result.influences
    with pytest.raises(errors.NotStored, match="'factors': True"):
        _ = result.factors


def test_a_running_job_has_no_result_yet(server: Server, client: Client) -> None:
    server.on("GET", PATH, answer(200, records.job("running")))
    result: Any = client.jobs.result(records.JOB)
    with pytest.raises(errors.ResultNotReady, match=r"result\.wait\(\)"):
        _ = result.influences


def test_a_handle_sees_the_job_end_and_can_cancel_it(server: Server, client: Client) -> None:
    server.on("POST", "/v1/jobs", answer(202, records.job("queued")))
    server.on("GET", PATH, answer(200, records.influences([2, 3])))
    server.on("POST", f"{PATH}/cancel", answer(202, records.job("cancelling")))
    result = client.compute_influences("m", "d", "t", wait=False)
    assert result.job.state == "queued"
    assert result.wait().shape == (2, 3)
    assert result.cancel().job.state == "cancelling"


def test_self_influences_are_one_number_a_row(server: Server, client: Client) -> None:
    stored = records.influences([3], "self_influences")
    stored["request"] = {
        "kind": "self_influences", "model": "m", "train": {"dataset": "d"},
        "inversion": {"method": "direct"},
    }  # fmt: skip
    stored["result"]["factor_shape"] = None
    server.on("POST", "/v1/jobs", answer(202, stored))
    server.on("GET", f"{PATH}/self_influences", answer(200, npy(np.array([1, 2, 3], np.float32))))
    result = client.self_influences("m", "d", train_rows="0:3")
    assert isinstance(result, SelfInfluenceResult)
    assert result.influences[-2:].tolist() == [2.0, 3.0]


def test_digest_of_an_array_is_that_of_its_file() -> None:
    from upweight.client.content import arrays_content

    content = arrays_content({"rhs": np.ones((2, 2))}, "rhs")
    body = b"".join(content.chunks())
    assert content.digest() == "sha256:" + hashlib.sha256(body).hexdigest()
    assert content.size == len(body)


def test_type_checkers_know_every_parameter_of_every_method() -> None:
    parameters = {name for row in METHODS.values() for name in row.schema.model_fields} - {"method"}
    assert parameters <= set(Options.__annotations__)
    assert set(Parameters.__annotations__) <= parameters
    assert set(JobOptions.__annotations__) <= set(InfluencesJob.model_fields)
