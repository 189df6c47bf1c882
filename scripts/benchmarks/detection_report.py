"""detection.json as a page for people."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import machine
from machine import described, table

TITLES = {
    "kill": "rank SIGKILLed",
    "cut": "node cut",
    "stop": "rank SIGSTOPped",
    "power": "node's power cut",
    "freeze": "node frozen",
    "oneway": "one-way partition (nothing reaches the node)",
    "supervisor": "supervisor SIGKILLed",
    "host": "batch host (or its successor) cut",
}
FURTHER = ", a further node in five minutes"
HEADER = ["fault", "profile", "n", "detected", "right class", "verdict p50", "p95", "p99", "new step p50", "p95", "p99"]
METHOD = """Six nodes, one rank each, a loop without arithmetic (`tests/programs/pacer.py`), default settings
unless the profile says otherwise; hang_after is 3 s. *verdict*: from the fault to the order to
fence the old attempt, or to the first entry of a killed supervisor's successor. *new step*: from
the fault to the first step further than any before, by a new process; `import torch` is not in it.
Seconds. A further node that is lost within five minutes of another needs the word of every witness,
and so takes longer; a further one that is frozen, and so answers ping, leads to a requeue, which is
not measured here (`--alone`: a new job for every injection). With n samples the highest percentile
that they support is (n - 1)/n; p99 of 30 is their largest. The machine had other work at the same
time; each sample holds its load. `scripts/bench detection` measures all of
it again; the samples are in `detection.json`.

The rows were measured over several days and commits, and some were measured again: a second frozen node
(3 of 3 without a new step in 90 s: a requeue), killed supervisors (5 of 30 missed) and stopped ranks (3
nodes left out, each after its rank had hung again and again) where the benchmark had hit the wrong
process or always the same node, and lost batch hosts after a fault of the takeover had been mended.
"""

Sample = dict[str, Any]


class Results:
    """detection.json and detection.md, written anew after every sample; a class replaces its older samples."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.old: list[Sample] = []
        self.new: list[Sample] = []
        self.excluded: list[str] = []
        with suppress(FileNotFoundError):
            self.old = json.loads((folder / "detection.json").read_text(encoding="utf-8"))["samples"]

    @property
    def good(self) -> bool:
        """Every fault was detected, and no node was excluded that should not have been."""
        return all(each["detected"] for each in self.new) and not self.excluded

    def add(self, sample: Sample) -> None:
        """Keep a sample."""
        self.new.append(sample | {"date": self.facts["date"]})
        self._write()

    def wrong(self, nodes: dict[str, str]) -> None:
        """Keep the nodes that a run excluded though nothing had been done to them, with the class it gave."""
        self.excluded += [f"{node} ({cause})" for node, cause in nodes.items()]
        self._write()

    def _write(self) -> None:
        cells = {(each["class"], each["profile"]) for each in self.new}
        kept = [each for each in self.old if (each["class"], each["profile"]) not in cells]
        value = {
            "machine": self.facts,
            "limits": machine.limits(),
            "samples": kept + self.new,
            "wrongly_excluded": self.excluded,
        }
        machine.write_json(self.folder / "detection.json", value)
        (self.folder / "detection.md").write_text(render(value), encoding="utf-8")


def render(value: dict[str, Any]) -> str:
    """The whole page."""
    samples: list[Sample] = value["samples"]
    cells: dict[tuple[int, str, bool], list[Sample]] = {}
    for each in samples:
        place = list(TITLES).index(each["class"]), each["profile"], each.get("further", False)
        cells.setdefault(place, []).append(each)
    rows = [_row(*place, found) for place, found in sorted(cells.items())]
    wrong = value["wrongly_excluded"]
    said = f"Nodes excluded wrongly: {', '.join(wrong) if wrong else 'none'}.\n"
    head = "# Detection: from the fault to the verdict, and to the next step\n"
    parts = [head, described(value["machine"]), value["limits"] + "\n", METHOD, table(HEADER, rows), said]
    return "\n".join(parts)


def _row(place: int, profile: str, further: bool, samples: list[Sample]) -> list[str]:  # noqa: FBT001 - a key
    name = list(TITLES.values())[place] + (FURTHER if further else "")
    count = len(samples)
    detected = sum(each["detected"] for each in samples)
    right = sum(each.get("right_class", False) for each in samples)
    cells = [name, profile, str(count), str(detected), str(right)]
    for key in ("verdict_s", "new_step_s"):
        times = sorted(each[key] for each in samples if each.get(key) is not None)
        cells += [_percentile(times, share) for share in (0.5, 0.95, 0.99)]
    return cells


def _percentile(times: list[float], share: float) -> str:
    """The nearest-rank percentile."""
    return f"{times[max(math.ceil(share * len(times)) - 1, 0)]:.2f}" if times else "-"
