"""What changes with 12,500 and 100,000 nodes: the real core and detector, in simulated time, without a network.

`scripts/bench scale` feeds one supervisor over real connections, which one machine can do for some thousand agents.
Here the state of a run with many more nodes is made, and the rules are timed on it: an event costs what copying the
state costs, so it grows with the number of nodes. The detector's threshold is tried on simulated beats.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import machine

from ftslurm.core import detector
from ftslurm.core.actions import Action
from ftslurm.core.confirmation import SHORT_ROUNDS, allowed
from ftslurm.core.events import (
    AgentUp,
    AllocationGranted,
    Event,
    Finding,
    NodeFenced,
    NodeProbed,
    NodeSuspected,
    Outcome,
    Part,
    PartSaved,
    Phase,
    RankExited,
    StoreScanned,
    TimerFired,
    Witness,
    WorldMustered,
)
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.journal import Entry

SIZES = (1_000, 12_500, 100_000)
RANKS = 8
BEATS = {"steady": (0.02, 0.0), "jitter": (0.2, 0.0), "5 % lost": (0.1, 0.05), "20 % lost": (0.1, 0.2)}
"""Deviation of a beat's delay in seconds (interval 0.5 s), and the share of beats that never come."""
AGAINST = (Witness.PING, Witness.TCP)


