"""How a model was trained, as data: what a retraining does once more, on other rows."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from upweight.schema.base import PositiveInt, Request
from upweight.schema.damping import TrainingSteps

MOST_LOOKED_AT = 1_000_000  # steps whose rates are averaged, of more than that


class Constant(Request):
    """The same rate all the time."""

    name: Literal["constant"] = "constant"


class StepDecay(Request):
    """The rate times `gamma`, once more after each so many epochs: `torch.optim.lr_scheduler.StepLR`."""

    name: Literal["step"] = "step"
    epochs: PositiveInt
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class Cosine(Request):
    """From the rate down to `final` along half a cosine, over all steps: `CosineAnnealingLR`, a step a batch."""

    name: Literal["cosine"] = "cosine"
    final: Annotated[float, Field(ge=0.0)] = 0.0


class LinearWarmup(Request):
    """Step t of the first `steps` takes (t + 1) / steps of the rate, counted from 0; `then` goes on from there."""

    name: Literal["linear_warmup"] = "linear_warmup"
    steps: PositiveInt
    then: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="`linear` and `cosine` go down to 0 at the last step."
    )


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Schedule = Annotated[
    Constant | StepDecay | Cosine | LinearWarmup,
    Field(discriminator="name"),
    BeforeValidator(_by_name),
]
# What no other optimizer takes.
_OWN = {
    "momentum": ("sgd",),
    "nesterov": ("sgd",),
    "betas": ("adam", "adamw"),
    "eps": ("adam", "adamw"),
}


class Recipe(Request):
    """How a model is trained: minimises the mean of its rows' losses, as registered, over its selected parameters.

    The registered program is one in evaluation mode, and so is what is trained: dropout is off, and the statistics of
    batch normalisation stay as they are. A batch's loss is the mean over its rows. The last batch of an epoch has the
    rows that are left, as torch's DataLoader has it. Optimisers are torch's, with torch's defaults for what is not
    here; `lbfgs` takes all rows at each of its `epochs` iterations, with a strong Wolfe line search.
    """

    optimizer: Literal["sgd", "adam", "adamw", "lbfgs"]
    lr: Annotated[float, Field(gt=0.0)] = Field(
        description="The learning rate, before its schedule."
    )
    schedule: Schedule = Constant()
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="w: for `adamw` decoupled from the gradient; else w θ is added to it, as for a loss with w/2 ‖θ‖².",
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    nesterov: bool = False
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0.0)] = 1e-8
    batch_size: PositiveInt | None = Field(None, description="Rows; null means all at once.")
    epochs: PositiveInt
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0,
        description="Of the order of the rows. Epoch e, from 0, takes the chosen rows in the order of "
        "`torch.randperm(n, generator=torch.Generator().manual_seed((seed * 1_000_003 + e) % 2**63))`.",
    )
    shuffle: bool = Field(
        True, description="False: in the order in which they are chosen, each epoch."
    )
    start: Literal["initial", "warm"] = Field(
        "initial",
        description="`initial`: the weights that were registered as `initial`; `warm`: the model's own θ.",
    )

    @model_validator(mode="after")
    def _of_its_optimizer(self) -> Self:
        for field, owners in _OWN.items():
            default = type(self).model_fields[field].default
            if getattr(self, field) != default and self.optimizer not in owners:
                raise ValueError(
                    f"'{field}' belongs to optimizer {' and '.join(map(repr, owners))}, not to {self.optimizer!r}; "
                    "leave it out"
                )
        if self.nesterov and not self.momentum:
            raise ValueError("'nesterov' needs a 'momentum' above 0")
        if self.optimizer == "lbfgs":
            if self.batch_size is not None:
                raise ValueError("'lbfgs' takes all rows at once; leave 'batch_size' out")
            if not isinstance(self.schedule, Constant):
                raise ValueError("'lbfgs' searches for its steps; leave 'schedule' out")
        if isinstance(self.schedule, Cosine) and self.schedule.final > self.lr:
            raise ValueError("'schedule.final' is above 'lr'; the cosine goes down to it")
        return self

    def steps(self, rows: int) -> int:
        """How many steps so many rows take in all."""
        if self.optimizer == "lbfgs":
            return self.epochs
        return self.epochs * self.steps_an_epoch(rows)

    def steps_an_epoch(self, rows: int) -> int:
        """The batches of one epoch, the last and smaller one as well."""
        return max(1, math.ceil(rows / (self.batch_size or max(1, rows))))

    def rate(self, step: int, rows: int) -> float:
        """The learning rate of a step, counted from 0 over all epochs."""
        schedule, total = self.schedule, self.steps(rows)
        if isinstance(schedule, StepDecay):
            epoch = step // self.steps_an_epoch(rows)
            return self.lr * schedule.gamma ** (epoch // schedule.epochs)
        if isinstance(schedule, Cosine):
            share = (1.0 + math.cos(math.pi * step / total)) / 2.0
            return schedule.final + (self.lr - schedule.final) * share
        if isinstance(schedule, LinearWarmup):
            if step < schedule.steps:
                return self.lr * (step + 1) / schedule.steps
            left = (step - schedule.steps) / max(1, total - schedule.steps)
            share = {"constant": 1.0, "linear": 1.0 - left}.get(
                schedule.then, (1.0 + math.cos(math.pi * left)) / 2.0
            )
            return self.lr * share
        return self.lr

    def damping(self, rows: int) -> TrainingSteps | None:
        """What λ `auto` is worked out from; None where such steps say nothing of λ.

        Adam divides each step by the size of past gradients, so that its rate is none of gradient descent; L-BFGS
        goes to the optimum.
        """
        if self.optimizer != "sgd":
            return None
        total = self.steps(rows)
        looked_at = min(total, MOST_LOOKED_AT)
        each = (self.rate(step * total // looked_at, rows) for step in range(looked_at))
        mean = math.fsum(each) / looked_at
        return TrainingSteps(
            learning_rate=mean, momentum=self.momentum, steps=total, weight_decay=self.weight_decay
        )
