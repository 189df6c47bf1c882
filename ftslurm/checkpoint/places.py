"""Where a part of a generation may lie, and bringing single files of it together from there.

The order is that of cost: this node's own copy, a partner's copy on this node, other nodes, shared storage. A copy that
is wrong is passed over for the next; one of this node is set aside (`quarantine`), so that nobody meets it again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.copying import Copier, Remote
from ftslurm.checkpoint.digest import Pace, check_whole, digest_bytes, quiet
from ftslurm.checkpoint.layout import GenerationPaths, manifest_name
from ftslurm.core.manifest import MANIFEST_LIMIT_BYTES, FileEntry, NodeManifest
from ftslurm.core.strictjson import encode
from ftslurm.errors import DataDamaged, StorageError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Kind(StrEnum):
    """What a place is, as it is told and counted."""

    OWN = "own"
    PARTNER = "partner"
    PEER = "peer"
    SHARED = "shared"


LOCAL = (Kind.OWN, Kind.PARTNER)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, or another node."""

    kind: Kind
    at: GenerationPaths | Remote

    def manifest(self, owner: str, digest: str) -> tuple[bytes, NodeManifest]:
        """The owner's manifest, if it has this digest here. Raises OSError, DataDamaged."""
        if isinstance(self.at, GenerationPaths):
            data = disk.read_small(self.at.root, manifest_name(owner), MANIFEST_LIMIT_BYTES)
        else:
            data = self.at.manifest()
        found = digest_bytes(data)
        if found != digest:
            raise DataDamaged(f"the manifest of {owner} was changed: digest {found}, committed as {digest}")
        return data, NodeManifest.from_bytes(data)

    def holds(self, owner: str, digest: str) -> bool:
        """Whether what lies here is the part with this manifest, and not the same one packed, or not packed."""
        try:
            self.manifest(owner, digest)
        except (OSError, DataDamaged):
            return False
        return True

    @property
    def source(self) -> Path | Remote:
        """As `Copier` takes it."""
        return self.at.data if isinstance(self.at, GenerationPaths) else self.at


Places = Callable[[str, str], Sequence[Place]]
"""(generation, owner) -> where the owner's part may lie, the cheapest first."""


@dataclass(slots=True)
class Tally:
    """Bytes by where they came from; files that were wrong."""

    sizes: dict[Kind, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: Kind, size_bytes: int) -> None:
        """Count; from any thread."""
        with self._lock:
            self.sizes[kind] = self.sizes.get(kind, 0) + size_bytes

    def __str__(self) -> str:
        return " ".join(f"{kind}={self.sizes[kind]}" for kind in Kind if kind in self.sizes)


@dataclass(slots=True, kw_only=True)
class Gatherer:
    """Brings manifests and files from where they may lie. `quarantine`: where wrong files of this node go."""

    places: Places
    quarantine: Path
    pace: Pace = quiet
    tally: Tally = field(default_factory=Tally)

    def manifest(self, generation: str, owner: str, digest: str) -> tuple[bytes, NodeManifest]:
        """The manifest with this digest. Raises as `first`."""
        what, places = f"{generation}: the manifest of {owner}", self.places(generation, owner)
        return first(what, places, lambda place: place.manifest(owner, digest))[1]

    def bring(self, generation: str, owner: str, entry: FileEntry, target: Path) -> Kind:
        """Put a file into the folder `target`, every byte verified; a link where a right copy lies on this node.

        Raises as `first`.
        """

        def work(place: Place) -> None:
            if place.kind in LOCAL and isinstance(place.at, GenerationPaths):
                self._link(place.at, entry, target)
            else:
                Copier(source=place.source, target=target, owner="gather", durable=False, pace=self.pace).bring(entry)

        kind, _ = first(f"{generation}: {entry.name}", self.places(generation, owner), work)
        self.tally.add(kind, entry.size)
        return kind

    def _link(self, at: GenerationPaths, entry: FileEntry, target: Path) -> None:
        try:
            with disk.opened(at.data, entry.name) as descriptor:
                check_whole(descriptor, entry, where=str(at.data), pace=self.pace)
        except DataDamaged as error:
            self.set_aside(at.data, entry.name, str(error))
            raise
        if not disk.link_over(at.data, target, entry.name):
            Copier(source=at.data, target=target, owner="gather", durable=False, pace=self.pace).bring(entry)

    def set_aside(self, folder: Path, name: str, reason: str) -> None:
        """Move a wrong file out of the way, with the reason beside it. What cannot be moved stays where it is."""
        log.error("%s is not what was written, and set aside: %s", folder / name, reason)
        self.tally.wrong.append(reason)
        target = self.quarantine / f"{time.time_ns()}-{name.replace('/', '_')[-200:]}"
        with contextlib.suppress(OSError):
            (folder / name).rename(target)
            record = {"path": str(folder / name), "reason": reason[:4000], "at": time.time()}
            disk.write_small(target.with_name(f"{target.name}.json"), encode(record))


def first(what: str, places: Sequence[Place], work: Callable[[Place], T]) -> tuple[Kind, T]:
    """The result of the first place where `work` succeeds, and what kind of place that is.

    Raises:
        DataDamaged: no place has the right bytes.
        StorageError: a place that may have them cannot be read now, or this node's disk cannot be written.
    """
    problems: list[str] = []
    errors: list[str] = []
    for place in places:
        try:
            return place.kind, work(place)
        except FileNotFoundError:
            continue
        except DataDamaged as error:
            problems.append(f"{place.kind}: {error}")
        except OSError as error:
            errors.append(f"{place.kind}: {error.strerror or error}: {error.filename or place.at}")
    told = "; ".join(problems + errors) or "it is missing in every place"
    raise (StorageError if errors else DataDamaged)(f"{what}: {told}")
