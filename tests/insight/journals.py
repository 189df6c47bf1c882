"""Stories for tests: the real core is fed with scripted events, and what it decides is written as a real journal.

`Tale` plays the world: agents that come up, ranks that register, nodes that fall silent and are asked about, files that
appear. It stamps every event with a made-up clock, lets `ftslurm.core.run.advance` decide, and keeps an entry exactly where
the supervisor would. Nothing here knows what the state will be: timers run out by their name, fences are answered because
the core asked for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ftslurm import runs
from ftslurm.config import Config
from ftslurm.core.actions import Action, CommitDurable, Drain, FenceAttempt, LaunchAttempt, Restore
from ftslurm.core.events import (
    AgentUp,
    AllocationGranted,
    Event,
    Finding,
    GenerationDurable,
    NodeFenced,
    NodeProbed,
    NodeSuspected,
    Outcome,
    Part,
    PartDrained,
    PartPending,
    PartSaved,
    RankExited,
    RequeueAnswered,
    RestoreReady,
    RestoreRefused,
    StopRequested,
    StoreScanned,
    TimerFired,
    Witness,
    WorldMustered,
)
from ftslurm.core.manifest import generation_name
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.journal import Entry
from ftslurm.paths import RunPaths
from ftslurm.runtime.settings import policy_of

Kind = TypeVar("Kind", bound=Action)

START = 1_772_000_000.0
NODES = ("n1", "n2", "n3", "n4")

DEAD = {
    Witness.PEER: (Outcome.OK, "n2 answers"),
    Witness.PING: (Outcome.UNREACHABLE, "100% packet loss"),
    Witness.TCP: (Outcome.UNREACHABLE, "no answer within 3 s"),
    Witness.SSH: (Outcome.UNREACHABLE, "timed out"),
    Witness.SRUN: (Outcome.UNREACHABLE, "no answer within 3 s"),
    Witness.SLURM: (Outcome.OK, "ALLOCATED"),
}
FROZEN = {**DEAD, Witness.PING: (Outcome.OK, "0.1 ms"), Witness.TCP: (Outcome.OK, "connected")}
WELL = {**FROZEN, Witness.SSH: (Outcome.OK, ""), Witness.SRUN: (Outcome.OK, "0.05 s")}
UNDECIDED = {**DEAD, Witness.PEER: (Outcome.UNKNOWN, "nobody to ask")}

TRACEBACK = """Traceback (most recent call last):
  File "/home/u/train.py", line 42, in <module>
    loss = step(batch)
