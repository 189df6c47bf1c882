"""The ranks of one node, as its agent sees them: who registered, who runs, who has ended.

A rank keeps its row over a broken connection and over a new agent: it registers again and says in which state it is.
Ends are reported upwards until the supervisor has acknowledged them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftslurm.core.events import RankExited
from ftslurm.runtime import fence, workers
from ftslurm.runtime.control import Channel, ChannelClosed

log = logging.getLogger(__name__)

KILLED = 137
SIGKILL = 9


@dataclass
class LocalRank:
    """One rank of this node.

    `said` is what it registered with, `done` whether its end was reported, `finished` whether that was exit code 0.
    Where its program starts ranks of its own, `workers` are their processes by rank, as far as they are known, and
    `ends` the exit codes and signals of those that have ended, the first one first.
    """

    attempt: int
    rank: int
    said: dict[str, Any]
    channel: Channel | None = None
    released: bool = False
    done: bool = False
    finished: bool = False
    oom_before: int | None = None
    group: str | None = None
    watched: bool = False
    workers: dict[int, int] = field(default_factory=dict)
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def starts_ranks(self) -> bool:
        """Whether its program is torchrun, or the like: it stands for all ranks of this node."""
        return bool(self.said.get("ranks"))

    @property
    def count(self) -> int:
        """How many ranks it stands for."""
        return int(self.said.get("ranks") or 1)

    @property
    def ranks(self) -> range:
        """The ranks that it stands for."""
        return range(self.rank, self.rank + self.count)

    @property
    def pid(self) -> int:
        """The wrapper's process id."""
        return int(self.said.get("pid", 0))


