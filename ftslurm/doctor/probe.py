"""The probe job, from the login side: submit it, wait for it, read what the nodes wrote, clean up.

The job has its own folder below the run root, which is removed whatever happens; Ctrl-C and every deadline cancel the
job. It asks for what a run's job asks for (--no-kill, --requeue, a signal for the batch shell), so that a site that
alters or refuses them shows it here. Its last act is a requeue of itself; it is cancelled then.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.errors import CannotCreate, FtslurmError, ServiceUnavailable, TryAgain
from ftslurm.paths import PRIVATE_FOLDER
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobInfo, JobState

LIMIT_MINUTES = 2
JOB_S = 60.0 * LIMIT_MINUTES + 60
POLL_S = 1.0
ENDING_S = 15.0
NO_FOLDER, NO_PYTHON = 3, 4
ANSWERS = "node.*.json"
SCRIPT = """\
#!/bin/bash
folder={folder}
python={python}
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit 0
[ -w "$folder" ] || exit {no_folder}
exec >> "$folder/job.out" 2>&1
[ -x "$python" ] && "$python" -I -c 'import ftslurm' || exit {no_python}
trap 'echo arrived > "$folder/signal"' USR2
"$python" -I -m ftslurm.doctor.batch "$folder" &
while kill -0 $! 2> /dev/null; do wait $!; done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What kind of probe is wanted. `options` are sbatch's, as --account=NAME."""

    partition: str | None = None
    nodes: int = 2
    options: tuple[str, ...] = ()
    wait_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears how far the probe is: in words, and how many of how many nodes have answered."""

    tell: Callable[[str], None]
    count: Callable[[int, int], None] = lambda *_: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the job's processes wrote; `code` is that of the batch script where it gave up by itself."""

    job_id: str
    code: int | None
    batch: Mapping[str, Any]
    requeue: Mapping[str, Any]
    nodes: Mapping[str, Mapping[str, Any]]
    log: str


def run(client: SlurmClient, root: Path, request: Request, wanted: Mapping[str, Any], listener: Listener) -> Result:
    """Run the probe job to its end and return what it found; `wanted` is what its processes are told.

    Raises:
        CannotCreate: the run root cannot be written.
        Refused: Slurm does not take the job.
        ServiceUnavailable: it did not start, or did not end, in time; it is cancelled.
    """
    folder = root.absolute() / f".doctor-{secrets.token_hex(4)}"
    options = _options(request)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True)
        told = {**wanted, "test_options": [*options, "--time=1"]}
        (folder / "request.json").write_text(json.dumps(told), encoding="utf-8")
    except OSError as error:
        raise CannotCreate(f"cannot create {folder}: {error.strerror}", hint="choose another --run-root") from error
    try:
        return _submitted(client, folder, options, request, listener)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _options(request: Request) -> list[str]:
    partition = [f"--partition={request.partition}"] if request.partition else []
    return [f"--nodes={request.nodes}", *partition, *request.options]


def _submitted(client: SlurmClient, folder: Path, options: list[str], request: Request, listener: Listener) -> Result:
    script = SCRIPT.format(
        folder=shlex.quote(str(folder)), python=shlex.quote(sys.executable), no_folder=NO_FOLDER, no_python=NO_PYTHON
    )
    asked = [
        *options, "--ntasks-per-node=1", f"--time={LIMIT_MINUTES}", "--job-name=ftslurm-doctor", "--no-kill",
        "--requeue", "--open-mode=append", "--output=/dev/null", "--signal=B:USR2@30",
    ]  # fmt: skip
    job_id = client.submit(script, asked)
    listener.tell(f"job {job_id} is submitted")
    try:
        last = _wait(client, folder, job_id, request, listener)
    finally:
        with suppress(FtslurmError):
            client.cancel(job_id)
    _settle(client, job_id)
    return Result(
        job_id=job_id,
        code=_code(last.exit_code) if last else None,
        batch=_read(folder / "batch.json"),
        requeue=_read(folder / "requeue.json") or ({"allowed": True} if last and last.restart_count else {}),
        nodes={path.name.split(".", 1)[1][: -len(".json")]: _read(path) for path in folder.glob(ANSWERS)},
        log=_tail(folder / "job.out"),
    )


def _wait(client: SlurmClient, folder: Path, job_id: str, request: Request, listener: Listener) -> JobInfo | None:
    """Wait for the last file, or the job's end; Slurm's last word where the file did not come."""
    until, running, said = time.monotonic() + request.wait_s, False, ""
    while not (folder / "requeue.json").exists():
        if time.monotonic() > until:
            raise ServiceUnavailable(
                f"the probe job {job_id} did not {'end' if running else 'start'} in time; it is cancelled",
                hint="a longer --wait, another partition with -p, or fewer nodes with -N",
            )
        time.sleep(POLL_S)
        listener.count(len(list(folder.glob(ANSWERS))), request.nodes)
        try:
            info = client.job(job_id)
        except (ServiceUnavailable, TryAgain) as error:
            listener.tell(f"Slurm does not answer: {error}")
            continue
        state = f"{info.state} ({info.reason})" if info.state is JobState.PENDING and info.reason else str(info.state)
        if state != said:
            listener.tell(f"job {job_id}: {state}")
            said = state
        if info.state is JobState.RUNNING and not running:
            running, until = True, time.monotonic() + JOB_S
        if info.state.is_over or info.restart_count:
            return info
    return None


def _code(text: str) -> int | None:
    first = text.partition(":")[0]
    return int(first) if first.isdigit() else None


def _settle(client: SlurmClient, job_id: str) -> None:
    """Wait until the job's processes are gone: they write into the folder that is removed next."""
    end = time.monotonic() + ENDING_S
    while time.monotonic() < end:
        try:
            if client.job(job_id).state.is_over:
                return
        except (ServiceUnavailable, TryAgain):
            return
        time.sleep(POLL_S / 2)


def _read(path: Path) -> dict[str, Any]:
    """A file that the job wrote; empty if it did not."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def _tail(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")[-2000:]
    return ""
