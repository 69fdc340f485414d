"""What a retraining changed, as one page that needs nothing else: no script, no file, no address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from service.parts import Parts
from upweight.errors import NotFound, NotStored
from upweight.schema import DatasetRecord, JobRecord, ModelRecord
from upweight.schema.retraining import Metrics, Training, TrainingCurve, in_evaluation_mode

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child { text-align: left; } td { font-variant-numeric: tabular-nums; }
.better { color: light-dark(#1d6f42, #7ed3a2); } .worse { color: light-dark(#a33a1d, #f0a284); }
.note { opacity: 0.75; } code { overflow-wrap: anywhere; } svg { width: 100%; height: auto; }
"""
_WIDTH, _HEIGHT, _EDGE = 640, 220, 44


@dataclass(frozen=True)
class Retraining:
    """A job of kind `retrain`, and what there still is of what it was about."""

    job: JobRecord
    model: ModelRecord
    training: Training
    trained_on: DatasetRecord | None
    derived_from: DatasetRecord | None
    tested_on: DatasetRecord | None

    @classmethod
    def of(cls, parts: Parts, namespace: str, job: JobRecord) -> Retraining:
        """Raises NotStored for a job that trained nothing, NotFound when its model has been deleted."""
        if job.model is None:
            raise NotStored(
                f"job {job.id} is of kind {job.request.kind!r}, and what a retraining changed is told of kind 'retrain'"
            )
        model = ModelRecord.model_validate(parts.records.get("model", namespace, job.model.id))
        if model.training is None:
            raise NotStored(f"model {model.id} does not say how it was trained")
        trained_on = _dataset(parts, namespace, model.training.dataset)
        derived = trained_on and trained_on.derived_from
        return cls(
            job,
            model,
            model.training,
            trained_on,
            _dataset(parts, namespace, derived.dataset) if derived else None,
            _dataset(parts, namespace, job.test_id) if job.test_id else None,
        )


def _dataset(parts: Parts, namespace: str, id: str) -> DatasetRecord | None:
    """None where it has been deleted."""
    try:
        return DatasetRecord.model_validate(parts.records.get("dataset", namespace, id))
    except NotFound:
        return None


def page(found: Retraining) -> str:
    """The page. All that came from users is escaped."""
    training = found.training
    before = f"{training.parent.name}@{training.parent.version}"
    after = f"{found.model.name}@{found.model.version}"
    title = escape(f"{before} and {after}")
    body = "\n".join(
        [
            f"<h1>Before and after: {title}</h1>",
            f"<p>{escape(_data(found))}</p>",
            *_mode(found.job.info or {}),
            *_metrics(found),
            *_curve(found.job.curve),
            "<h2>How it was trained</h2>",
            f"<p><code>{escape(training.recipe.model_dump_json(exclude_defaults=True))}</code></p>",
            f"<p class='note'>Job {escape(found.job.id)}, models {escape(training.parent.id)} and "
            f"{escape(found.model.id)}, trained on {escape(training.dataset)}.</p>",
        ]
    )
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _data(found: Retraining) -> str:
    data, rows = found.trained_on, found.training.rows
    if data is None:
        return f"Trained anew on {rows:,} rows of a dataset that has been deleted."
    words = f"Trained anew on {rows:,} rows of {data.name}@{data.version}"
    derived = data.derived_from
    if derived is None:
        return f"{words}."
    parent = found.derived_from
    whose = f"{parent.name}@{parent.version}" if parent else derived.dataset
    return (
        f"{words}, which is {whose} without {derived.dropped:,} of its rows and with "
        f"{derived.relabelled:,} other labels."
    )


def _mode(info: Mapping[str, Any]) -> Iterator[str]:
    """Beside the numbers: which layers were left in evaluation mode."""
    layers = info.get("evaluation_mode")
    if layers:
        yield f"<p>{escape(in_evaluation_mode([str(each) for each in layers]))}</p>"


