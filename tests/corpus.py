"""The labelled incidents of tests/data/incidents, and what the diagnosis makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftslurm.core.diagnosis import Diagnosis
from ftslurm.core.events import Event
from ftslurm.core.fusion import diagnose
from ftslurm.core.hindsight import with_verdicts
from ftslurm.core.records import from_record

FOLDER = Path(__file__).parent / "data" / "incidents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One incident with its label: class, scope and where (empty: nowhere in particular)."""

    name: str
    title: str
    source: str
    label: dict[str, str]
    evidence: tuple[Event, ...]

    @property
    def recorded(self) -> bool:
        """Whether it really happened, on the lab."""
        return self.source.startswith("recorded")

    def is_right_place(self, found: Diagnosis) -> bool:
        """Whether rank and node are those of the label, or the node where it names no rank."""
        return self.label["where"] in (found.where, found.where.rpartition("@")[2])

    def diagnosed(self) -> Diagnosis:
        """What the rules say to its evidence."""
        return diagnose(with_verdicts(self.evidence))


def incidents() -> Iterator[Incident]:
    """All incidents, by name."""
    for path in sorted(FOLDER.glob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        for one in value if isinstance(value, list) else [value]:
            yield Incident(
                name=one["id"],
                title=one["title"],
                source=one["source"],
                label=one["label"],
                evidence=tuple(from_record(record) for record in one["evidence"]),
            )
