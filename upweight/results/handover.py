"""Suspects handed over to other tools, each in the form that it takes as it is. Scores are low where rows are bad."""

from __future__ import annotations

import base64
import difflib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

import upweight.late.numpy as np
import upweight.results.stored as stored
from upweight.errors import InvalidRequest
from upweight.extras import needed
from upweight.http.flow import Flow, Work
from upweight.progress import logger
from upweight.results.pictures.look import label, pixels
from upweight.results.pictures.png import png
from upweight.results.rows import record_of, rows_of, vocabulary_of
from upweight.results.suspects import SuspectTable
from upweight.schema import (
    DatasetRecord,
    ImagePreview,
    JobRecord,
    Suspect,
    TextPreview,
    written_rows,
)
from upweight.tokens import text_of

Tool = Literal["cleanlab", "label-studio", "fiftyone", "argilla", "datasets", "mlflow", "wandb"]
ROWS_AT_ONCE = 200  # whose data are fetched in one request
TEXTS_AT_ONCE = 1_000
MOST_TOKENS = 20_000_000  # of the texts of a table
FEATURES_SHOWN = 50  # of a table's row
WANDB_ROWS = 200_000  # that a table of W&B takes
WITH_DATA = ("label-studio", "argilla")
WITH_TEXTS = ("cleanlab", "datasets", "mlflow", "wandb")  # a column of them, where rows are texts


@dataclass(frozen=True)
class Handover:
    """What the tools are given: rows, the most suspect first, and what is known of their dataset.

    `contents`: of each row what people look at, under `text` or `image`; empty where the tool has the data itself.
    """

    job: JobRecord
    dataset: DatasetRecord
    items: Sequence[Suspect]
    share: float
    contents: Sequence[Mapping[str, str]] = ()

    @property
    def agent(self) -> str:
        """Who says so."""
        return f"upweight {self.job.id}"

    @property
    def classes(self) -> list[str]:
        """The names of classes, where labels are classes: given ones, or the numbers."""
        if self.dataset.class_names:
            return list(self.dataset.class_names)
        found = {value for each in self.items for value in (each.label, each.predicted)}
        return [str(value) for value in sorted(each for each in found if isinstance(each, int))]

    def named(self, value: float | None) -> str | None:
        """A label in words."""
        return None if value is None else label(np.asarray(value), self.dataset)

    def is_issue(self, item: Suspect) -> bool:
        """Whether it is among the share of rows with the lowest scores."""
        return item.score <= self.share

    def columns(self, *, in_order: bool, names: bool = True) -> dict[str, list[Any]]:
        """Columns as Datalab calls them, with ids. `in_order`: of rows as in the dataset, else the suspect first."""
        items = sorted(self.items, key=lambda each: each.column) if in_order else self.items
        said: Callable[[float | None], Any] = self.named if names else lambda value: value
        return {
            "id": [each.id for each in items],
            "row": [each.row for each in items],
            "is_label_issue": [self.is_issue(each) for each in items],
            "label_score": [each.score for each in items],
            "given_label": [said(each.label) for each in items],
            "predicted_label": [said(each.predicted) for each in items],
            "influence": [each.influence for each in items],
            **self._texts(items),
        }

    def _texts(self, items: Sequence[Suspect]) -> dict[str, list[Any]]:
        """A column with the rows in words, where there are some."""
        if not any("text" in each for each in self.contents):
            return {}
        text = {
            item.row: each["text"] for item, each in zip(self.items, self.contents, strict=True)
        }
        return {"text": [text[item.row] for item in items]}


