"""What a job will take, told before it runs: from counts of operations, never from a run."""

from __future__ import annotations

from pydantic import Field, JsonValue

from upweight.schema.base import Answer


class Estimate(Answer):
    """Of one job on one worker. Bytes are counted; seconds are operations at a rate, which an earlier job of the model
    tells or which is assumed, beside what a job of the model takes whatever is in it: an order of magnitude."""

    seconds: float | None = Field(
        description="Running time, without waiting; null where it could not be counted."
    )
    bytes: int = Field(description="What its result will take in storage.")
    memory_bytes: int = Field(description="Of a worker, at the most.")
    flops: float | None = Field(None, description="Floating-point operations that were counted.")
    flops_per_second: float | None = Field(None, description="The rate that they are taken at.")
    fixed_seconds: float | None = Field(
        None,
        description="What of the seconds a job takes however little there is to do, to load, check and store: that of "
        "earlier jobs of the model, or assumed.",
    )
    rate: str = Field("", description="Where the rate comes from: an earlier job, or assumed.")
    cheaper: str | None = Field(
        None, description="Another method that takes at most half the time, and how long it takes."
    )
    cheaper_inversion: dict[str, JsonValue] | None = Field(
        None,
        description="The same method as a job's `inversion`; null where `cheaper` is.",
        examples=[{"method": "direct"}],
    )
    cheaper_seconds: float | None = Field(None, description="What the job takes with it.")
    fails: str | None = Field(
        None,
        description="Why λ is known to fail: by the spectrum of an earlier job, which is named.",
    )
    enough: float | None = Field(
        None, description="A λ that would do by that spectrum, 1.2 times what it must exceed."
    )
    remark: str | None = Field(
        None, description="What to know before waiting: that it takes days, or is known to fail."
    )
