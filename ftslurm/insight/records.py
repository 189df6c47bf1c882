"""What a story consists of: moments in order, incidents, and what it comes to. Times are epoch seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ftslurm.core.events import ENDED, Phase
from ftslurm.insight.incident import Incident
from ftslurm.insight.saves import Save
from ftslurm.insight.walltime import Category


class Kind(StrEnum):
    """What a moment is about."""

    JOB = "job"
    RELEASED = "released"
    CHECKPOINTS = "checkpoints"
    SUSPICION = "suspicion"
    NOTE = "note"
    INCIDENT = "incident"
    LEAVING = "leaving"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of the story, said `count` times until `until`; `incident` is the number of one that belongs here."""

    t: float
    kind: Kind
    text: str
    slug: str = ""
    count: int = 1
    until: float | None = None
    incident: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What it comes to. Seconds by category sum to `total_s`; `lost_s` is work that was lost, as its time."""

    total_s: float = 0.0
    spent: dict[Category, float] = field(default_factory=dict)
    lost_s: float = 0.0
    attempts: int = 0
    checkpoints: int = 0
    refused: int = 0
    requeues: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A run from its first entry to its last, or to now."""

    phase: Phase = Phase.SUBMITTED
    code: int | None = None
    reason: str = ""
    jobs: tuple[str, ...] = ()
    begun: float | None = None
    until: float | None = None
    moments: tuple[Moment, ...] = ()
    incidents: tuple[Incident, ...] = ()
    excluded: tuple[str, ...] = ()
    newest: Save | None = None
    totals: Totals = field(default_factory=Totals)

    @property
    def over(self) -> bool:
        """Whether the run has ended by its own word."""
        return self.phase in ENDED
