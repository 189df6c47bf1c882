"""Runs on shared storage: made, found, and linked to their jobs.

Every run has its folder under a run root. Where that is not the user's default root, the default root holds a link to
it, so that `ftslurm status` and `ftslurm resume JOBID` find every run of the user from anywhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.errors import CannotCreate, UsageError
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER, RunPaths, by_job, default_run_root

if TYPE_CHECKING:
    from ftslurm.slurm.env import JobEnv

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-\d{8}-[0-9a-f]{6}")
KEY_BYTES = 32
MAX_CALLS = 1000


def create(run_root: Path, name: str) -> RunPaths:
    """Make the folder of a new run, 0700, with its key.

    Raises:
        CannotCreate: the run root cannot be written.
    """
    run_id = f"{name}-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"
    paths = RunPaths(run_root.absolute() / run_id)
    try:
        run_root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        paths.root.mkdir(mode=PRIVATE_FOLDER)
        for folder in (paths.logs, paths.checkpoints, paths.lease):
            folder.mkdir(mode=PRIVATE_FOLDER)
        write_private(paths.key, secrets.token_bytes(KEY_BYTES))
        _link(default_run_root() / run_id, paths.root)
    except OSError as error:
        raise CannotCreate(
            f"cannot create the run's folder {paths.root}: {error.strerror}",
            hint="set run_root (or FTSLURM_RUN_ROOT) to a folder on shared storage that you can write",
        ) from error
    return paths


def write_private(path: Path, data: bytes) -> None:
    """Create a file that only the user can read; it must not exist."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def link_job(paths: RunPaths, job_id: str) -> None:
    """Let the job id lead to the run, in its own root and in the default one."""
    for root in {paths.root.parent, default_run_root()}:
        _link(by_job(root, job_id), paths.root)


def link_submission(run_root: Path, job_id: str, submission: Path) -> None:
    """Let it be known that a job was submitted, whose script has made no run yet."""
    for root in {run_root, default_run_root()}:
        _link(_submitted(root, job_id), submission)


def _submitted(root: Path, job_id: str) -> Path:
    return by_job(root, f"{job_id}.submitted")


def _link(link: Path, target: Path) -> None:
    """Point a symbolic link at a run; links are indexes, losing one loses nothing."""
    if link == target:
        return
    link.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    part = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    part.symlink_to(target)
    part.replace(link)


def find_run(text: str) -> RunPaths:
    """Return the run that a user means: by its folder, its run id, or the id of one of its jobs.

    Raises:
        UsageError: there is no such run.
    """
    direct = Path(text)
    if "/" in text or text in (".", ".."):
        return _checked(direct.absolute(), text)
    root = default_run_root()
    candidates = [by_job(root, text), root / text]
    for candidate in candidates:
        if candidate.is_dir():
            return _checked(candidate.resolve(), text)
    if _submitted(root, text).is_dir():
        raise UsageError(
            f"job {text} is submitted, and its script has not called `ftslurm run` yet",
            hint=f"`squeue -j {text}` shows whether it still waits, `scancel {text}` ends it",
        )
    raise UsageError(
        f"no run is known as {text!r} (looked in {root})",
        hint="`ftslurm status` lists your runs; a run's folder, run id or job id names it",
    )


def _checked(folder: Path, text: str) -> RunPaths:
    paths = RunPaths(folder)
    try:
        known = paths.key.exists()
    except PermissionError as error:
        raise UsageError(
            f"{text} is somebody else's: {error.strerror}", hint="`ftslurm status` lists your runs"
        ) from error
    if not known:
        raise UsageError(f"{text} is not the folder of a run", hint="`ftslurm status` lists your runs")
    return paths


def all_runs() -> list[RunPaths]:
    """Return every run that the user's default root knows, newest first."""
    root = default_run_root()
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if RUN_ID.fullmatch(path.name) and path.is_dir()]
    return [RunPaths(path.resolve()) for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def same_call(run_root: Path, job: JobEnv, call: Sequence[str], name: str) -> RunPaths:
    """Return the run of one `ftslurm run` call in a script: the same one again after a requeue of the job.

    A run is the job, the digest of the call (its command, or the name that it was given), and how many such calls this
    incarnation of the job has made before; two calls in one script are two runs. Runs of another job are joined only
    in a chain, which stands for its jobs here, and where `ftslurm resume` has submitted the script again.

    Raises:
        CannotCreate: the run root cannot be written.
    """
    digest = hashlib.blake2b("\0".join(call).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    ordinal = _next_ordinal(run_root, f"{job.requeue_id}.{job.restart_count}.{digest}")
    link = by_job(run_root, f"{job.calls_of}.{digest}.{ordinal}")
    if link.is_dir():
        return RunPaths(link.resolve())
    paths = create(run_root, name)
    _link(link, paths.root)
    return paths


def _next_ordinal(run_root: Path, call: str) -> int:
    folder = run_root / "calls"
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        for ordinal in range(MAX_CALLS):
            try:
                write_private(folder / f"{call}.{ordinal}", b"")
            except FileExistsError:
                continue
            return ordinal
    except OSError as error:
        raise CannotCreate(f"cannot write in {folder}: {error.strerror}", hint="set FTSLURM_RUN_ROOT") from error
    raise CannotCreate(f"{MAX_CALLS} calls of one command in one job", hint="give each its own --run-name")
