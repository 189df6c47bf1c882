"""Drains a part packed where that pays, and as it was captured where it does not.

The way is chosen once for each generation, and kept on scratch as the manifest that was chosen, in the folder of packed
parts: a drain that is repeated brings the same bytes again, and never writes over a committed part with another one. A
part that cannot be packed, for whatever reason, is drained as it is.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.digest import Pace, digest_bytes, stopper
from ftslurm.checkpoint.drain import DrainReport, Target, drain_part, own_manifest
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths, manifest_name
from ftslurm.checkpoint.nodepart import NodePart
from ftslurm.checkpoint.shelf import Access, Shelf
from ftslurm.core.deltas import Account, Packed, Rules, Sent, choose, drained, is_hopeless
from ftslurm.core.events import Part
from ftslurm.core.manifest import is_generation, parse_generation
from ftslurm.core.rankindex import Encoding
from ftslurm.errors import DataDamaged, FtslurmError, StorageError, TryAgain, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How to go about it.

    `folder` is where packed parts are kept (`ScratchPaths.packed`). `base` is a durable, full generation of which this
    node has captured its part too; "" for none: then entries are packed without one. `account` is what was measured.
    """

    folder: Path
    base: str = ""
    account: Account = field(default_factory=Account)
    rules: Rules = field(default_factory=Rules)

    @property
    def way(self) -> Encoding:
        """How entries are packed."""
        return Encoding.XOR_ZSTD if self.base else Encoding.ZSTD


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOut:
    """What became of it.

    `part` is what now lies at the destination, and has to be committed in place of what was saved; None where draining
    failed. `references` are the generations without which it is worth nothing. `folder` is what was sent; a copy for
    another place is drained from there as well. `reason` says why it was packed, or not.
    """

    report: DrainReport
    account: Account
    folder: Path
    reason: str
    part: Part | None = None
    references: frozenset[str] = frozenset()


def drain_packed(
    generation: Path, node: str, target: Target, packing: Packing, *, stop: Event | None = None
) -> PartOut:
    """Bring what `node` has captured in the folder `generation` to the target, as `drain_part` does; never raises.

    `packing.base` and the others lie beside `generation`.
    """
    job = _Job(generation, node, target, packing, partial(drain_part, stop=stop), stopper(stop))
    try:
        return job.run()
    except FtslurmError as error:
        problem, damaged = str(error), isinstance(error, DataDamaged)
    except OSError as error:
        problem, damaged = f"{error.strerror or error}: {error.filename or generation}", False
    report = DrainReport(generation=generation.name, node=node, error=problem, damaged=damaged)
    return PartOut(report=report, account=packing.account, folder=generation, reason="")


def clean_packed(folder: Path, watermark: str, protected: Collection[str] = ()) -> tuple[str, ...]:
    """Delete the packed parts of generations at or below `watermark` that are not protected; returns their names.

    Raises:
        DataDamaged: `watermark` is not the name of a generation.
        StorageError: scratch cannot be read or changed.
    """
    limit = parse_generation(watermark)
    gone: set[str] = set()
    try:
        for node in disk.entries_of(folder):
            generations = StorePaths(folder / node).generations
            for name in filter(is_generation, disk.entries_of(generations)):
                if parse_generation(name) <= limit and name not in protected:
                    shutil.rmtree(generations / name)
                    gone.add(name)
    except OSError as error:
        raise StorageError(f"cannot clean {folder}: {error.strerror}: {error.filename}") from error
    return tuple(sorted(gone, key=parse_generation))


class _Probe:
    """Watches the packing: stops it on request, and as soon as it is plain that it cannot pay."""

    def __init__(self, packing: Packing, stop: Pace) -> None:
        self._account = packing.account
        self._rules = packing.rules
        self._stop = stop
        self._began = time.monotonic()
        self._done = 0
        self.hopeless: Packed | None = None

    def __call__(self, size_bytes: int, /) -> None:
        """`size_bytes` more are done."""
        self._stop(size_bytes)
        self._done += size_bytes
        begun = Packed(raw_bytes=self._done, stored_bytes=self._done, took_s=time.monotonic() - self._began)
        if is_hopeless(self._account, begun, self._rules):
            self.hopeless = begun
            rates = f"{begun.rate / 1e6:.0f} MB/s packed, {self._account.link_rate / 1e6:.0f} MB/s sent"
            raise TryAgain(f"packing is slower than the link ({rates})")


