"""The tasks that check what was registered: a model in an isolated child, a dataset row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from service.datasets.sources import sources_of
from service.datasets.views import view_of
from service.lifecycle.states import LeaseLost, now
from service.logs import log
from service.storage.keys import PREFIX, Document, Kind
from service.storage.queue import CHECK_PRIORITY, CHECKS
from service.storage.redis import reachable
from upweight.errors import NotFound, Rejected, Unavailable
from upweight.schema import CheckState, ColumnSpec, DatasetRecord, ModelRecord
from workers.checks.dataset import check_dataset, check_view
from workers.checks.kept_reports import KeptReports
from workers.checks.tokenizer import check_tokenizer
from workers.datasets.reader import DatasetReader
from workers.datasets.shards import fetched
from workers.process.context import Context
from workers.process.watch import Cancelled, GivenBack, Watch
from workers.programs.fork_server import ForkServer
from workers.programs.isolation import run_isolated
from workers.programs.models import allowed_programs
from workers.programs.weights_by_name import refuse_unlike
from workers.refusals import public_error


class CheckTasks:
    """What RQ calls on one worker for a model or a dataset that was registered."""

    def __init__(self, context: Context, server: ForkServer | None = None) -> None:
        """`server` forks the children that check models."""
        self._context = context
        self._server = server
        self._reports = KeptReports(context.redis)

    def check_model(self, namespace: str, id: str) -> None:
        """Reads and tries out a model in an isolated child; its record becomes ready or rejected."""
        self._check("model", namespace, id, self._model_report)

    def check_dataset(self, namespace: str, id: str) -> None:
        """Reads every row of a dataset once; its record becomes ready or rejected."""
        self._check("dataset", namespace, id, self._dataset_report)

    def _check(self, kind: Kind, namespace: str, id: str, report: Any) -> None:
        context = self._context
        if not context.leases.take(id, context.name):
            return
        try:
            record = context.records.get(kind, namespace, id)
            if record["state"] == CheckState.CHECKING:
                self._require_tries_left(id)
                with self._watch(kind, namespace, id) as watch:
                    found = report(namespace, record, watch)
                self._conclude(kind, namespace, id, {**found, "state": CheckState.READY})
        except NotFound:
            log("record-gone", record=id)
        except Cancelled:
            log("check-cancelled", record=id)
        except GivenBack:
            context.leases.release(id, context.name)  # first: who takes it at once finds it free
            context.queue.enqueue(CHECKS[kind], namespace, id, priority=CHECK_PRIORITY)
        except LeaseLost as error:
            log("check-taken-away", level="warning", record=id, detail=str(error))
        except Unavailable as error:
            # Nothing is known of it yet: recovery puts it into the queue again.
            self._forget_try(id)
            log("check-postponed", level="warning", record=id, detail=error.detail)
        except Exception as error:
            problem = public_error(error, id).problem().model_dump(mode="json")
            self._conclude(kind, namespace, id, {"state": CheckState.REJECTED, "problem": problem})
        finally:
            context.leases.release(id, context.name)

    def _watch(self, kind: Kind, namespace: str, id: str) -> Watch:
        """Over a check, which ends when what is checked is deleted."""
        context = self._context

        def is_gone() -> bool:
            try:
                context.records.get(kind, namespace, id)
            except NotFound:
                return True
            return False

        return context.watch(
            id,
            seconds=context.settings.check_seconds,
            is_cancelled=is_gone,
            unanswered=context.ended_from_outside(
                None, lambda: context.leases.release(id, context.name)
            ),
        )

    def _require_tries_left(self, id: str) -> None:
        """A check that kills its worker each time ends after a few tries."""
        with reachable():
            tries = int(self._context.redis.incr(_tries(id)))
            self._context.redis.expire(_tries(id), 86_400)
        if tries > self._context.settings.attempts:
            raise Rejected(
                f"its check ended {tries - 1} workers; it may need more memory than they have"
            )

    def _forget_try(self, id: str) -> None:
        """The worker has outlived this one. Without Redis it is counted, and forgotten in a day."""
        with suppress(Unavailable), reachable():
            self._context.redis.decr(_tries(id))

    def _conclude(self, kind: Kind, namespace: str, id: str, changes: Mapping[str, Any]) -> None:
        def change(record: Document) -> Document | None:
            if record["state"] != CheckState.CHECKING:
                return None
            return {**record, **changes, "checked_at": now()}

        try:
            self._context.records.update(kind, namespace, id, change)
        except NotFound:
            log("record-gone", record=id)
        with suppress(Unavailable), reachable():  # it would be forgotten in a day
            self._context.redis.delete(_tries(id))

    def _model_report(self, namespace: str, record: Document, watch: Watch) -> dict[str, Any]:
        context, model = self._context, ModelRecord.model_validate(record)
        program = model.program.model_dump(mode="json")
        blob = program.get("blob") or program["weights"]
        arguments = {
            "format": program["format"],
            "loss": model.loss.model_dump(mode="json"),
            "parameters": model.parameters,
            "pt2_policy": context.settings.pt2_policy,
            "factory": program.get("factory", ""),
            "kwargs": program.get("kwargs"),
            "config": program.get("config"),
            "task": program.get("task", ""),
            "inputs": program.get("inputs", []),
            "frozen": program.get("frozen"),
            "output": model.output,
            "allowed": allowed_programs(program["format"], context.settings),
        }
        seconds, memory = context.settings.check_seconds, context.settings.check_memory_bytes
        adapter = program.get("adapter")
        if adapter is not None:
            arguments["adapter"] = adapter["config"]

        def check() -> dict[str, Any]:
            with ExitStack() as files:
                given = {"path": blob} | (
                    {} if adapter is None else {"adapter_path": adapter["weights"]}
                )
                paths = {
                    name: str(
                        files.enter_context(
                            fetched(
                                context.objects,
                                namespace,
                                digest,
                                context.scratch,
                                lambda *_: watch.heed(),
                            )
                        )
                    )
                    for name, digest in given.items()
                }
                command = {
                    "call": "workers.checks.model:check_model",
                    "arguments": {**arguments, **paths},
                }
                return run_isolated(
                    command,
                    timeout_s=seconds,
                    memory_bytes=memory,
                    server=self._server,
                    look=watch.heed,
                )

        if program["format"] == "factory":  # its code has no version that is known here
            report = check()
        else:
            question = {**arguments, "blob": blob, "limits": [seconds, memory]}
            if adapter is not None:
                question["adapter_weights"] = adapter["weights"]
            report = self._reports.report(namespace, question, check)
        watch.checkpoint()
        fields = _model_fields(report, context.settings.model_parameters)
        if model.initial is not None:
            refuse_unlike(context.objects, namespace, model.initial, fields["selected"])
        return fields

    def _dataset_report(self, namespace: str, record: Document, watch: Watch) -> dict[str, Any]:
        context, dataset = self._context, DatasetRecord.model_validate(record)
        sources = sources_of(dataset, context.objects, namespace, context.settings)
        view = view_of(dataset, context.objects, namespace)
        if view is not None:
            report = check_view(
                DatasetReader(dataset, sources, context.cache, view),
                lambda done, total: watch.progress("check", done, total, "columns"),
            )
            rows = len(view)
        else:
            report = check_dataset(
                dataset,
                sources,
                context.cache,
                context.settings.dataset_rows,
                lambda done, total: watch.progress("check", done, total, "shards"),
            )
            rows = report.rows
        columns = [column.model_dump(mode="json") for column in report.columns]
        words: dict[str, Any] = {}
        if dataset.tokenizer is not None and dataset.tokenizer_size is None:
            words = self._tokenizer_report(namespace, dataset, report.columns, watch)
        return {
            **words,
            "rows": rows,
            "shard_rows": report.shard_rows,
            "columns": columns,
            "id_kind": report.id_kind,
            "metadata_columns": [each.model_dump(mode="json") for each in report.metadata],
        }

    def _tokenizer_report(
        self, namespace: str, dataset: DatasetRecord, columns: Sequence[ColumnSpec], watch: Watch
    ) -> dict[str, Any]:
        context, settings = self._context, self._context.settings

        def read() -> dict[str, Any]:
            digest = str(dataset.tokenizer)
            with fetched(context.objects, namespace, digest, context.scratch) as path:
                call = "workers.checks.tokenizer:read_tokenizer"
                return run_isolated(
                    {"call": call, "arguments": {"path": str(path)}},
                    timeout_s=settings.check_seconds,
                    memory_bytes=settings.check_memory_bytes,
                    server=self._server,
                    look=watch.heed,
                )

        return check_tokenizer(dataset, columns, context.objects, namespace, read)


def _tries(id: str) -> str:
    """The key that counts how often a check was begun."""
    return f"{PREFIX}:tries:{id}"


def _model_fields(report: Mapping[str, Any], parameter_limit: int) -> dict[str, Any]:
    if "refusal" in report:
        problem = report["refusal"]
        raise Rejected(problem["detail"], errors=problem["errors"])
    if report["parameter_count"] > parameter_limit:
        raise Rejected.field(
            "/parameters",
            f"{report['parameter_count']} parameters are selected; the limit is {parameter_limit}",
        )
    fields = (
        *("selected", "parameter_count", "held_fixed", "unused", "shifted", "rank_per_row"),
        *("activation_bytes", "window_bytes", "reached_bytes", "place_matrix_bytes"),
        *("dtype", "precision", "precision_note"),
    )
    return {
        "inputs": report["inputs"],
        "arguments": report["arguments"],
        "outputs": report["outputs"],
        **{name: report[name] for name in fields},
    }
