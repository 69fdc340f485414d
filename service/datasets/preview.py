"""Changing how a dataset's rows are shown, after it has been registered."""

from __future__ import annotations

import math

from service.parts import Parts
from service.registry import resolve
from service.storage.keys import Document
from upweight.errors import InvalidRequest
from upweight.schema import DatasetChange, DatasetRecord
from upweight.schema.dataset import ImagePreview, Preview, TablePreview


def change_preview(parts: Parts, namespace: str, reference: str, wanted: DatasetChange) -> Document:
    """The record with another preview. Raises NotFound, and InvalidRequest for one that its columns do not fit."""
    found = resolve(parts, "dataset", namespace, reference)

    def changed(document: Document) -> Document:
        before = DatasetRecord.model_validate(document)
        preview = wanted.preview
        if preview is not None:
            _refuse_unfit(before, preview)
        # Jobs match datasets by the names of features: what the old preview alone had must not get lost with it.
        features = dict(before.features)
        if before.preview is not None and (names := before.features_of(before.preview.column)):
            features[before.preview.column] = names
        shown = None if preview is None else preview.model_dump(mode="json")
        return {**document, "preview": shown, "features": features}

    parts.records.update("dataset", namespace, found["id"], changed)
    parts.copies.secure("dataset", namespace, found["id"])
    return parts.records.get("dataset", namespace, found["id"])


def _refuse_unfit(dataset: DatasetRecord, preview: Preview) -> None:
    columns = {column.name: column for column in dataset.columns}
    if not columns:
        return  # still being checked
    if preview.column not in columns:
        raise InvalidRequest.field(
            "/preview/column",
            f"{dataset.name!r} has no such column; it has {', '.join(columns)}",
            preview.column,
        )
    shape = columns[preview.column].shape
    if isinstance(preview, TablePreview):
        names = dataset.features_of(preview.column)
        if preview.names and list(preview.names) != names:
            raise InvalidRequest.field(
                "/preview/names",
                "names are given when a dataset is registered, for jobs match datasets by them; leave them out, or "
                "register it anew with 'features'",
                len(preview.names),
            )
    if isinstance(preview, ImagePreview):
        pixels = preview.shape or tuple(size or 0 for size in shape)
        if len(pixels) not in (2, 3) or math.prod(pixels) != math.prod(size or 0 for size in shape):
            raise InvalidRequest.field(
                "/preview/shape",
                f"a row of {preview.column!r} has shape {tuple(shape)}; give (height, width) or (channels, height, "
                "width) with as many numbers",
                None if preview.shape is None else list(preview.shape),
            )
