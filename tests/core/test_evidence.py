from __future__ import annotations

import pytest

from ftslurm.core.conditions import MemoryKilled, NodeHealth, XidSeen
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import (
    Finding,
    LaunchEnded,
    NodeFenced,
    NodeHeard,
    NodeProbed,
    NodeSuspected,
    Outcome,
    Phase,
    RankExited,
    RestoreRefused,
    SlurmReported,
    StopRequested,
    StorageStalled,
    Witness,
)
from ftslurm.core.evidence import MOST, MOST_EXITS, Judged, add, gathered, heard
from ftslurm.core.facts import facts_of
from ftslurm.core.fusion import diagnose
from ftslurm.core.health import Level
from ftslurm.core.hindsight import with_verdicts
from ftslurm.core.state import Attempt, Run
from ftslurm.core.symptoms import AutopsyTaken, LossAlarm, RanksStalled, Stack


def exit_of(rank, code=1, attempt=0, **fields):
    """The report of a rank that ended."""
    return RankExited(attempt=attempt, rank=rank, node=f"n{rank}", code=code, **fields)


def run_with(phase=Phase.TRAINING, **fields):
    """A run with an attempt."""
    return Run(phase=phase, attempt=Attempt(number=0, nodes=("n1", "n2"), world_size=2), **fields)


def test_what_speaks_is_kept_once_and_in_order():
    """Another attempt's events, repeated ones and those that say nothing are left out."""
    kept = ()
    told = [exit_of(1), StorageStalled(for_s=9.0, mono=1.0), LaunchEnded(attempt=0, code=1, output="x")]
    ignored = [
        exit_of(1, 3, mono=9.0),
        exit_of(2, attempt=1),
        StorageStalled(for_s=9.0, mono=5.0),
        NodeHeard(node="n1"),
        SlurmReported(job_state="RUNNING"),
    ]
    for event in [*told, *ignored]:
        kept = add(kept, event, 0)
    assert kept == tuple(told)
    assert add((told[0],) * MOST, told[1], 0) == (told[0],) * MOST
    exits = tuple(exit_of(rank) for rank in range(MOST_EXITS))
    assert add(exits, exit_of(MOST_EXITS), 0) == exits
    assert add(exits, told[1], 0) == (*exits, told[1])


def test_of_the_ranks_that_ended_well_the_first_is_kept():
    """It tells something only where it was before all failures."""
    first = add((), exit_of(1, 0), 0)
    assert add(first, exit_of(2, 0), 0) == first
    assert add(first, exit_of(3), 0) == (*first, exit_of(3))
    assert add((exit_of(3),), exit_of(1, 0), 0) == (exit_of(3),)


@pytest.mark.parametrize("phase", [Phase.FINISHED, Phase.FAILED, Phase.CANCELLED, Phase.REQUEUED])
def test_a_run_that_has_left_hears_nothing_more(phase):
    """Late words change nothing."""
    run = run_with(phase)
    assert heard(run, exit_of(1)) is run
    assert heard(Run(phase=Phase.STARTING), exit_of(1)) == Run(phase=Phase.STARTING)


def test_verdicts_join_the_evidence():
    """Those on the attempt's nodes, and what it was stopped for, once each."""
    gone = Diagnosis(cause=Cause.NODE_DOWN, scope=Scope.NODE, where="n1", confidence=0.9, reason="gone")
    other = Diagnosis(cause=Cause.NODE_DOWN, scope=Scope.NODE, where="n9", confidence=0.9, reason="gone")
    hang = Diagnosis(cause=Cause.PROGRAM_HANG, scope=Scope.JOB, where="", confidence=0.8, reason="stuck")
    run = heard(run_with(condemned={"n1": gone, "n9": other}, blame=gone), exit_of(1))
    assert gathered(run) == (exit_of(1), Judged(diagnosis=gone))
    assert gathered(run_with(blame=hang)) == (Judged(diagnosis=hang),)
    assert gathered(Run()) == ()


