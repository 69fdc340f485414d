"""Suspects as other tools take them. A tool that is not installed is skipped; what needs none is always tried."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from upweight import Client, InvalidRequest, MissingPackage, SelfInfluenceResult, UntrustedResult
from upweight.results.handover import TOOLS

ROWS, CLASSES = 40, ["cat", "dog", "eel"]
IDS = [f"img-{3 * row}" for row in range(ROWS)]
WORDS = ["<pad>", "good", "bad", "film"]


@pytest.fixture(scope="module")
def problem() -> dict[str, Any]:
    """Three separate groups of rows, of which row 7 has another group's label."""
    generator = np.random.default_rng(3)
    y = np.arange(ROWS) % 3
    x = np.eye(4, dtype="f4")[y] + 0.1 * generator.standard_normal((ROWS, 4)).astype("f4")
    wrong = y.copy()
    wrong[7] = (y[7] + 1) % 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Linear(4, 3)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200)

    def objective() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(wrong))
        loss = loss + 0.01 * sum(each.square().sum() for each in net.parameters())
        loss.backward()
        return loss

    optimizer.step(objective)
    return {"net": net, "x": x, "y": wrong}


@pytest.fixture(scope="module")
def result(online: Client, problem: dict[str, Any]) -> SelfInfluenceResult:
    x, net = problem["x"], problem["net"]
    model = online.models.register("handover", net, example=x[:2], loss="cross_entropy")
    train = online.datasets.register(
        "handover", x=x, y=problem["y"], ids=IDS, class_names=CLASSES,
        preview={"kind": "image", "column": "x", "shape": [2, 2]},
    )  # fmt: skip
    return online.self_influences(model, train, hessian_regularization=0.02)


