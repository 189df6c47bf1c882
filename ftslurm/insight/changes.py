"""What has changed between two pictures of runs, in lines: for a log, a pipe, a terminal that cannot be painted on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftslurm.insight import strip
from ftslurm.insight.text import time_of_day, visible

if TYPE_CHECKING:
    from ftslurm.insight.board import Row
    from ftslurm.insight.glance import Happening


class Changes:
    """What was told of each run."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[object, ...]] = {}
        self._happenings: dict[str, tuple[Happening, ...]] = {}

    def news(self, rows: tuple[Row, ...]) -> list[tuple[Row, list[Happening]]]:
        """The runs of which something is new, the oldest first, with what has happened to them or come to its end."""
        found = []
        for row in reversed(rows):
            before = self._happenings.get(row.run_dir, ())
            happened = [each for each in row.summary.glance.happenings if each not in before]
            changed = self._told.get(row.run_dir) != _told(row)
            self._told[row.run_dir], self._happenings[row.run_dir] = _told(row), row.summary.glance.happenings
            if changed or happened:
                found.append((row, happened))
        return found


def _told(row: Row) -> tuple[object, ...]:
    """What is worth a line: no ages, which change by themselves."""
    told = row.summary
    steps = told.newest and told.newest.step, told.durable and told.durable.step
    nodes = row.nodes, told.excluded, told.glance.suspected, told.glance.lost, row.health
    state = row.standing, row.phase, row.job_id, row.job_state, told.attempt, told.ranks, row.reason, told.code
    return (*state, *steps, *nodes, row.error)


def words(row: Row, happened: list[Happening], now: float) -> Iterator[str]:
    """Lines for people: first what has happened, then where the run stands."""
    who = f"{row.job_id or '-'} {visible(row.name)}"
    for each in happened:
        then = f": {each.then}" if each.then else ""
        yield f"{time_of_day(each.over or each.t)} {who} ! {visible(f'{each.cause}: {each.text}{then}')}"
    told = row.summary
    facts = {
        "attempt": told.attempt,
        "nodes": row.num_nodes,
        "ranks": told.ranks,
        "step": told.newest.step if told.newest else None,
        "durable": told.durable.step if told.durable else None,
    }
    parts = [visible(row.phase), *(f"{name}={value}" for name, value in facts.items() if value is not None)]
    parts += [f"({words})" for words, _ in strip.named(strip.marks(told))]
    parts += [f"({visible(row.reason)})"] if row.reason else []
    yield f"{time_of_day(now)} {who} {' '.join(parts)}"


def record(row: Row, happened: list[Happening], now: float) -> dict[str, Any]:
    """For JSON, one object a change: the run as `status --json` has it, and what a display shows beside it."""
    glance = row.summary.glance
    pace = glance.steps_per_s
    return {
        "meta": {"schema": 1, "time": round(now, 3)},
        "run": row.plain(),
        "node_marks": {node: mark.word for node, mark in strip.marks(row.summary).items()},
        "steps_per_s": None if pace is None else round(pace, 4),
        "happened": [_plain(each) for each in happened],
    }


def _plain(each: Happening) -> dict[str, Any]:
    over = None if each.over is None else round(each.over, 3)
    told = {"cause": each.cause, "node": each.where or None, "text": each.text, "then": each.then or None}
    return {"time": round(each.t, 3), **told, "over": over}
