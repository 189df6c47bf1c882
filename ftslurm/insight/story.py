"""The story of a run, told from its journal: what happened when, why it was decided so, and what it cost.

    entries = list(journal.read(paths))
    told = story(entries)          # records
    print(render(told))            # ftslurm.insight.render

Works on a run that is still going on; its story then ends with the last entry, or with the moment that is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftslurm.core import evidence
from ftslurm.core.actions import CommitLocal, EndRun, LaunchAttempt, ProbeNode, ReleaseRanks, Requeue, Say
from ftslurm.core.events import (
    ENDED,
    AgentUp,
    AllocationGranted,
    NodeHeard,
    NodeProbed,
    Phase,
    RestoreReady,
    WorldMustered,
)
from ftslurm.core.evidence import Judged
from ftslurm.core.recovery import Kind as Plan
from ftslurm.core.worlds import changed
from ftslurm.insight import incident as told
from ftslurm.insight.alternatives import Evidence
from ftslurm.insight.chronicle import Chronicle, with_note
from ftslurm.insight.facts import (
    PLAN,
    actions,
    begins_incarnation,
    forgiven,
    given_up,
    is_requeue,
    says,
    verdict_of,
)
from ftslurm.insight.incident import Choice, Incident
from ftslurm.insight.noticing import who_noticed
from ftslurm.insight.records import Kind, Story, Totals
from ftslurm.insight.saves import Saves
from ftslurm.insight.summary import phase_of
from ftslurm.insight.text import count, folded, took
from ftslurm.insight.walltime import Walltime

if TYPE_CHECKING:
    from ftslurm.core.diagnosis import Diagnosis
    from ftslurm.core.events import Event
    from ftslurm.journal import Entry

_RECOVERING = frozenset({Phase.STOPPING, Phase.PLANNING, Phase.RELAUNCHING})
_ASKED = {
    "requeue": "Slurm is asked for {}",
    "chain": "the next job of the chain is to go on, on {}",
    "resubmit": "a new job is submitted, for {}",
}
_LEFT = frozenset({Phase.DRAINING, Phase.REQUEUED}) | ENDED
_REFUSALS = frozenset({"checkpoint_damaged", "checkpoint_refused"})
_TOLD_ELSEWHERE = frozenset({"released", "node_heard", "requeued"})


def story(entries: Iterable[Entry], *, now: float | None = None) -> Story:
    """Return the story of these entries; `now` (epoch seconds) is where that of a live run ends.

    Raises:
        DataDamaged: an entry names a phase that this release does not know.
    """
    teller = Teller()
    for entry in entries:
        teller.see(entry)
    return teller.story(now)


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """A node that somebody asks about: since when, for how long it had been silent, who noticed."""

    t: float
    silent_s: float
    by: str


class Teller:
    """What is remembered while the entries go by. `see` them in order, then ask for the story."""

    def __init__(self) -> None:
        self._saves = Saves()
        self._time = Walltime(self._saves)
        self._chronicle = Chronicle()
        self._incidents: list[Incident] = []
        self._open: Incident | None = None
        self._awaits_job: int | None = None
        self._suspicions: dict[str, _Suspicion] = {}
        self._excluded: dict[str, None] = {}
        self._fallen = 0
        self._evidence: tuple[Event, ...] = ()
        self._jobs: dict[str, None] = {}
        self._granted_last: AllocationGranted | None = None
        self._phase = Phase.SUBMITTED
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._end: EndRun | None = None
        self._attempt: int | None = None
        self._counts = {"attempts": 0, "refused": 0, "requeues": 0}
        self._lost_s = 0.0
        self._ranks = 0

    @property
    def walltime(self) -> Walltime:
        """Where the time went."""
        return self._time

    # ------------------------------------------------------------------------------------------------- entries

    def see(self, entry: Entry) -> None:
        """Take the next entry into the story."""
        self._first = self._first or entry
        phase = phase_of(entry)
        if isinstance(entry.event, AllocationGranted):
            self._granted(entry, entry.event)
        lost = given_up(entry, self._granted_last.nodes if self._granted_last else (), self._excluded)
        gone = self._saves.see(entry, [verdict.where for verdict in lost])
        self._time.see(entry)
        for commit in actions(entry, CommitLocal):
            self._chronicle.saved(entry.t, commit.step)
        self._suspect(entry)
        if self._attempt is not None:
            heard = replace(entry.event, at=entry.event.at or entry.t)
            self._evidence = evidence.add(self._evidence, heard, self._attempt)
        if self._open is None and self._opens(entry, phase, bool(lost)):
            self._open_incident(entry, [verdict.where for verdict in lost])
        for verdict in lost:
            self._give_up(entry, verdict)
        for save in gone:
            text = f"the checkpoint of step {save.step} lay on the nodes only, and is lost with them"
            self._note(entry.t, Kind.NOTE, "checkpoint_lost", text)
        for node in forgiven(entry):
            self._excluded.pop(node, None)
        for said in says(entry):
            self._said(entry, said)
        self._progress(entry, phase)
        self._act(entry)
        self._phase_changed(entry, phase)
        self._last = entry

    def _granted(self, entry: Entry, event: AllocationGranted) -> None:
        before, self._granted_last = self._granted_last, event
        if not begins_incarnation(entry):
            return
        self._counts["requeues"] += is_requeue(event, before)
        if self._awaits_job is not None:
            self._incidents[self._awaits_job] = replace(self._incidents[self._awaits_job], back=entry.t)
        self._flush()
        self._suspicions.clear()
        self._fallen, self._end, self._evidence = 0, None, ()
        waited = f" {took(entry.t - self._last.t)} later" if self._last is not None else ""
        again = " again" if event.job_id in self._jobs else ""
        text = f"job {event.job_id} starts{again}{waited} on {folded(event.nodes)}"
        text += ", and continues the run" if event.resumed else ""
        text += "" if event.no_kill or len(event.nodes) == 1 else "; without --no-kill a lost node will end the job"
        self._jobs[event.job_id] = None
        self._chronicle.add(entry.t, Kind.JOB, text)

    def _suspect(self, entry: Entry) -> None:
        """Remember who is asked about, and tell of those that turned out to be well."""
        for probe in actions(entry, ProbeNode):
            silent_s = getattr(entry.event, "silent_s", 0.0)
            by = who_noticed(entry.event, probe.node)
            self._suspicions.setdefault(probe.node, _Suspicion(entry.t, silent_s, by))
        event = entry.event
        if isinstance(event, NodeHeard | AgentUp) and event.node in self._suspicions:
            since = self._suspicions.pop(event.node)
            again = "is heard again" if isinstance(event, NodeHeard) else "has its agent again"
            text = f"{since.by}; {event.node} {again} {took(entry.t - since.t)} later, and nothing was stopped for it"
            self._note(entry.t, Kind.SUSPICION, "node_heard", text)

    # ----------------------------------------------------------------------------------------------- incidents

    def _opens(self, entry: Entry, phase: Phase, lost: bool) -> bool:  # noqa: FBT001 - a fact of the entry
        verdict = any(verdict_of(said) for said in says(entry))
        planned = any(said.slug.startswith(PLAN) for said in says(entry))
        return lost or verdict or planned or (phase in _RECOVERING and self._phase not in _RECOVERING)

    def _open_incident(self, entry: Entry, lost: list[str]) -> None:
        event: Event = entry.event
        since = self._suspicions.get(lost[0]) if lost else None
        by = since.by if since else who_noticed(event, lost[0] if lost else "")
        noticed = since.t if since else entry.t
        number = len(self._incidents) + 1
        sign = noticed - (since.silent_s if since else 0.0)
        self._flush()
        self._open = Incident(number=number, attempt=self._attempt, sign=sign, noticed=noticed, by=by, decided=entry.t)
        self._chronicle.add(noticed, Kind.INCIDENT, by, number)

    def _give_up(self, entry: Entry, said: Diagnosis) -> None:
        node = said.where
        since = self._suspicions.pop(node, None)
        asked = None
        if isinstance(entry.event, NodeProbed):
            event = entry.event
            silent_s = since.silent_s if since else 0.0
            hard = self._fallen >= 1
            asked = Evidence(node=node, findings=event.findings, silent_s=silent_s, wants_hard=hard)
        self._excluded[node] = None
        self._fallen += 1
        if self._open is not None:
            judged = told.judge_node(entry.t, said, asked, self._evidence)
            by = since.by if since and since.by != self._open.by else ""
            self._open = told.with_judgement(self._open, replace(judged, by=by))
            self._open = replace(self._open, excluded=(*self._open.excluded, node))
        verdict = Judged(at=entry.t, diagnosis=said)
        self._evidence = evidence.add(self._evidence, verdict, self._attempt or 0)

    def _said(self, entry: Entry, said: Say) -> None:
        """Put what the core said where it belongs: a verdict, a plan, a note."""
        self._counts["refused"] += said.slug in _REFUSALS
        verdict = verdict_of(said)
        if self._open is not None and said.slug.startswith(PLAN):
            kind = said.slug.removeprefix(PLAN)
            choice = Choice(
                t=entry.t, kind=kind, reason=said.text.removeprefix(f"{kind}: "), rejected=tuple(said.facts.items())
            )
            self._open = replace(self._open, choices=(*self._open.choices, choice))
        elif self._open is not None and verdict is not None:
            known = [each.reason for each in self._open.judgements if said.text.startswith(each.reason)]
            if not known:
                self._open = told.with_judgement(self._open, told.judge(entry.t, verdict, self._evidence))
            elif said.text != known[0]:
                self._note(entry.t, Kind.NOTE, said.slug, said.text.removeprefix(known[0]).lstrip("; "))
        elif said.slug not in _TOLD_ELSEWHERE:
            self._note(entry.t, Kind.NOTE, said.slug, said.text)

    def _progress(self, entry: Entry, phase: Phase) -> None:
        """Note when the parts of a recovery were over."""
        now = self._current()
        if now is None:
            return
        planned = any(said.slug.startswith(PLAN) for said in says(entry))
        if now.stopped is None and (planned or (self._phase is Phase.STOPPING and phase is not Phase.STOPPING)):
            now = replace(now, stopped=entry.t)
        if isinstance(entry.event, WorldMustered) and entry.event.attempt == self._attempt:
            now = replace(now, mustered=entry.t)
        if isinstance(entry.event, RestoreReady) and entry.event.attempt == self._attempt:
            now = replace(now, restored=entry.t)
        self._amend(now)

    def _current(self) -> Incident | None:
        """The incident that is open, or the one that waits for its job to start again."""
        if self._open is not None or self._awaits_job is None:
            return self._open
        return self._incidents[self._awaits_job]

    def _amend(self, changed: Incident) -> None:
        if self._open is not None:
            self._open = changed
        elif self._awaits_job is not None:
            self._incidents[self._awaits_job] = changed

    def _leave(self, now: Incident) -> None:
        """The run leaves with an incident open. Ranks that were ended by a cancellation are none of their own."""
        if now.choices:
            self._close(_OUTCOMES.get(now.choices[-1].kind, now.choices[-1].kind))
        elif now.judgements:
            self._close("the run was leaving already")
        else:
            self._chronicle.demote(now.number, "the run was being ended")
            self._open = None

    def _close(self, outcome: str) -> None:
        if self._open is not None:
            self._incidents.append(replace(self._open, outcome=outcome))
            self._open = None

    # ------------------------------------------------------------------------------------------------- actions

    def _act(self, entry: Entry) -> None:
        for launch in actions(entry, LaunchAttempt):
            self._counts["attempts"] += 1
            self._attempt, self._evidence, self._fallen = launch.attempt, (), 0
            now = self._current()
            if now is not None:
                self._amend(replace(now, launches=now.launches + 1, launched=entry.t, mustered=None, restored=None))
        for release in actions(entry, ReleaseRanks):
            if not release.again:
                self._released(entry, release)
        for ask in actions(entry, Requeue):
            without = f" without {folded(ask.exclude)}" if ask.exclude else ""
            # After an incident the reason has been told.
            why = "" if self._requeued() else f": {ask.reason}"
            what = _ASKED[ask.by].format(count(ask.num_nodes, "node"))
            self._chronicle.add(entry.t, Kind.LEAVING, f"{what}{without}{why}")
        for end in actions(entry, EndRun):
            self._end = end
            self._flush()
            self._chronicle.add(entry.t, Kind.END, f"{end.phase}, exit code {end.code}: {end.reason}")

    def _requeued(self) -> bool:
        """Whether an incident has led to a requeue that is still under way."""
        if self._open is not None:
            return any(choice.kind == Plan.REQUEUE for choice in self._open.choices[-1:])
        last = self._incidents[-1] if self._incidents else None
        return last is not None and last.outcome == _OUTCOMES[Plan.REQUEUE] and last.released is None

    def _released(self, entry: Entry, release: ReleaseRanks) -> None:
        restored = self._saves.wanted if release.checkpoint else None
        lost_s = self._time.lost_s
        self._lost_s += lost_s or 0.0
        nodes = tuple(dict.fromkeys(release.placement))
        source = f"from the checkpoint of step {release.step}" if release.checkpoint else "from the beginning"
        what = f"attempt {release.attempt} trains: {count(len(release.placement), 'rank')} on {folded(nodes)}, {source}"
        now = self._current()
        if now is not None:
            worlds = self._worlds(len(release.placement))
            self._amend(replace(now, released=entry.t, restored_from=restored, lost_s=lost_s, worlds=worlds))
        self._close(what)
        self._awaits_job = None
        self._chronicle.add(entry.t, Kind.RELEASED, what)
        if now is None and self._worlds(len(release.placement)) is not None:
            self._chronicle.note(entry.t, Kind.NOTE, "world_changed", changed(self._ranks, len(release.placement)))
        self._ranks = len(release.placement)

    def _worlds(self, ranks: int) -> tuple[int, int] | None:
        """The number of ranks before and now, where it has changed."""
        return (self._ranks, ranks) if self._ranks not in (0, ranks) else None

    def _phase_changed(self, entry: Entry, phase: Phase) -> None:
        before, self._phase = self._phase, phase
        if phase in _LEFT and self._open is not None:
            self._leave(self._open)
        if phase is Phase.TRAINING and self._open is not None and self._open.excluded:
            self._close("training went on: nothing had to be stopped")
        if phase is before:
            return
        if phase is Phase.REQUEUED:
            self._flush()
            detail = [said.text for said in says(entry) if said.slug == "requeued"]
            self._chronicle.add(entry.t, Kind.LEAVING, (detail or ["the job goes back to the queue"])[0])
            if self._requeued():
                self._awaits_job = len(self._incidents) - 1
                self._incidents[-1] = replace(self._incidents[-1], left=entry.t)

    def _note(self, t: float, kind: Kind, slug: str, text: str) -> None:
        """Add a note to the open incident, or to the story."""
        if self._open is not None:
            self._open = with_note(self._open, t, slug, text)
        else:
            self._chronicle.note(t, kind, slug, text)

    def _flush(self) -> None:
        self._chronicle.tell_of_saves(self._saves.newest_durable)

    # --------------------------------------------------------------------------------------------------- story

    def story(self, now: float | None) -> Story:
        """The story so far; this ends the telling."""
        if self._first is None or self._last is None:
            return Story()
        self._flush()
        self._close("")
        over = self._phase in ENDED
        until = self._last.t if over or now is None else max(now, self._last.t)
        spent = self._time.spent(until)
        return Story(
            phase=self._phase,
            code=self._end.code if self._end else None,
            reason=self._end.reason if self._end else "",
            jobs=tuple(self._jobs),
            begun=self._first.t,
            until=until,
            moments=self._chronicle.moments(),
            incidents=tuple(self._incidents),
            excluded=tuple(self._excluded),
            newest=self._saves.newest,
            totals=Totals(
                total_s=sum(spent.values()),
                spent=spent,
                lost_s=self._lost_s,
                attempts=self._counts["attempts"],
                checkpoints=self._saves.whole,
                refused=self._counts["refused"],
                requeues=self._counts["requeues"],
            ),
        )


_OUTCOMES: dict[str, str] = {Plan.REQUEUE: "the job goes back to the queue", Plan.ABORT: "the run is given up"}
