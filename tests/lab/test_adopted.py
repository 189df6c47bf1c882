"""Users' own launch scripts, submitted by `ftslurm submit --from`: they survive, and can be seen and steered by job id."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests import pages
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, let_pass, workplace

pytestmark = pytest.mark.lab

SHAPES = Path(__file__).parent.parent / "data" / "adoption"
PAGE = "how-to/sbatch.md"
WATCHED = 4
"""So many of the page's commands, its last ones, are about a script that says where its checkpoints are."""


@dataclass(frozen=True, slots=True)
class Shell:
    """A login shell of the lab's user in the folder of a script; it keeps the variable `job`."""

    lab: Cluster
    work: Path

    @classmethod
    def at(cls, lab: Cluster, shape: str) -> Shell:
        """The folder of one of the shapes."""
        work = workplace(lab, shape, lab.user) / "home"
        argv = [str(SHAPES / "settle"), shape, str(work), sys.executable, str(lab.uid)]
        subprocess.run(argv, check=True, timeout=30)
        return cls(lab, work)

    def types(self, command: str) -> str:
        """Run a command and return what it prints; a failure is shown."""
        text = f"cd {shlex.quote(str(self.work))}; [ -f .vars ] && . ./.vars; set -e\n{command}\n"
        text += "declare -p job > .vars 2> .errors || true"
        path = f"{self.work}/bin:{Path(sys.prefix, 'bin')}:/usr/sbin:/usr/bin:/sbin:/bin"
        environ = {"HOME": str(self.work), "PATH": path, "MODULESHOME": f"{self.work}/modules"}
        done = self.lab.login(["bash", "-c", text], user=self.lab.user, timeout=90, env=environ)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def submit(self, *options: str) -> str:
        """Submit the script; returns the job id."""
        return self.types(f"ftslurm submit --from train.sbatch --parsable -- {shlex.join(options)}").strip()

    def run(self, job: str) -> LabRun:
        """The run that the script has made, when it is there."""
        link = self.work / ".ftslurm/runs/by-job" / job
        await_that(f"a run of job {job}", link.is_dir, 60, self.output)
        return LabRun(self.lab, link.resolve(), self.work / "fold-0", job)

    def output(self) -> str:
        """What the jobs have printed."""
        return "".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.work.glob("*.out")))

    def seen(self) -> list[dict[str, Any]]:
        """What the ranks found in their environment, in the order of their starts."""
        return [json.loads(line) for line in (self.work / "fold-0/seen").read_text().splitlines()]

    def steps(self, count: int) -> None:
        """How far a program trains that starts from now on."""
        (self.work / "steps").write_text(f"{count}\n")


def rank_of(run: LabRun, node: str) -> int:
    """The process of the program itself on a node, however it was launched."""
    found = [proc.pid for proc in run.processes("rank", node=node) if "train.py" in proc.words[1:3]]
    return found[0]


def file_of_the_page(name: str, page: str = PAGE) -> str:
    """A file of a page; the first line of its block is its name."""
    (text,) = [text for text in (*pages.blocks(page, "bash"), *pages.blocks(page, "yaml")) if _is_named(text, name)]
    return _fitted(text.partition("\n")[2])


def _is_named(text: str, name: str) -> bool:
    return text.startswith(f"# {name}\n")


def _fitted(text: str) -> str:
    """The test's program saves elsewhere."""
    return text.replace("--checkpoints out ", "--checkpoints fold-0/saved ").replace(
        "folder: out", "folder: fold-0/saved"
    )


def watched(lab: Cluster) -> Shell:
    """The page's script that says where its checkpoints are."""
    shell = Shell.at(lab, "plain")
    (shell.work / "train.sbatch").write_text(file_of_the_page("watched.sbatch"))
    return shell


@pytest.mark.timeout(240)
def test_scripts_survive_and_are_known_by_their_jobs(lab: Cluster) -> None:
    """A rank of one script is killed, a node of another is cut; both go on, and the job id is enough to see and end them."""
    plain, trap = Shell.at(lab, "plain"), Shell.at(lab, "trap")
    trap.steps(120)
    jobs = [shell.submit("--nodes=2", "--exclusive") for shell in (plain, trap)]
    run, other = plain.run(jobs[0]), trap.run(jobs[1])
    for each in (run, other):
        each.wait_step(0, 20)
    lost = other.launches()[0][-1]
    os.kill(rank_of(run, run.launches()[0][-1]), signal.SIGKILL)
    lab.cut(lost)
    run.wait_step(1, 30)
    assert run.run_id in plain.types(f"ftslurm explain {run.job}")
    assert "training" in plain.types(f"ftslurm status {run.job}")
    plain.types(f"ftslurm logs {run.job}")
    plain.types(f"ftslurm cancel {run.job}")
    assert other.wait_end() == ("finished", 0)
    assert other.launches()[1:] == [tuple(node for node in other.launches()[0] if node != lost)]
    assert not list(trap.work.glob("running-*"))
    assert "--no-kill (or" not in plain.output() + trap.output()
    await_that("the ranks are gone", lambda: not run.processes("rank"), 60, run.story)


