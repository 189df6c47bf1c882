"""From a configuration to a submitted job: the run's folder, the request, the script. Nothing here decides anything."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm import paths as names
from ftslurm import runs
from ftslurm.errors import CannotCreate, StorageError
from ftslurm.slurm.env import CHAIN
from ftslurm.slurm.script import JobRequest, OptionValue, literal_pattern, options_from_argv, render, sbatch_argv

if TYPE_CHECKING:
    from ftslurm.config import Config
    from ftslurm.paths import RunPaths

DRY_RUN_ID = "DRY-RUN"
SAVE_LEAD_S = 60
"""Added to checkpoint.grace for the drain after the save; Slurm may warn up to 60 s early, never late (sbatch(1))."""


def run_root_of(config: Config, given: Path | None) -> Path:
    """Return where the run's folder goes: the option, then the file, then FTSLURM_RUN_ROOT or the user's default."""
    if given is not None:
        return given.absolute()
    return Path(config.run_root) if config.run_root else names.default_run_root()


def request_of(
    config: Config, paths: RunPaths, options: Sequence[str] = (), *, resumed: int | None = None
) -> JobRequest:
    """Return the job that carries a run.

    Args:
        config: what the user wrote.
        paths: the run's folder.
        options: further options of sbatch from the command line; they beat the file's.
        resumed: the job continues a run that has ended after so many journal entries.

    Raises:
        UsageError: an option is not of the form --name or --name=value.
    """
    resources, spares = config.resources, config.recovery.spares
    flags = () if resumed is None else ("--resumed", str(resumed))
    return JobRequest(
        name=config.name,
        run_dir=str(paths.root),
        argv=(sys.executable, "-I", "-m", "ftslurm", "run", "--run-dir", str(paths.root), *flags),
        min_nodes=resources.nodes[0] + spares,
        max_nodes=resources.nodes[1] + spares,
        ntasks=_tasks(config),
        ranks_per_node=config.tasks_per_node,
        cpus_per_rank=config.cpus_per_task,
        gpus_per_node=resources.gpus_per_node or None,
        time_s=resources.time,
        partition=resources.partition,
        output=literal_pattern(str(paths.logs)) + "/job-%j.out",
        signal_lead_s=int(min(config.checkpoint.grace + SAVE_LEAD_S, 65_000)),
        requeue={"auto": True, "requeue": True, "none": False}.get(config.recovery.continue_),
        comment=json.dumps({"ftslurm": paths.run_id}, separators=(",", ":")),
        options=_options(config, options),
        exports=_exports(config, paths),
    )


def _tasks(config: Config) -> int | None:
    """Return the tasks of the whole allocation, spares included; a range of nodes has no number of tasks."""
    low, high = config.resources.nodes
    return (high + config.recovery.spares) * config.tasks_per_node if low == high else None


def _exports(config: Config, paths: RunPaths) -> dict[str, str]:
    """Return what ftslurm's own processes find in their environment."""
    # The chain in every job: one that is submitted from within a chain would inherit that.
    chain = paths.run_id if config.recovery.chain else ""
    chosen = os.environ.get(names.LEDGER)
    ledger = {names.LEDGER: str(Path(chosen).absolute())} if chosen else {}
    return {"FTSLURM_HOME": str(names.home().absolute()), CHAIN: chain, **ledger}


def _options(config: Config, words: Sequence[str]) -> tuple[tuple[str, OptionValue], ...]:
    """Return the file's options of sbatch, and those of the command line, which beat them."""
    extra = options_from_argv(words)
    given = {name for name, _ in extra}
    listed: list[tuple[str, OptionValue]] = [
        (name, True if each is True else str(each))
        for name, value in config.resources.sbatch.items()
        if name not in given and value is not False
        for each in (value if isinstance(value, tuple) else (value,))
    ]
    return (*listed, *extra)


def preview(config: Config, root: Path, options: Sequence[str]) -> JobRequest:
    """Return the request of a run that does not exist yet, for --dry-run and --test-only."""
    return request_of(config, names.RunPaths(root / f"{config.name}-{DRY_RUN_ID}"), options)


def prepare(config: Config, file: Path, root: Path) -> RunPaths:
    """Make the run's folder with the configuration in it; values of secrets are in the user's own file only.

    Raises:
        CannotCreate: the folder cannot be made.
    """
    paths = runs.create(root, config.name)
    try:
        runs.write_private(paths.config, file.read_bytes())
        runs.write_private(paths.resolved, json.dumps(config.resolved(), indent=1).encode())
    except OSError as error:
        raise CannotCreate(f"cannot write into {paths.root}: {error.strerror}") from error
    return paths


def write_script(paths: RunPaths, request: JobRequest) -> Path:
    """Render the script into the run's folder, beside those of earlier jobs, and note how it is submitted."""
    target = paths.script
    count = 1
    while target.exists():
        count += 1
        target = paths.script.with_name(f"{paths.script.stem}.{count}{paths.script.suffix}")
    runs.write_private(target, render(request).encode("utf-8", "surrogateescape"))
    record = json.dumps({"script": target.name, "options": command_line(request)})
    part = paths.submitted.with_name(f".{paths.submitted.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    runs.write_private(part, record.encode("utf-8", "surrogateescape"))
    part.replace(paths.submitted)
    return target


def again(paths: RunPaths) -> tuple[Path, list[str]] | None:
    """Return the script of the run's newest job and what stood on sbatch's command line; None: nobody knows.

    A run that began in a script of the user's own has none.

    Raises:
        StorageError: the note cannot be read.
    """
    try:
        record = json.loads(paths.submitted.read_bytes())
        return paths.root / Path(str(record["script"])).name, [str(each) for each in record["options"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"cannot read {paths.submitted}: {error}") from error


def discard(paths: RunPaths) -> None:
    """Remove the folder of a run that was never submitted."""
    shutil.rmtree(paths.root, ignore_errors=True)
    link = names.default_run_root() / paths.run_id
    if link.is_symlink():
        link.unlink()


def command_line(request: JobRequest) -> list[str]:
    """Return the options that stand on sbatch's command line."""
    return sbatch_argv(request)
