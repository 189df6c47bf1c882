"""How a run goes on in another job: what a job finds out when it begins, and what it does when it has to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftslurm import chains, ownjob, runs, submission
from ftslurm.config import parse
from ftslurm.core.actions import Requeue
from ftslurm.core.events import RequeueAnswered
from ftslurm.ownjob import OwnJob
from ftslurm.paths import RunPaths
from ftslurm.runtime import onward
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.env import JobEnv, job_from_env
from tests.slurm.fake import FakeSlurm

ASKED = Requeue(num_nodes=1, num_tasks=1, exclude=("n2",), reason="test")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Give a Slurm of four nodes first on PATH, and a home for ftslurm."""
    slurm = FakeSlurm(tmp_path)
    for name in ("PATH", "FAKE_SLURM_STATE"):
        monkeypatch.setenv(name, slurm.environ[name])
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FTSLURM_RUN_ROOT", raising=False)
    return slurm


class Submitted:
    """A run in the first of its jobs, as `submit` leaves it."""

    def __init__(self, root: Path, way: str, *options: str) -> None:
        text = f"name: demo\ncommand: [train]\nresources: {{nodes: 1}}\nrecovery: {{continue: {way}}}\n"
        self.config, self.paths = parse(text, "x"), runs.create(root, "demo")
        request = submission.request_of(self.config, self.paths, options)
        self.script = submission.write_script(self.paths, request)
        options, count = submission.command_line(request), self.config.recovery.chain
        self.jobs = [SlurmClient().submit(self.script, options)]
        self.jobs += chains.follow(SlurmClient(), self.script, options, self.jobs[0], count)[0]

    def job(self, number: int = 0) -> JobEnv:
        """What the environment of one of its jobs says."""
        chain = self.paths.run_id if self.config.recovery.chain else ""
        environ = {"SLURM_JOB_ID": self.jobs[number], "SLURM_JOB_NODELIST": "n1", "FTSLURM_CHAIN": chain}
        return job_from_env(environ)

    def find_out(self, number: int = 0) -> onward.Found:
        """What that job finds out."""
        return onward.find_out(self.config, self.job(number), self.paths)


@pytest.mark.parametrize(
    ("way", "requeue", "sbatch", "found", "words"),
    [
        ("auto", 1, "", "requeue", ""),
        ("auto", 0, "", "resubmit", "it submits a new one for the run"),
        ("auto", 0, "refuse", "none", "the run ends unfinished with what is saved, and `ftslurm resume 101`"),
        ("requeue", 0, "", "none", "JobRequeue=0 at this site"),
        ("resubmit", 1, "refuse", "none", "this job cannot submit the next one"),
    ],
)
def test_a_job_finds_out_how_it_can_be_gone_on_from(fake, tmp_path, way, requeue, sbatch, found, words):
    """Slurm's word on the job counts, then whether this node may submit; what follows from it is said."""
    run = Submitted(tmp_path, way)
    fake.change("jobs", "101", "requeue", value=requeue)
    if sbatch:
        fake.fail("sbatch", sbatch)
    answer, said = run.find_out()
    assert answer == found
    assert words in said
    assert bool(said) == bool(words)


def test_without_an_answer_of_slurms_nothing_is_claimed(fake, tmp_path):
    """A controller that is away at the start leaves it to the configuration."""
    run = Submitted(tmp_path, "auto")
    fake.fail("scontrol show", "down")
    assert run.find_out() == ("", "")


def test_jobs_of_a_chain_know_what_comes_after_them(fake, tmp_path):
    """Each job is told of the later ones; the last one of what its end means."""
    run = Submitted(tmp_path, "chain:3")
    assert run.jobs == ["101", "102", "103"]
    way, said = run.find_out()
    assert (way, "in job 102, 103" in said) == ("chain", True)
    for job in run.jobs[:2]:
        SlurmClient().cancel(job)
    assert "the last job of its chain" in run.find_out(2)[1]
    calls = [call for call in fake.calls if call[0] == "sbatch"]
    waits = [[word for word in call if "dependency" in word] for call in calls]
    assert waits == [[], ["--dependency=afterany:101"], ["--dependency=afterany:102"]]


