"""A run without YAML: what `ftslurm run` in a user's own script is told by srun's options and by the allocation."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm import runs, submission, torchrunline
from ftslurm.errors import CannotCreate, UsageError
from ftslurm.srunline import SrunLine, parse

if TYPE_CHECKING:
    from ftslurm.config import Config
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.env import JobEnv


def adopt(
    words: Sequence[str], job: JobEnv, *, file: Path | None, run_name: str | None, run_root: Path | None
) -> RunPaths:
    """Return the run of this call: a new one, the one that this job had before it was requeued, or that of its chain.

    Raises:
        UsageError: there is no command, or an option contradicts supervision.
        ConfigError: the file has mistakes.
        CannotCreate: the run root cannot be written.
    """
    config = settings(words, job, file=file, run_name=run_name)
    root = submission.run_root_of(config, run_root)
    call = ("--run-name", run_name) if run_name else config.command
    paths = runs.same_call(root, job, call, config.name)
    if paths.config.exists():
        return paths
    try:
        # JSON is YAML: the run's own copy, with what srun's options and the allocation said filled in.
        plain = config.model_dump(mode="json", by_alias=True)
        runs.write_private(paths.config, json.dumps(plain, indent=1).encode())
        runs.write_private(paths.resolved, json.dumps(config.resolved(), indent=1).encode())
    except OSError as error:
        raise CannotCreate(f"cannot write into {paths.root}: {error.strerror}") from error
    return paths


def settings(words: Sequence[str], job: JobEnv, *, file: Path | None, run_name: str | None) -> Config:
    """Return the configuration of a call; raises as `adopt` does, and touches nothing."""
    line = parse(words)
    return _of_file(file, line) if file is not None else _of_line(line, job, run_name)


def _of_file(file: Path, line: SrunLine) -> Config:
    from ftslurm.config import load

    config = load(file)
    if line.command or line.options:
        raise UsageError("with --config the command and its options come from the file", hint="leave them out here")
    return config


def _of_line(line: SrunLine, job: JobEnv, run_name: str | None) -> Config:
    from ftslurm.config import Config

    if not line.command:
        raise UsageError("there is no command to run", hint="ftslurm run [SRUN-OPTIONS] -- COMMAND")
    nodes = min(line.nodes or job.num_nodes, job.num_nodes)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_name or line.job_name or job.job_name or line.command[0]).strip("-.")
    starter = torchrunline.read(line.command)
    gpus, cpus = _gpus_per_node(line, job, nodes), line.cpus_per_task or job.cpus_per_task
    ranks = torchrunline.processes_of(starter, nodes, gpus) if starter else _ranks_per_node(line, job, nodes)
    # What a task is given is the whole node's then, and need not divide by its ranks.
    options = [*line.options, *([f"--cpus-per-task={cpus}"] if starter and cpus else [])]
    return Config.model_validate(
        {
            "name": name or "run",
            "command": list(line.command),
            "resources": {
                "nodes": nodes,
                "ranks_per_node": ranks,
                "gpus_per_node": gpus,
                "cpus_per_rank": None if starter else cpus,
            },
            "launch": {
                "launcher": "torchrun" if starter else "srun",
                "mpi": line.mpi or "none",
                "srun": options,
            },
        }
    )


def _ranks_per_node(line: SrunLine, job: JobEnv, nodes: int) -> int:
    """The step's own counts beat the job's; what does not divide evenly is refused rather than rounded."""
    if line.ntasks_per_node:
        return line.ntasks_per_node
    total = line.ntasks or (None if line.nodes else job.ntasks)
    if total is None:
        return job.ntasks_per_node or 1
    if total % nodes:
        raise UsageError(
            f"{total} ranks cannot be spread evenly over {nodes} nodes",
            hint="give --nodes and --ntasks-per-node, so that a smaller world is well defined too",
        )
    return total // nodes


def _gpus_per_node(line: SrunLine, job: JobEnv, nodes: int) -> int:
    """A total (`-G 8`) means as many on every node: of a smaller world the total would be another one."""
    if line.gpus and not line.gpus_per_node:
        if line.gpus % nodes:
            raise UsageError(
                f"{line.gpus} GPUs cannot be spread evenly over {nodes} nodes", hint="give --gpus-per-node instead"
            )
        return line.gpus // nodes
    return line.gpus_per_node or job.gpus_per_node or 0
