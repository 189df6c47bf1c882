"""Runs of one's own as the ground of a campaign: only those that were named, only while they train, only one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftslurm.config import load
from ftslurm.errors import Refused
from ftslurm.faults.course import NothingToBreak
from ftslurm.faults.fault import Need
from ftslurm.faults.own import OwnMeans
from ftslurm.insight.remembered import Cache
from ftslurm.runs import find_run

if TYPE_CHECKING:
    from ftslurm.faults.means import Means
    from ftslurm.paths import RunPaths


@dataclass(slots=True)
class OwnRuns:
    """Runs by what the plan calls them. `consent`: see `OwnMeans`."""

    names: Sequence[str]
    consent: bool
    _now: RunPaths | None = None
    _seen: Cache = field(default_factory=Cache)

    @property
    def offers(self) -> frozenset[Need]:
        """All but the lab; root's only where we are root."""
        return frozenset(Need) - {Need.LAB} - (set() if os.geteuid() == 0 else {Need.ROOT})

    @property
    def begins(self) -> bool:
        """They are somebody's work: nobody waits for their end, and nothing of them is ended."""
        return False

    @property
    def least(self) -> int:
        """As the configuration of the run says."""
        return load(self._now.config).recovery.min_nodes if self._now is not None else 1

    def begin(self) -> RunPaths:
        """The first of them that has not ended.

        Raises:
            NothingToBreak: all have.
            Refused: one is somebody else's.
            UsageError: one is none.
        """
        for name in self.names:
            paths = own(name)
            if not self._seen.of(paths).over:
                self._now = paths
                return paths
        raise NothingToBreak("no run that was named goes on", hint="`targets.runs` of the plan names them")

    def means(self, paths: RunPaths) -> Means:
        """The ways of an ordinary user."""
        return OwnMeans.of(paths, consent=self.consent)

    def mend(self) -> None:
        """Everything that lasts is undone one by one; there is nothing else to make well."""


def own(name: str) -> RunPaths:
    """The run of this name.

    Raises:
        Refused: it is somebody else's.
        UsageError: there is none.
    """
    paths = find_run(name)
    if paths.root.stat().st_uid != os.getuid():
        raise Refused(f"run {paths.run_id} is somebody else's", hint="faults are for runs of one's own")
    return paths
