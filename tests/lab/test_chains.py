"""Runs that go on in another job: chains, jobs that submit the next one, runs that somebody has stopped.

The commands are those of the pages in docs/how-to, typed one after the other by the lab's ordinary user.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftslurm.lab.cluster import Cluster
from tests import pages
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, merged, program, submit, workplace
from tests.programs.hash_loop import after

pytestmark = pytest.mark.lab

NOBODY = 65534
ENDS = [("FAILED", "75:0"), ("COMPLETED", "0:0")]
"""Of a job whose run goes on in the next one, and of the one that has finished it."""
SHORT = {"grace": "59s"}
"""With it the warning comes 119 s before the limit: a job that is given two minutes must leave at once."""


@dataclass(frozen=True, slots=True)
class Typist:
    """The lab's user at a shell, in a working folder of its own, who keeps the variables `job` and `dir`."""

    lab: Cluster
    work: Path

    def types(self, command: str) -> str:
        """Run a command; returns what it prints. A failure is shown."""
        lines = ["[ -f .vars ] && . ./.vars", "set -e", command, "declare -p job dir > .vars 2> .errors || true"]
        done = self.lab.login(
            ["bash", "-c", "\n".join([f"cd {self.work}", *lines])],
            user=self.lab.user,
            timeout=90,
            env={"FTSLURM_RUN_ROOT": str(self.work / "runs")},
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def run(self) -> LabRun:
        """Its only run; `job` is the run's first one."""
        await_that("a run", self._jobs, 60)
        (root,) = {path.parent.resolve() for path in self.work.glob("runs/*/key")}
        return LabRun(self.lab, root, self.work, self._jobs()[0])

    def _jobs(self) -> list[str]:
        return sorted(path.name for path in self.work.glob("runs/by-job/*") if path.name.isdigit())

    def live(self, states: str = "PENDING,RUNNING,CONFIGURING") -> list[str]:
        """Its jobs that run or wait."""
        argv = ["squeue", "--noheader", f"--user={self.lab.user}", f"--states={states}", "-o", "%i"]
        return sorted(self.lab.login(argv, timeout=30).stdout.split())


def typist(lab: Cluster, page: str, **more: Any) -> Typist:
    """The files of a page in a new folder; the program and the size of its job are the test's."""
    work = workplace(lab, Path(page).stem, lab.user)
    command = program("hash_loop", "--until", work / "enough", "--progress", work / "progress")
    for text in pages.blocks(page, "yaml"):
        name = text.removeprefix("# ").partition("\n")[0]
        (work / name).write_text(_fitted(text, command, more))
        (work / name).chmod(0o644)
    for text in pages.blocks(page, "bash"):
        name, _, script = text.removeprefix("# ").partition("\n")
        (work / name).write_text(script.replace("--nodes=2", "--nodes=1"))
        (work / name).chmod(0o755)
    return Typist(lab, work)


def _fitted(text: str, command: list[str], more: Mapping[str, Any]) -> str:
    page = yaml.safe_load(text)
    page["checkpoint"] = {**page["checkpoint"], **SHORT, "settle": "0.2s"}
    own = {"command": command, "resources": {"nodes": 1, "time": "10:00"}, "launch": {"mpi": "none"}}
    return json.dumps(merged(merged(page, own), more))


def end_its_time(hand: Typist) -> None:
    """Let the time of the running job be over: its limit is lowered to two minutes, and the warning comes now."""
    (job,) = hand.live("RUNNING")
    hand.types(f"scontrol update JobId={job} TimeLimit=2")
    # scancel --batch --signal does nothing for a task of an array, and returns 229 (22.05).
    supervisor = hand.run().only("supervisor")
    supervisor.send(signal.SIGUSR2)


def gone_on(run: LabRun, jobs: int) -> None:
    """Wait until the run trains in so many jobs, from the newest checkpoint that there was."""
    await_that(f"job {jobs} goes on", lambda: len(run.restored_steps()) == jobs, 120, run.story)
    assert run.restored_steps()[-1] > run.restored_steps()[-2]


def stopped(hand: Typist) -> None:
    """The run ends as it was asked to, and no job of it is left."""
    run = hand.run()
    await_that("the end", lambda: run.end() == ("stopped", 79), 60, run.story)
    await_that("no job is left", lambda: not hand.live(), 20, run.story)


def finished(hand: Typist) -> None:
    """It is enough: the run ends in the state of an undisturbed one, and no job of it is left."""
    run = hand.run()
    run.enough()
    await_that("the end", lambda: run.end() == ("finished", 0), 120, run.story)
    await_that("no job is left", lambda: not hand.live(), 20, run.story)
    (lines,) = (lines for lines in run.progress().values() if lines[-1][0] == "DONE")
    assert lines[-1][1] == reduce(after, range(1, int(lines[-2][1]) + 1), "")
    assert not run.processes()


def test_the_next_job_of_a_chain_goes_on_and_the_rest_is_cancelled(lab: Cluster) -> None:
    """Where the time of one job is over the next one goes on; when the run has ended no job of the chain is left."""
    hand = typist(lab, "how-to/24h-limits.md")
    hand.types("job=$(ftslurm submit train.yaml --parsable)")
    run, jobs = hand.run(), hand.live()
    run.wait("a committed checkpoint", run.durable)
    end_its_time(hand)
    gone_on(run, 2)
    finished(hand)
    assert [LabRun(lab, run.root, run.work, job).job_says() for job in jobs[:2]] == ENDS
    assert LabRun(lab, run.root, run.work, jobs[2]).job_says()[0] == "CANCELLED"


@long_test("the way from one job to the next is taken above, and a stop is tested without Slurm")
@pytest.mark.timeout(240)
def test_a_chain_is_one_run_which_can_be_stopped_and_resumed(lab: Cluster) -> None:
    """The next job goes on where the time of one was over; a stop cancels the rest; a resume begins a new chain."""
    page = "how-to/24h-limits.md"
    hand = typist(lab, page)
    told: dict[str, str] = {}
    for command in pages.commands(page):
        if command.startswith("echo"):
            continue  # somebody else's, below
        if command.startswith("ftslurm status"):
            assert len(hand.live()) == 3
            hand.run().wait("a committed checkpoint", hand.run().durable)
            end_its_time(hand)
            gone_on(hand.run(), 2)
        told[command] = hand.types(command)
        if command.startswith("ftslurm stop"):
            stopped(hand)
    run = hand.run()
    outlook = told["ftslurm submit train.yaml --dry-run"]
    assert "119s before it" in outlook
    assert "then the next of 3 jobs" in outlook
    assert run.job_says() == ("FAILED", "75:0")
    assert f"by {lab.user} (uid {lab.uid})" in run.actions("EndRun")[0]["reason"]
    gone_on(run, 3)
    finished(hand)


@long_test("a stop with a save is asked for above, by the run's user")
def test_a_colleague_of_the_group_stops_a_run(lab: Cluster) -> None:
    """Somebody else who may create files in one folder of the run's stops it, after a save; the story says who."""
    page = "how-to/24h-limits.md"
    hand = typist(lab, page)
    for command in pages.commands(page):
        if command.startswith(("job=", "dir=", "chmod")):
            hand.types(command)
    run = hand.run()
    for folder in (hand.work, hand.work / "runs"):
        folder.chmod(0o710)
    run.wait("a committed checkpoint", run.durable)
    (theirs,) = (command for command in pages.commands(page) if command.startswith("echo"))
    argv = ["sh", "-c", theirs.replace("$dir", str(run.root))]
    subprocess.run(argv, user=NOBODY, group=lab.uid, extra_groups=[], timeout=20, check=True)
    stopped(hand)
    assert f"(uid {NOBODY})" in run.actions("EndRun")[0]["reason"]
    assert run.newest() == run.step_of(0)
    assert not list(run.root.glob("**/STOP"))


@long_test("a time limit that is lowered and warned of at once stands for it above")
@pytest.mark.timeout(900)
def test_three_jobs_of_three_minutes_are_one_run(lab: Cluster) -> None:
    """By Slurm's own clock: two jobs meet their limit, the third ends the run; no node is held when the work is done."""
    hand = typist(lab, "how-to/24h-limits.md", resources={"time": "3:00"})
    hand.types("job=$(ftslurm submit train.yaml --parsable)")
    run = hand.run()
    jobs = hand.live()
    for number in (2, 3):
        run.wait(f"job {number}", lambda number=number: len(run.restored_steps()) == number, 240)
        assert run.restored_steps()[-1] == run.newest()
        assert number + len(hand.live()) == 4
    finished(hand)
    assert [LabRun(lab, run.root, run.work, job).job_says() for job in jobs] == [ENDS[0], *ENDS]


@long_test("what follows a time limit is the core's, and the same for all ways to go on")
@pytest.mark.timeout(400)
def test_without_requeue(lab: Cluster) -> None:
    """A job that is not requeued submits the next one; the tasks of an array are one run with --chain."""
    page = "how-to/without-requeue.md"
    for command in pages.commands(page):
        if "again.sbatch" in command:
            continue  # a script of a user's own: test_adopted
        hand = typist(lab, page)
        said = hand.types(command)
        if command.startswith("scontrol"):
            assert "JobRequeue" in said
            continue
        run = hand.run()
        run.wait("a committed checkpoint", run.durable)
        end_its_time(hand)
        gone_on(run, 2)
        finished(hand)
        assert run.job_says() == ("FAILED", "75:0")


@long_test("the shorter way is that of the tests above")
@pytest.mark.timeout(300)
def test_a_job_that_waits_for_the_last_of_a_chain_gets_the_runs_exit_code(lab: Cluster) -> None:
    """The last job is not cancelled where another one depends on its success: it ends with 0, and that one runs."""
    hand = typist(lab, "how-to/24h-limits.md")
    hand.types("job=$(ftslurm submit train.yaml --parsable)")
    run = hand.run()
    last = hand.live()[-1]
    after_it = hand.types(f"sbatch --parsable --dependency=afterok:{last} -o evaluated --wrap 'echo well'").strip()
    run.wait("a committed checkpoint", run.durable)
    run.enough()
    await_that("the evaluation", lambda: LabRun(lab, run.root, run.work, after_it).job_says()[0] == "COMPLETED", 90)
    assert LabRun(lab, run.root, run.work, last).job_says() == ("COMPLETED", "0:0")
    assert f"job {last} stays" in run.output()


@long_test("the library's way is taken in test_library")
@pytest.mark.parametrize("way", ["signal:USR1", "file", "none"])
def test_a_checkpoint_now_in_every_way_to_ask_for_one(lab: Cluster, way: str) -> None:
    """By a signal and by a file the program saves and goes on; where it cannot be asked, that is said at once."""
    work = workplace(lab, "now", lab.user)
    save_on = f"file:{work / 'ask'}" if way == "file" else way
    loop = ["--every", 1_000_000, "--ask", work / "ask", "--until", work / "enough", "--progress", work / "progress"]
    saved = {"save_on": save_on, "settle": "0.2s"}
    run = submit(lab, program("hash_loop", *loop), name="now", nodes=1, user=lab.user, work=work, checkpoint=saved)
    run.wait_step(0, 3)
    argv = ["ftslurm", "checkpoint", "now", str(run.root), "--json"]
    done = lab.login(argv, user=lab.user, timeout=90)
    if way == "none":
        assert done.returncode == 2
        assert "checkpoint.save_on is none" in done.stderr
    else:
        assert done.returncode == 0, done.stderr + run.story()
        assert [json.loads(done.stdout)["generation"]] == run.durable()
        assert len(run.launches()) == 1
    run.enough()
    assert run.wait_end() == ("finished", 0)


@long_test("takeovers, and the way to the next job, are tested each by itself")
@pytest.mark.timeout(500)
def test_a_chain_goes_on_after_its_supervisors_host_was_lost(lab: Cluster) -> None:
    """The successor meets the time limit, and ends the job, whose script is lost: then the next job begins."""
    work = workplace(lab, "orphan", lab.user)
    run = submit(
        lab,
        program("until_told", "--until", work / "enough"),
        name="orphan",
        nodes=2,
        user=lab.user,
        work=work,
        resources={"time": "3:00"},
        recovery={"continue": "chain:2", "min_nodes": 1},
        checkpoint={**SHORT, "settle": "0.2s"},
    )
    run.wait("a committed checkpoint", run.durable)
    lost = run.launches()[0][0]
    lab.cut(lost)
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    run.wait("the next job", lambda: len(run.restored_steps()) == 3, 300)
    assert lost not in run.launches()[2]
    assert run.job_says()[0] in ("CANCELLED", "COMPLETING")
    lab.heal(lost)
    run.enough()
    assert run.wait_end() == ("finished", 0)
    hand = Typist(lab, work)
    await_that("no job is left", lambda: not hand.live(), 60, run.story)
