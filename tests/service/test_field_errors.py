"""The words for fields that are wrong: where they are, as the user wrote them, and what would be right."""

from __future__ import annotations

import pytest

from tests.methods import METHODS
from tests.service.acting import Acting, field, problem, submitted


def test_a_parameter_of_another_method_is_refused_naming_whose_it_is(ready: Acting) -> None:
    answer = submitted(ready, inversion={"method": "cg", "rank_estimate": 20})
    problem(answer, 422, "invalid-request")
    said = field(answer, "/inversion/rank_estimate")
    assert "is a parameter of 'arnoldi', not of 'cg'" in said
    said = field(submitted(ready, inversion={"method": "direct", "rtol": 0.1}), "/inversion/rtol")
    assert "is a parameter of 'cg', 'lissa', not of 'direct'" in said
    assert "'direct' takes 'spectrum'" in said


def test_a_misspelt_field_is_refused_with_the_nearest_known(ready: Acting) -> None:
    answer = submitted(ready, hessian_regularisation=0.1)
    assert "did you mean 'hessian_regularization'?" in field(answer, "/hessian_regularisation")
    answer = submitted(ready, inversion={"method": "cg", "maxiters": 3})
    assert "did you mean 'maxiter'?" in field(answer, "/inversion/maxiters")
    answer = submitted(ready, keep={"topp": 3})
    assert "did you mean 'top'?" in field(answer, "/keep/topp")


def test_a_dataset_by_its_bare_name_is_told_the_form(ready: Acting) -> None:
    assert '{"dataset": "digits-train"}' in field(submitted(ready, train="train"), "/train")


@pytest.mark.parametrize("name", ["hessian_regularization", "hessian_perturbation"])
def test_a_negative_lambda_is_refused(ready: Acting, name: str) -> None:
    answer = submitted(ready, **{name: -0.5})
    assert answer.json()["errors"][0]["detail"] == "λ must be at least 0; it is -0.5"


def test_nan_and_infinity_are_no_numbers(ready: Acting) -> None:
    text = '{"kind": "influences", "hessian_regularization": NaN}'
    answer = ready.client.post(
        "/v1/jobs", content=text, headers={"Content-Type": "application/json"}
    )
    assert field(answer, "/hessian_regularization") == "must be a finite number"


def test_unknown_methods_and_kinds_name_the_allowed(ready: Acting) -> None:
    answer = submitted(ready, inversion={"method": "cgg"})
    said = field(answer, "/inversion/method")
    assert "unknown method 'cgg'; did you mean 'cg'? allowed are 'direct', 'cg'" in said
    said = field(submitted(ready, inversion={}), "/inversion/method")
    assert f"is one of {', '.join(map(repr, sorted(METHODS)))}" in said
    answer = submitted(ready, kind="influence")
    assert "did you mean 'influences'?" in field(answer, "/kind")


def test_one_value_in_the_place_of_several_is_told_that_a_list_is_wanted(ready: Acting) -> None:
    where = {"dataset": "train", "where": {"source": "web"}}
    assert field(submitted(ready, train=where), "/train/where/source") == "must be a list"


def test_a_wrong_member_does_not_make_its_list_too_short(ready: Acting) -> None:
    answer = submitted(ready, groups=[{"rowz": "0:2"}])
    assert all(each["pointer"] != "/groups" for each in answer.json()["errors"])
    assert "at least 1; it has 0" in field(submitted(ready, groups=[]), "/groups")


def test_a_program_as_a_measurement_is_told_the_way(ready: Acting) -> None:
    for measurement in ("program", {"name": "program"}):
        assert "give that job as 'factors'" in field(
            submitted(ready, measurement=measurement), "/measurement"
        )


def test_a_choice_between_two_types_is_explained_once(ready: Acting) -> None:
    answer = submitted(ready, batch_size="all")
    assert field(answer, "/batch_size") == "must be a whole number, or must be 'auto'"
    assert len(answer.json()["errors"]) == 1


def test_a_field_called_like_a_tag_keeps_its_name(ready: Acting) -> None:
    answer = submitted(ready, inversion={"method": "cg", "cg": 1}, influences=2)
    assert field(answer, "/inversion/cg")
    assert field(answer, "/influences")


def test_missing_fields_are_all_named(ready: Acting) -> None:
    answer = ready.post("/v1/jobs", {"kind": "influences"})
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"/model", "/train", "/test", "/inversion"}


def test_nothing_kept_is_refused(ready: Acting) -> None:
    answer = submitted(ready, keep={"matrix": False})
    assert "'keep' keeps nothing" in answer.json()["detail"]