STACKS = (
    Stack(state="blocked", frames=("nfs_wait",), ranks=(0,)),
    Stack(state="blocked", frames=("rpc_wait",), ranks=(1,)),
)


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (LaunchEnded(attempt=0, code=1, output="srun: error: Unable to create step for job 1"), Cause.SCHEDULER),
        (LaunchEnded(attempt=0, code=1, output="something new"), Cause.LAUNCH_FAILED),
        (LaunchEnded(attempt=0, code=1), None),
        (LaunchEnded(attempt=0, code=-9, output="srun: error: n1: task 0: Killed"), None),
        (SlurmReported(job_state="OUT_OF_MEMORY"), Cause.OOM_HOST),
        (SlurmReported(job_state="RUNNING"), None),
        (StopRequested(why="time_limit", save=True), Cause.TIME_LIMIT),
        (StopRequested(why="complete", save=False), None),
        (StorageStalled(for_s=30.0, error="EIO"), Cause.STORAGE),
        (StorageStalled(for_s=0.0), None),
        (RestoreRefused(generation="g", node="n1", attempt=0, reason="bits", damaged=True), Cause.CHECKPOINT_DAMAGED),
        (RestoreRefused(generation="g", node="n1", attempt=0, reason="EIO", damaged=False), Cause.STORAGE),
        (NodeHealth(node="n1", level=Level.FAILED, metric="gpu_lost", reason="1 GPU"), Cause.GPU),
        (NodeHealth(node="n1", level=Level.CRITICAL, metric="of a newer agent", reason="x"), Cause.NODE_UNHEALTHY),
        (NodeHealth(node="n1", level=Level.WARNING, metric="gpu_lost", reason="x"), None),
        (XidSeen(node="n1", gpu="g", xid=79), Cause.GPU),
        (XidSeen(node="n1", gpu="g", xid=13, text="exception"), Cause.APPLICATION_ERROR),
        (XidSeen(node="n1", gpu="g", xid=43), None),
        (MemoryKilled(node="n1", kills=2), Cause.OOM_HOST),
        (RanksStalled(attempt=0, ranks=(1,), count=1, phase="step", silent_s=60, limit_s=40), Cause.PROGRAM_HANG),
        (RanksStalled(attempt=0, ranks=(0, 1), count=2, phase="step", silent_s=60, limit_s=40), Cause.PROGRAM_HANG),
        (AutopsyTaken(attempt=0, stacks=STACKS), Cause.STORAGE),
        (AutopsyTaken(attempt=0, stacks=STACKS, resumed=True), None),
        (LossAlarm(attempt=0, kind="nan", rank=1, step=5, value="nan"), Cause.NAN),
        (LossAlarm(attempt=0, kind="spike", rank=1, step=5, value="9"), None),
        (Judged(diagnosis=diagnose([])), None),
        (NodeHeard(node="n1"), None),
    ],
)  # fmt: skip
def test_what_an_event_speaks_for(event, cause):
    """Each kind of evidence speaks for one cause, or says nothing; the sentence is one line."""
    facts = facts_of([event])
    assert [fact.cause for fact in facts] == ([] if cause is None else [cause])
    assert all(0.5 < fact.weight <= 1.0 and fact.text == " ".join(fact.text.split()) for fact in facts)


def test_verdicts_can_be_reached_again_from_the_events():
    """What the witnesses said, whom Slurm took away, and who would not let go of a process."""
    dead = tuple(
        Finding(witness=who, outcome=what)
        for who, what in (
            (Witness.PEER, Outcome.OK),
            (Witness.PING, Outcome.UNREACHABLE),
            (Witness.TCP, Outcome.UNREACHABLE),
        )
    )
    events = [
        NodeSuspected(node="n1", silent_s=3.1, phi=9.0),
        NodeProbed(node="n1", findings=dead[:1], final=False),
        NodeProbed(node="n1", findings=dead, final=True),
        NodeProbed(node="n1", findings=dead, final=True),
        SlurmReported(job_state="RUNNING", gone=("n2",)),
        SlurmReported(job_state="RUNNING", gone=("n2",)),
        NodeFenced(node="n3", attempt=0, left=("python 17",)),
        NodeFenced(node="n4", attempt=0),
    ]
    found = [each.diagnosis for each in with_verdicts(events) if isinstance(each, Judged)]
    assert [(each.where, each.cause) for each in found] == [
        ("n1", Cause.NODE_UNREACHABLE),
        ("n2", Cause.EXCISED),
        ("n3", Cause.NODE_UNKILLABLE),
    ]
    assert "silent for 3.1 s" in found[0].reason
