"""The course of a demonstration, seen from the login host: wait, kill a rank, wait until the run has ended.

What is waited for is asked of the run's journal; Slurm is asked about the job. Every change is told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ftslurm import journal
from ftslurm.core.actions import ReleaseRanks
from ftslurm.core.events import Phase
from ftslurm.demo.advice import waiting
from ftslurm.demo.program import EVERY, REQUESTS
from ftslurm.errors import FtslurmError, RunFailed, ServiceUnavailable, TryAgain
from ftslurm.faults.deeds import Send, to_record
from ftslurm.insight.remembered import Cache
from ftslurm.insight.summary import Summary
from ftslurm.insight.text import count, folded, visible
from ftslurm.paths import RunPaths
from ftslurm.runtime.launcher import PYTHON
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobInfo, JobState

POLL_S = 0.5
ASK_S = 3.0
ENDING_ASK_S = 1.0
QUEUE_S = 900.0
PARTS = 5
PART_S = 120.0
"""Time for each part of a demonstration that runs: a start, two checkpoints, a recovery, the end."""

GONE_S = 10.0
SHARED = "both must be on shared storage: --run-root names another folder; `ftslurm doctor --probe` looks at the nodes"
STEP_S = 25.0
DOCTOR = "`ftslurm doctor --probe` says what at this site stops a run; --keep leaves the run to be looked at"
ENOUGH = 2 * EVERY
"""The step whose checkpoint must be safe before a rank is killed: there is one to fall back to then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """The rank that was killed: where, by whom, and when by that node's clock; the pid is None where nobody saw it."""

    rank: int
    node: str
    at: float
    by: str
    pid: int | None = None


