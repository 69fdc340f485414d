"""Measurements: what of a test row is explained, its loss or something else that the model says of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from upweight.schema.base import Request, Text

# Of a ranking: `helpful` and `harmful` speak of a loss; `lowers` and `raises` of whatever is measured.
Sign = Literal["helpful", "harmful", "lowers", "raises"]


class _Measurement(Request):
    """What is true of a measurement, whatever its parameters."""

    @property
    def better(self) -> Literal["low", "high"] | None:
        """Which way it is better for the row's label; None where that can't be said."""
        return "high"

    @property
    def label(self) -> str:
        """For people."""
        return f"the {self.name}"  # type: ignore[attr-defined]


class LossMeasurement(_Measurement):
    """The row's loss. A positive influence lowers it, so that the training row is helpful."""

    name: Literal["loss"] = "loss"

    @property
    def better(self) -> Literal["low", "high"] | None:
        """A low loss."""
        return "low"


class MarginMeasurement(_Measurement):
    """The log-odds of the row's label, log p / (1 − p). A positive influence lowers it."""

    name: Literal["margin"] = "margin"


class LogitMeasurement(_Measurement):
    """The model's output of one class. A positive influence lowers it."""

    model_config = ConfigDict(
        serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )
    name: Literal["logit"] = "logit"
    class_: Annotated[int, Field(ge=0, strict=True)] | Literal["label", "predicted"] = Field(
        "label",
        alias="class",
        description="Its number; `label`, the row's own; or `predicted`, the one with the largest output.",
    )

    @property
    def better(self) -> Literal["low", "high"] | None:
        """Known of the row's own label alone."""
        return "high" if self.class_ == "label" else None

    @property
    def label(self) -> str:
        """With the class."""
        return f"the logit of class {self.class_!r}"


# A bound of a span: the same in every row, or a metadata column with one for each.
Bound = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)] | Text


class Span(Request):
    """Positions start to end of a row's targets, the end left out: numbers, or metadata columns that have them."""

    start: Bound = Field(description="The first position, counted from 0.")
    end: Bound = Field(description="The position after the last.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if isinstance(self.start, int) and isinstance(self.end, int) and self.end <= self.start:
            raise ValueError(
                f"positions {self.start} to {self.end} are none; 'end' is the position after the last, above 'start'"
            )
        return self

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"


class SpanMeasurement(Span, _Measurement):
    """The log-probability of a part of the row's targets, Σ log p over its positions: of an answer, say, after its
    prompt. With `minus` less that of another part. A positive influence lowers it.

    Positions are those of the targets: where these are the next tokens, token i of a text is at position i − 1.
    """

    name: Literal["span"] = "span"
    minus: Span | None = Field(
        None, description="Another span, whose log-probability is taken off."
    )

    @property
    def label(self) -> str:
        """With its positions."""
        less = "" if self.minus is None else f" less that of {self.minus}"
        return f"the log-probability of positions {self.start}:{self.end}{less}"

    @property
    def spans(self) -> tuple[Span, ...]:
        """The one, and the one that is taken off."""
        return (self,) if self.minus is None else (self, self.minus)

    @property
    def columns(self) -> list[str]:
        """The metadata columns that it takes bounds from."""
        bounds = (bound for each in self.spans for bound in (each.start, each.end))
        return [bound for bound in bounds if isinstance(bound, str)]


def _by_name(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else value
    if name == "program":
        raise ValueError(
            "a program that measures is a model of its own: register it with loss 'program' and the same parameters, "
            "store its gradients (kind 'gradients'), solve for these (kind 'ihvp'), and give that job as 'factors'"
        )
    return {"name": value} if isinstance(value, str) else value


AnyMeasurement = LossMeasurement | MarginMeasurement | LogitMeasurement | SpanMeasurement
Measurement = Annotated[
    AnyMeasurement,
    Field(
        discriminator="name",
        description="What of a test row is explained: its `loss`, its `margin` (the log-odds of its label), the "
        '`logit` of a class, `{"name": "logit", "class": 3}`, or the log-probability of a `span` of its targets, '
        '`{"name": "span", "start": 4, "end": 9}`. Influence is ∇m(z_test)ᵀ (C + λI)⁻¹ ∇L(z_train): '
        "weighting the training row up lowers m where it is positive, and raises m where it is negative. The curvature "
        "and the training rows keep the loss.",
    ),
    BeforeValidator(_by_name),
]


def is_positive(sign: Sign, measurement: AnyMeasurement) -> bool:
    """Whether the influences of this sign are the positive ones. Raises ValueError where the word has no meaning."""
    if sign in ("lowers", "raises"):
        return sign == "lowers"
    if measurement.better is None:
        raise ValueError(
            f"{sign!r} is said of a loss, a margin or the label's logit; of the logit of another class ask for the "
            "rows that 'raises' or 'lowers' it"
        )
    return (sign == "helpful") == (measurement.better == "low")


def usual_sign(measurement: AnyMeasurement) -> Sign:
    """What a ranking is of when nothing is said: what helps, where that is known."""
    return "raises" if measurement.better is None else "helpful"