def handed_over(
    record: JobRecord,
    to: str,
    path: str | os.PathLike[str] | None,
    k: int | None,
    share: float,
    dataset: Any,
    id_column: str,
) -> Flow[Any]:
    """The suspects in a tool's form, or what it was written to. Raises InvalidRequest, NotStored, MissingPackage."""
    if to not in TOOLS:
        near = difflib.get_close_matches(str(to), TOOLS, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(map(repr, TOOLS))
        raise InvalidRequest.field("/to", f"{to!r} is no tool{meant} There are {known}", to)
    if not 0 <= share <= 1:
        raise InvalidRequest.field("/share", f"a share lies between 0 and 1; it is {share}", share)
    if dataset is not None and to != "datasets":
        raise InvalidRequest.field("/dataset", "columns are added to a dataset for 'datasets'")
    for module in _NEEDED.get(to, ()):
        needed(module, f"export({to!r})")
    table = yield from stored.suspects(record, k)
    train = yield from record_of(record.train_id)
    given = Handover(record, train, table.items, share)
    if to in WITH_DATA or (to in WITH_TEXTS and dataset is None and _has_texts(train, table)):
        contents = yield from _contents(train, [each.row for each in table.items])
        given = Handover(record, train, table.items, share, contents)
    target = None if path is None else Path(path)
    if to == "datasets":
        return (yield Work(lambda: _datasets(given, target, dataset, id_column)))
    return (yield Work(lambda: TOOLS[to](given, target)))


def _cleanlab(given: Handover, path: Path | None) -> Any:
    """A DataFrame as of Datalab.get_issues("label"), a line a row of the dataset, labels as numbers.

    CleanLearning.fit(…, label_issues=…) takes it.
    """
    frame = _frame(given.columns(in_order=True, names=False))
    frame["label_quality"] = frame["label_score"]  # as CleanLearning calls it
    return frame if path is None else _frame_file(frame, path)


def _label_studio(given: Handover, path: Path | None) -> Any:
    """Tasks with predictions; beside the file, as .xml, the labelling interface that they are for."""
    tasks = []
    for item, content in zip(given.items, given.contents, strict=True):
        predicted = given.named(item.predicted)
        choice = {
            "from_name": "label",
            "to_name": next(iter(content)),
            "type": "choices",
            "value": {"choices": [predicted]},
        }
        data = {**content, "id": item.id, "row": item.row, "given": given.named(item.label)}
        prediction = {
            "model_version": given.agent,
            "score": item.score,
            "result": [choice] if predicted in given.classes else [],
        }
        tasks.append({"data": data, "predictions": [prediction]})
    if path is None:
        return tasks
    path.with_suffix(".xml").write_text(_interface(given), encoding="utf-8")
    return _json_file(tasks, path)


def _interface(given: Handover) -> str:
    shown = next(iter(given.contents[0]), "text") if given.contents else "text"
    kind = "Image" if shown == "image" else "Text"
    choices = "".join(f'<Choice value="{escape(name)}"/>' for name in given.classes)
    return (
        f'<View><{kind} name="{shown}" value="${shown}"/><Header value="given: $given"/>'
        f'<Choices name="label" toName="{shown}">{choices}</Choices></View>\n'
    )


def _fiftyone(given: Handover, path: Path | None) -> Any:
    """Values by id for each field: `samples.set_values(field, values, key_field="id")`."""
    columns = given.columns(in_order=True)
    ids = columns.pop("id")
    if path is None:
        return {name: dict(zip(ids, values, strict=True)) for name, values in columns.items()}
    # Keys of JSON's objects are text, and ids may be numbers.
    return _json_file({"ids": ids, "fields": columns}, path)


def _argilla(given: Handover, path: Path | None) -> Any:
    """Records with the prediction as a suggestion; a file as `dataset.records.from_json` reads it."""
    records = []
    for item, content in zip(given.items, given.contents, strict=True):
        predicted = given.named(item.predicted)
        suggested = {"value": predicted, "score": 1 - item.score, "agent": given.agent}
        records.append(
            {
                "id": str(item.id),
                "fields": dict(content),
                "metadata": {
                    "row": item.row,
                    "label_score": item.score,
                    "influence": item.influence,
                    "given_label": given.named(item.label) or "",
                },
                "suggestions": {} if predicted is None else {"label": suggested},
            }
        )
    if path is not None:
        return _json_file(records, path)
    argilla = needed("argilla", "export('argilla')")
    return [argilla.Record.from_dict(each) for each in records]


def _datasets(given: Handover, path: Path | None, dataset: Any, id_column: str) -> Any:
    """A Dataset of its own, or the caller's with the columns added by id."""
    datasets = needed("datasets", "export('datasets')")
    columns = given.columns(in_order=True)
    if dataset is None:
        made = datasets.Dataset.from_dict(columns)
    else:
        made = _joined(dataset, columns, id_column, by_row=given.dataset.ids is None)
    if path is None:
        return made
    if path.suffix == ".parquet":
        made.to_parquet(str(path))
    else:
        made.save_to_disk(str(path))
    return path


def _joined(dataset: Any, columns: dict[str, list[Any]], id_column: str, by_row: bool) -> Any:
    """The columns in the order of the dataset's ids, or rows where it has none; empty where there is no row."""
    if id_column in dataset.column_names:
        wanted = list(dataset[id_column])
    elif by_row:
        wanted = list(range(len(dataset)))
    else:
        names = ", ".join(dataset.column_names)
        raise InvalidRequest.field(
            "/id_column", f"the dataset has no column {id_column!r}; it has {names}", id_column
        )
    places = {id: place for place, id in enumerate(columns["id"])}
    found = [places.get(id) for id in wanted]
    if wanted and not any(place is not None for place in found):
        raise InvalidRequest.field(
            "/dataset", f"none of its ids, such as {wanted[0]!r}, is one of the result", None
        )
    for name, values in columns.items():
        if name in ("id", "row"):
            continue
        column = [None if place is None else values[place] for place in found]
        dataset = dataset.add_column(name, column)
    return dataset


def _mlflow(given: Handover, path: Path | None) -> str:
    """A table of the active run, or of a new one; answers its address. `path`: its name among the run's artifacts."""
    mlflow = needed("mlflow", "export('mlflow')")
    name = f"upweight/{given.job.id}.json" if path is None else path.as_posix()
    # As objects: mlflow asks for columns of these in a way that pandas 3 warns of where there are texts.
    table = _frame(given.columns(in_order=False)).astype(object)
    try:
        mlflow.log_table(table, artifact_file=name)
    except mlflow.exceptions.MlflowException as error:
        raise InvalidRequest.field(
            "/to",
            f"MLflow at {mlflow.get_tracking_uri()} takes no table ({str(error).strip()[:300]}); MLFLOW_TRACKING_URI "
            "names a server, and a database in place of one (sqlite:, the default) needs MLflow whole: pip install "
            "mlflow",
            None,
        ) from error
    run = mlflow.active_run() or mlflow.last_active_run()
    return f"runs:/{run.info.run_id}/{name}"


def _wandb(given: Handover, path: Path | None) -> Any:
    """A Table, which is logged into the active run where `path` names it."""
    wandb = needed("wandb", "export('wandb')")
    if len(given.items) > WANDB_ROWS:
        raise InvalidRequest.field(
            "/k", f"a table of W&B takes {WANDB_ROWS:,} rows, and there are more: give k", None
        )
    table = wandb.Table(dataframe=_frame(given.columns(in_order=False)))
    if path is not None:
        if wandb.run is None:
            raise InvalidRequest.field(
                "/path", "no run is active to log it into: wandb.init() begins one", None
            )
        wandb.run.log({path.as_posix(): table})
    return table


TOOLS: Mapping[str, Callable[[Handover, Path | None], Any]] = {
    "cleanlab": _cleanlab,
    "label-studio": _label_studio,
    "fiftyone": _fiftyone,
    "argilla": _argilla,
    "datasets": lambda given, path: _datasets(given, path, None, "id"),
    "mlflow": _mlflow,
    "wandb": _wandb,
}
assert set(TOOLS) == set(get_args(Tool))
# Looked for before anything is fetched.
_NEEDED = {
    "cleanlab": ("pandas",),
    "datasets": ("datasets",),
    "mlflow": ("mlflow", "pandas"),
    "wandb": ("wandb", "pandas"),
}


def _has_texts(dataset: DatasetRecord, table: SuspectTable) -> bool:
    """Whether its rows can be had in words, and are not too many for that."""
    preview = dataset.preview
    if not isinstance(preview, TextPreview) or preview.vocabulary is None:
        return False
    shape = next((each.shape for each in dataset.columns if each.name == preview.column), [])
    tokens = len(table) * math.prod(size or 0 for size in shape)
    if tokens > MOST_TOKENS:
        logger.warning(
            "the table has no texts: its %s rows have %s tokens, more than %s; give k for fewer rows",
            *(f"{number:,}" for number in (len(table), tokens, MOST_TOKENS)),
        )
    return tokens <= MOST_TOKENS


def _contents(dataset: DatasetRecord, rows: Sequence[int]) -> Flow[list[dict[str, str]]]:
    """What people look at of each row, as the dataset's preview says."""
    preview: Any = dataset.preview
    column = preview.column if preview is not None else dataset.inputs[0]
    vocabulary = (yield from vocabulary_of(dataset)) or []
    names = dataset.features_of(column)
    found: dict[int, dict[str, str]] = {}
    ordered = sorted(set(rows))
    step = TEXTS_AT_ONCE if isinstance(preview, TextPreview) else ROWS_AT_ONCE
    for start in range(0, len(ordered), step):
        some = ordered[start : start + step]
        values = (yield from rows_of(dataset, written_rows(some), [column]))[column]
        for row, value in zip(some, values, strict=True):
            found[row] = _content(value, preview, vocabulary, names)
    return [found[row] for row in rows]


def _content(value: Any, preview: Any, vocabulary: list[str], names: list[str]) -> dict[str, str]:
    if isinstance(preview, ImagePreview):
        data = base64.b64encode(png(pixels(value, preview))).decode()
        return {"image": f"data:image/png;base64,{data}"}
    flat = np.asarray(value).ravel().tolist()
    if isinstance(preview, TextPreview):
        return {"text": text_of(flat, vocabulary, None)}
    told = [
        f"{names[at]} {number:.4g}" if at < len(names) else f"{number:.4g}"
        for at, number in enumerate(flat[:FEATURES_SHOWN])
    ]
    return {"text": ", ".join([*told, *(["…"] if len(flat) > FEATURES_SHOWN else [])])}


def _frame(columns: dict[str, list[Any]]) -> Any:
    return needed("pandas", "a table of suspects").DataFrame(columns)


def _frame_file(frame: Any, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        raise InvalidRequest.field("/path", f"give a .csv or .parquet; {path.name!r} is none", None)
    return path


def _json_file(document: Any, path: Path) -> Path:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path