@dataclass(slots=True)
class Course:
    """A demonstration that is submitted. `count` hears how many of its parts are over."""

    client: SlurmClient
    paths: RunPaths
    job_id: str
    tell: Callable[[str], None]
    count: Callable[[int, int], None] = lambda *_: None
    _parts: int = 0
    _cache: Cache = field(default_factory=Cache)
    _said: str = ""
    _asked: float = 0.0
    _info: JobInfo | None = None
    _over_since: float | None = None

    # --- waiting

    def until_it_can_be_killed(self) -> Summary:
        """Wait until the run trains and has checkpoints on shared storage."""
        self._wait("start", lambda now: now.phase is not Phase.SUBMITTED, QUEUE_S)
        self._wait("training", lambda now: now.phase is Phase.TRAINING, PART_S)
        enough = f"checkpoint of step {ENOUGH} on shared storage"
        return self._wait(enough, lambda now: now.durable is not None and now.durable.step >= ENOUGH, PART_S)

    def until_it_goes_on(self) -> Summary:
        """Wait until a later attempt trains."""
        again = "a restart"
        return self._wait(again, lambda now: (now.attempt or 0) > 0 and now.phase is Phase.TRAINING, PART_S)

    def until_its_end(self) -> Summary:
        """Wait until the run has ended."""
        return self._wait("the end", lambda now: now.over, PART_S)

    def until_the_job_is_over(self, patience_s: float) -> bool:
        """Wait until Slurm says that the job is over; tell whether it is."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            info = self._ask(every_s=ENDING_ASK_S)
            if info is not None and (info.state.is_over or info.state is JobState.UNKNOWN):
                return True
            time.sleep(POLL_S)
        return False

    def _wait(self, what: str, test: Callable[[Summary], bool], patience_s: float) -> Summary:
        """Poll until `test` holds.

        Raises:
            RunFailed: the run or its job has ended before.
            ServiceUnavailable: it took too long.
        """
        until = time.monotonic() + patience_s
        while True:
            now = self._cache.of(self.paths)
            self._tell_of(now)
            if test(now):
                self._parts += 1
                self.count(self._parts, PARTS)
                return now
            if now.over:
                raise RunFailed(f"the run has ended before {what}: {now.phase}, {visible(now.reason)}", hint=DOCTOR)
            self._look_at_job(now)
            if time.monotonic() > until:
                state = f"job {self.job_id} is {self._word()}"
                raise ServiceUnavailable(f"no {what} within {patience_s:.0f} s; {state}", hint=self._way_out())
            time.sleep(POLL_S)

    def job_state(self) -> JobState | None:
        """Slurm's word on the job; None where it does not answer."""
        info = self._ask(every_s=0.0)
        return info.state if info is not None else None

    # --- Slurm

    def _ask(self, every_s: float = ASK_S) -> JobInfo | None:
        """What Slurm says of the job, at most so often; None where it does not answer."""
        if time.monotonic() - self._asked < every_s:
            return self._info
        self._asked = time.monotonic()
        try:
            self._info = self.client.job(self.job_id)
        except (ServiceUnavailable, TryAgain) as error:
            self._say(f"Slurm does not answer, still waiting: {error}")
            self._info = None
        return self._info

    def _look_at_job(self, now: Summary) -> None:
        """Tell of the queue; a job that can never start, or is over, ends the wait."""
        info = self._ask()
        if info is None:
            return
        if info.state is JobState.PENDING and now.phase is Phase.SUBMITTED:
            found = waiting(info.reason)
            self._say(f"job {self.job_id} is pending ({visible(found.reason)}): {found.advice}")
            if not found.passes:
                raise ServiceUnavailable(f"job {self.job_id} cannot start ({visible(found.reason)})", hint=found.advice)
        if info.state is JobState.RUNNING and now.phase is Phase.SUBMITTED:
            self._say(f"job {self.job_id} runs on {folded(info.nodes)}")
        over = info.state.is_over or info.state is JobState.COMPLETING
        self._over_since = (self._over_since or time.monotonic()) if over else None
        if self._over_since is not None and time.monotonic() - self._over_since > GONE_S:
            raise RunFailed(self._why_over(info, now), hint=SHARED)

    def _why_over(self, info: JobInfo, now: Summary) -> str:
        if now.phase is not Phase.SUBMITTED:
            return f"job {self.job_id} is {info.state}, and the run has not ended by its own word"
        unseen = f"its nodes may not see {self.paths.root} or {PYTHON[0]}"
        return f"job {self.job_id} ended ({info.state}) before ftslurm began: {unseen}"

    def _word(self) -> str:
        if self._info is None:
            return "unknown: Slurm does not answer"
        reason = f" ({visible(self._info.reason)})" if self._info.state is JobState.PENDING else ""
        return f"{self._info.state}{reason}"

    def _way_out(self) -> str:
        if self._info is not None and self._info.state is JobState.PENDING:
            return waiting(self._info.reason).advice
        return DOCTOR

    # --- telling

    def _tell_of(self, now: Summary) -> None:
        if now.phase is Phase.SUBMITTED:
            return
        text = f"the run is {now.phase}"
        if now.phase is Phase.TRAINING:
            text = f"attempt {now.attempt} trains: {count(now.ranks or 0, 'rank')} on {folded(now.nodes)}"
            text += f", checkpoint of step {now.durable.step} is safe" if now.durable else ""
        self._say(text)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.tell(text)

    # --- the failure

    def kill_a_rank(self) -> Killed:
        """Kill the last rank, by a job step on its node; where the site allows none, the rank is asked to do it."""
        releases = [
            action for entry in journal.read(self.paths) for action in entry.actions if isinstance(action, ReleaseRanks)
        ]
        placement = releases[-1].placement
        rank, node = len(placement) - 1, placement[-1]
        self._say(f"now rank {rank} on {node} is killed (SIGKILL)")
        step = ["srun", "--overlap", "--jobid", self.job_id, "-w", node, "-N1", "-n1", "--mpi=none", "--input=none"]
        order = json.dumps({"deed": to_record(Send(signal="SIGKILL")), "rank": rank})
        step += ["-D", "/", "--immediate=15", *PYTHON, "-m", "ftslurm.faults.hand", str(self.paths.root), order]
        try:
            answer = self.client.run(step, timeout_s=STEP_S).check()
            # A site may greet every step, and the hand's last line says that it is done.
            said = json.loads(answer.stdout.strip().splitlines()[-2])
            return Killed(rank=rank, node=node, at=float(said["at"]), by="srun --overlap", pid=int(said["pids"][0]))
        except (FtslurmError, ValueError, LookupError, TypeError) as error:
            why = str(error)
        self._say(f"no job step from here ({visible(why)}): the rank is asked to kill itself")
        (self.paths.root / REQUESTS / f"kill-{rank}").touch()
        return Killed(rank=rank, node=node, at=time.time(), by="itself, on request")
