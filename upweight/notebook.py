"""Results in notebooks: what they are, how far they can be trusted, and the rows that mattered most."""

from __future__ import annotations

import base64
from html import escape

from upweight.pictures import Example, Panel, png
from upweight.schema import JobRecord

PICTURE = 56  # pixels of the screen
TEXT = "font-size:85%;line-height:1.25;text-align:center;vertical-align:top;padding:2px 6px"


def html(record: JobRecord, panels: list[Panel]) -> str:
    """One result. Everything that came from users is escaped."""
    tables = "".join(_panel(panel) for panel in panels)
    hint = (
        "<p style='font-size:85%'>positive: the training row lowers the test loss</p>"
        if tables
        else ""
    )
    return f"<div><p>{summary(record)}</p>{tables}{hint}</div>"


def summary(record: JobRecord) -> str:
    """One line: what it is, its state, its size, what the inversion says."""
    parts = [
        f"<b>{escape(record.request.kind)}</b> <code>{escape(record.id)}</code>",
        escape(record.state),
    ]
    if record.result is not None:
        shape = record.result.influence_shape or record.result.factor_shape or []
        parts.append(" × ".join(f"{size:,}" for size in shape))
    parts.append(
        f"{escape(record.request.inversion.method)}, λ = {record.request.hessian_regularization:g}"
    )
    statuses = (record.info or {}).get("statuses")
    if isinstance(statuses, dict):
        parts.append(", ".join(f"{count} {escape(str(name))}" for name, count in statuses.items()))
    if record.problem is not None:
        parts.append(escape(record.problem.detail))
    return " · ".join(parts)


def _panel(panel: Panel) -> str:
    title = "all test rows, by mean" if panel.test is None else ""
    itself = _cell(panel.test) if panel.test is not None else f"<td style='{TEXT}'>{title}</td>"
    lines = [
        f"<tr>{itself if first else '<td></td>'}<th style='{TEXT}'>{name}</th>{''.join(map(_cell, examples))}</tr>"
        for first, name, examples in (
            (True, "helpful", panel.helpful),
            (False, "harmful", panel.harmful),
        )
    ]
    return f"<table style='margin:4px 0'>{''.join(lines)}</table>"


def _cell(example: Example) -> str:
    lines = [_picture(example)] if example.picture is not None else [escape(example.words)]
    lines.append(f"row {example.row}" + (f": {escape(example.label)}" if example.label else ""))
    if example.predicted and example.predicted != example.label:
        lines.append(f"predicted {escape(example.predicted)}")
    if example.influence is not None:
        lines.append(f"<b>{example.influence:+.3g}</b>")
    elif example.loss is not None:
        lines.append(f"loss {example.loss:.3g}")
    return f"<td style='{TEXT}'>{'<br>'.join(lines)}</td>"


def _picture(example: Example) -> str:
    assert example.picture is not None
    data = base64.b64encode(png(example.picture)).decode()
    return (
        f"<img alt='row {example.row}' width='{PICTURE}' style='image-rendering:pixelated' "
        f"src='data:image/png;base64,{data}'>"
    )
