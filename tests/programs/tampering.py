"""Archives changed by hand, as an attacker would change them."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"

Members = dict[str, bytes]


def members_of(archive: Path) -> Members:
    """The archive's members, without their top folder."""
    with zipfile.ZipFile(archive) as zipped:
        return {name.partition("/")[2]: zipped.read(name) for name in zipped.namelist()}


def write(path: Path, members: Members, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive of these members."""
    with zipfile.ZipFile(path, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(f"model/{name}", content)
    return path


def edit(source: Path, target: Path, member: str, change: Callable[[Any], None]) -> Path:
    """A copy in which `change` was applied to one member's JSON."""
    members = members_of(source)
    document = json.loads(members[member])
    change(document)
    members[member] = json.dumps(document).encode()
    return write(target, members)


def with_member(source: Path, target: Path, name: str, content: bytes) -> Path:
    """A copy with one member added or replaced."""
    return write(target, {**members_of(source), name: content})


def first_node(document: dict[str, Any], target: str) -> dict[str, Any]:
    """The first node with this target."""
    nodes = document["graph_module"]["graph"]["nodes"]
    return next(node for node in nodes if node["target"] == target)
