"""How a dataset's rows are shown: refusing a preview that does not fit, and changing it after registration."""

from __future__ import annotations

from service.blobs.records import find_blob
from service.datasets.preview_fit import unfit
from service.datasets.vocabulary import MOST_BYTES, WHAT, words_of
from service.parts import Parts
from service.registry import require_ready, resolve
from service.storage.keys import Document
from service.storage.objects import Objects
from upweight.errors import InvalidRequest
from upweight.schema import DatasetChange, DatasetRecord, DatasetRequest
from upweight.schema.dataset import Preview, TablePreview, TextPreview


def change_preview(parts: Parts, namespace: str, reference: str, wanted: DatasetChange) -> Document:
    """The record with another preview. Raises NotFound, NotReady, and InvalidRequest for one that does not fit."""
    found = resolve(parts, "dataset", namespace, reference)
    require_ready("dataset", found, "path:reference", reference)  # its columns are known then
    if wanted.preview is not None:
        refuse_bad_vocabulary(parts.objects, namespace, wanted.preview)

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
    """Raises InvalidRequest."""
    error = unfit(preview, [*dataset.inputs, *dataset.targets], dataset.columns)
    if error is not None:
        raise InvalidRequest(error.detail, errors=[error])
    if (
        isinstance(preview, TablePreview)
        and preview.names
        and list(preview.names) != dataset.features_of(preview.column)
    ):
        raise InvalidRequest.field(
            "/preview/names",
            "names are given when a dataset is registered, for jobs match datasets by them; leave them out, or "
            "register it anew with 'features'",
            len(preview.names),
        )


def refuse_bad_preview(objects: Objects, namespace: str, request: DatasetRequest) -> None:
    """What can be said of a new dataset's preview before its columns are read. Raises InvalidRequest."""
    if request.preview is None:
        return
    error = unfit(request.preview, [*request.inputs, *request.targets])
    if error is not None:
        raise InvalidRequest(error.detail, errors=[error])
    refuse_bad_vocabulary(objects, namespace, request.preview)


def refuse_bad_vocabulary(objects: Objects, namespace: str, preview: Preview) -> None:
    """Raises InvalidRequest for words that are not here, are too many to be read, or are none."""
    if not isinstance(preview, TextPreview) or preview.vocabulary is None:
        return
    pointer, digest = "/preview/vocabulary", preview.vocabulary
    blob = find_blob(objects, namespace, digest)
    if blob is None:
        words = (
            f"there is no such blob here; upload a JSON list of words first: PUT /v1/blobs/{digest}"
        )
        raise InvalidRequest.field(pointer, words, digest)
    if blob.size_bytes > MOST_BYTES:
        words = f"the blob has {blob.size_bytes} bytes; give {WHAT}"
        raise InvalidRequest.field(pointer, words, digest)
    if words_of(objects, namespace, digest) is None:
        words = f'the blob is no list of words, such as ["", "the", "cat"]; upload {WHAT}, the word of each token'
        raise InvalidRequest.field(pointer, words, digest)
