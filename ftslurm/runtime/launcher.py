"""How job steps are started: the command lines and environments of srun and mpirun, and nothing else.

Every count is given explicitly, because srun takes what is missing from the environment of the batch script, which
describes the allocation as it was (M18, M21). `--no-kill` keeps a step alive when Slurm marks one of its nodes DOWN
(M3). No step writes through srun's pipe: a task that does stops in write() when the srun client is gone (M25).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftslurm.errors import UsageError
from ftslurm.paths import PRIVATE_FILE
from ftslurm.runtime import attempt_env
from ftslurm.slurm import env, nodeset

PYTHON = (sys.executable, "-I")
RANK_FILE = Path(__file__).with_name("rank.py")
MARKS = (
    attempt_env.RUN_ID,
    attempt_env.ATTEMPT,
    attempt_env.LOCAL_DIR,
    attempt_env.LAUNCHER,
    attempt_env.ORPHAN_AFTER,
    attempt_env.RANKS_PER_TASK,
)
_QUIET = ("--input=none", "--kill-on-bad-exit=0", "--wait=0")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCommand:
    """A command that starts a job step, with its whole environment; `umask` -1 leaves the user's own to the step."""

    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    umask: int = -1

    def start(self, output: Path) -> subprocess.Popen[bytes]:
        """Start it in a session of its own, so that a signal for the batch script's group does not reach it."""
        handle = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
        try:
            return subprocess.Popen(
                self.argv,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=self.umask,
            )
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """What an attempt's launcher is asked for; `local_dir` is the run's folder on every node.

    `starts_ranks`: one task a node, whose command is torchrun and starts the node's ranks. `wrapper`: the words that
    start a rank's wrapper, by default with ftslurm's own Python.
    """

    run_id: str
    attempt: int
    nodes: tuple[str, ...]
    ranks_per_node: int
    local_dir: str
    command: tuple[str, ...]
    mpi: str = ""
    cpus_per_rank: int | None = None
    gpus_per_node: int = 0
    options: tuple[str, ...] = ()
    orphan_after_s: float = 20.0
    wrapper: tuple[str, ...] = ()
    starts_ranks: bool = False

    @property
    def world_size(self) -> int:
        """How many ranks that makes."""
        return len(self.nodes) * self.ranks_per_node

    @property
    def tasks_per_node(self) -> int:
        """How many tasks the launcher starts on a node."""
        return 1 if self.starts_ranks else self.ranks_per_node


def agents(nodes: Sequence[str], output: str, spec: str, inherited: Mapping[str, str], *, gpus: int = 0) -> StepCommand:
    """Return the step of one agent a node; `output` is srun's file pattern, `spec` the agent's settings as JSON.

    It shares all `gpus` of each node with the ranks (M24): who judges them must see them.
    """
    count = str(len(nodes))
    argv = (
        "srun",
        "--overlap",
        "--no-kill",
        *_QUIET,
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        *((f"--gpus-per-node={gpus}",) if gpus else ()),
        f"--nodelist={nodeset.fold(nodes)}",
        "--mpi=none",
        "--cpu-bind=none",
        "--export=ALL",
        "--job-name=ftslurm-agents",
        f"--output={output}",
        *PYTHON,
        "-m",
        "ftslurm.runtime.agent",
    )
    environ = {**env.step_env(inherited), attempt_env.ROLE: "agent", "FTSLURM_AGENT": spec}
    return StepCommand(argv=argv, environ=environ, umask=0o077)


def ranks(launcher: str, asked: Ranks, inherited: Mapping[str, str]) -> StepCommand:
    """Return the step of an attempt.

    Raises:
        UsageError: the launcher is not installed.
    """
    program = "mpirun" if launcher == "mpirun" else "srun"
    if shutil.which(program, path=inherited.get("PATH")) is None:
        raise UsageError(f"{program} is not on PATH", hint="load the module that brings it, before `ftslurm run`")
    return step(launcher, asked, inherited)


def step(launcher: str, asked: Ranks, inherited: Mapping[str, str]) -> StepCommand:
    """Return the step of an attempt, whether its launcher is installed here or not."""
    return _mpirun(asked, inherited) if launcher == "mpirun" else _srun(asked, inherited)


