"""Makes the pictures of `explorer.md` and of the README from the screenshots that the browser's tests leave.

UPWEIGHT_SCREENSHOTS=build/screenshots make test ARGS=tests/browser JOBS=1
python docs/images/explorer.py

Where some tests alone have run, the pictures of the others stay as they are.
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
# The README's, which shows the top of it in its own size.
FRONT = "test-examples"
FRONT_SIZE = (1265, 800)  # without the scroll bar


def main() -> None:
    """Writes each picture beside this file. Ends with 1, and names them, where screenshots are missing."""
    missing = []
    for name, shot in VIEWS.items():
        source = SHOTS / f"{shot}-1440.png"
        if not source.is_file():
            missing.append(name)
            continue
        with Image.open(source) as picture:
            small = picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        small.save(HERE / f"explorer-{name}.webp", quality=80, method=6)
    if (SHOTS / f"{FRONT}.png").is_file():
        with Image.open(SHOTS / f"{FRONT}.png") as picture:
            top = picture.convert("RGB").crop((0, 0, *FRONT_SIZE))
        top.quantize(64, dither=Image.Dither.NONE).save(HERE / "explorer.png", optimize=True)
    else:
        missing.append(FRONT)
    if missing:
        sys.exit(f"no screenshots in {SHOTS} for {', '.join(missing)}: these are as they were")


if __name__ == "__main__":
    main()
