from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftslurm import cli
from ftslurm.demo import course as course_of
from ftslurm.demo import outcome, program, removal
from ftslurm.demo.course import Course, Killed
from ftslurm.errors import RunFailed, ServiceUnavailable
from ftslurm.insight.story import story
from ftslurm.paths import RunPaths, by_job
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobInfo, JobState, Source
from tests.insight.journals import Tale, config_policy
from tests.slurm.fake import FakeSlurm


def left(folder: Path) -> list[Path]:
    """Whatever is in the user's folders."""
    return [path for name in ("home", "runs") for path in folder.glob(f"{name}/**/*")]


@pytest.mark.parametrize(
    ("words", "fault", "code", "said"),
    [
        (["-p", "nope"], None, 2, ["no partition nope", "there are: main"]),
        (["--nodes", "9"], None, 78, ["has 4 nodes", "ftslurm demo -p main --nodes 1"]),
        ([], "refuse", 77, ["hint: "]),
        ([], "lost-answer", 69, ["sbatch"]),
        (["--", "qos"], None, 2, ["qos"]),
        (["--run-root", "/proc/nowhere"], None, 73, ["--run-root names a folder on shared storage"]),
    ],
)  # fmt: skip
def test_what_goes_wrong_says_what_to_do_and_leaves_nothing(
    slurm: FakeSlurm, tmp_path, capfd, words, fault, code, said
):
    """Each obstacle on the way ends with its code, a hint, no job and no file."""
    if fault:
        slurm.fail("sbatch", fault)
    root = [] if "--run-root" in words else ["--run-root", str(tmp_path / "runs")]
    assert cli.exit_code(["demo", *root, *words]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert all(each in captured.err for each in (*said, "error: ", *([] if fault == "lost-answer" else ["hint: "])))
    assert "Traceback" not in captured.err
    assert left(tmp_path) == []
    assert [job for job in slurm.state["jobs"].values() if job["state"] in {"PENDING", "RUNNING"}] == []


def test_without_slurm(slurm: FakeSlurm, monkeypatch, capfd):
    """Where there is no sbatch, the hint names the places where there is one."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.exit_code(["demo"]) == 69
    assert "hint: use a login host of a Slurm cluster" in capfd.readouterr().err


def test_dry_run_asks_for_nothing(slurm: FakeSlurm, tmp_path, capfd):
    """The script is printed, two nodes without a GPU for five minutes; nothing is submitted or made."""
    assert cli.exit_code(["demo", "--dry-run", "--run-root", str(tmp_path / "runs"), "--", "--account=proj1"]) == 0
    script = capfd.readouterr().out
    assert all(option in script for option in ("--nodes=2", "--time=0-00:05:00", "--account=proj1", "--no-kill"))
    assert "gpu" not in script
    assert slurm.state["jobs"] == {}
    assert left(tmp_path) == []


# ------------------------------------------------------------------------------------------------- a course that stops


class OneJob:
    """Slurm's word on one job, until somebody cancels it."""

    def __init__(self, **about: Any) -> None:
        self.info = JobInfo(job_id="101", source=Source.CONTROLLER, **about)

    def job(self, job_id: str) -> JobInfo:
        return self.info

    def cancel(self, job_id: str) -> None:
        self.info = replace(self.info, state=JobState.CANCELLED)


@pytest.mark.parametrize(
    ("about", "kind", "words"),
    [
        ({"state": JobState.PENDING, "reason": "PartitionTimeLimit"}, ServiceUnavailable, ["cannot start (PartitionTimeLimit)", "--nodes 1"]),
        ({"state": JobState.PENDING, "reason": "Priority"}, ServiceUnavailable, ["no start within 0 s; job 101 is PENDING (Priority)", "-p asks"]),
        ({"state": JobState.FAILED}, RunFailed, ["ended (FAILED) before ftslurm began", "must be on shared storage"]),
    ],
)  # fmt: skip
def test_a_job_that_comes_to_nothing(tmp_path, monkeypatch, about, kind, words):
    """A job that cannot start, waits too long or ends at once ends the demonstration with the reason and the way on."""
    for name, seconds in (
        ("POLL_S", 0.01),
        ("ASK_S", 0.01),
        ("ENDING_ASK_S", 0.01),
        ("GONE_S", 0.05),
        ("QUEUE_S", 0.3),
    ):
        monkeypatch.setattr(course_of, name, seconds)
    paths = RunPaths(tmp_path / "run")
    (paths.root / program.REQUESTS).mkdir(parents=True)
    said: list[str] = []
    client = OneJob(**about)
    course = Course(client, paths, "101", said.append)
    with pytest.raises(kind) as failed:
        course.until_it_can_be_killed()
    assert all(each in f"{failed.value} {failed.value.hint}" for each in words)
    assert removal.stop_job(course) == []
    assert client.info.state.is_over


def test_a_run_that_ends_before_the_failure(slurm: FakeSlurm, tmp_path):
    """A run that ends by itself where a checkpoint was waited for is said with its reason."""
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    tale = Tale(config_policy(), job_id="101").start().finish()
    paths.journal(1).write_text("".join(entry.line() + "\n" for entry in tale.entries))
    said: list[str] = []
    counted: list[tuple[int, int]] = []
    course = Course(SlurmClient(), paths, "101", said.append, lambda *parts: counted.append(parts))
    with pytest.raises(RunFailed, match="the run has ended before"):
        course.until_it_can_be_killed()
    assert said
    assert counted == [(1, 5)]


def test_without_a_job_step_the_rank_is_asked(slurm: FakeSlurm, tmp_path):
    """Where the site allows no srun from the login host, the rank is asked by a file to kill itself."""
    paths = RunPaths(tmp_path / "run")
    (paths.root / program.REQUESTS).mkdir(parents=True)
    tale = Tale(config_policy(), job_id="101").start()
    paths.journal(1).write_text("".join(entry.line() + "\n" for entry in tale.entries))
    killed = Course(SlurmClient(), paths, "101", lambda _: None).kill_a_rank()
    assert (killed.pid, killed.by) == (None, "itself, on request")
    assert os.listdir(paths.root / program.REQUESTS) == [f"kill-{killed.rank}"]


# ------------------------------------------------------------------------------------------------------------ the end


def test_only_what_the_demonstration_has_made_is_removed(slurm: FakeSlurm, tmp_path, root):
    """Links to other runs and folders that were there before stay."""
    (root / "by-job").mkdir(parents=True)
    other = tmp_path / "other"
    other.mkdir()
    by_job(root, "7").symlink_to(other)
    before = removal.Before.of(tmp_path / "runs")
    paths = RunPaths(tmp_path / "runs" / ".demo-1" / "x")
    paths.root.mkdir(parents=True)
    (root / "x").symlink_to(paths.root)
    by_job(root, "8").symlink_to(paths.root)
    assert removal.remove(tmp_path / "runs" / ".demo-1", paths, "8", before) == []
    assert not (tmp_path / "runs").exists()
    assert [path.name for path in root.iterdir()] == ["by-job"]
    assert by_job(root, "7").readlink() == other
    # A job id that another run has by now is not this one's.
    removal.remove(tmp_path / "runs" / ".demo-1", paths, "7", before)
    assert by_job(root, "7").is_symlink()


@pytest.mark.parametrize(("digest", "survived"), [(program.digest(program.trained(40)), True), ("0" * 16, False)])
def test_the_result_is_compared_with_a_training_without_a_failure(tmp_path, digest, survived):
    """Only the right weights after a restart count as survived."""
    paths = RunPaths(tmp_path)
    for attempt, text in ((0, "rank 0 begins\n"), (1, f"\x1b[2Jx\nfinal step 40 digest {digest}\n")):
        paths.attempt_logs(attempt).mkdir(parents=True)
        paths.rank_log(attempt, 0).write_text(text)
    tale = Tale(config_policy()).start().save(20, after=5).crash(1).launched().finish()
    killed = Killed(rank=1, node="n2", at=tale.entries[0].t, by="srun --overlap", pid=7)
    found = outcome.outcome(killed, story(tale.entries), paths)
    assert (found.final_step, found.survived) == (40, survived)
    assert ("are NOT" in outcome.words(found)) is not survived
    assert json.loads(json.dumps(found.plain()))["killed"]["node"] == "n2"
