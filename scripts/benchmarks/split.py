"""Where ftslurm's recovery time went, read from the run's journal alone.

The marks, each the first entry after the fault and the mark before that has it:

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
    marks = [
        lambda entry: entry["event"]["type"] in ALARMS,
        lambda entry: _orders(entry, "FenceAttempt"),
        lambda entry: _orders(entry, "LaunchAttempt"),
        lambda entry: _orders(entry, "ReleaseRanks"),
    ]
    seconds, before = {}, fault
    for phase, test in zip(PHASES[:-1], marks, strict=True):
        # From the mark before: a successor tells the ranks that it adopts once more to start.
        mark = next((entry["t"] for entry in journal if entry["t"] >= before and test(entry)), None)
        if mark is None:
            return seconds
        seconds[phase] = round(mark - before, 3)
        before = mark
    return {**seconds, PHASES[-1]: round(new_step - before, 3)}


def _orders(entry: dict[str, Any], action: str) -> bool:
    return any(record["type"] == action for record in entry["actions"])
