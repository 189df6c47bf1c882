"""What Slurm says, as records: states, jobs, nodes, job steps, the site's configuration.

Unknown is a value: a word that a newer release made up is `JobState.UNKNOWN` with the raw word kept; a number that the
source does not have (accounting knows no restart count) is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobState(StrEnum):
    """Slurm's base states and state flags, 21.08 to 25.11 (squeue(1), JOB STATE CODES)."""

    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    COMPLETING = "COMPLETING"
    CONFIGURING = "CONFIGURING"
    DEADLINE = "DEADLINE"
    EXPEDITING = "EXPEDITING"
    FAILED = "FAILED"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PENDING = "PENDING"
    POWER_UP_NODE = "POWER_UP_NODE"
    PREEMPTED = "PREEMPTED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESIZING = "RESIZING"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    REVOKED = "REVOKED"
    RUNNING = "RUNNING"
    SIGNALING = "SIGNALING"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    SUSPENDED = "SUSPENDED"
    TIMEOUT = "TIMEOUT"
    UPDATE_DB = "UPDATE_DB"
    UNKNOWN = "UNKNOWN"

    @property
    def is_over(self) -> bool:
        """True for states that Slurm itself does not leave; PREEMPTED and NODE_FAIL may still be requeued."""
        return self in _OVER

    @property
    def holds_nodes(self) -> bool:
        """True while the job has its allocation and its steps may run."""
        return self in _HOLDS_NODES


_OVER = frozenset(
    {
        JobState.BOOT_FAIL,
        JobState.CANCELLED,
        JobState.COMPLETED,
        JobState.DEADLINE,
        JobState.FAILED,
        JobState.LAUNCH_FAILED,
        JobState.NODE_FAIL,
        JobState.OUT_OF_MEMORY,
        JobState.PREEMPTED,
        JobState.REVOKED,
        JobState.TIMEOUT,
    }
)
_HOLDS_NODES = frozenset(
    {
        JobState.RUNNING,
        JobState.CONFIGURING,
        JobState.RESIZING,
        JobState.SIGNALING,
        JobState.STOPPED,
        JobState.SUSPENDED,
    }
)


class Source(StrEnum):
    """Where an answer about a job came from."""

    CONTROLLER = "controller"
    ACCOUNTING = "accounting"
    NOBODY = "nobody"


# How early a requeued job may start. With StartTime=now it failed in one start of ten: its credential was as old as the
# revocation of the old one, in whole seconds ("Job credential revoked", measured on 22.05).
SOON_S = 5
SOON = f"now+{SOON_S}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """One job as Slurm describes it now.

    `state` is the first word; `state_words` are all of them, raw. `nodes` keep Slurm's order; they are the *current*
    ones (a node that Slurm took out of the job is gone). `num_nodes` is right for a running job; while a requeued one
    is COMPLETING it counts the nodes that are still busy, and afterwards 22.05 shows the old number although the
    changed one is what the job gets (measured). Times are epoch seconds, None where Slurm gives none.
    `source` NOBODY with state UNKNOWN means: slurmctld answered that it does not know the job, and accounting
    has no record either (or cannot be asked).
    """

    job_id: str
    state: JobState
    source: Source
    state_words: tuple[str, ...] = ()
    reason: str = ""
    nodes: tuple[str, ...] = ()
    num_nodes: int | None = None
    num_tasks: int | None = None
    restart_count: int | None = None
    batch_host: str | None = None
    submit_time: float | None = None
    start_time: float | None = None
    end_time: float | None = None
    exit_code: str = ""
    exc_nodes: tuple[str, ...] = ()
    requeue: bool | None = None
    user: str = ""
    name: str = ""
    partition: str = ""
    work_dir: str = ""
    comment: str = ""
    array_job_id: str | None = None
    array_task_id: str | None = None

    def begins_late(self, now: float) -> bool:
        """Pending until a start time that is further off than `SOON`, which its owner may move to `SOON`.

        After a requeue 22.05 moves the start off a second time, when COMPLETING ends, and gives no reason then
        (measured).
        """
        waits = self.state is JobState.PENDING and self.reason in {"BeginTime", ""}
        return waits and self.start_time is not None and self.start_time > now + 2 * SOON_S


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveJob:
    """A job of this user's that will still run, or runs; a task of an array is one by itself, as in `7_3`.

    `array` is the id that all tasks of an array share; `dependency` is what it waits for, in Slurm's words.
    """

    job_id: str
    array: str
    state: str
    dependency: str
    comment: str

    @property
    def order(self) -> tuple[int, ...]:
        """Older jobs come first, and tasks of an array by their number."""
        return tuple(int(part) for part in self.job_id.split("_") if part.isdigit())


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """One node as Slurm describes it now; `words` are its state and flags, such as IDLE, DRAIN, NOT_RESPONDING.

    Slurm's DOWN is a witness and no proof: healthy nodes have been marked DOWN together with a lost one.
    """

    name: str
    words: frozenset[str]
    reason: str = ""
    cpus: int | None = None
    gres: str = ""

    @property
    def down(self) -> bool:
        """Slurm has given the node up; jobs on it were ended or shrunk."""
        return bool(self.words & {"DOWN", "FAIL", "ERROR"})

    @property
    def not_responding(self) -> bool:
        """Slurm has had no answer for a while, and may not yet have acted on it."""
        return bool(self.words & {"NOT_RESPONDING", "NO_RESPOND"})

    @property
    def draining(self) -> bool:
        """Slurm starts nothing new there."""
        return bool(self.words & {"DRAIN", "DRAINED", "DRAINING", "FAILING"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """One running job step: `step_id` is `123.0`, `123.batch`, `123.extern`."""

    step_id: str
    name: str
    nodes: tuple[str, ...]

    @property
    def number(self) -> int | None:
        """The step's number; None for batch, extern and interactive."""
        tail = self.step_id.rpartition(".")[2].partition("+")[0]
        return int(tail) if tail.isascii() and tail.isdigit() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartForecast:
    """The answer of `sbatch --test-only`: Slurm's sentence, and the start in epoch seconds if it names one."""

    text: str
    start: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    """`scontrol show config`; the seconds that decisions rest on, and everything else by name in `values`."""

    values: Mapping[str, str] = field(default_factory=dict)

    def seconds(self, name: str) -> int | None:
        """The value of a time such as SlurmdTimeout (`300 sec`) in seconds; None if absent or not a time."""
        word = self.values.get(name, "").partition(" ")[0]
        return int(word) if word.isascii() and word.isdigit() else None

    @property
    def slurmd_timeout_s(self) -> int | None:
        """Silence after which slurmctld calls a node DOWN."""
        return self.seconds("SlurmdTimeout")

    @property
    def min_job_age_s(self) -> int | None:
        """How long slurmctld remembers a job that has ended."""
        return self.seconds("MinJobAge")

    @property
    def kill_wait_s(self) -> int | None:
        """From SIGTERM to SIGKILL."""
        return self.seconds("KillWait")

    @property
    def requeue_allowed(self) -> bool | None:
        """Whether jobs are requeued unless they say otherwise (JobRequeue)."""
        return {"1": True, "0": False}.get(self.values.get("JobRequeue", ""))

    @property
    def mpi_default(self) -> str:
        """MpiDefault; `none` means that srun without --mpi gives worlds of size one."""
        return self.values.get("MpiDefault", "")
