"""Rows that are not held: the same batches as of those that are, within the budgets of disk and memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from service.datasets.sources import blob_sources
from service.datasets.views import View, runs_of
from service.lifecycle.states import now
from service.storage.layout import blob_path
from service.storage.objects import Objects
from tests.engine.matrices import with_damping
from tests.patience import until
from tests.s3_server import S3Server
from upweight.schema import DatasetRecord, parse_rows
from workers.checks.dataset import check_dataset
from workers.datasets.columns import Columns
from workers.datasets.disk_cache import DiskCache
from workers.datasets.reader import DatasetReader
from workers.datasets.streamed_rows import StreamedRows
from workers.engine import Batch, ConjugateGradients, Hessian, Problem, TensorRows, make_loss, up

ROWS, WIDTH = 4000, 64  # 1 MB of float32
BUDGET = 100_000
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, WIDTH)).astype("f4")
Y = RANDOM.integers(0, 3, ROWS)
CUTS = (slice(0, 1500), slice(1500, 1501), slice(1501, ROWS))


def npz(write: Any, x: Any, y: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, x=x, y=y)
    return buffer.getvalue()


def parquet(x: Any, y: Any) -> bytes:
    buffer = io.BytesIO()
    rows = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)
    pq.write_table(pa.table({"x": rows, "y": y}), buffer, row_group_size=700)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Any, Any], bytes]] = {
    "safetensors": lambda x, y: save({"x": x.copy(), "y": y.copy()}),
    "npz": lambda x, y: npz(np.savez, x, y),
    "npz, compressed": lambda x, y: npz(np.savez_compressed, x, y),
    "npz, Fortran order": lambda x, y: npz(np.savez_compressed, np.asfortranarray(x), y),
    "parquet": parquet,
}


class Kept:
    """A dataset on S3, with a cache on disk."""

    def __init__(self, objects: Objects, writer: str, folder: Path) -> None:
        format = writer.partition(",")[0]
        digests = [f"sha256:{number:064d}" for number in range(len(CUTS))]
        for digest, rows in zip(digests, CUTS, strict=True):
            objects.put(blob_path("ns", digest), WRITERS[writer](X[rows], Y[rows]))
        record = DatasetRecord(
            id="dst_x", name="d", version=1, state="checking", created_at=now(), format=format,
            blobs=digests, digest="", size_bytes=0, inputs=["x"], targets=["y"],
        )  # fmt: skip
        self.sources = blob_sources(objects, "ns", digests)
        self.cache = DiskCache(folder, BUDGET)
        self.folder = folder
        report = check_dataset(record, self.sources, self.cache, ROWS, lambda done, total: None)
        self.record = record.model_copy(
            update={"rows": ROWS, "shard_rows": report.shard_rows, "columns": report.columns}
        )

    def rows(
        self,
        selection: str = ":",
        window: int = 40_000,
        features: list[int] | None = None,
        view: View | None = None,
    ) -> StreamedRows:
        reader = DatasetReader(self.record, self.sources, self.cache, view)
        order = {} if features is None else {"x": torch.tensor(features)}
        columns = Columns(("x",), ("y",), order)
        chosen = parse_rows(selection, reader.rows)
        return StreamedRows(reader, columns, chosen, torch.device("cpu"), window)

    def on_disk(self) -> int:
        return sum(each.stat().st_size for each in self.folder.rglob("*") if each.is_file())


@pytest.fixture(scope="module", params=WRITERS)
def kept(
    request: pytest.FixtureRequest, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Kept:
    return Kept(s3.objects(), request.param, tmp_path_factory.mktemp("cache"))


def in_memory(selection: slice | np.ndarray[Any, Any]) -> TensorRows:
    return TensorRows(torch.from_numpy(X[selection]), torch.from_numpy(Y[selection]))


def same(found: Batch, expected: Batch) -> bool:
    assert isinstance(found.targets, torch.Tensor)
    assert isinstance(expected.targets, torch.Tensor)
    return (
        found.start == expected.start
        and torch.equal(found.inputs[0], expected.inputs[0])
        and torch.equal(found.targets, expected.targets)
    )


def test_features_are_taken_in_the_order_of_the_job(kept: Kept) -> None:
    order = list(range(WIDTH))[::-1]
    rows = kept.rows("3990:4000,5:9", features=order)
    expected = torch.from_numpy(np.concatenate([X[3990:4000], X[5:9]])[:, ::-1].copy())
    found = torch.cat([batch.inputs[0] for batch in rows.batches(4)])
    assert torch.equal(found, expected)
    assert torch.equal(rows.take(torch.tensor([11, 0])).inputs[0], expected[[11, 0]])


def test_a_view_has_the_batches_of_its_rows_in_memory(kept: Kept) -> None:
    dropped = [range(5), range(7, 900, 3), range(1400, 1600), range(2000, 3990)]
    changed = np.array([6, 1300, 3999])
    view = View.whole(ROWS, Y.dtype).with_labels(changed, np.array([2, 1, 2]))
    view = view.without(*runs_of(dropped))
    y = Y.copy()
    y[changed] = 2, 1, 2
    left = np.setdiff1d(np.arange(ROWS), np.r_[tuple(np.array(each) for each in dropped)])
    rows = kept.rows(view=view)
    expected = TensorRows(torch.from_numpy(X[left]), torch.from_numpy(y[left]))
    assert len(rows) == len(left)
    for arguments in ((64,), (len(rows) + 5, 5), (1, len(rows) - 3)):
        found, wanted = list(rows.batches(*arguments)), list(expected.batches(*arguments))
        assert all(map(same, found, wanted))
        assert len(found) == len(wanted)
    indices = torch.tensor([len(rows) - 1, 0, 3, 3, 17])
    assert same(rows.take(indices), expected.take(indices))


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (":", slice(None)),
        ("1490:1510", slice(1490, 1510)),
        ("3:3900:7", slice(3, 3900, 7)),
        ("3000:3100,5,0:40:3", np.r_[3000:3100, 5, 0:40:3]),
    ],
)
def test_batches_are_those_of_rows_in_memory(
    kept: Kept, selection: str, chosen: slice | np.ndarray[Any, Any]
) -> None:
    rows, expected = kept.rows(selection), in_memory(chosen)
    assert len(rows) == len(expected)
    for arguments in ((64,), (len(rows) + 5, 5), (3, 2, 11), (1, len(rows))):
        found, wanted = list(rows.batches(*arguments)), list(expected.batches(*arguments))
        assert len(found) == len(wanted)
        assert all(map(same, found, wanted))
    indices = torch.tensor([len(rows) - 1, 0, 3, 3, 17])
    assert same(rows.take(indices), expected.take(indices))
    assert kept.on_disk() <= BUDGET


def test_a_reader_that_stops_early_leaves_no_thread(kept: Kept) -> None:
    for batch in kept.rows().batches(8):
        if batch.start > 100:
            break
    del batch
    until(lambda: not [each for each in threading.enumerate() if each.name == "read-ahead"])


def test_influences_over_ten_times_the_cache_are_the_same_bytes(kept: Kept) -> None:
    torch.manual_seed(0)
    problem = Problem(nn.Linear(WIDTH, 3), make_loss("cross_entropy"), ("*",))
    rhs = torch.randn(2, problem.size)

    def computed(rows: StreamedRows | TensorRows) -> Iterator[torch.Tensor]:
        hessian = with_damping(Hessian(problem, rows, batch_size=100), 1e-2)
        solution = ConjugateGradients(rtol=1e-3, maxiter=2).solve(*hessian, rhs)
        for _, block in up(problem, solution.x, rows, batch_size=100):
            yield block

    held = torch.cat(list(computed(in_memory(slice(None)))), 1)
    assert torch.equal(torch.cat(list(computed(kept.rows())), 1), held)
    assert kept.on_disk() <= BUDGET


def test_caches_that_share_a_folder_stay_within_the_budget_together(tmp_path: Path) -> None:
    caches = [DiskCache(tmp_path / "cache", 64_000) for _ in range(3)]
    size = caches[0].block_bytes
    blocks = {number: bytes([number]) * size for number in range(60)}
    largest = 0

    def use(cache: DiskCache) -> None:
        nonlocal largest
        for number in list(blocks) * 2:
            found = cache.get("a", number, size)
            assert found is None or found == blocks[number]
            if found is None:
                cache.put("a", number, blocks[number])
            files = [each for each in (tmp_path / "cache" / "").rglob("*") if each.suffix == ""]
            largest = max(largest, sum(each.stat().st_size for each in files if each.is_file()))

    def guarded(cache: DiskCache) -> None:
        with suppress(FileNotFoundError):  # of this test's own look at the folder
            use(cache)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(guarded, caches))
    assert 0 < largest <= 64_000
    assert caches[0].get("a", 59, size) in (None, blocks[59])
    assert caches[0].get("a", 59, size + 1) is None
