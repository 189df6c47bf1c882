"""At most one supervisor acts at a time: read from what the epochs of a run have left, as lines of JSON and nothing else.

A supervisor's action is an entry of its journal that has actions; its time is that of the entry's event. The nodes of
the lab have one clock.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def journals(root: Path) -> dict[int, list[dict[str, Any]]]:
    """The entries of each epoch, as they stand in its file; a torn last line is left out."""
    found: dict[int, list[dict[str, Any]]] = {}
    for path in root.glob("journal.*.jsonl"):
        rows = found.setdefault(int(path.name.split(".")[1]), [])
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return dict(sorted(found.items()))


def problems(root: Path) -> list[str]:
    """Everything that two supervisors would leave, had they acted at one time; empty where there is none."""
    told = journals(root)
    return [*_overlaps(told), *_leases(root, told), *_attempts(told), *_commits(root, told)]


def _own(epoch: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the writer of a file did itself: it may have copied entries of earlier epochs that were not written yet."""
    return [row for row in rows if row["epoch"] == epoch]


def _acts(rows: list[dict[str, Any]]) -> list[float]:
    return [row["t"] for row in rows if row["actions"]]


def _overlaps(told: Mapping[int, list[dict[str, Any]]]) -> list[str]:
    spans = [(epoch, acts) for epoch, rows in told.items() if (acts := _acts(_own(epoch, rows)))]
    return [
        f"epoch {one} acts at {max(before):.3f}, after epoch {two} has begun at {min(after):.3f}"
        for (one, before), (two, after) in itertools.pairwise(spans)
        if max(before) >= min(after)
    ]


def _leases(root: Path, told: Mapping[int, list[dict[str, Any]]]) -> list[str]:
    """Names and epochs rise together, each epoch has one holder, and nobody acts in an epoch without a lease."""
    records = []
    for path in sorted((root / "lease").iterdir(), key=lambda path: int(path.name)):
        with suppress(json.JSONDecodeError):
            records.append(json.loads(path.read_text()))
    epochs = [record["epoch"] for record in records]
    found = [] if epochs == sorted(epochs) else [f"the epochs of the lease do not rise: {epochs}"]
    holders = {(record["epoch"], record["host"], record["pid"]) for record in records}
    double = [epoch for epoch, count in Counter(epoch for epoch, _, _ in holders).items() if count > 1]
    found += [f"epoch {epoch} had several holders" for epoch in double]
    return found + [f"epoch {epoch} acts without a lease" for epoch in told if told[epoch] and epoch not in epochs]


def _attempts(told: Mapping[int, list[dict[str, Any]]]) -> list[str]:
    launched = Counter(
        action["attempt"]
        for epoch, rows in told.items()
        for row in _own(epoch, rows)
        for action in row["actions"]
        if action["type"] == "LaunchAttempt"
    )
    return [f"attempt {number} was launched {count} times" for number, count in launched.items() if count > 1]


def _commits(root: Path, told: Mapping[int, list[dict[str, Any]]]) -> list[str]:
    """No checkpoint of an attempt is committed in an epoch after a later attempt was launched in a later one."""
    launches = {
        action["attempt"]: (epoch, row["t"])
        for epoch, rows in told.items()
        for row in _own(epoch, rows)
        for action in row["actions"]
        if action["type"] == "LaunchAttempt"
    }
    found = []
    for path in root.glob("checkpoints/gen/*/COMMIT.json"):
        commit = json.loads(path.read_text())["commit"]
        attempt = int(path.parent.name.split("-")[1])
        later = [(epoch, t) for number, (epoch, t) in launches.items() if number > attempt]
        found += [
            f"{path.parent.name} was committed in epoch {commit['epoch']} at {commit['at']:.3f}, "
            f"but epoch {epoch} had gone on with a later attempt at {t:.3f}"
            for epoch, t in later
            if commit["epoch"] < epoch and commit["at"] > t
        ]
    return found
