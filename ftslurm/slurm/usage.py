"""What this user's jobs have used, and how each stay on its nodes ended, as accounting has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.slurm import parse
from ftslurm.slurm.records import JobState

if TYPE_CHECKING:
    from ftslurm.slurm.client import SlurmClient

COLUMNS = "JobID,JobIDRaw,State,NNodes,ElapsedRaw,Start,End"
TIMEOUT_S = 60.0
"""Months of records take slurmdbd longer than what else it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """One allocation of a job; a job that was requeued has several.

    Attributes:
        job_ids: its id, in the array's form as well.
        state: how it ended.
        nodes: how many it held.
        elapsed_s: for how long, within the time asked about.
        start: in seconds since the epoch; None where Slurm does not say.
        end: likewise; None while it runs.
    """

    job_ids: frozenset[str]
    state: JobState
    nodes: int
    elapsed_s: float
    start: float | None
    end: float | None


def stays(client: SlurmClient, days: int) -> tuple[Stay, ...]:
    """Return every stay of this user's jobs in the last days; `--duplicates` shows those before a requeue, too.

    Raises:
        ServiceUnavailable: accounting does not answer in time.
        Refused: there is no accounting, or none for this user.
        TryAgain: a passing condition.
    """
    argv = ["sacct", "-X", "-D", "-T", "-n", "-P", f"--delimiter={parse.SEPARATOR}", "-S", f"now-{days}days"]
    answer = client.run([*argv, "-o", COLUMNS], timeout_s=TIMEOUT_S).check()
    return tuple(stay for line in answer.stdout.splitlines() if (stay := _stay(line)) is not None)


def _stay(line: str) -> Stay | None:
    """A line; None where it is of another form, or of a job that never started."""
    row = line.split(parse.SEPARATOR)
    if len(row) != len(COLUMNS.split(",")):
        return None
    job_id, raw, state, nodes, elapsed, start, end = row
    if not (nodes.isdecimal() and elapsed.isdecimal() and int(nodes) and int(elapsed)):
        return None
    return Stay(
        job_ids=frozenset({job_id, raw} - {""}),
        state=parse.job_state(state),
        nodes=int(nodes),
        elapsed_s=float(elapsed),
        start=parse.epoch(start),
        end=parse.epoch(end),
    )
