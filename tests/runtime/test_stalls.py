from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Phase
from ftslurm.core.progress import LOSSES_NEEDED, Patience
from ftslurm.core.state import Attempt, Failure, Run, Saved, SavedState
from ftslurm.core.symptoms import AutopsyTaken, LossAlarm, ProgressSignal, RanksResumed, RanksStalled, StragglerSeen
from ftslurm.core.working import WorkBegun, WorkPaused, WorkRegained
from ftslurm.runtime.stalls import Autopsies, ProgressWatch

NODES = ("n1", "n2", "n3", "n4")
FIXED = Patience(auto=False, hang_after_s=4.0)


class Watched:
    """A watch over four ranks, one a node, with a clock that is moved."""

    def __init__(self, monkeypatch, patience=FIXED):
        self.now, self.events = time.monotonic() + 1e6, []
        monkeypatch.setattr("ftslurm.runtime.stalls.time.monotonic", lambda: self.now)
        self.watch = ProgressWatch(patience, self.events.append)
        attempt = Attempt(number=0, nodes=NODES, world_size=4, placement=NODES, released=True)
        self.run = Run(phase=Phase.TRAINING, nodes=NODES, attempt=attempt)
        self.tick()

    def tick(self, after_s=1.0, *, stalled=False):
        self.now += after_s
        self.watch.tick(self.run, storage_stalled=stalled)

    def tell(self, rank, age_s=0.0, **fields):
        """A node's digest comes."""
        known = {"source": "beat", "beats": 50, "step": 50, "phase": "step", "taken": {}, "own": [0.0, 0], "losses": []}
        row = {**known, **fields}
        told = [row[name] for name in ("source", "beats", "step", "phase")]
        rest = [row[name] for name in ("taken", "own", "losses")]
        message = {"attempt": fields.get("attempt", 0), "ranks": [[rank, *told, age_s, *rest]]}
        self.watch.take(NODES[rank], message)

    def found(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def be_silent(self, seconds, **fields):
        """All ranks stand still, and their agents say so."""
        for second in range(1, seconds + 1):
            for rank in range(4):
                self.tell(rank, float(second), **fields)
            self.tick()


@pytest.fixture
def watched(monkeypatch):
    """A watch with a fixed limit of four seconds."""
    return Watched(monkeypatch)


def test_a_stall_is_told_and_told_again(watched):
    """After the limit, and every ten seconds while it lasts; the source of progress once."""
    watched.be_silent(4)
    assert watched.found(RanksStalled) == []
    watched.be_silent(8)
    watched.be_silent(20)
    assert 2 <= len(watched.found(RanksStalled)) <= 4
    assert watched.found(RanksStalled)[0].ranks == (0, 1, 2, 3)
    assert [event.source for event in watched.found(ProgressSignal)] == ["beat"]


def test_nobody_is_blamed_for_what_nobody_knows(watched):
    """Storage that hangs, an observer that stood still, digests that do not come, another attempt, another phase."""
    for _ in range(10):
        for rank in range(4):
            watched.tell(rank, 100.0)
        watched.tick(stalled=True)
    for rank in range(4):
        watched.tell(rank, 100.0)
    watched.tick(30.0)
    watched.tick(13.0)  # the digests are old by now
    watched.tick()
    watched.be_silent(8, attempt=3)
    watched.run = replace(watched.run, phase=Phase.SUSPECTING)
    watched.be_silent(8)
    watched.run = replace(watched.run, attempt=replace(watched.run.current, fencing=True))
    watched.be_silent(8)
    assert watched.found(RanksStalled) == []


def test_ranks_that_have_ended_are_not_waited_for(watched):
    """Three are ready, one trains on."""
    watched.run = replace(watched.run, attempt=replace(watched.run.current, finished=frozenset({0, 1, 2})))
    for second in range(20):
        for rank in range(4):
            watched.tell(rank, 0.1 if rank == 3 else float(second))
        watched.tick()
    assert watched.found(RanksStalled) == []


def test_checkpoints_are_progress(watched):
    """Where nothing else is seen, and the user has set the limit."""
    saved = Saved(generation="g", step=5, attempt=0, world_size=4, state=SavedState.LOCAL)
    unseen = {"source": "", "phase": "init", "beats": 0, "step": -1}
    watched.be_silent(8, **unseen)
    watched.run = replace(watched.run, saved=(saved,))
    watched.be_silent(3, **unseen)
    assert watched.found(RanksStalled) == []
    watched.be_silent(4, **unseen)
    assert len(watched.found(RanksStalled)) == 1


def test_without_any_signal_it_is_said_once(monkeypatch):
    """Where there is nothing to learn from, a hang is not noticed."""
    watched = Watched(monkeypatch, Patience())
    watched.be_silent(150, source="", phase="init", beats=0, step=-1)
    assert [event.source for event in watched.found(ProgressSignal)] == [""]
    watched.be_silent(1)
    assert [event.source for event in watched.found(ProgressSignal)] == ["", "beat"]
    off = Watched(monkeypatch, Patience(auto=False))
    off.be_silent(150)
    assert [type(event) for event in off.events] == [WorkBegun]


def test_auto_learns_and_grows_patient(monkeypatch):
    """A step is known after a good window; a hang before that did not help stretches the limit by four."""
    watched = Watched(monkeypatch, Patience())
    watched.be_silent(60)
    assert watched.found(RanksStalled) == []
    for _ in range(12):
        for rank in range(4):
            watched.tell(rank, 0.1, taken={"step": 0.2})
        watched.tick()
    watched.be_silent(24)
    (stall,) = watched.found(RanksStalled)
    assert stall.limit_s == 20.0
    found = Diagnosis(cause=Cause.PROGRAM_HANG, scope=Scope.JOB, where="", confidence=0.9, reason="")
    failure = Failure(attempt=0, diagnosis=found, progressed=False, newest_step=-1)
    watched.run = replace(watched.run, failures=(failure,), attempt=replace(watched.run.current, number=1))
    watched.tick()
    watched.be_silent(70, attempt=1)
    assert len(watched.found(RanksStalled)) == 1
    watched.run = replace(watched.run, failures=(replace(failure, progressed=True),))
    watched.be_silent(24, attempt=1)
    assert len(watched.found(RanksStalled)) == 2


def test_a_slow_rank_is_named(watched):
    """By its own time for a step, after five windows."""
    for _ in range(60):
        for rank in range(4):
            watched.tell(rank, 0.1, own=[5.0 if rank == 2 else 1.0 + rank / 100, 10])
        watched.tick()
    (slow,) = watched.found(StragglerSeen)
    assert (slow.rank, slow.node, slow.own_s, slow.windows) == (2, "n3", 0.5, 5)


def test_losses_are_watched(watched):
    """Spikes by the first rank that tells its loss, now and then; no number from any rank, once an attempt."""
    watched.tell(1, losses=[[step, str(1 + step % 5 / 100)] for step in range(LOSSES_NEEDED + 9)])
    watched.tell(2, losses=[[70, "99"]])
    assert watched.events == []
    watched.tell(1, losses=[[71, "9.0"], [72, "9.0"], [73, "1.08"]])
    watched.tell(3, losses=[[74, "nan"], [75, "inf"]])
    watched.tell(1, losses=[[75, "-inf"]])
    assert [(each.kind, each.rank, each.step, each.value) for each in watched.found(LossAlarm)] == [
        ("spike", 1, 71, "9"),
        ("nan", 3, 74, "nan"),
    ]


def test_a_look_before_a_collective_gives_up(monkeypatch):
    """Once for each stall; that the ranks go on is said once, and another stall is looked at again."""
    watched = Watched(monkeypatch, replace(FIXED, hang_after_s=3600.0, collective_s=20.0))
    watched.be_silent(60)
    (stall,) = watched.found(RanksStalled)
    assert (stall.early, stall.limit_s, watched.found(RanksResumed)) == (True, 16.0, [])
    for rank in range(4):
        watched.tell(rank, 0.5)
    watched.tick()
    watched.tick()
    assert watched.found(RanksResumed) == [RanksResumed(attempt=0)]
    watched.be_silent(30)
    assert len(watched.found(RanksStalled)) == 2


def test_ranks_that_go_on_while_they_are_looked_at(monkeypatch):
    """The autopsy says so, and nobody says it again."""
    watched = Watched(monkeypatch, replace(FIXED, hang_after_s=3600.0, collective_s=20.0))
    watched.be_silent(20)
    (stall,) = watched.found(RanksStalled)
    assert not watched.watch.moved(stall)
    watched.tell(1, 0.5)
    assert watched.watch.moved(stall)
    watched.tick()
    assert watched.found(RanksResumed) == []


STALL = RanksStalled(attempt=0, ranks=(0, 1), count=2, phase="step", silent_s=6.0, limit_s=4.0)


def said(*ranks):
    """A node's answer to an autopsy."""
    return {"attempt": 0, "stacks": [["running", ["wait", "all_reduce"], list(ranks)]], "notes": ["n"]}


def test_autopsies_of_all_nodes_are_one(watched):
    """Equal stacks of several nodes are one group; who was not asked, or answers twice, changes nothing."""
    gathered = Autopsies(watched.watch, watched.events.append)
    gathered.take("n1", said(0))
    gathered.begin(STALL, ("n1", "n2"), 60.0)
    gathered.take("n1", said(1))
    gathered.take("n1", said(1))
    gathered.take("n4", said(3))
    assert watched.found(AutopsyTaken) == []
    gathered.take("n2", {**said(0), "notes": ["n", "m"]})
    gathered.take("n2", said(0))
    (taken,) = watched.found(AutopsyTaken)
    assert [stack.ranks for stack in taken.stacks] == [(0, 1)]
    assert (taken.missing, taken.notes, taken.resumed) == ((), ("n", "m"), False)


def test_an_autopsy_ends_in_time_and_sees_who_goes_on(watched):
    """A node that does not answer is named; ranks that beat again are no hang."""
    for rank in range(4):
        watched.tell(rank, 0.2)
    gathered = Autopsies(watched.watch, watched.events.append)
    gathered.begin(STALL, ("n1", "n2"), 0.05)
    gathered.take("n1", said(0))
    deadline = time.perf_counter() + 30
    while not watched.found(AutopsyTaken):
        assert time.perf_counter() < deadline
        os.sched_yield()
    (taken,) = watched.found(AutopsyTaken)
    assert (taken.missing, taken.resumed) == (("n2",), True)
    assert watched.watch.moved(replace(STALL, attempt=7))


def test_the_first_step_and_the_one_that_was_made_before_are_told_once(watched):
    """A second attempt is behind until it is where the first one was; its first step and that one become events."""
    for rank in range(4):
        watched.tell(rank, step=50)
    watched.tick()
    watched.tick()
    attempt = replace(watched.run.current, number=1)
    watched.run = replace(watched.run, attempt=attempt)
    watched.tick()
    for step in (41, 45, 51, 52):
        watched.tell(0, step=step, attempt=1)
        watched.tick()
    assert watched.found(WorkBegun) == [WorkBegun(attempt=0, step=50), WorkBegun(attempt=1, step=41, until=50)]
    assert watched.found(WorkRegained) == [WorkRegained(attempt=1, step=51)]
    step, paces = watched.watch.pace()
    assert (step, sum(pace.steps for pace in paces)) == (52, 52 - 41)
    assert watched.watch.pace() == (52, [])


def test_a_supervisor_that_was_started_again_tells_no_second_first_step(watched):
    """What the journal knows of the attempt is not told anew; that it is where it was, is."""
    attempt = replace(watched.run.current, number=1, begun=True, behind=True)
    saved = Saved(generation="000000040-0000", step=40, attempt=0, world_size=4, state=SavedState.DURABLE)
    watched.run = replace(watched.run, attempt=attempt, saved=(saved,))
    watched.tick()
    for step in (39, 41):
        watched.tell(0, step=step, attempt=1)
        watched.tick()
    assert watched.found(WorkBegun) == []
    assert watched.found(WorkRegained) == [WorkRegained(attempt=1, step=41)]


def test_pauses_for_saves_are_told_together(watched):
    """What the slowest rank stood still is summed, and told once a window."""
    for _ in range(11):
        watched.tell(0, taken={"save": 0.05})
        watched.tell(1, taken={"save": 0.2})
        watched.tick()
    (told,) = watched.found(WorkPaused)
    assert told.took_s == pytest.approx(0.2 * 10, abs=0.21)
