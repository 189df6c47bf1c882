"""The only place that runs Slurm's commands.

Rules:

- One `run(argv)`: no shell, a deadline for every call, the environment of `env.clean`; LC_ALL=C and epoch
  times for all but sbatch, whose environment becomes the job's.
- No answer is no guess: a timeout, a refused connection, a missing slurm.conf raise `ServiceUnavailable`; a passing
  condition raises `TryAgain`; Slurm's no raises `Refused` with Slurm's own words.
- Writes (submit, requeue, update) are never repeated here: after a timeout they may have taken effect. Whoever
  repeats looks first (`find_submitted`, `job`).
- A command outlives a SIGTERM to the batch step: a requeue from inside the job brings one at once.
- `cancel` can be fired without waiting: with an unreachable node scancel blocks for 12 s (measured on 22.05.8).

squeue(1), scontrol(1), sacct(1), sbatch(1), scancel(1).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.errors import Refused, ServiceUnavailable, TryAgain, UsageError
from ftslurm.slurm import env, nodeset, parse, site, survey
from ftslurm.slurm.records import JobInfo, JobState, LiveJob, NodeInfo, SiteConfig, Source, StartForecast, StepInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

LOG = logging.getLogger(__name__)

TIMEOUT_S = 10.0
SUBMIT_TIMEOUT_S = 60.0
"""sbatch itself waits and repeats when slurmctld is busy; a submission cut short may still take effect."""

CANCEL_TIMEOUT_S = 60.0
REAP_TIMEOUT_S = 2.0

_NO_ANSWER = re.compile(
    r"unable to contact slurm|unable to establish control|could not establish a configuration source|"
    r"connection (refused|timed out|reset)|communication (connection )?(failure|error)|socket timed out|"
    r"zero bytes were transmitted|no route to host|network is unreachable|host is down|message (receive|send) failure|"
    r"failed to fetch config|standby mode|unexpected message received|slurm_persist_conn|dbd_|slurmdbd|"
    r"invalid authentication credential|protocol authentication error|munge|unable to resolve|"
    r"unable to process configuration file|plugin initialization failed|incompatible versions",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"db index is being set|not available right now|temporarily unable|temporarily unavailable|"
    r"resource temporarily|rpc (rate )?limit|try again|in progress|nodes are busy|controller is busy",
    re.IGNORECASE,
)
_UNKNOWN_JOB = re.compile(r"invalid job id", re.IGNORECASE)
_UNKNOWN_NODE = re.compile(r"^node \S+ not found", re.IGNORECASE | re.MULTILINE)
_GONE = re.compile(r"already (completing|completed)|invalid job id", re.IGNORECASE)


LIVE_STATES = "PENDING,CONFIGURING,RUNNING,SUSPENDED"
"""Of jobs that will still run: one that is COMPLETING does not."""


class JobField(StrEnum):
    """What `update_job` may change; the value is scontrol's name. One field a call: their order matters to Slurm."""

    NUM_TASKS = "NumTasks"
    NUM_NODES = "NumNodes"
    NODE_LIST = "NodeList"
    EXC_NODE_LIST = "ExcNodeList"
    START_TIME = "StartTime"
    REQUEUE = "Requeue"
    COMMENT = "Comment"
    TIME_LIMIT = "TimeLimit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One call of one command: what was asked, and what came back."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """Slurm's own words about what went wrong, on one line."""
        text = self.stderr.strip() or self.stdout.strip()
        return " / ".join(line.strip() for line in text.splitlines() if line.strip())[:600]

    def check(self) -> Answer:
        """Itself if the command succeeded.

        Raises:
            TryAgain: a passing condition of slurmctld.
            ServiceUnavailable: slurmctld, slurmdbd or the configuration could not be reached.
            Refused: Slurm's answer is no.
        """
        if self.returncode == 0:
            return self
        said = self.words or f"exit code {self.returncode} without a word"
        said = said if said.startswith(f"{self.argv[0]}:") else f"{self.argv[0]}: {said}"
        if _PASSING.search(self.words):
            raise TryAgain(said, hint="Slurm says that this passes; repeat it in some seconds")
        if not self.words or _NO_ANSWER.search(self.words):
            raise ServiceUnavailable(said, hint="see whether `scontrol ping` answers on this host")
        raise Refused(said)


