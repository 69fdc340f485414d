"""`python -m service.doctor`: what is wrong with the set-up of this machine, a JSON document a finding."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from service.doctor.checks import redis, settings, storage, workers
from service.local.guard import lives
from service.local.plan import DEFAULT_DATA, Plan
from service.local.state import State
from upweight.errors import UpweightError
from upweight.schema.finding import Finding, fail, ok


def main(arguments: list[str]) -> int:
    """Prints the findings. `arguments`: the data folder, for a service that runs on this machine alone."""
    data = Path(arguments[0]) if arguments else DEFAULT_DATA
    for finding in diagnose(Plan(data)):
        sys.stdout.write(f"{finding.model_dump_json()}\n")
    return 0


def diagnose(plan: Plan) -> list[Finding]:
    """Everything, as far as each allows to look at the next."""
    found = _local(plan)
    chosen, about = settings(os.environ)
    found += about
    if chosen is None or any(finding.state == "fail" for finding in found):
        return found
    client, about = redis(chosen.redis_url)
    found += about + storage(chosen)
    if client is not None:
        try:
            found += workers(client, chosen.device)
        except UpweightError as error:
            found.append(fail("workers", error.detail))
    return found


def _local(plan: Plan) -> list[Finding]:
    """The service of a folder, whose addresses are then those to look at; nothing where addresses are set."""
    if os.environ.get("UPWEIGHT_REDIS_URL") or os.environ.get("REDIS_URL"):
        return []
    try:
        state = State.read(plan.data)
    except FileNotFoundError:
        state = None
    if state is None or not lives(state.pid):
        return [
            fail(
                "service",
                f"none runs on {plan.data}, and UPWEIGHT_REDIS_URL names no other; start one: upweight serve",
            )
        ]
    os.environ["UPWEIGHT_REDIS_URL"] = state.redis_url
    os.environ.setdefault("UPWEIGHT_STORAGE", state.storage)
    words = "is ready" if state.ready else "is starting, or has lost a part"
    return [ok("service", f"{state.url} {words}, with its data in {plan.data}")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
