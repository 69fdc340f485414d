"""How many rows and vectors to take at a time: within a byte budget, and halved when memory ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from workers.engine.errors import BadParameter, OutOfMemory
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable
from workers.engine.progress import Progress, silent

DEFAULT_BUDGET = 1 << 30  # bytes
# A block of rows × vectors that a CPU keeps in its caches: beyond it page faults cost 1.7 times, far
# below it the calls do. GPUs want blocks large. The cases mlp-cg, wide-cg and cnn-cg of
# `python -m benchmarks.peers` show what other sizes cost.
CACHED_BYTES = {"cpu": 1 << 24}
ROWS_AT_ONCE = {"cpu": 384}
NARROW_ROWS_AT_ONCE = 2048  # with few vectors, when cached_bytes bounds the block
ROWS_AT_ONCE_ELSEWHERE = 8192
# A block has at least these, where vectors are split so that it stays in cache.
FEWEST_ROWS = 128
FEWEST_VECTORS = 8
VECTORS_AT_ONCE = {"cpu": 64}
VECTORS_AT_ONCE_ELSEWHERE = 256

BatchSize = int | Literal["auto"]
Result = TypeVar("Result")


@dataclass
class RowBlock:
    """Rows and vectors taken at once; shrinks, never grows."""

    rows: int
    vectors: int = 1

    def halve(self, error: BaseException, what: str) -> None:
        """Fewer rows, then fewer vectors. Raises OutOfMemory when both are 1."""
        if self.rows > 1:
            self.rows //= 2
        elif self.vectors > 1:
            self.vectors //= 2
        else:
            raise OutOfMemory(what, "one row at a time is too much for this device") from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def over_rows(
    rows: Rows,
    block: RowBlock,
    work: Callable[[Batch], Result],
    *,
    what: str,
    progress: Progress = silent,
) -> Iterator[tuple[Batch, Result]]:
    """Apply `work` to every row, batch by batch; out of memory halves the batch and goes on.

    `work` must be atomic: whatever it did before running out of memory is done again.
    """
    start, total = 0, len(rows)
    while start < total:
        size = block.rows
        for batch in rows.batches(size, start):
            try:
                result = work(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure: BaseException | None = error
            else:
                failure = None
            if failure is not None:
                # Outside the handler, so that the failed frames and their tensors are gone.
                failure.__traceback__ = None
                block.halve(failure, what)
                break
            yield batch, result
            start = batch.start + len(batch)
            progress(what, start, total, "rows")
            if block.rows != size:
                break


def rows_at_once(
    batch_size: BatchSize,
    total: int,
    row_bytes: int,
    budget: int,
    device: str,
    least_cap: int = 0,
) -> int:
    """Rows of a batch: as asked for, or what budget, cache and an even division allow.

    Rows of a few bytes go by thousands, for their calls cost more than their work.
    """
    if batch_size != "auto":
        if batch_size < 1:
            raise BadParameter("batch_size", batch_size, "at least 1, or auto")
        return min(batch_size, max(total, 1))
    row_bytes = max(row_bytes, 1)
    narrow = min(ROWS_AT_ONCE_ELSEWHERE, cached_bytes(device) // row_bytes)
    usual = ROWS_AT_ONCE.get(device, ROWS_AT_ONCE_ELSEWHERE)
    most = max(1, min(max(least_cap, usual, narrow), budget // row_bytes))
    parts = -(-max(total, 1) // most)
    return -(-max(total, 1) // parts)


def vectors_at_once(device: str) -> int:
    """The widest block of vectors worth multiplying in one go."""
    return VECTORS_AT_ONCE.get(device, VECTORS_AT_ONCE_ELSEWHERE)


def cached_bytes(device: str) -> int:
    """Bytes of activations that a block should stay within for speed."""
    return CACHED_BYTES.get(device, 1 << 62)


class BlockPlan:
    """The block for any number of vectors: those that are alike share one, and what it learns."""

    def __init__(
        self,
        kind: str,
        total: int,
        row_bytes: int,
        budget: int,
        batch_size: BatchSize,
        shared_bytes: int = 0,
    ) -> None:
        """A row takes `row_bytes` for itself and for each vector, and `shared_bytes` once."""
        self._kind, self._total, self._row_bytes = kind, total, row_bytes
        self._shared_bytes = shared_bytes
        self._budget, self._batch_size = budget, batch_size
        self._blocks: dict[int, RowBlock] = {}

    @property
    def widest(self) -> int:
        """The most vectors worth multiplying in one go."""
        return vectors_at_once(self._kind)

    def of(self, count: int) -> RowBlock:
        """The block for this many vectors."""
        most = self._most_vectors()
        parts = -(-max(count, 1) // most)
        vectors = -(-max(count, 1) // parts)
        if vectors not in self._blocks:
            cost = self._cost(vectors)
            cached = cached_bytes(self._kind) // (self._row_bytes * vectors)
            budget = min(self._budget, max(FEWEST_ROWS, cached) * cost)
            rows = rows_at_once(
                self._batch_size, self._total, cost, budget, self._kind, NARROW_ROWS_AT_ONCE
            )
            block = RowBlock(rows, vectors)
            while block.vectors > 1 and rows * self._cost(block.vectors) > self._budget:
                block.vectors //= 2
            self._blocks[vectors] = block
        return self._blocks[vectors]

    def _cost(self, vectors: int) -> int:
        return self._row_bytes * (1 + vectors) + self._shared_bytes

    def _most_vectors(self) -> int:
        vectors = self.widest
        # Rather fewer vectors at a time than tiny batches of rows.
        cached = cached_bytes(self._kind) // (self._row_bytes * min(FEWEST_ROWS, self._total))
        vectors = max(min(FEWEST_VECTORS, vectors), min(vectors, cached))
        few = min(16, self._total)
        while vectors > 1 and self._budget // self._cost(vectors) < few:
            vectors //= 2
        return vectors


def activation_bytes(problem: Problem, rows: Rows) -> int:
    """Bytes that autograd keeps for one more row of a gradient that can be differentiated again."""
    if len(rows) == 0:
        return 1
    sizes = list(_two_sizes(rows))
    return problem.once(_shapes_of(sizes[-1]), lambda: activation_bytes_between(problem, sizes))


def know_activation_bytes(problem: Problem, rows: Rows, known: int) -> None:
    """Has `activation_bytes` answer so: of a large model measuring them takes more memory than a product."""
    if len(rows):
        problem.once(_shapes_of(list(_two_sizes(rows))[-1]), lambda: known)


def _shapes_of(batch: Batch) -> Hashable:
    given = (*batch.inputs, *batch.target_tensors)
    return ("activation bytes", tuple((each.shape, each.dtype) for each in given))


def activation_bytes_between(problem: Problem, sizes: Sequence[Batch]) -> int:
    """The same by batches of one row and of two, or of one alone."""
    kept = [_kept_bytes(problem, problem.placed(each)) for each in sizes]
    return max(1, kept[-1] - kept[0]) if len(kept) > 1 else max(1, kept[0])


def _two_sizes(rows: Rows) -> Iterator[Batch]:
    sizes = (1, 2) if len(rows) > 1 else (1,)
    for size in sizes:
        yield next(iter(rows.batches(size)))


def _kept_bytes(problem: Problem, batch: Batch) -> int:
    # The tensors themselves are held: the id of one that is gone may be given to the next, and blocks
    # cut by a sum that depends on that would round one way here and another way there.
    seen: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> int:
        seen[id(tensor)] = tensor
        return id(tensor)

    theta = problem.theta.clone().requires_grad_()
    # A model that cannot be differentiated is for the products to report, with the operator's name.
    with (
        suppress(RuntimeError, NotImplementedError),
        twice_differentiable(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(note, seen.__getitem__),
    ):
        total = problem.losses(theta, batch).sum()
        torch.autograd.grad(total, theta, create_graph=True)
    kept = sum(tensor.numel() * tensor.element_size() for tensor in seen.values())
    # Nodes hold the hooks, these hold what was seen, and that holds its nodes: a circle that Python's collector does
    # not see. For the same reason a node is given a number to keep, and not the tensor.
    seen.clear()
    return kept
