"""What only the lab can do to a run: cables, power, frozen nodes, ill storage, slurmctld; see `ftslurm.faults.means`.

The rest is done as on any cluster, except that a hand enters its node directly and not by a job step.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ftslurm import journal
from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.faults.deeds import Controller, Deed, Freeze, Link, Power, Schedule, Store
from ftslurm.faults.fault import Fault, Need
from ftslurm.faults.means import Struck
from ftslurm.faults.own import OwnMeans
from ftslurm.faults.truth import Injection
from ftslurm.insight.summary import summarise
from ftslurm.lab.cluster import Cluster, lab_root
from ftslurm.lab.daemons import Daemon
from ftslurm.lab.machine import Who
from ftslurm.lab.passthrough import Fault as Illness
from ftslurm.lab.storage import Storage
from ftslurm.paths import RunPaths

SLOW_S, WELL_S = 0.8, 0.2
OF_LAB = (Link, Power, Freeze, Store, Controller)
COMMAND_S = 30.0


@dataclass(kw_only=True)
class LabMeans(OwnMeans):
    """The means of whoever has brought a lab up."""

    lab: Cluster
    _slow: dict[str, threading.Event] = field(default_factory=dict)

    @classmethod
    def of_lab(cls, lab: Cluster, paths: RunPaths, *, consent: bool = False) -> LabMeans:
        """The means for a run on a lab, whoever has started it there."""
        job_id = summarise(journal.read(paths)).job_id
        return cls(paths=paths, job_id=job_id, consent=consent, lab=lab)

    @property
    def offers(self) -> frozenset[Need]:
        """What faults may need of it."""
        return super().offers | {Need.ROOT, Need.LAB}

    def way(self, node: str, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
        """Into the node, by its namespaces."""
        return self.lab.command(node, argv, Who()), os.environ

    def strike(self, fault: Fault, injection: Injection, lasts_s: float | None) -> Struck:
        """Make it; see `Means`."""
        deed, at = fault.deed, time.time()
        if isinstance(deed, OF_LAB):
            self._break(deed, injection)
            return Struck(at=at, note=f"lab {self.lab.name}")
        if isinstance(deed, Schedule):
            words = {
                "drain": ["scontrol", "update", f"NodeName={injection.node}", "State=DRAIN", "Reason=fault"],
                "requeue": ["scontrol", "requeue", self.job_id],
                "cancel": ["scancel", self.job_id],
            }[deed.verb]
            self._slurm(words)
            return Struck(at=at, note=" ".join(words))
        return super().strike(fault, injection, lasts_s)

    def undo(self, fault: Fault, injection: Injection) -> float:
        """Undo it; see `Means`."""
        deed = fault.deed
        if isinstance(deed, Schedule):
            self._slurm(["scontrol", "update", f"NodeName={injection.node}", "State=RESUME"])
        elif isinstance(deed, OF_LAB):
            self._mend(deed, injection)
        else:
            return super().undo(fault, injection)
        return time.time()

    # --- the lab's own

    def _break(self, deed: Deed, injection: Injection) -> None:
        node = injection.node
        if isinstance(deed, Link) and deed.cut:
            self.lab.cut(node)
        elif isinstance(deed, Link):
            self.lab.slow(node, delay_ms=deed.delay_ms, jitter_ms=deed.jitter_ms, loss_percent=deed.loss_percent)
        elif isinstance(deed, Power):
            self.lab.kill(node)
        elif isinstance(deed, Freeze):
            self.lab.freeze(node)
        elif isinstance(deed, Controller):
            (self.lab.kill if deed.kill else self.lab.freeze)(Daemon.SLURMCTLD)
        elif isinstance(deed, Store):
            self._fail(deed.word, injection)

    def _mend(self, deed: Deed, injection: Injection) -> None:
        node = injection.node
        if isinstance(deed, Link) and deed.cut:
            self.lab.heal(node)
        elif isinstance(deed, Link):
            self.lab.slow(node)
        elif isinstance(deed, Power):
            self.lab.start(node)
        elif isinstance(deed, Freeze):
            self.lab.thaw(node)
        elif isinstance(deed, Controller):
            (self.lab.start if deed.kill else self.lab.thaw)(Daemon.SLURMCTLD)
        elif isinstance(deed, Store):
            if injection.id in self._slow:
                self._slow.pop(injection.id).set()
            self.lab.storage.restore()

    def _fail(self, word: str, injection: Injection) -> None:
        """Make the shared storage ill; the run has to lie there."""
        storage = self.lab.storage
        # From outside of the lab only what lies below the storage is to be seen.
        if not any(self.paths.root.is_relative_to(place) for place in (storage.path, storage.backing)):
            raise UsageError(
                f"run {self.paths.run_id} does not lie on the lab's ill storage",
                hint=f"`ftslurm lab storage attach`, and a run root below {storage.path}",
            )
        if word == "SLOW":
            self._slow[injection.id] = over = threading.Event()
            threading.Thread(target=_stutter, args=(storage, over), name="slow storage", daemon=True).start()
        elif word == "FREEZE":
            storage.freeze()
        else:
            storage.fail(Illness.HANG if word == "HANG" else Illness(word))

    def _slurm(self, words: Sequence[str]) -> None:
        done = self.lab.login(words, timeout=COMMAND_S)
        if done.returncode != 0:
            raise ServiceUnavailable(f"{' '.join(words)}: {done.stderr.strip()}")


def _stutter(storage: Storage, over: threading.Event) -> None:
    """Let storage answer for a fifth of the time, until it is over."""
    while not over.is_set():
        storage.freeze()
        over.wait(SLOW_S)
        storage.thaw()
        over.wait(WELL_S)


def lab_of(paths: RunPaths) -> Cluster | None:
    """The lab that a run lies in, seen from the machine that carries the lab; None: in none, or we are inside of it."""
    root = lab_root()
    if os.geteuid() != 0 or not paths.root.is_relative_to(root):
        return None
    lab = Cluster(paths.root.relative_to(root).parts[0], root=root)
    return lab if lab.status()["up"] else None
