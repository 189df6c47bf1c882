"""Runs on the lab, as a user starts them, and what became of them, as somebody sees it who does not ask ftslurm.

Nothing of the code under test is used to judge it: journals are read as lines of JSON, processes in /proc of the real
machine (every node is a PID namespace on it), jobs by squeue, weights by torch, undisturbed runs by `tests.local_ranks`.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.lab.cluster import Cluster
from tests.lab.oracles import said_by_agents
from tests.lab.processes import Proc, processes
from tests.local_ranks import PROGRAMS

PATIENCE_S = 120.0
POLL_S = 0.05
MPI_ENV = {"OPAL_PREFIX": sys.prefix, "OMPI_MCA_btl": "^ofi"}
"""The Open MPI of the PyPI wheel finds its own files by the first; the second spares it a second of waiting at start."""


def program(name: str, *arguments: object) -> list[str]:
    """The command of a test program."""
    return [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)]


def await_that(
    what: str, test: Callable[[], object], timeout_s: float = PATIENCE_S, story: Callable[[], str] = str
) -> None:
    """Poll until `test` holds; the failure after `timeout_s` ends with what `story` tells."""
    deadline = time.monotonic() + timeout_s
    while not test():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s\n{story()}"
        time.sleep(POLL_S)


def let_pass(seconds: float) -> None:
    """Wait as long as a fault is meant to last."""
    over = time.monotonic() + seconds
    await_that("the time has passed", lambda: time.monotonic() >= over, 2 * seconds + 10)


# --------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True, slots=True)
class LabRun:
    """One run on the lab. `root` is its folder, `work` a folder of its program's own."""

    lab: Cluster
    root: Path
    work: Path
    job: str

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.root.name

    # --- what it has written

    def records(self) -> list[dict[str, Any]]:
        """The journal's entries of all epochs, as they stand in the files; a line that is being written is left out."""
        found = []
        for path in sorted(self.root.glob("journal.*.jsonl"), key=lambda path: int(path.name.split(".")[1])):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type, oldest first."""
        return [record["event"] for record in self.records() if record["event"]["type"] == kind]

    def actions(self, kind: str) -> list[dict[str, Any]]:
        """The actions of one type, oldest first."""
        return [action for record in self.records() for action in record["actions"] if action["type"] == kind]

    def said(self) -> str:
        """Every sentence of the journal, a line each."""
        return "\n".join(action["text"] for action in self.actions("Say"))

    def launches(self) -> list[tuple[str, ...]]:
        """The nodes of every attempt."""
        return [tuple(action["nodes"]) for action in self.actions("LaunchAttempt")]

    def restored_steps(self) -> list[int]:
        """The training step that every released attempt began with."""
        # An agent that comes back is told once more what it may have missed: nobody begins anew for that.
        return [action.get("step", 0) for action in self.actions("ReleaseRanks") if not action.get("again")]

    def durable(self) -> list[str]:
        """The generations whose COMMIT.json is there, oldest first."""
        return sorted(path.parent.name for path in self.root.glob("checkpoints/gen/*/COMMIT.json"))

    def output(self) -> str:
        """The job's own output."""
        paths = [*sorted(self.root.glob("logs/job-*.out")), self.work / "out"]
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def rank_log(self, attempt: int, rank: int) -> str:
        """What one rank has printed."""
        path = self.root / "logs" / str(attempt) / f"rank-{rank:05d}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def end(self) -> tuple[str, int] | None:
        """How the run says that it has ended: phase and exit code."""
        ends = self.actions("EndRun")
        return (ends[-1]["phase"], ends[-1]["code"]) if ends else None

    # --- what its program has written

    def progress(self) -> dict[str, list[list[str]]]:
        """The lines of every progress file of the neutral loop, split into words."""
        paths = sorted((self.work / "progress").glob("rank-*.log"))
        return {path.name: [line.split() for line in path.read_text().splitlines()] for path in paths}

    def done(self) -> list[str]:
        """The weights' digest that each rank of a completed world has written."""
        return [line[1] for lines in self.progress().values() for line in lines if line[0] == "DONE"]

    def newest(self) -> int:
        """The training step of the newest committed checkpoint; -1 without one."""
        return int(self.durable()[-1].split("-")[0]) if self.durable() else -1

    def step_of(self, attempt: int) -> int:
        """The newest training step that some rank of an attempt has done; -1 before the first."""
        mine = [lines for lines in self.progress().values() if lines and lines[0][-1] == str(attempt)]
        return max((int(line[1]) for lines in mine for line in lines if line[0] == "STEP"), default=-1)

    # --- its processes and its job

    def enough(self) -> None:
        """Tell a patient program that it may end."""
        (self.work / "enough").touch()

    def processes(self, kind: str = "", node: str = "", attempt: int | None = None) -> list[Proc]:
        """Its live processes, of one kind, on one node, of one attempt."""
        return [
            proc
            for proc in processes(self.lab, self.run_id)
            if kind in ("", proc.kind) and node in ("", proc.node) and attempt in (None, proc.attempt)
        ]

    def only(self, kind: str, node: str = "") -> Proc:
        """Its one process of a kind; waits while there are two, as between a fork and its exec, or none yet."""
        self.wait(f"one {kind}", lambda: len(self.processes(kind, node)) == 1)
        (found,) = self.processes(kind, node)
        return found

    def job_says(self) -> tuple[str, str]:
        """State and exit code of the job, in Slurm's words."""
        done = self.lab.login(["scontrol", "show", "job", "-o", self.job], timeout=30)
        words = dict(word.partition("=")[::2] for word in done.stdout.split())
        return words.get("JobState", ""), words.get("ExitCode", "")

    def wait_job(self) -> tuple[str, str]:
        """Wait until the job is over, which needs all its nodes; return its state and exit code, in Slurm's words."""
        await_that("the job is over", lambda: self.job_says()[0] not in ("RUNNING", "COMPLETING"), 60, self.story)
        return self.job_says()

    # --- waiting

    def wait(self, what: str, test: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Poll until `test` holds; a failure shows the run's story. A run that ends meanwhile is waited for no more."""

        def over() -> bool:
            return bool(test()) or (self.end() is not None and not test())

        await_that(what, over, timeout_s, self.story)
        assert test(), f"{what}: the run has ended before\n{self.story()}"

    def wait_end(self, timeout_s: float = PATIENCE_S) -> tuple[str, int]:
        """Wait until the run has ended and its script has returned; return the run's phase and exit code."""
        await_that("end of the run", self.end, timeout_s, self.story)
        # COMPLETING: a node that does not answer keeps the job from being over, not from having an end.
        over = ("COMPLETED", "COMPLETING", "FAILED", "CANCELLED", "TIMEOUT")
        await_that("end of the job", lambda: self.job_says()[0] in over, 60, self.story)
        found = self.end()
        assert found is not None
        return found

    def wait_step(self, attempt: int, step: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the neutral loop has done a step in an attempt."""
        self.wait(f"step {step} of attempt {attempt}", lambda: self.step_of(attempt) >= step, timeout_s)

    def story(self) -> str:
        """What is known, for the message of a failed test."""
        last = [json.dumps(record)[:600] for record in self.records()[-12:]]
        rows = {name: (lines[:2], lines[-1:]) for name, lines in self.progress().items()}
        about = f"job {self.job} {self.job_says()}, folder {self.root}"
        return "\n".join([about, self.output()[-6000:], *last, str(rows), *said_by_agents(self.root)])


# --------------------------------------------------------------------------------------------------------- submitting


def workplace(lab: Cluster, name: str, user: str | None) -> Path:
    """A new folder on shared storage that belongs to the user alone."""
    folder = lab.shared / f"{name}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    if user is not None:
        os.chown(folder, lab.uid, lab.uid)
    return folder


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the sections of `more` laid over it."""
    found = dict(base)
    for name, value in more.items():
        found[name] = merged(base.get(name, {}), value) if isinstance(value, Mapping) else value
    return found


def settings(name: str, command: Sequence[str], nodes: int, more: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of short runs; `more` is laid over it."""
    base = {
        "name": name,
        "command": list(command),
        "resources": {"nodes": nodes, "time": "10:00"},
        "launch": {"mpi": "none", "env": {"OMP_NUM_THREADS": "1"}},
        "checkpoint": {"files": "step_*.pt", "settle": "1s"},
    }
    if more.get("checkpoint", {}).get("layout") == "library":
        base["checkpoint"] = {}  # it has no names of files
    return merged(base, more)


def submit(
    lab: Cluster,
    command: Sequence[str],
    *,
    name: str,
    nodes: int,
    user: str | None = None,
    work: Path | None = None,
    options: Sequence[str] = (),
    first_on_path: Path | None = None,
    **more: Any,
) -> LabRun:
    """Write a YAML file and submit it with `ftslurm submit`; `more` are sections of the configuration."""
    work = work or workplace(lab, name, user)
    file = work / "config.yaml"
    file.write_text(json.dumps(settings(name, command, nodes, more), indent=1))  # JSON is YAML
    file.chmod(0o644)
    argv = ["ftslurm", "submit", str(file), "--json", "--run-root", str(work / "runs")]
    environ = {"PATH": f"{first_on_path}:{Path(sys.prefix, 'bin')}:/usr/bin:/bin"} if first_on_path else {}
    done = lab.login([*argv, *(["--", *options] if options else [])], user=user, timeout=60, env=environ)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return LabRun(lab, Path(answer["run_dir"]), work, answer["job_id"])


def ddp(lab: Cluster, *, name: str, nodes: int, steps: int, program_name: str = "ddp_counter", **more: Any) -> LabRun:
    """Submit the neutral DDP loop with a checkpoint every 20 steps."""
    user = more.get("user")
    work = workplace(lab, name, user)
    command = program(program_name, "--steps", steps, "--progress", work / "progress")
    return submit(lab, command, name=name, nodes=nodes, work=work, **more)


def patient(lab: Cluster, *, name: str, nodes: int, **more: Any) -> LabRun:
    """Submit a program that works until `enough` is told, and wait until it has a committed checkpoint."""
    work = workplace(lab, name, more.get("user"))
    run = submit(lab, program("until_told", "--until", work / "enough"), name=name, nodes=nodes, work=work, **more)
    run.wait("a committed checkpoint", run.durable)
    return run


@dataclass(frozen=True, slots=True)
class Script:
    """A batch script of a user's own on the lab, in a working folder of its own."""

    lab: Cluster
    work: Path
    job: str

    def output(self) -> str:
        """What the script has printed."""
        path = self.work / "out"
        return path.read_text(errors="replace") if path.exists() else ""

    def runs(self) -> list[LabRun]:
        """The runs that it has made, in the order of their making."""
        keys = sorted(self.work.glob("runs/*/key"), key=lambda path: path.stat().st_mtime_ns)
        return [LabRun(self.lab, key.parent, self.work, self.job) for key in keys if not key.parent.is_symlink()]

    def about(self) -> str:
        """What Slurm says of its job."""
        return self.lab.login(["scontrol", "show", "job", "-o", self.job], timeout=30).stdout

    def wait(self, what: str, test: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Poll until `test` holds; a failure shows what the script has printed."""
        await_that(what, test, timeout_s, lambda: self.output()[-6000:])


def script(lab: Cluster, text: str, *options: str, name: str, user: str | None = None) -> Script:
    """Submit a script with sbatch, from its working folder, below which its runs will be."""
    work = workplace(lab, name, user)
    file = work / "job.sh"
    file.write_text(f"#!/bin/bash\n{text}")
    file.chmod(0o755)
    argv = [
        "sbatch",
        "--parsable",
        f"--output={work}/out",
        "--open-mode=append",
        f"--chdir={work}",
        *options,
        str(file),
    ]
    done = lab.login(argv, user=user, timeout=60, env={"FTSLURM_RUN_ROOT": str(work / "runs")})
    assert done.returncode == 0, done.stderr
    return Script(lab, work, done.stdout.strip())
