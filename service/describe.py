"""`python -m service.describe`: prints the OpenAPI document as it is committed, sorted: a difference is a change."""

from __future__ import annotations

import json
import sys

from service.app import create_app
from service.openapi import document
from service.settings import Settings

if __name__ == "__main__":
    app = create_app(Settings())
    sys.stdout.write(json.dumps(document(app), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