def test_the_next_job_of_a_chain_goes_on_without_the_lost_node(fake, tmp_path):
    """Every later job leaves the node out; the last job of a chain has no next one."""
    run = Submitted(tmp_path, "chain:2")
    fake.change("jobs", "102", "state", value="PENDING")
    answer = onward.go_on(run.job(), run.paths, Requeue(**{**vars_of(ASKED), "by": "chain"}))
    assert answer.ok
    assert "job 102" in answer.detail
    assert fake.state["jobs"]["102"]["exclude"] == ["n2"]
    SlurmClient().cancel("101")
    answer = onward.go_on(run.job(1), run.paths, Requeue(**{**vars_of(ASKED), "by": "chain"}))
    assert not answer.ok
    assert "`ftslurm resume 102` continues the run" in answer.detail


def vars_of(asked: Requeue) -> dict[str, object]:
    """Its fields."""
    return {name: getattr(asked, name) for name in ("num_nodes", "num_tasks", "exclude", "reason")}


def test_a_job_submits_the_next_one_as_it_was_submitted_itself(fake, tmp_path, monkeypatch):
    """The same script and options, when this job is over, without the lost node and without the marks of this job."""
    monkeypatch.setenv("FTSLURM_ROLE", "supervisor")
    run = Submitted(tmp_path, "resubmit", "--comment-more=a b")
    answer = onward.go_on(run.job(), run.paths, Requeue(**{**vars_of(ASKED), "by": "resubmit"}))
    assert answer.ok
    call = [each for each in fake.calls if each[0] == "sbatch"][-1]
    assert {"--comment-more=a b", "--dependency=afterany:101", "--exclude=n2", str(run.script)} <= set(call)
    assert "FTSLURM_ROLE" not in fake.state["jobs"]["102"]["environ"]
    assert (Path(os.environ["FTSLURM_HOME"]) / "runs/by-job/102").resolve() == run.paths.root.resolve()
    again = onward.go_on(run.job(), run.paths, Requeue(**{**vars_of(ASKED), "by": "resubmit"}))
    assert again.detail == answer.detail
    assert len(fake.state["jobs"]) == 2


def test_a_node_that_may_not_submit_says_so(fake, tmp_path):
    """Slurm's words are in the answer, and what to do."""
    run = Submitted(tmp_path, "resubmit")
    fake.fail("sbatch", "refuse")
    answer = onward.go_on(run.job(), run.paths, Requeue(**{**vars_of(ASKED), "by": "resubmit"}))
    assert not answer.ok
    assert "`ftslurm resume 101` continues the run" in answer.detail
    run.paths.submitted.unlink()
    answer = onward.go_on(run.job(), run.paths, Requeue(**{**vars_of(ASKED), "by": "resubmit"}))
    assert "plain sbatch" in answer.detail


def test_what_is_left_of_a_chain_is_cancelled_when_the_run_has_ended(fake, tmp_path):
    """The later jobs go, the last first; this one returns by itself."""
    run = Submitted(tmp_path, "chain:3")
    assert chains.dissolve(SlurmClient(), run.job()) == "cancelled, since the run has ended: job 102, 103"
    assert [call[-1] for call in fake.calls if call[0] == "scancel"] == ["103", "102"]
    assert fake.state["jobs"]["101"]["state"] == "RUNNING"
    assert chains.dissolve(SlurmClient(), run.job()) == ""


def test_the_last_job_stays_for_one_that_waits_for_it(fake, tmp_path):
    """It is made as small as a job can be."""
    run = Submitted(tmp_path, "chain:3")
    SlurmClient().submit("#!/bin/sh\n", ["--nodes=1"])
    fake.change("jobs", "104", "dependency", value="afterok:103(unfulfilled)")
    assert "job 103 stays, on one node" in chains.dissolve(SlurmClient(), run.job())
    assert [call[-1] for call in fake.calls if call[0] == "scancel"] == ["102"]
    assert fake.state["jobs"]["103"]["num_tasks"] == 1


