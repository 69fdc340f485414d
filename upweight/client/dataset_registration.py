"""Registering a dataset: rows of any kind become shards, files go up as they are, and a worker checks it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import upweight.client.previews as previews
from upweight.client.blobs import put, put_source
from upweight.client.content import Source, tensors_content
from upweight.client.files import FORMATS, files_of, format_of, npy_columns
from upweight.client.intake import Incoming, Metadata, incoming
from upweight.client.intake.ids import column_of, free_name, is_column, metadata_column
from upweight.client.registered import Resource
from upweight.client.request import validated
from upweight.errors import InvalidRequest
from upweight.field_errors import pointer_step
from upweight.files.safetensors_file import tensor_of
from upweight.http.flow import Flow, Work
from upweight.progress import Bars, logger
from upweight.schema import DatasetRecord, DatasetRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


DATASETS = Resource("/v1/datasets", DatasetRecord)
KEYWORDS = (
    "format", "inputs", "targets", "preview", "class_names", "labels", "ids", "metadata", "tokenizer",
)  # fmt: skip
NO_BLOB = "sha256:" + "0" * 64  # stands for what is not uploaded yet while the rest is checked


@dataclass(frozen=True)
class Description:
    """What a dataset is, apart from its bytes; and how long its check is waited for."""

    name: str
    inputs: Sequence[str] | str | None
    targets: Sequence[str] | str | None
    preview: Any
    class_names: Sequence[str]
    labels: Mapping[str, str] | None
    wait: bool
    timeout: float | None
    hold: float
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ids: Any = None
    metadata: Metadata = ()
    tokenizer: Any = None

    @property
    def metadata_names(self) -> tuple[str, ...]:
        """Of the metadata columns."""
        return (self.metadata,) if isinstance(self.metadata, str) else tuple(self.metadata)

    def filled(
        self, preview: Any, class_names: Sequence[str], features: Mapping[str, tuple[str, ...]]
    ) -> Description:
        """With what the data says of itself, where the caller said nothing."""
        return replace(
            self,
            preview=self.preview or preview,
            class_names=self.class_names or class_names,
            features=features,
        )

    def request(self, **source: Any) -> DatasetRequest:
        """The request, checked."""
        fields = {
            "name": self.name,
            "inputs": self.inputs,
            "targets": self.targets,
            "preview": self.preview,
            "class_names": tuple(self.class_names),
            "features": dict(self.features),
            "labels": dict(self.labels or {}),
            "ids": self.ids if isinstance(self.ids, str) else None,
            "metadata": self.metadata_names,
            "tokenizer": self.tokenizer,
            **source,
        }
        for columns in ("inputs", "targets"):
            if fields[columns] is None:
                del fields[columns]
            elif isinstance(fields[columns], str):
                fields[columns] = (fields[columns],)
        return validated(DatasetRequest, "/v1/datasets", fields)


def roles(
    names: list[str], inputs: Sequence[str] | str | None, targets: Sequence[str] | str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which columns are inputs and which are targets: `y` is the target unless something else is said."""
    given_in = (inputs,) if isinstance(inputs, str) else inputs
    given_out = (targets,) if isinstance(targets, str) else targets
    if given_out is None:
        given_out = [name for name in names if name == "y" and name not in (given_in or ())]
    if given_in is None:
        given_in = [name for name in names if name not in given_out]
    missing = sorted({*given_in, *given_out} - set(names))
    if missing:
        raise InvalidRequest(f"there is no column {missing[0]!r}; the columns are {names}")
    unused = [name for name in names if name not in (*given_in, *given_out)]
    if unused:
        raise InvalidRequest(
            f"column {unused[0]!r} is neither among the inputs {list(given_in)} nor the targets "
            f"{list(given_out)}; name it there or leave it out"
        )
    return tuple(given_in), tuple(given_out)


def register(
    bars: Bars,
    about: Description,
    data: Any,
    uri: str | None,
    format: str | None,
    arrays: Mapping[str, Any],
) -> Flow[DatasetRecord]:
    """Uploads what has to be, registers it, and waits for the check."""
    if isinstance(about.class_names, str):
        words = "a text is no list of names; write class_names=['cat', 'dog'], in the order of the model's outputs"
        raise InvalidRequest.field("/class_names", words, about.class_names)
    _refuse_misspelt(about, arrays)
    if is_column(about.ids, about.inputs, about.targets):
        about, arrays = replace(about, ids=None), {"ids": about.ids, **arrays}
    about = replace(about, preview=(yield from previews.written(about.preview, bars)))
    about = replace(about, tokenizer=(yield from previews.tokenizer(about.tokenizer, bars)))
    if uri is not None:
        request = _elsewhere(about, uri, format, data is not None or bool(arrays))
        return (yield from _registered(bars, about, request))
    files = files_of(data)
    if files is not None and isinstance(about.metadata, Mapping):
        raise InvalidRequest.field(
            "/metadata", "of files, name the columns that they have: metadata=['source']", None
        )
    if files is None or npy_columns(files) is not None:
        return (yield from register_rows(bars, about, data, files, arrays))
    return (yield from register_files(bars, about, files, format))


