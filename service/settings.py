"""Every setting of the front end and the workers: its unit, its default, its environment variable.

The variable is the name in capitals after `UPWEIGHT_`; `REDIS_URL` and nothing else is also read bare.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, IPvAnyNetwork, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from upweight.schema.base import CONTRACT
from upweight.webhooks import WebhookInvalid, secret_key

MIB = 1024**2
GIB = 1024**3
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def automatic_bytes(free: int) -> int:
    """A quarter, down to a power of two: workers that start one after another come to the same blocks."""
    return max(512 * MIB, 1 << ((free // 4).bit_length() - 1) if free >= 4 else 0)


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """What this machine has free, or this container where that is less; 0 where neither says."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = meminfo.read_text().splitlines()
        words = next(line for line in lines if line.startswith("MemAvailable:")).split()
        found.append(int(words[1]) * 1024)
    with suppress(OSError, ValueError):  # "max" is no number, and no limit
        limit = int((cgroup / "memory.max").read_text())
        found.append(max(0, limit - int((cgroup / "memory.current").read_text())))
    return min(found, default=0)


class Settings(BaseSettings):
    """Built once at a process's entry point and passed down."""

    model_config = SettingsConfigDict(
        env_prefix="UPWEIGHT_",
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # some are secrets, and errors go to logs
    )

    # Where things are
    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65535)
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("UPWEIGHT_REDIS_URL", "REDIS_URL"),
    )
    storage: str = Field(
        "./upweight-data/objects",
        description="A folder, or a file://, s3://, gs:// or az:// URL of a bucket, with a prefix or without. "
        "Credentials come from the variables of each cloud's own tools: AWS_ACCESS_KEY_ID, …",
    )
    storage_endpoint: str | None = Field(
        None,
        description="URL of a server that speaks S3 (or GCS, Azure); null means the cloud's own.",
    )
    storage_region: str | None = Field(None, description="Region of the bucket, where it has one.")
    storage_allow_http: bool = Field(
        False, description="Whether the endpoint may be plain http, readable to anyone on the way."
    )
    storage_timeout_seconds: float = Field(30.0, description="Silence in one request.", gt=0)
    storage_retry_seconds: float = Field(
        60.0,
        description="How long a failing storage is tried again; the front end: 10 s at most.",
        gt=0,
    )
    dataset_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Where datasets may lie by `uri`, comma-separated: `/data/sets,s3://lake/{namespace}`; reached "
        "as the storage is.",
    )
    scratch: Path | None = Field(
        None, description="Workers' local cache; null means the system's temporary folder."
    )
    disk_cache_bytes: int = Field(
        16 * GIB,
        description="Datasets cached on a machine's disk, by all its workers together.",
        gt=0,
    )

    # Limits of requests
    blob_bytes: int = Field(64 * GIB, description="Largest blob.", gt=0)
    body_bytes: int = Field(4 * MIB, description="Largest JSON body.", gt=0)
    dataset_rows: int = Field(100_000_000, gt=0)
    model_parameters: int = Field(10_000_000_000, gt=0)
    direct_parameters: int = Field(
        20_000, description="Most parameters for `direct`: its Hessian is (p, p).", gt=0
    )
    job_memory_bytes: int | None = Field(
        None,
        description="Most memory of a worker that a job may be estimated to take, `estimate.memory_bytes`; null: no "
        "limit.",
        gt=0,
    )
    result_bytes: int = Field(64 * GIB, description="Largest result of one job.", gt=0)
    json_numbers: int = Field(10_000, description="Most numbers in a JSON slice.", gt=0)
    preview_bytes: int = Field(
        64 * MIB,
        description="Most that is unpacked of a compressed shard for a request of some rows.",
        gt=0,
    )
    queue_length: int = Field(100_000, description="Jobs waiting in one queue.", gt=0)
    namespace_jobs: int = Field(20_000, description="Unfinished jobs of one namespace.", gt=0)
    namespace_checks: int = Field(
        200, description="Models and datasets of one namespace that are being checked.", ge=1
    )
    namespace_high: int = Field(
        50, description="Jobs of priority `high` of one namespace that wait for a worker.", ge=1
    )
    high_role: Literal["read", "write", "admin"] = Field(
        "admin", description="The role that a key needs to ask for priority `high`."
    )
    namespace_requests: float | None = Field(
        None,
        description="Requests a second of one namespace, ten times as many at once; null: no limit.",
        gt=0,
    )
    namespace_uploads: int = Field(
        24, description="Uploads of one namespace at once, in each front end.", ge=1
    )
    namespace_questions: int = Field(
        16, description="Questions to indexes of one namespace at once, in each front end.", ge=1
    )
    query_seconds: float = Field(
        30.0, description="How long a question to an index waits for a worker's answer.", gt=0
    )
    namespace_listeners: int = Field(
        2_000,
        description="Event streams and answers held by `wait` of one namespace, in each front end.",
        ge=1,
    )
    namespace_bytes: int | None = Field(
        None, description="Stored bytes of one namespace; null: no limit.", gt=0
    )
    blocks: int = Field(200_000, description="Most blocks of one stage of a job.", gt=0)
    slice_bytes: int = Field(8 * MIB, description="Memory for one block of a streamed slice.", gt=0)

    # Webhooks
    webhook_secret: SecretStr | None = Field(
        None,
        description="`whsec_` and base64 of 24 to 64 bytes, for all namespaces without their own.",
    )
    webhook_http: bool = Field(False, description="Whether webhooks may go to http:// addresses.")
    webhook_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (),
        description="Private networks that webhooks may reach, comma-separated: `10.1.2.0/24`.",
    )
    webhook_seconds: float = Field(10.0, description="Time for one try of a delivery.", gt=0)
    webhook_pause_seconds: float = Field(
        5.0, description="Before the second try; four times as long before each further one.", gt=0
    )
    webhook_tries: int = Field(8, description="Tries of a delivery, over some six hours.", ge=1)

    # Models
    pt2_policy: Literal["sanitized", "reject", "trusted"] = "sanitized"
    factories: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Allowed factories by exact dotted name, comma-separated: `torchvision.models:resnet18`.",
    )
    huggingface: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Allowed `model_type`s of Hugging Face models, comma-separated: `bert,gpt2`. Workers need "
        "`upweight[huggingface]`.",
    )
    check_seconds: float = Field(
        120.0, description="Time for the check of a model or dataset.", gt=0
    )
    check_memory_bytes: int = Field(
        8 * GIB, description="Address space of the process that checks a model.", gt=0
    )
    fork_ahead: bool = Field(
        True,
        description="Whether a worker starts the process that its checks are forked from when it starts, and not "
        "with its first check: some 4 s of a core, so that the first model is checked in a fraction of a second.",
    )

    # Workers
    device: str = Field("auto", description="`auto`, `cpu`, `cuda:0`, …")
    workers_per_device: int = Field(
        1, description="Workers that may share a GPU; each holds its own models and datasets.", ge=1
    )
    threads: int | None = Field(
        None, description="CPU threads of a worker; null leaves it to torch."
    )
    memory_bytes: int = Field(
        512 * MIB,
        description="Budget of a computation's blocks beside model and data, and of the right-hand sides that are "
        "solved for together. `auto`: a quarter of the memory that is free when the worker starts, as a power of two, "
        "and 512 MiB at least; of the machine's or the container's, not of a GPU's.",
        gt=0,
    )
    spread_seconds: float = Field(
        30.0, description="A job that is estimated to take longer is spread over all workers.", gt=0
    )
    block_seconds: float = Field(
        10.0, description="What a block of such a job is planned to take.", gt=0
    )
    tasks_in_hand: int = Field(
        3,
        description="Tasks, each of another namespace, that a worker may have begun: one computes, and between "
        "batches they take turns. Each needs memory of its own; 1: a task is done before the next begins.",
        ge=1,
    )
    reuse_bytes: int = Field(
        256 * MIB,
        description="Fits and factors up to this size are kept for later jobs, beside what a job was told to keep.",
        ge=0,
    )
    cache_bytes: int = Field(4 * GIB, description="Models and datasets kept on the device.", gt=0)
    job_seconds: float = Field(86_400.0, description="Longest running time of a job.", gt=0)
    attempts: int = Field(3, description="How often a job that loses its worker is begun.", ge=1)
    lease_seconds: float = Field(
        12.0, description="A worker that is silent for this long has lost its job.", gt=0
    )
    heartbeat_seconds: float = Field(2.0, description="How often leases are renewed.", gt=0)
    janitor_seconds: float = Field(5.0, description="How often lost jobs are looked for.", gt=0)

    # Retention
    retention_days: float | None = Field(
        None, description="Results expire so long after their job has ended; null keeps them.", gt=0
    )
    retention_bytes: int | None = Field(
        None,
        description="Bytes of results of one namespace; beyond, the oldest expire. Null: no limit.",
        gt=0,
    )
    retention_pause_seconds: float = Field(
        10.0, description="Between two looks at a few hundred jobs and objects.", gt=0
    )
    orphan_seconds: float = Field(
        86_400.0, description="Age at which objects that belong to nothing are deleted.", gt=0
    )

    # Rolling upgrades
    contract: int = Field(
        CONTRACT, description="What a worker claims to understand; another only to try an upgrade."
    )

    # Traces
    traces: str | None = Field(
        None,
        description="Where spans go: the address of an OpenTelemetry collector that takes OTLP over HTTP, "
        "`http://collector:4318`. Null: nowhere. Needs `upweight[tracing]`.",
    )
    traces_ratio: float = Field(
        1.0, description="Share of requests traced that come without a trace.", ge=0, le=1
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("memory_bytes", mode="before")
    @classmethod
    def _of_free_memory(cls, value: object) -> object:
        return automatic_bytes(free_bytes()) if value == "auto" else value

    @field_validator("webhook_secret")
    @classmethod
    def _is_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                secret_key(value.get_secret_value())
            except WebhookInvalid as error:
                raise ValueError(error.detail) from None
        return value

    @field_validator(
        "dataset_prefixes", "factories", "huggingface", "webhook_networks", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())

    def __init__(self, **values: object) -> None:
        super().__init__(**values)  # type: ignore[arg-type]
