"""The successor of a lost supervisor, as the agent that starts it sees it: its environment, its pipe, its end.

It is a child of the agent, in the agents' job step, which has survived the batch host (M3). The environment is that
of the job: what tells the identity of another step goes (M4), and so do the agent's own marks. The user's umask comes
back, because srun hands it on to the ranks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ftslurm.errors import InternalError
from ftslurm.paths import PRIVATE_FILE
from ftslurm.slurm import env

log = logging.getLogger(__name__)

END_S = 120.0
KILL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """What a successor is told: who it takes over from and why, and how it reaches the agents.

    `expected` is the epoch that it may claim the lease from, `node` where it runs, `peers` the agents' addresses, its
    own agent's among them, `reached` those that answer. `output` is the job's own output file, `umask` the user's; ""
    and -1 are not known.
    """

    node: str
    host: str
    port: int
    expected: int = 0
    before: str = ""
    reason: str = ""
    end_time: float | None = None
    peers: Mapping[str, tuple[str, int]]
    reached: tuple[str, ...] = ()
    output: str = ""
    umask: int = -1

    def to_json(self) -> str:
        """Return the form that travels to the successor, on its standard input."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Legacy:
        """Return what `to_json` was made from."""
        record = json.loads(text)
        record["peers"] = {node: (str(host), int(port)) for node, (host, port) in record["peers"].items()}
        record["reached"] = tuple(record["reached"])
        return cls(**record)


class Successor:
    """One child process."""

    def __init__(self, legacy: Legacy, run_dir: Path) -> None:
        self._legacy = legacy
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._started = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def age_s(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self._started

    def kill(self) -> None:
        """End it at once: it has not been heard for too long."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(KILL_S)

    def start(self) -> None:
        """Start it; it waits for the word to begin, or ends without it."""
        argv = [sys.executable, "-I", "-m", "ftslurm.runtime.serve", "--takeover", str(self._run_dir)]
        output = self._output()
        try:
            self._process = subprocess.Popen(
                argv,
                env=environment(os.environ),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=self._legacy.umask,
            )
        finally:
            os.close(output)

    def begin(self, legacy: Legacy) -> None:
        """Tell it to claim the lease, which it does itself, or ends with a word in the supervisors' log."""
        self._started = time.monotonic()
        process = self._process
        if process is None or process.stdin is None:
            raise InternalError("a successor was told to begin before it was started")
        try:
            process.stdin.write((legacy.to_json() + "\n").encode())
            process.stdin.close()
        except OSError as error:
            log.warning("the successor is gone: %s", error)

    async def over(self) -> None:
        """Wait for its end, for a bounded time: the agent's end would be the end of the successor, too."""
        try:
            if self._process is not None:
                await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            log.exception("the successor has not ended in time")

    def _output(self) -> int:
        """The job's own output file, where the user looks; else one beside the logs."""
        places = [Path(self._legacy.output)] if self._legacy.output else []
        for path in (*places, self._run_dir / "logs" / f"takeover-{self._legacy.node}.out"):
            try:
                return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
            except OSError as error:
                log.warning("%s cannot be written: %s", path, error)
        return os.open(os.devnull, os.O_WRONLY)


def own_umask() -> int:
    """Return this process's umask without setting it, as other threads create files meanwhile (proc(5))."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), -1)


def own_output() -> str:
    """Return the file that this process prints to, empty where it is none that another host could open."""
    path = os.readlink("/proc/self/fd/1")
    return path if path.startswith("/") and Path(path).is_file() else ""


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the job, without the identity of a step."""
    foreign = {env.PROCID, env.STEP_ID, "SLURM_STEPID", "SLURM_NTASKS_PER_NODE", env.LOCALID, "FTSLURM_AGENT"}
    return {**{name: value for name, value in inherited.items() if name not in foreign}, "FTSLURM_ROLE": "supervisor"}
