"""Everything that a report shows of a run, gathered from its folder: the journal, the samples, nothing else.

A journal with lines that cannot be read is told without them, and the report says so: a picture with a gap is worth
more to whoever looks for the cause than none. What is shown never decides anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm import journal
from ftslurm.errors import DataDamaged, StorageError
from ftslurm.insight import walltime
from ftslurm.insight.checkpoints import Checkpoint, checkpoints
from ftslurm.insight.story import Teller
from ftslurm.insight.text import count, took
from ftslurm.report import anomaly, samples, timeline
from ftslurm.report.progress import Progress, progress
from ftslurm.report.samples import Grid, Samples

if TYPE_CHECKING:
    from ftslurm.insight.records import Story
    from ftslurm.journal import Entry
    from ftslurm.paths import RunPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is told of a run. Times are epoch seconds; `begun` and `until` are the ends of every axis of time.

    `remarks` say what is missing or could not be read; `damage` is the first thing that could not, or empty.
    """

    run_id: str
    name: str
    story: Story
    begun: float
    until: float
    entries: int
    intervals: Sequence[walltime.Interval]
    spent: dict[walltime.Category, float]
    stretches: Sequence[timeline.Stretch]
    marks: Sequence[timeline.Mark]
    progress: Progress
    checkpoints: Sequence[Checkpoint]
    samples: Samples
    grid: Grid
    scores: dict[str, dict[str, list[float | None]]]
    anomalies: Sequence[anomaly.Anomaly]
    remarks: Sequence[str] = ()
    damage: str = ""


def gather(paths: RunPaths, now: float | None = None) -> Contents:
    """Return what there is to tell; `now` (epoch seconds) is where the story of a live run ends.

    Raises:
        DataDamaged: the journal was written by a newer release.
        StorageError: something is there and cannot be read.
    """
    entries, damage = _entries(paths)
    teller = Teller()
    for entry in entries:
        teller.see(entry)
    told, kept = teller.story(now), teller.walltime
    begun = told.begun or 0.0
    until = max(told.until or begun, begun)
    sampled = samples.read(paths, begun, until)
    grid = samples.grid(sampled, begun, until)
    scored = anomaly.scores(grid)
    contents = Contents(
        run_id=paths.run_id,
        name=paths.run_id.rsplit("-", 2)[0],
        story=told,
        begun=begun,
        until=until,
        entries=len(entries),
        intervals=kept.intervals(until) if entries else (),
        spent=kept.spent(until) if entries else {},
        stretches=timeline.stretches(entries, until),
        marks=timeline.marks(entries, told.incidents),
        progress=progress(entries, sampled),
        checkpoints=checkpoints(entries),
        samples=sampled,
        grid=grid,
        scores=scored,
        anomalies=anomaly.worst(grid, scored),
        damage=damage,
    )
    return dataclasses.replace(contents, remarks=tuple(_remarks(contents)))


def _entries(paths: RunPaths) -> tuple[list[Entry], str]:
    """The journal, or what can be read of it and the first thing that cannot."""
    try:
        return list(journal.read(paths)), ""
    except DataDamaged as error:
        damage = str(error)
    found: dict[int, Entry] = {}
    for path in sorted(paths.root.glob("journal.*.jsonl")):
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        for line in lines:
            try:
                entry = journal.parse_line(line.decode("utf-8", "replace"))
            except DataDamaged:
                continue
            known = found.get(entry.number)
            if known is None or entry.epoch >= known.epoch:
                found[entry.number] = entry
    return [found[number] for number in sorted(found)], damage


def _remarks(contents: Contents) -> list[str]:
    """What a reader must know before believing the rest."""
    said = []
    if contents.damage:
        said.append(f"The journal is damaged, and told without the lines that cannot be read: {contents.damage}")
    if not contents.entries:
        said.append("Nothing has happened yet: the journal has no entry.")
    elif not contents.story.over:
        said.append(f"The run has not ended: this is how it stands after {took(contents.until - contents.begun)}.")
    sampled = contents.samples
    if not sampled.count:
        said.append(
            "There are no samples of the nodes' resources, so that resources and anomalies cannot be shown: the run was"
            " made with observe.sample_every: none, by an older ftslurm, or is younger than one sample."
        )
    if sampled.missed:
        said.append(
            f"{count(sampled.missed, 'sample')} could not be written: shared storage did not take them in time."
        )
    if sampled.unreadable:
        said.append(f"{count(sampled.unreadable, 'line')} of the samples could not be read.")
    return said