def _wrapped(asked: Ranks) -> tuple[str, ...]:
    return (*(asked.wrapper or (*PYTHON, "-S", str(RANK_FILE))), "--", *asked.command)


def _marks(asked: Ranks, launcher: str) -> dict[str, str]:
    return {
        attempt_env.RUN_ID: asked.run_id,
        attempt_env.ATTEMPT: str(asked.attempt),
        attempt_env.LOCAL_DIR: asked.local_dir,
        attempt_env.LAUNCHER: launcher,
        attempt_env.ORPHAN_AFTER: str(asked.orphan_after_s),
        attempt_env.RANKS_PER_TASK: str(asked.ranks_per_node if asked.starts_ranks else 0),
    }


def _environ(asked: Ranks, launcher: str, inherited: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in env.training_env(inherited).items() if name != attempt_env.ROLE}
    return {**kept, **_marks(asked, launcher)}


def _srun(asked: Ranks, inherited: Mapping[str, str]) -> StepCommand:
    """Every task sees all GPUs of its node (no --gpus-per-task): LOCAL_RANK picks one."""
    tasks = asked.tasks_per_node
    argv = [
        "srun",
        "--overlap",
        "--no-kill",
        *_QUIET,
        f"--nodes={len(asked.nodes)}",
        f"--ntasks={len(asked.nodes) * tasks}",
        f"--ntasks-per-node={tasks}",
        f"--nodelist={nodeset.fold(asked.nodes)}",
        "--export=ALL",
        f"--job-name=ftslurm-{asked.attempt}",
        f"--output={asked.local_dir}/step-{asked.attempt}-%t.out",
    ]
    if asked.mpi and asked.mpi != "none" and not asked.starts_ranks:
        argv.append(f"--mpi={asked.mpi}")
    if asked.cpus_per_rank:
        argv.append(f"--cpus-per-task={asked.cpus_per_rank * asked.ranks_per_node // tasks}")
    if asked.gpus_per_node:
        argv.append(f"--gpus-per-node={asked.gpus_per_node}")
    return StepCommand(
        argv=(*argv, *_marks_pass(asked.options), *_wrapped(asked)), environ=_environ(asked, "srun", inherited)
    )


def _marks_pass(options: Sequence[str]) -> list[str]:
    """Add our variables to an --export that names some or none: by them the wrapper knows which rank it is."""
    found: list[str] = []
    for option in options:
        if found[-1:] == ["--export"]:
            found.append(_exported(option))
        elif option.startswith("--export="):
            found.append("--export=" + _exported(option.removeprefix("--export=")))
        else:
            found.append(option)
    return found


def _exported(value: str) -> str:
    if "ALL" in value.split(","):
        return value
    return ",".join([*([] if value in ("NONE", "NIL") else [value]), *MARKS])


def _mpirun(asked: Ranks, inherited: Mapping[str, str]) -> StepCommand:
    """Open MPI's launcher starts its daemons by an inner srun, which must overlap and must not see old counts (E2)."""
    hosts = ",".join(f"{node}:{asked.ranks_per_node}" for node in asked.nodes)
    argv = (
        "mpirun",
        *(("--allow-run-as-root",) if os.geteuid() == 0 else ()),
        "--host",
        hosts,
        "-np",
        str(asked.world_size),
        "--map-by",
        f"ppr:{asked.ranks_per_node}:node",
        "--bind-to",
        "none",
        *asked.options,
        *_wrapped(asked),
    )
    folded = nodeset.fold(asked.nodes)
    allocation = {
        env.JOB_NODELIST: folded,
        env.NODELIST_OLD: folded,
        env.JOB_NUM_NODES: str(len(asked.nodes)),
        "SLURM_NNODES": str(len(asked.nodes)),
        "SLURM_TASKS_PER_NODE": f"{asked.ranks_per_node}(x{len(asked.nodes)})",
        "SLURM_OVERLAP": "1",
    }
    return StepCommand(argv=argv, environ={**_environ(asked, "mpirun", inherited), **allocation})
