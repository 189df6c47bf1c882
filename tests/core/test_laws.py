from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ftslurm.core.about import About, SaveKind
from ftslurm.core.events import (
    AgentLost,
    AgentUp,
    AllocationGranted,
    Finding,
    GenerationDurable,
    LaunchEnded,
    NodeFenced,
    NodeHeard,
    NodeProbed,
    NodeSuspected,
    Outcome,
    Part,
    PartDrained,
    PartPending,
    PartReplicated,
    PartSaved,
    Phase,
    RankExited,
    RequeueAnswered,
    RestoreReady,
    RestoreRefused,
    SaveRequested,
    SlurmReported,
    StopRequested,
    StorageStalled,
    StoreDiffers,
    StoreScanned,
    TimerFired,
    Witness,
    WorldMustered,
)
from ftslurm.core.manifest import generation_name
from ftslurm.core.phases import LAUNCHING, LEGAL
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run, SavedState
from ftslurm.core.symptoms import AutopsyTaken, LossAlarm, RanksResumed, RanksStalled, Stack
from ftslurm.journal import Entry, parse_line, replay
from tests.core.laws import Laws

NODES = ("n1", "n2", "n3", "n4")
ANY_NODE = st.sampled_from((*NODES, "x9"))
SOME_NODES = st.lists(st.sampled_from(NODES), unique=True, max_size=4).map(tuple)
OFFSET = st.sampled_from([0, 0, 0, 0, -1, 1])
STEP = st.sampled_from([10, 20, 30])
MAYBE = st.booleans()
WORD = st.sampled_from(["", "", "Stale file handle"])
FINDINGS = st.lists(
    st.builds(Finding, witness=st.sampled_from(Witness), outcome=st.sampled_from(Outcome)),
    unique_by=lambda finding: finding.witness,
).map(tuple)


WAITS = {
    Phase.STARTING: ("muster", "restore"),
    Phase.RELAUNCHING: ("muster", "restore"),
    Phase.STOPPING: ("fence",),
    Phase.PLANNING: ("relaunch", "relaunch:again"),
    Phase.DRAINING: ("grace", "fence", "settle"),
}


