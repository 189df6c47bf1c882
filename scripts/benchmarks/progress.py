"""What the neutral DDP loop left behind: one file for each process, read while it is being written.

The program is tests/programs/ddp_counter.py; its docstring tells the form of the lines. All times are seconds since the
epoch on the one clock of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One process: when it started, in a world of which size, from which step it went on, and its steps."""

    name: str
    started: float
    world_size: int
    resumed_from: int
    steps: tuple[tuple[int, float], ...]

    @property
    def last(self) -> int:
        """The last step it has done; 0 for none."""
        return self.steps[-1][0] if self.steps else 0


def read(folder: Path) -> list[Trace]:
    """All processes that have said so far that they started. A last line without its newline is not there yet."""
    found = []
    for path in sorted(folder.glob("rank-*.log")):
        lines = [line.split() for line in path.read_text(encoding="ascii").split("\n")[:-1]]
        if lines:
            found.append(_trace(path.name, lines))
    return found


def _trace(name: str, lines: list[list[str]]) -> Trace:
    start = next(words for words in lines if words[0] == "START")
    resumed = [int(words[1]) for words in lines if words[0] == "RESUME"]
    steps = tuple((int(words[1]), float(words[2])) for words in lines if words[0] == "STEP")
    return Trace(
        name=name,
        started=float(start[1]),
        world_size=int(start[2]),
        resumed_from=resumed[0] if resumed else 0,
        steps=steps,
    )


def last_step(traces: Iterable[Trace]) -> int:
    """The furthest step of any process; 0 for none."""
    return max((trace.last for trace in traces), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comeback:
    """The way back after a fault: `new_step` is the first step further than any old process had come."""

    process_start: float
    first_step: float
    new_step: float
    world_size: int
    lost_steps: int


def comeback(traces: Iterable[Trace], old: frozenset[str]) -> Comeback | None:
    """How training came back in processes other than the `old` ones; None while it has not."""
    traces = list(traces)
    before = last_step(trace for trace in traces if trace.name in old)
    stepped = [trace for trace in traces if trace.name not in old and trace.steps]
    new_steps = [(t, trace) for trace in stepped for n, t in trace.steps if n > before]
    if not new_steps:
        return None
    when, first = min(new_steps, key=lambda found: found[0])
    return Comeback(
        process_start=min(trace.started for trace in stepped),
        first_step=min(trace.steps[0][1] for trace in stepped),
        new_step=when,
        world_size=first.world_size,
        lost_steps=before - first.resumed_from,
    )
