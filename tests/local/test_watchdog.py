"""Nothing outlives its parent, however the parent ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from service.local.process import Process
from service.local.watchdog import Watchdog
from tests.local.processes import ended
from tests.patience import PATIENCE

PARENT = """
import sys, time
from pathlib import Path
from service.local.redis_server import RedisServer
from service.local.watchdog import Watchdog
watchdog = Watchdog()
server = RedisServer(Path(sys.argv[1]), watchdog=watchdog)
server.start()
print(server.process.pid, watchdog.pid, server.url, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_the_embedded_redis_ends_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    server, guard, url = parent.stdout.readline().split()
    with redis.Redis.from_url(url) as client:
        assert client.ping()

    parent.send_signal(number)
    parent.wait()
    parent.stdout.close()

    assert ended(int(server))
    assert ended(int(guard))


def test_a_stubborn_child_ends_too_and_its_own_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stubborn = (
        "import os, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ')\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from service.local.process import Process\n"
            "from service.local.watchdog import Watchdog\n"
            "Process('p', [sys.executable, '-c', sys.argv[1]], watchdog=Watchdog(grace_seconds=0.5)).start()\n"
            "time.sleep(600)\n",
            stubborn,
        ]
    )
    while not pids.exists() or not pids.read_text().endswith(" "):
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    for pid in pids.read_text().split():
        assert ended(int(pid))


def test_a_killed_guard_is_replaced_and_knows_its_charges() -> None:
    watchdog = Watchdog(grace_seconds=0.5)
    first = Process("first", ["sleep", "600"], watchdog=watchdog)
    first.start()
    os.kill(watchdog.pid, signal.SIGKILL)
    assert ended(watchdog.pid)
    second = Process("second", ["sleep", "600"], watchdog=watchdog)
    second.start()

    watchdog.close()  # ends what is guarded, the first included
    assert first.wait(PATIENCE)
    assert second.wait(PATIENCE)
