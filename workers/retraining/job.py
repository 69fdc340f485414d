"""An attempt at a job that trains a model anew: epoch by epoch, from where an earlier attempt came to."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from service.jobs.validation.subset import chosen_rows
from service.lifecycle.states import now
from service.storage.keys import Document, new_id
from service.storage.layout import blob_path
from service.storage.records import Idempotency
from service.storage.shared import digest_of
from service.storage.tensors import tensor_bytes, write_tensors
from upweight.schema import (
    CheckState,
    ClassMetrics,
    Metrics,
    ModelMade,
    Recipe,
    RetrainJob,
    Training,
    TrainingCurve,
    parse_rows,
)
from workers.engine import Problem, Rows, TrainingState, row_predictions
from workers.fits.store import as_array, stored_tensors
from workers.jobs.attempt import Attempt
from workers.jobs.results import ResultWriter
from workers.programs.models import described_layout
from workers.retraining.inputs import TrainingInputs, dataset_of

CHECKPOINT_SECONDS = 2.0
MOST_POINTS = 200  # of a curve in a record
MOST_LOOKS = 50  # at the test rows
_MOST_CLASSES = 100  # that have metrics of their own
_OTHERWISE = ("dropout", "batch_norm", "instance_norm", "rrelu")


@dataclass
class Course:
    """What a training has come to, epoch by epoch."""

    train_loss: list[float] = field(default_factory=list)
    tested: list[tuple[int, float, float]] = field(
        default_factory=list
    )  # epoch, loss, accuracy or NaN

    def curve(self) -> TrainingCurve:
        """At most some hundred points of it, the last among them."""
        count = len(self.train_loss)
        step = max(1, -(-count // MOST_POINTS))
        epochs = sorted({*range(1, count + 1, step), count} - {0})
        return TrainingCurve(
            epochs=epochs,
            train_loss=[self.train_loss[each - 1] for each in epochs],
            test_epochs=[epoch for epoch, _, _ in self.tested],
            test_loss=[loss for _, loss, _ in self.tested],
            test_accuracy=[None if share != share else share for _, _, share in self.tested],
        )

    def tensors(self) -> dict[str, Tensor]:
        """All of it."""
        return {
            "train_loss": torch.tensor(self.train_loss, dtype=torch.float64),
            "tested": torch.tensor(self.tested, dtype=torch.float64).reshape(-1, 3),
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Course:
        """From what `tensors` gave."""
        tested = [(int(epoch), loss, share) for epoch, loss, share in tensors["tested"].tolist()]
        return cls(tensors["train_loss"].tolist(), tested)


@dataclass(frozen=True)
class RetrainAttempt(Attempt[RetrainJob]):
    """One attempt at a retraining."""

    course: Course = field(default_factory=Course)

    def run(self) -> dict[str, Any]:
        """Trains, measures, and makes the model: answers the fields of the job's success."""
        began, watch, request = time.monotonic(), self.watch, self.request
        recipe = request.recipe
        assert recipe is not None  # of its own, or put in at its submission
        watch.progress("load", 0, 1, "models")
        inputs = TrainingInputs.load(
            self.context, self.namespace, self.job, recipe, precision=request.precision,
            seed=request.seed, given=request.given, progress=watch.progress,
        )  # fmt: skip
        total = inputs.dataset.rows or 0
        selected = parse_rows(request.train.rows, total)
        assert request.drop is None or isinstance(request.drop, str)  # numbers since its submission
        chosen = chosen_rows(selected, request.drop, inputs.arrays, total)
        test = self._test_rows()
        trained = time.monotonic()
        state = self._trained(inputs, torch.from_numpy(chosen), test)
        seconds = time.monotonic() - trained
        theta = state.theta[0]
        before = after = None
        if test is not None:
            after = metrics(inputs.problem.plain.at(theta), test)
            before = metrics(inputs.problem.plain, test)
        watch.confirm()
        training = Training(
            parent=ModelMade(
                id=inputs.model.id, name=inputs.model.name, version=inputs.model.version
            ),
            job=self.job["id"],
            recipe=recipe,
            dataset=inputs.dataset.id,
            rows=len(chosen),
            chosen=request.model_dump(mode="json", include={"train", "drop", "given", "seed"}),
            metrics=after,
            parent_metrics=before,
        )
        made = self._model(inputs, theta, training)
        info = {
            "rows": len(chosen),
            "epochs": state.epoch,
            "steps": state.steps,
            "train_loss": self.course.train_loss[-1],
            "evaluation_mode": trained_otherwise(inputs.problem.module),
        }
        result = self._stored(inputs, training, made)
        return {
            "info": info,
            "result": result,
            "model": made.model_dump(mode="json"),
            "curve": self.course.curve().model_dump(mode="json"),
            "cost": {
                "gradient_passes": float(state.epoch),
                "engine_seconds": seconds,
                "seconds": time.monotonic() - began,
            },
        }

    def left_by_failure(self) -> dict[str, Any]:
        """The losses as far as it came."""
        if not self.course.train_loss:
            return {}
        return {"curve": self.course.curve().model_dump(mode="json")}

    def _test_rows(self) -> Rows | None:
        if self.request.test is None:
            return None
        dataset, columns = dataset_of(self.context, self.namespace, self.job, self.job["test_id"])
        chosen = parse_rows(self.request.test.rows, dataset.rows or 0)
        session = self.context.session
        model = self.context.records.get("model", self.namespace, self.job["model_id"])
        weights = model["loss"].get("row_weights")
        labels = tuple(each for each in columns.targets if each != weights)
        columns = replace(columns, targets=labels)
        return session.rows(self.namespace, dataset, columns, chosen, self.watch.progress)

    def _trained(self, inputs: TrainingInputs, rows: Tensor, test: Rows | None) -> TrainingState:
        """Epoch by epoch; what it goes on from is stored every few seconds."""
        recipe, course, watch = inputs.recipe, self.course, self.watch
        state = self._begun(recipe)
        training = inputs.training([rows], state=state, progress=watch.progress)
        looks = max(1, recipe.epochs // MOST_LOOKS)
        stored = time.monotonic()
        for losses in training.epochs():
            state = training.state
            course.train_loss.append(float(losses[0]))
            if test is not None and (state.epoch % looks == 0 or state.epoch == recipe.epochs):
                loss, accuracy = measured(inputs.problem.plain.at(state.theta[0]), test)
                course.tested.append((state.epoch, loss, accuracy))
            watch.told = {"curve": course.curve().model_dump(mode="json")}
            if time.monotonic() - stored > CHECKPOINT_SECONDS and recipe.optimizer != "lbfgs":
                self._keep(state)
                stored = time.monotonic()
        return training.state

    def _begun(self, recipe: Recipe) -> TrainingState | None:
        """What an earlier attempt has stored last; None where nothing is, or it can't be gone on from."""
        paths = sorted(meta.path for meta in self.context.objects.walk(self.paths.parts))
        if not paths or recipe.optimizer == "lbfgs":
            return None
        tensors = stored_tensors(self.context.objects, paths[-1], self.context.device)
        earlier = Course.of({name: tensors.pop(name).cpu() for name in ("train_loss", "tested")})
        self.course.train_loss[:] = earlier.train_loss
        self.course.tested[:] = earlier.tested
        return TrainingState.of(tensors)

    def _keep(self, state: TrainingState) -> None:
        self.watch.confirm()
        path = f"{self.paths.parts}/epoch-{state.epoch:09d}.safetensors"
        tensors = {**state.tensors(), **self.course.tensors()}
        arrays = {name: as_array(each) for name, each in tensors.items()}
        write_tensors(self.context.objects, path, arrays)
        before = [m.path for m in self.context.objects.walk(self.paths.parts) if m.path < path]
        self.context.objects.delete(before)

    def _model(self, inputs: TrainingInputs, theta: Tensor, training: Training) -> ModelMade:
        """The record of the model, made once whatever the attempts, and ready: its program is its parent's."""
        context, parent = self.context, inputs.model
        named = inputs.problem.named(theta)
        data = tensor_bytes({name: as_array(value) for name, value in named.items()})
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        context.objects.put_first(blob_path(self.namespace, digest), data)
        name = self.request.name or f"{parent.name[:118]}-retrained"
        document: Document = {
            **parent.model_dump(mode="json", exclude={"used_by"}),
            "id": new_id("model"),
            "name": name,
            "created_at": now(),
            "checked_at": now(),
            "state": CheckState.READY,
            "labels": {},
            "recipe": training.recipe.model_dump(mode="json"),
            "weights": digest,
            "digest": f"sha256:{digest_of([parent.digest, digest])}",
            "size_bytes": len(data),
            "training": training.model_dump(mode="json"),
        }
        once = Idempotency(key=f"made by {self.job['id']}", fingerprint=self.job["id"])
        id = context.records.made_by("model", self.namespace, once)
        if id is None:
            document["version"] = context.records.next_version("model", self.namespace, name)
            id, _ = context.records.create("model", self.namespace, document, idempotency=once)
            context.copies.secure("model", self.namespace, id)
        found = context.records.get("model", self.namespace, id)
        return ModelMade(id=id, name=found["name"], version=found["version"])

    def _stored(
        self, inputs: TrainingInputs, training: Training, made: ModelMade
    ) -> dict[str, Any]:
        """Writes the report, the whole curve and the manifest: the record's `result`."""
        writer = ResultWriter(self.context.objects, self.paths)
        writer.report(
            {"model": made.model_dump(mode="json"), "training": training.model_dump(mode="json")}
        )
        tested = torch.tensor(self.course.tested, dtype=torch.float64).reshape(-1, 3)
        arrays = {"train_loss": torch.tensor(self.course.train_loss, dtype=torch.float64)}
        if len(tested):
            arrays |= {"test_epochs": tested[:, 0].clone(), "test_loss": tested[:, 1].clone()}
        writer.tensors(self.paths.info, arrays)
        stored = ["info", "report"]
        described = {
            "job_id": self.job["id"],
            "request": self.job["request"],
            "device": str(self.context.device),
            "seed": self.request.seed,
            "stored": stored,
        }
        size = writer.commit(described_layout(inputs.problem), described)
        self.context.objects.delete_prefix(self.paths.parts)
        dtype = str(inputs.problem.dtype).removeprefix("torch.")
        return {"dtype": dtype, "stored": stored, "size_bytes": size}


def measured(problem: Problem, rows: Rows) -> tuple[float, float]:
    """The mean loss of some rows, and the accuracy, NaN where there are no classes."""
    found = metrics(problem, rows, by_class=False)
    return found.loss, float("nan") if found.accuracy is None else found.accuracy


def metrics(problem: Problem, rows: Rows, *, by_class: bool = True) -> Metrics:
    """What the model makes of some rows, and of those of each class."""
    found = [each for _, each in row_predictions(problem, rows)]
    losses = torch.cat([each.losses for each in found]).double().cpu()
    errors = [each.errors for each in found if each.errors is not None]
    right = 1.0 - torch.cat(errors).double().cpu() if errors else None
    targets = [each.targets for each in found if each.targets is not None]
    classes: list[ClassMetrics] = []
    if by_class and right is not None and targets:
        labels = torch.cat(targets).cpu().long()
        named = sorted(set(labels.tolist()))
        for label in named if len(named) <= _MOST_CLASSES else ():
            of = labels == label
            classes.append(
                ClassMetrics(
                    label=label, rows=int(of.sum()), loss=float(losses[of].mean()),
                    accuracy=float(right[of].mean()),
                )
            )  # fmt: skip
    return Metrics(
        rows=len(losses),
        loss=float(losses.mean()),
        accuracy=None if right is None else float(right.mean()),
        by_class=classes,
    )


def trained_otherwise(module: nn.Module) -> list[str]:
    """What behaves otherwise where a model is trained than in its registered program, by name; sorted."""
    names = set()
    for name, each in module.named_modules():
        kind = type(each).__name__.lower()
        if isinstance(each, fx.GraphModule):
            for node in each.graph.nodes:
                target = str(node.target)
                if node.op == "call_function" and any(part in target for part in _OTHERWISE):
                    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
                    names.add((stack[-1] if stack else "") or str(node.name))
        elif "batchnorm" in kind or ("dropout" in kind and getattr(each, "p", 1.0) > 0):
            names.add(name or kind)
    return sorted(names)
