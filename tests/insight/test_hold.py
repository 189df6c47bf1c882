from __future__ import annotations

import pytest

from ftslurm.insight.hold import Hold, lease_words, who_holds
from ftslurm.insight.summary import Summary, summarise
from ftslurm.journal import Holder
from ftslurm.slurm.records import JobInfo, JobState, Source
from tests.insight.journals import START, Tale

NOW = START + 10_000.0
OLD = Holder(number=9, epoch=2, job_id="101", restart=0, host="n1", pid=7, t=NOW - 3000)
FRESH = Holder(number=9, epoch=2, job_id="101", restart=0, host="n1", pid=7, t=NOW - 4)


def job(state: JobState, job_id: str = "101", source: Source = Source.CONTROLLER, **more) -> JobInfo:
    """Slurm's word."""
    return JobInfo(job_id=job_id, state=state, source=source, **more)


NOBODY = job(JobState.UNKNOWN, source=Source.NOBODY)
TRAINING = summarise(Tale().start().entries)
FAILED = summarise(Tale().start().crash(0).launched().crash(0).entries)


@pytest.mark.parametrize(
    ("summary", "jobs", "lease", "hold"),
    [
        (TRAINING, [job(JobState.RUNNING)], OLD, Hold.HELD),
        (TRAINING, [job(JobState.PENDING, reason="BeginTime")], OLD, Hold.HELD),
        (TRAINING, [job(JobState.COMPLETING)], OLD, Hold.HELD),
        (TRAINING, [job(JobState.TIMEOUT)], FRESH, Hold.FREE),
        (TRAINING, [job(JobState.CANCELLED, source=Source.ACCOUNTING)], OLD, Hold.FREE),
        (TRAINING, [job(JobState.NODE_FAIL, end_time=NOW - 10)], OLD, Hold.HELD),
        (TRAINING, [job(JobState.PREEMPTED, end_time=NOW - 10)], OLD, Hold.HELD),
        (TRAINING, [job(JobState.PREEMPTED, end_time=NOW - 1000)], OLD, Hold.FREE),
        (TRAINING, [job(JobState.NODE_FAIL, end_time=NOW - 10, requeue=False)], OLD, Hold.FREE),
        (TRAINING, [job(JobState.NODE_FAIL, end_time=NOW - 10, source=Source.ACCOUNTING)], OLD, Hold.FREE),
        (TRAINING, [NOBODY], OLD, Hold.UNCERTAIN),
        (TRAINING, [], OLD, Hold.UNCERTAIN),
        (TRAINING, [NOBODY], FRESH, Hold.HELD),
        (FAILED, [job(JobState.COMPLETING)], OLD, Hold.FREE),
        (FAILED, [job(JobState.RUNNING)], FRESH, Hold.FREE),
        (FAILED, [], None, Hold.FREE),
        (FAILED, [NOBODY], None, Hold.FREE),
        (FAILED, [job(JobState.FAILED), job(JobState.PENDING, "202")], None, Hold.HELD),
        (FAILED, [job(JobState.FAILED), job(JobState.CANCELLED, "202")], None, Hold.FREE),
        (Summary(), [job(JobState.PENDING)], None, Hold.HELD),
        (Summary(), [job(JobState.CANCELLED)], None, Hold.FREE),
        (Summary(), [NOBODY], None, Hold.UNCERTAIN),
    ],
)  # fmt: skip
def test_only_knowledge_frees_a_run(summary, jobs, lease, hold):
    """A run is free by its own word or by Slurm's that its job is over; everything else holds it, or may."""
    linked = list(dict.fromkeys(["101", *(each.job_id for each in jobs)]))
    found = who_holds(summary, linked, {each.job_id: each for each in jobs}, lease, NOW)
    assert found.hold is hold
    assert (hold is Hold.FREE) or found.reason


def test_a_run_that_never_had_a_job_is_free():
    """A folder without any job is nobody's."""
    assert who_holds(Summary(), (), {}, None, NOW).hold is Hold.FREE


def test_the_lease_in_words():
    """The refusal names epoch, host and age."""
    assert lease_words(FRESH, NOW) == "supervisor of epoch 2 on n1, lease last renewed 4.0 s ago"
    assert lease_words(None, NOW) == "no supervisor has held it yet"
