"""A recorded run beside another policy: its decisions, and what both policies would have cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ftslurm import journal
from ftslurm.paths import RunPaths
from ftslurm.plan.assumed import Assumed, assumed
from ftslurm.plan.otherpolicy import Other, config_of, read_other, rules_of
from ftslurm.plan.projection import Outcome, measured, project
from ftslurm.plan.recorded import Recorded, recorded
from ftslurm.plan.replay import Replayed, replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What was measured, and what the model makes of the run with its own and with the other policy."""

    found: Recorded
    measured: Outcome
    own: Outcome
    other: Outcome | None
    own_assumed: Assumed
    other_assumed: Assumed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that there is to tell; `file` is the other policy's, `other` what it holds. None: there is none."""

    paths: RunPaths
    replayed: Replayed
    file: Path | None = None
    other: Other | None = None
    projection: Projection | None = None


def compare(paths: RunPaths, file: Path | None, queue_s: float | None = None) -> Comparison:
    """Replay a run; `queue_s` is how long a requeued job waits, by the user's word.

    Raises:
        ConfigError: the other policy has mistakes; each with file, line and column.
        DataDamaged: the journal or the configuration of the run cannot be read.
        StorageError: the same, because of the storage.
    """
    config = config_of(paths)
    own = rules_of(config)
    other = read_other(file, config) if file is not None else None
    entries = list(journal.read(paths))
    replayed = replay(entries, own, other.rules if other else None)
    found = recorded(entries, replayed)
    if found is None:
        return Comparison(paths=paths, replayed=replayed, file=file, other=other)
    mine = assumed(found, own, own, queue_s)
    theirs = assumed(found, other.rules, own, queue_s) if other else None
    projection = Projection(
        found=found,
        measured=measured(found, own.policy),
        own=project(found, own, own, mine),
        other=project(found, own, other.rules, theirs) if other and theirs else None,
        own_assumed=mine,
        other_assumed=theirs,
    )
    return Comparison(paths=paths, replayed=replayed, file=file, other=other, projection=projection)
