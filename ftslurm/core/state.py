"""The state of a run: frozen records, changed only by `core.run.advance`, rebuilt by replaying the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ftslurm.core.about import About, SaveKind
from ftslurm.core.diagnosis import Cause, Diagnosis
from ftslurm.core.events import Event, Part, Phase, RankExited, StopRequested
from ftslurm.core.health import Condition
from ftslurm.core.placement import NOWHERE, Places
from ftslurm.core.symptoms import RanksStalled
from ftslurm.core.xids import Xid
from ftslurm.errors import InternalError


class SavedState(StrEnum):
    """How safe a checkpoint is. LOCAL: all parts are on scratch. DURABLE: committed on shared storage.

    SUSPECT: its bytes are right, but training that starts from it keeps dying: kept, and never restored.
    """

    PENDING = "pending"
    LOCAL = "local"
    DURABLE = "durable"
    DAMAGED = "damaged"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """One checkpoint.

    `pending` are nodes that still see unfinished files of it, `torn` those that had to drop some; `copies` are the
    partners that hold a copy of a node's part, `gone` the nodes that hold their own part no more, or not as it was.
    `packed` are the parts that lie on shared storage otherwise than on their nodes, by node. With `in_place` the files
    lie on shared storage from the beginning, and a part is what a node is to digest of them: LOCAL means that all nodes
    agree that they are complete.
    """

    generation: str
    step: int
    attempt: int
    world_size: int
    state: SavedState
    parts: tuple[Part, ...] = ()
    pending: frozenset[str] = frozenset()
    torn: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    copies: Mapping[str, frozenset[str]] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    packed: Mapping[str, Part] = field(default_factory=dict)
    in_place: bool = False
    about: About | None = None
    since_mono: float | None = None

    @property
    def order(self) -> tuple[int, int]:
        """What checkpoints are sorted by."""
        return self.step, self.attempt

    @property
    def base(self) -> str:
        """The generation that it builds upon; empty for a full one."""
        return self.about.base if self.about else ""

    @property
    def holders(self) -> frozenset[str]:
        """The nodes that hold a part of it."""
        return frozenset(part.node for part in self.parts)

    def keepers(self, owner: str) -> frozenset[str]:
        """The nodes that hold the part of a node: itself, and its partners."""
        return (frozenset({owner}) - self.gone) | self.copies.get(owner, frozenset())

    def without(self, owner: str, keeper: str) -> Saved:
        """The same after a keeper of an owner's part was found not to hold it."""
        if keeper == owner:
            return replace(self, gone=self.gone | {owner})
        return replace(self, copies={**self.copies, owner: self.copies.get(owner, frozenset()) - {keeper}})

    @property
    def shared_parts(self) -> tuple[Part, ...]:
        """The parts as they lie on shared storage, once they do."""
        return tuple(self.packed.get(part.node, part) for part in self.parts)

    def on_nodes(self, agents: frozenset[str]) -> bool:
        """Tell whether every part lies with one of these nodes."""
        return all(self.keepers(owner) & agents for owner in self.holders)

    def at_hand(self, agents: frozenset[str]) -> bool:
        """Tell whether every part lies on shared storage or with one of these nodes."""
        return self.in_place or all(owner in self.drained or self.keepers(owner) & agents for owner in self.holders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One incarnation of the program.

    `restored` maps a node to the path of the verified checkpoint there; `fenced` are the nodes where nothing of this
    attempt is left; `finished` are the ranks that reported exit code 0; `blind` are the nodes whose agent was lost, and
    with it perhaps the knowledge of files that were just being written; `stall` is the one that is being looked into;
    what the attempt saves from step `spoilt_from` on is not to be used. `begun`, `behind` and `paused_s` are what its
    ranks have told of their work (`core.working`).
    """

    number: int
    nodes: tuple[str, ...]
    world_size: int
    generation: str = ""
    step: int = 0
    placement: tuple[str, ...] = ()
    master_addr: str = ""
    master_port: int = 0
    restored: Mapping[str, str] = field(default_factory=dict)
    launched_mono: float = 0.0
    released: bool = False
    released_mono: float = 0.0
    trained_since: float = 0.0
    finished: frozenset[int] = frozenset()
    failed: tuple[RankExited, ...] = ()
    fencing: bool = False
    fenced: frozenset[str] = frozenset()
    blind: frozenset[str] = frozenset()
    stall: RanksStalled | None = None
    spoilt_from: int | None = None
    begun: bool = False
    behind: bool = False
    paused_s: float = 0.0

    @property
    def mustered(self) -> bool:
        """Whether every rank has registered."""
        return bool(self.placement)

    @property
    def ended(self) -> frozenset[int]:
        """The ranks that have reported their end, well or not: the first report counts."""
        return self.finished | {each.rank for each in self.failed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an attempt ended; `progressed` when it got past the checkpoint that it started from.

    `generation` is that checkpoint; `demoted` the one that became suspect when the attempt ended.
    """

    attempt: int
    diagnosis: Diagnosis
    progressed: bool
    newest_step: int
    generation: str = ""
    demoted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """How far the confirmation of a suspect has come (`core.confirmation`).

    `rounds` of questions are over; `agreed` of them in a row found the node lost, `wanted` must; `short` in a row would
    have, were it not for the proof that is wanted of so many nodes. `said` is what was found when it was last told.
    """

    wanted: int = 1
    rounds: int = 0
    agreed: int = 0
    short: int = 0
    said: str = ""
    said_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was learnt of the cluster for plans and prices (`core.survey`); `asked_mono` is when the queue was asked."""

    places: Places = NOWHERE
    wait_s: float | None = None
    asked_mono: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything the core knows about a run.

    `now` and `wall` are the moment of the event that is being considered; `restarts` are the seconds that the last
    launches took, `stepped` the seconds of a step by number of ranks, as often as measured. `bare` are the nodes
    without scratch. `drain_named` is when the last drain target was named; `urgent`: the next one does not wait for its
    time. `packs` are the kinds of saves that go packed to shared storage at present. `orders` is the number of the last
    order to save, `asked_mono` when it was given. `continue_by` is how this job can be gone on from; empty: as the
    policy says. `barren` jobs before it, in a row, have ended at their time limit without a new checkpoint;
    `start_step` is that of the newest one when this job began.
    """

    phase: Phase = Phase.SUBMITTED
    epoch: int = 0
    job_id: str = ""
    restart: int = 0
    nodes: tuple[str, ...] = ()
    wanted: int = 0
    batch_host: str = ""
    host: str = ""
    no_kill: bool = False
    end_time: float | None = None
    continue_by: str = ""
    barren: int = 0
    start_step: int = -1
    started_mono: float = 0.0
    agents: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    suspects: Mapping[str, float] = field(default_factory=dict)
    condemned: Mapping[str, Diagnosis] = field(default_factory=dict)
    incident: tuple[str, ...] = ()
    doubts: Mapping[str, Doubt] = field(default_factory=dict)
    fallen: Mapping[str, float] = field(default_factory=dict)
    self_doubt: bool = False
    health: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)
    xids: tuple[Xid, ...] = ()
    told: frozenset[str] = frozenset()
    attempt: Attempt | None = None
    next_attempt: int = 0
    failures: tuple[Failure, ...] = ()
    saved: tuple[Saved, ...] = ()
    drain_target: str = ""
    drain_named: float | None = None
    urgent: bool = False
    packs: frozenset[SaveKind] = frozenset()
    orders: int = 0
    asked_mono: float | None = None
    scanned: bool = False
    used_ports: tuple[int, ...] = ()
    requeues: int = 0
    launch_failures: int = 0
    timers: Mapping[str, int] = field(default_factory=dict)
    next_token: int = 1
    blame: Diagnosis | None = None
    evidence: tuple[Event, ...] = ()
    stop: StopRequested | None = None
    saw_save: bool = False
    requeue_asked: bool = False
    code: int = 0
    reason: str = ""
    now: float = field(default=0.0, compare=False)
    wall: float = field(default=0.0, compare=False)
    restarts: tuple[float, ...] = ()
    stepped: tuple[tuple[int, float], ...] = ()
    requeued_at: float = 0.0
    survey: Survey = Survey()

    @property
    def current(self) -> Attempt:
        """The attempt. To ask for it where there is none is our bug."""
        if self.attempt is None:
            raise InternalError(f"a run that is {self.phase} has no attempt")
        return self.attempt

    @property
    def usable(self) -> tuple[str, ...]:
        """Nodes of the allocation that are neither condemned nor without an agent, in Slurm's order."""
        return tuple(node for node in self.nodes if node not in self.condemned and node in self.agents)

    def with_saved(self, changed: Saved) -> Run:
        """Return the run with one checkpoint added or replaced, ordered by step and attempt."""
        if changed.since_mono is None and changed.state in (SavedState.LOCAL, SavedState.DURABLE):
            changed = replace(changed, since_mono=self.now)
        others = [each for each in self.saved if each.generation != changed.generation]
        ordered = sorted([*others, changed], key=lambda each: each.order)
        return replace(self, saved=tuple(ordered))

    def find_saved(self, generation: str) -> Saved | None:
        """Return a checkpoint by its name."""
        return next((each for each in self.saved if each.generation == generation), None)

    def base_of(self, attempt: Attempt) -> str:
        """Return what the checkpoint of an attempt builds upon; empty for nothing, or where nobody knows."""
        saved = self.find_saved(attempt.generation)
        return saved.base if saved else ""

    @property
    def newest_step(self) -> int:
        """The step of the newest checkpoint that counts, -1 without one."""
        good = (SavedState.LOCAL, SavedState.DURABLE)
        return max((each.step for each in self.saved if each.state in good), default=-1)

    def restorable(self) -> Saved | None:
        """Return the newest checkpoint that is durable, or whose every part lies on a node that can still be asked."""
        return next((each for each in reversed(self.saved) if self._can_restore(each)), None)

    def _can_restore(self, saved: Saved) -> bool:
        """A base that is not known any more is that of a durable one: it is on shared storage as well."""
        durable = saved.state is SavedState.DURABLE
        if not durable and not (saved.state is SavedState.LOCAL and saved.at_hand(self.agents)):
            return False
        base = self.find_saved(saved.base) if saved.base else None
        if base is None:
            return durable or not saved.base
        sound = base.state in (SavedState.LOCAL, SavedState.SUSPECT) and base.at_hand(self.agents)
        return sound or base.state is SavedState.DURABLE

    def cause_history(self) -> tuple[tuple[Cause, bool], ...]:
        """Return why each attempt ended, oldest first, and whether it had progressed."""
        return tuple((each.diagnosis.cause, each.progressed) for each in self.failures)
