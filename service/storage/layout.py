"""Where everything lies in the object storage: blobs, uploads, and the objects of a result."""

from __future__ import annotations

from dataclasses import dataclass

UPLOADS = "uploads"  # what came by presigned URLs and is not verified yet
SELF_TEST = "self-test"
QUALITIES = "qualities"


def upload_path(namespace: str, digest: str) -> str:
    """Where a presigned URL puts bytes that claim a digest; nothing reads them as a blob from there."""
    return f"{uploads_prefix(namespace)}/{digest.removeprefix('sha256:')}"


def uploads_prefix(namespace: str) -> str:
    """Below it lies what came by a namespace's presigned URLs."""
    return f"{UPLOADS}/{namespace}"


def blob_path(namespace: str, digest: str) -> str:
    """Where a blob's bytes lie."""
    hex = digest.removeprefix("sha256:")
    return f"blobs/{namespace}/{hex[:2]}/{hex}"


def namespace_prefixes(namespace: str) -> tuple[str, ...]:
    """Where all that a namespace has stored lies."""
    return f"blobs/{namespace}", f"results/{namespace}", banks_folder(namespace)


def banks_folder(namespace: str) -> str:
    """Where a namespace's banks of retrained weights lie."""
    return f"banks/{namespace}"


def bank_folder(namespace: str, bank: str) -> str:
    """The weights of one bank, an object a subset, and its description."""
    return f"{banks_folder(namespace)}/{bank}"


def quality_path(namespace: str, name: str) -> str:
    """What was last measured of a model, method and λ, by their digest."""
    return f"{QUALITIES}/{namespace}/{name}.json"


@dataclass(frozen=True)
class ResultPaths:
    """The objects of one job's result. `manifest` is written last: without it there is no result."""

    namespace: str
    job_id: str

    @property
    def prefix(self) -> str:
        return f"results/{self.namespace}/{self.job_id}"

    @property
    def influences(self) -> str:
        return f"{self.prefix}/influences"

    @property
    def scores_by(self) -> str:
        """A matrix with the parts of each influence, by layer or by token."""
        return f"{self.prefix}/scores_by"

    @property
    def factors(self) -> str:
        """A folder, as all that is kept in blocks of rows."""
        return f"{self.prefix}/factors"

    @property
    def gradients(self) -> str:
        return f"{self.prefix}/gradients"

    @property
    def products(self) -> str:
        return f"{self.prefix}/products"

    @property
    def top(self) -> str:
        return f"{self.prefix}/top"

    @property
    def mean(self) -> str:
        return f"{self.prefix}/mean"

    @property
    def rescaled(self) -> str:
        return f"{self.prefix}/rescaled"

    @property
    def self_influences(self) -> str:
        return f"{self.prefix}/self_influences"

    @property
    def index_numbers(self) -> str:
        """Of an index: a matrix with the numbers of each training row."""
        return f"{self.prefix}/index/numbers"

    @property
    def index_factors(self) -> str:
        """Of an index: a factor for each training row, in blocks of rows."""
        return f"{self.prefix}/index/factors"

    @property
    def index_strengths(self) -> str:
        """Of an index: which numbers are kept, and how large they are on the mean."""
        return f"{self.prefix}/index/strengths.safetensors"

    @property
    def index_projection(self) -> str:
        """Of an index by a random projection: its matrices, and what whitens its numbers."""
        return f"{self.prefix}/index/projection.safetensors"

    @property
    def index_fit(self) -> str:
        """Of an index: the eigenvectors that its numbers are along."""
        return f"{self.prefix}/index/fit.safetensors"

    @property
    def parts(self) -> str:
        """What `finish` merges, and then deletes."""
        return f"{self.prefix}/parts"

    @property
    def plan(self) -> str:
        """How a job in blocks is cut: written once, before the first block."""
        return f"{self.prefix}/plan.json"

    @property
    def info(self) -> str:
        return f"{self.prefix}/info.safetensors"

    @property
    def report(self) -> str:
        """A document: what a job found that is no array."""
        return f"{self.prefix}/report.json"

    def predictions(self, side: str) -> str:
        """Below it the losses, predictions and targets of `test` or `train` rows lie, in blocks of rows."""
        return f"{self.prefix}/predictions/{side}"

    def predictions_block(self, side: str, start: int, stop: int) -> str:
        """Of rows [start, stop); the names sort by row."""
        return f"{self.predictions(side)}/{start:012d}-{stop:012d}.safetensors"

    @property
    def parameters(self) -> str:
        return f"{self.prefix}/parameters.json"

    @property
    def manifest(self) -> str:
        return f"{self.prefix}/manifest.json"
