"""The processes of runs on the lab, read from /proc of the real machine: every node is a PID namespace on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftslurm.lab.cluster import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Proc:
    """A process of a run as the real machine sees it; `start` is in clock ticks since boot (proc(5)).

    `kind` is rank (the user's program and what it has started), wrapper, agent, ring, supervisor or parent.
    """

    pid: int
    start: int
    node: str
    kind: str
    words: tuple[str, ...] = field(repr=False)
    attempt: int | None = None
    rank: int | None = None

    def send(self, signum: signal.Signals) -> None:
        """Send it a signal; it is there to get it."""
        os.kill(self.pid, signum)


def machines(lab: Cluster) -> dict[str, str]:
    """PID namespace -> the machine of the lab that it belongs to; machines that are switched off are missing."""
    found = {}
    for row in lab.status()["nodes"]:
        with suppress(OSError, TypeError):
            found[os.readlink(f"/proc/{row['pid']}/ns/pid")] = row["name"]
    return found


def processes(lab: Cluster, run_id: str) -> list[Proc]:
    """Every live process on the nodes that belongs to a run, by its environment and its command line."""
    where, found = machines(lab), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError, IndexError):
                proc = _proc(folder, where, run_id)
                found += [proc] if proc is not None else []
    return sorted(found, key=lambda proc: proc.start)


def _proc(folder: Path, where: Mapping[str, str], run_id: str) -> Proc | None:
    node = where.get(os.readlink(folder / "ns/pid"))
    stat = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    if node is None or stat[0] in "ZX":
        return None
    pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
    environ = dict(pair.partition("=")[::2] for pair in pairs)
    words = tuple((folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    kind = _kind(environ, words, run_id)
    if not kind:
        return None
    attempt, rank = environ.get("FTSLURM_ATTEMPT"), environ.get("FTSLURM_RANK")
    return Proc(
        pid=int(folder.name),
        start=int(stat[19]),
        node=node,
        kind=kind,
        words=words,
        attempt=int(attempt) if attempt else None,
        rank=int(rank) if rank else None,
    )


def _kind(environ: Mapping[str, str], words: Sequence[str], run_id: str) -> str:
    """What a process is to the run; empty: nothing. Slurm's own processes carry a step's environment, too."""
    if words and Path(words[0]).name.startswith(("slurmstepd", "srun")):
        return ""
    if environ.get("FTSLURM_RUN_ID") == run_id:
        return "rank" if "FTSLURM_RANK" in environ else "wrapper"
    told = environ.get("FTSLURM_AGENT", "") + environ.get("FTSLURM_RING", "")
    ours = f'"{run_id}"' in told or any(word.endswith(f"/{run_id}") for word in words)
    if not ours:
        return ""
    modules = {f"ftslurm.runtime.{name}": name for name in ("agent", "ring")}
    modules |= {"ftslurm.runtime.serve": "supervisor", "ftslurm": "parent"}
    return next((kind for module, kind in modules.items() if module in words), "")
