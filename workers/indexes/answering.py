"""Questions to an index, on a warm worker: gradients of the rows asked about, candidates, and their exact scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.logs import log
from service.storage.keys import Document
from service.storage.questions import FOLLOWED, Questions
from upweight.errors import InvalidRequest, NotStored
from upweight.schema import (
    DatasetRecord,
    IndexJob,
    JobRecord,
    ModelRecord,
    parse_rows,
)
from workers import engine
from workers.checks.rows import refuse_labels_out_of_range
from workers.datasets.columns import Columns
from workers.datasets.reader import tensor_dtype
from workers.engine import Batch, Problem, TensorRows
from workers.engine import Rows as EngineRows
from workers.engine.curvature.structured.blocks import Spectral
from workers.engine.model.rows import ChosenRows
from workers.engine.progress import Progress, silent
from workers.indexes.opened import OpenIndex
from workers.indexes.search import SIGNS, Found, Searched
from workers.indexes.texts import Texts
from workers.jobs.asked_damping import asked_of_fit, damped
from workers.jobs.indexing import LEADING
from workers.jobs.inputs import DTYPES
from workers.jobs.resolved_damping import as_worked_out
from workers.jobs.stored_index import StoredIndex
from workers.process.context import Context
from workers.programs.fork_server import ForkServer
from workers.refusals import public_error

TELLING_SECONDS = 0.25
_SOME_BYTES = 1024  # counted of what is mapped, so that a warm worker lets go of it


class NobodyWaits(Exception):
    """Whoever followed a question has gone."""


class Telling:
    """Tells who follows a question what goes on: each stage, and several times a second how far it is."""

    def __init__(self, questions: Questions, id: str) -> None:
        self._questions, self._id = questions, id
        self._stage, self._at = "", 0.0

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        """Raises NobodyWaits."""
        now = time.monotonic()
        if stage == self._stage and now - self._at < TELLING_SECONDS:
            return
        self._stage, self._at = stage, now
        progress = {"stage": stage, "done": done, "total": total, "unit": unit}
        if not self._questions.tell(self._id, progress):
            raise NobodyWaits


class Answering:
    """All questions that this worker is given."""

    def __init__(self, context: Context, server: ForkServer | None = None) -> None:
        """`server` forks the children that read tokenizers."""
        self._context = context
        self._texts = Texts(context, server)

    def run(self, namespace: str, id: str) -> None:
        """One question. Nothing is done for whoever waits no longer."""
        taken = self._context.questions.taken(id)
        if taken is None:
            return
        question, arrays = taken
        progress = Telling(self._context.questions, id) if question[FOLLOWED] else silent
        try:
            answer = self._answer(namespace, question, arrays, progress)
        except NobodyWaits:
            log("question-left", question=id)
            return
        except Exception as error:
            problem = public_error(error, question["index"]).problem()
            answer = {"problem": problem.model_dump(mode="json")}
        self._context.questions.answer(id, answer)

    def _answer(
        self,
        namespace: str,
        question: Document,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        progress: Progress,
    ) -> Document:
        began = time.monotonic()
        index = self._open(namespace, question["index"], progress)
        session = self._context.session
        dtype = DTYPES[index.request.precision]
        problem = session.problem(namespace, index.model, dtype, progress)
        columns = Columns.of(index.dataset, index.match)
        train = partial(session.rows, namespace, index.dataset, columns, index.rows, progress)
        given = {name: arrays[str(at)] for at, name in enumerate(question["columns"])}
        texts, pointer = None, "/columns"
        if question["text"] is not None:
            progress("tokens", 0, len(question["text"]), "texts")
            texts = self._texts.rows(namespace, index, train(), question["text"], list(given))
            given, pointer = {**given, **texts.columns}, "/text"
        asked = _placed(problem, index, given, pointer)
        refuse_labels_out_of_range(problem, _rows_of(asked), pointer)
        progress("gradients", 0, len(asked), "rows")
        gradients = engine.per_example_gradients(problem, asked)
        queries = index.embedding(gradients).cpu().float()
        k, candidates = question["k"], question["candidates"]
        progress("search", 0, len(index.rows), "rows")
        found = index.searched.best(queries, candidates // 2 or k)
        scored = 0
        if candidates:
            places = found.every
            scored = len(places)
            found = self._exactly(problem, index, train(), gradients, places, k, progress)
        ranked = [
            {
                sign: [
                    [index.rows[row], value]
                    for row, value in zip(
                        found.rows[sign][at, :k].tolist(),
                        found.values[sign][at, :k].tolist(),
                        strict=True,
                    )
                ]
                for sign in SIGNS
            }
            for at in range(len(asked))
        ]
        return {
            "rows": ranked,
            "candidates": scored,
            "seconds": time.monotonic() - began,
            "tokens": None if texts is None else texts.tokens,
            "remarks": [] if texts is None else texts.remarks,
        }

    def _exactly(
        self,
        problem: Problem,
        index: OpenIndex,
        train: EngineRows,
        gradients: Tensor,
        places: Tensor,
        k: int,
        progress: Progress,
    ) -> Found:
        """The best of the candidates of all that were asked about, by their whole gradients."""
        factors = index.form.apply(gradients)
        chosen = ChosenRows(train, places.to(problem.device))
        budget = self._context.settings.memory_bytes
        blocks: list[Tensor] = []
        progress("candidates", 0, len(places), "rows")
        for _, block in engine.up(problem, factors, chosen, budget_bytes=budget):
            blocks.append(block)
            progress("candidates", sum(each.shape[1] for each in blocks), len(places), "rows")
        return Found.of(torch.cat(blocks, 1).cpu(), k, places)

    def _open(self, namespace: str, id: str, progress: Progress) -> OpenIndex:
        """Raises NotFound of one that was deleted, whatever is held of it."""
        document = self._context.records.get("job", namespace, id)

        def made() -> tuple[OpenIndex, int]:
            found = self._opened(namespace, document, progress)
            size = sum(each.nbytes for each in found.form.tensors().values())
            size += found.embedding.nbytes + found.searched.nbytes
            return found, size + _SOME_BYTES

        index: OpenIndex = self._context.session.kept(("index", namespace, id), made)
        return index

    def _opened(self, namespace: str, document: Document, progress: Progress) -> OpenIndex:
        context, job = self._context, JobRecord.model_validate(document)
        if (
            not isinstance(job.request, IndexJob)
            or job.result is None
            or job.expired_at is not None
        ):
            raise NotStored(f"job {job.id} has stored no index")
        request = as_worked_out(job.request, document)
        assert isinstance(request, IndexJob)
        stored = StoredIndex.open(context.objects, namespace, job.id)
        form = damped(stored.form(context.device), asked_of_fit(request)[0])
        assert isinstance(form, Spectral)
        model = context.records.get("model", namespace, job.model_id)
        dataset = DatasetRecord.model_validate(
            context.records.get("dataset", namespace, job.train_id)
        )
        rows = parse_rows(request.train.rows, dataset.rows or 0)
        factors = stored.factors(range(len(rows)))
        embedding = stored.embedding(form, request)
        leading = embedding.leading(LEADING)
        searched = Searched.copied(stored.matrix, factors, leading, context.scratch, progress)
        return OpenIndex(
            job,
            request,
            ModelRecord.model_validate(model),
            dataset,
            rows,
            form,
            embedding,
            searched,
        )


def _rows_of(batch: Batch) -> TensorRows:
    return TensorRows(list(batch.inputs), batch.targets)


def _placed(
    problem: Problem, index: OpenIndex, arrays: Mapping[str, np.ndarray[Any, Any]], pointer: str
) -> Batch:
    """The rows as the model takes them. Raises InvalidRequest for numbers that look up what the model has not."""
    count = len(index.match.inputs)
    tensors = [
        _as_stored(index, name, arrays[name])
        for name in (*index.match.inputs, *index.match.targets)
    ]
    _refuse_tokens(problem, index, tensors[:count], pointer)
    targets = tuple(tensors[count:])
    batch = Batch(tuple(tensors[:count]), targets[0] if len(targets) == 1 else targets or None, 0)
    placed = problem.placed(batch)
    with torch.no_grad():
        try:
            problem.outputs(problem.theta, placed.at_least_two())
        except IndexError:
            raise InvalidRequest.field(
                pointer, f"{_whole_numbers(index, tensors)}: {_LOOKED_UP}", None
            ) from None
    return placed


def _as_stored(index: OpenIndex, name: str, values: np.ndarray[Any, Any]) -> Tensor:
    """Whole numbers in the type that the index's rows have; others are placed as the model takes them."""
    found = torch.from_numpy(values)
    dtype = next(each.dtype for each in index.dataset.columns if each.name == name)
    return found if found.is_floating_point() else found.to(tensor_dtype(dtype))


