"""A run of a user's own script: what `ftslurm run` is told by srun's options, by the allocation, and beside them.

Beside them there may be a file without a command: any sections of a configuration that the line does not answer itself;
and a few keys of its section `checkpoint` as options, for checkpoints that stay where the program writes them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm import ownjob, runs, submission, torchrunline
from ftslurm.errors import CannotCreate, UsageError
from ftslurm.srunline import SrunLine, parse

MAX_ATTEMPTS = 20

if TYPE_CHECKING:
    from ftslurm.config import Config
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.env import JobEnv


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a call says besides srun's line. `checkpoint`: keys of that section, which beat those of the file."""

    file: Path | None = None
    run_name: str | None = None
    checkpoint: Mapping[str, object] = field(default_factory=dict)


def adopt(words: Sequence[str], job: JobEnv, told: Told = Told(), *, run_root: Path | None = None) -> RunPaths:
    """Return the run of this call: a new one, the one that this job had before it was requeued, or that of its chain.

    Raises:
        UsageError: there is no command, or an option contradicts supervision.
        ConfigError: the file has mistakes.
        CannotCreate: the run root cannot be written.
    """
    config = settings(words, job, told)
    submitted_to = ownjob.run_root_of(job.submission)
    script = told.file or (Path(job.submit_dir) if job.submit_dir else None)
    root = submission.run_root_of(config, run_root or submitted_to, profile=_proven_root(job), script=script)
    call = ("--run-name", told.run_name) if told.run_name else recognised(config.command, job)
    paths = runs.same_call(root, job, call, config.name)
    if paths.config.exists():
        return paths
    if submitted_to is not None:
        ownjob.keep(job.submission, paths, job.calls_of)
    try:
        # JSON is YAML: the run's own copy, with what srun's options and the allocation said filled in.
        plain = config.model_dump(mode="json", by_alias=True)
        runs.write_private(paths.config, json.dumps(plain, indent=1).encode())
        runs.write_private(paths.resolved, json.dumps(config.resolved(), indent=1).encode())
    except OSError as error:
        raise CannotCreate(f"cannot write into {paths.root}: {error.strerror}") from error
    return paths


def _proven_root(job: JobEnv) -> str:
    """The run root that a probe of this partition has proven; without one, Slurm need not be asked for the cluster."""
    from ftslurm import siteprofile

    return siteprofile.run_root(job.cluster, job.partition)


def settings(words: Sequence[str], job: JobEnv, told: Told = Told()) -> Config:
    """Return the configuration of a call; raises as `adopt` does, and touches nothing."""
    from ftslurm.config import text_of

    line, text = parse(words), "" if told.file is None else text_of(told.file)
    beside = _sections(text)
    is_whole = told.file is not None and ("command" in beside or not line.command)
    config = _of_file(line, told, text) if is_whole else _of_line(line, job, told, text)
    saved = config.checkpoint
    if told.checkpoint and not saved.is_watched:
        raise UsageError(
            "nobody knows which files in --checkpoints are checkpoints",
            hint="--checkpoint-layout hf (or another framework), or --checkpoint-files 'step_*.pt'",
        )
    if saved.folder is None:
        return config
    # As the script means it here: a supervisor that takes over may live in another folder.
    placed = saved.model_copy(update={"folder": str(Path.cwd() / saved.folder)})
    return config.model_copy(update={"checkpoint": placed})


def checkpoint_keys(
    folder: str | None, layout: str | None, files: Sequence[str], resume_args: str | None
) -> dict[str, object]:
    """Return what the options say of the section `checkpoint`; empty without any.

    Raises:
        UsageError: the text of --resume-args has a quote without its second.
    """
    found: dict[str, object] = {}
    if folder is not None:
        found |= {"mode": "in-place", "folder": folder}
    if layout is not None:
        found["layout"] = layout
    if files:
        found["files"] = list(files)
    if resume_args is not None:
        try:
            found["resume_args"] = shlex.split(resume_args)
        except ValueError as error:
            raise UsageError(f"--resume-args {resume_args!r}: {error}") from error
    return found


