"""Makes the pictures of `explorer.md` and of the README from the screenshots that the browser's tests leave.

make test ARGS="tests/browser/test_explorer_layouts.py tests/browser/test_explorer_quality.py ..." JOBS=1
python docs/images/explorer.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SHOTS = HERE.parent.parent / "build" / "screenshots"
SIZE = (930, 645)  # of screenshots of 1440 × 1000
VIEWS = {
    "jobs": "jobs",
    "dataset": "images-rows",
    "test": "tables-test",
    "images": "images-test",
    "cleaning": "images-cleaning",
    "perturbation": "texts-perturbation",
    "inversion": "inversion",
    "dampings": "dampings",
    "groups": "groups",
    "sets": "sets",
    "quality": "quality",
    "retraining": "retraining",
    "comparison": "comparison",
    "compare": "compare",
    "new": "new-with-estimate",
    "failed": "failed",
}


def main() -> None:
    """Writes each picture beside this file. Ends with 1 where a screenshot is missing."""
    missing = [name for name in VIEWS.values() if not (SHOTS / f"{name}-1440.png").is_file()]
    if missing:
        sys.exit(f"no screenshot of {', '.join(missing)} in {SHOTS}: run tests/browser first")
    for name, shot in VIEWS.items():
        with Image.open(SHOTS / f"{shot}-1440.png") as picture:
            small = picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        small.save(HERE / f"explorer-{name}.webp", quality=82, method=6)


if __name__ == "__main__":
    main()
