"""What a run of a campaign says of itself, read from its folder (or from what was kept of it), as a `Case`.

Nothing of the campaign's own memory is used: the truth stands in the run's `faults.jsonl`, its own word in the journal,
its steps and its final weights in what rank 0 has printed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm import journal
from ftslurm.core.events import AllocationGranted
from ftslurm.faults.matching import Case, Sign, Weights
from ftslurm.faults.truth import Truth
from ftslurm.insight.facts import forgiven, given_up, says
from ftslurm.insight.story import story

if TYPE_CHECKING:
    from ftslurm.journal import Entry
    from ftslurm.paths import RunPaths

STEP = re.compile(r"^step (?P<step>\d{1,15}) at (?P<t>\d{1,12}(?:\.\d{1,9})?)\b", re.MULTILINE)
"""How a program may print its steps, so that steps lost and the first step after a fault are known."""

MOST_BYTES = 64 * 2**20
RANK_0 = "*/rank-00000.log"


def case_of(paths: RunPaths, pattern: str, undisturbed: str) -> Case:
    """A run as its folder tells it.

    Args:
        paths: the run's folder, or what `keep` has made of it.
        pattern: what rank 0 prints of its final weights; has a group `digest`.
        undisturbed: the digest of the run that nothing happened to; empty: not known.

    Raises:
        DataDamaged: the journal or the truth has a line that cannot be read.
        StorageError: one of them cannot be read.
    """
    entries = list(journal.read(paths))
    told = story(entries)
    over = str(told.phase) if told.over else ""
    return Case(
        run=paths.run_id,
        injections=tuple(Truth(paths).read()),
        signs=tuple(signs(entries)),
        incidents=told.incidents,
        steps=dict(_steps(paths)),
        ended=over,
        weights=_compared(digest_of(paths, pattern), undisturbed) if over == "finished" else Weights.UNKNOWN,
    )


def _compared(digest: str, undisturbed: str) -> Weights:
    if not digest or not undisturbed:
        return Weights.UNKNOWN
    return Weights.EQUAL if digest == undisturbed else Weights.DIFFERENT


def signs(entries: Iterable[Entry]) -> Iterator[Sign]:
    """Every sentence, and the node that was given up with it."""
    nodes: tuple[str, ...] = ()
    lost: set[str] = set()
    for entry in entries:
        if isinstance(entry.event, AllocationGranted):
            nodes = entry.event.nodes
        gone = {verdict.reason: verdict.where for verdict in given_up(entry, nodes, lost)}
        lost = (lost | set(gone.values())) - set(forgiven(entry))
        for said in says(entry):
            yield Sign(entry.t, said.slug, gone.get(said.text, ""))


def digest_of(paths: RunPaths, pattern: str) -> str:
    """What rank 0 of the newest attempt has printed of its final weights; empty: nothing."""
    compiled = re.compile(pattern, re.MULTILINE)
    for _, text in sorted(_outputs(paths), reverse=True):
        found = [match["digest"] for match in compiled.finditer(text)]
        if found:
            return found[-1]
    return ""


def _steps(paths: RunPaths) -> Iterator[tuple[int, tuple[float, int]]]:
    """By attempt: when its first step was done, and which was its last."""
    for attempt, text in _outputs(paths):
        found = list(STEP.finditer(text))
        if found:
            yield attempt, (float(found[0]["t"]), int(found[-1]["step"]))


def _outputs(paths: RunPaths) -> Iterator[tuple[int, str]]:
    """What rank 0 has printed, by attempt; of very much only the beginning."""
    for path in paths.logs.glob(RANK_0):
        if path.parent.name.isdigit():
            with path.open("rb") as file:
                yield int(path.parent.name), file.read(MOST_BYTES).decode("utf-8", "replace")


def keep(paths: RunPaths, place: Path) -> None:
    """Copy into `place`, a folder by the run's name, what a report is made of: a lab's own folder goes with the lab."""
    kept = place / paths.run_id
    kept.mkdir(parents=True, exist_ok=True)
    for path in (*paths.root.glob("journal.*.jsonl"), paths.faults, paths.config):
        if path.is_file():
            shutil.copyfile(path, kept / path.name)
    for path in paths.logs.glob(RANK_0):
        if path.parent.name.isdigit() and path.stat().st_size <= MOST_BYTES:
            target = kept / path.relative_to(paths.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
