"""Results in notebooks: what they are, how far they can be trusted, and the rows that mattered most."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.results.pictures import Example, FeaturePanel, Panel, png
from upweight.results.pictures.features import HARMS, HELPS, Touched, coloured
from upweight.schema import AttributionJob, JobRecord
from upweight.schema.damping import resolved_in_words

if TYPE_CHECKING:
    from numpy.typing import NDArray


PICTURE = 56  # pixels of the screen
BAR = 60  # the longest one
BARS = 6  # features of a row that is no picture
TEXT = "font-size:85%;line-height:1.25;text-align:center;vertical-align:top;padding:2px 6px"


def html(record: JobRecord, panels: Sequence[Panel | FeaturePanel]) -> str:
    """One result. Everything that came from users is escaped."""
    tables = "".join(
        _feature_panel(panel) if isinstance(panel, FeaturePanel) else _panel(panel)
        for panel in panels
    )
    hint = f"<p style='font-size:85%'>{_hint(panels[0])}</p>" if panels else ""
    return f"<div><p>{summary(record)}</p>{_verdict(record)}{tables}{hint}</div>"


def _verdict(record: JobRecord) -> str:
    if record.verdict is None:
        return ""
    parts = (("solved", record.verdict.solved), ("applies", record.verdict.applies))
    lines = "<br>".join(
        f"<b>{name}: {judgement.level}</b> {escape(judgement.text)}" for name, judgement in parts
    )
    if record.verdict.measured is not None:
        lines += f"<br><b>quality:</b> {escape(record.verdict.measured)}"
    return f"<p style='font-size:85%'>{lines}</p>"


def _hint(panel: Panel | FeaturePanel) -> str:
    if isinstance(panel, Panel) and panel.doubtful:
        return "large: the model fits this row by itself, as it does outliers, rare cases and wrong labels"
    if isinstance(panel, Panel):
        return "positive: the training row lowers the test loss"
    some = (
        "" if panel.looked_at == panel.of else
        f"; the strongest of the first {panel.looked_at:,} of {panel.of:,} training rows"
    )  # fmt: skip
    return f"blue: raising this feature of the training row lowers the test loss; red: it raises it{some}"


def summary(record: JobRecord) -> str:
    """One line: what it is, its state, its size, what the inversion says."""
    parts = [
        f"<b>{escape(record.request.kind)}</b> <code>{escape(record.id)}</code>",
        escape(record.state),
    ]
    if record.result is not None:
        shape = record.result.influence_shape or record.result.factor_shape or []
        parts.append(" × ".join(f"{size:,}" for size in shape))
    request = record.request
    if isinstance(request, AttributionJob):
        damping = resolved_in_words(request.hessian_regularization, record.damping)
        parts.append(f"{escape(request.method_name)}, λ = {escape(damping)}")
    statuses = (record.info or {}).get("statuses")
    if isinstance(statuses, dict):
        parts.append(", ".join(f"{count} {escape(str(name))}" for name, count in statuses.items()))
    if record.problem is not None:
        parts.append(escape(record.problem.detail))
    return " · ".join(parts)


def _panel(panel: Panel) -> str:
    title = "largest influence on itself" if panel.doubtful else "all test rows, by mean"
    itself = _cell(panel.test) if panel.test is not None else f"<td style='{TEXT}'>{title}</td>"
    lines = [
        f"<tr>{itself if first else '<td></td>'}<th style='{TEXT}'>{name}</th>{''.join(map(_cell, examples))}</tr>"
        for first, (name, examples) in zip((True, False), panel.lines, strict=False)
    ]
    return f"<table style='margin:4px 0'>{''.join(lines)}</table>"


def _feature_panel(panel: FeaturePanel) -> str:
    cells = "".join(_touched(each) for each in panel.rows)
    return f"<table style='margin:4px 0'><tr>{_cell(panel.test)}{cells}</tr></table>"


def _touched(row: Touched) -> str:
    strongest = row.values.reshape(-1)[np.abs(row.values).argmax()]
    example = row.example
    if example.picture is None or row.values.shape != example.picture.shape[:2]:
        shown = _bars(row)
    else:
        shown = _image(coloured(example.picture, row.values), escape(example.name))
    label = f": {escape(example.label)}" if example.label else ""
    return f"<td style='{TEXT}'>{shown}<br>{escape(example.name)}{label}<br><b>{strongest:+.3g}</b></td>"


def _bars(row: Touched) -> str:
    """The features that matter most, each with a bar as long as its influence."""
    flat = row.values.reshape(-1)
    names = row.names or tuple(map(str, range(flat.size)))
    most = np.argsort(-np.abs(flat), kind="stable")[:BARS]
    longest = float(np.abs(flat).max()) or 1.0
    lines = "".join(_bar(names[at], float(flat[at]), longest) for at in most)
    return f"<table style='margin:0'>{lines}</table>"


def _bar(name: str, value: float, longest: float) -> str:
    red, green, blue = HELPS if value > 0 else HARMS
    width = f"width:{abs(value) / longest * BAR:.0f}px"
    style = f"display:inline-block;height:8px;{width};background:rgb({red},{green},{blue})"
    cell = f"style='{TEXT};text-align:left'"
    return (
        f"<tr><td {cell}>{escape(name)}</td>"
        f"<td {cell}><span title='{value:+.3g}' style='{style}'></span> {value:+.3g}</td></tr>"
    )


def _cell(example: Example) -> str:
    lines = [_picture(example)] if example.picture is not None else [escape(example.words)]
    lines.append(escape(example.name) + (f": {escape(example.label)}" if example.label else ""))
    if example.predicted and example.predicted != example.label:
        lines.append(f"predicted {escape(example.predicted)}")
    if example.influence is not None:
        lines.append(f"<b>{example.influence:+.3g}</b>")
    elif example.loss is not None:
        lines.append(f"loss {example.loss:.3g}")
    return f"<td style='{TEXT}'>{'<br>'.join(lines)}</td>"


def _picture(example: Example) -> str:
    assert example.picture is not None
    return _image(example.picture, escape(example.name))


def _image(pixels: NDArray[Any], alt: str) -> str:
    data = base64.b64encode(png(pixels)).decode()
    return (
        f"<img alt='{alt}' width='{PICTURE}' style='image-rendering:pixelated' "
        f"src='data:image/png;base64,{data}'>"
    )