@pytest.mark.timeout(240)
def test_a_script_goes_on_from_its_own_checkpoints_in_the_next_job(lab: Cluster) -> None:
    """The page's commands: what the program saves is watched in its folder; cancelled, and resumed from the newest one."""
    shell = watched(lab)
    submit, listed, cancel, resume = pages.commands(PAGE)[-WATCHED:]
    shell.types(submit.replace("watched.sbatch", "train.sbatch"))
    run = shell.run(shell.types("echo $job").strip())
    run.wait("a committed checkpoint", run.durable)
    assert str(run.newest()) in shell.types(listed)
    shell.types(cancel)
    await_that("the job is over", lambda: run.job_says()[0] == "CANCELLED", 60, run.story)
    newest = run.newest()
    shell.types(resume)
    run.wait("the next job", lambda: len(run.restored_steps()) == 2)
    assert run.restored_steps()[1] == newest > 0
    shell.types("ftslurm cancel $job")
    await_that("the ranks are gone", lambda: not run.processes("rank"), 60, run.story)
    assert not list((shell.work / "fold-0/saved").glob(".ftslurm*"))


# ------------------------------------------------------------------------------------------------------------- longer


@long_test("all commands of docs/how-to/sbatch.md, a failure between them")
@pytest.mark.timeout(300)
def test_every_command_of_the_page(lab: Cluster) -> None:
    """As they stand there: looked at, submitted, survived, cancelled, and resumed by the script as it was."""
    shell = Shell.at(lab, "plain")
    (shell.work / "train.sbatch").write_text(file_of_the_page("train.sbatch"))
    told: dict[str, str] = {}
    for command in pages.commands(PAGE)[:-WATCHED]:
        if command.startswith("ftslurm status"):
            run = shell.run(shell.types("echo $job").strip())
            run.wait_step(0, 30)
            os.kill(rank_of(run, run.launches()[0][-1]), signal.SIGKILL)
            run.wait_step(1, 40)
        if command.startswith("ftslurm resume"):
            await_that("the job is over", lambda run=run: run.job_says()[0] == "CANCELLED", 60, run.story)
            shell.steps(run.step_of(1) + 20)
            (shell.work / "train.sbatch").write_text("#!/bin/sh\nfalse\n")
        # The test's program takes no argument of this name.
        told[command] = shell.types(command.replace("--epochs", "--fold 0 --data"))
    assert "--no-kill: the job outlives" in told["ftslurm submit --from train.sbatch --dry-run"]
    assert "training" in told["ftslurm status $job"]
    (job,) = [word for word in told["ftslurm resume $job --from-start --parsable"].split() if word.isdecimal()]
    resumed = shell.run(job)
    assert resumed.root == run.root
    await_that("the end", resumed.end, 120, resumed.story)
    assert resumed.end() == ("finished", 0)
    assert resumed.wait_job() == ("COMPLETED", "0:0")


def address(lab: Cluster, node: str) -> str:
    """How ranks are told of a node."""
    return lab.spec.address(node)


@long_test("a batch host is lost, and its script runs once more")
@pytest.mark.timeout(300)
def test_the_endpoint_of_a_lost_batch_host_is_forgotten(lab: Cluster) -> None:
    """MASTER_ADDR, computed on the node that is lost, is that of a living one; the script's second round ends at once."""
    shell = Shell.at(lab, "plain")
    run = shell.run(shell.submit())
    run.wait_step(0, 30)
    shell.steps(run.step_of(0) + 300)
    lab.cut("n1")
    run.wait_step(1, 50)
    before, after = shell.seen()[:4], shell.seen()[4:7]
    assert {each["MASTER_ADDR"] for each in before} == {address(lab, "n1")}
    assert {each["MASTER_ADDR"] for each in after} == {address(lab, "n2")}
    assert {each["SLURM_JOB_NODELIST"] for each in after} == {"n[2-4]"}
    await_that("the end", lambda: run.end() == ("finished", 0), 90, run.story)
    lab.heal("n1")
    assert run.wait_job() == ("COMPLETED", "0:0")
    assert len(list(shell.work.glob(".ftslurm/runs/plain-*"))) == 1


EXPECTED: Mapping[str, Mapping[str, str]] = {
    "conda": {"CONDA_DEFAULT_ENV": "train", "data": "train"},
    "modules": {"LOADEDMODULES": "cuda/12.8:nccl"},
    "exports": {"RUN_TAG": "v1", "NCCL_DEBUG": "INFO", "LOCAL_ONLY": "1"},
}


