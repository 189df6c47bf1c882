"""Carries one node's part of a generation to shared storage, outside the training process.

First the files, each whole, right and fsynced (`ftslurm.checkpoint.copying`, or rsync and then read back), then the
folders, and last the node's manifest. What is right at the destination already is not sent again.

`drain_part` never raises for bad weather: a full, stale or broken storage is tried again for `patience_s`, and then
told in the report, so that the caller can come back later.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk, rsync
from ftslurm.checkpoint.copying import Copier
from ftslurm.checkpoint.digest import check_whole, digest_bytes
from ftslurm.checkpoint.layout import COMMIT, DATA, GenerationPaths, StorePaths, manifest_name
from ftslurm.checkpoint.pacing import Pacer, Progress
from ftslurm.core.manifest import MANIFEST_LIMIT_BYTES, FileEntry, NodeManifest
from ftslurm.errors import DataDamaged, FtslurmError, StorageError, TryAgain, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0
_NEVER_PASSES = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EFBIG})
"""Errors of the storage that waiting does not heal."""


class Transport(StrEnum):
    """How the bytes travel. AUTO is COPY, unless the destination is on another host."""

    AUTO = "auto"
    COPY = "copy"
    RSYNC = "rsync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the parts go: the root of a store, as a path or as `host:/path` or `user@host:/path`.

    `rate_limit`: bytes per second, 0 for none. `patience_s`: how long failing storage is tried again. `allowed_hosts`:
    the only hosts that may be sent to; empty means the one in the destination.
    """

    destination: str
    transport: Transport = Transport.AUTO
    rate_limit: int = 0
    patience_s: float = 60.0
    allowed_hosts: tuple[str, ...] = ()

    def remote(self) -> rsync.Remote | None:
        """The other host; None for a path. Raises UsageError for a host that cannot be, or may not be, sent to."""
        return rsync.Remote.parse(self.destination, self.allowed_hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What became of it. `error` is empty where the part lies, verified and fsynced, at the destination.

    `damaged`: this node's copy is not what its manifest says: trying again is no use.
    """

    generation: str
    node: str
    manifest_digest: str = ""
    copied_bytes: int = 0
    took_s: float = 0.0
    tries: int = 0
    error: str = ""
    damaged: bool = False

    @property
    def ok(self) -> bool:
        """Whether the part is safe there."""
        return not self.error


def drain_part(
    generation: Path, node: str, target: Target, *, progress: Progress | None = None, stop: Event | None = None
) -> DrainReport:
    """Bring what `node` has captured in the folder `generation` to the target; repeat it as often as you like.

    `progress(done, total)` is called with bytes, from this thread.
    """
    began = time.monotonic()
    report = DrainReport(generation=generation.name, node=node)
    try:
        job = _Job.of(generation, node, target, Pacer(rate_limit=target.rate_limit, progress=progress, stop=stop))
        report = replace(report, manifest_digest=job.digest)
        tries = _until_it_works(job.run, target.patience_s, stop)
        report = replace(report, copied_bytes=job.copied_bytes, tries=tries)
    except FtslurmError as error:
        report = replace(report, error=str(error), damaged=isinstance(error, DataDamaged))
    except OSError as error:
        report = replace(report, error=f"{error.strerror or error}: {error.filename or target.destination}")
    return replace(report, took_s=time.monotonic() - began)


def own_manifest(generation: Path, node: str) -> tuple[NodeManifest, bytes]:
    """The manifest of `node` in a generation's folder, and its bytes. Raises DataDamaged: missing or wrong."""
    try:
        data = disk.read_small(generation, manifest_name(node), MANIFEST_LIMIT_BYTES)
    except FileNotFoundError as error:
        raise DataDamaged(f"{generation} holds no manifest of {node}: it was not captured here") from error
    manifest = NodeManifest.from_bytes(data)
    if (manifest.node, manifest.generation) != (node, generation.name):
        raise DataDamaged(f"the manifest in {generation} is that of {manifest.node} and {manifest.generation}")
    return manifest, data


def _until_it_works(work: Callable[[], None], patience_s: float, stop: Event | None) -> int:
    """Run `work` again after passing errors of the storage, waiting longer each time; returns how often it ran."""
    deadline = time.monotonic() + patience_s
    wait_s = _FIRST_WAIT_S
    tries = 1
    while True:
        try:
            work()
        except OSError as error:
            if error.errno in _NEVER_PASSES or time.monotonic() + wait_s > deadline:
                raise
        except (StorageError, TryAgain) as error:
            stopped = stop is not None and stop.is_set()
            if stopped or time.monotonic() + wait_s > deadline:
                raise error from None
        else:
            return tries
        if stop is None:
            time.sleep(wait_s)
        elif stop.wait(wait_s):
            raise TryAgain("stopped on request")
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        tries += 1


@dataclass(slots=True, kw_only=True)
class _Job:
    """One node's part on its way."""

    source: GenerationPaths
    manifest: NodeManifest
    data: bytes
    digest: str
    target: Target
    pacer: Pacer
    copied_bytes: int = 0

    @classmethod
    def of(cls, generation: Path, node: str, target: Target, pacer: Pacer) -> _Job:
        """Read the node's own manifest. Raises DataDamaged where it is missing or wrong."""
        manifest, data = own_manifest(generation, node)
        return cls(
            source=GenerationPaths(generation),
            manifest=manifest,
            data=data,
            digest=digest_bytes(data),
            target=target,
            pacer=pacer,
        )

    def run(self) -> None:
        """One try, from the beginning; what is right already stays."""
        self.copied_bytes = 0
        self.pacer.begin(self.manifest.size_bytes)
        remote = self.target.remote()
        if remote is not None:
            self._send_away(remote)
            return
        there = StorePaths(Path(self.target.destination)).generation(self.manifest.generation)
        if there.root.is_dir() and there.root.samefile(self.source.root):
            self._read_back(there)
            return
        for folder in (there.data, there.manifests):
            disk.make_folder(folder)
        if self.target.transport is Transport.RSYNC:
            self._send(str(Path(self.target.destination).absolute()), self._data_names())
            self._check_arrival(there)
        else:
            copier = Copier(
                source=self.source.data, target=there.data, owner=self.manifest.node, durable=True, pace=self.pacer
            )
            for entry in self.manifest.files:
                self.copied_bytes += self._copy(copier, entry)
        disk.write_small(there.root / manifest_name(self.manifest.node), self.data)

    def _copy(self, copier: Copier, entry: FileEntry) -> int:
        try:
            return copier.copy(entry)
        except FileNotFoundError as error:
            if (self.source.data / entry.name).exists():
                raise  # something at the destination, which may come back
            raise DataDamaged(f"{self.source.data / entry.name} is missing") from error

    def _send_away(self, remote: rsync.Remote) -> None:
        """To another host: the own bytes are checked first, because what is compared there is what was sent."""
        self._read_back(self.source)
        to = f"{remote.address}:{remote.path}"
        self._send(to, self._data_names())
        self._send(to, (self._name_there(manifest_name(self.manifest.node)),))

    def _send(self, to: str, names: tuple[str, ...]) -> None:
        rsync.send(
            rsync.Sending(
                folder=self.source.root.parent.parent,
                names=names,
                to=to,
                size_bytes=self.manifest.size_bytes,
                rate_limit=self.target.rate_limit,
                stop=self.pacer.stop,
            )
        )
        self.copied_bytes = self.manifest.size_bytes

    def _check_arrival(self, there: GenerationPaths) -> None:
        """What rsync has brought: wrong bytes there are the storage's fault, and sending again may heal them."""
        try:
            self._read_back(there)
        except DataDamaged as error:
            raise StorageError(f"after rsync: {error}") from error

    def _data_names(self) -> tuple[str, ...]:
        return tuple(self._name_there(f"{DATA}/{entry.name}") for entry in self.manifest.files)

    def _name_there(self, name: str) -> str:
        """Relative to the store's root: on scratch and in the store generations lie in a folder of the same name."""
        return f"{self.source.root.parent.name}/{self.source.root.name}/{name}"

    def _read_back(self, folder: GenerationPaths) -> None:
        """Read every byte in a folder and make it durable. Raises DataDamaged."""
        for entry in self.manifest.files:
            try:
                with disk.opened(folder.data, entry.name) as descriptor:
                    check_whole(descriptor, entry, where=str(folder.data), pace=self.pacer)
                    os.fsync(descriptor)
            except FileNotFoundError as error:
                raise DataDamaged(f"{folder.data / entry.name} is missing") from error
            disk.fsync_way(folder.data, entry.name)


def send_commit(store: Path, generation: str, target: Target, *, stop: Event | None = None) -> None:
    """Bring the COMMIT.json of a durable generation to another host, after all parts were drained there.

    Raises:
        UsageError: the target is not another host.
        StorageError: rsync or ssh failed.
    """
    remote = target.remote()
    if remote is None:
        raise UsageError(f"{target.destination!r} is on this host: it is committed there, not sent")
    rsync.send(
        rsync.Sending(
            folder=store,
            names=(f"{StorePaths(store).generations.name}/{generation}/{COMMIT}",),
            to=f"{remote.address}:{remote.path}",
            size_bytes=0,
            stop=stop,
        )
    )
