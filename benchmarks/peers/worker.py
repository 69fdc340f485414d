"""The process that one library runs one case in: `python -m benchmarks.peers.worker SPEC OUT`.

Imports and data first, then the calls: the first is cold, those that follow are warm. What is
measured goes to OUT.json, the last answer to OUT.npz.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.cases import CASES
from benchmarks.peers.contenders import Answer, Contender, Work, contender
from benchmarks.peers.memory import PeakMemory
from benchmarks.peers.problem import load
from benchmarks.peers.spec import Spec


def main() -> None:
    """Do what the file named first says."""
    spec = Spec.read(Path(sys.argv[1]))
    out = Path(sys.argv[2])
    torch.set_num_threads(spec.threads)
    limit = int(spec.memory_limit * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    case = CASES[spec.case]
    contestant = case.contestants[spec.contestant]
    measure = contender(contestant.library)
    trained = load(case.model, spec.problem)
    work = Work(case, contestant, trained, spec.scale)
    measured, answer = _measured(measure, work, contestant.calls, spec.seconds)
    arrays = {"influence": answer.influence.detach().numpy()}
    if answer.factors is not None:
        arrays["factors"] = answer.factors.detach().numpy()
    np.savez(out.with_suffix(".npz"), **arrays)
    out.with_suffix(".json").write_text(json.dumps(measured))


def _measured(
    measure: Contender, work: Work, calls: int, limit: float
) -> tuple[dict[str, object], Answer]:
    """As many calls as fit: the first with the first block of test rows, the last with the second,
    those between with others."""
    seconds: list[float] = []
    block = 0
    with PeakMemory() as memory:
        while True:
            begun = time.perf_counter()
            answer = measure(replace(work, block=block))
            seconds.append(time.perf_counter() - begun)
            left = min(calls - len(seconds), int((limit - sum(seconds)) / seconds[-1]))
            if left < 1:
                break
            block = left
    return {
        "seconds": seconds,
        "block": block,
        "peak_bytes": memory.peak,
        "products": answer.products,
        "notes": answer.notes,
    }, answer


if __name__ == "__main__":
    main()
