"""Rankings and rows as callers use them."""

from __future__ import annotations

from tests.upweight import records
from upweight.results.tables import PredictedRows, Ranking
from upweight.schema import JobRecord

RANKING = Ranking.model_validate(
    {
        "test": 3,
        "sign": "harmful",
        "items": [
            {"row": 20, "column": 2, "influence": -0.5},
            {"row": 40, "column": 4, "influence": -0.25},
        ],
    }
)


def test_a_ranking_is_iterated_counted_and_sliced() -> None:
    assert [each.row for each in RANKING] == [20, 40]
    assert len(RANKING) == 2
    assert RANKING[0].influence == -0.5
    assert [each.column for each in RANKING[1:]] == [4]


def test_a_ranking_is_a_frame_by_the_datasets_rows() -> None:
    frame = RANKING.to_pandas()
    assert list(frame.index) == [20, 40]
    assert frame.index.name == "row"
    assert list(frame["influence"]) == [-0.5, -0.25]


def test_a_ranking_is_a_line_at_a_prompt_and_a_table_in_a_notebook() -> None:
    assert repr(RANKING) == "<Ranking harmful of test row 3: 20 (-0.5), 40 (-0.25)>"
    assert "<td>20</td><td>2</td><td>-0.5</td>" in RANKING._repr_html_()
    by_mean = RANKING.model_copy(update={"test": None, "items": RANKING.items * 3})
    assert repr(by_mean).startswith("<Ranking harmful by mean: 20 ")
    assert repr(by_mean).endswith(", …>")


def test_of_self_influences_none_is_said_to_be_helpful() -> None:
    request = {
        "kind": "self_influences", "model": "m", "train": {"dataset": "d"},
        "inversion": {"method": "direct"},
    }  # fmt: skip
    record = JobRecord.model_validate(records.job(request=request))
    found = RANKING.model_copy(update={"test": None, "sign": "helpful"}).of(record)
    assert repr(found) == "<Ranking largest influence on itself: 20 (-0.5), 40 (-0.25)>"
    assert "helpful" in repr(found.of(JobRecord.model_validate(records.job())))


def test_nothing_is_a_frame_without_lines() -> None:
    nothing = PredictedRows.model_validate({"side": "test", "total": 7, "items": []})
    assert (len(nothing), len(nothing.to_pandas())) == (0, 0)
    assert repr(nothing) == "<PredictedRows test: 0 of 7>"
    assert nothing._repr_html_() == "<table><tr></tr></table>"