@long_test("three shapes of scripts, one after the other")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", EXPECTED)
def test_what_a_script_prepares_reaches_the_ranks(lab: Cluster, shape: str) -> None:
    """Conda, modules and exports of the script are there in every attempt, also where --export names a few variables only."""
    shell = Shell.at(lab, shape)
    shell.steps(100)
    run = shell.run(shell.submit("--nodes=2"))
    run.wait_step(0, 20)
    os.kill(rank_of(run, run.launches()[0][-1]), signal.SIGKILL)
    assert run.wait_end() == ("finished", 0)
    assert len(shell.seen()) == 4
    assert [each.items() >= EXPECTED[shape].items() for each in shell.seen()] == [True] * 4
    assert "--no-kill (or" not in shell.output()


@long_test("a job of three minutes comes near its end")
@pytest.mark.timeout(400)
def test_the_clock_is_watched_where_nobody_warns(lab: Cluster) -> None:
    """Before the time limit of a script without a trap the run leaves, and goes on where the job is started again."""
    shell = Shell.at(lab, "plain")
    run = shell.run(shell.submit("--nodes=1", "--time=3"))
    run.wait_step(0, 20)
    run.wait("the run leaves", lambda: run.actions("Requeue"), 180)
    assert "the time limit is near" in run.story()
    reached = run.step_of(0)
    shell.steps(reached + 20)
    await_that("the job waits", lambda: run.job_says()[0] == "PENDING", 60, run.story)
    let_pass(1)
    lab.login(["scontrol", "update", f"JobId={run.job}", "StartTime=now"], user=lab.user, timeout=30)
    await_that("the end", lambda: run.end() == ("finished", 0), 120, run.story)


@long_test("a script's own checkpoints are gone on from above, in another job")
@pytest.mark.timeout(300)
def test_a_script_whose_node_is_cut_goes_on_from_its_own_newest_checkpoint(lab: Cluster) -> None:
    """Its path is handed to the ranks of the smaller world; a checkpoint that is damaged is passed over."""
    shell = watched(lab)
    run = shell.run(shell.submit("--nodes=3"))
    run.wait("two committed checkpoints", lambda: len(run.durable()) >= 2)
    lab.cut(run.launches()[0][-1])
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    newest = run.restored_steps()[1]
    (asked,) = [action for action in run.actions("ReleaseRanks") if action["attempt"] == 1][:1]
    assert Path(asked["checkpoint"]) == shell.work / f"fold-0/saved/step_{newest:08d}.pt"
    run.wait("checkpoints of the next attempt", lambda: run.durable()[-1].endswith("-0001"))
    for proc in run.processes("rank"):
        os.kill(proc.pid, signal.SIGSTOP)
    damaged = run.newest()
    victim = shell.work / f"fold-0/saved/step_{damaged:08d}.pt"
    victim.write_bytes(victim.read_bytes()[:-100] + bytes(100))
    for proc in run.processes("rank"):
        os.kill(proc.pid, signal.SIGKILL)
    run.wait("the third attempt", lambda: len(run.restored_steps()) == 3)
    assert run.restored_steps()[2] not in (0, damaged)
    shell.types(f"ftslurm cancel {run.job}")
    await_that("the ranks are gone", lambda: not run.processes("rank"), 60, run.story)


@long_test("a job that is short of time, and one that it submits")
@pytest.mark.timeout(400)
def test_a_script_is_submitted_again_by_its_own_job(lab: Cluster) -> None:
    """`continue: resubmit`: near its limit the job submits the script as it was, and is cancelled; the next one goes on."""
    page = "how-to/without-requeue.md"
    shell = Shell.at(lab, "plain")
    for name in ("again.yaml", "again.sbatch"):
        (shell.work / name).write_text(file_of_the_page(name, page))
    text = (shell.work / "again.sbatch").read_text()
    (shell.work / "train.sbatch").write_text(f"{text}\necho behind it: $?\n")
    job = shell.submit("--nodes=1", "--time=3", "--output=again.out", "--open-mode=append")
    run = shell.run(job)
    (shell.work / "train.sbatch").write_text("#!/bin/sh\nfalse\n")
    run.wait("the run leaves", lambda: run.actions("Requeue"), 180)
    run.wait("the next job", lambda: len(run.restored_steps()) == 2, 120)
    assert run.restored_steps()[1] == run.newest() > 0
    assert run.job_says()[0] == "CANCELLED"
    assert "behind it" not in shell.output()
    shell.types("ftslurm stop $(squeue --me --noheader -o %A | tail -n 1)")
    await_that("the end", lambda: run.end() == ("stopped", 79), 60, run.story)
    await_that("the script goes on", lambda: "behind it: 79" in shell.output(), 30, run.story)
