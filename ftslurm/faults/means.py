"""Who can break things: what an implementation offers, and whom a fault hits.

`ftslurm.faults.own` breaks one's own runs as an ordinary user does; the lab, where nodes have cables and power, has
an implementation of its own (`ftslurm.lab.means`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ftslurm.faults.fault import Fault, Need
from ftslurm.faults.truth import Injection
from ftslurm.paths import RunPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a fault hits: a run, and in it a rank or a node.

    `draw` tells how they were chosen, `part_of` is the id of the double fault that it belongs to.
    """

    paths: RunPaths
    node: str = ""
    rank: int | None = None
    attempt: int | None = None
    draw: Mapping[str, Any] = field(default_factory=dict)
    part_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """Where a run is now: the node of each rank of its newest attempt, and that of its supervisor."""

    placement: tuple[str, ...]
    host: str = ""
    attempt: int | None = None
    allocation: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """A fault was made: when, by the clock of where it was done, and what exactly was done."""

    at: float
    note: str = ""


class Means(Protocol):
    """The ways to break one run and to mend it."""

    @property
    def offers(self) -> frozenset[Need]:
        """What faults may need of it; a fault that needs more is refused."""

    def strike(self, fault: Fault, injection: Injection, lasts_s: float | None) -> Struck:
        """Make a fault as the injection says. If we end without `undo`, what can is undone after `lasts_s`.

        Raises:
            FtslurmError: it could not be made; nothing of it is left.
        """

    def undo(self, fault: Fault, injection: Injection) -> float:
        """Undo what `strike` did and return when; what is well already is left alone.

        Raises:
            FtslurmError: it could not be undone.
        """
