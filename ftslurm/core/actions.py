"""What the core may answer to an event. Actions are performed by the supervisor, after they have been journalled."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftslurm.core.about import About
from ftslurm.core.events import Part, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Root of all actions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAgents(Action):
    """Start agents on these nodes, in a job step of their own."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeNode(Action):
    """Ask every witness about a node. The answers come back as NodeProbed."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAttempt(Action):
    """Start the training on exactly these nodes; restore from `generation` (empty: from the beginning)."""

    attempt: int
    nodes: tuple[str, ...]
    world_size: int
    generation: str = ""
    avoid_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRanks(Action):
    """The world is the planned one and the checkpoint is at hand: let the ranks start the user's program.

    `again` names nodes that have to be told once more, because they may not have heard it; empty: all are told.
    """

    attempt: int
    placement: tuple[str, ...]
    master_addr: str
    master_port: int
    checkpoint: str = ""
    step: int = 0
    again: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """A whole generation, and the nodes that can be asked for each of its parts.

    `packed`: on shared storage, once it is committed, it lies otherwise than on the nodes.
    """

    generation: str
    world_size: int
    parts: tuple[Part, ...]
    holders: tuple[tuple[str, ...], ...]
    about: About | None = None
    packed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore(Action):
    """Bring every verified byte of a whole generation to these nodes, for this attempt.

    `wanted` are the generation and the one it builds upon; one that is not there is known by its COMMIT.json.
    """

    generation: str
    attempt: int
    nodes: tuple[str, ...]
    wanted: tuple[Whereabouts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceAttempt(Action):
    """Kill every process of this attempt and older ones on these nodes; cancel its job step in the background.

    Condemned nodes are told too: one that was only frozen hears it when it wakes. Nobody waits for their answer.

    `clean` is true when every rank reported exit code 0: files that a finished writer left are then complete.
    """

    attempt: int
    nodes: tuple[str, ...]
    clean: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskToSave(Action):
    """Ask the program to save now, in the way that its configuration names.

    `number` grows with each order of the run; `stop`: it is to end after the save.
    """

    attempt: int
    number: int = 0
    why: str = ""
    stop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeAutopsy(Action):
    """Write down what every rank of the attempt is doing. The answer comes as AutopsyTaken."""

    attempt: int
    nodes: tuple[str, ...]
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitLocal(Action):
    """Replicate the LOCAL record of a generation to all agents."""

    generation: str
    step: int
    world_size: int = 1
    parts: tuple[Part, ...]
    about: About | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A partner copy: `holder` takes the part of `owner`, whose manifest has this digest, from one of `sources`."""

    owner: str
    holder: str
    digest: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicate(Action):
    """Let nodes take copies of other nodes' parts of a LOCAL generation. The answers come as PartReplicated."""

    generation: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Action):
    """The one drain target of the job: these nodes copy their parts to shared storage.

    `stand_ins`: (owner, holder), where the holder of a partner copy does it for an owner that is gone. `base`: the
    durable generation that this one builds upon, against which parts may be packed.
    """

    generation: str
    nodes: tuple[str, ...]
    stand_ins: tuple[tuple[str, str], ...] = ()
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitDurable(Action):
    """Write COMMIT.json, last; then delete what may go, but none of `protected`."""

    generation: str
    step: int
    world_size: int
    parts: tuple[Part, ...]
    about: About | None = None
    protected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanScratch(Action):
    """Generations up to and including this one may leave the nodes' scratch, but none of `keep`."""

    watermark: str
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine(Action):
    """Set a damaged generation aside; never delete it."""

    generation: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue(Action):
    """Let the run go on in other nodes.

    By a requeue (requeue, NumTasks, NumNodes, ExcNodeList, in this order), in the next job of a chain, or in a job that
    is submitted for it (resubmit). The answer comes as RequeueAnswered.
    """

    num_nodes: int
    num_tasks: int
    exclude: tuple[str, ...]
    reason: str
    by: str = "requeue"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRun(Action):
    """The run has ended: agents are told to leave, the parent returns `code`."""

    phase: Phase
    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer(Action):
    """Send TimerFired(name, token) after `after_s` seconds."""

    name: str
    token: int
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Say(Action):
    """Tell the user: one line on the job's output, and in the story that `explain` prints."""

    text: str
    slug: str = ""
    facts: dict[str, str] = field(default_factory=dict)
