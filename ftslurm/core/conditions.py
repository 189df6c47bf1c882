"""What agents find out about their nodes and devices, as events; and the one action of their own: the user's hook.

Readings are no events: an agent digests them by `core.health`, and only a level that changes is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ftslurm.core.actions import Action
from ftslurm.core.events import Event
from ftslurm.core.health import Consequence, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth(Event):
    """The level of one metric, of a node or of one of its devices, has changed.

    `action` is what the rule demands that holds now (NONE when none does). `reason` is the sentence with the numbers.
    """

    node: str
    level: Level
    metric: str
    device: str = ""
    value: float = 0.0
    unit: str = ""
    reason: str
    action: Consequence = Consequence.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChecked(Event):
    """All probes of a node were asked once: when its agent started, before a relaunch, or when some fall silent.

    `bad` are the metrics (as `metric` or `metric/device`) that are not healthy now: what an earlier agent of the node
    reported and is not among them is over. `unknown` are the probes that could not answer, each with the reason.
    """

    node: str
    bad: tuple[str, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class XidSeen(Event):
    """A GPU's driver reported an error; repeats within 5 s are one. `gpu` is its PCI bus id."""

    node: str
    gpu: str
    xid: int
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryKilled(Event):
    """The kernel's memory killer has struck in the job's cgroup; `attempt` is the newest on this node, -1 for none."""

    node: str
    kills: int
    cgroup: str = ""
    attempt: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHook(Action):
    """Run the program that the user has set for this occasion, with these facts as JSON on its standard input."""

    hook: str
    facts: dict[str, str] = field(default_factory=dict)
