"""Does the rule for lemons pay? Played over a public fault trace of 400 GPU nodes that it was not tuned on.

At the end of every week from the 28th day on, the ledger holds the faults so far. Two questions are asked of the next
28 days: how many faults hit the nodes that the rule flags, beside as many nodes taken by chance (the lift); and how
many hit the 5 % of nodes with the highest score, whether or not the rule flags them (goal: 14 %). Nodes that are
being repaired are left out of both. The trace: stepfun-ai/InfiniteHBD-Trace, Apache-2.0, arXiv 2502.03885.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftslurm.core.lemons import DAY_S, WINDOWS_DAYS, Evidence, Mark, Standing, judge, marks_of_a_lemon, rate_of
from ftslurm.core.pricing import FAILURES_PER_NODE_DAY

TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpu-node-faults-first-174-days.json"
FLEET = 400
AHEAD_DAYS = 28
GOAL = 0.14


@dataclass(frozen=True, slots=True)
class Fault:
    """A node was out from `start` to `end`, in days."""

    node: str
    start: float
    end: float


@dataclass(slots=True)
class Tally:
    """What was predicted and what came, over all weeks."""

    nodes: int = 0
    of: int = 0
    faults: int = 0
    all_faults: int = 0

    @property
    def share(self) -> float:
        """The part of the coming faults that hit the chosen nodes."""
        return self.faults / self.all_faults if self.all_faults else 0.0

    @property
    def lift(self) -> float:
        """How many times more faults a chosen node has than any."""
        return self.share / (self.nodes / self.of) if self.nodes else 0.0


def faults_of(path: Path) -> tuple[list[Fault], float]:
    """Read the trace: the faults, and the day of its last event."""
    events = sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda each: each["event_time"])
    last = events[-1]["event_time"]
    open_since: dict[str, list[float]] = {}
    found = []
    for event in events:
        node, day = event["node_id"], event["event_time"]
        if event["event_type"] == "fault_start":
            open_since.setdefault(node, []).append(day)
        elif open_since.get(node):
            found.append(Fault(node, open_since[node].pop(0), day))
    found += [Fault(node, day, last) for node, days in open_since.items() for day in days]
    return sorted(found, key=lambda each: each.start), last


def mark(fault: Fault) -> Mark:
    """The mark that a run on the node would have left."""
    return Mark(node=fault.node, at=fault.start * DAY_S, cause="node_down", evidence=Evidence.HARD)


def play(faults: Sequence[Fault], last_day: float) -> dict[str, Tally]:
    """Ask both questions at the end of every week."""
    tallies = {"rule": Tally(), "top 5 %": Tally(), "marked": Tally()}
    day = 28.0
    while day + AHEAD_DAYS <= last_day:
        away = {each.node for each in faults if each.start <= day < each.end}
        records = judge([mark(each) for each in faults if each.start <= day], (), day * DAY_S, FLEET)
        records = tuple(each for each in records if each.node not in away)
        ranked = sorted(records, key=lambda each: -each.score)
        chosen = {
            "rule": {each.node for each in records if each.standing is Standing.LEMON},
            "top 5 %": {each.node for each in ranked[: FLEET // 20]},
            "marked": {each.node for each in records if each.marks},
        }
        coming = [each.node for each in faults if day < each.start <= day + AHEAD_DAYS and each.node not in away]
        for name, nodes in chosen.items():
            tally = tallies[name]
            tally.nodes += len(nodes)
            tally.of += FLEET - len(away)
            tally.faults += sum(node in nodes for node in coming)
            tally.all_faults += len(coming)
        day += 7.0
    return tallies


def main() -> int:
    """Print the table, and whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trace", type=Path, default=TRACE, help="the trace's JSON file")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    asked = parser.parse_args()
    if not asked.trace.exists():
        print(f"no trace at {asked.trace}: --trace names one", file=sys.stderr)
        return 2
    faults, last_day = faults_of(asked.trace)
    tallies = play(faults, last_day)
    if asked.json:
        print(json.dumps({name: {"share": each.share, "lift": each.lift} for name, each in tallies.items()}, indent=1))
        return 0
    rates = {"published": FAILURES_PER_NODE_DAY}
    rates["last learnt"] = rate_of([mark(each) for each in faults], last_day * DAY_S, FLEET)
    print(f"{len(faults)} faults of {FLEET} nodes in {last_day:.0f} days")
    for name, rate in rates.items():
        wanted = " or ".join(f"{marks_of_a_lemon(rate, days, FLEET)} marks in {days:g} days" for days in WINDOWS_DAYS)
        print(f"a lemon at the {name} rate ({1000 * rate:.2f} in 1000 node-days) has {wanted}")
    print()
    print("| chosen | nodes (mean) | their share of the next 28 days' faults | lift over chance |")
    print("| --- | --- | --- | --- |")
    weeks = tallies["rule"].of / FLEET
    for name, each in tallies.items():
        print(f"| {name} | {each.nodes / weeks:.1f} | {each.share:.1%} | {each.lift:.1f} |")
    met = tallies["top 5 %"].share >= GOAL
    print(f"\ngoal: the top 5 % hold at least {GOAL:.0%}: {'met' if met else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
