"""What the tests of ranks, channels and fencing share: an agent that says what it is told to, ranks, and bounded waits."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ftslurm.runtime import rank
from ftslurm.runtime.control import Channel, Credentials, Server, serve

RANK_PY = Path(rank.__file__)
PATIENCE_S = 30.0
KEY = bytes(range(32))
RUN_ID = f"test-run-{os.getpid()}"  # tests that run beside each other must not fence each other
Message = dict[str, Any]


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Poll until the condition gives something true; fail with `what` otherwise."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {patience_s:g} s: {what}")


def state_of(pid: int) -> str:
    """One letter, as in proc(5); empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    return state_of(pid) in ("", "Z", "X")


def child_of(pid: int) -> int:
    """The first child of a process; 0 where it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


class Agent:
    """A node's agent for tests: a real control server in a thread. What ranks say is in `heard`."""

    def __init__(self, folder: Path, *, key: bytes = KEY, run_id: str = RUN_ID, epoch: int = 1) -> None:
        self.heard: queue.Queue[Message] = queue.Queue()
        self.channels: list[Channel] = []
        self.acks = True
        self._who, self._epoch = Credentials(key=key, run_id=run_id), epoch
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: Server = self._await(serve(("127.0.0.1", 0), self._who, epoch=epoch, on_channel=self._listen))
        self.port = self._server.port
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = folder / "part"
        part.touch(mode=0o600)
        part.write_text(json.dumps({"port": self.port, "epoch": epoch, "node": "n1", "key": key.hex()}))
        part.replace(folder / "agent-n1.json")

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _listen(self, channel: Channel) -> None:
        self.channels.append(channel)
        while True:
            message = await channel.recv()
            self.heard.put(message)
            if message["t"] == "exit" and self.acks:
                channel.send({"t": "ack"})

    def expect(self, kind: str, patience_s: float = PATIENCE_S) -> Message:
        """The next thing that is heard, which must be of this kind."""
        message = self.heard.get(timeout=patience_s)
        assert message["t"] == kind, message
        return message

    def say(self, message: Message) -> None:
        """Tell the rank that came last."""

        async def send() -> None:
            self.channels[-1].send(message)

        self._await(send())

    def go(self, **more: Any) -> None:
        self.say({"t": "go", "env": {}, "unset": [], "argv": None, "setup": [], "modules": [], "log": "", **more})

    def die(self) -> None:
        """Hang up on everybody, as the kernel does for a process that was killed."""
        if self._thread.is_alive():
            self._await(self._server.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()


def rank_env(folder: Path, **more: str) -> dict[str, str]:
    """What the launcher sets for rank 3 of 4 on node n1."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "FTSLURM", "PMI", "OMPI"))
    }
    ours = {"FTSLURM_RUN_ID": RUN_ID, "FTSLURM_ATTEMPT": "2", "FTSLURM_LOCAL_DIR": str(folder)}
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURMD_NODENAME": "n1"}
    return {**env, **ours, "FTSLURM_LAUNCHER": "srun", **slurm, **more}


def start_rank(
    env: dict[str, str], *command: str, python: str = sys.executable, file: Path = RANK_PY
) -> subprocess.Popen[str]:
    """Start a wrapper as the launcher does."""
    argv = [python, "-I", "-S", str(file), "--", *command]
    return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