_LOOKED_UP = (
    "the model looks up what it has not, such as a token that is not in its vocabulary; give the numbers that its own "
    "tokenizer gives"
)


def _whole_numbers(index: OpenIndex, tensors: Sequence[Tensor]) -> str:
    """The ranges of the whole numbers in the rows, for people."""
    told = [
        f"{name!r} has {int(tensor.min())} to {int(tensor.max())}"
        for name, tensor in zip(index.match.inputs, tensors, strict=False)
        if not tensor.is_floating_point() and tensor.dtype != torch.bool and tensor.numel()
    ]
    return ", ".join(told) or "the rows"


def _refuse_tokens(
    problem: Problem, index: OpenIndex, inputs: Sequence[Tensor], pointer: str
) -> None:
    """Whole numbers beyond those of the index's rows: a GPU that looks up too far can't be used any more."""
    if problem.device.type == "cpu":
        return
    specs = {column.name: column for column in index.dataset.columns}
    for name, tensor in zip(index.match.inputs, inputs, strict=True):
        lowest, highest = specs[name].minimum, specs[name].maximum
        if tensor.is_floating_point() or lowest is None or highest is None:
            continue
        if int(tensor.min()) < lowest or int(tensor.max()) > highest:
            raise InvalidRequest.field(
                f"{pointer}/{name}" if pointer == "/columns" else pointer,
                f"{_whole_numbers(index, inputs)}, and those of the index's rows go from {lowest:g} to {highest:g}; "
                f"beyond these {_LOOKED_UP}",
                None,
            )
