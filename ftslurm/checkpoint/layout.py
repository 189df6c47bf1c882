"""All file names of the checkpoint store, on shared storage and on a node's scratch.

On shared storage (`StorePaths`; in a run's folder it is `checkpoints/`)::

    RUN.json                       format, run id, when it was created
    ROLLBACKS.json                 which generations lie on abandoned branches; only after a rollback
    refs/<name>                    latest, best and tags: a generation and the digest of its COMMIT
    refs/local/<generation>.json   generations that are whole, but only on the nodes; for people, can be lost
    gen/<step:09d>-<attempt:04d>/
      d/<name>                     the program's files, by the names the program gave them
      m/<node>.json                what each node wrote, with digests
      PLACE.json                   instead of d/: the files lie where the program wrote them, and were seen so
      COMMIT.json                  written last; without it the generation does not exist
    quarantine/<generation>/       damaged, set aside; <generation>.json beside it says why
    trash/<generation>/            on its way out
    write/<node>/                  where programs write when there is no scratch

On scratch (`ScratchPaths`)::

    write/                         the program's own folder (FTSLURM_CHECKPOINT_DIR)
    gen/<generation>/{d,m}/        captured: hard links to the program's files, and this node's manifest
    partner/<node>/gen/<generation>/{d,m}/   copies of what another node has captured
    local/<generation>.json        the LOCAL records of generations that are whole on the nodes
    restore/<generation>/          verified files for the next attempt
    quarantine/<time>-<name>       single files that were not what was written; <...>.json beside each says why
    packed/<node>/gen/             a node's parts as they were drained, where that is not as they were captured
    attempts/<attempt>.json        what lay in write/ when the attempt began
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ftslurm.errors import CannotCreate

PRIVATE_FOLDER = 0o700
DATA = "d"
MANIFESTS = "m"
COMMIT = "COMMIT.json"
PLACE = "PLACE.json"


@dataclass(frozen=True, slots=True)
class GenerationPaths:
    """One generation, wherever it lies."""

    root: Path

    @property
    def data(self) -> Path:
        """The program's files."""
        return self.root / DATA

    @property
    def manifests(self) -> Path:
        """The nodes' manifests."""
        return self.root / MANIFESTS

    @property
    def commit(self) -> Path:
        """The file that makes it durable."""
        return self.root / COMMIT


def manifest_name(node: str) -> str:
    """The manifest of a node, relative to the generation's folder."""
    return f"{MANIFESTS}/{node}.json"


def data_path(name: str) -> str:
    """A file of the program, relative to the generation's folder: so its data folder may be no link either."""
    return f"{DATA}/{name}"


@dataclass(frozen=True, slots=True)
class StorePaths:
    """The store on shared storage."""

    root: Path

    @property
    def run_file(self) -> Path:
        """RUN.json."""
        return self.root / "RUN.json"

    @property
    def rollbacks(self) -> Path:
        """What was abandoned."""
        return self.root / "ROLLBACKS.json"

    @property
    def references(self) -> Path:
        """Names of generations."""
        return self.root / "refs"

    @property
    def local_records(self) -> Path:
        """What is LOCAL, for people to see."""
        return self.references / "local"

    @property
    def generations(self) -> Path:
        """The folder of all generations."""
        return self.root / "gen"

    def generation(self, name: str) -> GenerationPaths:
        """One generation."""
        return GenerationPaths(self.generations / name)

    @property
    def quarantine(self) -> Path:
        """Damaged generations; nothing here is ever deleted."""
        return self.root / "quarantine"

    @property
    def trash(self) -> Path:
        """Generations that are being deleted."""
        return self.root / "trash"

    def write(self, node: str) -> Path:
        """Where the program writes when there is no scratch: one folder a node, as scratch would be."""
        return self.root / "write" / node


@dataclass(frozen=True, slots=True)
class ScratchPaths:
    """A run's folder on a node's own disk."""

    root: Path

    @classmethod
    def of(cls, scratch: Path, run_id: str) -> ScratchPaths:
        """The folder of `run_id` below the site's or user's scratch."""
        return cls(scratch / run_id)

    @property
    def write(self) -> Path:
        """The program's own folder."""
        return self.root / "write"

    @property
    def generations(self) -> Path:
        """Captured generations."""
        return self.root / "gen"

    def generation(self, name: str) -> GenerationPaths:
        """One captured generation."""
        return GenerationPaths(self.generations / name)

    @property
    def partners(self) -> Path:
        """Copies of other nodes' parts, one folder a node."""
        return self.root / "partner"

    def partner(self, node: str) -> ScratchPaths:
        """The copies of one node's parts, in the form of its own scratch."""
        return ScratchPaths(self.partners / node)

    @property
    def local_records(self) -> Path:
        """What is LOCAL."""
        return self.root / "local"

    @property
    def quarantine(self) -> Path:
        """Damaged files."""
        return self.root / "quarantine"

    @property
    def packed(self) -> Path:
        """Parts as they were drained."""
        return self.root / "packed"

    @property
    def restores(self) -> Path:
        """What attempts were started from."""
        return self.root / "restore"

    def restore(self, name: str) -> Path:
        """The verified files of one generation."""
        return self.restores / name

    def baseline(self, attempt: int) -> Path:
        """What lay in `write` when the attempt began."""
        return self.root / "attempts" / f"{attempt}.json"

    def prepare(self) -> None:
        """Create the folders, for this user alone; may be repeated.

        Raises:
            CannotCreate: not possible, or the folder is somebody else's (scratch is often world-writable).
        """
        try:
            self.root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            found = self.root.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise CannotCreate(
                    f"{self.root} is not a folder of this user", hint="choose another `checkpoint: scratch:`"
                )
            if found.st_mode & 0o077:
                self.root.chmod(PRIVATE_FOLDER)
            own = (self.write, self.generations, self.partners, self.local_records, self.quarantine, self.restores)
            for folder in (*own, self.baseline(0).parent):
                folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        except OSError as error:
            raise CannotCreate(
                f"cannot create {self.root}: {error.strerror}", hint="is scratch full or read-only?"
            ) from error
