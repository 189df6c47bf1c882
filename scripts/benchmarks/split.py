"""Where ftslurm's recovery time went, read from the run's journal alone.

The marks, each the first entry after the fault that has it:

    detect   an event that cannot be of a healthy run: a rank's exit, a lost agent, a suspected node
    decide   the order to fence the attempt
    stop     the order to launch the next one (the old one is gone, the checkpoint chosen)
    launch   the order to the ranks to start the program (the world is complete and checked)
    first    the first new training step, from the program's own file
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ALARMS = frozenset({"RankExited", "LaunchEnded", "NodeSuspected", "AgentLost"})
PHASES = ("detect", "decide", "stop", "launch", "first")


def entries(run: Path) -> list[dict[str, Any]]:
    """The journal of a run, all epochs, in order of time."""
    found = []
    for path in run.glob("journal.*.jsonl"):
        found += [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return sorted(found, key=lambda entry: entry["t"])


def split(journal: list[dict[str, Any]], fault: float, new_step: float) -> dict[str, float]:
    """Seconds of each phase; a phase whose mark is missing is left out, and so are those after it."""
    later = [entry for entry in journal if entry["t"] >= fault]
    marks = [
        _first(later, lambda entry: entry["event"]["type"] in ALARMS),
        _first(later, lambda entry: _orders(entry, "FenceAttempt")),
        _first(later, lambda entry: _orders(entry, "LaunchAttempt")),
        _first(later, lambda entry: _orders(entry, "ReleaseRanks")),
        new_step,
    ]
    seconds, before = {}, fault
    for phase, mark in zip(PHASES, marks, strict=True):
        if mark is None:
            break
        seconds[phase] = round(mark - before, 3)
        before = mark
    return seconds


def _first(journal: list[dict[str, Any]], test: Any) -> float | None:  # noqa: ANN401 - a predicate
    return next((entry["t"] for entry in journal if test(entry)), None)


def _orders(entry: dict[str, Any], action: str) -> bool:
    return any(record["type"] == action for record in entry["actions"])
