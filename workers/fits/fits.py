"""What an inversion finds out about model and training rows alone, kept on a warm worker from job to job, and in the
object storage from worker to worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import BaseModel
from torch import Tensor

from service.storage.shared import digest_of
from upweight.schema import Inversion
from workers.engine import (
    METHODS,
    Curvature,
    Inverse,
    Method,
    Progress,
    Recycled,
    Solution,
    restored,
    stored,
)
from workers.engine.inversion.damping import PartOfMean
from workers.engine.inversion.direct import in_closed_form
from workers.engine.operators import ClosedForm
from workers.fits.session import Session

# Grows when fits are made another way, so that those in the object storage are not taken for what they would be now.
# 3: they say their class, and λ is in none of what is found out about H.
REVISION = 3
CLOSED_FORM = "closed-form"  # the name of a curvature by its eigenvectors

Solve = Callable[[Tensor], Solution]
SolveEach = Callable[[Tensor], Sequence[Solution]]  # with each of several λ's
Guess = Callable[[str, str], Tensor]  # (blob digest, tensor name) -> (k, p)


class Store(Protocol):
    """Where fits are found by other workers, by name."""

    def find(self, name: str) -> dict[str, Tensor] | None: ...
    def put(self, name: str, tensors: Mapping[str, Tensor]) -> bool: ...


def engine_method(inversion: Inversion, seed: int, guess: Guess | None = None) -> Method:
    """The engine's method with the contract's parameters, by their names; a first guess is fetched by `guess`."""
    fields = _fields(inversion, seed)
    name = inversion.guess_field
    if name is not None:
        digest = fields[name]
        fields[name] = guess(digest, name) if digest is not None and guess is not None else None
    return METHODS[inversion.method](**fields)


def _fields(part: BaseModel, seed: int) -> dict[str, Any]:
    """The parameters of a method, with the job's seed where it draws and is given none of its own."""
    name = _name(part)
    fields = {
        field: _made(getattr(part, field), seed)
        for field in type(part).model_fields
        if field not in ("method", "name")
    }
    draws = any(each.name == "seed" for each in dataclasses.fields(METHODS[name]))
    return fields | {"seed": seed} if draws and fields.get("seed") is None else fields


def _made(value: Any, seed: int) -> Any:
    """A method that is another one's parameter, as the engine's."""
    if not isinstance(value, BaseModel):
        return value
    return METHODS[_name(value)](**_fields(value, seed))


def _name(part: BaseModel) -> str:
    """The engine's, of a method or a preconditioner."""
    return str(getattr(part, "method", None) or getattr(part, "name", None))