def _refuse_misspelt(about: Description, arrays: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for words under a name that is nearly a keyword's: columns are numbers."""
    roles = [
        name
        for given in (about.inputs, about.targets)
        for name in ((given,) if isinstance(given, str) else given or ())
    ]
    for name, value in arrays.items():
        near = difflib.get_close_matches(name, KEYWORDS, n=1, cutoff=0.8)
        words = isinstance(value, str | Mapping) or (
            isinstance(value, list | tuple) and bool(value) and isinstance(value[0], str)
        )
        if near and words and name not in roles:
            said = f"'register' has no keyword {name!r}, and a column has numbers; did you mean {near[0]!r}?"
            raise InvalidRequest.field(f"/{pointer_step(name)}", said, str(value)[:200])


def register_rows(
    bars: Bars, about: Description, data: Any, files: list[Any] | None, arrays: Mapping[str, Any]
) -> Flow[DatasetRecord]:
    """Writes rows as shards, uploads and registers them, a shard at a time."""
    data = data if files is None else npy_columns(files)
    came: Incoming = yield Work(
        lambda: incoming(
            data,
            arrays,
            about.inputs,
            about.targets,
            about.class_names,
            about.ids,
            about.metadata,
        )
    )
    ids: NDArray[Any] | None = yield Work(lambda: None if came.ids is None else column_of(came.ids))
    beside: dict[str, NDArray[Any]] = yield Work(
        lambda: {
            str(name): metadata_column(str(name), each) for name, each in came.metadata.items()
        }
    )
    sent = 0
    about = replace(about, ids=None, metadata=tuple(beside))
    about = about.filled(came.preview, came.class_names, came.features)
    digests: list[str] = []
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    while (shard := (yield Work(lambda: next(came.shards, None)))) is not None:
        if not digests:  # the names are checked before gigabytes are sent under them
            wanted = (
                came.inputs or about.inputs,
                about.targets if came.targets is None else came.targets,
            )
            inputs, targets = roles(list(shard), *wanted)
            if ids is not None:
                about = replace(about, ids=free_name([*shard, *beside]))
                beside = {**beside, str(about.ids): ids}
            about.request(format="safetensors", inputs=inputs, targets=targets, blobs=(NO_BLOB,))
        label = (
            about.name
            if came.count == 1
            else f"{about.name} {len(digests) + 1}/{came.count or '?'}"
        )
        columns = {name: shard[name] for name in (*inputs, *targets)}
        some = len(next(iter(columns.values())).array)
        for name, column in beside.items():
            columns[name] = tensor_of(name, column[sent : sent + some])
        sent += some
        if any(sent > len(column) for column in beside.values()):
            break
        content = tensors_content(columns, label)
        blob = yield from put(content, bars)
        digests.append(blob.digest)
    for name, column in beside.items():
        if sent != len(column):
            more = "more" if sent > len(column) else "fewer"
            what = "ids" if name == about.ids else f"values of {name!r}"
            words = f"there are {len(column)} {what} and {more} rows; give one for each row"
            raise InvalidRequest.field("/ids" if name == about.ids else "/metadata", words, None)
    request = about.request(
        format="safetensors", inputs=inputs, targets=targets, blobs=tuple(digests)
    )
    if not targets:
        logger.warning(
            "%s has no target, which all losses but 'program' need: name its column y, or give targets=…",
            about.name,
        )
    return (yield from _registered(bars, about, request))


def register_files(
    bars: Bars, about: Description, sources: Sequence[Source], format: str | None
) -> Flow[DatasetRecord]:
    """Uploads files as shards in order and registers them."""
    chosen = format or format_of(sources)
    about.request(format=chosen, blobs=(NO_BLOB,))
    digests = []
    for source in sources:
        blob = yield from put_source(source, bars)
        digests.append(blob.digest)
    request = about.request(format=chosen, blobs=tuple(digests))
    return (yield from _registered(bars, about, request))


def _elsewhere(about: Description, uri: str, format: str | None, too_much: bool) -> DatasetRequest:
    """The request for what lies in the object storage already."""
    if too_much:
        raise InvalidRequest("give data to upload, or the uri of what is stored already; not both")
    if format is None:
        raise InvalidRequest(f"with a uri, give format= one of {sorted(FORMATS.values())}")
    return about.request(format=format, uri=uri)


def _registered(bars: Bars, about: Description, request: DatasetRequest) -> Flow[DatasetRecord]:
    # An older service does not know of features, ids, metadata and tokenizers.
    later = ("features", "ids", "metadata", "tokenizer")
    unsaid = {name for name in later if not getattr(request, name)}
    body = request.model_dump(mode="json", exclude=unsaid)
    return (yield from DATASETS.create(body, bars, about.wait, about.timeout, about.hold))
