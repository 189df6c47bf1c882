"""Runs to report on: scripted journals (`tests.insight.journals`) with made-up samples beside them, always the same."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from ftslurm.core.actions import ReleaseRanks
from ftslurm.core.events import Phase
from ftslurm.paths import PRIVATE_FOLDER, RunPaths
from tests.insight.journals import START, Tale, config_policy, make_run


def eventful(factor: float = 6.0) -> Tale:
    """A run that loses a node, has a rank that crashes, and finishes."""
    tale = Tale(config_policy()).start()
    for step in range(100, 800, 100):
        tale.save(step, after=factor)
    tale.wait(9).lose("n3").launched()
    for step in range(800, 1200, 100):
        tale.save(step, after=factor)
    tale.wait(5).crash(2).launched()
    for step in range(1200, 1700, 100):
        tale.save(step, after=factor)
    return tale.wait(6).finish()


def sampled(
    paths: RunPaths,
    nodes: Sequence[str],
    span_s: float,
    *,
    odd: str = "",
    every_s: float = 5.0,
    only: Sequence[str] = (),
) -> None:
    """Write the samples of these nodes; the one that is `odd` is busy with something else in the middle of the time.

    `only` are the metrics, if not all are wanted.
    """
    paths.samples.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    for number, node in enumerate(nodes):
        lines = _lines(number, span_s, every_s, odd=node == odd)
        lines = [{key: value for key, value in line.items() if not only or key in ("t", *only)} for line in lines]
        paths.sample_file(node, 1).write_text("".join(json.dumps(line) + "\n" for line in lines))


def _lines(number: int, span_s: float, every_s: float, *, odd: bool) -> Iterable[dict[str, object]]:
    luck = random.Random(number)
    for index in range(int(span_s / every_s)):
        t = START + 2.5 + index * every_s
        share = index * every_s / span_s
        troubled = odd and 0.45 < share < 0.62
        wave = 3 * math.sin(index / 3)
        yield {
            "t": round(t, 2),
            "cpu": round(min(62 + wave + luck.gauss(0, 1.5) + 31 * troubled, 100), 1),
            "load": round(0.6 + luck.gauss(0, 0.03) + 0.9 * troubled, 3),
            "memory": round(41 + 6 * share + luck.gauss(0, 0.4) + 38 * troubled, 1),
            "disk_read": round(abs(luck.gauss(2e6, 5e5))),
            "disk_write": round(abs(luck.gauss(4e7, 6e6)) * (1.9 if index % 4 == 0 else 0.3)),
            "scratch_used": round(22 + 9 * share, 1),
            "net_in": round(abs(luck.gauss(2.1e8, 1e7)) * (0.35 if troubled else 1)),
            "net_out": round(abs(luck.gauss(2.0e8, 1e7)) * (0.35 if troubled else 1)),
            "gpus": {
                f"{name}/gpu{gpu}": round(value + luck.gauss(0, wide), 1)
                for gpu in range(2)
                for name, value, wide in (
                    ("gpu_utilization", 55 if troubled else 93, 1.5),
                    ("gpu_memory_used", 71, 0.3),
                    ("gpu_temperature", 64 + 4 * share, 0.8),
                    ("gpu_power", 380, 9),
                )
            },
        }


def with_steps(paths: RunPaths, tale: Tale, rate: float) -> None:
    """Add the steps of two ranks a node to its samples, as its attempts were released, and end those of lost nodes."""
    released = [(entry.t, each) for entry in tale.entries for each in entry.actions if isinstance(each, ReleaseRanks)]
    stopped = [entry.t for entry in tale.entries if entry.phase == Phase.STOPPING]
    for path in paths.samples.iterdir():
        node, kept = path.name.split(".")[0], []
        for sample in map(json.loads, path.read_text().splitlines()):
            t, newest = max(
                (pair for pair in released if pair[0] <= sample["t"]), key=lambda pair: pair[0], default=(0, None)
            )
            over = any(t < stop <= sample["t"] for stop in stopped)
            if newest is not None and node not in newest.placement:
                break
            if newest is not None and not over:
                step = newest.step + int(rate * (sample["t"] - t))
                sample |= {"attempt": newest.attempt, "steps": {"0": step, "1": step}}
            kept.append(sample)
        path.write_text("".join(json.dumps(sample) + "\n" for sample in kept))


def eventful_run(root: Path, only: Sequence[str] = ()) -> RunPaths:
    """The folder of the eventful run, under a name that is always the same, with samples of some metrics, or of all."""
    tale = eventful()
    paths = make_run(root, tale)
    fixed = RunPaths(paths.root.rename(root / "gpt-small-20260225-0a1b2c"))
    sampled(fixed, ("n1", "n2", "n3", "n4"), tale.now - START, odd="n4", every_s=1.0, only=only)
    with_steps(fixed, tale, 12.5)
    return fixed
