"""`make audit` with a file of advisories: what it finds, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
LOCK = "# pinned\nJinja2==3.1.6\nrich==15.0.0; sys_platform == 'linux'\nzarr==3.1.6\n"


def advisory(name: str, events: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    return {
        "id": f"PYSEC-{name}",
        "modified": (datetime.now(UTC) - timedelta(days=3)).isoformat().replace("+00:00", "Z"),
        "summary": "something",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": name},
                "ranges": [{"type": "ECOSYSTEM", "events": events}],
            }
        ],
        **more,
    }


def audited(folder: Path, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "lock").write_text(LOCK)
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), "--lock", str(folder / "lock")]
    return subprocess.run(
        [*command, "--advisories", str(file), *options], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("name", "events", "found"),
    [
        ("jinja2", [{"introduced": "0"}], True),
        ("jinja2", [{"introduced": "0"}, {"fixed": "3.1.7"}], True),
        ("jinja2", [{"introduced": "0"}, {"fixed": "3.1.6"}], False),
        ("Rich", [{"introduced": "14"}, {"last_affected": "15.0.0"}], True),
        ("rich", [{"introduced": "14"}, {"last_affected": "14.9"}], False),
        ("zarr", [{"introduced": "0"}, {"fixed": "2"}, {"introduced": "3.1"}], True),
        ("zarr", [{"fixed": "3.2"}, {"introduced": "3.1.7"}], False),
        ("flask", [{"introduced": "0"}], False),
    ],
)
def test_a_version_within_a_range_is_named(
    tmp_path: Path, name: str, events: list[dict[str, str]], found: bool
) -> None:
    file = tmp_path / "all.json"
    file.write_text(json.dumps([advisory(name, events), advisory("other", [{"introduced": "0"}])]))
    ended = audited(tmp_path, file)
    assert ended.returncode == int(found), ended.stderr
    assert (f"PYSEC-{name} something" in ended.stdout) is found
    assert "2 advisories, the newest of 2" in ended.stdout


def test_listed_versions_count_and_withdrawn_advisories_do_not(tmp_path: Path) -> None:
    listed = advisory("zarr", [])
    listed["affected"][0]["versions"] = ["3.1.5", "3.1.6", "not-a-version"]
    gone = advisory("rich", [{"introduced": "0"}], withdrawn="2026-01-01T00:00:00Z")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.json", json.dumps(listed))
        archive.writestr("b.json", json.dumps(gone))
    ended = audited(tmp_path, tmp_path / "all.zip")
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1] == "1 known vulnerabilities in what lock pins"


def test_a_file_that_is_old_or_none_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    file.write_text(json.dumps(advisory("flask", [], modified="2020-01-01T00:00:00Z")))
    old = audited(tmp_path, file)
    assert old.returncode == 2
    assert "days old, more than 30" in old.stderr
    assert "osv-vulnerabilities" in old.stderr
    for content in ("[]", "{", '{"id": 1}'):
        file.write_text(content)
        ended = audited(tmp_path, file)
        assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
        assert "no file of OSV advisories" in ended.stderr