@dataclass
class Fleet:
    """A run on very many nodes; `events` of one kind are timed together."""

    nodes: int
    run: Run = field(default_factory=Run)
    now: float = 1000.0
    cost_ms: dict[str, float] = field(default_factory=dict)
    bytes_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = Policy(ranks_per_node=RANKS, checkpoints=True)
        self.names = tuple(f"node{number:06d}" for number in range(self.nodes))

    def happen(self, what: str, events: Sequence[Event]) -> tuple[Action, ...]:
        """Let these events happen; remember what one costs, and how long the last entry of the journal is."""
        actions: tuple[Action, ...] = ()
        began = time.process_time()
        for event in events:
            self.now += 0.001
            self.run, actions = advance(self.run, replace(event, at=self.now, mono=self.now), self.policy)
        self.cost_ms[what] = round((time.process_time() - began) / len(events) * 1000, 2)
        entry = Entry(0, 1, self.now, self.run.phase, events[-1], actions)
        self.bytes_of[what] = len(entry.line())
        return actions

    def train(self, sample: int) -> None:
        """Start, with all agents but the last ones taken for granted."""
        granted = AllocationGranted(
            job_id="1", restart=0, nodes=self.names, batch_host=self.names[0], epoch=1, no_kill=True,
            same_incarnation=False, wanted_nodes=self.nodes,
        )  # fmt: skip
        self.happen("start", [granted])
        self.run = replace(self.run, agents=frozenset(self.names[:-sample]))
        self.happen("agent", [AgentUp(node=node, address=node, port=1) for node in self.names[-sample:]])
        self.happen("scan and launch", [StoreScanned(generations=())])
        placement = tuple(node for node in self.names for _ in range(RANKS))
        world = WorldMustered(attempt=0, placement=placement, master_addr=self.names[0], master_port=29500)
        self.happen("world", [world])
        part = Part(node="", manifest_digest="0" * 32, files=1, size_bytes=1)
        size = self.nodes * RANKS
        self.happen("part", [
            PartSaved(attempt=0, step=10, part=replace(part, node=node), world_size=size)
            for node in self.names[:sample]
        ])  # fmt: skip

    def lose(self, sample: int) -> None:
        """One node falls silent, all others are fenced, and the next attempt is planned."""
        lost = self.names[-1]
        self.happen("suspicion", [NodeSuspected(node=lost, silent_s=3.1, phi=11.0, peers=self.nodes - 1)])
        self.happen("verdict", [found(lost)])
        ended = [RankExited(attempt=0, rank=rank, node=self.names[rank // RANKS], code=137) for rank in range(sample)]
        self.happen("rank's end", ended)
        survivors = self.names[:-1]
        attempt = self.run.current
        self.run = replace(self.run, attempt=replace(attempt, fenced=frozenset(survivors[:-sample])))
        self.happen("fenced", [NodeFenced(node=node, attempt=0) for node in survivors[-sample:-1]])
        self.happen("plan and launch", [NodeFenced(node=survivors[-1], attempt=0)])

    def fire(self, prefix: str) -> None:
        """Let timers run out."""
        due = [
            TimerFired(name=name, token=self.run.timers[name]) for name in self.run.timers if name.startswith(prefix)
        ]
        if due:
            self.happen(prefix, due)

    def stop(self, healthy: Sequence[str]) -> None:
        """These nodes kill their ranks; the time of the others runs out."""
        if self.run.phase is Phase.STOPPING:
            self.run = replace(self.run, attempt=replace(self.run.current, fenced=frozenset(healthy[:-1])))
            self.happen("fenced", [NodeFenced(node=healthy[-1], attempt=0)])
        if self.run.phase in {Phase.STOPPING, Phase.DRAINING}:
            self.fire("fence")


def found(node: str) -> NodeProbed:
    """Two witnesses against a node, at the deadline."""
    words = (Finding(witness=Witness.PEER, outcome=Outcome.OK),)
    words += tuple(Finding(witness=witness, outcome=Outcome.UNREACHABLE) for witness in AGAINST)
    return NodeProbed(node=node, findings=words, final=True)


def core(nodes: int, sample: int) -> dict[str, Any]:
    """What each kind of event costs."""
    fleet = Fleet(nodes)
    fleet.train(min(sample, nodes // 4))
    fleet.lose(min(sample, nodes // 4))
    return {"nodes": nodes, "phase": str(fleet.run.phase), "cost_ms": fleet.cost_ms, "bytes": fleet.bytes_of}


def mass_loss(nodes: int, lost: int) -> dict[str, Any]:
    """Many nodes fall silent at once, with two witnesses against each: whom the core gives up, and what it does."""
    fleet = Fleet(nodes)
    fleet.train(1)
    fleet.run = replace(fleet.run, agents=frozenset(fleet.names))
    silent = fleet.names[-lost:]
    for _ in range(SHORT_ROUNDS):
        fleet.happen("suspicions", [
            NodeSuspected(node=node, silent_s=3.1, phi=11.0, peers=nodes - 1, peers_silent=lost - 1) for node in silent
        ])  # fmt: skip
        fleet.happen("verdicts", [found(node) for node in silent])
        fleet.fire("reprobe:")
    given_up = len(fleet.run.condemned)
    fleet.stop(fleet.names[:-lost])
    launched = fleet.run.attempt if fleet.run.phase is Phase.RELAUNCHING else None
    return {
        "nodes": nodes, "lost": lost, "given_up": given_up, "allowed": allowed(fleet.run),
        "phase": str(fleet.run.phase), "next": len(launched.nodes) if launched else 0,
    }  # fmt: skip


def beats(nodes: int, count: int, seed: int = 1) -> dict[str, Any]:
    """How the threshold for so many nodes bears simulated beats: from when a node is suspect, and how often wrongly."""
    settings = detector.Settings(nodes=nodes)
    chance, rows = random.Random(seed), {}  # noqa: S311 - a simulation
    for name, (deviation_s, loss) in BEATS.items():
        now, history, wrong, longest = 0.0, detector.History(last=0.0), 0, 0.0
        for _ in range(count):
            silent = settings.interval_s
            while chance.random() < loss:
                silent += settings.interval_s
            silent = max(silent + chance.gauss(0.0, deviation_s), 0.0)
            limit_s = detector.limit_s(history, settings)
            wrong += silent > limit_s and history.count > 1
            longest = max(longest, silent)
            now += silent
            history = detector.observe(history, now, settings)
        rows[name] = {
            "limit_s": round(detector.limit_s(history, settings), 2),
            "wrong": wrong,
            "longest": round(longest, 2),
        }
    return {"nodes": nodes, "phi": round(settings.threshold, 1), "beats": count, "patterns": rows}


def core_tables(found: list[dict[str, Any]]) -> list[str]:
    """What events cost, alone and for all nodes together, and how long their entries are."""
    sizes = ["event", *(f"{one['nodes']:,} nodes" for one in found)]
    costs = [[kind, *(f"{one['cost_ms'][kind]:.2f}" for one in found)] for kind in found[0]["cost_ms"]]
    lengths = [[kind, *(f"{one['bytes'][kind]:,}" for one in found)] for kind in ("start", "plan and launch", "world")]
    whole = []
    for one in found:
        seconds = (one["cost_ms"][kind] * one["nodes"] / 1000 for kind in ("agent", "part", "fenced"))
        whole.append([f"{one['nodes']:,}", *(f"{each:,.1f} s" for each in seconds)])
    return [
        machine.table(sizes, costs),
        TOGETHER,
        machine.table(["nodes", "agents come up", "parts of a checkpoint", "nodes are fenced"], whole),
        "## The longest entries of the journal, in bytes\n",
        machine.table(sizes, lengths),
    ]


def render(value: dict[str, Any]) -> str:
    """The page."""
    lost, heard = [], []
    for each in value["mass_loss"]:
        counts = [f"{each[name]:,}" for name in ("nodes", "lost", "allowed", "given_up")]
        lost.append([*counts, each["phase"], f"{each['next']:,}"])
    for one in value["beats"]:
        limits = (f"{row['limit_s']} s, {row['wrong']}" for row in one["patterns"].values())
        heard.append([f"{one['nodes']:,}", f"{one['phi']}", *limits])
    count = f"{value['beats'][0]['beats']:,}"
    return "\n".join([
        "# What changes at 12,500 and 100,000 nodes\n",
        machine.described(value["machine"]),
        f"The core's own rules in simulated time, {RANKS} ranks a node; CPU time of one event in ms.\n",
        *core_tables(value["core"]),
        "## Many nodes silent at once, two witnesses against each\n",
        machine.table(LOST, lost),
        "## Silence from which a node is suspect, and false suspicions\n",
        f"Interval 0.5 s, `suspect_after` 3 s; {count} simulated beats for each cell.\n",
        machine.table(["nodes", "phi", *BEATS], heard),
        CONCLUSION,
    ])  # fmt: skip


LOST = ["nodes", "silent", "may be given up on two witnesses", "given up", "then", "nodes of the next attempt"]
TOGETHER = (
    "An event copies what it changes of the state, which grows with the nodes. What every node says once therefore"
    " takes, for all nodes together:\n"
)
CONCLUSION = """## What follows

- *Detection* hardly changes: the threshold grows by one for ten times the nodes, and with even beats a node is suspect
  after `suspect_after` at any size. Where a fifth of the beats are lost, healthy nodes are suspected at any size, too:
  it is the witnesses that keep them.
- *Beats*: one supervisor bears some thousand agents at 1 Hz ([scale](scale.md)); beyond, the interval has to grow.
- *One decision* takes milliseconds at 12,500 nodes and some tenths of a second at 100,000.
- *What every node says once* grows with the square of the nodes: seconds at 12,500, which every recovery feels, and
  far too much at 100,000. There a rack's agents would have to speak with one voice; this release is not made for it.
- *The journal* names the node of every rank: 2.6 MB for a world of 100,000 ranks. From about 40,000 nodes with 8 ranks
  each such an entry is longer than the control channel allows (8 MiB), so agents could not keep copies of it.
- *Losses* of a rack or a switch are taken on two witnesses up to 5 % of the nodes. Beyond that, without hard evidence
  on each further node, the job goes back to the queue. Sixteen nodes are asked about at a time, for 3 s each: two
  minutes for 625 nodes.
"""


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of nodes (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="100 and 200 nodes, few beats")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    sizes = [100, 200] if asked.quick else [int(word) for word in asked.sizes.split(",")]
    value = {
        "machine": machine.describe(""),
        "core": [core(nodes, 40) for nodes in sizes],
        "mass_loss": [mass_loss(nodes, lost) for nodes in sizes[:2] for lost in (2, nodes // 20, nodes // 20 + 5)],
        "beats": [beats(nodes, 2_000 if asked.quick else 200_000) for nodes in sizes],
    }
    machine.write_json(asked.out / "fleet.json", value)
    (asked.out / "fleet.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
