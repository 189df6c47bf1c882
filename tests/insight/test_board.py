from __future__ import annotations

import pytest

from ftslurm.core.events import Phase
from ftslurm.insight.board import Identity, Standing, current_job, damaged, row
from ftslurm.insight.summary import Summary, summarise
from ftslurm.slurm.records import JobInfo, JobState, Source
from tests.insight.journals import START, Tale

WHO = Identity(run_id="gpt-small-20260225-abcdef", run_dir="/r", job_ids=("101",))


def job(state: JobState, job_id: str = "101", **more) -> JobInfo:
    """Slurm's word."""
    return JobInfo(job_id=job_id, state=state, source=Source.CONTROLLER, **more)


def training() -> Summary:
    """A run in its second attempt, on three of four nodes."""
    tale = Tale().start().save(100, after=10).save(200, after=10)
    return summarise(tale.lose("n3").launched().entries)


def finished() -> Summary:
    """One that has ended."""
    return summarise(Tale().start().finish().entries)


@pytest.mark.parametrize(
    ("summary", "jobs", "standing", "phase", "words"),
    [
        (training(), {"101": job(JobState.RUNNING)}, Standing.LIVE, "training", ""),
        (training(), {"101": job(JobState.COMPLETING)}, Standing.LIVE, "training", ""),
        (training(), {"101": job(JobState.PENDING, reason="BeginTime")}, Standing.WAITING, "requeued", "BeginTime"),
        (training(), {}, Standing.LOST, "lost", "ftslurm resume 101"),
        (training(), {"101": job(JobState.NODE_FAIL)}, Standing.LOST, "ended?", "job is NODE_FAIL"),
        (training(), None, Standing.UNCERTAIN, "training", "Slurm does not answer"),
        (finished(), None, Standing.OVER, "finished", ""),
        (finished(), {}, Standing.OVER, "finished", ""),
        (finished(), {"101": job(JobState.COMPLETING)}, Standing.OVER, "finished", ""),
        (Summary(), {"101": job(JobState.PENDING, reason="Priority")}, Standing.WAITING, "submitted", "Priority"),
        (Summary(), {"101": job(JobState.RUNNING)}, Standing.LIVE, "submitted", ""),
        (Summary(), {"101": job(JobState.CANCELLED)}, Standing.LOST, "ended?", "job is CANCELLED"),
        (Summary(), None, Standing.UNCERTAIN, "submitted", "Slurm does not answer"),
    ],
)  # fmt: skip
def test_what_two_witnesses_amount_to(summary, jobs, standing, phase, words):
    """The journal says what a run does, Slurm whether its job is there; silence of Slurm concludes nothing."""
    shown = row(WHO, summary, jobs, START + 100)
    assert (shown.standing, shown.phase) == (standing, phase)
    assert words in shown.reason
    assert bool(words) == bool(shown.reason)


def test_a_running_run_in_numbers():
    """Every number comes from the journal or from Slurm, and ages count from when the files were seen."""
    summary = training()
    shown = row(WHO, summary, {"101": job(JobState.RUNNING, start_time=START, end_time=START + 3600)}, START + 100)
    assert (shown.summary.attempt, shown.num_nodes, shown.nodelist_or_reason) == (1, 3, "n[1-2,4]")
    assert (shown.time_s, shown.left_s) == (100.0, 3500.0)
    assert summary.newest is not None
    assert summary.newest.seen is not None
    assert shown.checkpoint_age_s == pytest.approx(START + 100 - summary.newest.seen)
    assert shown.plain()["excluded"] == ["n3"]


def test_what_is_not_known_is_none():
    """A run of which only the folder is known claims nothing."""
    shown = row(Identity(run_id="x-20260225-abcdef", run_dir="/r"), Summary(), {}, START)
    plain = shown.plain()
    unknown = (
        "job_id",
        "job_state",
        "attempt",
        "nodes",
        "step",
        "checkpoint_age_s",
        "time_s",
        "time_left_s",
        "started",
    )
    assert [plain[key] for key in unknown] == [None] * len(unknown)
    assert (shown.name, shown.standing, shown.reason) == ("x", Standing.LOST, "no job of it is known")


def test_zero_is_zero():
    """Attempt 0, step 0 and no time left are numbers, not unknowns."""
    summary = summarise(Tale().start().save(0, after=1).entries)
    shown = row(WHO, summary, {"101": job(JobState.RUNNING, end_time=START)}, START + 50)
    plain = shown.plain()
    assert (plain["attempt"], plain["step"], plain["time_left_s"], plain["requeues"]) == (0, 0, 0.0, 0)


def test_a_resumed_run_that_waits():
    """An ended run with a new job in the queue is shown with that job, and with neither nodes nor times of the old."""
    who = Identity(run_id=WHO.run_id, run_dir="/r", job_ids=("101", "202"))
    shown = row(who, finished(), {"202": job(JobState.PENDING, "202", reason="Resources", num_nodes=4)}, START + 100)
    assert (shown.job_id, shown.phase, shown.standing, shown.nodes) == ("202", Phase.SUBMITTED, Standing.WAITING, ())
    assert (shown.num_nodes, shown.time_s, shown.left_s) == (4, None, None)
    assert shown.reason == "Resources; continues the run that is finished"
    started = row(who, finished(), {"202": job(JobState.RUNNING, "202", start_time=START + 90)}, START + 100)
    assert (started.time_s, started.left_s) == (10.0, None)


def test_the_running_job_of_a_chain_is_the_one_that_counts():
    """Jobs that wait behind a running one do not take its place; of those that wait it is the next one."""
    jobs = {"101": job(JobState.RUNNING), "102": job(JobState.PENDING, "102"), "103": job(JobState.PENDING, "103")}
    assert current_job(("101", "102", "103"), training(), jobs)[0] == "101"
    del jobs["101"]
    assert current_job(("101", "102", "103"), training(), jobs)[0] == "102"
    assert current_job(("101", "102"), training(), {}) == ("101", None)
    assert current_job((), Summary(), {}) == (None, None)


def test_an_array_task_is_found_by_its_plain_id():
    """The folder is linked by the plain id, Slurm shows the task's: the row shows what squeue shows."""
    task = job(JobState.RUNNING, "200_4")
    shown = row(Identity(run_id=WHO.run_id, run_dir="/r", job_ids=("205",)), Summary(), {"205": task}, START)
    assert shown.job_id == "200_4"


def test_a_damaged_journal_still_has_a_row():
    """Its error is kept whole for the JSON, and the row says what is wrong."""
    shown = damaged(WHO, "line 3: nonsense")
    assert (shown.phase, shown.standing, shown.plain()["error"]) == ("damaged", Standing.DAMAGED, "line 3: nonsense")
    assert shown.nodelist_or_reason == "(its journal cannot be read)"
