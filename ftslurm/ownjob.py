"""The submission of a user's own script, kept so that `ftslurm resume` can submit it again.

`submit --from` leaves the script and the options beside it in `<run root>/submissions/<name>`, and its path in the
job's environment (`FTSLURM_SUBMISSION`); every `ftslurm run` in the script copies both into its run's folder. The copy
counts later, not the user's file, which may have changed: Slurm, too, runs the script as it was when it was submitted.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ftslurm.errors import CannotCreate, DataDamaged, StorageError
from ftslurm.paths import PRIVATE_FOLDER, RunPaths, submissions
from ftslurm.runs import write_private
from ftslurm.slurm import env

SCHEMA = 1
SCRIPT = "script.sbatch"
ABOUT = "submission.json"
OWNER = "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnJob:
    """What a user has given to `submit --from`.

    `options` and `arguments` stood before and behind the script's name on sbatch's command line; `cwd` is where that
    was. `calls_of` is the job whose `ftslurm run` calls those in the script are: its own, or the first of those that a
    resumed run has had.
    """

    script: str
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    cwd: str = "."
    calls_of: str = ""


def leave(run_root: Path, own: OwnJob, text: bytes) -> Path:
    """Write a submission down and return its folder.

    Raises:
        CannotCreate: the run root cannot be written.
    """
    folder = submissions(run_root.absolute()) / secrets.token_hex(6)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True)
        _write(folder / SCRIPT, folder / ABOUT, own, text)
    except OSError as error:
        raise CannotCreate(
            f"cannot write into {folder}: {error.strerror}",
            hint="give --run-root (or set FTSLURM_RUN_ROOT) a folder on shared storage that you can write",
        ) from error
    return folder


def take_back(folder: Path) -> None:
    """Forget a submission that Slurm has not taken."""
    shutil.rmtree(folder, ignore_errors=True)


def run_root_of(folder: str) -> Path | None:
    """Return the run root of a submission, named by its folder; None for a job that was not submitted this way."""
    place = Path(folder)
    known = place.is_absolute() and place.parent == submissions(place.parent.parent)
    return place.parent.parent if known else None


def forget_if_inherited(environ: MutableMapping[str, str]) -> None:
    """Drop the marks of a submission of another job: a job inherits the environment that sbatch is called in."""
    folder = Path(environ.get(env.SUBMISSION, ""))
    job = environ.get(env.ARRAY_JOB_ID) or environ.get(env.JOB_ID, "")
    if run_root_of(str(folder)) is None:
        return
    try:
        write_private(folder / OWNER, job.encode())
    except FileExistsError:
        if _bytes(folder / OWNER).decode(errors="replace") not in ("", job):  # empty: its writer was killed
            for name in (env.SUBMISSION, env.CONTINUES, env.NO_KILL_MARKER):
                environ.pop(name, None)
    except FileNotFoundError:
        environ.pop(env.SUBMISSION)  # somebody has tidied up; the script still runs
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}") from error


def keep(folder: str, paths: RunPaths, calls_of: str) -> None:
    """Copy a submission into the folder of a run.

    Raises:
        StorageError: it cannot be read.
    """
    place = Path(folder)
    own = _read(place / ABOUT)
    try:
        for path in (paths.own_script, paths.own_job):
            path.unlink(missing_ok=True)  # of a call that was killed before it had a configuration
        _write(paths.own_script, paths.own_job, OwnJob(**{**asdict(own), "calls_of": calls_of}), _bytes(place / SCRIPT))
    except OSError as error:
        raise CannotCreate(f"cannot write into {paths.root}: {error.strerror}") from error


def of_run(paths: RunPaths) -> OwnJob | None:
    """Return the submission that a run has come from; None where it came from a file of settings, or from plain sbatch.

    Raises:
        StorageError: it cannot be read.
        DataDamaged: it is not what was written.
    """
    return _read(paths.own_job) if paths.own_job.exists() else None


def text_of(paths: RunPaths) -> bytes:
    """Return the script that a run has come from."""
    return _bytes(paths.own_script)


def _write(script: Path, about: Path, own: OwnJob, text: bytes) -> None:
    write_private(script, text)
    write_private(about, json.dumps({"meta": {"schema": SCHEMA}, **asdict(own)}, indent=1).encode())


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _read(path: Path) -> OwnJob:
    try:
        found = json.loads(_bytes(path))
        if found["meta"]["schema"] != SCHEMA:
            raise DataDamaged(f"{path} is of another version")
        return OwnJob(
            script=str(found["script"]),
            options=tuple(map(str, found["options"])),
            arguments=tuple(map(str, found["arguments"])),
            cwd=str(found["cwd"]),
            calls_of=str(found["calls_of"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise DataDamaged(f"{path} is damaged: {error}") from error