@dataclass(frozen=True, slots=True)
class _Job:
    """One part on its way."""

    generation: Path
    node: str
    target: Target
    packing: Packing
    drain: Callable[[Path, str, Target], DrainReport]
    stop: Pace

    def run(self) -> PartOut:
        """Drain it in the way that was chosen before, or choose."""
        committed = self._committed()
        wanted = self._digest(committed) if committed else self._digest(self._place)
        if not wanted:
            return self._anew()
        known = [folder for folder in (self.generation, self._place) if self._digest(folder) == wanted]
        for folder in [*known, *([committed] if committed else [])]:
            report = self.drain(folder, self.node, self.target)
            if not report.damaged or folder == committed:
                return self._out(folder, "as before", report, self.packing.account)
        return self._anew()

    def _anew(self) -> PartOut:
        packing = self.packing
        choice = choose(packing.account, packing.way, packing.rules)
        folder, reason, packed = self.generation, choice.reason, None
        if choice.pack:
            folder, reason, packed = self._try_to_pack(choice.reason)
        if folder == self.generation:
            self._keep_choice()
        report = self.drain(folder, self.node, self.target)
        sent = Sent(sent_bytes=report.copied_bytes, took_s=report.took_s) if report.ok and report.tries == 1 else None
        account = drained(packing.account, packing.way, sent, packed, packing.rules)
        return self._out(folder, reason, report, account)

    def _try_to_pack(self, reason: str) -> tuple[Path, str, Packed | None]:
        """(what to drain, why, what was measured)."""
        probe = _Probe(self.packing, self.stop)
        try:
            return self._place, reason, self._pack(probe)
        except TryAgain as error:
            if probe.hopeless is None:
                raise
            return self.generation, str(error), probe.hopeless
        except (FtslurmError, ImportError) as error:
            return self.generation, f"not packed: {error}", None

    def _pack(self, probe: _Probe) -> Packed:
        from ftslurm.checkpoint.delta import Base, pack_part

        generation, into = GenerationPaths(self.generation), GenerationPaths(self._place)
        if not self.packing.base:
            return pack_part(generation, self.node, into, pace=probe).packed
        if self.target.remote() is not None:
            raise UsageError(f"what {self.target.destination} holds of the base cannot be looked at")
        durable = Shelf(Access(places=(self._there(self.packing.base),), fetch=None, on_damage=_untold))
        try:
            base = Base(NodePart(self.generation.parent / self.packing.base, self.node), durable)
            return pack_part(generation, self.node, into, base=base, pace=probe).packed
        finally:
            durable.close()

    def _keep_choice(self) -> None:
        """Remember that it goes as it is."""
        if self._place.exists():
            shutil.rmtree(self._place)
        disk.make_folder(GenerationPaths(self._place).manifests)
        disk.write_small(self._place / manifest_name(self.node), own_manifest(self.generation, self.node)[1])

    def _out(self, folder: Path, reason: str, report: DrainReport, account: Account) -> PartOut:
        if not report.ok:
            return PartOut(report=report, account=account, folder=folder, reason=reason)
        manifest, data = own_manifest(folder, self.node)
        return PartOut(
            report=report,
            account=account,
            folder=folder,
            reason=reason,
            part=manifest.part(digest_bytes(data)),
            references=_references(folder, self.node),
        )

    # ------------------------------------------------------------------------------------------------------- places

    @property
    def _place(self) -> Path:
        """Where the packed part lies, or the manifest of the captured one where that was chosen."""
        return StorePaths(self.packing.folder / self.node).generation(self.generation.name).root

    def _there(self, generation: str) -> GenerationPaths:
        return StorePaths(Path(self.target.destination)).generation(generation)

    def _committed(self) -> Path | None:
        """The generation's folder at the destination, if it was committed with a part of this node."""
        if self.target.remote() is not None:
            return None
        there = self._there(self.generation.name)
        return there.root if there.commit.exists() and self._digest(there.root) else None

    def _digest(self, folder: Path) -> str:
        """The digest of the node's manifest in a folder; "" where there is none that can be read."""
        try:
            return digest_bytes(own_manifest(folder, self.node)[1])
        except (DataDamaged, FileNotFoundError):
            return ""


def _references(folder: Path, node: str) -> frozenset[str]:
    try:
        return NodePart(folder, node).references()
    except UsageError:
        return frozenset()  # files of the program's own making refer to nothing


def _untold(path: Path, reason: str) -> None:
    """The error says the same."""
    del path, reason