def recognised(command: Sequence[str], job: JobEnv) -> tuple[str, ...]:
    """Return the command as it is the same again on other nodes after a requeue, and in another job when resumed.

    Bash computes endpoints: names of nodes, addresses with their ports, the job's id, and what is written anew for
    every attempt do not tell two calls apart.
    """
    starter = torchrunline.read(command)
    names = [*map(re.escape, job.nodelist), job.job_id, r"\d{1,3}(?:\.\d{1,3}){3}"]
    places = re.compile(rf"(?<![\w.-])(?:{'|'.join(names)})(?![\w-])(?::\d{{1,5}})?")
    return tuple(places.sub("@", word) for word in (starter.kept() if starter else command))


def _sections(text: str) -> dict[str, Any]:
    """What a file says, right or wrong: it is checked as a whole later."""
    from ftslurm.yamldoc import read

    found = read(text).value
    return found if isinstance(found, dict) else {}


def _of_file(line: SrunLine, told: Told, text: str) -> Config:
    from ftslurm import config

    if line.command or line.options:
        raise UsageError(
            "with --config the command and its options come from the file",
            hint="leave them out here, or take command, name and resources out of the file",
        )
    return config.parse(text, str(told.file), {"checkpoint": told.checkpoint} if told.checkpoint else None)


def _of_line(line: SrunLine, job: JobEnv, told: Told, text: str) -> Config:
    from pydantic import ValidationError

    from ftslurm.config import Config, laid_over
    from ftslurm.config import parse as checked

    if not line.command:
        raise UsageError("there is no command to run", hint="ftslurm run [SRUN-OPTIONS] -- COMMAND")
    beside = _sections(text)
    if twice := [name for name in ("name", "resources") if name in beside]:
        raise UsageError(f"{told.file}: {' and '.join(twice)}: the command line and this job say that here")
    said = {**_said(line, job, told.run_name), **({"checkpoint": told.checkpoint} if told.checkpoint else {})}
    everything = laid_over(laid_over(_unless_told(beside, said), beside), said)
    if told.file is not None:
        return checked(text, str(told.file), everything)
    try:
        return Config.model_validate(everything)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False))
        raise UsageError(f"this command line cannot be a run: {'; '.join(wrong)}") from error


def _said(line: SrunLine, job: JobEnv, run_name: str | None) -> dict[str, Any]:
    """What the line and the allocation say."""
    nodes = min(line.nodes or job.num_nodes, job.num_nodes)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_name or line.job_name or job.job_name or line.command[0]).strip("-.")
    starter = torchrunline.read(line.command)
    gpus, cpus = _gpus_per_node(line, job, nodes), line.cpus_per_task or job.cpus_per_task
    ranks = torchrunline.processes_of(starter, nodes, gpus) if starter else _ranks_per_node(line, job, nodes)
    # What a task is given is the whole node's then, and need not divide by its ranks.
    options = [*line.options, *([f"--cpus-per-task={cpus}"] if starter and cpus else [])]
    return {
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
            **({"mpi": line.mpi} if line.mpi else {}),
            **({"srun": options} if options else {}),
        },
    }


def _unless_told(beside: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What holds in a script of the user's own where nobody says otherwise."""
    saved = [each for each in (beside.get("checkpoint"), said.get("checkpoint")) if isinstance(each, Mapping)]
    watched = any(each.get("files") or each.get("layout", "files") != "files" for each in saved)
    # Checkpoints that only the program knows are no progress that we could see: three failures are no loop yet.
    limits = {} if watched else {"no_progress_limit": MAX_ATTEMPTS}
    # A signal that a program does not expect would end it; frameworks are asked as their layout says.
    asked = {"checkpoint": {"save_on": "none"}} if "files" in said.get("checkpoint", {}) else {}
    return {"launch": {"mpi": "none"}, "recovery": {**limits, "max_attempts": MAX_ATTEMPTS}, **asked}


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
