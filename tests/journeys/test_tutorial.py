"""The tutorial's code, as it stands in the documentation, finds what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from service.local.background import Running

PAGE = Path(__file__).parent.parent.parent / "docs" / "tutorial.md"


def test_the_tutorial_finds_the_flipped_labels(
    stack: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # where its pictures and tables go
    monkeypatch.setenv("UPWEIGHT_URL", stack.url)
    monkeypatch.delenv("UPWEIGHT_API_KEY", raising=False)
    code = "\n".join(
        re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    )
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    found = re.search(r"(\d+) of 70 flipped labels", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) > 45
    assert names["factors"].x.shape == (397, 2410)
    names["client"].close()
