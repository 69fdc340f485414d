"""Objects in an empty place: a folder, and a bucket of a server that speaks S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.storage.objects import Objects
from tests.s3_server import S3Server


@pytest.fixture
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if getattr(request, "param", "folder") == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return server.objects()
    return Objects(str(tmp_path / "objects"))
