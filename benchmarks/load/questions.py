"""Questions to an index while others ask, too: `python -m benchmarks.load questions`.

100,000 training rows with 2,378 numbers each, of a network of three layers; 20 questions a second by ten clients, one
row a question, 200 candidates scored by their whole gradients, one worker. wrk measures, as a client sees it.
Then processor time of each process for a question, which other load moves little; and many connections that ask at
once: every question is answered, or refused in words.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import httpx2
import numpy as np
import torch
from torch import nn

from benchmarks.figures import told
from benchmarks.load.wrk import asked, require_wrk
from service.local.background import Running, running
from upweight import Client

ROWS, FEATURES, CLASSES, CLIENTS, SECONDS, RUNS = 100_000, 64, 10, 10, 15, 3
AT_ONCE, ASKED_BY_EACH = (8, 32), 10
JSON = {"Content-Type": "application/json"}
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local rows = {%s}
local next = 0
function request()
  next = next + 1
  return wrk.format(nil, nil, nil, rows[(next %% #rows) + 1])
end
-- Ten connections that each ask twice a second.
function delay()
  return math.random(300, 700)
end
"""


def main() -> None:
    """Prints the figures."""
    require_wrk()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, CLASSES)
    )
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLASSES, FEATURES))
    y = generator.integers(0, CLASSES, ROWS)
    x = (centres[y] + generator.normal(size=(ROWS, FEATURES))).astype("f4")
    _train(net, torch.from_numpy(x[:5_000]), torch.from_numpy(y[:5_000]))
    with (
        tempfile.TemporaryDirectory(prefix="upweight-questions-") as folder,
        running(Path(folder), environment={"UPWEIGHT_THREADS": "1"}) as service,
        Client(service.url) as client,
    ):
        model = client.models.register("asked", net.eval(), example=x[:2], loss="cross_entropy")
        data = client.datasets.register("asked", x=x, y=y)
        began = time.monotonic()
        index = client.indexes.create("asked", model, data, 1024).wait()
        seconds = time.monotonic() - began
        index.query(x=x[0], y=int(y[0]), k=20, candidates=200)
        questions = [_body(x[row], int(y[row])) for row in generator.integers(0, ROWS, 200)]
        script = Path(folder) / "ask.lua"
        script.write_text(SCRIPT % ", ".join(f"[==[{each}]==]" for each in questions))
        address = f"{service.url}/v1/indexes/{index.id}/query"
        load = {"threads": 1, "clients": CLIENTS, "seconds": SECONDS}
        found = [asked(address, "-s", str(script), **load) for _ in range(RUNS)]
        _processors(service, address, questions)
        for connections in AT_ONCE:
            _at_once(address, questions, connections)
    known = index.job.info["index"] if index.job.info else {}
    told(
        f"index of {ROWS:,} rows x {known['numbers']:,} numbers: built", [ROWS / seconds], "rows/s"
    )
    told("recall at 20 after candidates are scored", [known["recall_after_rerank"]], "")
    told("questions: p50", [each[0] for each in found], "ms", "below 60")
    told("questions: p99", [each[1] for each in found], "ms", "below 250")
    told("questions", [each[2] for each in found], "/s", "20")


def _processors(service: Running, address: str, questions: Sequence[str]) -> None:
    """Of one question after another."""
    names = ("front", "worker-1", "redis")
    before = {name: _seconds(service.pid(name)) for name in names}
    with httpx2.Client(timeout=60, trust_env=False) as http:
        for body in questions:
            http.post(address, content=body, headers=JSON).raise_for_status()
    for name in names:
        spent = (_seconds(service.pid(name)) - before[name]) / len(questions)
        told(f"processor time of a question: {name}", [1000 * spent], "ms")


def _seconds(process: int) -> float:
    """Processor time of a process and its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _at_once(address: str, questions: Sequence[str], connections: int) -> None:
    """Each asks ten times, as fast as it is answered."""
    times: list[float] = []
    refused: Counter[str] = Counter()

    def ask(first: int) -> None:
        with httpx2.Client(timeout=60, trust_env=False) as http:
            for at in range(first, first + ASKED_BY_EACH):
                began = time.monotonic()
                answer = http.post(address, content=questions[at % len(questions)], headers=JSON)
                if answer.is_success:
                    times.append(1000 * (time.monotonic() - began))
                else:
                    refused[f"{answer.status_code}: {answer.json()['detail']}"] += 1

    asking = [Thread(target=ask, args=(ASKED_BY_EACH * each,)) for each in range(connections)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    lost = connections * ASKED_BY_EACH - len(times) - refused.total()
    middle = sorted(times)[len(times) // 2]
    told(f"{connections} connections at once: p50", [middle], "ms")
    told(f"{connections} connections at once: longest", [max(times)], "ms")
    told(f"{connections} connections at once: lost", [lost], "", "0")
    for words, count in refused.items():
        print(f"  {count} refused with {words}")


def _train(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def _body(x: np.ndarray, y: int) -> str:
    numbers = ", ".join(f"{each:.4f}" for each in x)
    return f'{{"columns": {{"x": [[{numbers}]], "y": [{y}]}}, "k": 20, "candidates": 200}}'
