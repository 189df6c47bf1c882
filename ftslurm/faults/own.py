"""Breaking one's own run as an ordinary user can: by job steps on its nodes, by files in its folder, by Slurm."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftslurm import journal
from ftslurm.core.events import ENDED
from ftslurm.errors import Refused, StorageError, TryAgain, UsageError
from ftslurm.faults import litter, willing
from ftslurm.faults.choosing import placing
from ftslurm.faults.damage import damage, newest
from ftslurm.faults.deeds import (
    Ask,
    Confine,
    Damage,
    Deed,
    Limit,
    Litter,
    ReportXid,
    ResetGpu,
    Schedule,
    Send,
    Stutter,
    to_record,
)
from ftslurm.faults.fault import Fault, Need
from ftslurm.faults.grip import Held
from ftslurm.faults.means import Struck
from ftslurm.faults.truth import Injection
from ftslurm.insight.summary import last_entry, phase_of, summarise
from ftslurm.insight.text import visible
from ftslurm.paths import RunPaths
from ftslurm.runtime.launcher import PYTHON
from ftslurm.slurm import env
from ftslurm.slurm.client import SlurmClient

BY_HAND = (Send, Stutter, Limit, Confine, ReportXid, ResetGpu)
OBEY_S = 30.0
PREY_S = 20.0
POLL_S = 0.05


@dataclass(kw_only=True)
class OwnMeans:
    """The means of the user who has started the run. `consent`: he has said yes to what cannot be undone."""

    paths: RunPaths
    job_id: str
    client: SlurmClient = field(default_factory=SlurmClient)
    consent: bool = False
    _held: dict[str, Held] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: RunPaths, *, consent: bool = False) -> OwnMeans:
        """The means for a run of one's own that is alive.

        Raises:
            Refused: it is somebody else's.
            TryAgain: it is not alive.
        """
        last = last_entry(paths)
        job_id = summarise(journal.read(paths)).job_id
        if last is None or phase_of(last) in ENDED or not job_id:
            raise TryAgain(f"run {paths.run_id} is not alive", hint=f"`ftslurm status {paths.run_id}`")
        owner = paths.root.stat().st_uid
        if owner != os.geteuid():
            raise Refused(f"run {paths.run_id} belongs to {_name(owner)}", hint="only one's own runs can be broken")
        client = SlurmClient()
        user = client.job(job_id).user
        if user != _name(os.geteuid()):
            raise Refused(f"job {job_id} belongs to {visible(user) or 'nobody that Slurm knows'}")
        return cls(paths=paths, job_id=job_id, client=client, consent=consent)

    @property
    def offers(self) -> frozenset[Need]:
        """What faults may need of it."""
        found = {Need.YES} if self.consent else set()
        if os.geteuid() == 0:
            found.add(Need.ROOT)
        if self._config().get("resources", {}).get("gpus_per_node"):
            found.add(Need.GPU)
        if self._is_willing():
            found.add(Need.PROGRAM)
        return frozenset(found)

    def strike(self, fault: Fault, injection: Injection, lasts_s: float | None) -> Struck:
        """Make it; see `Means`."""
        deed = fault.deed
        if isinstance(deed, BY_HAND):
            return self._by_hand(deed, injection, lasts_s if fault.undo else None)
        try:
            if isinstance(deed, Ask):
                return self._ask(deed, injection)
            if isinstance(deed, Damage):
                return self._damage(deed)
            if isinstance(deed, Litter):
                return Struck(at=time.time(), note=litter.scatter(self.paths, injection.id))
        except OSError as error:
            raise StorageError(f"cannot write {error.filename}: {error.strerror}") from error
        if isinstance(deed, Schedule) and deed.verb in ("requeue", "cancel"):
            at = time.time()
            if deed.verb == "requeue":
                self.client.requeue(self.job_id)
            else:
                self.client.cancel(self.job_id)
            return Struck(at=at, note=f"{deed.verb} of job {self.job_id}")
        raise UsageError(f"{fault.name} is made by the lab only", hint="`ftslurm lab --help`")

    def undo(self, fault: Fault, injection: Injection) -> float:
        """Undo it; see `Means`. A hand whose command has gone has undone its deed itself."""
        held = self._held.pop(injection.id, None)
        if held is not None:
            told = held.let_go()
            return float(told["undone_at"]) if told is not None else time.time()
        try:
            if isinstance(fault.deed, Ask):
                willing.withdraw(self.paths.orders, injection.id)
            elif isinstance(fault.deed, Litter):
                litter.collect(self.paths, injection.id)
        except OSError as error:
            raise StorageError(f"cannot remove {error.filename}: {error.strerror}") from error
        return time.time()

    # --- on nodes

    def way(self, node: str, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
        """The command that runs `argv` on a node of the job, and its environment."""
        step = ["srun", "--overlap", "--jobid", self.job_id, "-w", node, "-N1", "-n1", "--mpi=none"]
        step += ["--kill-on-bad-exit=0", "-D", "/", "--immediate=15"]
        return [*step, *argv], env.clean(os.environ)

    def hand(self, node: str, deed: Deed, rank: int | None = None, **order: Any) -> Held:  # noqa: ANN401 - JSON
        """Send a hand to a node."""
        text = json.dumps({"deed": to_record(deed), "rank": rank, **order})
        return Held(*self.way(node, [*PYTHON, "-m", "ftslurm.faults.hand", str(self.paths.root), text]))

    def _by_hand(self, deed: Deed, injection: Injection, lasts_s: float | None) -> Struck:
        holder = journal.holder(self.paths)
        # A second fault may come before its prey: the attempt is launched, and its ranks are not there yet.
        more = {"holder": holder.pid if holder else 0, "patience_s": PREY_S if injection.part_of else 0.0}
        held = self.hand(injection.node, deed, injection.rank, lasts_s=lasts_s, more=more)
        told = held.done()
        if lasts_s is not None:
            self._held[injection.id] = held
        else:
            held.end()
        pids = ", ".join(map(str, told["pids"]))
        where = f" to process {pids} on {told['node']}" if pids else f" on {told['node']}"
        return Struck(at=float(told["at"]), note=f"{told['note']}{where}")

    # --- by files

    def _is_willing(self) -> bool:
        try:
            return any(name.startswith(willing.MARK) for name in os.listdir(self.paths.orders))
        except OSError:
            return False

    def _ask(self, deed: Ask, injection: Injection) -> Struck:
        if injection.rank is None:
            raise UsageError(f"{deed.word} is asked of a rank")
        willing.give(self.paths.orders, injection.id, deed.word, injection.rank)
        try:
            return self._obeyed(deed, injection)
        except BaseException:
            willing.withdraw(self.paths.orders, injection.id)
            raise

    def _obeyed(self, deed: Ask, injection: Injection) -> Struck:
        until = time.monotonic() + OBEY_S
        while (at := willing.taken(self.paths.orders, injection.id)) is None:
            if time.monotonic() > until:
                raise TryAgain(f"rank {injection.rank} has not obeyed within {OBEY_S:g} s: does it make steps?")
            time.sleep(POLL_S)
        return Struck(at=at, note=f"rank {injection.rank} obeys: {deed.word}")

    def _damage(self, deed: Damage) -> Struck:
        """Shared storage first: what is there tells which generation and which of its files."""
        wanted, at = newest(self.paths), time.time()
        told = damage(wanted, deed.way)
        if not told:
            raise UsageError(
                f"checkpoint {wanted.generation} lies where the program writes it",
                hint="only what ftslurm has copied is damaged here",
            )
        owner = self.paths.root.stat().st_uid
        scratch = self._config().get("checkpoint", {}).get("scratch", "auto")
        more = {"generation": wanted.generation, "file": wanted.file, "uid": owner, "scratch": scratch}
        nodes = placing(self.paths, training=False).allocation
        # All at once: the next checkpoint may be under way.
        for node, held in {node: self.hand(node, deed, more=more) for node in nodes}.items():
            told.append(f"{node}: {held.done()['note']}")
            held.end()
        return Struck(at=at, note=f"checkpoint {wanted.generation}: {'; '.join(told)}")

    def _config(self) -> dict[str, Any]:
        """The run's configuration as it was submitted; empty where it cannot be read."""
        return read_config(self.paths.resolved)


def _name(uid: int) -> str:
    """The name of a user, or his number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def read_config(path: Path) -> dict[str, Any]:
    """A resolved configuration; empty where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
