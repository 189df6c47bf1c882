"""What is done to break something, as data: who does it, and how, is the business of `ftslurm.faults.means`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ftslurm.errors import UsageError


class Prey(StrEnum):
    """The processes that a signal or a limit is for."""

    RANK = "rank"
    AGENT = "agent"
    SUPERVISOR = "supervisor"
    NODE = "node"  # all processes that the run has on the node


class Moment(StrEnum):
    """When the second of two faults strikes: while the first is being recovered from."""

    DETECTION = "detection"
    RELAUNCH = "relaunch"
    LOAD = "load"


class Way(StrEnum):
    """How a committed checkpoint is damaged."""

    FLIP = "flip"
    TRUNCATE = "truncate"
    ZERO = "zero"
    SWAP = "swap"
    DROP = "drop"
    MANIFEST = "manifest"


@dataclass(frozen=True)
class Deed:
    """Root of all."""


@dataclass(frozen=True, kw_only=True)
class Send(Deed):
    """A signal by its name; `back` is the one that undoes it, empty where nothing does."""

    signal: str
    to: Prey = Prey.RANK
    back: str = ""


@dataclass(frozen=True, kw_only=True)
class Stutter(Deed):
    """Stopped for `stopped_s` of every `every_s` seconds: a share of a core, without a cgroup."""

    stopped_s: float
    every_s: float
    to: Prey = Prey.RANK


@dataclass(frozen=True, kw_only=True)
class Limit(Deed):
    """A soft limit of setrlimit(2), set from outside with prlimit(2)."""

    resource: str
    value: int
    to: Prey = Prey.RANK


@dataclass(frozen=True, kw_only=True)
class Confine(Deed):
    """A cgroup of its own, of version 1 or 2, with so many bytes more, or such a share of its CPU time."""

    memory_bytes: int | None = None
    cpu_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ask(Deed):
    """The program does it to itself, by an order in `<run>/faults.d/` (`ftslurm.faults.willing`)."""

    word: str


@dataclass(frozen=True, kw_only=True)
class Link(Deed):
    """The node's cable is pulled, or what is sent to the node comes late or not at all."""

    cut: bool = False
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0


@dataclass(frozen=True)
class Power(Deed):
    """The node's power is cut."""


@dataclass(frozen=True)
class Freeze(Deed):
    """Every process of the node is stopped, while its kernel still answers."""


@dataclass(frozen=True, kw_only=True)
class Store(Deed):
    """Shared storage fails with an errno's name, `HANG`s (nobody can be killed), is `FREEZE`d, or is `SLOW`."""

    word: str


@dataclass(frozen=True, kw_only=True)
class Controller(Deed):
    """slurmctld is killed, or stopped."""

    kill: bool


@dataclass(frozen=True, kw_only=True)
class Damage(Deed):
    """The newest committed checkpoint is damaged, in every copy that can be reached."""

    way: Way


@dataclass(frozen=True, kw_only=True)
class Schedule(Deed):
    """Slurm is asked to do something to the job or to the node: requeue, cancel, time-limit, drain."""

    verb: str


@dataclass(frozen=True)
class Litter(Deed):
    """Files that nobody asked for, with names and contents that are meant to hurt, in the run's own folders."""


@dataclass(frozen=True)
class ReportXid(Deed):
    """A line in the kernel's log as NVIDIA's driver writes it when a GPU has fallen off the bus."""


@dataclass(frozen=True)
class ResetGpu(Deed):
    """`nvidia-smi --gpu-reset` on the node."""


@dataclass(frozen=True, kw_only=True)
class Pair(Deed):
    """One fault, and another one while the first is being recovered from."""

    first: str
    second: str
    moment: Moment


def to_record(deed: Deed) -> dict[str, Any]:
    """A deed as plain values, for a command line."""
    return {"deed": type(deed).__name__, **asdict(deed)}


def from_record(record: Mapping[str, Any]) -> Deed:
    """The deed of a record.

    Raises:
        UsageError: there is no such deed.
    """
    values = dict(record)
    name = values.pop("deed", "")
    # With slots a class is made twice, and the first of the two may still be there: the later one counts.
    kind = {each.__name__: each for each in Deed.__subclasses__()}.get(name)
    if kind is None:
        raise UsageError(f"there is no deed {name!r}")
    words: dict[str, type[StrEnum]] = {"to": Prey, "way": Way, "moment": Moment}
    return kind(**{key: words[key](value) if key in words else value for key, value in values.items()})
