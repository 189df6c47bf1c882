"""The story of a run, told from its journal: what happened when, why it was decided so, and what it cost.

    entries = list(journal.read(paths))
    told = story(entries)          # records
    print(render(told))            # ftslurm.insight.render

Works on a run that is still going on; its story then ends with the last entry, or with the moment that is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftslurm.core.actions import EndRun, LaunchAttempt, ProbeNode, ReleaseRanks, Requeue, Say
from ftslurm.core.diagnosis import Cause, Scope
from ftslurm.core.events import (
    ENDED,
    AgentUp,
    AllocationGranted,
    NodeHeard,
    NodeProbed,
    Phase,
    RankExited,
    RestoreReady,
    WorldMustered,
)
from ftslurm.insight import incident as told
from ftslurm.insight.alternatives import Evidence
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
from ftslurm.insight.incident import Choice, Incident, Judgement, Note
from ftslurm.insight.ledger import Ledger, Spent
from ftslurm.insight.noticing import who_noticed
from ftslurm.insight.records import Kind, Moment, Story, Totals
from ftslurm.insight.saves import Saves
from ftslurm.insight.summary import phase_of
from ftslurm.insight.text import count, folded, took

if TYPE_CHECKING:
    from ftslurm.core.events import Event
    from ftslurm.journal import Entry

_RECOVERING = frozenset({Phase.STOPPING, Phase.PLANNING, Phase.RELAUNCHING})
_LEFT = frozenset({Phase.DRAINING, Phase.REQUEUED}) | ENDED
_REFUSALS = frozenset({"checkpoint_damaged", "checkpoint_refused"})
_TOLD_ELSEWHERE = frozenset({"released", "node_heard", "requeued"})
_NUMBER = re.compile(r"\d+(\.\d+)?")


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
        self._ledger = Ledger()
        self._moments: list[Moment] = []
        self._incidents: list[Incident] = []
        self._open: Incident | None = None
        self._awaits_job: int | None = None
        self._suspicions: dict[str, _Suspicion] = {}
        self._excluded: dict[str, None] = {}
        self._fallen = 0
        self._exits: list[RankExited] = []
        self._segment: list[tuple[float, int]] = []
        self._jobs: dict[str, None] = {}
        self._granted_last: AllocationGranted | None = None
        self._phase = Phase.SUBMITTED
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._end: EndRun | None = None
        self._attempt: int | None = None
        self._counts = {"attempts": 0, "refused": 0, "requeues": 0}
        self._lost_s = 0.0

    # ------------------------------------------------------------------------------------------------- entries

    def see(self, entry: Entry) -> None:
        """Take the next entry into the story."""
        self._first = self._first or entry
        phase = phase_of(entry)
        if isinstance(entry.event, AllocationGranted):
            self._granted(entry, entry.event)
        lost = given_up(entry, self._granted_last.nodes if self._granted_last else (), self._excluded)
        whole = self._saves.whole
        self._saves.see(entry, [node for node, _, _ in lost])
        if self._saves.whole > whole and self._saves.newest is not None:
            self._segment.append((entry.t, self._saves.newest.step))
        self._suspect(entry)
        if isinstance(entry.event, RankExited) and (entry.event.code or entry.event.signal):
            self._exits.append(entry.event)
        if self._open is None and self._opens(entry, phase, bool(lost)):
            self._open_incident(entry, [node for node, _, _ in lost])
        for node, cause, reason in lost:
            self._give_up(entry, node, cause, reason)
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
        self._flush()
        self._suspicions.clear()
        self._fallen, self._end, self._exits = 0, None, []
        waited = f" after {took(entry.t - self._last.t)}" if self._last is not None else ""
        again = " again" if event.job_id in self._jobs else ""
        text = f"job {event.job_id} starts{again}{waited} on {folded(event.nodes)}"
        text += " and continues the run" if event.resumed else ""
        text += "" if event.no_kill or len(event.nodes) == 1 else "; without --no-kill a lost node will end the job"
        self._jobs[event.job_id] = None
        self._moment(entry.t, Kind.JOB, text)
        self._ledger.switch(entry.t, Spent.STARTING)

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
        self._moments.append(Moment(t=noticed, kind=Kind.INCIDENT, text=by, incident=number))
        if self._ledger.now is Spent.TRAINING:
            self._ledger.switch(sign, Spent.RECOVERY)

    def _give_up(self, entry: Entry, node: str, cause: Cause, reason: str) -> None:
        since = self._suspicions.pop(node, None)
        evidence = None
        if isinstance(entry.event, NodeProbed):
            event = entry.event
            silent_s = since.silent_s if since else 0.0
            hard = self._fallen >= 1
            evidence = Evidence(node=node, findings=event.findings, silent_s=silent_s, wants_hard=hard)
        self._excluded[node] = None
        self._fallen += 1
        if self._open is not None:
            judged = told.judge_node(entry.t, node, cause, reason, evidence)
            self._open = told.with_judgement(self._open, judged)
            self._open = replace(self._open, excluded=(*self._open.excluded, node))

    def _said(self, entry: Entry, said: Say) -> None:
        """Put what the core said where it belongs: a verdict, a plan, a note."""
        self._counts["refused"] += said.slug in _REFUSALS
        cause = verdict_of(said)
        if self._open is not None and said.slug.startswith(PLAN):
            kind = said.slug.removeprefix(PLAN)
            choice = Choice(
                t=entry.t, kind=kind, reason=said.text.removeprefix(f"{kind}: "), rejected=tuple(said.facts.items())
            )
            self._open = replace(self._open, choices=(*self._open.choices, choice))
        elif self._open is not None and cause is not None:
            if said.text not in {each.reason for each in self._open.judgements}:
                self._open = told.with_judgement(self._open, self._judged(entry, cause, said.text))
        elif said.slug not in _TOLD_ELSEWHERE:
            self._note(entry.t, Kind.NOTE, said.slug, said.text)

    def _judged(self, entry: Entry, cause: Cause, reason: str) -> Judgement:
        if cause in (Cause.LAUNCH_FAILED, Cause.WRONG_WORLD):
            return Judgement(t=entry.t, cause=cause, scope=Scope.JOB, where="", reason=reason)
        return told.judge_ranks(entry.t, cause, reason, self._exits)

    def _progress(self, entry: Entry, phase: Phase) -> None:
        """Note when the parts of a recovery were over."""
        now = self._open
        if now is None:
            return
        planned = any(said.slug.startswith(PLAN) for said in says(entry))
        if now.stopped is None and (planned or (self._phase is Phase.STOPPING and phase is not Phase.STOPPING)):
            now = replace(now, stopped=entry.t)
        if isinstance(entry.event, WorldMustered) and entry.event.attempt == self._attempt:
            now = replace(now, mustered=entry.t)
        if isinstance(entry.event, RestoreReady) and entry.event.attempt == self._attempt:
            now = replace(now, restored=entry.t)
        self._open = now

    def _close(self, outcome: str) -> None:
        if self._open is not None:
            self._incidents.append(replace(self._open, outcome=outcome))
            self._open = None

    # ------------------------------------------------------------------------------------------------- actions

    def _act(self, entry: Entry) -> None:
        for launch in actions(entry, LaunchAttempt):
            self._counts["attempts"] += 1
            self._attempt, self._exits, self._fallen = launch.attempt, [], 0
            if self._open is not None:
                launches = self._open.launches + 1
                self._open = replace(self._open, launches=launches, launched=entry.t, mustered=None, restored=None)
        for release in actions(entry, ReleaseRanks):
            self._released(entry, release)
        for ask in actions(entry, Requeue):
            without = f" without {folded(ask.exclude)}" if ask.exclude else ""
            text = f"Slurm is asked for {count(ask.num_nodes, 'node')}{without}: {ask.reason}"
            self._moment(entry.t, Kind.LEAVING, text)
        for end in actions(entry, EndRun):
            self._end = end
            self._flush()
            self._moment(entry.t, Kind.END, f"{end.phase}, exit code {end.code}: {end.reason}")

    def _released(self, entry: Entry, release: ReleaseRanks) -> None:
        restored = self._saves.wanted if release.checkpoint else None
        known = restored is None or restored.seen is not None
        self._ledger.switch(entry.t, Spent.TRAINING)
        lost_s = self._ledger.lose_after(restored.seen if restored else None) if known else None
        self._lost_s += lost_s or 0.0
        nodes = tuple(dict.fromkeys(release.placement))
        source = f"from the checkpoint of step {release.step}" if release.checkpoint else "from the beginning"
        what = f"attempt {release.attempt} trains: {count(len(release.placement), 'rank')} on {folded(nodes)}, {source}"
        if self._open is not None:
            self._close(what)
            self._awaits_job = len(self._incidents) - 1
        if self._awaits_job is not None:
            over = replace(self._incidents[self._awaits_job], released=entry.t, restored_from=restored, lost_s=lost_s)
            self._incidents[self._awaits_job] = over
        self._awaits_job = None
        self._moment(entry.t, Kind.RELEASED, what)

    def _phase_changed(self, entry: Entry, phase: Phase) -> None:
        before, self._phase = self._phase, phase
        if phase in _LEFT:
            kinds = [choice.kind for choice in self._open.choices] if self._open else []
            self._close(_LEAVING.get(kinds[-1] if kinds else "", "the run was leaving already"))
        if phase is before:
            return
        if phase is Phase.DRAINING:
            self._ledger.switch(entry.t, Spent.LEAVING)
        elif phase is Phase.REQUEUED:
            self._ledger.switch(entry.t, Spent.QUEUED)
            self._flush()
            detail = [said.text for said in says(entry) if said.slug == "requeued"]
            self._moment(entry.t, Kind.LEAVING, (detail or ["the job goes back to the queue"])[0])
            requeued = self._incidents and self._incidents[-1].outcome == _LEAVING["requeue"]
            self._awaits_job = len(self._incidents) - 1 if requeued else None
        elif phase in ENDED:
            self._ledger.switch(entry.t, Spent.AWAY)

    # ------------------------------------------------------------------------------------------------- moments

    def _moment(self, t: float, kind: Kind, text: str, slug: str = "") -> None:
        self._moments.append(Moment(t=t, kind=kind, text=text, slug=slug))

    def _note(self, t: float, kind: Kind, slug: str, text: str) -> None:
        """Add a note to the open incident or to the story; one that repeats itself is counted."""
        if self._open is not None:
            notes = self._open.notes
            same = notes and _alike((notes[-1].slug, notes[-1].text), (slug, text))
            more = replace(notes[-1], count=notes[-1].count + 1, until=t) if same else Note(t=t, slug=slug, text=text)
            self._open = replace(self._open, notes=(*(notes[:-1] if same else notes), more))
        elif self._moments and _alike((self._moments[-1].slug, self._moments[-1].text), (slug, text)):
            self._moments[-1] = replace(self._moments[-1], count=self._moments[-1].count + 1, until=t)
        else:
            self._moment(t, kind, text, slug)

    def _flush(self) -> None:
        """Tell of the checkpoints since the last time."""
        if not self._segment:
            return
        steps = [step for _, step in self._segment]
        last = self._segment[-1][0]
        durable = self._saves.newest_durable
        span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
        where = f"step {durable.step} is on shared storage" if durable else "none is on shared storage yet"
        self._moment(last, Kind.CHECKPOINTS, f"{count(len(steps), 'checkpoint')} saved ({span}); {where}")
        self._segment = []

    # --------------------------------------------------------------------------------------------------- story

    def story(self, now: float | None) -> Story:
        """The story so far; this ends the telling."""
        if self._first is None or self._last is None:
            return Story()
        self._flush()
        self._close("")
        over = self._phase in ENDED
        until = self._last.t if over or now is None else max(now, self._last.t)
        spent = self._ledger.spent(until)
        spent.pop(Spent.AWAY)
        return Story(
            phase=self._phase,
            code=self._end.code if self._end else None,
            reason=self._end.reason if self._end else "",
            jobs=tuple(self._jobs),
            begun=self._first.t,
            until=until,
            moments=tuple(sorted(self._moments, key=lambda moment: moment.t)),
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


_LEAVING = {"requeue": "the job goes back to the queue", "abort": "the run is given up"}


def _alike(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two notes say the same but for their numbers."""
    return bool(one[0]) and one[0] == other[0] and _NUMBER.sub("#", one[1]) == _NUMBER.sub("#", other[1])
