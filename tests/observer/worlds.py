"""Runs for the observer's tests: a tale that has one of everything, and what the supervisor would tell of it."""

from __future__ import annotations

import json
from pathlib import Path

from ftslurm.core.events import NodeHeard
from ftslurm.core.working import WorkBegun, WorkPaused, WorkRegained
from ftslurm.observe_section import Observe
from ftslurm.observer.families import Live
from ftslurm.observer.tally import Tally
from ftslurm.paths import RunPaths
from tests.insight.journals import START, Tale, make_run

JOB = {"name": "gpt-small", "job_id": "101", "user": "ada", "partition": "gpu"}


def eventful() -> Tale:
    """Saves, a false suspicion, a rank that is killed, a node that is lost; training goes on."""
    tale = Tale().start().wait(4)
    tale.happen(WorkBegun(attempt=0, step=1, ago_s=1.0))
    for step in (100, 200, 300):
        tale.save(step, after=20)
    tale.happen(WorkPaused(attempt=0, took_s=1.5))
    tale.silent("n2")
    tale.happen(NodeHeard(node="n2"), after=1.0)
    tale.wait(10).crash(0, signal=9)
    tale.launched().wait(3)
    tale.happen(WorkBegun(attempt=1, step=301, until=340))
    tale.happen(WorkRegained(attempt=1, step=341), after=8)
    tale.wait(5).lose("n3").launched().wait(3)
    tale.happen(WorkBegun(attempt=2, step=301, until=350))
    tale.happen(WorkRegained(attempt=2, step=351), after=8)
    return tale.save(400, after=9).save(500, after=20)


def now(tale: Tale, step: int = 500) -> dict[str, object]:
    """What the supervisor tells besides the journal."""
    return {
        "t": tale.now,
        "phi": 0.25,
        "step": step,
        "paces": [[20, 5.0]],
        "ranks": {"starting": 0, "running": 6, "finished": 0, "failed": 0},
        "nodes": {"used": 3, "spare": 0, "excluded": 1},
        "wanted": 4,
    }


def counted(tale: Tale) -> Tally:
    """The tally of a tale that waited ten seconds in the queue."""
    tally = Tally(START - 10)
    for entry in tale.entries:
        tally.see(entry)
    return tally


def live(tale: Tale, **changes: str) -> Live:
    """What the supervisor told last."""
    found = Live(**{"run": "gpt-small-20260225-0a1b2c", **JOB, **changes})
    found.take(now(tale))
    return found


def run_with(tmp_path: Path, tale: Tale | None = None) -> RunPaths:
    """The folder of a run."""
    return make_run(tmp_path / "runs", tale)


def lines_of(tale: Tale, *, end: bool = True, **observe: object) -> str:
    """What the supervisor writes to its observer."""
    wanted = Observe.model_validate(observe).plain()
    told = [json.dumps({"job": JOB, "observe": wanted}), json.dumps({"now": {**now(tale), "paces": []}})]
    told += [f'{{"entry":{entry.line()}}}' for entry in tale.entries]
    told.append(json.dumps({"now": now(tale)}))
    return "".join(f"{line}\n" for line in (*told, *([json.dumps({"now": now(tale), "end": True})] if end else [])))
