"""Where what was made once is kept: folders beside this package that git does not see."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / "benchmarks" / ".environments"
CACHE = ROOT / "benchmarks" / ".cache"


def ignored(folder: Path) -> Path:
    """The folder, made if need be, with a note inside that keeps git out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return folder
