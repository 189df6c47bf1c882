"""Which jobs belong to which run: the local index of links, read without asking Slurm."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

from ftslurm import runs
from ftslurm.errors import UsageError
from ftslurm.insight.board import Identity
from ftslurm.insight.summary import journal_files
from ftslurm.paths import RunPaths, by_job, default_run_root
from ftslurm.slurm.parse import check_job_id

DAY_S = 86_400.0


def jobs_by_run(*roots: Path) -> dict[Path, tuple[str, ...]]:
    """Every run's jobs, oldest first, as the default root and `roots` know them."""
    found: dict[Path, dict[str, int]] = {}
    real = functools.cache(Path.resolve)
    for root in {default_run_root(), *roots}:
        folder = by_job(root, "x").parent
        try:
            links = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        for link in links:
            if link.is_symlink() and is_job_id(link.name):
                target = real(folder / os.readlink(link.path))
                found.setdefault(target, {})[link.name] = link.stat(follow_symlinks=False).st_mtime_ns
    return {run: tuple(sorted(jobs, key=lambda job: (jobs[job], job))) for run, jobs in found.items()}


def is_job_id(text: str) -> bool:
    """Whether Slurm could have given this id to a job."""
    try:
        check_job_id(text)
    except UsageError:
        return False
    return True


def identity(paths: RunPaths, jobs: dict[Path, tuple[str, ...]]) -> Identity:
    """The run and its jobs."""
    # Most roots are real paths already, and to find that out costs more than all the rest of it.
    linked = jobs.get(paths.root) or jobs.get(paths.root.resolve(), ())
    return Identity(run_id=paths.run_id, run_dir=str(paths.root), job_ids=linked)


def touched(paths: RunPaths) -> float:
    """When something last happened to a run, in epoch seconds: its journal, its lease, its folder."""
    times = []
    for path in (paths.root, paths.lease, *journal_files(paths)):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times, default=0.0)


def recent(days: float) -> list[RunPaths]:
    """The user's runs to which something happened in the last days, newest first."""
    since = time.time() - days * DAY_S
    dated = [(touched(paths), paths) for paths in runs.all_runs()]
    return [paths for when, paths in sorted(dated, key=lambda pair: pair[0], reverse=True) if when >= since]
