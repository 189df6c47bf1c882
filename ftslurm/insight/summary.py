"""Where a run stands, in one record, from its journal alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm import journal
from ftslurm.core.actions import EndRun, LaunchAttempt
from ftslurm.core.events import ENDED, AllocationGranted, Phase
from ftslurm.errors import DataDamaged, StorageError
from ftslurm.insight.facts import actions, begins_incarnation, forgiven, given_up, is_requeue
from ftslurm.insight.glance import Glance, Glancing
from ftslurm.insight.ills import Ill, Ills
from ftslurm.insight.saves import Save, Saves
from ftslurm.insight.tail import start_of_last

if TYPE_CHECKING:
    from ftslurm.journal import Entry
    from ftslurm.paths import RunPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is known of a run; times are epoch seconds, None where the journal does not tell.

    Attributes:
        entries: how many journal entries there are.
        job_id: the job of the newest incarnation.
        allocation: its nodes.
        wanted: how many nodes the user asked for.
        attempt: the newest attempt's number.
        nodes: that attempt's nodes, empty before the incarnation has one.
        excluded: nodes that were given up for the rest of the run.
        ills: what is wrong with nodes, by node; healthy ones are not there.
        started: when the newest incarnation started.
        ended: when the run ended.
        limit: when Slurm's time limit ends the job.
        last: when the newest entry was written.
        code: the exit code of a run that has ended.
        glance: what else a display shows of it.
    """

    entries: int = 0
    phase: Phase = Phase.SUBMITTED
    epoch: int = 0
    job_id: str = ""
    restart: int = 0
    requeues: int = 0
    allocation: tuple[str, ...] = ()
    wanted: int | None = None
    attempt: int | None = None
    nodes: tuple[str, ...] = ()
    ranks: int | None = None
    excluded: tuple[str, ...] = ()
    ills: Mapping[str, tuple[Ill, ...]] = field(default_factory=dict)
    newest: Save | None = None
    durable: Save | None = None
    begun: float | None = None
    supervisor: str = ""
    taken_over: bool = False
    started: float | None = None
    ended: float | None = None
    limit: float | None = None
    last: float | None = None
    code: int | None = None
    reason: str = ""
    glance: Glance = field(default_factory=Glance)

    @property
    def over(self) -> bool:
        """Whether the run has ended by its own word."""
        return self.phase in ENDED


@dataclass(slots=True)
class Fold:
    """What is remembered while the entries go by: `see` them in order, then ask for the summary."""

    saves: Saves = field(default_factory=Saves)
    glancing: Glancing = field(default_factory=Glancing)
    granted: AllocationGranted | None = None
    started: float | None = None
    launch: LaunchAttempt | None = None
    launched_here: bool = False
    end: EndRun | None = None
    ended: float | None = None
    excluded: dict[str, None] = field(default_factory=dict)
    ills: Ills = field(default_factory=Ills)
    requeues: int = 0
    begun: float | None = None
    last: float | None = None
    epoch: int = 0
    phase: str = Phase.SUBMITTED
    number: int = -1
    count: int = 0

    def see(self, entry: Entry) -> None:
        """Take the next entry in."""
        event = entry.event
        if isinstance(event, AllocationGranted):
            if begins_incarnation(entry):
                self.started, self.end, self.ended, self.launched_here = entry.t, None, None, False
                self.requeues = 0 if event.resumed else self.requeues + is_requeue(event, self.granted)
                self.ills.clear()
            self.granted = event
        lost = given_up(entry, self.granted.nodes if self.granted else (), self.excluded)
        self.excluded.update(dict.fromkeys(verdict.where for verdict in lost))
        for node in forgiven(entry):
            self.excluded.pop(node, None)
        self.ills.see(entry)
        self.saves.see(entry, [verdict.where for verdict in lost])
        self.glancing.see(entry, lost)
        for launch in actions(entry, LaunchAttempt):
            self.launch, self.launched_here = launch, True
        for end in actions(entry, EndRun):
            self.end, self.ended = end, entry.t
        self.begun = entry.t if self.begun is None else self.begun
        self.last, self.epoch, self.phase, self.number = entry.t, entry.epoch, entry.phase, entry.number
        self.count += 1

    def summary(self) -> Summary:
        """Where the run stands.

        Raises:
            DataDamaged: the last entry names a phase that this release does not know.
        """
        if self.begun is None:
            return Summary()
        granted, launch, end = self.granted, self.launch, self.end
        here = launch if launch and self.launched_here else None
        return Summary(
            entries=self.count,
            phase=_phase(self.number, self.phase),
            epoch=self.epoch,
            job_id=granted.job_id if granted else "",
            restart=granted.restart if granted else 0,
            requeues=self.requeues,
            allocation=granted.nodes if granted else (),
            supervisor=(granted.host or granted.batch_host) if granted else "",
            taken_over=bool(granted and granted.takeover),
            wanted=(granted.wanted_nodes or len(granted.nodes)) if granted else None,
            attempt=launch.attempt if launch else None,
            nodes=here.nodes if here else (),
            ranks=here.world_size if here else None,
            excluded=tuple(self.excluded),
            ills=self.ills.now(),
            newest=self.saves.newest,
            durable=self.saves.newest_durable,
            begun=self.begun,
            started=self.started,
            ended=self.ended,
            limit=granted.end_time if granted else None,
            last=self.last,
            code=end.code if end else None,
            reason=end.reason if end else "",
            glance=self.glancing.now(),
        )


def summarise(entries: Iterable[Entry]) -> Summary:
    """Return where the run stands after these entries.

    Raises:
        DataDamaged: an entry names a phase that this release does not know.
    """
    fold = Fold()
    for entry in entries:
        fold.see(entry)
    return fold.summary()


def phase_of(entry: Entry) -> Phase:
    """The phase after an entry.

    Raises:
        DataDamaged: this release does not know it.
    """
    return _phase(entry.number, entry.phase)


def _phase(number: int, word: str) -> Phase:
    try:
        return Phase(word)
    except ValueError:
        text = f"journal entry {number} names the phase {word[:40]!r}"
        raise DataDamaged(text, hint="written by a newer ftslurm?") from None


def journal_files(paths: RunPaths) -> list[Path]:
    """The journal's files, in no particular order."""
    return sorted(paths.root.glob("journal.*.jsonl"))


def last_entry(paths: RunPaths) -> Entry | None:
    """The newest entry of a run, from the end of its newest journal file; None where there is none yet.

    Raises:
        DataDamaged: it cannot be read.
        StorageError: the journal cannot be read.
    """
    numbered = [
        (int(path.name.split(".")[1]), path) for path in journal_files(paths) if path.name.split(".")[1].isdigit()
    ]
    for _, path in sorted(numbered, reverse=True):
        try:
            with path.open("rb") as file:
                file.seek(start_of_last(path, 2))
                lines = file.read().split(b"\n")
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        # What stands behind the last newline is being written, or was never finished.
        if len(lines) > 1:
            return journal.parse_line(lines[-2].decode("utf-8", "replace"))
    return None
