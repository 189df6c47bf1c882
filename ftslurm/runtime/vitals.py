"""How the ranks of a node are doing: their progress while they train, an autopsy when they do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ftslurm import beats
from ftslurm.paths import LocalPaths, RunPaths
from ftslurm.runtime.autopsy import Place, flight_environment, keep_flight, take
from ftslurm.runtime.keys import private_folder
from ftslurm.runtime.progress import ProgressReader, processes_of
from ftslurm.runtime.ranks import LocalRank
from ftslurm.runtime.spec import ProgressSpec
from ftslurm.slurm.env import WORLD_SIZE


class Vitals:
    """The agent's part in noticing and understanding hangs."""

    def __init__(
        self,
        place: tuple[str, RunPaths, LocalPaths],
        spec: ProgressSpec,
        rows: Callable[[int], list[LocalRank]],
        tell: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`place` is the node and its folders, `rows` the ranks of an attempt; `tell` speaks to the supervisor."""
        self._node, self._paths, self._local = place
        self._rows = rows
        self._tell = tell
        self._reader = ProgressReader(spec, self._local, rows, tell)
        self.start, self.steps = self._reader.start, self._reader.steps

    def environment(self, attempt: int, common: Mapping[str, str]) -> dict[str, str]:
        """The variables by which the ranks of an attempt tell their progress, and NCCL what it is doing."""
        told = {beats.FOLDER: self._reader.begin(attempt, int(common[WORLD_SIZE]))}
        flight = private_folder(self._local.flight(attempt))
        return flight_environment(flight, {**os.environ, **common}) | told

    def end(self, attempt: int) -> None:
        """Nothing of the attempt is left."""
        self._reader.end(attempt)
        keep_flight(Place(self._node, attempt, self._paths, self._local))

    def autopsy(self, message: Mapping[str, Any]) -> None:
        """Look at every rank of an attempt that has not ended, and tell."""
        attempt = int(message["attempt"])
        rows = [row for row in self._rows(attempt) if not row.done]
        programs = {rank: pid for row in rows for rank, pid in processes_of(row).items()}
        programs |= self._reader.pids(attempt)
        place = Place(self._node, attempt, self._paths, self._local)
        self._tell(take(place, programs, float(message["deadline_s"])))
