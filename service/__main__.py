"""`python -m service`: the front end as a process."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn
from fastapi import FastAPI

from service.app import create_app, refuse_openness
from service.connections import BACKLOG, HEAD_BYTES, Connection
from service.logs import configure, log
from service.malloc import keep_one_arena
from service.private import keep_files_private
from service.settings import Settings
from upweight.errors import UpweightError

GRACE_SECONDS = 18  # for requests at work; whoever watches over the process waits 20 to 30

# A thread that computes keeps the interpreter for so long while others want it. Python's usual 5 ms, times all threads
# at work, are what a short request would wait on each of its ways between event loop and threads.
SWITCH_SECONDS = 0.0005

KEEP_ALIVE_SECONDS = (
    65  # longer than load balancers keep a connection, so that they end it and not we
)


class Server(uvicorn.Server):
    """Ends streams and held answers first, so that a graceful stop does not wait for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and says where: the port may have been 0."""
        await super().startup(sockets)
        if self.started:
            for server in self.servers:
                for listening in server.sockets:
                    host, port = listening.getsockname()[:2]
                    log("listening", url=f"http://{_bracketed(host)}:{port}", host=host, port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends."""
        self._app.state.parts.changes.close()
        await super().shutdown(sockets)


def _said(app: FastAPI) -> bool:
    """Whether it has been told in words why the front end can't start."""
    return hasattr(app.state, "cannot_start")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def main() -> int:
    """Runs until a signal; the exit code."""
    keep_one_arena()
    keep_files_private()
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = Settings()
    configure(settings.log_level)
    try:
        refuse_openness(settings)
    except UpweightError as error:
        log("refused", level="error", detail=error.detail)
        return 2
    app = create_app(settings)
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: not (_said(app) and "Traceback" in record.getMessage())
    )
    config = uvicorn.Config(
        app,
        http=Connection,
        backlog=BACKLOG,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        # Behind a proxy its addresses must be named explicitly; nothing here rests on the client's address.
        proxy_headers=False,
    )
    Server(config, app).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