@pytest.fixture(scope="module")
def texts(online: Client) -> SelfInfluenceResult:
    tokens = np.array([[1, 3, 0], [2, 3, 0], [1, 1, 3], [2, 2, 3]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(9, 2))
    model = online.models.register(
        "handed-over-words", net, example=tokens[:2], loss="cross_entropy"
    )
    preview = {"kind": "text", "column": "x", "vocabulary": ["", *WORDS[1:]]}
    train = online.datasets.register(
        "handed-over-words", x=tokens, y=np.array([0, 1, 0, 1]), preview=preview
    )
    with pytest.warns(UntrustedResult):  # it is not trained
        return online.self_influences(model, train, hessian_regularization=1.0, curvature="fisher")


def test_cleanlab_has_a_line_a_row_with_low_scores_for_what_is_bad(
    result: SelfInfluenceResult, problem: dict[str, Any]
) -> None:
    frame = result.export("cleanlab")
    assert frame["id"].tolist() == IDS
    assert frame["given_label"].tolist() == problem["y"].tolist()
    assert frame["label_score"].idxmin() == 7
    assert frame["label_score"].between(0, 1).all()
    assert frame["predicted_label"][7] == 1
    assert frame["is_label_issue"].dtype == bool
    assert frame["is_label_issue"].sum() == 2  # 5 % of 40
    assert result.export("cleanlab", share=0.025)["is_label_issue"].sum() == 1


def test_cleanlab_itself_reports_the_suspects_and_trains_without_them(
    result: SelfInfluenceResult, problem: dict[str, Any]
) -> None:
    cleanlab = pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    from cleanlab.classification import CleanLearning
    from cleanlab.datalab.internal.issue_manager import IssueManager
    from sklearn.linear_model import LogisticRegression

    frame = result.export("cleanlab")

    class Influence(IssueManager):
        issue_name = "label"

        def find_issues(self, **options: Any) -> None:
            self.issues = frame[["is_label_issue", "label_score"]]
            self.summary = self.make_summary(score=frame["label_score"].mean())
            self.info = {name: frame[name] for name in ("given_label", "predicted_label")}

    lab = cleanlab.Datalab({"x": problem["x"].tolist(), "y": problem["y"].tolist()}, label_name="y")
    manager = Influence(lab)
    manager.find_issues()
    lab.data_issues.collect_issues_from_issue_manager(manager)
    assert lab.get_issues("label")["label_score"].idxmin() == 7
    learning = CleanLearning(LogisticRegression())
    learning.fit(problem["x"], problem["y"], label_issues=frame)
    assert learning.predict(problem["x"])[7] == 1


def test_cleanlab_trains_by_a_table_with_words(texts: SelfInfluenceResult) -> None:
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    from cleanlab.classification import CleanLearning
    from sklearn.linear_model import LogisticRegression

    frame = texts.export("cleanlab", share=0)
    assert frame["text"].tolist() == LINES
    learning = CleanLearning(LogisticRegression())
    learning.fit(np.eye(4), np.array([0, 1, 0, 1]), label_issues=frame)
    assert learning.get_label_issues()["label_quality"].tolist() == frame["label_quality"].tolist()


def test_label_studio_has_tasks_and_their_interface(
    result: SelfInfluenceResult, tmp_path: Path
) -> None:
    path = result.export("label-studio", tmp_path / "tasks.json", k=3)
    tasks = json.loads(path.read_text())
    assert [task["data"]["id"] for task in tasks] == result.suspects(3).ids
    first = tasks[0]
    assert (first["data"]["id"], first["data"]["given"]) == (IDS[7], "eel")
    assert first["data"]["image"].startswith("data:image/png;base64,")
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == f"upweight {result.id}"
    assert prediction["score"] < 0.05
    assert prediction["result"][0]["value"]["choices"] == ["dog"]
    interface = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    assert [each.get("value") for each in interface.iter("Choice")] == CLASSES


def test_label_studio_itself_accepts_tasks_and_predictions(
    result: SelfInfluenceResult, tmp_path: Path
) -> None:
    interfaces = pytest.importorskip("label_studio_sdk.label_interface")
    path = result.export("label-studio", tmp_path / "tasks.json")
    interface = interfaces.LabelInterface((tmp_path / "tasks.xml").read_text())
    interface.validate()
    for task in json.loads(path.read_text()):
        assert interface.validate_task({"data": task["data"]})
        assert all(map(interface.validate_prediction, task["predictions"]))
    other = {"value": {"choices": ["ant"]}}
    wrong = {"result": [{**task["predictions"][0]["result"][0], **other}]}
    assert not interface.validate_prediction({**task["predictions"][0], **wrong})


def test_fiftyone_has_a_value_an_id_for_each_field(
    result: SelfInfluenceResult, tmp_path: Path
) -> None:
    fields = result.export("fiftyone")
    assert set(fields["label_score"]) == set(IDS)
    assert min(fields["label_score"], key=fields["label_score"].get) == IDS[7]
    assert fields["predicted_label"][IDS[7]] == "dog"
    stored = json.loads(result.export("fiftyone", tmp_path / "fields.json").read_text())
    for name, values in fields.items():
        assert dict(zip(stored["ids"], stored["fields"][name], strict=True)) == values


def test_argilla_has_records_with_suggestions(result: SelfInfluenceResult, tmp_path: Path) -> None:
    records = json.loads(result.export("argilla", tmp_path / "r.json", k=2).read_text())
    assert [each["id"] for each in records] == result.suspects(2).ids
    assert records[0]["suggestions"]["label"]["value"] == "dog"
    assert records[0]["metadata"]["label_score"] < 0.05
    assert list(records[0]["fields"]) == ["image"]


def test_argilla_itself_reads_the_records(result: SelfInfluenceResult, tmp_path: Path) -> None:
    argilla = pytest.importorskip("argilla", reason="argilla is not installed")
    (first, *_) = result.export("argilla")
    assert isinstance(first, argilla.Record)
    assert first.metadata["given_label"] == "eel"
    assert first.suggestions["label"].value == "dog"
    path = result.export("argilla", tmp_path / "records.json")
    from argilla.records._io._json import JsonIO

    assert [each.id for each in JsonIO._records_from_json(path)] == result.suspects().ids


def test_texts_are_handed_over_in_words_and_padding_is_not_seen(
    texts: SelfInfluenceResult, tmp_path: Path
) -> None:
    tasks = texts.export("label-studio")
    shown = {task["data"]["row"]: task["data"]["text"] for task in tasks}
    assert shown == {0: "good film", 1: "bad film", 2: "good good film", 3: "bad bad film"}


LINES = ["good film", "bad film", "good good film", "bad bad film"]


def test_tables_have_the_rows_in_words(
    result: SelfInfluenceResult, texts: SelfInfluenceResult, tmp_path: Path
) -> None:
    frame = texts.export("cleanlab")
    assert frame["text"].tolist() == LINES
    assert frame["row"].tolist() == [0, 1, 2, 3]
    first = texts.suspects(1).rows[0]
    assert texts.export("cleanlab", k=1)["text"].tolist() == [LINES[first]]
    read = pd.read_csv(texts.export("cleanlab", tmp_path / "issues.csv"))
    assert read["text"].tolist() == LINES
    assert "text" not in result.export("cleanlab").columns


def test_a_table_too_large_for_words_says_so_and_goes_without(
    texts: SelfInfluenceResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("upweight.results.handover.MOST_TOKENS", 11)
    assert "text" not in texts.export("cleanlab").columns
    assert "its 4 rows have 12 tokens, more than 11; give k for fewer rows" in caplog.text
    assert "text" in texts.export("cleanlab", k=3).columns


def test_words_come_along_to_mlflow(
    texts: SelfInfluenceResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            texts.export("mlflow", "suspects.json")
        read = mlflow.load_table("suspects.json", run_ids=[run.info.run_id])
    finally:
        mlflow.set_tracking_uri(before)
    assert read["text"].tolist() == [LINES[row] for row in texts.suspects()]


def test_words_come_along_to_a_dataset_of_hugging_face(texts: SelfInfluenceResult) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    assert texts.export("datasets")["text"] == LINES
    theirs = datasets.Dataset.from_dict({"text": ["own"] * 4})
    joined = texts.export("datasets", dataset=theirs)
    assert joined["text"] == ["own"] * 4  # that of the caller stays
    assert len(joined["label_score"]) == 4


def test_words_come_along_to_wandb(texts: SelfInfluenceResult) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    table = texts.export("wandb")
    column = table.columns.index("text")
    assert [line[column] for line in table.data] == [LINES[row] for row in texts.suspects()]


def test_columns_join_a_dataset_of_hugging_face_by_id(
    result: SelfInfluenceResult, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    own = result.export("datasets")
    assert own["id"] == IDS
    theirs = datasets.Dataset.from_dict({"key": [*reversed(IDS), "another"], "z": [0] * 41})
    joined = result.export("datasets", dataset=theirs, id_column="key")
    scores = dict(zip(own["id"], own["label_score"], strict=True))
    assert joined["label_score"] == [*(scores[id] for id in reversed(IDS)), None]
    assert joined.column_names[:2] == ["key", "z"]
    with pytest.raises(InvalidRequest, match="no column 'id'; it has key, z"):
        result.export("datasets", dataset=theirs)
    result.export("datasets", tmp_path / "own")
    assert datasets.load_from_disk(str(tmp_path / "own"))["id"] == IDS


def test_mlflow_has_the_table_among_a_runs_artifacts(
    result: SelfInfluenceResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            address = result.export("mlflow")
        assert address == f"runs:/{run.info.run_id}/upweight/{result.id}.json"
        read = mlflow.load_table(f"upweight/{result.id}.json", run_ids=[run.info.run_id])
    finally:
        mlflow.set_tracking_uri(before)
    assert read["id"].tolist() == result.suspects().ids
    assert read["given_label"][0] == "eel"


def test_an_mlflow_that_has_nowhere_to_log_is_told_with_the_way_out(
    result: SelfInfluenceResult,
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("nosuch://runs")
    try:
        with pytest.raises(
            InvalidRequest, match=r"at nosuch://runs takes no table .*MLFLOW_TRACKING_URI"
        ):
            result.export("mlflow")
    finally:
        mlflow.set_tracking_uri(before)


def test_wandb_has_a_table(
    result: SelfInfluenceResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InvalidRequest, match=r"wandb\.init\(\) begins one"):
        result.export("wandb", "suspects")
    with wandb.init(project="p", dir=tmp_path):
        table = result.export("wandb", "suspects")
    assert table.columns[0] == "id"
    assert [line[0] for line in table.data] == result.suspects().ids


def test_a_tool_that_is_missing_or_unknown_is_named_with_the_way_out(
    result: SelfInfluenceResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingPackage, match=r"pip install 'upweight\[wandb\]'"):
        result.export("wandb")
    with pytest.raises(InvalidRequest, match="did you mean 'cleanlab'"):
        result.export("cleanlabs")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="between 0 and 1"):
        result.export("cleanlab", share=5)


def test_tables_for_files_keep_the_ids(result: SelfInfluenceResult, tmp_path: Path) -> None:
    read = pd.read_csv(result.export("cleanlab", tmp_path / "issues.csv"))
    assert read["id"].tolist() == IDS
    read = pd.read_parquet(result.export("cleanlab", tmp_path / "issues.parquet"))
    assert read["id"].tolist() == IDS
    assert len(TOOLS) == 7
