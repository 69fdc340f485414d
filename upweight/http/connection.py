"""Where the service is and how patiently to talk to it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field

import upweight.late.httpx2 as httpx2
from upweight import __version__

DEFAULT_URL = "http://127.0.0.1:8765"
CONNECT_TIMEOUT = 5.0  # seconds
READ_TIMEOUT = 60.0  # seconds without a byte; the service holds a long poll for less
FIRST_DELAY = 0.25  # seconds; doubled for each further try
LONGEST_DELAY = 8.0  # seconds
LONGEST_RETRY_AFTER = 120.0  # seconds; a service that asks for more is not waited for as long
JITTER = 0.25  # of the delay, so that many clients do not come back at the same moment


@dataclass(frozen=True)
class Retries:
    """How often a call is sent again after a loss, and how long is waited before."""

    attempts: int = 4

    def delay(self, attempt: int, retry_after: float | None, chance: float) -> float:
        """Seconds before try `attempt + 1`; `chance` in [0, 1) sets the jitter."""
        if retry_after is not None:
            return min(retry_after, LONGEST_RETRY_AFTER)
        delay = min(FIRST_DELAY * 2.0**attempt, LONGEST_DELAY)
        return delay * (1 + JITTER * (2 * chance - 1))


@dataclass(frozen=True)
class Connection:
    """A service's address, the key to it, timeouts and retries."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout: httpx2.Timeout = field(
        default_factory=lambda: httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
    )
    retries: Retries = field(default_factory=Retries)

    @classmethod
    def of(
        cls,
        url: str | None = None,
        api_key: str | None = None,
        timeout: float | httpx2.Timeout | None = None,
        retries: int = Retries.attempts,
    ) -> Connection:
        """What is not given comes from UPWEIGHT_URL and UPWEIGHT_API_KEY, read now."""
        url = url or os.environ.get("UPWEIGHT_URL") or DEFAULT_URL
        api_key = api_key or os.environ.get("UPWEIGHT_API_KEY") or None
        if not url.startswith(("http://", "https://")):
            raise ValueError(
                f"url must begin with http:// or https://, as in 'http://127.0.0.1:8765'; it is {url!r}"
            )
        if not isinstance(timeout, httpx2.Timeout):
            read = READ_TIMEOUT if timeout is None else timeout
            if isinstance(read, bool) or not isinstance(read, int | float) or not read > 0:
                raise ValueError(
                    f"timeout is seconds without an answer, a number above 0, or an httpx2.Timeout; it is {timeout!r}"
                )
            timeout = httpx2.Timeout(read, connect=min(CONNECT_TIMEOUT, read))
        # As examples with curl have it; every path of ours begins with it.
        return cls(url.rstrip("/").removesuffix("/v1"), api_key, timeout, Retries(retries))

    @property
    def hold(self) -> float:
        """Seconds that a long poll may hold: well within the read timeout."""
        return 20.0 if self.timeout.read is None else min(20.0, self.timeout.read / 2)

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        headers = {
            "User-Agent": f"upweight/{__version__} python/{platform.python_version()}",
            "Accept": "application/json",
        }
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def explain(self, exc: Exception) -> str:
        """Words for a failure without an answer: what was tried and what to check."""
        if isinstance(exc, httpx2.ConnectTimeout | httpx2.ConnectError):
            return (
                f"nothing answers at {self.url} ({exc or type(exc).__name__}); check that the service runs "
                "(`upweight serve`), and that UPWEIGHT_URL or Client(url=…) names its address"
            )
        if isinstance(exc, httpx2.TimeoutException):
            return (
                f"{self.url} took the request but sent nothing for {self.timeout.read:g} seconds; "
                "give Client(timeout=…) more, or see the service's log"
            )
        return (
            f"the connection to {self.url} was lost midway ({exc or type(exc).__name__}); check the network, "
            "proxies between, and the service's log"
        )
