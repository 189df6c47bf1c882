"""An agent's way to shared storage: one part at a time, packed where that is measured to be faster.

What was measured is kept in memory: an agent that is started again measures again.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.core.events import PartDrained
from ftslurm.runtime.logs import event

if TYPE_CHECKING:
    from ftslurm.checkpoint.drain import DrainReport, Target
    from ftslurm.core.deltas import Account
    from ftslurm.runtime.spec import CheckpointSpec

log = logging.getLogger(__name__)

PATIENCE_S = 30.0


class Drains:
    """The drains of one node. `packed`: where packed parts are kept; None: none is packed."""

    def __init__(self, spec: CheckpointSpec, packed: Path | None, stop: threading.Event) -> None:
        self._spec = spec
        self._packed = packed if spec.packs else None
        self._stop = stop
        self._one = threading.Lock()
        self._account: Account | None = None

    def drain(self, source: Path, owner: str, base: str) -> PartDrained:
        """Copy the part of an owner in the folder `source` of a generation; `base` is what it builds upon, if durable.

        One after the other: the same order may come twice, and packing makes its folder anew.
        """
        from ftslurm.checkpoint.drain import drain_part

        with self._one:
            if self._packed is not None:
                return self._drain_packed(source, owner, base, self._packed)
            done = drain_part(source, owner, self._target(self._spec.shared), stop=self._stop)
            if done.ok:
                self._further_copy(source, owner)
            return _told(done, owner)

    def _drain_packed(self, source: Path, owner: str, base: str, packed: Path) -> PartDrained:
        from ftslurm.checkpoint.deltadrain import Packing, drain_packed
        from ftslurm.core.deltas import Account

        packing = Packing(folder=packed, base=base, account=self._account or Account())
        out = drain_packed(source, owner, self._target(self._spec.shared), packing, stop=self._stop)
        self._account = out.account
        done = out.report
        if out.part is None:
            return _told(done, owner)
        self._further_copy(out.folder, owner)
        about = event("drain", well=True, took_s=done.took_s)
        size = out.part.size_bytes
        log.info("checkpoint %s: %d bytes of %s went: %s", source.name, size, owner, out.reason, extra=about)
        return PartDrained(generation=source.name, node=owner, took_s=done.took_s, part=out.part, reason=out.reason)

    def _further_copy(self, folder: Path, owner: str) -> None:
        """Copy the part to `drain_to` as well; a failure there does not make the checkpoint less durable."""
        from ftslurm.checkpoint.drain import drain_part

        if not self._spec.drain_to:
            return
        done = drain_part(folder, owner, self._target(self._spec.drain_to), stop=self._stop)
        if not done.ok:
            about = event("drain", well=False, took_s=done.took_s)
            text = "checkpoint %s cannot be copied to %s: %s"
            log.error(text, folder.name, self._spec.drain_to, done.error, extra=about)

    def _target(self, destination: str) -> Target:
        """To shared storage in the way that was chosen; a further copy finds its own."""
        from ftslurm.checkpoint.drain import Target, Transport

        chosen = Transport(self._spec.drain) if destination == self._spec.shared else Transport.AUTO
        limit = int(self._spec.rate_limit)
        return Target(destination=destination, transport=chosen, rate_limit=limit, patience_s=PATIENCE_S)


def _told(done: DrainReport, owner: str) -> PartDrained:
    return PartDrained(
        generation=done.generation, node=owner, took_s=done.took_s, error=done.error, damaged=done.damaged
    )
