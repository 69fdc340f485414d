"""Tells what is due: a thread of the front end with an event loop of its own, so that neither requests nor jobs wait.

Any number of front ends share the work. What one of them had in hand when it died is due again when its claim ends.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

from service.logs import log, log_exception
from service.webhooks.outbox import Claim, Outbox
from service.webhooks.secrets import WebhookSecrets
from service.webhooks.sender import Outcome, Sender
from upweight.errors import UpweightError

_PAUSE_SECONDS = 0.25
_AT_ONCE = 16
_AT_ONCE_A_NAMESPACE = 4  # a receiver that never answers delays its own namespace alone
_CLAIM_MARGIN = 5.0
_LONGEST_PAUSE, _GROWTH = 4 * 3600.0, 4.0


class Courier:
    """Runs from `start` to `close`."""

    def __init__(
        self,
        outbox: Outbox,
        secrets: WebhookSecrets,
        sender: Sender,
        *,
        tries: int,
        pause: float,
        seconds: float,
    ) -> None:
        self._outbox, self._secrets, self._sender = outbox, secrets, sender
        self._tries, self._pause = tries, pause
        self._claim_seconds = seconds + _CLAIM_MARGIN
        self._at_work: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._work()), name="webhooks", daemon=True
        )

    def start(self) -> None:
        """Begins to look for what is due."""
        self._thread.start()

    def close(self) -> None:
        """Begins nothing new, gives up what is under way: it is due again later."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    async def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                for namespace in await asyncio.to_thread(self._outbox.namespaces):
                    await self._begin(namespace)
            except UpweightError:
                await asyncio.sleep(1.0)  # Redis is away
            except Exception:
                log_exception("webhooks-failed")
                await asyncio.sleep(1.0)
            await asyncio.sleep(_PAUSE_SECONDS)
        for task in self._tasks:
            task.cancel()

    async def _begin(self, namespace: str) -> None:
        room = min(
            _AT_ONCE - self._at_work.total(), _AT_ONCE_A_NAMESPACE - self._at_work[namespace]
        )
        if room <= 0:
            return
        for claim in await asyncio.to_thread(
            self._outbox.claim, namespace, room, self._claim_seconds
        ):
            self._at_work[namespace] += 1
            task = asyncio.create_task(self._deliver(claim))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, claim: Claim) -> None:
        try:
            secrets = await asyncio.to_thread(self._secrets.of, claim.namespace)
            delivery = claim.delivery
            body = delivery["body"].encode()
            outcome = await self._sender.send(delivery["url"], claim.id, body, secrets)
            await asyncio.to_thread(self._note, claim, outcome)
        except UpweightError as error:  # Redis is away: it is tried again when the claim ends
            log("webhook-not-noted", level="warning", delivery=claim.id, detail=error.detail)
        except Exception:
            log_exception("webhook-failed", delivery=claim.id)
        finally:
            self._at_work[claim.namespace] -= 1

    def _note(self, claim: Claim, outcome: Outcome) -> None:
        tries = int(claim.delivery["tries"]) + 1
        ended = outcome.delivered or outcome.final or tries >= self._tries
        pause = None if ended else max(pause_after(tries, self._pause), outcome.retry_after)
        now = datetime.now(UTC)
        changes = {
            "tries": tries,
            "state": "delivered" if outcome.delivered else "failed" if ended else "pending",
            "last_try_at": now.isoformat(),
            "next_try_at": None if pause is None else (now + timedelta(seconds=pause)).isoformat(),
            "last_status": outcome.status,
            "last_error": outcome.error,
        }
        if ended:
            changes["body"] = None  # it is not sent again
        self._outbox.note(claim, changes, pause)
        log(
            "webhook",
            level="info" if outcome.delivered else "warning",
            delivery=claim.id,
            job=claim.job_id,
            namespace=claim.namespace,
            tries=tries,
            status=outcome.status,
            state=changes["state"],
        )


def pause_after(tries: int, first: float) -> float:
    """Seconds until the next try: 5 s, 20 s, 80 s … 4 h, up to a fifth longer, so that they spread."""
    return min(_LONGEST_PAUSE, first * _GROWTH ** (tries - 1)) * random.uniform(1.0, 1.2)
