"""The command: one part, or all of them one after another."""

from __future__ import annotations

import sys

from benchmarks.load import fairness, polling, questions, queue, uploads

PARTS = {
    "polling": polling.main,
    "questions": questions.main,
    "queue": queue.main,
    "uploads": uploads.main,
    "fairness": fairness.main,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
