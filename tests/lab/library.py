"""What tests of the library layout ask about a run: its copies, its restores, its history, what is on its nodes."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ftslurm.lab.cluster import Cluster
from tests.lab.processes import Proc
from tests.lab.training import LabRun, await_that, program, submit, workplace

STEPS = 240
ROWS, COLUMNS = 96, 16384


def right_digest(steps: int = STEPS, columns: int = COLUMNS) -> str:
    """What the array of `library_loop.py` has become after all steps."""
    array = np.arange(ROWS)[:, None] * np.ones(columns) * (steps * (steps + 1) // 2)
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def library(lab: Cluster, *, name: str, nodes: int = 4, words: tuple[object, ...] = (), **more: Any) -> LabRun:
    """Submit the loop with a checkpoint every 20 steps; `words` are more words of its command line."""
    work = workplace(lab, name, None)
    command = program("library_loop", "--steps", STEPS, "--pace", 0.1, "--progress", work / "progress", *words)
    saved = {"layout": "library", "every": {"steps": 20}, "min_interval": "1s", **more.pop("checkpoint", {})}
    return submit(lab, command, name=name, nodes=nodes, work=work, checkpoint=saved, **more)


def partnered(run: LabRun) -> list[str]:
    """The generations of which every part has a copy."""
    copies: dict[str, set[str]] = {}
    for event in run.events("PartReplicated"):
        if not event.get("error"):
            copies.setdefault(event["generation"], set()).add(event["owner"])
    parts = {commit["generation"]: {part["node"] for part in commit["parts"]} for commit in run.actions("CommitLocal")}
    return [name for name, owners in parts.items() if owners <= copies.get(name, set())]


def at_hand(run: LabRun, node: str) -> str:
    """What the agent of a node says about restores, from its log."""
    text = "".join(path.read_text() for path in (run.root / "logs").glob(f"*{node}*") if path.is_file())
    return "\n".join(re.findall(r"[^\"]*is at hand in[^\"]*|[^\"]*was fetched[^\"]*", text))


def history(run: LabRun) -> list[dict[str, Any]]:
    """The lines of the run's training-state history, of all incarnations."""
    paths = sorted((run.root / "history").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def scratch_of(proc: Proc) -> Path:
    """The run's folder on the scratch of a rank's node."""
    environ = Path(f"/proc/{proc.pid}/environ").read_bytes().decode().split("\0")
    write = next(pair.partition("=")[2] for pair in environ if pair.startswith("FTSLURM_CHECKPOINT_DIR="))
    return Path(f"/proc/{proc.pid}/root{write}").parent


def unfinished(scratch: Path, rank: int) -> str:
    """The generation whose data a rank is writing: its data file is there, its index is not; empty without one."""
    for folder in sorted(scratch.glob("write/*-*"), reverse=True):
        if (folder / f"{rank:05d}.bin").exists() and not (folder / f"{rank:05d}.json").exists():
            return folder.name
    return ""


@contextmanager
def held_in_save(run: LabRun, rank: int, timeout_s: float = 60.0) -> Iterator[tuple[Proc, str]]:
    """A rank, stopped in the middle of writing a generation, and that generation's name; it goes on afterwards."""
    proc = max((each for each in run.processes("rank") if each.rank == rank), key=lambda each: each.attempt or 0)
    scratch, deadline = scratch_of(proc), time.monotonic() + timeout_s
    while not _stopped_within(proc, scratch, rank):
        assert time.monotonic() < deadline, f"rank {rank} was never met in a save\n{run.story()}"
        time.sleep(0.002)
    try:
        yield proc, unfinished(scratch, rank)
    finally:
        with suppress(ProcessLookupError):
            proc.send(signal.SIGCONT)


def _stopped_within(proc: Proc, scratch: Path, rank: int) -> bool:
    if not unfinished(scratch, rank):
        return False
    proc.send(signal.SIGSTOP)
    threads = list(Path(f"/proc/{proc.pid}/task").iterdir())
    await_that("the rank stands still", lambda: all(_state(thread) == "T" for thread in threads), 10)
    if unfinished(scratch, rank):
        return True
    proc.send(signal.SIGCONT)  # it was ready just before
    return False


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "T"  # it has ended
