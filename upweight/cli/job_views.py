"""Jobs in a shell: a line in a list, all there is to say of one, and names in the place of ids."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from upweight.cli import units
from upweight.cli.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Callable

    from upweight import Client
    from upweight.schema import FactorsOf, JobRecord, Judgement

HEADS = (
    "ID",
    "STATE",
    "NAME",
    "KIND",
    "MODEL",
    "TRAIN",
    "METHOD",
    "RESULT",
    "SECONDS",
    "CREATED",
)
# What a terminal that is too narrow does without; `jobs show` has it.
SPARE = ("SECONDS", "RESULT", "METHOD", "KIND", "CREATED", "TRAIN")
_OF = {"mdl": "models", "dst": "datasets"}
_ID_LENGTH = len("mdl_") + 26


def row(record: JobRecord, name: Callable[[str], str]) -> tuple[str, ...]:
    """One job in a list of them, below `HEADS`."""
    result = record.result
    return (
        record.id,
        str(record.state),
        units.short(record.name or ""),
        record.request.kind,
        name(record.request.model),
        name(record.request.train.dataset),
        record.request.method_name,
        units.shape(result.influence_shape or result.factor_shape) if result else "",
        f"{record.cost.seconds:.2f}" if record.cost else "",
        units.age(record.created_at),
    )


def show(shell: Shell, record: JobRecord) -> None:
    """All that is to be said of one job, a line each; for programs its record."""
    request, progress, cost, result = record.request, record.progress, record.cost, record.result
    called = names_of(shell.client)
    rows = {name: getattr(request, name, None) for name in ("train", "test", "hessian_on")}
    selections = [
        (
            name,
            f"{_both(chosen.dataset, called)}{f' [{chosen.rows}]' if chosen.rows else ''}"
            if chosen
            else "",
        )
        for name, chosen in rows.items()
    ]
    shell.record(
        record,
        [
            ("id", record.id),
            ("state", str(record.state)),
            ("name", record.name or ""),
            ("note", record.note or ""),
            ("problem", record.problem.detail if record.problem else ""),
            *(("remark", remark) for remark in record.remarks),
            ("stage", record.stage or ""),
            (
                "progress",
                f"{progress.done:,} of {progress.total:,} {progress.unit}" if progress else "",
            ),
            ("before it", units.count(record.queue_position)),
            ("time left", units.seconds(record.eta_seconds)),
            ("kind", request.kind),
            ("model", _both(request.model, called)),
            *selections,
            ("columns", "; ".join(dict.fromkeys(match.how for match in record.matched))),
            *_inverted(record),
            ("precision", _precision(record)),
            ("factors of", _factors_of(record.factors_of) if record.factors_of else ""),
            ("device", record.device or ""),
            ("attempt", units.count(record.attempt or None)),
            ("seconds", units.seconds(cost.seconds) if cost else ""),
            ("passes", f"{cost.hessian_passes:g} over the training set" if cost else ""),
            ("memory", units.size(cost.peak_memory_bytes) if cost else ""),
            ("influences", units.shape(result.influence_shape) if result else ""),
            (_vectors_of(record), units.shape(result.factor_shape) if result else ""),
            (
                "stored",
                f"{', '.join(result.stored)} ({units.size(result.size_bytes)})" if result else "",
            ),
            ("solved", _judged(record.verdict.solved) if record.verdict else ""),
            ("applies", _judged(record.verdict.applies) if record.verdict else ""),
            ("quality", record.verdict.measured or "" if record.verdict else ""),
            ("labels", ", ".join(f"{key}={value}" for key, value in record.labels.items())),
            ("created", units.age(record.created_at)),
        ],
    )


def names_of(client: Client) -> Callable[[str], str]:
    """`digits-mlp@3` for an id, asked for once; what is no id, or not there any more, as it is."""

    @cache
    def name(reference: str) -> str:
        from upweight.errors import NotFound

        plural = _OF.get(reference.partition("_")[0]) if len(reference) == _ID_LENGTH else None
        if plural is None:
            return reference
        try:
            record = getattr(client, plural).get(reference)
        except NotFound:
            return reference
        return f"{record.name}@{record.version}"

    return name


def _inverted(record: JobRecord) -> list[tuple[str, str]]:
    """What a job says of its inversion; nothing of a kind that has none."""
    from upweight.schema import AttributionJob
    from upweight.schema.damping import resolved_in_words

    request = record.request
    if not isinstance(request, AttributionJob):
        return []
    given = request.inversion.model_dump(exclude={"method"}, exclude_none=True)
    words = [request.inversion.method, *(f"{name}={value}" for name, value in given.items())]
    return [
        ("curvature", request.curvature.label),
        ("inversion", " ".join(words)),
        ("λ", resolved_in_words(request.hessian_regularization, record.damping)),
    ]


def _precision(record: JobRecord) -> str:
    """What it computes in, and what there is to say of that."""
    note = (record.info or {}).get("precision_note")
    return f"{record.request.precision or ''}{f': {note}' if note else ''}"


def _factors_of(earlier: FactorsOf) -> str:
    counted = ", ".join(f"{count} {status}" for status, count in (earlier.statuses or {}).items())
    return f"{earlier.job}: {earlier.rows}, by {earlier.method}{f': {counted}' if counted else ''}"


def _vectors_of(record: JobRecord) -> str:
    """What the result has of vectors."""
    stored = record.result.stored if record.result else []
    return next((each for each in ("gradients", "products") if each in stored), "factors")


def _judged(judgement: Judgement) -> str:
    return f"{judgement.level}: {judgement.text}"


def _both(reference: str, called: Callable[[str], str]) -> str:
    """The name, and the id where the job goes by that."""
    name = called(reference)
    return name if name == reference else f"{name} ({reference})"
