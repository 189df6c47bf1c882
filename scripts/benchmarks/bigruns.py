"""Runs that are large, or many: journals and run roots for measuring what people look at them with.

The real core decides: `tests.insight.journals` plays a world of four nodes to it. Nothing of it is in a live job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ftslurm import runs
from ftslurm.config import Config
from ftslurm.journal import Entry
from ftslurm.paths import RunPaths
from tests.insight.journals import CONFIG, START, Tale, config_policy, make_run
from tests.report.scenes import sampled, with_steps

SAVES_BETWEEN = 25
"""Checkpoints between two failures."""
PATIENT = {"recovery": {"min_nodes": 2, "max_attempts": 1000}}
"""A run that fails so often is not given up: with the usual number of attempts it would be, and its journal end."""

STEPS_PER_S = 1.6
"""Between two checkpoints there are 100 steps and a good minute."""


def long_tale(events: int) -> Tale:
    """A run that has saved and failed until its journal has so many entries; it still trains."""
    tale = Tale(config_policy(**PATIENT)).start()
    step = 0
    while len(tale.entries) < events:
        for _ in range(SAVES_BETWEEN):
            step += 100
            tale.save(step, after=60.0)
        tale.crash(step // 100 % 8, signal=9).launched()
    tale.entries = tale.entries[:events]
    return tale


def long_run(root: Path, events: int) -> RunPaths:
    """The folder of such a run, with what its agents sampled every five seconds."""
    tale = long_tale(events)
    paths = make_run(root, tale, job_id="101", **PATIENT)
    sampled(paths, tale.nodes, tale.entries[-1].t - START, odd=tale.nodes[-1])
    with_steps(paths, tale, STEPS_PER_S)
    return paths


def many_runs(root: Path, number: int) -> None:
    """A run root with so many runs in several states, each with its journal, its configuration and its job's link."""
    resolved = json.dumps(Config.model_validate(CONFIG).resolved()).encode()
    shapes = [[(entry.epoch, entry) for entry in tale.entries] for tale in _shapes()]
    for index in range(number):
        paths = runs.create(root, f"run{index}")
        runs.write_private(paths.config, json.dumps(CONFIG).encode())
        runs.write_private(paths.resolved, resolved)
        _write(paths, shapes[index % len(shapes)])
        runs.link_job(paths, str(10_000 + index))


def _shapes() -> Iterator[Tale]:
    yield Tale(config_policy()).start().finish()
    yield Tale(config_policy()).start().save(100, after=10)
    yield Tale(config_policy()).start().save(100, after=10).save(200, after=10).crash(0, signal=9).launched()
    yield Tale(config_policy()).start().save(100, after=10).lose("n3").launched().save(200, after=60).finish()


def _write(paths: RunPaths, entries: list[tuple[int, Entry]]) -> None:
    for epoch in sorted({epoch for epoch, _ in entries}):
        text = "".join(entry.line() + "\n" for each, entry in entries if each == epoch)
        paths.journal(epoch).write_text(text, encoding="utf-8")