def test_a_job_that_has_only_inherited_the_name_of_a_chain_is_in_none(fake, tmp_path):
    """A job that is submitted from within a chain must not touch it."""
    run = Submitted(tmp_path, "chain:2")
    stranger = SlurmClient().submit("#!/bin/sh\n", ["--nodes=1"])
    environ = {"SLURM_JOB_ID": stranger, "SLURM_JOB_NODELIST": "n1", "FTSLURM_CHAIN": run.paths.run_id}
    assert chains.dissolve(SlurmClient(), job_from_env(environ)) == ""
    assert fake.state["jobs"]["102"]["state"] != "CANCELLED"


def test_a_run_that_was_never_submitted_has_no_note(tmp_path):
    """None: nobody knows."""
    assert submission.again(RunPaths(tmp_path)) is None


# ------------------------------------------------------------------------------------------------- a user's own script

SCRIPT = """#!/bin/bash
#SBATCH --nodes=2 --comment=theirs
ftslurm run python train.py
"""


class Own(Submitted):
    """A run in a script of the user's own, which was submitted from its folder."""

    def __init__(self, root: Path, way: str, *options: str) -> None:
        home = root / "work"
        home.mkdir()
        (home / "train.sbatch").write_text(SCRIPT)
        text = f"name: demo\ncommand: [train]\nresources: {{nodes: 2}}\nrecovery: {{continue: {way}}}\n"
        self.config, self.paths, self.home = parse(text, "x"), runs.create(root / "runs", "demo"), home
        own = OwnJob(script=str(home / "train.sbatch"), options=options, arguments=("a b",), cwd=str(home))
        folder = ownjob.leave(root / "runs", own, SCRIPT.encode())
        self.jobs = [SlurmClient().submit(SCRIPT, options)]
        ownjob.keep(str(folder), self.paths, self.jobs[0])

    def go_on(self) -> RequeueAnswered:
        """What its job does when it has to end."""
        return onward.go_on(self.job(), self.paths, Requeue(**{**vars_of(ASKED), "by": "resubmit"}))


def test_a_users_own_script_is_submitted_again_by_its_job(fake, tmp_path, monkeypatch):
    """As it was, with its options, arguments and folder; it waits for this job; its calls are those of this job."""
    monkeypatch.setenv("FTSLURM_ROLE", "supervisor")
    monkeypatch.setenv("FTSLURM_CHAIN", "other")
    run = Own(tmp_path, "resubmit", "--qos=high")
    assert run.find_out() == ("resubmit", "")
    assert len(fake.state["jobs"]) == 1
    (run.home / "train.sbatch").write_text("#!/bin/sh\nfalse\n")
    answer = run.go_on()
    assert answer.ok
    call = [each for each in fake.calls if each[0] == "sbatch"][-1]
    assert call[-2:] == [str(run.paths.own_script), "a b"]
    assert {"--qos=high", "--dependency=afterany:101", "--exclude=n2", "--job-name=train.sbatch"} <= set(call)
    assert f"--comment=theirs ftslurm={run.paths.run_id}" in call
    job = fake.state["jobs"]["102"]
    assert (job["script"], job["work_dir"]) == (SCRIPT, str(run.home))
    assert {"FTSLURM_ROLE", "FTSLURM_CHAIN"} & set(job["environ"]) == set()
    environ = {**job["environ"], "SLURM_JOB_ID": "102", "SLURM_JOB_NODELIST": "n1"}
    assert job_from_env(environ).calls_of == "101"
    assert run.go_on().detail == answer.detail
    assert len(fake.state["jobs"]) == 2


def test_what_keeps_a_script_from_being_submitted_again_is_said(fake, tmp_path):
    """When the job begins: the node may not submit, or the script's folder is gone."""
    run = Own(tmp_path, "resubmit")
    fake.fail("sbatch", "refuse")
    assert "this job cannot submit the next one" in run.find_out()[1]
    run.home.rename(tmp_path / "gone")
    way, said = run.find_out()
    assert way == "none"
    assert "is not there any more" in said
    assert "`ftslurm resume 101` continues it" in said
    assert "is not there any more" in run.go_on().detail


def test_plain_sbatch_is_told_what_to_do(fake, tmp_path):
    """What stood on its command line is known to nobody; `submit --from` keeps it."""
    run = Submitted(tmp_path, "resubmit")
    run.paths.submitted.unlink()
    assert "`ftslurm submit --from SCRIPT` keeps that" in run.find_out()[1]
