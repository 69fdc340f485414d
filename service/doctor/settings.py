"""Whether the environment says what the operator meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from pydantic import ValidationError

from service.settings import Settings
from upweight.diagnosis import Finding, fail, ok, warn

PREFIX = "UPWEIGHT_"
# Read by the SDK, the command, and the tests.
OTHERS = ("UPWEIGHT_URL", "UPWEIGHT_API_KEY", "UPWEIGHT_REQUIRE_BROWSER", "UPWEIGHT_SCREENSHOTS")


def settings(environment: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """The settings if they are valid, and what is wrong with them."""
    findings = unknown(environment)
    try:
        return Settings(), findings or [
            ok("settings", "all UPWEIGHT_ variables are known and valid")
        ]
    except ValidationError as error:
        for wrong in error.errors():
            name = (
                PREFIX + str(wrong["loc"][0]).removeprefix(PREFIX).upper()
                if wrong["loc"]
                else "settings"
            )
            findings.append(fail("settings", f"{name}: {wrong['msg']}; see service/settings.py"))
        return None, findings


def unknown(environment: Mapping[str, str]) -> list[Finding]:
    """Variables that nothing reads: a typo there is a setting that silently keeps its default."""
    known = [*(PREFIX + name.upper() for name in Settings.model_fields), *OTHERS]
    found = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ", and nothing of a like name is"
        found.append(warn("settings", f"{name} is set, and is no setting{meant}"))
    return found
