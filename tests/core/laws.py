"""The laws that hold for every run, whatever happens: checked after each event of each scenario and property test.

A `Laws` object watches from outside. What it knows of the world (which node confirmed what, which rank registered) it has
from the events alone, never from the state that it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatchmethod

from ftslurm.core.actions import (
    Action,
    AskToSave,
    CleanScratch,
    CommitDurable,
    CommitLocal,
    Drain,
    EndRun,
    FenceAttempt,
    LaunchAttempt,
    ReleaseRanks,
    Replicate,
    Requeue,
    Restore,
    SetTimer,
)
from ftslurm.core.confirmation import INCIDENT_S
from ftslurm.core.events import (
    ENDED,
    AllocationGranted,
    Event,
    NodeFenced,
    NodeProbed,
    Outcome,
    Part,
    PartDrained,
    PartReplicated,
    Phase,
    RequeueAnswered,
    RestoreReady,
    Witness,
    WorldMustered,
)
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run, SavedState
from ftslurm.core.verdict import ASKED


@dataclass
class Laws:
    """What must never be broken; `check` raises AssertionError with the sentence of the law."""

    policy: Policy
    run: Run = field(default_factory=Run)
    before: Run = field(default_factory=Run)
    launched: list[int] = field(default_factory=list)
    released: set[int] = field(default_factory=set)
    fence_asked: dict[int, set[str]] = field(default_factory=dict)
    fenced: dict[int, set[str]] = field(default_factory=dict)
    mustered: dict[int, WorldMustered] = field(default_factory=dict)
    at_hand: dict[tuple[int, str], set[str]] = field(default_factory=dict)
    drained: dict[str, set[str]] = field(default_factory=dict)
    brought: set[Part] = field(default_factory=set)
    denied: set[tuple[str, str]] = field(default_factory=set)
    copied: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    orders: int = 0
    tokens: set[int] = field(default_factory=set)
    requeues_asked: int = 0
    fell: dict[str, float] = field(default_factory=dict)
    live: tuple[int, tuple[str, ...]] | None = None

    def check(self, event: Event, run: Run, actions: tuple[Action, ...]) -> None:
        """Judge one step of a run."""
        before = self.before = self.run
        self.run = run
        self._note(event)
        self._state(before, run, event)
        self._given_up(event, run)
        for action in actions:
            self._action(action)
        if run.phase in ENDED and before.phase not in ENDED:
            assert any(isinstance(action, EndRun) for action in actions), "a run that ends says so once"

    # ------------------------------------------------------------------------------------------------ the world

    def _note(self, event: Event) -> None:
        if isinstance(event, NodeFenced) and not event.left and event.node in self.fence_asked.get(event.attempt, ()):
            self.fenced.setdefault(event.attempt, set()).add(event.node)
        elif isinstance(event, WorldMustered) and event.attempt not in self.released:
            self.mustered[event.attempt] = event
        elif isinstance(event, RestoreReady):
            self.at_hand.setdefault((event.attempt, event.generation), set()).add(event.node)
        elif isinstance(event, PartDrained) and not event.error:
            self.drained.setdefault(event.generation, set()).add(event.node)
            self.brought |= {event.part} if event.part else set()
        elif isinstance(event, PartDrained) and event.damaged:
            self.denied.add((event.generation, event.node))
        elif isinstance(event, PartReplicated) and not event.error:
            self.copied.setdefault((event.generation, event.owner), set()).add(event.holder)
        elif isinstance(event, AllocationGranted):
            self.requeues_asked = 0
            self.fell = dict.fromkeys(self.fell, event.mono) if event.same_incarnation else {}
            if self.run.attempt is None:
                self.live = None  # a new incarnation: Slurm has ended every job step of the one before

    # ------------------------------------------------------------------------------------------------ the state

    def _state(self, before: Run, run: Run, event: Event) -> None:
        granted = isinstance(event, AllocationGranted)
        if before.phase in ENDED and not (granted and event.resumed):
            assert run == before, "an ended run changes only when the user resumes it"
        assert run.next_attempt >= before.next_attempt, "attempt numbers never decrease"
        forgiven = set(event.forgiven) if isinstance(event, RequeueAnswered) else set()
        assert set(run.condemned) >= set(before.condemned) - forgiven, "a condemned node stays condemned"
        assert not run.agents & set(run.condemned), "a condemned node has no agent that counts"
        assert not set(run.suspects) & set(run.condemned), "a condemned node is suspected no more"
        if not granted:
            assert run.failures[: len(before.failures)] == before.failures, "failures are never forgotten"
        attempt = run.attempt
        if attempt is not None:
            assert attempt.number < run.next_attempt, "the number of the attempt has been used up"
            assert set(attempt.nodes) <= set(run.nodes), "an attempt stays inside the allocation"
        if run.drain_target:
            assert run.find_saved(run.drain_target) is not None, "the drain target is a checkpoint that is known"
        names = [each.generation for each in run.saved]
        assert len(names) == len(set(names)), "a generation is known once"

    def _given_up(self, event: Event, run: Run) -> None:
        """Nobody is given up on too little: two witnesses, or every one of them where many have fallen."""
        fallen = [name for name in run.condemned if name not in self.before.condemned]
        recent = [name for name, at in self.fell.items() if event.mono - at <= INCIDENT_S]
        self.fell |= dict.fromkeys(fallen, event.mono)
        if not fallen or not isinstance(event, NodeProbed):
            return
        by = {finding.witness: finding.outcome for finding in event.findings}
        if by.get(Witness.SLURM) is Outcome.FAILED:
            return
        against = sum(by.get(witness) in (Outcome.FAILED, Outcome.UNREACHABLE) for witness in ASKED)
        assert fallen == [event.node], "only the node that was asked about is given up"
        assert against >= 2, "nobody is given up without two witnesses"
        assert by.get(Witness.PEER) is Outcome.OK, "nobody is given up by an observer that reaches nobody"
        assert by.get(Witness.RING) is not Outcome.OK, "nobody is given up whom the ring still hears"
        if len(recent) >= max(1, len(self.before.nodes) // 20):
            assert event.final, "in a mass loss the last word is waited for"
            assert against >= 3, "in a mass loss every witness must agree"

    # ---------------------------------------------------------------------------------------------- the actions

    @singledispatchmethod
    def _action(self, action: Action) -> None:
        """Actions without a law of their own."""

    @_action.register
    def _launch(self, action: LaunchAttempt) -> None:
        run, policy = self.run, self.policy
        assert not self.launched or action.attempt > max(self.launched), "attempt numbers are never used again"
        self.launched.append(action.attempt)
        if self.live is not None:
            number, nodes = self.live
            alive = set(nodes) - self.fenced.get(number, set()) - set(run.condemned)
            assert not alive, f"attempt {action.attempt} is launched while attempt {number} lives on {sorted(alive)}"
        self.live = (action.attempt, action.nodes)
        assert set(action.nodes) <= set(run.nodes) - set(run.condemned), "planned nodes are allocated, not condemned"
        assert len(set(action.nodes)) == len(action.nodes), "no node is planned twice"
        assert action.world_size == len(action.nodes) * policy.ranks_per_node, "every node gets its ranks"
        assert action.world_size % max(policy.world_multiple_of, 1) == 0, "the world has an allowed size"
        assert policy.min_nodes <= len(action.nodes) <= run.wanted, "between min_nodes and what the user asked for"
        assert set(action.nodes) <= run.agents, "every planned node has an agent"
        durable = [each for each in run.saved if each.state is SavedState.DURABLE]
        chosen = run.find_saved(action.generation)
        assert not durable or (chosen is not None and chosen.step >= durable[-1].step), "no durable work is given up"

    @_action.register
    def _release(self, action: ReleaseRanks) -> None:
        attempt, world = self.run.attempt, self.mustered.get(action.attempt)
        assert attempt is not None, "ranks of an attempt are released"
        assert action.attempt == attempt.number, "only the ranks of the current attempt are released"
        assert (action.attempt in self.released) == bool(action.again), "ranks are released once"
        self.released.add(action.attempt)
        assert world is not None, "ranks are released after they have mustered"
        assert set(world.placement) == set(attempt.nodes), "the world is the planned one"
        assert len(world.placement) == attempt.world_size, "the world has the planned size"
        assert action.placement == world.placement, "ranks are where they said"
        assert not set(action.placement) & set(self.run.condemned), "no rank sits on a condemned node"
        if attempt.generation:
            ready = self.at_hand.get((action.attempt, attempt.generation), set())
            assert set(attempt.nodes) <= ready, "every node has the checkpoint before ranks are released"

    @_action.register
    def _restore(self, action: Restore) -> None:
        attempt, saved = self.run.attempt, self.run.find_saved(action.generation)
        assert attempt is not None, "a checkpoint is restored for an attempt"
        assert action.attempt == attempt.number, "a checkpoint is restored for the current attempt only"
        assert saved is not None, "a known checkpoint is restored"
        assert saved.state in (SavedState.DURABLE, SavedState.LOCAL), "only a whole checkpoint is restored"
        if saved.state is SavedState.LOCAL:
            for part in saved.parts:
                there = self._keepers(action.generation, part.node) - set(self.run.condemned)
                drained = part.node in self.drained.get(action.generation, set())
                assert there or drained, f"nobody holds the part of {part.node} any more"
        for where in action.wanted:
            for part, holders in zip(where.parts, where.holders, strict=True):
                assert set(holders) <= self._keepers(where.generation, part.node), "only holders are asked for a part"
                assert set(holders) <= self.run.agents, "only nodes that answer are asked for a part"
            assert not where.packed or all(where.holders), (
                "what is packed on shared storage is asked of nodes as a whole"
            )
        assert action.generation == attempt.generation, "the checkpoint of the plan is restored"
        assert action.nodes, "a checkpoint is restored somewhere"
        assert set(action.nodes) <= set(attempt.nodes), "a checkpoint is restored on planned nodes"
        assert not attempt.fencing, "nothing is restored for an attempt that is being stopped"

    def _keepers(self, generation: str, owner: str) -> set[str]:
        return {owner} | self.copied.get((generation, owner), set())

    @_action.register
    def _replicate(self, action: Replicate) -> None:
        assert self.policy.partner, "copies are made where they are wanted"
        for pair in action.pairs:
            assert pair.holder not in pair.sources, "a copy lies on another node than what it is made from"
            assert {pair.holder, *pair.sources} <= self.run.agents, "copies are made by nodes that answer"
            assert set(pair.sources) <= self._keepers(action.generation, pair.owner), "a copy is made from a holder"
            assert not {pair.owner, pair.holder} & self.run.bare, "copies go from scratch to scratch"

    @_action.register
    def _drain(self, action: Drain) -> None:
        saved = self.run.find_saved(action.generation)
        assert saved is not None, "a known checkpoint is drained"
        assert saved.state is SavedState.LOCAL, "a checkpoint is drained until it is durable"
        assert len(action.nodes) + len(action.stand_ins) <= self.policy.drain_width, "not too many copy at a time"
        assert set(action.nodes) <= self.run.agents, "only nodes that answer are asked to copy"
        for owner, holder in action.stand_ins:
            copied = self.policy.in_place or holder in self._keepers(action.generation, owner) - {owner}
            assert copied, "a stand-in holds a copy, or what everybody can read"
            lost = (action.generation, owner) in self.denied
            assert lost or owner not in self.run.agents, "nobody stands in for an owner that answers and has its part"
        base = self.run.find_saved(saved.base) if saved.base else None
        assert not saved.base or (base is not None and base.state is SavedState.DURABLE), "a base is drained first"

    @_action.register
    def _clean(self, action: CleanScratch) -> None:
        run = self.run
        mark = run.find_saved(action.watermark)
        assert mark is not None, "the watermark is a known checkpoint"
        for saved in run.saved:
            local = saved.state is SavedState.LOCAL and saved.order <= mark.order
            assert not local or saved.generation in action.keep, f"{saved.generation} counts on scratch, and is deleted"

    @_action.register
    def _asked(self, action: AskToSave) -> None:
        assert action.number > self.orders, "orders have numbers that grow"
        self.orders = action.number

    @_action.register
    def _fence(self, action: FenceAttempt) -> None:
        attempt = self.run.attempt
        assert attempt is not None, "an attempt is fenced"
        assert action.attempt <= attempt.number, "an attempt that has begun is fenced"
        self.fence_asked.setdefault(action.attempt, set()).update(action.nodes)

    @_action.register
    def _local(self, action: CommitLocal) -> None:
        assert action.parts, "a checkpoint has parts"
        attempt = self.before.attempt
        assert attempt is not None, "only a live attempt's checkpoint is committed"
        assert action.generation.endswith(f"-{attempt.number:04d}"), "only the live attempt's checkpoint counts"
        assert {part.node for part in action.parts} <= set(attempt.nodes), "only the attempt's nodes hold parts"

    @_action.register
    def _durable(self, action: CommitDurable) -> None:
        holders = {part.node for part in action.parts}
        assert holders, "a checkpoint has parts"
        assert holders <= self.drained.get(action.generation, set()), "COMMIT is written when every part is there"
        saved = self.run.find_saved(action.generation)
        assert saved is not None, "a known checkpoint is committed"
        assert set(action.parts) <= {*saved.parts, *self.brought}, "COMMIT names what was brought to shared storage"

    @_action.register
    def _requeue(self, action: Requeue) -> None:
        self.requeues_asked += 1
        assert self.requeues_asked == 1, "Slurm is asked for one requeue"
        assert self.run.phase is Phase.DRAINING, "a requeue is the last step of leaving"
        assert set(action.exclude) == set(self.run.condemned), "every condemned node is excluded"

    @_action.register
    def _timer(self, action: SetTimer) -> None:
        assert action.token not in self.tokens, "no token is used twice"
        self.tokens.add(action.token)
        assert action.after_s >= 0, "a timer runs forward"

    @_action.register
    def _end(self, action: EndRun) -> None:
        assert action.phase in ENDED, "a run ends in an ended phase"
        assert (action.phase, action.code, action.reason) == (self.run.phase, self.run.code, self.run.reason)
        assert action.reason, "an end has a reason"
        assert (action.code == 0) == (action.phase is Phase.FINISHED), "exit code 0 means finished"