def _metrics(found: Retraining) -> Iterator[str]:
    before, after = found.training.parent_metrics, found.training.metrics
    if before is None or after is None:
        yield "<p>There were no test rows to compare on.</p>"
        return
    lines = [_line("loss", before.loss, after.loss, _number, higher_is_better=False)]
    if before.accuracy is not None and after.accuracy is not None:
        lines.insert(0, _line("accuracy", before.accuracy, after.accuracy, _percent))
    tested = found.tested_on
    where = f" of {escape(f'{tested.name}@{tested.version}')}" if tested else ""
    yield "<h2>On the test rows</h2>"
    yield _table(f"{after.rows:,} rows{where}", ("", "before", "after", "change"), lines)
    yield from _by_class(before, after, tested.class_names if tested else [])


def _by_class(before: Metrics, after: Metrics, names: Sequence[str]) -> Iterator[str]:
    known = {each.label: each for each in before.by_class}
    accuracy, loss = [], []
    for each in after.by_class:
        name = names[each.label] if 0 <= each.label < len(names) else str(each.label)
        first, told = known.get(each.label), f"{name} ({each.rows:,} rows)"
        if first is not None:
            accuracy.append(_line(told, first.accuracy, each.accuracy, _percent))
            loss.append(_line(told, first.loss, each.loss, _number, higher_is_better=False))
    for title, lines in (("Accuracy by class", accuracy), ("Loss by class", loss)):
        if lines:
            yield f"<h2>{title}</h2>"
            yield _table("", ("class", "before", "after", "change"), lines)


def _line(
    name: str,
    before: float,
    after: float,
    written: Callable[[float], str],
    higher_is_better: bool = True,
) -> str:
    change = after - before
    kind = "" if not change else "better" if (change > 0) == higher_is_better else "worse"
    sign = "+" if change > 0 else "−" if change < 0 else ""
    return (
        f"<tr><th scope='row'>{escape(name)}</th><td>{written(before)}</td><td>{written(after)}</td>"
        f"<td class='{kind}'>{sign}{written(abs(change))}</td></tr>"
    )


def _table(caption: str, heads: Sequence[str], lines: Sequence[str]) -> str:
    head = "".join(f"<th scope='col'>{each}</th>" for each in heads)
    told = f"<caption>{caption}</caption>" if caption else ""
    return f"<table>{told}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _curve(curve: TrainingCurve | None) -> Iterator[str]:
    """The losses by epoch, as far as they are numbers."""
    if curve is None:
        return
    train = [
        (at, y) for at, y in zip(curve.epochs, curve.train_loss, strict=False) if y is not None
    ]
    test = [
        (at, y) for at, y in zip(curve.test_epochs, curve.test_loss, strict=False) if y is not None
    ]
    if len(train) < 2:  # a line has two points
        return
    last = max(at for at, _ in [*train, *test])
    least, most = min(0.0, *(y for _, y in [*train, *test])), max(y for _, y in [*train, *test])
    most = most if most > least else least + 1.0

    def points(line: Sequence[tuple[int, float]]) -> str:
        across, up = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE
        return " ".join(
            f"{_EDGE + across * at / last:.1f},{_HEIGHT - _EDGE - up * (y - least) / (most - least):.1f}"
            for at, y in line
        )

    floor = _HEIGHT - _EDGE
    yield "<h2>Loss by epoch</h2>"
    yield (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='Loss by epoch' font-size='12' fill='none'>"
        f"<path d='M{_EDGE} {_EDGE / 2} V{floor} H{_WIDTH - _EDGE}' stroke='currentColor' opacity='0.5'/>"
        f"<text x='{_EDGE - 6}' y='{_EDGE + 4}' text-anchor='end' fill='currentColor'>{_number(most)}</text>"
        f"<text x='{_WIDTH - _EDGE}' y='{floor + 18}' text-anchor='end' fill='currentColor'>epoch {last:,}</text>"
        f"<polyline points='{points(train)}' stroke='#2f7fb8' stroke-width='2'/>"
        f"<polyline points='{points(test)}' stroke='#c05a26' stroke-width='2'/>"
        f"<text x='{_EDGE}' y='{floor + 18}' fill='#2f7fb8'>training rows</text>"
        f"<text x='{_EDGE + 100}' y='{floor + 18}' fill='#c05a26'>{'test rows' if test else ''}</text></svg>"
    )
