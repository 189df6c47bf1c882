"""A cluster in a few hundred lines: it does what the core asks, as a sound cluster would, and fails where it is told to.

The program that is trained saves every ten steps, hangs when one of its ranks is gone, and reports success at its last
step. So a run in this world must come to an end, whatever happens.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod

from ftslurm.core.actions import (
    Action,
    AskToSave,
    CleanScratch,
    CommitDurable,
    Drain,
    FenceAttempt,
    LaunchAgents,
    LaunchAttempt,
    ProbeNode,
    Quarantine,
    ReleaseRanks,
    Replicate,
    Requeue,
    Restore,
    SetTimer,
    TakeAutopsy,
)
from ftslurm.core.events import (
    ENDED,
    AgentUp,
    AllocationGranted,
    Event,
    Finding,
    GenerationDurable,
    LaunchEnded,
    NodeFenced,
    NodeProbed,
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
    SlurmReported,
    StoreScanned,
    TimerFired,
    Witness,
    WorldMustered,
)
from ftslurm.core.manifest import generation_name
from ftslurm.core.symptoms import AutopsyTaken, Stack
from tests.core.stage import CUT, FROZEN, UP, Node, Stage

GOAL = 60
SLURMD_TIMEOUT_S = 60.0
POLL_S = 20.0


@dataclass
class World(Stage):
    """The cluster."""

    wanted: int = 4
    no_kill: bool = True
    sharded: bool = True
    store: dict[str, tuple[int, int]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    torn_next: list[str] = field(default_factory=list)
    storage_back: float = 0.0
    slurmctld_back: float = 0.0
    restart: int = 0
    hung: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        self._fresh = itertools.count(1)
        self.grant(same=False)
        self.later(POLL_S, self._poll)

    # ------------------------------------------------------------------------------------------------ incarnations

    def grant(self, *, same: bool, resumed: bool = False, host: str = "") -> None:
        """A supervisor starts; on `host` it takes over from one that was lost."""
        self.epoch += 1
        names = self.run.nodes if same else self.names
        self.happen(
            AllocationGranted(
                job_id="100",
                restart=self.restart,
                nodes=names,
                batch_host=names[0],
                epoch=self.epoch,
                no_kill=self.no_kill,
                resumed=resumed,
                same_incarnation=same,
                wanted_nodes=min(self.wanted, len(names)),
                host=host,
                takeover="nothing was heard of it for 6.1 s" if host else "",
            )
        )
        self._scan()

    def _scan(self) -> None:
        wait = max(0.5, self.storage_back - self.now)
        epoch = self.epoch

        def work() -> None:
            if epoch == self.epoch:
                found = sorted((step, name, world) for name, (step, world) in self.store.items())
                self.happen(StoreScanned(generations=tuple((name, step, world) for step, name, world in found)))

        self.later(wait, work)

    def restart_supervisor(self) -> None:
        """The supervisor dies and is started again, or another node takes over: agents come back to it by themselves."""
        if self.run.phase in ENDED | {Phase.REQUEUED, Phase.SUBMITTED}:
            return
        host = self.random.choice(["", *(node.name for node in self.nodes.values() if node.agent and node.state == UP)])
        self.grant(same=True, host=host)
        for node in self.nodes.values():
            if node.agent:
                self.from_node(node.name, 0.1 if host else 1.0, self._up(node))

    def new_incarnation(self, exclude: tuple[str, ...]) -> None:
        """Slurm has ended the job and starts it again, on sound nodes where there are some."""
        self.restart += 1
        kept = [node for node in self.nodes.values() if node.state == UP and node.name not in exclude]
        fresh = [Node(f"m{next(self._fresh)}") for _ in range(len(self.names) - len(kept))]
        for node in kept:
            node.agent, node.life, node.ranks = False, node.life + 1, set()
        self.nodes |= {node.name: node for node in fresh}
        self.names = tuple(node.name for node in (*kept, *fresh))
        self.grant(same=False)

    def _poll(self) -> None:
        """Slurm's word, now and then; a node that has not answered it for long is taken out of the job."""
        bad = [node for node in self.nodes.values() if node.name in self.run.nodes and node.bad_since is not None]
        gone = tuple(node.name for node in bad if self.now - (node.bad_since or 0.0) > SLURMD_TIMEOUT_S)
        if self.run.phase not in {Phase.SUBMITTED, Phase.REQUEUED} and self.now >= self.slurmctld_back:
            if gone and not self.no_kill:
                self.new_incarnation(gone)
            else:
                self.happen(SlurmReported(job_state="RUNNING", gone=gone))
        self.later(POLL_S, self._poll)

    # ------------------------------------------------------------------------------------------------- the actions

    @singledispatchmethod
    def perform(self, action: Action) -> None:
        """Say, CommitLocal and EndRun ask for nothing that comes back."""

    @perform.register
    def _set_timer(self, action: SetTimer) -> None:
        self.from_supervisor(action.after_s, TimerFired(name=action.name, token=action.token))

    @perform.register
    def _launch_agents(self, action: LaunchAgents) -> None:
        for name in action.nodes:
            self.later(0.5, lambda node=self.nodes[name]: self._start_agent(node))

    def _start_agent(self, node: Node) -> None:
        if node.state == UP:
            node.agent, node.life = True, node.life + 1
            self.from_node(node.name, 0.1, self._up(node), *self._held(node))

    def _held(self, node: Node) -> list[Event]:
        """What an agent that was started again finds on its node: checkpoints, and ranks that want to tell their end."""
        return [*(part for part in node.scratch.values() if part.attempt in node.ranks), *node.ends]

    def _up(self, node: Node) -> AgentUp:
        return AgentUp(node=node.name, address=node.name, port=1, attempt=max(node.ranks, default=None))

    @perform.register
    def _probe(self, action: ProbeNode) -> None:
        node = self.nodes[action.node]
        others = [each for each in self.nodes.values() if each.state == UP and each.agent and each is not node]
        said = {Witness.PEER: Outcome.OK if others else Outcome.UNKNOWN}
        said[Witness.PING] = Outcome.OK if node.state in {UP, FROZEN} else Outcome.UNREACHABLE
        said[Witness.TCP] = said[Witness.PING]
        said[Witness.SSH] = Outcome.OK if node.state == UP else Outcome.UNREACHABLE
        if self.now >= self.slurmctld_back:
            down = node.bad_since is not None and self.now - node.bad_since > SLURMD_TIMEOUT_S
            said[Witness.SLURM] = Outcome.FAILED if down else Outcome.OK
            said[Witness.SRUN] = said[Witness.SSH]
        found = [Finding(witness=witness, outcome=outcome) for witness, outcome in said.items()]
        self.random.shuffle(found)
        for count in range(1, len(found) + 1):
            final = count == len(found)
            event = NodeProbed(node=action.node, findings=tuple(found[:count]), final=final)
            self.from_supervisor(3.0 if final else 0.5 * count, event)

    @perform.register
    def _launch(self, action: LaunchAttempt) -> None:
        barred = set(self.run.condemned)
        for node in self.nodes.values():
            old = {number for number in node.ranks if number < action.attempt}
            assert not old or node.name in barred or node.name not in self.run.nodes, f"{node} beside {action}"
        if self.now < self.slurmctld_back:
            self.from_supervisor(1.0, LaunchEnded(attempt=action.attempt, code=1, output="no slurmctld"))
            return
        placement = self.planned(action.nodes)
        sound = [self.nodes[name] for name in action.nodes if self.nodes[name].state == UP]
        for node in sound:
            node.ranks.add(action.attempt)
        if len(sound) == len(action.nodes):
            mustered = WorldMustered(
                attempt=action.attempt, placement=placement, master_addr=placement[0], master_port=29500
            )
            self.from_supervisor(0.5, mustered)

    @perform.register
    def _fence(self, action: FenceAttempt) -> None:
        for name in action.nodes:
            self._fence_node(self.nodes[name], action.attempt)

    def _fence_node(self, node: Node, attempt: int) -> None:
        if node.state != UP or not node.agent:
            return
        if self.now < node.unkillable_until:
            self.from_node(node.name, 3.0, NodeFenced(node=node.name, attempt=attempt, left=("4711 python",)))
            return
        held = self._held(node)
        node.ranks = {number for number in node.ranks if number > attempt}
        self.from_node(node.name, 0.3, *held, NodeFenced(node=node.name, attempt=attempt))

    @perform.register
    def _release(self, action: ReleaseRanks) -> None:
        for name in action.again or set(action.placement):
            self._tell(self.nodes[name], action.attempt)
        if action.attempt not in self.begun:
            self.begun.add(action.attempt)
            self.later(10.0, lambda: self._train(action, action.step + 10))

    def _tell(self, node: Node, attempt: int) -> None:
        """The word that ranks may begin waits behind a cut, and is lost with the agent."""
        life = node.life

        def work() -> None:
            if node.state in {CUT, FROZEN} and node.life == life:
                self.later(1.0, work)
            elif node.state == UP and node.agent and node.life == life:
                node.told.add(attempt)

        work()

    @perform.register
    def _save(self, action: AskToSave) -> None:
        assert self.run.attempt is not None
        nodes = [self.nodes[name] for name in self.run.attempt.nodes]
        if all(node.state == UP and action.attempt in node.ranks for node in nodes):
            self._write(action.attempt, max(self.run.newest_step, 0) + 5, nodes)

    @perform.register
    def _autopsy(self, action: TakeAutopsy) -> None:
        """The agents that can speak say what their ranks do: one stands still, the others wait for it."""
        placement = self.run.current.placement
        seen = [rank for rank, name in enumerate(placement) if self.nodes[name].state == UP and self.nodes[name].agent]
        odd = tuple(rank for rank in seen if self.hung == (action.attempt, placement[rank]))[:1]
        rest = tuple(rank for rank in seen if rank not in odd)
        stacks = [Stack(state="running", frames=("wait", "all_reduce"), ranks=rest)]
        stacks += [Stack(state="stopped", frames=("read",), ranks=odd)] if odd else []
        self.from_supervisor(2.0, AutopsyTaken(attempt=action.attempt, stacks=tuple(stacks)))

    @perform.register
    def _restore(self, action: Restore) -> None:
        for name in action.nodes:
            self._restore_on(name, action)

    def _restore_on(self, name: str, action: Restore) -> None:
        common = {"generation": action.generation, "node": name, "attempt": action.attempt}
        if not self.nodes[name].agent:
            return
        if action.generation in self.damaged or not (action.generation in self.store or action.wanted):
            self.from_node(name, 1.0, RestoreRefused(**common, reason="chunk 3 differs", damaged=True))
        elif action.generation not in self.store and not self.has_all(action.wanted):
            self.from_node(name, 1.0, RestoreRefused(**common, reason="n3 does not answer", damaged=False))
        elif self.now < self.storage_back:
            self.from_node(name, 1.0, RestoreRefused(**common, reason="Stale file handle", damaged=False))
        else:
            self.from_node(name, 1.0, RestoreReady(**common, path=f"/scratch/{action.generation}"))

    @perform.register
    def _drain(self, action: Drain) -> None:
        for owner, name in (*((name, name) for name in action.nodes), *action.stand_ins):
            node = self.nodes[name]
            if not node.agent:
                continue
            assert action.generation in node.scratch or owner != name, f"{name} is asked for a part that it never had"
            assert (owner, action.generation) in node.partner or owner == name, f"{name} never copied it"
            error = "No space left on device" if self.now < self.storage_back else ""
            if not error:
                self.parts_there.setdefault(action.generation, set()).add(owner)
            self.from_node(name, 2.0, PartDrained(generation=action.generation, node=owner, error=error))

    @perform.register
    def _replicate(self, action: Replicate) -> None:
        for pair in action.pairs:
            holder = self.nodes[pair.holder]
            found = self.has(action.generation, pair.owner, pair.sources)
            if found and holder.agent and holder.state == UP:
                holder.partner.add((pair.owner, action.generation))
            error = "" if found else "nobody answers"
            common = {"generation": action.generation, "owner": pair.owner, "holder": pair.holder}
            self.from_node(pair.holder, 1.5, PartReplicated(**common, error=error))

    @perform.register
    def _clean(self, action: CleanScratch) -> None:
        for node in self.nodes.values():
            node.clean(action)

    @perform.register
    def _commit(self, action: CommitDurable) -> None:
        assert {part.node for part in action.parts} <= self.parts_there[action.generation], "a part is missing"
        assert not self.sharded or len(action.parts) * self.policy.ranks_per_node == action.world_size, (
            "half a checkpoint"
        )
        if self.now < self.storage_back:
            self.from_supervisor(1.0, GenerationDurable(generation=action.generation, digest="", error="EDQUOT"))
            return

        def written() -> None:
            self.store[action.generation] = (action.step, action.world_size)

        self.from_supervisor(1.0, GenerationDurable(generation=action.generation, digest="d"), then=written)

    @perform.register
    def _quarantine(self, action: Quarantine) -> None:
        self.store.pop(action.generation, None)

    @perform.register
    def _requeue(self, action: Requeue) -> None:
        self.from_supervisor(2.0, RequeueAnswered(ok=True, detail="PENDING"))
        restart = self.restart
        self.later(10.0, lambda: self.new_incarnation(action.exclude) if self.restart == restart else None)

    # ------------------------------------------------------------------------------------------------- the program

    def _train(self, start: ReleaseRanks, step: int) -> None:
        """Ten steps are done, if every rank is still there; else the others wait for it, for ever."""
        nodes = [self.nodes[name] for name in dict.fromkeys(start.placement)]
        alive = [node for node in nodes if start.attempt in node.ranks]
        if self.hung is not None and self.hung[0] == start.attempt:
            return
        if len(alive) < len(nodes) or any(node.state != UP or start.attempt not in node.told for node in nodes):
            if alive:
                self.later(5.0, lambda: self._train(start, step))
            return
        if step >= GOAL:
            for node in nodes:
                self.end_ranks(node, start.attempt, start.placement, 0)
            return
        self._write(start.attempt, step, nodes)
        self.later(10.0, lambda: self._train(start, step + 10))

    def _write(self, attempt: int, step: int, nodes: list[Node]) -> None:
        name = generation_name(step, attempt)
        world = len(nodes) * self.policy.ranks_per_node
        writers = nodes if self.sharded else nodes[:1]
        torn = self.torn_next.pop() if self.torn_next else ""
        for node in writers:
            if node.name == torn:
                pending = PartPending(attempt=attempt, step=step, node=torn)
                self.from_node(torn, 0.1, *[pending, replace(pending, gone=True)][: self.random.randrange(3)])
                placement = self.planned(tuple(each.name for each in nodes))
                self.end_ranks(node, attempt, placement, 137)
                continue
            part = Part(node=node.name, manifest_digest=f"{step:032x}", files=1, size_bytes=1)
            node.scratch[name] = PartSaved(attempt=attempt, step=step, part=part, world_size=world)
            self.from_node(node.name, 0.5, node.scratch[name])

    def end_ranks(self, node: Node, attempt: int, placement: tuple[str, ...], code: int, tail: str = "") -> None:
        """All ranks of an attempt on a node end."""
        node.ranks.discard(attempt)
        for rank, name in enumerate(placement):
            if name == node.name:
                node.ends.append(RankExited(attempt=attempt, rank=rank, node=name, code=code, tail=tail))
                self.from_node(name, 0.2, node.ends[-1])

    def lose_ranks(self, node: Node, code: int, tail: str) -> None:
        """The ranks of the attempt on a node end, and the others lose their connection to them."""
        attempt = self.run.attempt
        if attempt is None or node.state != UP or attempt.number not in node.ranks:
            return
        placement = attempt.placement or self.planned(attempt.nodes)
        self.end_ranks(node, attempt.number, placement, code, tail)
        for name in attempt.nodes:
            other = self.nodes[name]
            if other is not node and other.state == UP and attempt.number in other.ranks:
                self.end_ranks(other, attempt.number, placement, 1, "RuntimeError: Connection closed by peer")
