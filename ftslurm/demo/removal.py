"""Nothing of a demonstration is left: the job, the run's folder, the links to it, the folders made for it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftslurm.demo.course import Course
from ftslurm.demo.program import REQUESTS, STOP
from ftslurm.errors import FtslurmError
from ftslurm.paths import RunPaths, by_job, default_run_root, home
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobState

SWEPT_S = 60.0
STOPPED_S = 30.0
TRIES = 20


@dataclass(frozen=True, slots=True)
class Before:
    """Which of the user's folders were not there before the demonstration."""

    absent: tuple[Path, ...]

    @classmethod
    def of(cls, root: Path) -> Before:
        """Look; `root` is the run root that the demonstration's own folder will be in."""
        index = by_job(default_run_root(), "x").parent
        folders = (index, root, default_run_root(), home())
        return cls(tuple(dict.fromkeys(folder for folder in folders if not folder.exists())))


def end_job(course: Course) -> list[str]:
    """See the job to its end, which sweeps its nodes; what is left there in spite of it."""
    if course.until_the_job_is_over(SWEPT_S):
        return _unswept(course)
    return stop_job(course)


def stop_job(course: Course) -> list[str]:
    """End a job in the middle: the program is asked to stop, so that the nodes are swept; else it is cancelled."""
    pending = course.job_state() in (JobState.PENDING, None)
    with suppress(OSError):
        (course.paths.root / REQUESTS / STOP).touch()
    if not pending and course.until_the_job_is_over(STOPPED_S):
        return _unswept(course)
    try:
        course.client.cancel(course.job_id)
    except FtslurmError as error:
        return [f"job {course.job_id} cannot be cancelled ({error}): `scancel {course.job_id}`"]
    if not course.until_the_job_is_over(SWEPT_S):
        return [f"job {course.job_id} does not end: see `squeue -j {course.job_id}`"]
    uid = os.getuid()
    return [] if pending else [f"perhaps folders {course.paths.run_id} below /tmp/ftslurm-{uid} of the job's nodes"]


def withdraw(client: SlurmClient, run_id: str) -> None:
    """Cancel the job of a run that was being submitted, if Slurm has it."""
    with suppress(FtslurmError):
        for job_id in client.find_submitted(run_id):
            client.cancel(job_id)


def _unswept(course: Course) -> list[str]:
    """What the job says that it could not remove."""
    found = []
    for path in course.paths.logs.glob("job-*.out"):
        with suppress(OSError):
            found += [line for line in path.read_text(errors="replace").splitlines() if line.endswith(" is left")]
    return found


def remove(folder: Path, paths: RunPaths, job_id: str, before: Before) -> list[str]:
    """Remove the demonstration's folder and the links to its run; what would not go.

    On NFS a file that some process still holds open comes back under another name until it is closed.
    """
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.25)
    for link in (default_run_root() / paths.run_id, by_job(default_run_root(), job_id)):
        with suppress(OSError):
            if link.is_symlink() and link.readlink() == paths.root:
                link.unlink()
    _prune(before.absent)
    return [str(folder)] if folder.exists() else []


def _prune(folders: Iterable[Path]) -> None:
    """Remove folders that were made meanwhile, where they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
