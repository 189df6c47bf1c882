"""Runs that are large, or many: journals and run roots for measuring what people look at them with.

The real core decides: `tests.insight.journals` plays a world of four nodes to it. Nothing of it is in a live job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ftslurm.config import Config
from ftslurm.insight import filed
from ftslurm.paths import RunPaths, by_job
from ftslurm.runs import KEY_BYTES
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
    """A run root with so many runs, each with its journal, its configuration and its job's link.

    The files are those of `_shapes`, written without waiting for the disk: `runs.create` waits three times for each.
    """
    resolved = json.dumps(Config.model_validate(CONFIG).resolved())
    shapes = [_texts(tale) for tale in _shapes()]
    root.mkdir(parents=True)
    (root / "by-job").mkdir()
    for index in range(number):
        paths = RunPaths(root / f"run{index}-20260225-{index:06x}")
        for folder in (paths.root, paths.logs, paths.checkpoints, paths.lease):
            folder.mkdir()
        texts = {paths.key: "k" * KEY_BYTES, paths.config: json.dumps(CONFIG), paths.resolved: resolved}
        texts |= {paths.journal(epoch): text for epoch, text in shapes[index % len(shapes)].items()}
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        by_job(root, str(10_000 + index)).symlink_to(paths.root)


def summed_up(root: Path) -> None:
    """What the observers of these runs would have left at their ends."""
    for folder in root.glob("run*"):
        filed.leave(RunPaths(folder))


def lines_of(folder: Path, pattern: str) -> int:
    """How many lines these files have."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(pattern))


def _shapes() -> Iterator[Tale]:
    """Ten runs of some hours with a checkpoint every ten minutes, of which two have not ended."""
    yield _saved(24)
    yield _saved(12).crash(0, signal=9).launched()
    for saves in (6, 12, 12, 24, 24, 24):
        yield _saved(saves).finish()
    for saves in (6, 18):
        yield _saved(saves).lose("n3").launched().save(5000, after=60).finish()


def _saved(times: int) -> Tale:
    tale = Tale(config_policy()).start()
    for number in range(1, times + 1):
        tale.save(100 * number, after=600.0)
    return tale


def _texts(tale: Tale) -> dict[int, str]:
    """The journal by epoch."""
    found: dict[int, str] = {}
    for entry in tale.entries:
        found[entry.epoch] = found.get(entry.epoch, "") + entry.line() + "\n"
    return found
