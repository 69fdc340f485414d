"""Modules import each other without circles, late imports included.

import-linter compares the children of each package (pyproject.toml says which imports are still to be turned round). A
package's own file and its modules may form a circle that it does not look for: so modules are compared here.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest


def imports_of(*packages: str) -> dict[str, set[str]]:
    """What each module imports, also within functions, but not where only types are checked."""
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=True, cache_dir=None)
    return {each: set(_imported(graph, each)) for each in graph.modules}


def _imported(graph: grimp.ImportGraph, module: str) -> Iterator[str]:
    for name in graph.find_modules_directly_imported_by(module):
        yield name
        package = name.rpartition(".")[0]
        # `from package import module` is an import of both.
        for each in graph.get_import_details(importer=module, imported=name):
            if each["line_contents"].startswith(f"from {package} import") and package != module:
                yield package


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the one before it, the first and the last the same; [] if there are none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as found:
        circle: list[str] = found.args[1]
        return circle
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle_in(imports_of("upweight", "service", "workers")) == []


@pytest.mark.parametrize(
    ("name", "imported_by_b", "circle"),
    [
        ("at_the_top", "from {name}.a import ONE", True),
        ("within_a_function", "def late():\n    from {name}.a import ONE", True),
        ("of_a_package", "from {name} import c", True),
        (
            "for_types",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {name}.a",
            False,
        ),
        ("none", "from {name}.c import ONE", False),
    ],
)
def test_a_circle_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, imported_by_b: str, circle: bool
) -> None:
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text(f"from {name}.a import ONE\n")
    (package / "a.py").write_text(f"from {name}.b import TWO\nONE = 1\n")
    (package / "b.py").write_text(imported_by_b.format(name=name) + "\nTWO = 2\n")
    (package / "c.py").write_text("ONE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert bool(circle_in(imports_of(name))) is circle
