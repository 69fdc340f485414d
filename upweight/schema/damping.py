"""λ in (H + λI)⁻¹: a number, a part of the mean eigenvalue, what the service works out, or a list; what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from upweight.schema.base import Answer, Request

MOST_DAMPINGS = 16  # of one job
FORMS = '0.05, {"relative": 0.1}, "auto", or a list of up to 16 numbers'


class Relative(Request):
    """A part of the mean eigenvalue of H: λ = relative · trace(H) / p."""

    relative: Annotated[float, Field(gt=0.0)]


class TrainingSteps(Request):
    """How the model was trained: steps that share a curvature, as a segment of training does."""

    learning_rate: Annotated[float, Field(gt=0.0)]
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    steps: Annotated[int, Field(strict=True, ge=1, le=2**53)]
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0

    @property
    def damping(self) -> float:
        """λ = w + (1 − μ) / (η K): what so many steps leave undone along a direction, λ does in the inverse."""
        return self.weight_decay + (1.0 - self.momentum) / (self.learning_rate * self.steps)


class Trained(Request):
    """λ from a recipe of training."""

    auto: TrainingSteps


def _form(value: Any) -> str:
    """Tags that no field is called: the words for an error look for fields."""
    given = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    if "relative" in given:
        return "as a part"
    return "as a recipe" if "auto" in given else "as a number"


def _one(value: Any) -> Any:
    """Refuses what is none of the forms, in words that name them all."""
    if isinstance(value, Mapping) and not {"relative", "auto"} & value.keys():
        keys = ", ".join(map(repr, value)) or "an empty object"
        raise PydanticCustomError(
            "damping_form", "{keys} is nothing that λ has; give {forms}",
            {"keys": keys, "forms": FORMS},
        )  # fmt: skip
    if isinstance(value, str) and not _is_number(value):
        raise PydanticCustomError(
            "damping_form", "{value} is no λ; give {forms}",
            {"value": repr(value[:40]), "forms": FORMS},
        )  # fmt: skip
    if value is None or isinstance(value, list | tuple):
        raise PydanticCustomError("damping_form", "λ must be {forms}", {"forms": FORMS})
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


Number = Annotated[float, Field(ge=0.0)]
One = Annotated[
    Annotated[Number, Tag("as a number")]
    | Annotated[Relative, Tag("as a part")]
    | Annotated[Trained, Tag("as a recipe")],
    Discriminator(_form),
    BeforeValidator(_one),
]
_Entry = Annotated[
    Annotated[Number, Tag("as a number")] | Annotated[Relative, Tag("as a part")],
    Discriminator(_form),
    BeforeValidator(_one),
]


def _several(values: Any) -> Any:
    """Refuses what is no list of λ's as a whole."""
    if not isinstance(values, list | tuple):
        return values
    if not values:
        raise PydanticCustomError(
            "damping_list", "the list of λ's is empty; give 1 to {most} of them", {"most": MOST_DAMPINGS}
        )  # fmt: skip
    if len(values) > MOST_DAMPINGS:
        raise PydanticCustomError(
            "damping_list", "{count} λ's are too many for one job; give at most {most}, and the others to another job",
            {"count": len(values), "most": MOST_DAMPINGS},
        )  # fmt: skip
    for position, value in enumerate(values):
        if value == "auto" or (isinstance(value, Mapping) and "auto" in value):
            raise PydanticCustomError(
                "damping_list", "'auto' at position {position} is no entry of a list; give numbers or "
                '{"relative": …} there, or "auto" alone', {"position": position},
            )  # fmt: skip
    return list(values)


def _distinct(values: list[Any]) -> list[Any]:
    for position, value in enumerate(values):
        before = values.index(value)
        if before != position:
            shown = value if isinstance(value, float) else value.model_dump_json()
            raise PydanticCustomError(
                "damping_list", "{value} is in the list twice, at {before} and {position}; leave one out",
                {"value": str(shown), "before": before, "position": position},
            )  # fmt: skip
    return values


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "as a list"
    return "as a word" if value == "auto" else "as one"


Damping = Annotated[
    Annotated[One, Tag("as one")]
    | Annotated[Literal["auto"], Tag("as a word")]
    | Annotated[
        Annotated[list[_Entry], Field(min_length=1, max_length=MOST_DAMPINGS)],
        BeforeValidator(_several),
        AfterValidator(_distinct),
        Tag("as a list"),
    ],
    Discriminator(_kind),
]


def entries(damping: Any) -> Sequence[Any]:
    """The λ's that are asked for, one or a list's."""
    return damping if isinstance(damping, list) else [damping]


def numbers(damping: Any) -> Iterator[float]:
    """Those of them that are plain numbers."""
    return (each for each in entries(damping) if isinstance(each, float | int))


def in_words(damping: Any) -> str:
    """λ on a line, as asked for or as resolved."""
    if isinstance(damping, list):
        return f"[{', '.join(map(in_words, damping))}]"
    if isinstance(damping, float | int):
        return f"{damping:g}"
    if isinstance(damping, Relative):
        return f"{damping.relative:g} × the mean eigenvalue"
    if isinstance(damping, Mapping) and "relative" in damping:
        return f"{damping['relative']:g} × the mean eigenvalue"
    return "auto"


def as_asked(asked: Any, values: list[float]) -> list[float] | float:
    """What λ came to, in the form that it was asked for: a list's values, or the one number."""
    return values if isinstance(asked, list) else values[0]


def resolved_in_words(asked: Any, found: ResolvedDamping | None) -> str:
    """λ on a line: what it came to, and what was asked for where that was no number."""
    if found is None:
        return in_words(asked)
    values = as_asked(asked, found.values)
    return f"{in_words(values)} ({in_words(asked)})" if asked != values else in_words(values)


class ResolvedDamping(Answer):
    """What the λ of a job came to, once for all its blocks and attempts."""

    rule: str = Field(
        description="`number`; `relative`; `recipe`: w + (1 − μ) / (η K); `positive`: 1.1 times the size of the "
        "smallest eigenvalue, which is negative; `mean`: 0.1 times the mean eigenvalue. A list's entries are divided "
        "by commas.",
        examples=["mean"],
    )
    values: list[float] = Field(description="The λ's, in the order in which they were asked for.")
    blocks: list[list[float]] | None = Field(
        None,
        description="For each λ that of each block of the curvature, in the order of its layers, where they have "
        "their own; `values` are the means over all parameters then.",
    )
    mean_eigenvalue: float | None = Field(None, description="trace(H) / p, where it was needed.")
    mean_error: float | None = Field(
        None, description="Its standard error; 0 where the trace is exact."
    )
    smallest_eigenvalue: float | None = Field(
        None, description="Of H, as far as Lanczos steps saw it, where it was needed."
    )
    share_below: list[float | None] = Field(
        [], description="For each λ, which share of H's eigenvalues are smaller in size."
    )
    passes: float = Field(0.0, description="Over all training rows, that measuring took.")
    how: str = Field("", description="What these numbers were measured with, in a sentence.")
