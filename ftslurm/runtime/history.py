"""The history of the training's state: one line for each checkpoint and each change of its standing.

`<run_dir>/history/<epoch>.jsonl` is written by the supervisor of that epoch alone. It outlives the checkpoints that it
tells of, so a training can be looked at long after its files were pruned.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.core.manifest import parse_generation
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER

if TYPE_CHECKING:
    from ftslurm.core.about import About
    from ftslurm.core.manifest import Commit

log = logging.getLogger(__name__)


class History:
    """Appends to one epoch's file; from any thread that may block on shared storage."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self._path = folder / f"{epoch}.jsonl"
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}

    def whole(self, commit: Commit, state: str) -> None:
        """A generation is LOCAL, or DURABLE; the time between the two is that of the drain and of what came before."""
        now = time.time()
        began = self._began.setdefault(commit.generation, now)
        about = {} if commit.about is None else _about(commit.about)
        self._append(
            state,
            commit.generation,
            world_size=commit.world_size,
            size_bytes=commit.size_bytes,
            parts=len(commit.parts),
            since_local_s=round(now - began, 3),
            **about,
        )

    def changed(self, generation: str, state: str, why: str) -> None:
        """A generation is damaged or suspect."""
        self._append(state, generation, why=why)

    def _append(self, state: str, generation: str, **facts: object) -> None:
        step, attempt = parse_generation(generation)
        record = {
            "at": time.time(),
            "state": state,
            "generation": generation,
            "step": step,
            "attempt": attempt,
            **facts,
        }
        line = json.dumps(record, separators=(",", ":")) + "\n"
        try:
            with self._lock:
                self._path.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(self._path, flags, PRIVATE_FILE)
                try:
                    os.write(descriptor, line.encode())
                finally:
                    os.close(descriptor)
        except OSError as error:
            log.warning("the history of %s cannot be written: %s", generation, error)


def _about(about: About) -> dict[str, Any]:
    return {
        "epoch": about.epoch,
        "samples": about.samples,
        "metrics": {**about.metrics, **about.odd},
        "reason": about.reason,
        "kind": str(about.kind),
        "base": about.base,
        "parent": about.parent,
    }
