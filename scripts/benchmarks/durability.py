"""How many checkpoints become durable where shared storage is slower than the program saves.

The decisions are those of `ftslurm.core`, driven through a simulated day: every node saves once a minute and needs a
minute and a half, more or less, to copy its part. Beside it the obvious way, without a common target: each node copies
the newest checkpoint that it has, and a checkpoint counts when every node happened to choose it.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import machine

from ftslurm.core.actions import Action, CommitDurable, Drain, LaunchAttempt, SetTimer
from ftslurm.core.events import (
    AgentUp,
    AllocationGranted,
    Event,
    GenerationDurable,
    Part,
    PartDrained,
    PartSaved,
    StoreScanned,
    TimerFired,
    WorldMustered,
)
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run

SAVE_S, DRAIN_S, SPREAD = 60.0, 90.0, 0.15
COMMIT_S = 0.5
PART_BYTES = 1 << 30
HEADER = ["who chooses what is copied", "complete durable checkpoints", "of saves", "longest time between two, minutes"]
METHOD = """{nodes} nodes, {hours:g} simulated hours, a save every {save:g} s, {drain:g} s ± {spread:.0%} to copy a
part. `scripts/bench durability` simulates it again."""


@dataclass
class Day:
    """A simulated clock and what is to happen when."""

    now: float = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    order: Any = field(default_factory=itertools.count)

    def later(self, after_s: float, work: Callable[[], None]) -> None:
        """Do it after a while."""
        heapq.heappush(self.due, (self.now + after_s, next(self.order), work))

    def go_on(self, until: float) -> None:
        """Let happen what happens before `until`."""
        while self.due and self.due[0][0] <= until:
            self.now, _, work = heapq.heappop(self.due)
            work()


class Supervised:
    """One run whose supervisor names a common target."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.day = Day()
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.random = random.Random(seed)  # noqa: S311 - a simulation
        self.policy = Policy(ranks_per_node=1, checkpoints=True, wants_all_ranks=True)
        self.run = Run()
        self.saves = 0
        self.durable: list[float] = []
        granted = {"job_id": "1", "restart": 0, "nodes": self.nodes, "batch_host": self.nodes[0], "epoch": 1}
        self.happen(AllocationGranted(**granted, no_kill=True, wanted_nodes=nodes))
        for node in self.nodes:
            self.happen(AgentUp(node=node, address=node, port=1))
        self.happen(StoreScanned(generations=()))
        self.day.later(SAVE_S, self.save)

    def happen(self, event: Event) -> None:
        """Let the core decide, and do what it says."""
        self.run, actions = advance(self.run, replace(event, at=self.day.now, mono=self.day.now), self.policy)
        for action in actions:
            self.perform(action)

    def perform(self, action: Action) -> None:
        """What a sound cluster would do; the other actions ask for nothing that matters here."""
        if isinstance(action, SetTimer):
            fired = TimerFired(name=action.name, token=action.token)
            self.day.later(action.after_s, lambda: self.happen(fired))
        elif isinstance(action, LaunchAttempt):
            placed = {"attempt": action.attempt, "placement": action.nodes, "master_addr": "n1", "master_port": 1}
            self.day.later(1.0, lambda: self.happen(WorldMustered(**placed)))
        elif isinstance(action, Drain):
            for node in action.nodes:
                drained = PartDrained(generation=action.generation, node=node)
                self.day.later(self.drain_s(), lambda event=drained: self.happen(event))
        elif isinstance(action, CommitDurable):
            self.day.later(COMMIT_S, lambda: self.commit(action.generation))

    def commit(self, generation: str) -> None:
        """A generation is whole on shared storage."""
        self.durable.append(self.day.now)
        self.happen(GenerationDurable(generation=generation, digest="0" * 32))

    def drain_s(self) -> float:
        """How long one node needs for its part."""
        return DRAIN_S * self.random.uniform(1 - SPREAD, 1 + SPREAD)

    def save(self) -> None:
        """Every node has written its part."""
        self.saves += 1
        for rank, node in enumerate(self.nodes):
            part = Part(node=node, manifest_digest="0" * 32, files=1, size_bytes=PART_BYTES, ranks=(rank,))
            world = len(self.nodes)
            self.happen(PartSaved(attempt=0, step=self.saves, part=part, world_size=world))
        self.day.later(SAVE_S, self.save)


class Alone:
    """Nodes that choose by themselves: the newest checkpoint, whenever they are free."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.day = Day()
        self.nodes = nodes
        self.random = random.Random(seed)  # noqa: S311 - a simulation
        self.saves = 0
        self.there: dict[int, set[int]] = defaultdict(set)
        self.durable: list[float] = []
        self.day.later(SAVE_S, self.save)
        for node in range(nodes):
            self.day.later(SAVE_S, lambda node=node: self.drain(node, 0))

    def save(self) -> None:
        """Every node has written its part."""
        self.saves += 1
        self.day.later(SAVE_S, self.save)

    def drain(self, node: int, last: int) -> None:
        """A node is free: it takes the newest, or waits for the next."""
        step = self.saves
        if step == last:
            self.day.later(1.0, lambda: self.drain(node, last))
            return
        took_s = DRAIN_S * self.random.uniform(1 - SPREAD, 1 + SPREAD)
        self.day.later(took_s, lambda: self.drained(node, step))

    def drained(self, node: int, step: int) -> None:
        """A part has arrived."""
        self.there[step].add(node)
        if len(self.there[step]) == self.nodes:
            self.durable.append(self.day.now)
        self.drain(node, step)


def measure(nodes: int, hours: float, seed: int) -> list[dict[str, Any]]:
    """Both ways, for as long."""
    found = []
    for name, day in (("one target for all (ftslurm)", Supervised(nodes, seed)), ("each node", Alone(nodes, seed))):
        day.day.go_on(3600 * hours)
        moments = [0.0, *day.durable, 3600 * hours]
        longest = max(after - before for before, after in itertools.pairwise(moments))
        found.append({"who": name, "durable": len(day.durable), "saves": day.saves, "longest_s": round(longest, 1)})
    return found


def render(value: dict[str, Any]) -> str:
    """The page."""
    rows = [
        [each["who"], str(each["durable"]), str(each["saves"]), f"{each['longest_s'] / 60:.1f}"]
        for each in value["found"]
    ]
    facts = {"nodes": value["nodes"], "hours": value["hours"], "save": SAVE_S, "drain": DRAIN_S, "spread": SPREAD}
    head = "# Durability where storage is slower than the saves\n"
    return "\n".join([head, METHOD.format(**facts) + "\n", machine.table(HEADER, rows)])


def main() -> int:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--hours", type=float, default=24.0, help="simulated time (default 24)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one hour")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    hours = 1.0 if asked.quick else asked.hours
    value = {"nodes": asked.nodes, "hours": hours, "found": measure(asked.nodes, hours, asked.seed)}
    machine.write_json(asked.out / "durability.json", value)
    (asked.out / "durability.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
