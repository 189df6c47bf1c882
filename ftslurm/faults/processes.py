"""The processes of a run on this node: by their environment and their command line, as proc(5) shows them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftslurm.faults.deeds import Prey

SUPERVISOR = "ftslurm.runtime.serve"
SLURM = ("slurmstepd", "srun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proc:
    """One process for ever: its id, and when it started, in clock ticks since boot.

    `kind` is rank (the user's program and all that it has started), wrapper, agent, ring, supervisor, or helper (what
    an agent has started).
    """

    pid: int
    start: int
    kind: str
    attempt: int = -1
    rank: int | None = None

    def lives(self) -> bool:
        """Whether exactly this process still runs; a zombie does not."""
        stat = _stat(Path("/proc", str(self.pid)))
        return stat is not None and stat[0] not in "ZX" and int(stat[19]) == self.start


def of_run(run_id: str) -> list[Proc]:
    """Every live process of the run that this process can see, oldest first; never this process itself."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            with suppress(OSError, IndexError, ValueError):  # it ended meanwhile, or is somebody else's
                proc = _proc(Path("/proc", entry), run_id)
                found += [proc] if proc is not None else []
    return sorted(found, key=lambda proc: (proc.start, proc.pid))


def prey(run_id: str, kind: Prey, rank: int | None, holder: int) -> list[Proc]:
    """The processes that a deed is for; of a rank those of its newest incarnation, its program first.

    Args:
        run_id: the run.
        kind: which of its processes.
        rank: whose, where it is a rank's.
        holder: the supervisor's process id on this node; others may live, parked or waiting to be needed.
    """
    found = of_run(run_id)
    if kind is Prey.RANK:
        mine = [proc for proc in found if proc.kind == "rank" and proc.rank == rank]
        newest = max((proc.attempt for proc in mine), default=0)
        return [proc for proc in mine if proc.attempt == newest]
    if kind is Prey.SUPERVISOR:
        return [proc for proc in found if proc.kind == "supervisor" and proc.pid == holder]
    if kind is Prey.AGENT:
        return [proc for proc in found if proc.kind == "agent"]
    return [proc for proc in found if proc.kind != "supervisor"]


def _proc(folder: Path, run_id: str) -> Proc | None:
    stat = _stat(folder)
    if stat is None or stat[0] in "ZX":
        return None
    pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
    environ = dict(pair.partition("=")[::2] for pair in pairs)
    words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    kind = kind_of(environ, words, run_id)
    if not kind:
        return None
    rank = environ.get("FTSLURM_RANK", "")
    return Proc(
        pid=int(folder.name),
        start=int(stat[19]),
        kind=kind,
        attempt=int(environ.get("FTSLURM_ATTEMPT") or -1),
        rank=int(rank) if rank.isdecimal() and kind == "rank" else None,
    )


def kind_of(environ: Mapping[str, str], words: Sequence[str], run_id: str) -> str:
    """What a process is to the run; empty: nothing. Slurm's own processes carry a step's environment, too.

    The command line goes first: what an agent or a supervisor has started inherits its environment.
    """
    if words and Path(words[0]).name.startswith(SLURM):
        return ""
    if SUPERVISOR in words:
        return "supervisor" if any(word.endswith(f"/{run_id}") for word in words) else ""
    for variable, kind in (("FTSLURM_AGENT", "agent"), ("FTSLURM_RING", "ring")):
        if _names(environ.get(variable, ""), run_id):
            return kind if f"ftslurm.runtime.{kind}" in words else "helper"
    if environ.get("FTSLURM_RUN_ID") != run_id:
        return ""
    return "rank" if "FTSLURM_RANK" in environ and "FTSLURM_ROLE" not in environ else "wrapper"


def _names(settings: str, run_id: str) -> bool:
    """Whether the settings of a process of ours, in JSON, are of this run."""
    try:
        told = json.loads(settings) if settings else None
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("run_id") == run_id


def _stat(folder: Path) -> list[str] | None:
    try:
        text = (folder / "stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
