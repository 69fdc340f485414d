"""What the contract says of each inversion method is what the engine does; and nobody else knows a method by name."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.engine.exact import relative
from tests.engine.matrices import Symmetric, decaying
from tests.methods import METHODS, Row
from upweight.schema.inversion import METHODS as SCHEMAS
from upweight.schema.inversion import ConjugateGradient
from upweight.schema.method import InversionMethod
from workers import engine
from workers.engine import BadParameter, Inverse, Method, Solution, restored, stored
from workers.engine.inversion import cg
from workers.fits.fits import engine_method

SIZE, DAMPING = 24, 0.05
ROOT = Path(__file__).parent.parent
every_row = pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
fitted_rows = pytest.mark.parametrize(
    "row", [row for row in METHODS.values() if row.schema().has_fit], ids=lambda row: row.name
)


def curvature() -> Symmetric:
    return Symmetric(decaying(SIZE, 1e-3).expand(100, SIZE, SIZE))


def rhs() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, SIZE, generator=generator, dtype=torch.float64)


def method_of(row: Row, **parameters: Any) -> Method:
    return engine_method(row.schema(**parameters), seed=0)


def fit_of(row: Row, damping: float = DAMPING, **parameters: Any) -> Inverse:
    found = method_of(row, **parameters).fit(curvature(), damping)
    assert found is not None
    return found


def solved(method: Method, damping: float = DAMPING, fit: Inverse | None = None) -> Solution:
    return method.solve(curvature(), damping, rhs(), fit=fit)


def test_the_table_has_every_method_of_the_contract() -> None:
    assert list(METHODS) == list(SCHEMAS)


@every_row
def test_the_engine_takes_the_contracts_fields_by_their_names(row: Row) -> None:
    taken = {each.name for each in fields(engine.METHODS[row.name])}
    given = set(row.schema.model_fields) - {"method"}
    assert given <= taken
    assert taken - given <= {"seed", "recurrence"}  # the job's, and the engine's own


@every_row
def test_with_all_its_directions_it_is_the_inverse(row: Row) -> None:
    solution = solved(method_of(row, **row.full(SIZE, True)))
    damped = decaying(SIZE, 1e-3) + DAMPING * torch.eye(SIZE, dtype=torch.float64)
    assert relative(solution.x, torch.linalg.solve(damped, rhs().T).T) < 1e-7
    assert set(solution.status) == {engine.Status.CONVERGED}
    assert solution.rowwise == row.rowwise
    assert solution.arrays.keys() >= row.arrays.keys()
    assert solution.summary.keys() >= row.summary


@every_row
def test_it_has_a_fit_where_the_contract_says_so(row: Row) -> None:
    fit = method_of(row).fit(curvature(), DAMPING)
    assert (fit is not None) == row.schema().has_fit


@every_row
def test_where_lambda_is_divided_by_it_must_be_positive(row: Row) -> None:
    if row.schema(**row.quick).needs_damping:
        with pytest.raises(BadParameter, match="hessian_regularization"):
            solved(method_of(row, **row.quick), damping=0.0)


@every_row
def test_more_directions_than_there_are_mean_all_of_them(row: Row) -> None:
    name = row.schema.rank_field
    if name is not None:
        found = solved(method_of(row, **{name: 2 * SIZE}))
        exact = solved(method_of(METHODS["direct"]))
        assert relative(found.x, exact.x) < 1e-6


@fitted_rows
def test_a_fit_that_is_stored_comes_back_as_it_was(row: Row) -> None:
    fit = fit_of(row)
    again = restored({name: each.clone() for name, each in stored(fit).items()})
    assert type(again) is type(fit)
    assert torch.equal(again.apply(rhs()), fit.apply(rhs()))


@fitted_rows
def test_solve_only_fields_and_no_others_may_be_changed_on_a_fit(row: Row) -> None:
    """The fit is named by all the others: one that is solve-only and should not be gave wrong numbers."""
    fit, quick = fit_of(row, **row.quick), dict(row.quick)
    assert row.schema.solve_only <= set(row.schema.model_fields)
    for name in row.schema.solve_only:
        before = getattr(row.schema(**quick), name)
        for value in others(row.schema, name, before):
            other = method_of(row, **{**quick, name: value})
            found = solved(other, fit=other.completed(fit))
            expected = solved(other)
            assert torch.equal(found.x, expected.x)
            assert found.arrays.keys() == expected.arrays.keys()


def others(schema: type[InversionMethod], name: str, value: Any) -> list[Any]:
    """Other values of a field of few."""
    if isinstance(value, bool):
        return [not value]
    choices = get_args(schema.model_fields[name].annotation)
    return [each for each in choices if each != value]


@fitted_rows
def test_a_fit_that_is_of_no_lambda_serves_another(row: Row) -> None:
    if not row.schema().fit_is_damped:
        full = row.full(SIZE, True)
        again = fit_of(row, 10 * DAMPING, **full).damped(DAMPING)
        method = method_of(row, **full)
        assert relative(solved(method, fit=again).x, solved(method).x) < 1e-9


@fitted_rows
def test_a_fit_that_is_not_random_is_the_same_for_every_seed(row: Row) -> None:
    if not row.schema().fit_is_random:
        assert "seed" not in {each.name for each in fields(engine.METHODS[row.name])}


@fitted_rows
def test_every_fit_preconditions_conjugate_gradients(row: Row) -> None:
    alone = solved(method_of(METHODS["cg"], rtol=1e-8))
    inner = row.inversion(row.quick)
    helped = solved(method_of(METHODS["cg"], rtol=1e-8, preconditioner=inner))
    assert bool(helped.converged.all())
    assert relative(helped.x, alone.x) < 1e-5
    assert int(helped.info["iterations"].max()) < int(alone.info["iterations"].max())


def test_the_contract_expects_as_many_products_as_the_engine() -> None:
    assert ConjugateGradient.FIRST_PRODUCTS == cg.FIRST_PRODUCTS
    assert ConjugateGradient.SHARING == cg.SHARING


# Who may know a method by name: its own files, and examples and a default for people.
OWN = ("upweight/schema/inversion.py", "upweight/schema/__init__.py", "workers/engine/inversion/")


def python_sources() -> list[Path]:
    packages = ("upweight", "service", "workers")
    found = [each for name in packages for each in (ROOT / name).rglob("*.py")]
    return [each for each in found if not str(each.relative_to(ROOT)).startswith(OWN)]


def decisions(tree: ast.AST) -> list[ast.AST]:
    """What branches on a name: comparisons, patterns, the classes of `isinstance`, the keys of tables."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue | ast.MatchClass):
            found.append(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            found.extend(node.args[1:])
        elif isinstance(node, ast.Dict):
            found.extend(key for key in node.keys if key is not None)
    return found


def names_in(node: ast.AST) -> set[str]:
    """The strings and the last parts of names in an expression."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            found.add(each.value)
        elif isinstance(each, ast.Name):
            found.add(each.id)
        elif isinstance(each, ast.Attribute):
            found.add(each.attr)
    return found


def test_nobody_but_a_methods_own_files_asks_for_it_by_name_or_class() -> None:
    classes = {each.__name__ for each in (*SCHEMAS.values(), *engine.METHODS.values())}
    known = classes | set(SCHEMAS)
    asking = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {sorted(names_in(node) & known)}"
        for path in python_sources()
        if path.name != "examples.py"
        for node in decisions(ast.parse(path.read_text()))
        if names_in(node) & known
    ]
    assert asking == []


def test_the_explorer_learns_of_methods_from_the_contract_alone() -> None:
    words = set(SCHEMAS) | {each.label for each in SCHEMAS.values()}
    quoted = re.compile(
        "|".join(rf"""["'`]{re.escape(word)}["'`]|\b{re.escape(word)}:""" for word in words)
    )
    found = [
        f"{path.relative_to(ROOT)}: {hit.group()}"
        for path in (ROOT / "service/explorer/static").rglob("*.js")
        for hit in quoted.finditer(path.read_text())
    ]
    assert found == []