@dataclass(frozen=True)
class Fits:
    """The fits of one model in one precision over one choice of training rows, which `key` names."""

    session: Session
    key: tuple[str, ...]
    inversion: Inversion
    seed: int
    damping: float | PartOfMean  # the latter of a closed form alone
    # The λ of the fit that others are taken from; None: this one.
    fitted_with: float | PartOfMean | None = None
    store: Store | None = None
    recycles: bool = False  # whether a solution may depend on those before it
    of_closed_form: bool = (
        False  # of a curvature that is known by its eigenvectors, whatever method is given them
    )

    @property
    def name(self) -> str | None:
        """What the fit is called in a store: of all parameters that it may depend on. None where there is none."""
        inversion = self.inversion
        if self.of_closed_form and (inversion.builds_matrix or not inversion.has_fit):
            return CLOSED_FORM
        if not inversion.has_fit:
            return None
        parameters = inversion.model_dump(mode="json", exclude={"method", *inversion.solve_only})
        seed = self.seed if inversion.fit_is_random else None
        damping = self._of_fit if inversion.fit_is_damped else None
        return f"{inversion.method}-{digest_of([parameters, seed, damping])[:32]}"

    @property
    def _of_fit(self) -> float | PartOfMean:
        return self.damping if self.fitted_with is None else self.fitted_with

    def at(self, damping: float | PartOfMean) -> Fits:
        """For another λ, from the fit of this one where it can be had of that."""
        return replace(self, damping=damping, fitted_with=self._of_fit)

    def prepare(self, curvature: Callable[[], Curvature], progress: Progress) -> None:
        """Makes the fit, or finds it, so that `solver` will find it."""
        self._fit(engine_method(self.inversion, self.seed), curvature, progress)

    def solver(self, guess: Guess, curvature: Callable[[], Curvature], progress: Progress) -> Solve:
        """How to solve for any block of right-hand sides; the fit is made now, or found.

        `curvature` makes a new one.
        """
        method = engine_method(self.inversion, self.seed, guess)
        fit, operator = self._fit(method, curvature, progress), curvature()
        if fit is None and method.recycles and self.recycles:
            return lambda rhs: self._recycling(method, operator, rhs, progress)
        return lambda rhs: method.solve(operator, _number(self.damping), rhs, progress, fit)

    def closed_form(self, make: Callable[[], ClosedForm]) -> ClosedForm:
        """C by its eigenvectors, before any λ: made once for all methods, or found."""
        key = (*self.key, CLOSED_FORM)
        found = self.session.kept(key, lambda: _sized(self._found(CLOSED_FORM, make)))
        assert isinstance(found, ClosedForm)
        return found

    def solver_of_each(
        self,
        dampings: Sequence[float | PartOfMean],
        guess: Guess,
        curvature: Callable[[], Curvature],
        progress: Progress,
    ) -> SolveEach:
        """How to solve for any block of right-hand sides with each λ, from one fit; as `solver`."""
        method, operator = engine_method(self.inversion, self.seed, guess), curvature()

        def fit_of(damping: float | PartOfMean) -> Inverse | None:
            return self.at(damping)._fit(method, curvature, progress)

        numbers = [each for each in dampings if not isinstance(each, PartOfMean)]
        if len(numbers) == len(dampings):
            return lambda rhs: method.solve_each(operator, numbers, rhs, progress, fit_of)

        def solve(rhs: Tensor) -> list[Solution]:
            fits = [fit_of(each) for each in dampings]
            forms = [each for each in fits if isinstance(each, ClosedForm)]
            if len(forms) == len(fits):
                return in_closed_form(forms, rhs, progress)
            pairs = zip(dampings, fits, strict=True)
            return [
                method.solve(operator, _number(each), rhs, progress, fit) for each, fit in pairs
            ]

        return solve

    def _recycling(
        self, method: Method, operator: Curvature, rhs: Tensor, progress: Progress
    ) -> Solution:
        """With what earlier solutions on this worker have left, and leaving more for the next."""
        key = (*self.key, "recycled")
        recycled = self.session.kept(key, lambda: (Recycled(), 0))
        solution = method.solve(operator, _number(self.damping), rhs, progress, recycled=recycled)
        self.session.resize(key, recycled.nbytes)
        return solution

    def _fit(
        self, method: Method, curvature: Callable[[], Curvature], progress: Progress
    ) -> Inverse | None:
        """The fit for this λ, with what the method's other parameters ask of it; None where it has none."""
        if self.name is None or not self.inversion.has_fit:
            return None
        key = (*self.key, self.name)
        fit = self._whole(method, curvature, progress)
        asked = self.inversion.model_dump_json(include=set(self.inversion.solve_only))
        if method.lacks(fit):
            whole = fit
            fit = self.session.kept(
                (*key, "completed", asked), lambda: _sized(method.completed(whole))
            )
        fit = method.completed(fit)
        if self.inversion.fit_is_damped and self.damping == self._of_fit:
            return fit
        if not fit.takes_any_damping:
            return replace(self, fitted_with=None)._fit(method, curvature, progress)
        if isinstance(fit, ClosedForm):
            asked_for = self.damping
            return fit.damped(asked_for.of(fit) if isinstance(asked_for, PartOfMean) else asked_for)
        damping = _number(self.damping)
        if fit.is_cheaply_damped:
            return fit.damped(damping)
        # Another λ needs no pass over the data, but work that is worth keeping.
        before = fit
        return self.session.kept(
            (*key, "damped", asked, str(self.damping)),
            lambda: _sized(before.damped(damping), beside=before),
        )

    def _whole(
        self, method: Method, curvature: Callable[[], Curvature], progress: Progress
    ) -> Inverse:
        """The fit as it is stored."""

        def made() -> Inverse:
            found = method.fit(curvature(), _number(self._of_fit), progress)
            assert found is not None
            return found

        name = self.name
        assert name is not None
        if name == CLOSED_FORM:
            return self.closed_form(lambda: _known(curvature()))
        return self.session.kept((*self.key, name), lambda: _sized(self._found(name, made)))

    def _found(self, name: str, fit: Callable[[], Inverse]) -> Inverse:
        found = self.store.find(name) if self.store is not None else None
        if found is not None:
            return restored(found)
        tensors = stored(fit())
        if self.store is not None and not self.store.put(name, tensors):
            # Another was there first, and all blocks are computed with one.
            tensors = self.store.find(name) or tensors
        # As whoever takes it from the store will have it: the layout in memory decides the last bits, too.
        return restored(tensors)


def _known(curvature: Curvature) -> ClosedForm:
    found = curvature.closed_form()
    assert found is not None
    return found


def _number(damping: float | PartOfMean) -> float:
    """λ for a method that is given its fit, which has those of the blocks: nothing is computed with this then."""
    return 0.0 if isinstance(damping, PartOfMean) else damping


def _sized(fitted: Inverse, beside: Inverse | None = None) -> tuple[Inverse, int]:
    """With its bytes; none where it is one that is kept already."""
    return fitted, 0 if fitted is beside else fitted.nbytes