class RankTable:
    """All ranks that have registered on this node. Used from the agent's event loop only."""

    def __init__(
        self,
        node: str,
        report: Callable[[RankExited], None],
        announce: Callable[[LocalRank], None],
        adopt: Callable[[LocalRank], object],
    ) -> None:
        """`report` takes ends, `announce` registrations, `adopt` ranks that an agent before this one has let go."""
        self._node = node
        self._report = report
        self._announce = announce
        self._adopt = adopt
        self._rows: dict[tuple[int, int], LocalRank] = {}
        self.live: int | None = None
        self.fenced_below = -1

    def of(self, attempt: int) -> list[LocalRank]:
        """Return the ranks of an attempt."""
        return [row for (number, _), row in list(self._rows.items()) if number == attempt]

    def pids(self, attempt: int) -> tuple[int, ...]:
        """Return the process ids of the attempt's wrappers, also of those that have ended badly."""
        return tuple(row.pid for row in list(self._rows.values()) if row.attempt == attempt and not row.finished)

    def groups(self, attempt: int) -> frozenset[str]:
        """Return the cgroups of the job steps of this attempt and of older ones."""
        found = {row.group for row in list(self._rows.values()) if row.attempt <= attempt}
        return frozenset(group for group in found if group)

    def running(self) -> int:
        """Return how many ranks are registered and have not ended."""
        return sum(not row.done for row in self._rows.values())

    def newest_attempt(self) -> int | None:
        """Return the newest attempt that has a rank running here."""
        return max((number for (number, _), row in self._rows.items() if not row.done), default=None)

    def announce_all(self) -> None:
        """Tell a supervisor that has just been reached who is here."""
        for row in self._rows.values():
            if not row.done:
                self._announce(row)

    async def serve(self, channel: Channel) -> None:
        """Talk to one rank's wrapper until it is gone."""
        row: LocalRank | None = None
        try:
            while True:
                message = await channel.recv()
                kind = message.get("t")
                if kind == "register":
                    row = self._register(channel, message)
                elif kind == "exit" and row is not None:
                    self._ended(row, message)
                    channel.send({"t": "ack"})
        except ChannelClosed as error:
            log.debug("a rank's connection is closed: %s", error)
        finally:
            if row is not None and row.channel is channel:
                row.channel = None

    def _register(self, channel: Channel, message: dict[str, Any]) -> LocalRank:
        attempt, rank = int(message["attempt"]), int(message["rank"])
        row = self._rows.get((attempt, rank))
        if row is None or row.pid != int(message["pid"]):
            pid = int(message["pid"])
            row = LocalRank(
                attempt=attempt,
                rank=rank,
                said=message,
                oom_before=fence.oom_kills(pid),
                group=fence.step_group(pid),
            )
            self._rows[(attempt, rank)] = row
            if message.get("state") != "waiting":
                self._adopt(row)
        row.said, row.channel = message, channel
        row.released = message.get("state") != "waiting"
        self._watch(row)
        if attempt <= self.fenced_below:
            self._tell(row, {"t": "kill"})
        elif message.get("state") != "exited":
            self._announce(row)
        return row

    def _ended(self, row: LocalRank, message: Mapping[str, Any]) -> None:
        if row.done:
            return
        row.done = True
        row.finished = int(message.get("code", 1)) == 0
        if row.attempt <= self.fenced_below:
            return
        signal = int(message.get("signal", 0))
        oom = (signal == SIGKILL or row.starts_ranks) and self._oom(row)
        end = RankExited(
            attempt=row.attempt,
            rank=row.rank,
            node=self._node,
            code=int(message.get("code", 1)),
            signal=signal,
            tail=str(message.get("tail", "")) if signal or message.get("code") else "",
            oom=oom,
        )
        for each in workers.ends_of(row, end) if row.starts_ranks else (end,):
            self._report(each)

    def _watch(self, row: LocalRank) -> None:
        """Look after the ranks that a program starts itself, from when it may."""
        if not row.starts_ranks or not row.released or row.done or row.watched:
            return
        row.watched = True
        loop = asyncio.get_running_loop()

        def finish() -> None:
            loop.call_soon_threadsafe(self._tell, row, {"t": "kill"})

        workers.watch(row, lambda: self._is_over(row), finish)

    def _is_over(self, row: LocalRank) -> bool:
        return row.done or row.attempt <= self.fenced_below

    def _oom(self, row: LocalRank) -> bool:
        now = fence.oom_kills(row.pid)
        return now is not None and row.oom_before is not None and now > row.oom_before

    def release(self, attempt: int, build: Callable[[LocalRank], dict[str, Any]]) -> None:
        """Let the waiting ranks of an attempt start the user's program."""
        for row in self.of(attempt):
            if not row.done and not row.released:
                row.released = True
                self._tell(row, build(row))
                self._watch(row)

    def signal(self, attempt: int, signum: int) -> None:
        """Send a signal to the user's program of every rank."""
        for row in self.of(attempt):
            self._tell(row, {"t": "signal", "signum": signum, "to": "child"})

    def kill(self, attempt: int) -> None:
        """Tell the wrappers of this attempt, and of older ones, to kill their trees; later ends count no more."""
        self.fenced_below = max(self.fenced_below, attempt)
        for row in self._rows.values():
            if row.attempt <= attempt and not row.done:
                self._tell(row, {"t": "kill"})

    def find_vanished(self, is_alive: Callable[[int, int], bool]) -> None:
        """Report ranks whose wrapper is gone without a word: it was killed itself."""
        for row in self._rows.values():
            if row.done or row.channel is not None or row.attempt <= self.fenced_below:
                continue
            if not is_alive(row.pid, int(row.said.get("start", 0))):
                tail = "the rank's wrapper was killed before it could report"
                self._ended(row, {"code": KILLED, "signal": SIGKILL, "tail": tail})

    def _tell(self, row: LocalRank, message: dict[str, Any]) -> None:
        if row.channel is None:
            log.info("rank %d of attempt %d cannot be told %s: not connected", row.rank, row.attempt, message["t"])
            return
        try:
            row.channel.send(message)
        except ChannelClosed as error:
            log.info("rank %d of attempt %d is gone: %s", row.rank, row.attempt, error)


def is_alive(pid: int, start: int) -> bool:
    """Tell whether the process with this id and start time (clock ticks since boot, proc(5)) still runs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0] not in "ZX" and (start == 0 or int(fields[19]) == start)
