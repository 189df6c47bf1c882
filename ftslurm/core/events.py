"""What can happen to a run: one half of the vocabulary of the whole program. The other half is `core.actions`.

Events come in from the world, stamped at the edge. They are frozen records that survive a round trip through JSON
(`core.records`), because the journal is made of them.
`at` is seconds since the epoch (wall clock, for people); `mono` is seconds on the supervisor's monotonic clock and is
the only time that decisions look at. Heartbeats are not events: `core.detector` digests them, and only a suspicion is
an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ftslurm.core.about import About


class Phase(StrEnum):
    """Where a run stands."""

    SUBMITTED = "submitted"
    STARTING = "starting"
    TRAINING = "training"
    SUSPECTING = "suspecting"
    STOPPING = "stopping"
    PLANNING = "planning"
    RELAUNCHING = "relaunching"
    DRAINING = "draining"
    FINISHED = "finished"
    FAILED = "failed"
    REQUEUED = "requeued"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


ENDED = frozenset({Phase.FINISHED, Phase.FAILED, Phase.CANCELLED, Phase.STOPPED})


class Outcome(StrEnum):
    """What a probe found. Refused by policy or filtered is UNKNOWN, never a sign of death."""

    OK = "ok"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


class Witness(StrEnum):
    """Who was asked about a node. PEER is another node, asked to learn whether the observer itself is cut off."""

    CONTROL = "control"
    PEER = "peer"
    PING = "ping"
    TCP = "tcp"
    SSH = "ssh"
    SRUN = "srun"
    SLURM = "slurm"
    RING = "ring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One witness's word on one node."""

    witness: Witness
    outcome: Outcome
    detail: str = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one node holds of one checkpoint in files mode."""

    node: str
    manifest_digest: str
    files: int
    size_bytes: int
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events."""

    at: float = 0.0
    mono: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationGranted(Event):
    """A supervisor has started inside an allocation: the first event of every epoch.

    `nodes` is in Slurm's order. `resumed` is true where the user asked for a new job to continue an ended run.
    `takeover` says why the supervisor on `host` took over from one that was lost; empty: it did not.
    `continue_by` is how this job can be gone on from, as it was found out here; empty: as the policy says.
    """

    job_id: str
    restart: int
    nodes: tuple[str, ...]
    batch_host: str
    epoch: int
    no_kill: bool
    resumed: bool = False
    same_incarnation: bool = False
    end_time: float | None = None
    wanted_nodes: int = 0
    host: str = ""
    takeover: str = ""
    continue_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUp(Event):
    """An agent is connected; `address` is where other nodes reach it, `attempt` the attempt its ranks belong to.

    `scratch`: whether the node has any; without, checkpoints are written to shared storage at once.
    """

    node: str
    address: str
    port: int
    attempt: int | None = None
    scratch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchShared(Event):
    """The scratch of a node is another node's, too: it is not used, and checkpoints go to shared storage at once."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLost(Event):
    """The connection of an agent is over: its process died, not necessarily the node. `patience`: see NodeSuspected."""

    node: str
    reason: str
    patience: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSuspected(Event):
    """Nothing was heard of a node for too long.

    `peers_silent` of the `peers` other nodes that are watched are silent as well. `patience` says how many times the
    configured silence was waited for because beats came unevenly.
    """

    node: str
    silent_s: float
    phi: float
    peers_silent: int = 0
    peers: int = 0
    patience: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProbed(Event):
    """A round of questions about a node is over, or has enough answers. `final` is true at its deadline."""

    node: str
    findings: tuple[Finding, ...]
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHeard(Event):
    """A suspected node's agent beats again."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldMustered(Event):
    """Every rank that the launcher started has registered. `placement[r]` is the node of rank r."""

    attempt: int
    placement: tuple[str, ...]
    master_addr: str
    master_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExited(Event):
    """A rank's process ended. `code` is its exit code; `signal` its number, or 0; `oom` the kernel's memory killer."""

    attempt: int
    rank: int
    node: str
    code: int
    signal: int = 0
    tail: str = ""
    oom: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEnded(Event):
    """The launcher (srun, mpirun) of an attempt ended, or could not be started. Its code proves nothing (M11)."""

    attempt: int
    code: int
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFenced(Event):
    """On this node no process of the attempt, or of an older one, is left; `left` names those that would not die."""

    node: str
    attempt: int
    killed: int = 0
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSaved(Event):
    """A node holds complete, digested files of a checkpoint on its scratch; the node of rank 0 tells about it."""

    attempt: int
    step: int
    part: Part
    world_size: int = 0
    about: About | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPending(Event):
    """A node sees files of a checkpoint that are not complete yet; `gone` when they have been dropped or deleted."""

    attempt: int
    step: int
    node: str
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDrained(Event):
    """A node's part of a generation lies, verified and fsynced, on shared storage, unless there is an `error`.

    `part` is what lies there, where parts may be packed on the way, or are digested where they are; `reason` says why
    it was packed, or why not. `damaged`: who was to copy it does not hold what was captured, or the program has removed
    or changed what stays in place; asking again is no use.
    """

    generation: str
    node: str
    took_s: float = 0.0
    error: str = ""
    part: Part | None = None
    reason: str = ""
    damaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReplicated(Event):
    """The node `holder` has a verified copy of the part of the node `owner` on its scratch."""

    generation: str
    owner: str
    holder: str
    took_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDurable(Event):
    """COMMIT.json of a generation was written and fsynced; `dropped` are the generations removed by keep_last.

    `gone`: the program has removed or changed the files before that, so that there is nothing to commit.
    """

    generation: str
    digest: str
    dropped: tuple[str, ...] = ()
    error: str = ""
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDiffers(Event):
    """Read again, a durable generation has other bytes on shared storage than were committed."""

    generation: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreScanned(Event):
    """The generations that are committed on shared storage, oldest first, as (generation, step, world size).

    `abandoned` are those that a rollback has left behind, on shared storage or on the nodes: none is started from.
    """

    generations: tuple[tuple[str, int, int], ...]
    refused: tuple[tuple[str, str], ...] = ()
    abandoned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReady(Event):
    """A node has every verified byte of a generation at hand at `path`."""

    generation: str
    node: str
    attempt: int
    path: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRefused(Event):
    """A node could not bring a generation together: `damaged` names file and chunk; else it could not be read."""

    generation: str
    node: str
    attempt: int
    reason: str
    damaged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmReported(Event):
    """Slurm's word on the job and its nodes; `gone` are the nodes that it has taken out of the job."""

    job_state: str
    gone: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested(Event):
    """Somebody wants the run to stop. `why`: time_limit, cancel, preempt, user; `by`: which user, in words.

    `within_s`: Slurm ends what is left of the job after so many seconds; 0: nobody knows, or it does not.
    """

    why: str
    save: bool
    by: str = ""
    within_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRequested(Event):
    """Somebody wants a checkpoint now, and the run to go on. `why`: operator."""

    why: str = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueAnswered(Event):
    """What Slurm said to a requeue; `forgiven` nodes could not be excluded, since too few would be left to ask for."""

    ok: bool
    detail: str
    forgiven: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Event):
    """A timer that the core has set ran out; `token` tells an old one from the current."""

    name: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStalled(Event):
    """Shared storage has not answered for `for_s` seconds (0: it answers again)."""

    for_s: float
    error: str = ""