class NotStarted(ServiceUnavailable):
    """A command of Slurm could not be run at all: Slurm has not heard of what it was to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmClient:
    """Slurm as seen from this host; `environ` is cleaned before use, `timeout_s` bounds every read."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    timeout_s: float = TIMEOUT_S

    def run(self, argv: Sequence[str], *, timeout_s: float | None = None, stdin: str = "") -> Answer:
        """Run one command to its end and return what it said; success is not checked.

        Raises:
            NotStarted: the command is not installed.
            ServiceUnavailable: it did not end in time.
            UsageError: an argument that no command can get (NUL inside).
        """
        deadline = self.timeout_s if timeout_s is None else timeout_s
        environ = env.clean(self.environ)
        if argv[0] != "sbatch":  # sbatch would hand these on to the job
            environ |= {"LC_ALL": "C", env.TIME_FORMAT: "%s"}
        try:
            with _shielded():
                process = subprocess.Popen(
                    list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ,
                    text=True, encoding="utf-8", errors="surrogateescape", start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise NotStarted(
                f"{argv[0]} cannot be run: {error.strerror or error}", hint="is Slurm installed and on PATH?"
            ) from error
        except ValueError as error:
            raise UsageError(f"an argument of {argv[0]} cannot be passed on: {error}") from error
        try:
            stdout, stderr = process.communicate(stdin, timeout=deadline)
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise ServiceUnavailable(
                f"{argv[0]} did not answer within {deadline:g} s ({' '.join(argv)[:200]})",
                hint="slurmctld is slow or away; nothing is known about what was asked",
            ) from error
        return Answer(argv=tuple(argv), returncode=process.returncode, stdout=stdout, stderr=stderr)

    def submit(self, script: Path | str, options: Sequence[str] = (), *, arguments: Sequence[str] = ()) -> str:
        """Submit a script (a path, or its text) and return the job id.

        `options` go before, `arguments` behind the script's name. Not repeated after a failure: see `find_submitted`.

        Raises:
            Refused: Slurm does not take the job.
            NotStarted: nothing was asked.
            ServiceUnavailable: no answer; the job may exist nevertheless.
        """
        answer = self._sbatch(script, ["--parsable", *options], arguments)
        return parse.submitted_id(answer.check().stdout)

    def test_only(self, script: Path | str, options: Sequence[str] = ()) -> StartForecast:
        """Ask when the job would start; nothing is submitted.

        Raises:
            Refused: Slurm would not take the job.
        """
        answer = self._sbatch(script, ["--test-only", *options], ()).check()
        match = re.search(r"to start at (\S+)", answer.words)
        return StartForecast(text=answer.words, start=parse.epoch(match[1]) if match else None)

    def find_submitted(self, tag: str) -> tuple[str, ...]:
        """Ids of this user's live jobs whose comment contains `tag`; to be asked before a submission is repeated."""
        answer = self.run(
            ["squeue", "--me", "--noheader", f"--states={LIVE_STATES}", "-o", f"%A{parse.SEPARATOR}%k"]
        ).check()
        rows = (line.partition(parse.SEPARATOR) for line in answer.stdout.splitlines())
        return tuple(dict.fromkeys(job_id for job_id, _, comment in rows if tag in comment))

    def live_jobs(self) -> tuple[LiveJob, ...]:
        """This user's jobs that will still run, oldest first."""
        columns = parse.SEPARATOR.join(("%i", "%F", "%T", "%E", "%k"))
        argv = ["squeue", "--me", "--noheader", "--array", f"--states={LIVE_STATES}", "-o", columns]
        rows = (line.split(parse.SEPARATOR, 4) for line in self.run(argv).check().stdout.splitlines())
        names = ("job_id", "array", "state", "dependency", "comment")
        found = (LiveJob(**dict(zip(names, row, strict=True))) for row in rows if len(row) == len(names))
        return tuple(sorted(found, key=lambda job: job.order))

    def job(self, job_id: str) -> JobInfo:
        """The job as slurmctld knows it; as accounting knows it once slurmctld has forgotten it.

        Nobody knowing it is a value (state UNKNOWN, source NOBODY), since a record may come late.

        Raises:
            ServiceUnavailable: slurmctld did not answer.
        """
        parse.check_job_id(job_id)
        answer = self.run(["scontrol", "show", "job", job_id])
        if answer.returncode == 0:
            return parse.show_job(answer.stdout, job_id)
        if not _UNKNOWN_JOB.search(answer.words):
            answer.check()
        return self._job_of_accounting(job_id)

    def jobs(self, job_ids: Iterable[str]) -> dict[str, JobInfo]:
        """All of these jobs that slurmctld knows, ended ones too, in one call; the others are left out.

        Raises:
            ServiceUnavailable: slurmctld did not answer.
        """
        wanted = [parse.check_job_id(job_id) for job_id in dict.fromkeys(job_ids)]
        if not wanted:
            return {}
        argv = ["squeue", "--noheader", "--states=all", "-j", ",".join(wanted), "-o", parse.JOB_COLUMNS]
        answer = self.run(argv)
        if answer.returncode != 0 and not _UNKNOWN_JOB.search(answer.words):
            answer.check()
        known = parse.squeue_jobs(answer.stdout)
        return {job_id: known[job_id] for job_id in wanted if job_id in known}

    def nodes(self, names: Iterable[str]) -> dict[str, NodeInfo]:
        """The named nodes, in one call; names that Slurm does not know are left out."""
        wanted = [nodeset.check_name(name) for name in names]
        if not wanted:
            return {}
        answer = self.run(["scontrol", "show", "node", "-o", nodeset.fold(wanted)])
        if answer.returncode != 0 and not _UNKNOWN_NODE.search(answer.stdout + answer.stderr):
            answer.check()
        known = parse.show_nodes(answer.stdout)
        return {name: known[name] for name in wanted if name in known}

    def steps(self, job_id: str) -> tuple[StepInfo, ...]:
        """The running steps of a job; none if the job is not known any more."""
        argv = ["squeue", "--steps", "--noheader", "-j", parse.check_job_id(job_id), "-o", parse.STEP_COLUMNS]
        answer = self.run(argv)
        if answer.returncode != 0 and not _UNKNOWN_JOB.search(answer.words):
            answer.check()
        return parse.squeue_steps(answer.stdout)

    def requeue(self, job_id: str) -> None:
        """Give the job back to the queue; called inside it, everything after is on borrowed time (KillWait).

        Raises:
            Refused: requeue is off for the job or the site.
        """
        self.run(["scontrol", "requeue", parse.check_job_id(job_id)]).check()

    def update_job(self, job_id: str, change: JobField, value: str | int) -> None:
        """Change one field of a job. The order for a smaller requeued job is NumTasks, NumNodes, ExcNodeList.

        Raises:
            TryAgain: "the DB index is being set", and other passing conditions.
            Refused: Slurm does not allow it in this state.
        """
        self.run(["scontrol", "update", f"JobId={parse.check_job_id(job_id)}", f"{change}={value}"]).check()

    def cancel(self, target: str, signal_name: str | None = None, *, wait: bool = True) -> None:
        """End (or signal) a job or a job step; one that is already over is no error.

        With `wait=False` scancel runs in the background for at most a minute and its answer goes to the log only.

        Raises:
            Refused: not allowed (only with `wait=True`).
        """
        argv = ["scancel", *([f"--signal={signal_name}"] if signal_name else []), parse.check_target(target)]
        if wait:
            _check_cancel(self.run(argv, timeout_s=CANCEL_TIMEOUT_S))
        else:
            threading.Thread(target=self._cancel_unheard, args=(argv,), name="scancel", daemon=True).start()

    def version(self) -> tuple[int, ...]:
        """The release of the commands on this host, as numbers: (22, 5, 8)."""
        return parse.version(self.run(["scontrol", "--version"]).check().stdout)

    def config(self) -> SiteConfig:
        """The site's settings, as slurmctld runs with them."""
        return parse.show_config(self.run(["scontrol", "show", "config"]).check().stdout)

    def partitions(self) -> dict[str, Mapping[str, str]]:
        """Every partition that this user may see, with its fields as scontrol names them."""
        return site.partitions(self.run(["scontrol", "show", "partition", "-o"]).check().stdout)

    def mpi_types(self) -> tuple[str, ...]:
        """The kinds of MPI that `srun --mpi` takes, as its list says; some releases print it on stderr."""
        answer = self.run(["srun", "--mpi=list"])
        return site.mpi_types(answer.check().stdout + answer.stderr)

    def associations(self, user: str) -> tuple[Mapping[str, str], ...]:
        """The associations of a user (account, partition, limits), as accounting has them."""
        asked = ["show", "assoc", f"user={user}", f"format={','.join(site.ASSOCIATION)}"]
        return site.table(self._accounting(asked), site.ASSOCIATION)

    def qualities(self) -> tuple[Mapping[str, str], ...]:
        """Every QOS with its limits, as accounting has them."""
        return site.table(self._accounting(["show", "qos", f"format={','.join(site.QUALITY)}"]), site.QUALITY)

    def _accounting(self, asked: Sequence[str]) -> str:
        return self.run(["sacctmgr", "--noheader", "--parsable2", "--readonly", *asked]).check().stdout

    def switches(self) -> dict[str, str]:
        """The leaf switch of every node, as far as the site describes its network to Slurm."""
        return survey.switches(self.run(["scontrol", "show", "topology"]).check().stdout)

    def loads(self) -> dict[str, float]:
        """The load per CPU of every node, where Slurm has measured it."""
        return survey.loads(self.run(["scontrol", "show", "node", "-o"]).check().stdout)

    def partition_nodes(self, partition: str) -> tuple[str, ...]:
        """All nodes of a partition, whatever their state; none if Slurm does not know it."""
        answer = self.run(["sinfo", "--noheader", "-N", "-p", partition, "-o", "%N"]).check()
        return tuple(
            dict.fromkeys(nodeset.check_name(line.strip()) for line in answer.stdout.splitlines() if line.strip())
        )

    def unknown_nodes(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that Slurm does not know: a single one makes it refuse a whole ExcNodeList."""
        wanted = tuple(names)
        known = self.nodes(wanted)
        return tuple(name for name in wanted if name not in known)

    def _sbatch(self, script: Path | str, options: Sequence[str], arguments: Sequence[str]) -> Answer:
        """Sbatch with a file, or with the text on its standard input."""
        if isinstance(script, str):
            if arguments:
                raise UsageError("sbatch takes arguments only for a script that is a file")
            return self.run(["sbatch", *options], timeout_s=SUBMIT_TIMEOUT_S, stdin=script)
        return self.run(["sbatch", *options, str(script.absolute()), *arguments], timeout_s=SUBMIT_TIMEOUT_S)

    def _job_of_accounting(self, job_id: str) -> JobInfo:
        """What sacct says; without accounting, or without a record, that nobody knows.

        Accounting lags: seconds after a job's end its node list was still seen to be that of the last node alone.
        """
        argv = ["sacct", "-X", "-n", "-P", f"--delimiter={parse.SEPARATOR}", "-j", job_id, "-o", parse.SACCT_COLUMNS]
        try:
            info = parse.sacct_job(self.run(argv).check().stdout, job_id)
        except (ServiceUnavailable, Refused, TryAgain) as error:
            LOG.info("accounting cannot be asked about job %s: %s", job_id, error)
            info = None
        return info or JobInfo(job_id=job_id, state=JobState.UNKNOWN, source=Source.NOBODY)

    def _cancel_unheard(self, argv: Sequence[str]) -> None:
        try:
            _check_cancel(self.run(argv, timeout_s=CANCEL_TIMEOUT_S))
        except (ServiceUnavailable, Refused, TryAgain) as error:
            LOG.warning("%s", error)


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """Let a command that starts here live through SIGTERM.

    A requeue from inside the job brings one at once, and it was seen to end the very scontrol that had asked for it.
    A blocked signal stays blocked through exec; a handler of ours would not protect.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a command and what it started (sites wrap Slurm's commands in scripts), and wait for it only briefly."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=REAP_TIMEOUT_S)


def _check_cancel(answer: Answer) -> None:
    if answer.returncode != 0 and not _GONE.search(answer.words):
        answer.check()
