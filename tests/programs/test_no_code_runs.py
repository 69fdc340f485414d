"""Every way in which `torch.export.load` executes an archive leaves no mark when we read it.

Where a control is cheap, torch itself loads the same archive in another process and the mark
appears: so these tests can fail.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs.tampering import (
    CONSTANTS,
    GRAPH,
    SAMPLES,
    WEIGHTS,
    edit,
    with_member,
)
from workers.programs.errors import (
    ArchiveInvalid,
    GraphInvalid,
    WeightsInvalid,
)
from workers.programs.pt2 import read_pt2

ArchiveOf = Callable[[str], Path]
Runs = Callable[[Path], bool]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file which exists if the archive's code ran."""
    return tmp_path / "ran"


class Payload:
    """A pickle which makes the mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


_LOADER = """
import sys, torch
for line in sys.stdin:
    try:
        exported = torch.export.load(line.strip())
        exported.module()(*exported.example_inputs[0])
    except Exception:
        pass
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def loader() -> Iterator[subprocess.Popen[str]]:
    """Another process, in which torch's own loader opens the archives that it is told."""
    with subprocess.Popen(
        [sys.executable, "-c", _LOADER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process


@pytest.fixture
def torch_runs(loader: subprocess.Popen[str], mark: Path) -> Callable[[Path], bool]:
    """Whether torch's own loader makes the mark; the mark is removed again."""

    def runs(archive: Path) -> bool:
        assert loader.stdin is not None
        assert loader.stdout is not None
        print(archive, file=loader.stdin, flush=True)
        assert loader.stdout.readline() == "done\n"
        ran = mark.exists()
        mark.unlink(missing_ok=True)
        return ran

    return runs


def test_pickled_sample_inputs_are_skipped(
    mlp: Path, tmp_path: Path, mark: Path, torch_runs: Runs
) -> None:
    bad = with_member(mlp, tmp_path / "bad.pt2", SAMPLES, pickle.dumps(Payload(mark)))
    assert torch_runs(bad)
    assert read_pt2(bad).parameters
    assert not mark.exists()


def test_guards_are_never_compiled(mlp: Path, tmp_path: Path, mark: Path, torch_runs: Runs) -> None:
    guard = f"__import__('pathlib').Path({str(mark)!r}).touch() or True"
    bad = edit(mlp, tmp_path / "bad.pt2", GRAPH, lambda d: d["guards_code"].append(guard))
    assert torch_runs(bad)
    assert read_pt2(bad).parameters
    assert not mark.exists()


def test_symbolic_expressions_are_never_evaluated(
    archive_of: ArchiveOf, tmp_path: Path, mark: Path, torch_runs: Runs
) -> None:
    text = f"__import__('pathlib').Path({str(mark)!r}).touch() or 4"

    def change(document: dict[str, Any]) -> None:
        sizes = document["graph_module"]["graph"]["sym_int_values"]
        next(iter(sizes.values()))["as_expr"]["expr_str"] = text

    bad = edit(archive_of("attention"), tmp_path / "bad.pt2", GRAPH, change)
    assert torch_runs(bad)
    with pytest.raises(GraphInvalid, match="symbolic size"):
        read_pt2(bad)
    assert not mark.exists()


def test_expressions_of_tensor_shapes_are_never_evaluated(
    mlp: Path, tmp_path: Path, mark: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        for meta in document["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"open({str(mark)!r}, 'w')"

    bad = edit(mlp, tmp_path / "bad.pt2", GRAPH, change)
    with pytest.raises(GraphInvalid):
        read_pt2(bad)
    assert not mark.exists()


def test_range_names_are_never_evaluated(mlp: Path, tmp_path: Path, mark: Path) -> None:
    key = f"open({str(mark)!r}, 'w')"
    bad = edit(
        mlp,
        tmp_path / "bad.pt2",
        GRAPH,
        lambda d: d["range_constraints"].update({key: {"min_val": 0, "max_val": 9}}),
    )
    assert read_pt2(bad).batch_maximum is None
    assert not mark.exists()


@pytest.mark.parametrize("config", [WEIGHTS, CONSTANTS])
def test_pickled_weights_are_refused(
    config: str, archive_of: ArchiveOf, tmp_path: Path, mark: Path, torch_runs: Runs
) -> None:
    place = config.rpartition("/")[0]
    pickled: list[str] = []

    def change(document: dict[str, Any]) -> None:
        # The last is tied to none: torch would trip over the twin before it opens the pickle.
        payload = list(document["config"].values())[-1]
        payload["use_pickle"] = True
        pickled.append(f"{place}/{payload['path_name']}")

    flagged = edit(archive_of("attention"), tmp_path / "flagged.pt2", config, change)
    bad = with_member(flagged, tmp_path / "bad.pt2", pickled[0], pickle.dumps(Payload(mark)))
    assert torch_runs(bad)
    with pytest.raises(WeightsInvalid, match="pickled"):
        read_pt2(bad)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["opaque_obj_0", "custom_obj_0"])
def test_pickled_objects_are_refused(
    kind: str, archive_of: ArchiveOf, tmp_path: Path, mark: Path, torch_runs: Runs
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["config"]["thing"] = {
            "path_name": kind,
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    listed = edit(archive_of("attention"), tmp_path / "listed.pt2", CONSTANTS, change)
    with pytest.raises(WeightsInvalid):
        read_pt2(listed)
    member = f"data/constants/{kind}"
    bad = with_member(listed, tmp_path / "bad.pt2", member, pickle.dumps(Payload(mark)))
    assert kind == "custom_obj_0" or torch_runs(bad)
    with pytest.raises(ArchiveInvalid, match="tensors only"):
        read_pt2(bad)
    assert not mark.exists()


def test_an_object_is_refused_even_without_the_pickle_flag(
    archive_of: ArchiveOf, tmp_path: Path, mark: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        next(iter(document["config"].values()))["path_name"] = "opaque_obj_0"

    bad = edit(archive_of("attention"), tmp_path / "bad.pt2", CONSTANTS, change)
    with pytest.raises(WeightsInvalid, match="tensors only"):
        read_pt2(bad)


@pytest.mark.parametrize(
    "member",
    [
        "data/aotinductor/model/model.so",
        "data/aotinductor/model/model.wrapper.cpp",
        "data/executorch/model.pte",
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/sample_inputs/other.pt",
        "models/other.json",
        "xl_model_weights/0",
        "code/__torch__.py",
        "anything",
    ],
)
def test_members_which_torch_would_load_are_refused(
    member: str, mlp: Path, tmp_path: Path, mark: Path
) -> None:
    content = pickle.dumps(Payload(mark))
    with pytest.raises(ArchiveInvalid):
        read_pt2(with_member(mlp, tmp_path / "bad.pt2", member, content))
    assert not mark.exists()


def test_extra_files_are_left_alone(mlp: Path, tmp_path: Path, mark: Path) -> None:
    content = pickle.dumps(Payload(mark))
    assert read_pt2(with_member(mlp, tmp_path / "m.pt2", "extra/notes.pkl", content)).parameters
    assert not mark.exists()
