"""The runs that `ftslurm status` shows, put together from journals and from Slurm, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm import runs
from ftslurm.errors import DataDamaged
from ftslurm.insight import board, index
from ftslurm.insight.board import Identity, Row
from ftslurm.insight.remembered import Cache, Disk

if TYPE_CHECKING:
    from ftslurm.insight.shared import Answer
    from ftslurm.insight.summary import Summary
    from ftslurm.paths import RunPaths

DAYS = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What was found at `at`, newest run first. `asked` is when Slurm spoke, None where it was not asked.

    `code` is the exit code that it means.
    """

    at: float
    rows: tuple[Row, ...] = ()
    asked: float | None = None
    problems: tuple[str, ...] = ()
    code: int = 0


class Board:
    """The runs that were named; without names, all of them or those of the last days."""

    def __init__(
        self, names: Sequence[str], ask: Callable[[Collection[str]], Answer], *, everything: bool = False
    ) -> None:
        """`ask` has Slurm's word on jobs."""
        self._names = tuple(names)
        self._ask = ask
        self._days = float("inf") if everything else DAYS
        self._cache = Cache(Disk())

    @property
    def endless(self) -> bool:
        """Whether there is no end to wait for: no run was named."""
        return not self._names

    def picture(self, tell: Callable[[int, int], None] = lambda _done, _all: None) -> Picture:
        """How all of them are now; `tell` hears of how many journals are read.

        Raises:
            UsageError: a name is not that of a run.
        """
        paths = self._paths()
        linked = index.jobs_by_run(*{each.root.parent for each in paths})
        told: list[tuple[Identity, Summary | DataDamaged]] = []
        for each in paths:
            told.append((index.identity(each, linked), self._read(each)))
            tell(len(told), len(paths))
        self._cache.keep()
        wanted = [job for who, found in told for job in _may_live(who.job_ids, found)]
        answer = self._ask(wanted) if wanted else None
        jobs = answer.jobs if answer else {}
        now = time.time()
        rows = tuple(
            board.damaged(who, str(found)) if isinstance(found, DataDamaged) else board.row(who, found, jobs, now)
            for who, found in told
        )
        damaged = [str(found) for _, found in told if isinstance(found, DataDamaged)]
        return Picture(
            at=now,
            rows=rows,
            asked=answer.at if answer else None,
            problems=(*damaged, *([answer.problem] if answer and answer.problem else [])),
            code=DataDamaged.exit_code if damaged else 0,
        )

    def _read(self, paths: RunPaths) -> Summary | DataDamaged:
        try:
            return self._cache.of(paths)
        except DataDamaged as error:
            return error

    def _paths(self) -> list[RunPaths]:
        if self._names:
            found = [runs.find_run(name) for name in self._names]
            return list({paths.root.resolve(): paths for paths in found}.values())
        return index.recent(self._days)


def _may_live(linked: Sequence[str], found: Summary | DataDamaged) -> list[str]:
    """The jobs to ask about: all of a run that has not ended, and of one that has, those that came later."""
    if isinstance(found, DataDamaged):
        return []
    if not found.over:
        return list(dict.fromkeys([*linked, *([found.job_id] if found.job_id else [])]))
    return list(linked[linked.index(found.job_id) + 1 :]) if found.job_id in linked else list(linked)