ValueError: bad batch 17
"""


def findings(words: dict[Witness, tuple[Outcome, str]]) -> tuple[Finding, ...]:
    """Findings from (outcome, detail) by witness."""
    return tuple(Finding(witness=who, outcome=what, detail=detail) for who, (what, detail) in words.items())


def policy_for(**changes: object) -> Policy:
    """A policy of two ranks a node with watched checkpoints."""
    base = Policy(ranks_per_node=2, min_nodes=2, checkpoints=True, can_ask_to_save=True)
    return replace(base, **changes)


class Tale:
    """One run, told event by event."""

    def __init__(self, policy: Policy | None = None, *, nodes: tuple[str, ...] = NODES, job_id: str = "101") -> None:
        self.policy = policy or policy_for()
        self.nodes, self.job_id = nodes, job_id
        self.run, self.entries = Run(), []
        self.now, self.epoch, self.restart = START, 0, 0
        self.entries: list[Entry] = []
        self.last: tuple[Action, ...] = ()
        self._durable: list[str] = []

    # ------------------------------------------------------------------------------------------------ the clock

    def wait(self, seconds: float) -> Tale:
        """Let time pass."""
        self.now += seconds
        return self

    def happen(self, event: Event, *, after: float = 0.0) -> tuple[Action, ...]:
        """An event arrives `after` seconds later; returns what the core answered."""
        self.wait(after)
        event = replace(event, at=self.now, mono=self.now - START)
        run, self.last = advance(self.run, event, self.policy)
        if run != self.run or self.last:
            self.entries.append(Entry(len(self.entries), self.epoch, self.now, run.phase, event, self.last))
        self.run = run
        return self.last

    def timer(self, name: str, *, after: float = 0.0) -> None:
        """The timer of this name runs out."""
        self.happen(TimerFired(name=name, token=self.run.timers[name]), after=after)

    # ------------------------------------------------------------------------------------------------- starting

    def start(
        self, *, resumed: bool = False, job_id: str = "", nodes: tuple[str, ...] = (), after: float = 0.0
    ) -> Tale:
        """A job begins on this run: agents, a scan of the store, the first attempt, released."""
        self.granted(resumed=resumed, job_id=job_id, nodes=nodes, after=after)
        for node in self.nodes:
            self.agent(node, after=0.1)
        self.scan(after=0.1)
        return self.launched()

    def granted(
        self, *, resumed: bool = False, job_id: str = "", nodes: tuple[str, ...] = (), after: float = 0.0
    ) -> None:
        """Only the job's start."""
        self.epoch += 1
        self.job_id, self.nodes = job_id or self.job_id, nodes or self.nodes
        self.happen(
            AllocationGranted(
                job_id=self.job_id, restart=self.restart, nodes=self.nodes, batch_host=self.nodes[0], epoch=self.epoch,
                no_kill=True, resumed=resumed, end_time=self.now + after + 3600.0, wanted_nodes=len(NODES),
                same_incarnation=(self.run.job_id, self.run.restart) == (self.job_id, self.restart),
            ),
            after=after,
        )  # fmt: skip

    def agent(self, node: str, *, after: float = 0.0) -> None:
        """An agent connects."""
        self.happen(AgentUp(node=node, address="10.0.0.1", port=7000), after=after)

    def scan(self, refused: Iterable[tuple[str, str]] = (), *, after: float = 0.0) -> None:
        """Shared storage is read: what was committed is there."""
        there = tuple((name, int(name.partition("-")[0]), 8) for name in self._durable)
        self.happen(StoreScanned(generations=there, refused=tuple(refused)), after=after)

    def launched(self, *, restore_s: float = 0.7, muster_s: float = 2.0) -> Tale:
        """What the core has just launched comes up: the checkpoint is brought, the ranks register."""
        launch = self._newest(LaunchAttempt)
        self.restored(restore_s)
        placement = tuple(node for node in launch.nodes for _ in range(self.policy.ranks_per_node))
        muster = WorldMustered(attempt=launch.attempt, placement=placement, master_addr="10.0.0.1", master_port=23456)
        self.happen(muster, after=muster_s)
        return self

    def restored(self, seconds: float) -> None:
        """Every node gets the checkpoint that was asked for, one after the other within `seconds`."""
        attempt = self.run.attempt
        assert attempt is not None
        for node in attempt.nodes if attempt.generation else ():
            path = f"/scratch/restore/{attempt.generation}"
            ready = RestoreReady(generation=attempt.generation, node=node, attempt=attempt.number, path=path)
            self.happen(ready, after=seconds / len(attempt.nodes))

    def damaged(self, reason: str, *, after: float = 0.3) -> None:
        """A node finds that the checkpoint it was asked for is not what was written."""
        restore = self._newest(Restore)
        self.happen(
            RestoreRefused(
                generation=restore.generation, node=restore.nodes[0], attempt=restore.attempt, reason=reason, damaged=True
            ),
            after=after,
        )  # fmt: skip
        if restore.generation in self._durable:
            self._durable.remove(restore.generation)

    # -------------------------------------------------------------------------------------------------- saving

    def save(self, step: int, *, durable: bool = True, after: float = 0.0) -> Tale:
        """Every node of the attempt writes its files; with `durable` they also reach shared storage."""
        self.wait(after)
        attempt = self.run.attempt
        assert attempt is not None
        for node in attempt.nodes:
            self.happen(PartPending(attempt=attempt.number, step=step, node=node))
        for node in attempt.nodes:
            part = Part(node=node, manifest_digest="0" * 32, files=2, size_bytes=1000)
            self.happen(
                PartSaved(attempt=attempt.number, step=step, part=part, world_size=attempt.world_size), after=0.5
            )
        return self.drained(generation_name(step, attempt.number)) if durable else self

    def drained(self, generation: str) -> Tale:
        """All parts are copied and the generation is committed, where the core asks for it."""
        for drain in [action for action in self.last if isinstance(action, Drain)]:
            for node in drain.nodes:
                self.happen(PartDrained(generation=drain.generation, node=node), after=0.1)
        if any(isinstance(action, CommitDurable) for action in self.last):
            self._durable.append(generation)
            self.happen(GenerationDurable(generation=generation, digest="d" * 32), after=0.1)
        return self

    # ------------------------------------------------------------------------------------------------ failures

    def silent(self, node: str, *, silent_s: float = 3.1) -> None:
        """Nothing was heard of a node for this long."""
        others = len(self.run.nodes) - 1
        self.happen(NodeSuspected(node=node, silent_s=silent_s, phi=12.3, peers_silent=0, peers=others), after=silent_s)

    def probed(
        self, node: str, words: dict[Witness, tuple[Outcome, str]], *, after: float = 1.0, final: bool = False
    ) -> None:
        """The witnesses speak."""
        self.happen(NodeProbed(node=node, findings=findings(words), final=final), after=after)

    def lose(self, node: str, words: dict[Witness, tuple[Outcome, str]] = DEAD, *, final: bool = False) -> Tale:
        """A node is lost: silence, witnesses, and the old attempt is stopped on the others."""
        self.silent(node)
        self.probed(node, words, final=final)
        return self.stopped()

    def exit(self, rank: int, *, code: int = 1, signal: int = 0, tail: str = "", after: float = 0.0) -> None:
        """A rank's process ends."""
        attempt = self.run.attempt
        assert attempt is not None
        node = attempt.placement[rank] if attempt.placement else attempt.nodes[rank // self.policy.ranks_per_node]
        end = RankExited(attempt=attempt.number, rank=rank, node=node, code=code, signal=signal, tail=tail)
        self.happen(end, after=after)

    def crash(self, rank: int, *, code: int = 1, signal: int = 0, tail: str = TRACEBACK) -> Tale:
        """A rank fails, and the attempt is stopped."""
        self.exit(rank, code=code, signal=signal, tail=tail, after=0.2)
        return self.stopped()

    def stopped(self, *, after: float = 0.1) -> Tale:
        """Every node that the core asked, and that can answer, confirms that nothing is left."""
        fence = self._newest(FenceAttempt)
        for node in [node for node in fence.nodes if node in self.run.agents]:
            self.happen(NodeFenced(node=node, attempt=fence.attempt, killed=2), after=after)
        return self

    # ----------------------------------------------------------------------------------------------------- end

    def finish(self) -> Tale:
        """Every rank ends with success."""
        attempt = self.run.attempt
        assert attempt is not None
        for rank in range(attempt.world_size):
            self.exit(rank, code=0, after=0.01)
        return self.stopped()

    def stop(self, why: str, *, save: bool = False) -> Tale:
        """Somebody asks the run to stop."""
        self.happen(StopRequested(why=why, save=save), after=1.0)
        return self if save else self.stopped()

    def requeued(self, *, ok: bool = True, detail: str = "job 101 is PENDING, asks for 4 nodes") -> Tale:
        """Slurm answers to the requeue, and the job's next incarnation is another one."""
        self.happen(RequeueAnswered(ok=ok, detail=detail), after=2.0)
        self.restart += 1
        return self

    # ------------------------------------------------------------------------------------------------- writing

    def write(self, paths: RunPaths) -> RunPaths:
        """Write the journal into a run's folder, one file an epoch."""
        by_epoch: dict[int, list[str]] = {}
        for entry in self.entries:
            by_epoch.setdefault(entry.epoch, []).append(entry.line() + "\n")
        for epoch, lines in by_epoch.items():
            paths.journal(epoch).write_text("".join(lines))
        return paths

    def _newest(self, kind: type[Kind]) -> Kind:
        found = [action for entry in self.entries for action in entry.actions if isinstance(action, kind)]
        return found[-1]


CONFIG = {
    "name": "gpt-small",
    "command": ["python", "train.py"],
    "resources": {"nodes": 4, "ranks_per_node": 2, "time": "1:00:00"},
    "recovery": {"min_nodes": 2},
    "checkpoint": {"files": "step_*.pt"},
}


def make_run(root: Path, tale: Tale | None = None, *, job_id: str = "", **changes: object) -> RunPaths:
    """The folder of a run, with its configuration, its journal and its link."""
    config = {**CONFIG, **changes}
    paths = runs.create(root, str(config["name"]))
    runs.write_private(paths.config, json.dumps(config).encode())
    resolved = Config.model_validate(config).resolved()
    runs.write_private(paths.resolved, json.dumps(resolved).encode())
    if tale is not None:
        tale.write(paths)
    linked = job_id or (tale.job_id if tale else "")
    if linked:
        runs.link_job(paths, linked)
    return paths


def config_policy(**changes: object) -> Policy:
    """The policy of a run that `make_run` makes."""
    return policy_of(Config.model_validate({**CONFIG, **changes}))