class AnythingMayHappen(RuleBasedStateMachine):
    """The world says anything at any time, in no sensible order; the laws hold all the same."""

    @initialize(
        per_node=st.sampled_from([1, 2]),
        min_nodes=st.sampled_from([1, 2]),
        multiple=st.sampled_from([1, 1, 2]),
        continue_by=st.sampled_from(["requeue", "none"]),
        can_ask=MAYBE,
        on_nan=st.sampled_from(["say", "rollback"]),
        partner=MAYBE,
        width=st.sampled_from([1, 16]),
        every=st.sampled_from([0.0, 20.0]),
    )
    def begin(self, per_node, min_nodes, multiple, continue_by, can_ask, on_nan, partner, width, every):
        self.policy = Policy(
            ranks_per_node=per_node,
            min_nodes=min_nodes,
            world_multiple_of=multiple,
            continue_by=continue_by,
            can_ask_to_save=can_ask,
            on_nan=on_nan,
            partner=partner,
            library=partner,
            drain_width=width,
            durable_every_s=every,
            checkpoints=True,
            max_attempts=6,
        )
        self.run, self.laws, self.entries, self.now = Run(), Laws(self.policy), [], 1000.0
        self.happen(self.granted(restart=0))

    def happen(self, event):
        self.now += 0.5
        event = replace(event, at=self.now, mono=self.now)
        before = self.run
        run, actions = advance(before, event, self.policy)
        entry = Entry(len(self.entries), run.epoch, event.at, run.phase, event, actions)
        self.entries.append(parse_line(entry.line()))
        assert self.entries[-1] == entry, "an entry survives its line of JSON"
        self.run = run
        self.laws.check(event, run, actions)
        fresh = isinstance(event, AllocationGranted)
        assert fresh or run.phase is before.phase or reachable(before.phase, run.phase), "the run moves by the table"

    def granted(self, **fields):
        known = {"job_id": "100", "nodes": NODES, "batch_host": "n1", "epoch": len(self.entries), "no_kill": True}
        return AllocationGranted(**{**known, **fields})

    def attempt(self, offset):
        return max((self.run.attempt.number if self.run.attempt else 0) + offset, 0)

    def generation(self, step, offset):
        return generation_name(step, self.attempt(offset))

    # ------------------------------------------------------------------------------ what leads on, so that much is seen

    @precondition(lambda self: self.run.phase is Phase.STARTING and self.run.attempt is None)
    @rule(steps=st.lists(STEP, unique=True))
    def everything_is_there(self, steps):
        for node in self.run.nodes:
            self.happen(AgentUp(node=node, address=node, port=1))
        found = tuple((generation_name(step, 0), step, 4) for step in sorted(steps))
        self.happen(StoreScanned(generations=found))

    @precondition(lambda self: self.run.phase in LAUNCHING and self.run.attempt is not None)
    @rule()
    def ranks_come_up_with_their_checkpoint(self):
        attempt = self.run.attempt
        placement = tuple(node for node in attempt.nodes for _ in range(self.policy.ranks_per_node))
        for node in attempt.nodes:
            self.happen(
                RestoreReady(generation=attempt.generation, node=node, attempt=attempt.number, path=f"/s/{node}")
            )
        self.happen(
            WorldMustered(attempt=attempt.number, placement=placement, master_addr=placement[0], master_port=29500)
        )

    @precondition(lambda self: self.run.attempt is not None and self.run.attempt.fencing)
    @rule()
    def everybody_is_fenced(self):
        attempt = self.run.attempt
        for node in attempt.nodes:
            self.happen(NodeFenced(node=node, attempt=attempt.number))

    @precondition(lambda self: self.run.attempt is not None)
    @rule(step=STEP, nodes=SOME_NODES)
    def parts_are_saved(self, step, nodes):
        attempt = self.run.attempt
        for node in nodes or attempt.nodes:
            if node in attempt.nodes:
                self.part(step, node, 0)

    @precondition(lambda self: self.run.drain_target)
    @rule(packed=MAYBE)
    def the_target_becomes_durable(self, packed):
        saved = self.run.find_saved(self.run.drain_target)
        for part in saved.parts:
            sent = replace(part, manifest_digest="9" * 32) if packed else None
            self.happen(PartDrained(generation=saved.generation, node=part.node, part=sent))
        self.happen(GenerationDurable(generation=saved.generation, digest="d"))

    # ------------------------------------------------------------------------------------------------- and anything else

    @rule(same=MAYBE, resumed=MAYBE, restart=st.integers(0, 3), nodes=SOME_NODES, wanted=st.integers(0, 4))
    def a_supervisor_starts(self, same, resumed, restart, nodes, wanted):
        nodes = nodes or NODES
        self.happen(
            self.granted(
                same_incarnation=same,
                resumed=resumed,
                restart=restart,
                nodes=self.run.nodes if same else nodes,
                wanted_nodes=min(wanted, len(nodes)),
            )
        )

    @rule(node=ANY_NODE, bare=MAYBE)
    def agent_up(self, node, bare):
        self.happen(AgentUp(node=node, address=node, port=1, scratch=not bare))

    @rule(node=ANY_NODE)
    def agent_lost(self, node):
        self.happen(AgentLost(node=node, reason="reset"))

    @rule(node=ANY_NODE, patience=st.sampled_from([1.0, 1.0, 2.5]), others=st.sampled_from([0, 0, 3]))
    def suspected(self, node, patience, others):
        self.happen(NodeSuspected(node=node, silent_s=3.1, phi=9.0, patience=patience, peers_silent=others, peers=3))

    @rule(nodes=SOME_NODES, final=MAYBE)
    def found_unreachable(self, nodes, final):
        against = (Witness.PING, Witness.TCP, Witness.SSH)
        words = [Finding(witness=witness, outcome=Outcome.UNREACHABLE) for witness in against]
        for node in nodes:
            self.happen(AgentLost(node=node, reason="timed out"))
            findings = (Finding(witness=Witness.PEER, outcome=Outcome.OK), *words)
            self.happen(NodeProbed(node=node, findings=findings, final=final))

    @rule(node=ANY_NODE)
    def heard(self, node):
        self.happen(NodeHeard(node=node))

    @rule(node=ANY_NODE, findings=FINDINGS, final=MAYBE)
    def probed(self, node, findings, final):
        self.happen(NodeProbed(node=node, findings=findings, final=final))

    @rule(placement=st.lists(ANY_NODE, max_size=8).map(tuple), offset=OFFSET)
    def mustered_anywhere(self, placement, offset):
        self.happen(
            WorldMustered(attempt=self.attempt(offset), placement=placement, master_addr="n1", master_port=29500)
        )

    @rule(rank=st.integers(0, 8), node=ANY_NODE, code=st.sampled_from([0, 1, 137]), offset=OFFSET)
    def exited(self, rank, node, code, offset):
        self.happen(RankExited(attempt=self.attempt(offset), rank=rank, node=node, code=code, signal=9 * (code > 1)))

    @precondition(lambda self: self.run.attempt is not None and self.run.attempt.released)
    @rule()
    def all_succeed(self):
        for rank in range(self.run.attempt.world_size):
            self.happen(RankExited(attempt=self.run.attempt.number, rank=rank, node="n1", code=0))

    @rule(offset=OFFSET)
    def launch_ended(self, offset):
        self.happen(LaunchEnded(attempt=self.attempt(offset), code=1))

    @rule(node=ANY_NODE, left=st.sampled_from([(), ("4711 python",)]), offset=OFFSET)
    def fenced(self, node, left, offset):
        self.happen(NodeFenced(node=node, attempt=self.attempt(offset), left=left))

    @rule(step=STEP, node=ANY_NODE, gone=MAYBE, offset=OFFSET)
    def pending(self, step, node, gone, offset):
        self.happen(PartPending(attempt=self.attempt(offset), step=step, node=node, gone=gone))

    @rule(step=STEP, node=st.sampled_from(NODES), offset=OFFSET, base=st.sampled_from(["", "", "000000010-0000"]))
    def part(self, step, node, offset, base=""):
        part = Part(node=node, manifest_digest=f"{step:032x}", files=1, size_bytes=1)
        about = About(kind=SaveKind.DIFF, base=base) if base and step > 10 else None
        if self.run.attempt is None or node in self.run.attempt.nodes:
            attempt = self.attempt(offset)
            self.happen(PartSaved(attempt=attempt, step=step, part=part, world_size=4, about=about))

    @rule(step=STEP, owner=ANY_NODE, holder=ANY_NODE, error=WORD, offset=OFFSET)
    def copied(self, step, owner, holder, error, offset):
        name = self.generation(step, offset)
        self.happen(PartReplicated(generation=name, owner=owner, holder=holder, error=error))

    @precondition(lambda self: any(each.state is SavedState.LOCAL for each in self.run.saved))
    @rule()
    def everything_is_copied(self):
        saved = next(each for each in reversed(self.run.saved) if each.state is SavedState.LOCAL)
        for owner, holder in zip(NODES, NODES[2:] + NODES[:2], strict=True):
            self.happen(PartReplicated(generation=saved.generation, owner=owner, holder=holder))

    @rule()
    def a_save_is_wanted(self):
        self.happen(SaveRequested())

    @rule(step=STEP, offset=OFFSET)
    def store_differs(self, step, offset):
        self.happen(StoreDiffers(generation=self.generation(step, offset), reason="chunk 3"))

    @rule(step=STEP, node=ANY_NODE, error=WORD, offset=OFFSET, packed=MAYBE, damaged=MAYBE)
    def drained(self, step, node, error, offset, packed, damaged):
        part = Part(node=node, manifest_digest="9" * 32, files=2, size_bytes=1) if packed else None
        generation = self.generation(step, offset)
        told = {"error": error, "damaged": damaged and bool(error), "reason": "it pays"}
        self.happen(PartDrained(generation=generation, node=node, part=part, **told))

    @rule(step=STEP, error=WORD, offset=OFFSET)
    def durable(self, step, error, offset):
        self.happen(GenerationDurable(generation=self.generation(step, offset), digest="d", error=error))

    @rule(step=STEP, node=ANY_NODE, offset=OFFSET)
    def restored(self, step, node, offset):
        generation = self.run.attempt.generation if self.run.attempt else self.generation(step, offset)
        self.happen(RestoreReady(generation=generation, node=node, attempt=self.attempt(offset), path="/s"))

    @precondition(lambda self: self.run.attempt is not None)
    @rule(node=ANY_NODE, damaged=MAYBE, offset=OFFSET)
    def refused(self, node, damaged, offset):
        generation = self.run.attempt.generation
        number = self.attempt(offset)
        self.happen(RestoreRefused(generation=generation, node=node, attempt=number, reason="bad", damaged=damaged))

    @rule(state=st.sampled_from(["RUNNING", "UNKNOWN", "CANCELLED"]), gone=SOME_NODES)
    def slurm(self, state, gone):
        self.happen(SlurmReported(job_state=state, gone=gone[:1]))

    @rule(why=st.sampled_from(["time_limit", "cancel", "preempt", "user"]), save=MAYBE)
    def stop(self, why, save):
        self.happen(StopRequested(why=why, save=save))

    @rule(ok=MAYBE, forgiven=SOME_NODES)
    def requeue_answered(self, ok, forgiven):
        self.happen(RequeueAnswered(ok=ok, detail="PENDING", forgiven=forgiven))

    @precondition(lambda self: self.run.timers)
    @rule(choice=st.integers(0, 50), stale=st.sampled_from([False, False, True]))
    def timer(self, choice, stale):
        name = sorted(self.run.timers)[choice % len(self.run.timers)]
        self.happen(TimerFired(name=name, token=self.run.timers[name] - stale))

    @rule(offset=OFFSET, step=STEP, early=MAYBE)
    def ranks_stall(self, offset, step, early):
        stall = RanksStalled(
            attempt=self.attempt(offset), ranks=(0, 1), count=2, phase="step", silent_s=25.0, limit_s=20.0, step=step
        )
        self.happen(replace(stall, early=early))

    @rule(offset=OFFSET)
    def ranks_resume(self, offset):
        self.happen(RanksResumed(attempt=self.attempt(offset)))

    @rule(
        offset=OFFSET, rank=st.integers(0, 8), state=st.sampled_from(["running", "stopped", "blocked"]), resumed=MAYBE
    )
    def autopsy(self, offset, rank, state, resumed):
        odd = Stack(state=state, frames=("read",), ranks=(rank,))
        rest = Stack(state="running", frames=("all_reduce",), ranks=(9, 10))
        self.happen(AutopsyTaken(attempt=self.attempt(offset), stacks=(rest, odd), resumed=resumed))

    @rule(offset=OFFSET, rank=st.integers(0, 8), step=STEP, kind=st.sampled_from(["nan", "spike"]))
    def loss_alarm(self, offset, rank, step, kind):
        self.happen(LossAlarm(attempt=self.attempt(offset), kind=kind, rank=rank, step=step, value="nan"))

    @rule()
    def stalled(self):
        self.happen(StorageStalled(for_s=12.0))

    # ------------------------------------------------------------------------------------------------------ invariants

    @invariant()
    def someone_will_speak_of_every_wait(self):
        """A phase that waits has the timer that will end it, or has asked Slurm, which always answers."""
        run = getattr(self, "run", None)
        if run is None or run.phase not in WAITS or (run.phase is Phase.STARTING and run.attempt is None):
            return
        waits = set(WAITS[run.phase]) & set(run.timers)
        assert waits or run.requeue_asked, f"nobody will end this wait: {run}"
        if run.phase in LAUNCHING and run.attempt.mustered:
            assert "restore" in waits, f"nobody will end the wait for the checkpoint: {run}"

    def teardown(self):
        if getattr(self, "entries", None):
            assert replay(iter(self.entries), self.policy) == (self.run, len(self.entries))


def reachable(start, end):
    """Tell whether a way leads from one phase to another within one event: several moves may follow each other."""
    seen, front = {start}, {start}
    while front:
        front = {after for phase in front for after in LEGAL[phase]} - seen
        seen |= front
    return end in seen


TestAnythingMayHappen = AnythingMayHappen.TestCase
TestAnythingMayHappen.settings = settings(max_examples=50, stateful_step_count=50)
