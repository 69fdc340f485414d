"""Texts of a question as rows of its index: tokens by the dataset's tokenizer, laid out as the dataset's rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.datasets.tokens import token_column
from service.storage.layout import blob_path
from upweight.errors import InvalidRequest, NotStored, UpweightError
from workers.engine import Rows as EngineRows
from workers.indexes.layout import Layout, Tokenizing, Unclear, layout_of
from workers.indexes.opened import OpenIndex
from workers.jobs.steps import spaced
from workers.process.context import Context
from workers.programs.errors import CheckFailed, CheckTimedOut, ProgramError
from workers.programs.fork_server import ForkServer
from workers.programs.isolation import Served

SAMPLED = 256  # rows that show how all are made of texts
SECONDS = 10.0  # for a tokenizer: to be read, and for its texts
PROCESSOR_SECONDS = 600  # of a child, for all its questions: then there is another
IGNORED = -100  # the label that does not count, where the loss names none
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TextRows:
    """Rows of texts: the columns that follow from them, the tokens of each, and what to know of it."""

    columns: dict[str, Array]
    tokens: list[list[int]]
    remarks: list[str]


class Texts:
    """Makes rows of texts."""

    def __init__(self, context: Context, server: ForkServer | None) -> None:
        self._context = context
        self._server = server
        self._served: tuple[tuple[str, str], Served] | None = None

    def rows(
        self,
        namespace: str,
        index: OpenIndex,
        train: EngineRows,
        texts: Sequence[str],
        given: Sequence[str],
    ) -> TextRows:
        """Of texts, beside columns that are given. Raises InvalidRequest."""
        column = token_column(index.dataset, index.dataset.columns)
        assert column is not None  # the front end has looked
        report = self._tokenized(namespace, index, texts)
        try:
            layout = self._layout(namespace, index, train, column.name, Tokenizing.of(report))
            names = (*index.match.inputs, *index.match.targets)
            wanted = [name for name in names if name != column.name and name not in given]
            _refuse_missing(index, layout, wanted)
            tokens, columns = layout.rows(report["tokens"], wanted)
        except Unclear as error:
            raise _refused(index, error) from None
        unknown = sum(report["unknown"])
        remarks = [f"{unknown} tokens stand for what the vocabulary has not"] if unknown else []
        return TextRows({column.name: tokens, **columns}, tokens.tolist(), remarks)

    def _tokenized(self, namespace: str, index: OpenIndex, texts: Sequence[str]) -> dict[str, Any]:
        try:
            try:
                report = self._child(namespace, index).ask({"texts": list(texts)}, SECONDS)
            except CheckTimedOut:
                raise
            except (
                CheckFailed
            ):  # the end of its processor time, or of the machine's memory, for earlier texts
                self._end()
                report = self._child(namespace, index).ask({"texts": list(texts)}, SECONDS)
        except ProgramError as error:
            self._end()
            raise _refused(index, Unclear(f"its tokenizer could not be used: {error}")) from None
        if "refusal" in report:
            raise _refused(index, Unclear(report["refusal"], report["at"]))
        return report

    def _child(self, namespace: str, index: OpenIndex) -> Served:
        """The child with the dataset's tokenizer; the one of another is ended."""
        context, digest = self._context, str(index.dataset.tokenizer)
        if self._served is not None and self._served[0] == (namespace, digest):
            return self._served[1]
        self._end()
        try:
            content = context.objects.get(blob_path(namespace, digest)).decode()
        except FileNotFoundError:
            raise NotStored(f"the tokenizer of dataset {index.dataset.id} has gone") from None
        child = Served(
            {"call": "workers.indexes.tokenized:tokenizes", "arguments": {"tokenizer": content}},
            cpu_s=PROCESSOR_SECONDS,
            memory_bytes=context.settings.check_memory_bytes,
            server=self._server,
        )
        self._served = (namespace, digest), child
        return child

    def _end(self) -> None:
        if self._served is not None:
            self._served[1].end()
            self._served = None

    def _layout(
        self,
        namespace: str,
        index: OpenIndex,
        train: EngineRows,
        tokens: str,
        tokenizing: Tokenizing,
    ) -> Layout:
        """Raises Unclear."""

        def made() -> tuple[Layout, int]:
            sample = train.take(spaced(len(index.rows), SAMPLED).to(self._context.device))
            match = index.match
            columns = dict(
                zip(
                    (*match.inputs, *match.targets),
                    (each.cpu() for each in (*sample.inputs, *sample.target_tensors)),
                    strict=True,
                )
            )
            loss = index.model.loss
            labels = match.targets if hasattr(loss, "ignore_index") else ()
            ignored = getattr(loss, "ignore_index", None)
            return layout_of(
                columns[tokens].long().numpy(),
                {
                    name: (each.double() if each.is_floating_point() else each.long()).numpy()
                    for name, each in columns.items()
                    if name != tokens and name in (*match.inputs, *labels)
                },
                dict.fromkeys(labels, IGNORED if ignored is None else ignored),
                tokenizing,
            ), 0

        return self._context.session.kept(("layout", namespace, index.job.id), made)


def _refuse_missing(index: OpenIndex, layout: Layout, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in layout.filled:
            raise InvalidRequest.field(
                "/columns",
                f"column {name!r} is missing: the rows of dataset {index.dataset.name}@{index.dataset.version} don't "
                "show that it follows from a text's tokens, so give it beside the text",
                None,
            )


def _refused(index: OpenIndex, error: Unclear) -> UpweightError:
    about = f"dataset {index.dataset.name}@{index.dataset.version}"
    if error.text is None:
        words = f"texts can't be made rows of {about}: {error}; give them as 'columns'"
        return InvalidRequest.field("/text", words, None)
    words = f"text {error.text} can't be made a row of {about}: {error}"
    return InvalidRequest.field(f"/text/{error.text}", words, None)
